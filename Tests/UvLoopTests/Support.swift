import Edges
import Glibc
import Testing
import UvLoop

/// Runs `loop` until `condition` holds; an issue is recorded if it does not within 20 s.
func run(
    _ loop: Loop, until condition: @escaping () -> Bool,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    let check = loop.every(.milliseconds(1)) { if condition() { loop.stop() } }
    let limit = loop.after(.seconds(20)) {
        Issue.record("nothing came of it in 20 s", sourceLocation: sourceLocation)
        loop.stop()
    }
    loop.run()
    check.cancel()
    limit.cancel()
}

/// Calls `body` with a directory of its own, which is removed afterwards.
func withDirectory(_ body: (String) throws -> Void) throws {
    let name = randomBytes(8).map { String($0, radix: 16) }.joined()
    let path = "/tmp/fermata-uvloop-\(name)"
    try Files.makeDirectory(path: path, mode: 0o700, parents: false)
    defer { try? Files.removeTree(path: path) }
    try body(path)
}

/// Both ends of a new socket pair, as streams.
func streamPair(on loop: Loop) throws -> (SocketStream, SocketStream) {
    let (first, second) = try Descriptors.socketPair()
    return (
        try SocketStream.adopt(descriptor: first, on: loop),
        try SocketStream.adopt(descriptor: second, on: loop)
    )
}

/// What a stream has received, and how it ended.
final class Received {
    var bytes: [UInt8] = []
    var ends: [StreamEnd] = []
    var text: String { String(decoding: bytes, as: UTF8.self) }

    func follow(_ stream: any ByteStream) {
        stream.onBytes = { [self] in bytes.append(contentsOf: $0) }
        stream.onEnd = { [self] in ends.append($0) }
    }
}

let loopback = SocketAddress(ip: "127.0.0.1", port: 0).unsafelyUnwrapped

func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

/// Runs the real openssl command, an independent judge.
///
/// - Returns: its exit code.
func openssl(_ arguments: [String], on loop: Loop) throws -> Int32 {
    try #require(
        Files.isExecutable(path: "/usr/bin/openssl"),
        "this test needs the openssl command: apt-get install openssl")
    var status: UvLoop.ExitStatus?
    _ = try ChildProcess.spawn(
        executable: "/usr/bin/openssl", arguments: arguments, on: loop
    ) { status = $0 }
    run(loop) { status != nil }
    return Int32(status?.code ?? -1)
}
