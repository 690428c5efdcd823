// Many hosts in one process, driven by cluster/bench/takeover.py and locks.py.
//
//   hosts-bench SERVERS PKI HOSTS GUESTS MILLISECONDS SCOPE
//
// SERVERS: `host:port,…`; PKI: directory with operator-bench and agent-h0 … ; MILLISECONDS: what a step
// takes; SCOPE: `host` (a step holds all guests of a host, each of another availability set, so it takes
// GUESTS locks) or `guest` (one guest, one lock). No set has guests on two hosts: nobody waits for a lock.
//
// Each host has its agent, a real session client with scripted guests. Whenever a host has nothing to
// do, an operator's session asks for a rollout over it. Lines on stdout:
//
//   ready                              every host is connected
//   accepted MICROSECONDS TERM STEP    an agent has taken a directive (CLOCK_MONOTONIC), if MILLISECONDS > 0
//   {"steps":…,"locks":…,…}            counts since `ready`, after each line on stdin
//
// Ends with stdin.
//
//   hosts-bench etcd-locks URLS CLIENTS SECONDS
//
// Locks and unlocks by etcd's own lock API for so long; then a line of JSON.
import Foundation

@main
enum HostsBench {
    static func main() throws {
        let arguments = CommandLine.arguments.dropFirst().map { $0 }
        if arguments.first == "etcd-locks", arguments.count == 4, let clients = Int(arguments[2]),
            let seconds = Int(arguments[3])
        {
            return try EtcdLocks(
                servers: arguments[1].split(separator: ",").map(String.init), clientCount: clients,
                seconds: seconds
            ).run()
        }
        guard arguments.count == 6, let hosts = Int(arguments[2]), let guests = Int(arguments[3]),
            let milliseconds = Int(arguments[4]), ["host", "guest"].contains(arguments[5])
        else {
            FileHandle.standardError.write(
                Data(
                    ("usage: hosts-bench SERVERS PKI HOSTS GUESTS MILLISECONDS host|guest\n"
                        + "       hosts-bench etcd-locks URLS CLIENTS SECONDS\n").utf8))
            exit(64)
        }
        let scripted = try ScriptedFleet(
            servers: arguments[0].split(separator: ",").map(String.init), pki: arguments[1],
            shape: Shape(
                hostCount: hosts, guestCount: guests, stepTime: .milliseconds(milliseconds),
                holdsWholeHosts: arguments[5] == "host"))
        scripted.run()
    }
}
