import Edges
import Glibc
import Testing
import UvLoop

@Suite("Loop") struct LoopTests {
    @Test("a timer fires once, not before its time, and run returns when nothing is left")
    func timer() throws {
        let loop = try Loop()
        let start = HoldClock.nowMicroseconds
        var fired = 0
        loop.after(.milliseconds(20)) { fired += 1 }
        loop.run()
        #expect(fired == 1)
        #expect(HoldClock.nowMicroseconds - start >= 18_000)
    }

    @Test("a cancelled timer never fires, also when cancelled inside another's callback")
    func cancelledTimer() throws {
        let loop = try Loop()
        var fired = false
        let second = loop.after(.seconds(5)) { fired = true }
        loop.after(.milliseconds(1)) {
            second.cancel()
            second.cancel()
        }
        loop.run()
        #expect(!fired)
    }

    @Test("a repeating timer repeats until it cancels itself in its own callback")
    func repeating() throws {
        let loop = try Loop()
        var count = 0
        var timer: UvLoop.Timer?
        timer = loop.every(.milliseconds(1)) {
            count += 1
            if count == 3 { timer?.cancel() }
        }
        loop.run()
        #expect(count == 3)
    }

    @Test("a timer started after a long callback still waits its full time")
    func noEarlyTimer() throws {
        let loop = try Loop()
        var elapsed: Int64 = 0
        // Something that wakes the loop meanwhile, so that it looks at its clock.
        let ticker = loop.every(.milliseconds(1)) {}
        loop.soon {
            usleep(30_000)
            let start = HoldClock.nowMicroseconds
            loop.after(.milliseconds(20)) {
                elapsed = HoldClock.nowMicroseconds - start
                ticker.cancel()
            }
        }
        loop.run()
        #expect(elapsed >= 18_000)
    }

    @Test("soon runs in order, after the current callback, and before a timer that is not due")
    func soon() throws {
        let loop = try Loop()
        var order: [String] = []
        loop.after(.milliseconds(1)) {
            loop.soon {
                order.append("soon 1")
                loop.soon { order.append("soon 3") }
            }
            loop.soon { order.append("soon 2") }
            order.append("callback")
            // Made in here, for both could be due at once after a stall.
            loop.after(.milliseconds(1)) { order.append("later") }
        }
        loop.run()
        #expect(order == ["callback", "soon 1", "soon 2", "soon 3", "later"])
    }

    @Test("a signal is seen, and watching it does not keep the loop running")
    func signals() throws {
        let loop = try Loop()
        var seen = 0
        let watch = loop.onSignal(SIGUSR2) { seen += 1 }
        loop.after(.milliseconds(1)) { kill(getpid(), SIGUSR2) }
        run(loop) { seen == 1 }
        loop.run()  // returns: only the watch is left
        watch.cancel()
        watch.cancel()
        loop.run()
        #expect(seen == 1)
    }

    @Test("a readable descriptor is reported until the watch is cancelled")
    func readable() throws {
        let loop = try Loop()
        let (first, second) = try Descriptors.socketPair()
        defer {
            Descriptors.close(first)
            Descriptors.close(second)
        }
        var seen = 0
        var watch: DescriptorWatch?
        watch = try loop.onReadable(descriptor: first) {
            seen += 1
            watch?.cancel()
        }
        Glibc.write(second, "x", 1)
        loop.run()
        #expect(seen == 1)
        #expect(throws: UvError.self) { try loop.onReadable(descriptor: 9_999) {} }
    }

    @Test("closeAll closes what is open and frees the loop")
    func closeAll() throws {
        weak var gone: Loop?
        var end: StreamEnd?
        do {
            let loop = try Loop()
            gone = loop
            let (first, second) = try streamPair(on: loop)
            first.onBytes = { _ in }
            first.onEnd = { end = $0 }
            second.onBytes = { _ in }
            loop.every(.seconds(100)) { Issue.record("must not fire") }
            loop.onSignal(SIGUSR1) {}
            _ = try Listener.tcp(loopback, on: loop) { _ in }
            loop.closeAll()
        }
        #expect(end == .closedHere)
        #expect(gone == nil)
    }

    @Test("the hold clock does not run backwards and goes at the wall clock's pace")
    func holdClock() {
        var last = HoldClock.nowMicroseconds
        let wall = WallClock.nowMicroseconds
        let start = last
        for _ in 0..<20_000 {
            let now = HoldClock.nowMicroseconds
            #expect(now >= last)
            last = now
        }
        usleep(20_000)
        let difference =
            (HoldClock.nowMicroseconds - start) - (WallClock.nowMicroseconds - wall)
        #expect(abs(difference) < 5_000)
    }

    @Test("an error names the operation, the subject and the constant")
    func errorText() {
        let error = UvError(code: -ECONNREFUSED, operation: "connect to", subject: "1.2.3.4:5")
        #expect(error.name == "ECONNREFUSED")
        #expect(
            error.description == "connect to 1.2.3.4:5: connection refused (ECONNREFUSED)")
    }

    @Test("facts about the host are there")
    func hostFacts() {
        #expect(HostFacts.memoryBytes > 100_000_000)
        #expect(HostFacts.cpuCount >= 1)
        #expect(HostFacts.bootID.utf8.count == 36)
        #expect(!HostFacts.hostName.isEmpty)
        #expect(randomBytes(32) != randomBytes(32))
    }
}
