// Whether an agent works: asked over its control socket, answered from its loop.
//
//   {"health":{}}
//   {"host":"a","guests":2,"running":2}
//
// An agent in the middle of a step answers as well. One that hangs does not.

public import Fleet
public import HostConfiguration
internal import QMP
public import UvLoop

public struct AgentHealth: Hashable, Sendable {
    public var host: HostID
    public var guestCount: Int
    /// Of these, those that execute.
    public var runningGuestCount: Int

    static let request = JSON.object([JSON.Member("health", .object([]))])

    static func isRequest(_ line: [UInt8]) -> Bool {
        (try? JSON.parse(line, byteCountMax: 1024))?["health"] != nil
    }

    var line: [UInt8] {
        let value: JSON = [
            "host": .string(host.rawValue), "guests": .integer(Int64(guestCount)),
            "running": .integer(Int64(runningGuestCount)),
        ]
        return value.bytes + [UInt8(ascii: "\n")]
    }

    init(host: HostID, guestCount: Int, runningGuestCount: Int) {
        self.host = host
        self.guestCount = guestCount
        self.runningGuestCount = runningGuestCount
    }

    /// - Returns: nil if it is no such answer.
    init?(line: [UInt8]) {
        guard let value = try? JSON.parse(line, byteCountMax: 1024),
            let host = value["host"]?.string.flatMap({ HostID($0) }),
            let guests = value["guests"]?.integer, let running = value["running"]?.integer
        else { return nil }
        self.init(host: host, guestCount: Int(guests), runningGuestCount: Int(running))
    }

    /// Asks the agent of a host.
    ///
    /// - Parameters:
    ///   - timeout: for all of it.
    ///   - completion: called once, later; the failure says what happened.
    public static func ask(
        _ host: HostFile, timeout: Duration, on loop: Loop,
        completion: @escaping (Result<AgentHealth, PreflightRefusal>) -> Void
    ) {
        let paths = HostPaths(
            run: host.runDirectory, state: host.stateDirectory, memory: host.memoryDirectory)
        let refusal = { (message: String) in
            PreflightRefusal(
                kind: .unavailable, message: "the agent of host \(host.host) \(message)",
                advice: "Its guests run on without it. Look into its log, and start it again.")
        }
        SocketStream.connectUnix(path: paths.control, on: loop, timeout: timeout) { result in
            switch result {
            case .failure(let error): completion(.failure(refusal("cannot be asked: \(error)")))
            case .success(let stream):
                ControlClient.ask(
                    request.bytes + [UInt8(ascii: "\n")], over: stream, limit: timeout, on: loop
                ) { line in
                    let answer = line.flatMap { AgentHealth(line: $0) }
                    completion(
                        answer.map { .success($0) } ?? .failure(refusal("gave no answer")))
                }
            }
        }
    }
}
