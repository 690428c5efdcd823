import Glibc

/// Lets the few threads that a hold waits for go before everything else on a busy host.
///
/// Needs CAP_SYS_NICE; without it everything stays as it is, and a hold takes what it takes.
public enum Scheduling {
    /// SIGCONT, for a process that somebody has stopped.
    public static let continueSignal: Int32 = SIGCONT

    /// Keeps every page that this process has, and every page it will touch, in RAM: what it does
    /// later waits for no disk. Pages never touched cost nothing.
    public static func keepInMemory() {
        // MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT
        mlockall(1 | 2 | 4)
    }

    /// SCHED_RESET_ON_FORK of the kernel, which glibc's headers do not show to Swift.
    private static let resetOnFork: Int32 = 0x4000_0000

    /// Gives a process's main thread the lowest real-time priority. Threads that it makes
    /// meanwhile get it too: QEMU's migration thread is one. Nothing that our own process starts
    /// does: a release's command, and a daemon that it leaves, would keep it for ever.
    ///
    /// - Parameter pid: 0 means our own process.
    public static func prefer(_ pid: Int32) {
        var parameter = sched_param(sched_priority: 1)
        sched_setscheduler(pid, pid == 0 ? SCHED_RR | resetOnFork : SCHED_RR, &parameter)
    }

    /// Takes it back, from every thread of the process.
    public static func treatAsOthers(_ pid: Int32) {
        let directory = "/proc/\(pid == 0 ? getpid() : pid)/task"
        for name in (try? Files.list(path: directory)) ?? [] {
            guard let thread = Int32(name) else { continue }
            let policy = sched_getscheduler(thread)
            guard policy >= 0, policy & ~resetOnFork == SCHED_RR else { continue }
            var parameter = sched_param(sched_priority: 0)
            if sched_setscheduler(thread, SCHED_OTHER, &parameter) != 0 {
                // Who has the right to real time, but no CAP_SYS_NICE, cannot take this bit back.
                sched_setscheduler(thread, SCHED_OTHER | resetOnFork, &parameter)
            }
        }
    }
}
