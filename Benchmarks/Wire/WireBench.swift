// Measures the wire; driven by cluster/bench/wire.py (`make bench-wire`).
//
//   wire-bench codec                                       encode and decode heartbeats
//   wire-bench connect ADDRESS CREDENTIALS COUNT AT_ONCE   open COUNT sessions, say so, and hold them
//                                                          until stdin ends
//   wire-bench handshake ADDRESS CREDENTIALS COUNT AT_ONCE COUNT TLS handshakes, each closed at once
//   wire-bench storm ADDRESS CREDENTIALS COUNT AT_ONCE     COUNT sessions at once; a line when AT_ONCE of
//                                                          them are open
//   wire-bench urgent ADDRESS CREDENTIALS                  one urgent session, begun at a line on stdin
//
// The last line each prints is JSON.
import Foundation

@main
enum WireBench {
    static func main() throws {
        let arguments = Array(CommandLine.arguments.dropFirst())
        switch (arguments.first, arguments.count) {
        case ("codec", 1): Codec.run()
        case ("connect", 5), ("handshake", 5), ("storm", 5):
            guard let count = Int(arguments[3]), let atOnce = Int(arguments[4]) else { usage() }
            let load = try Load(
                address: arguments[1], credentials: arguments[2], count: count, atOnce: atOnce)
            switch arguments[0] {
            case "connect": load.connect()
            case "storm": load.storm()
            default: load.shakeHands()
            }
        case ("urgent", 3):
            try Load(address: arguments[1], credentials: arguments[2], count: 1, atOnce: 1).urgent()
        default: usage()
        }
    }

    private static func usage() -> Never {
        FileHandle.standardError.write(
            Data(
                ("usage: wire-bench codec | urgent ADDRESS CREDENTIALS | "
                    + "connect|handshake|storm ADDRESS CREDENTIALS COUNT AT_ONCE\n").utf8))
        exit(64)
    }
}

/// Seconds that `body` takes on the clock that only goes forward.
func seconds(_ body: () -> Void) -> Double {
    let (seconds, attoseconds) = ContinuousClock().measure(body).components
    return Double(seconds) + Double(attoseconds) / 1e18
}
