// A notifier's web server with many guests and no leader, for `make bench-events`: the board, the
// documents and the server are the real ones; only their events are made here.
//
//   events-bench GUESTS PORT
//
// Guest N asks from 127.1.(N / 250).(N % 250 + 1). Prints `ready PORT`, and for each line of its
// input one line: `changed NANOSECONDS MICROSECONDS`, the moment (CLOCK_MONOTONIC) before events that
// change every guest's document are folded, and how long folding took.
import Fleet
import Foundation
import Glibc
import Logging
import NoticeServer
import Notices
import Synchronization

func nanoseconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
}

func say(_ text: String) {
    try? FileHandle.standardOutput.write(contentsOf: Data((text + "\n").utf8))
}

let count = CommandLine.arguments.count > 1 ? Int(CommandLine.arguments[1]) ?? 10_000 : 10_000
let port = CommandLine.arguments.count > 2 ? UInt16(CommandLine.arguments[2]) ?? 0 : 0
let setSize = 100
let setCount = (count + setSize - 1) / setSize
let host = HostID(checked: "host-a")

let guests = (0..<count).map { number in
    BoardGuest(
        id: GuestID(checked: "guest-\(number)"), host: host,
        set: SetID(checked: "set-\(number / setSize)"), updateDomain: UpdateDomain(number % 5),
        addresses: [IPAddress("127.1.\(number / 250).\(number % 250 + 1)")].compactMap(\.self))
}

func notice(_ set: Int, _ round: UInt64) -> Notice {
    guard let domain = UpdateDomain(0) else { preconditionFailure("there is an UD0") }
    let now = Timestamp(microseconds: Int64(Date().timeIntervalSince1970 * 1e6))
    return Notice(
        step: StepID(rollout: RolloutID(round), number: UInt32(set + 1)), host: host,
        guests: [GuestID(checked: "guest-\(set * setSize)")],
        pairs: [SetPair(set: SetID(checked: "set-\(set)"), updateDomain: domain)],
        release: ReleaseID(checked: "qemu-8"), component: .hypervisor, version: "8.2",
        noticedAt: now, notBefore: Timestamp(microseconds: now.microseconds + 900_000_000),
        deadlineMilliseconds: 9_000, isStarted: false, acknowledgedBy: [])
}

var limit = rlimit()
getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
limit.rlim_cur = limit.rlim_max
setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)

var log = Logger(label: "events-bench") { StreamLogHandler.standardError(label: $0) }
log.logLevel = .error
let server = NoticeHTTPServer(
    listen: [ListenAddress(ip: "127.0.0.1", port: port)], cluster: "bench",
    connectionsMax: Int(limit.rlim_cur) - 100, log: log
) { request in
    switch request {
    case .listening(let address): say("ready \(address.split(separator: ":").last ?? "")")
    case .failed(let reason): fatalError(reason)
    case .acknowledge(_, _, _, let reply), .annotations(_, _, let reply):
        reply(GuestAnswer(status: 200))
    case .unknownAddress: break
    }
}
var board = NoticeBoard()
board.load([], sequence: 0)
board.take(guests)
server.publish(board)
server.start()

var round: UInt64 = 0
var sequence: UInt64 = 0
while readLine() != nil {
    let start = nanoseconds()
    for set in 0..<setCount {
        if round > 0 {
            sequence += 1
            let step = StepID(rollout: RolloutID(round), number: UInt32(set + 1))
            _ = board.apply(
                FleetEvent(
                    sequence: sequence, at: Timestamp(microseconds: 0),
                    body: .noticeWithdrawn(step: step, reason: "another round")))
        }
        sequence += 1
        _ = board.apply(
            FleetEvent(
                sequence: sequence, at: Timestamp(microseconds: 0),
                body: .stepNoticed(notice(set, round + 1))))
    }
    _ = board.takeChanges()
    server.publish(board)
    round += 1
    say("changed \(start) \((nanoseconds() - start) / 1_000)")
}
server.stop()
