// Measures snapshots of a large state; driven by cluster/bench/snapshot.py (`make bench-snapshot`).
//
//   snapshot-bench make DIRECTORY HOSTS GUESTS_PER_HOST   writes a log with such a fleet, and a rollout
//                                                         with a step for each guest
//   snapshot-bench run DIRECTORY                          loads it, commits, and commits on while a
//                                                         snapshot is written
//
// The last line each prints is JSON.
import Foundation

@main
enum SnapshotBench {
    static func main() throws {
        let arguments = Array(CommandLine.arguments.dropFirst())
        switch (arguments.first, arguments.count) {
        case ("make", 4):
            guard let hosts = Int(arguments[2]), let guests = Int(arguments[3]), hosts > 0,
                (1...1_000).contains(guests)
            else { usage() }
            try LargeFleet(hostCount: hosts, guestsPerHost: guests).write(to: arguments[1])
        case ("run", 2):
            try SnapshotRun(directory: arguments[1]).run()
        default: usage()
        }
    }

    private static func usage() -> Never {
        FileHandle.standardError.write(
            Data(
                "usage: snapshot-bench make DIRECTORY HOSTS GUESTS_PER_HOST | run DIRECTORY\n".utf8)
        )
        exit(64)
    }
}

/// Milliseconds that `body` takes on the clock that only goes forward.
func milliseconds<Result>(_ body: () throws -> Result) rethrows -> (Result, Double) {
    let clock = ContinuousClock()
    let start = clock.now
    let result = try body()
    return (result, milliseconds(start.duration(to: clock.now)))
}

func milliseconds(_ duration: Duration) -> Double {
    let (seconds, attoseconds) = duration.components
    return Double(seconds) * 1e3 + Double(attoseconds) / 1e15
}

/// CPU time of this process: unlike the time on the clock it does not grow when others use the cores.
func cpuMilliseconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) * 1e3 + Double(time.tv_nsec) / 1e6
}

/// Of this process, in bytes: now (`VmRSS`) or at most (`VmHWM`).
func memory(_ field: String) -> Int {
    let text = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
    for line in text.split(separator: "\n") where line.hasPrefix("\(field):") {
        return (Int(line.split(whereSeparator: { !$0.isNumber })[0]) ?? 0) * 1_024
    }
    return 0
}

func printJSON(_ object: [String: Any]) throws {
    let data = try JSONSerialization.data(
        withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
    print(String(decoding: data, as: UTF8.self))
}
