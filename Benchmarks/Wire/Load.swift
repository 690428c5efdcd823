import Fleet
import Foundation
import Logging
import SessionCore
import SessionShell
import UvLoop
import Wire

/// Many sessions from one process.
final class Load {
    private let loop: Loop
    private let address: SocketAddress
    private let credentials: Credentials
    private let count: Int
    private let atOnce: Int
    private var begun = 0
    private var done = 0
    private var failed = 0
    private var clients: [SessionClient] = []
    private let start = ContinuousClock.now

    init(address: String, credentials: String, count: Int, atOnce: Int) throws {
        loop = try Loop()
        guard let address = SocketAddress(parsing: address) else { throw LoadError.badAddress }
        self.address = address
        self.credentials = try Credentials.load(
            prefix: credentials, roles: [.agent, .operator, .notifier])
        self.count = count
        self.atOnce = atOnce
        _ = Descriptors.raiseLimit()
    }

    enum LoadError: Error { case badAddress }

    // MARK: Sessions that stay

    func connect() {
        let watch = try? loop.onReadable(descriptor: 0) {
            var byte: UInt8 = 0
            if read(0, &byte, 1) <= 0 { exit(0) }
        }
        for _ in 0..<atOnce { connectNext() }
        loop.run()
        watch?.cancel()
    }

    private func connectNext() {
        guard begun < count else { return }
        begun += 1
        let client = makeClient()
        var wasReady = false
        client.onReady = { [self] _ in
            guard !wasReady else { return }
            wasReady = true
            finished()
            connectNext()
        }
        client.start()
    }

    private func finished() {
        done += 1
        guard done == count else { return }
        report()
    }

    private func report() {
        let (whole, part) = (ContinuousClock.now - start).components
        print(
            "{\"done\":\(done),\"failed\":\(failed),\"seconds\":\(Double(whole) + Double(part) / 1e18)}"
        )
        fflush(nil)
    }

    // MARK: Everybody at once

    /// All sessions begin in one turn. Says "open" when `atOnce` of them are, and at the end what the
    /// last one waited from there.
    func storm() {
        var opened = ContinuousClock.now
        for _ in 0..<count {
            let client = makeClient()
            client.onReady = { [self] _ in
                done += 1
                if done == atOnce {
                    opened = .now
                    print("open")
                    fflush(nil)
                }
                guard done == count else { return }
                print(
                    "{\"waiting\":\(count - atOnce),\"failed\":\(failed),"
                        + "\"lastMilliseconds\":\(milliseconds(ContinuousClock.now - opened))}")
                exit(0)
            }
            client.start()
        }
        loop.run()
    }

    /// One session of a host that holds guests, begun at a line on stdin: what it waits. A process of
    /// its own, for in the storm's it would wait for the other clients' work and not for the server's.
    func urgent() {
        let client = makeClient()
        client.isUrgent = { true }
        let watch = try? loop.onReadable(descriptor: 0) { [self] in
            var byte: UInt8 = 0
            guard read(0, &byte, 1) == 1 else { exit(0) }
            let began = ContinuousClock.now
            client.onReady = { [self] _ in
                print(
                    "{\"failed\":\(failed),\"urgentMilliseconds\":"
                        + "\(milliseconds(ContinuousClock.now - began))}")
                exit(0)
            }
            client.start()
        }
        print("ready")
        fflush(nil)
        loop.run()
        watch?.cancel()
    }

    private func milliseconds(_ duration: Duration) -> Double {
        let (seconds, attoseconds) = duration.components
        return Double(seconds) * 1e3 + Double(attoseconds / 1_000_000_000_000) / 1e3
    }

    private func makeClient() -> SessionClient {
        let client = SessionClient(
            on: loop, servers: [address.description], credentials: credentials,
            software: "wire-bench",
            logger: Logger(label: "bench") { _ in SwiftLogNoOpLogHandler() })
        client.onDown = { [self] _ in failed += 1 }
        clients.append(client)
        return client
    }

    // MARK: Handshakes only

    func shakeHands() {
        for _ in 0..<atOnce { shakeNext() }
        loop.run()
        report()
    }

    private func shakeNext() {
        guard begun < count else { return }
        begun += 1
        _ = SocketStream.connectTCP(address, on: loop, timeout: .seconds(30)) { [self] result in
            guard case .success(let stream) = result else {
                failed += 1
                return shakeNext()
            }
            TLSStream.start(
                credentials.context, over: stream, on: loop, timeout: .seconds(30)
            ) { [self] result in
                guard case .success(let secure) = result else {
                    failed += 1
                    return shakeNext()
                }
                // The server has accepted us only when it has read our certificate: its close or
                // its first words show that; ours comes after, so that no work is spared it.
                done += 1
                secure.onEnd = { [self] _ in shakeNext() }
                secure.onBytes = { _ in }
                secure.closeAfterWriting()
            }
        }
    }
}
