import ArgumentParser
import EtcdLog
import Foundation
import LeaderCore
import LogCore
import LogStore
import Presentation
import UvLoop

func parseStore(_ text: String) throws -> StoreLocation {
    do {
        return try StoreLocation(parsing: text)
    } catch {
        throw ValidationError("--store: \(printable(error.reason)).")
    }
}

/// How to get into an etcd cluster.
struct EtcdOptionGroup: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Authority of etcd's certificates. Default: the system's.", valueName: "file"))
    var etcdCa: String?
    @Option(help: ArgumentHelp("Our certificate for etcd.", valueName: "file"))
    var etcdCert: String?
    @Option(help: ArgumentHelp("Its key.", valueName: "file"))
    var etcdKey: String?
    @Option(help: ArgumentHelp("User of etcd, if it has users.", valueName: "name"))
    var etcdUser: String?
    @Option(
        help: ArgumentHelp("The user's password, on the file's first line.", valueName: "file"))
    var etcdPasswordFile: String?
    @Option(
        help: ArgumentHelp(
            "Under which keys of etcd everything is. Default: /fermata/CLUSTER/.",
            valueName: "prefix"))
    var etcdPrefix: String?

    /// - Parameter cluster: nil if it is not known; then a prefix must be given.
    func openStore(
        _ location: StoreLocation, cluster: String?, on loop: Loop
    ) throws(CommandFailure) -> any ReadableLogStore {
        switch location {
        case .sqlite(let directory):
            if let option = givenOption {
                throw CommandFailure(
                    .usage, "\(option) is for a log in etcd",
                    advice: "Give --store etcd:URL,URL,… too, or leave it out.")
            }
            return SQLiteLogStore(directory: directory, loop: loop)
        case .etcd(let urls):
            return EtcdLogStore(try options(urls, cluster), on: loop)
        }
    }

    private var givenOption: String? {
        [
            ("--etcd-ca", etcdCa), ("--etcd-cert", etcdCert), ("--etcd-key", etcdKey),
            ("--etcd-user", etcdUser), ("--etcd-password-file", etcdPasswordFile),
            ("--etcd-prefix", etcdPrefix),
        ].first { $0.1 != nil }?.0
    }

    private func options(
        _ urls: [String], _ cluster: String?
    ) throws(CommandFailure) -> EtcdOptions {
        for (name, file) in [
            ("--etcd-ca", etcdCa), ("--etcd-cert", etcdCert), ("--etcd-key", etcdKey),
            ("--etcd-password-file", etcdPasswordFile),
        ] {
            if let file, !FileManager.default.isReadableFile(atPath: file) {
                throw CommandFailure(
                    .usage, "\(name): \(file) cannot be read", advice: "Check path and owner.")
            }
        }
        guard (etcdCert == nil) == (etcdKey == nil) else {
            throw CommandFailure(
                .usage, "a certificate for etcd and its key belong together",
                advice: "Give both --etcd-cert and --etcd-key, or none.")
        }
        guard (etcdUser == nil) == (etcdPasswordFile == nil) else {
            throw CommandFailure(
                .usage, "a user of etcd and his password belong together",
                advice: "Give both --etcd-user and --etcd-password-file, or none.")
        }
        guard var prefix = etcdPrefix ?? cluster.map({ "/fermata/\($0)/" }) else {
            throw CommandFailure(
                .usage, "which cluster's log in etcd is meant is not said",
                advice: "Give --cluster, or --etcd-prefix if the servers have one.")
        }
        if !prefix.hasSuffix("/") { prefix += "/" }
        return EtcdOptions(
            endpoints: urls,
            tls: HTTPRequest.TLS(
                authorityFile: etcdCa, certificateFile: etcdCert, keyFile: etcdKey),
            user: etcdUser, password: try password(), prefix: prefix)
    }

    private func password() throws(CommandFailure) -> String? {
        guard let etcdPasswordFile else { return nil }
        let text = (try? String(contentsOfFile: etcdPasswordFile, encoding: .utf8)) ?? ""
        guard let line = text.split(whereSeparator: \.isNewline).first else {
            throw CommandFailure(
                .usage, "\(etcdPasswordFile) has no password",
                advice: "Write it on the first line.")
        }
        return String(line)
    }
}

/// The other servers.
struct GroupOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Where agents, people and the other servers reach this one; needed with a log in etcd.",
            valueName: "host:port"))
    var advertise: String?
    @Option(
        help: ArgumentHelp(
            "Another server; repeat it or separate several with commas.", valueName: "host:port"))
    var peer: [String] = []

    func group(for store: any LogStore) throws(CommandFailure) -> ServerGroup {
        guard store is any FollowableLogStore else {
            guard advertise == nil, peer.isEmpty else {
                throw CommandFailure(
                    .usage, "only one server can use the log in \(store.name)",
                    advice: "Several need --store etcd:URL,URL,…; one server needs neither "
                        + "--advertise nor --peer.")
            }
            return .alone
        }
        guard let advertise else {
            throw CommandFailure(
                .usage, "the address of this server is not given",
                advice: "Give --advertise HOST:PORT, as agents and the other servers reach it.")
        }
        let own = try serverList([advertise])
        let peers = peer.isEmpty ? [] : try serverList(peer)
        return ServerGroup(advertise: own[0], peers: peers.filter { $0 != own[0] })
    }
}
