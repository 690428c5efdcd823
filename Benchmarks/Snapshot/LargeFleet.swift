import Coordination
import Fleet
import LeaderCore
import LeaderShell
import LogCore
import LogStore
import UvLoop

/// Hosts with guests in availability sets of five, and a rollout with a step for each guest, of
/// which as many are granted as its policy lets.
struct LargeFleet {
    let hostCount: Int
    let guestsPerHost: Int

    static func host(_ number: Int) -> HostID { HostID(checked: "host-\(number + 100_000)") }

    /// - Parameter version: of a guest that is being changed now and then, so that a report is news.
    static func report(_ number: Int, guestCount: Int, setCount: Int, version: String) -> HostReport
    {
        let guests = (0..<guestCount).map { offset in
            let guest = number * guestCount + offset
            return GuestReport(
                id: GuestID(checked: "guest-\(guest + 10_000_000)"),
                set: SetID(checked: "service-\(guest % setCount + 1_000_000)"), updateDomain: nil,
                memoryBytes: 8 << 30, vcpuCount: 4, state: .running,
                hypervisorVersion: offset == 0 ? version : "7.2.19", hasGuestAgent: true,
                handOverProblem: "")
        }
        return HostReport(
            host: host(number), agentVersion: "fermata 0.1.0",
            bootID: "7c5d2b5e-6a0e-4a6c-9a53-3f1b8d1c\(number % 9_000 + 1_000)",
            acceptedToken: Token(0), sets: [], guests: guests)
    }

    var setCount: Int { max(1, hostCount * guestsPerHost / 5) }

    func write(to directory: String) throws {
        var coordinator = Coordinator()
        func run(_ command: Command) {
            let result = coordinator.propose(command, at: Timestamp(microseconds: 1))
            guard case .success(let facts) = result else { preconditionFailure("\(result)") }
            for fact in facts { coordinator.apply(fact) }
        }
        run(.startTerm(term: 1, server: "bench"))
        let (_, reportMilliseconds) = milliseconds {
            for number in 0..<hostCount {
                let report = Self.report(
                    number, guestCount: guestsPerHost, setCount: setCount, version: "7.2.19")
                run(.reportHost(report))
            }
        }
        run(
            .addRelease(
                Release(
                    id: ReleaseID(checked: "new"), component: .hypervisor,
                    hypervisor: Hypervisor(version: "7.2.22", path: "/opt/new/bin/qemu"),
                    sha256: [UInt8](repeating: 7, count: 32)), by: "bench"))
        let (_, rolloutMilliseconds) = milliseconds {
            run(
                .startRollout(
                    release: ReleaseID(checked: "new"), selection: .allHosts, policy: Policy(),
                    by: "bench"))
        }
        let everyone = Set(coordinator.state.hosts.keys)
        let (_, grantMilliseconds) = milliseconds { run(.schedule(connected: everyone)) }
        let loop = try Loop()
        let store = SQLiteLogStore(directory: directory, loop: loop)
        var encoder = SnapshotEncoder(coordinator.state)
        store.lead(as: LogWriter(name: "bench", address: ""), after: 0) { result in
            guard case .success = result else { preconditionFailure("\(result)") }
            store.replace(index: coordinator.state.index, next: { encoder.next() }) { result in
                guard case .success = result else { preconditionFailure("\(result)") }
                loop.stop()
            }
        }
        loop.run()
        store.close()
        try printJSON([
            "hosts": coordinator.state.hosts.count, "guests": coordinator.state.guests.count,
            "steps": coordinator.state.rollouts[RolloutID(1)]?.steps.count ?? 0,
            "digest": StateDigest.of(coordinator.state),
            "reportMicrosecondsEach": reportMilliseconds * 1_000 / Double(hostCount),
            "startRolloutMilliseconds": rolloutMilliseconds,
            "grantRoundMilliseconds": grantMilliseconds,
        ])
    }
}
