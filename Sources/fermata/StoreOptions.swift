import ArgumentParser
import Fleet
import Foundation
import LeaderShell
import LogStore
import UvLoop
import Wire

/// Where the log is kept.
struct StoreOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "sqlite:DIRECTORY, for one server, or etcd:URL,URL,… for several. Default: sqlite in "
                + "--data.", valueName: "store"))
    var store: String?
    @Option(
        help: ArgumentHelp(
            "Authority of etcd's certificates. Default: the system's.", valueName: "file"))
    var etcdCa: String?
    @Option(help: ArgumentHelp("This server's certificate for etcd.", valueName: "file"))
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

    /// - Parameters:
    ///   - data: the directory of a log for which no store is named.
    ///   - cluster: the name of the cluster, for the default prefix.
    func makeStore(
        data: String, cluster: String, on loop: Loop
    ) throws(CommandFailure) -> any LogStore {
        let text = store ?? "sqlite:\(data)"
        if text.hasPrefix("sqlite:") {
            let directory = String(text.dropFirst("sqlite:".count))
            guard !directory.isEmpty else { throw wrong(text) }
            if let option = givenEtcdOption {
                throw CommandFailure(
                    .usage, "\(option) is for a log in etcd",
                    advice: "Give --store etcd:URL,URL,… too, or leave it out.")
            }
            return SQLiteLogStore(directory: directory, loop: loop)
        }
        guard text.hasPrefix("etcd:") else { throw wrong(text) }
        return EtcdLogStore(try etcdOptions(text, cluster), on: loop)
    }

    private var givenEtcdOption: String? {
        [
            ("--etcd-ca", etcdCa), ("--etcd-cert", etcdCert), ("--etcd-key", etcdKey),
            ("--etcd-user", etcdUser), ("--etcd-password-file", etcdPasswordFile),
            ("--etcd-prefix", etcdPrefix),
        ].first { $0.1 != nil }?.0
    }

    private func wrong(_ text: String) -> CommandFailure {
        CommandFailure(
            .usage, "'\(text)' is not a store",
            advice: "Write sqlite:DIRECTORY, or etcd:http://host:2379,http://host:2379,…")
    }

    private func etcdOptions(
        _ text: String, _ cluster: String
    ) throws(CommandFailure) -> EtcdOptions {
        var endpoints: [String] = []
        for part in text.dropFirst("etcd:".count).split(separator: ",") {
            var endpoint = part.trimmingCharacters(in: .whitespaces)
            while endpoint.hasSuffix("/") { endpoint.removeLast() }
            guard let url = URL(string: endpoint), ["http", "https"].contains(url.scheme),
                url.host?.isEmpty == false, url.path.isEmpty, url.query == nil, url.user == nil
            else {
                throw CommandFailure(
                    .usage, "'\(part)' is not the address of an etcd member",
                    advice: "Write http://host:2379 or https://host:2379.")
            }
            if !endpoints.contains(endpoint) { endpoints.append(endpoint) }
        }
        guard !endpoints.isEmpty else { throw wrong(text) }
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
        var prefix = etcdPrefix ?? "/fermata/\(cluster)/"
        if !prefix.hasSuffix("/") { prefix += "/" }
        return EtcdOptions(
            endpoints: endpoints,
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
        let own = try serverList([advertise], environment: "", fallback: nil)
        let peers = peer.isEmpty ? [] : try serverList(peer, environment: "", fallback: nil)
        return ServerGroup(advertise: own[0], peers: peers.filter { $0 != own[0] })
    }
}

struct ServerStepDown: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "step-down",
        abstract: "Makes the leader hand over to another server, at once.",
        discussion: """
            For the update of the leader's own host, for example. Running holds are not touched, and \
            waiting steps go on under the new leader. Whoever leads then is shown by `fermata status`.

              fermata server step-down
            """)
    @OptionGroup var client: ClientOptions

    func run() throws {
        let connection = try ClientConnection.open(client)
        let accepted = try connection.command(.stepDown)
        connection.close()
        client.output.show(text: "the leader hands over\n", json: accepted.json)
    }
}
