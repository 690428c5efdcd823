import Edges
import Glibc
import Testing
import UvLoop

@Suite("Socket streams") struct StreamTests {
    @Test("addresses are read and written", arguments: ["1.2.3.4:99", "[::1]:99", "0.0.0.0:0"])
    func addresses(_ text: String) {
        #expect(SocketAddress(parsing: text)?.description == text)
    }

    @Test(
        "what is no address is refused",
        arguments: ["", ":1", "1.2.3.4", "1.2.3.4:x", "1.2.3.4:70000", "::1:99", "[::1:99", "a:1"])
    func badAddresses(_ text: String) { #expect(SocketAddress(parsing: text) == nil) }

    @Test("names are resolved; nonsense is an error")
    func resolving() throws {
        let loop = try Loop()
        var results: [String: Result<[SocketAddress], UvError>] = [:]
        for name in ["localhost:99", "[::1]:98", "no-port", "no-such-host.invalid:1"] {
            resolve(name, on: loop) { results[name] = $0 }
        }
        #expect(results.isEmpty, "a completion came before resolve() had returned")
        run(loop) { results.count == 4 }
        #expect(try results["localhost:99"]?.get().first?.port == 99)
        #expect(try results["[::1]:98"]?.get().first == SocketAddress(ip: "::1", port: 98))
        #expect(throws: UvError.self) { try results["no-port"]?.get() }
        #expect(throws: UvError.self) { try results["no-such-host.invalid:1"]?.get() }
    }

    @Test("bytes go both ways over TCP, and each side ends once")
    func tcp() throws {
        let loop = try Loop()
        let server = Received()
        let client = Received()
        let listener = try Listener.tcp(loopback, on: loop) { stream in
            server.follow(stream)
            stream.write(Array("hello".utf8))
        }
        let address = try #require(listener.address)
        #expect(address.port != 0)
        var stream: SocketStream?
        SocketStream.connectTCP(address, on: loop, timeout: .seconds(5)) { result in
            stream = try? result.get()
            stream.map { client.follow($0) }
        }
        run(loop) { client.text == "hello" }
        #expect(stream?.peer == address.description)
        stream?.write(Array("good".utf8))
        stream?.write(Array("bye".utf8))
        stream?.closeAfterWriting()
        run(loop) { !server.ends.isEmpty && !client.ends.isEmpty }
        listener.close()
        loop.run()
        #expect(server.text == "goodbye")
        #expect(server.ends == [.endOfFile])
        #expect(client.ends == [.closedHere])
    }

    @Test("TCP_NODELAY is on at both ends")
    func noDelay() throws {
        let loop = try Loop()
        var streams: [SocketStream] = []
        let listener = try Listener.tcp(loopback, on: loop) { streams.append($0) }
        let address = try #require(listener.address)
        SocketStream.connectTCP(address, on: loop, timeout: .seconds(5)) {
            if let stream = try? $0.get() { streams.append(stream) }
        }
        run(loop) { streams.count == 2 }
        var found = 0
        for descriptor in 3..<65_536 as Range<Int32> {
            var value: Int32 = 0
            var size = socklen_t(4)
            var name = sockaddr_in()
            var nameSize = socklen_t(MemoryLayout<sockaddr_in>.size)
            let isOurs = withUnsafeMutablePointer(to: &name) { pointer in
                let raw = UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: sockaddr.self)
                return getpeername(descriptor, raw, &nameSize) == 0
                    || getsockname(descriptor, raw, &nameSize) == 0
            }
            guard isOurs, UInt16(bigEndian: name.sin_port) == address.port else { continue }
            getsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &value, &size)
            var isListening: Int32 = 0
            getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &size)
            if isListening == 0 {
                #expect(value != 0)
                found += 1
            }
        }
        #expect(found >= 1)
        loop.closeAll()
    }

    @Test("a port in use, a refused connection and a silent address are errors")
    func failures() throws {
        let loop = try Loop()
        let listener = try Listener.tcp(loopback, on: loop) { _ in }
        let address = try #require(listener.address)
        let taken = #expect(throws: UvError.self) {
            _ = try Listener.tcp(address, on: loop) { _ in }
        }
        #expect(taken?.name == "EADDRINUSE")
        listener.close()
        loop.run()
        var names: [String] = []
        SocketStream.connectTCP(address, on: loop, timeout: .seconds(5)) {
            if case .failure(let error) = $0 { names.append(error.name) }
        }
        #expect(names.isEmpty)
        run(loop) { names.count == 1 }
        #expect(names == ["ECONNREFUSED"])
        loop.run()
    }

    @Test("a connect is given up after its time limit, and can be cancelled")
    func timeoutAndCancel() throws {
        try withDirectory { directory in
            let loop = try Loop()
            // A listener that never accepts, with a backlog of one: the third connect waits.
            let path = "\(directory)/s"
            let listening = socket(
                AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            defer { Descriptors.close(listening) }
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
            _ = withUnsafePointer(to: &address) { pointer in
                bind(
                    listening,
                    UnsafeRawPointer(pointer).assumingMemoryBound(to: sockaddr.self),
                    socklen_t(MemoryLayout<sockaddr_un>.size))
            }
            listen(listening, 0)
            var connected = 0
            var names: [String] = []
            for _ in 0..<3 {
                SocketStream.connectUnix(path: path, on: loop, timeout: .milliseconds(100)) {
                    switch $0 {
                    case .success: connected += 1
                    case .failure(let error): names.append(error.name)
                    }
                }
            }
            run(loop) { connected + names.count == 3 }
            #expect(names.allSatisfy { $0 == "ETIMEDOUT" })
            #expect(!names.isEmpty)
            let waiting = SocketStream.connectUnix(path: path, on: loop, timeout: .seconds(60)) {
                if case .failure(let error) = $0 { names.append(error.name) }
            }
            waiting.cancel()
            waiting.cancel()
            run(loop) { names.last == "ECANCELED" }
            loop.closeAll()
        }
    }

    @Test("a Unix listener replaces a dead socket, but not a living one nor a file")
    func unixListener() throws {
        try withDirectory { directory in
            let loop = try Loop()
            let path = "\(directory)/socket"
            let received = Received()
            let listener = try Listener.unix(path: path, on: loop) { received.follow($0) }
            let taken = #expect(throws: UvError.self) {
                _ = try Listener.unix(path: path, on: loop) { _ in }
            }
            #expect(taken?.name == "EADDRINUSE")
            // A hard link keeps a socket's name after its listener is gone, like a crash does.
            #expect(link(path, "\(path).dead") == 0)
            SocketStream.connectUnix(path: path, on: loop, timeout: .seconds(5)) { result in
                guard let stream = try? result.get() else { return }
                stream.write([1, 2, 3])
                stream.closeAfterWriting()
            }
            // The second listener's look whether anybody is there was a connection as well.
            run(loop) { received.bytes == [1, 2, 3] && received.ends == [.endOfFile, .endOfFile] }
            listener.close()
            loop.run()
            #expect(!Files.exists(path: path))
            let again = try Listener.unix(path: "\(path).dead", on: loop) { _ in }
            again.close()
            try Files.create(path: path, bytes: [], durable: false)
            #expect(throws: UvError.self) { try Listener.unix(path: path, on: loop) { _ in } }
            let long = directory + "/" + String(repeating: "x", count: 108)
            let tooLong = #expect(throws: UvError.self) {
                try Listener.unix(path: long, on: loop) { _ in }
            }
            #expect(tooLong?.name == "ENAMETOOLONG")
            loop.run()
        }
    }

    @Test("a large write is queued, then drains in order as the peer reads")
    func backpressure() throws {
        let loop = try Loop()
        let (writer, reader) = try streamPair(on: loop)
        let blocks = (0..<64).map { [UInt8](repeating: UInt8($0), count: 100_000) }
        var completions: [Int] = []
        for (index, block) in blocks.enumerated() {
            writer.write(block) { error in
                #expect(error == nil)
                completions.append(index)
            }
        }
        #expect(completions.isEmpty, "a completion came before write() had returned")
        #expect(writer.queuedByteCount > 5_000_000)
        loop.after(.milliseconds(20)) { loop.stop() }
        loop.run()
        #expect(writer.queuedByteCount > 5_000_000, "nobody reads, so it must still wait")
        let received = Received()
        received.follow(reader)
        run(loop) { received.bytes.count == 6_400_000 && completions.count == 64 }
        #expect(received.bytes == blocks.flatMap { $0 })
        #expect(completions == Array(0..<64))
        #expect(writer.queuedByteCount == 0)
        loop.closeAll()
    }

    @Test("closing drops pending writes, whose completions say so, and ends once")
    func closeWithPendingWrites() throws {
        let loop = try Loop()
        let (writer, reader) = try streamPair(on: loop)
        var errors: [String?] = []
        var ends: [StreamEnd] = []
        writer.onBytes = { _ in }
        writer.onEnd = { ends.append($0) }
        writer.write([UInt8](repeating: 7, count: 5_000_000)) { errors.append($0?.name) }
        writer.close()
        writer.close()
        writer.write([1]) { errors.append($0?.name) }
        #expect(errors.isEmpty && ends.isEmpty, "called from inside close() or write()")
        run(loop) { errors.count == 2 && ends.count == 1 }
        #expect(errors == ["ECANCELED", "ECANCELED"])
        #expect(ends == [.closedHere])
        reader.close()
        loop.run()
    }

    @Test("closeAfterWriting delivers a large queue before it closes")
    func closeAfterWriting() throws {
        let loop = try Loop()
        let (writer, reader) = try streamPair(on: loop)
        writer.write([UInt8](repeating: 7, count: 3_000_000))
        writer.closeAfterWriting()
        let received = Received()
        received.follow(reader)
        run(loop) { !received.ends.isEmpty }
        #expect(received.bytes.count == 3_000_000)
        #expect(received.ends == [.endOfFile])
        loop.run()
    }

    @Test("a peer that has said everything can still be answered")
    func halfClose() throws {
        let loop = try Loop()
        let (descriptor, ours) = try Descriptors.socketPair()
        defer { Descriptors.close(descriptor) }
        let stream = try SocketStream.adopt(descriptor: ours, on: loop)
        var end: StreamEnd?
        stream.onBytes = { _ in }
        stream.onEnd = { [unowned stream] in
            end = $0
            stream.write(Array("answer".utf8))
        }
        Glibc.write(descriptor, "question", 8)
        shutdown(descriptor, Int32(SHUT_WR))
        loop.run()
        #expect(end == .endOfFile)
        var buffer = [UInt8](repeating: 0, count: 16)
        #expect(Glibc.read(descriptor, &buffer, 16) == 6)
        #expect(text(Array(buffer[..<6])) == "answer")
        #expect(Glibc.read(descriptor, &buffer, 16) == 0, "it must have closed by itself")
    }

    @Test("a peer's last words are read although our write to it failed")
    func lastWords() throws {
        let loop = try Loop()
        let (descriptor, ours) = try Descriptors.socketPair()
        let stream = try SocketStream.adopt(descriptor: ours, on: loop)
        let received = Received()
        received.follow(stream)
        Glibc.write(descriptor, "refused", 7)
        Descriptors.close(descriptor)
        var failure: UvError?
        stream.write([1, 2, 3]) { failure = $0 }
        run(loop) { !received.ends.isEmpty }
        #expect(received.text == "refused")
        #expect(failure?.name == "EPIPE")
        #expect(received.ends.count == 1 && received.ends != [.endOfFile])
        loop.run()
    }

    @Test("nothing is read while onBytes is nil")
    func pausing() throws {
        let loop = try Loop()
        let (writer, reader) = try streamPair(on: loop)
        let received = Received()
        received.follow(reader)
        let onBytes = reader.onBytes
        reader.onBytes = nil
        writer.write([1, 2, 3])
        loop.after(.milliseconds(20)) { loop.stop() }
        loop.run()
        #expect(received.bytes.isEmpty)
        reader.onBytes = onBytes
        run(loop) { received.bytes == [1, 2, 3] }
        loop.closeAll()
    }

    @Test("a stream closed inside its own callback gets no more bytes")
    func closeInsideCallback() throws {
        let loop = try Loop()
        let (writer, reader) = try streamPair(on: loop)
        var calls = 0
        var ends: [StreamEnd] = []
        reader.onBytes = { [unowned reader] _ in
            calls += 1
            reader.close()
        }
        reader.onEnd = { ends.append($0) }
        writer.write([UInt8](repeating: 1, count: 200_000))
        run(loop) { !ends.isEmpty }
        #expect(calls == 1)
        #expect(ends == [.closedHere])
        loop.closeAll()
    }

    @Test("a stream that nobody but the loop holds lives until it ends, then is freed")
    func ownership() throws {
        let loop = try Loop()
        let (descriptor, ours) = try Descriptors.socketPair()
        weak var gone: SocketStream?
        var received: [UInt8] = []
        do {
            let stream = try SocketStream.adopt(descriptor: ours, on: loop)
            gone = stream
            // A cycle on purpose: it must end with the stream.
            stream.onBytes = { bytes in
                received += Array(bytes)
                _ = stream.queuedByteCount
            }
            stream.onEnd = { _ in _ = stream.peer }
        }
        Glibc.write(descriptor, "abc", 3)
        run(loop) { received.count == 3 }
        #expect(gone != nil)
        Descriptors.close(descriptor)
        loop.run()
        #expect(gone == nil)
    }

    @Test("a stream of what is no socket is refused, and the descriptor stays ours")
    func adoptNoSocket() throws {
        let loop = try Loop()
        let descriptor = open("/dev/null", O_RDONLY | O_CLOEXEC)
        #expect(throws: UvError.self) { try SocketStream.adopt(descriptor: descriptor, on: loop) }
        #expect(fcntl(descriptor, F_GETFD) >= 0)
        Descriptors.close(descriptor)
    }
}
