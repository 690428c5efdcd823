import ArgumentParser
import Fleet
import Foundation
import Presentation
import UvLoop
import Wire

struct PKICommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pki", abstract: "Makes a certificate authority and certificates.",
        discussion: """
            Every process of Fermata has a certificate that says who it is: one URI name, \
            fermata://CLUSTER/ROLE/NAME. This authority is for trials and small fleets; any other \
            that writes such names will do.

              fermata pki init --directory pki --cluster demo
              fermata pki issue server one --directory pki
              fermata pki issue agent a --directory pki
              fermata pki issue operator alice --directory pki
            """,
        subcommands: [Init.self, Issue.self, Show.self])

    struct Init: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "init", abstract: "Makes a new authority: ca.pem and ca.key.",
            discussion: """
                Never overwrites one that is there. Keep ca.key away from hosts and servers: it \
                can make certificates for anybody.

                  fermata pki init --directory pki --cluster demo
                """)
        @Option(help: ArgumentHelp("Where to put the files.", valueName: "directory"))
        var directory: String
        @Option(help: "The name of the cluster.", transform: parseName)
        var cluster: HostID
        @Option(help: "How long the authority is valid.")
        var days: Int = 30

        func validate() throws { try checkDays(days) }

        func run() throws {
            do {
                try Files.makeDirectory(path: directory, mode: 0o700, parents: true)
            } catch {
                throw CommandFailure(
                    .cannotCreate, "cannot make \(directory): \(error)",
                    advice: "Give a directory that you may write to.")
            }
            do {
                try CertificateAuthority.create(
                    cluster: cluster.rawValue, directory: directory, days: days)
            } catch {
                throw CommandFailure(makingCertificates: error)
            }
            StandardOutput.write("made \(directory)/ca.pem and \(directory)/ca.key\n")
        }
    }

    struct Issue: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "issue", abstract: "Makes a key and a certificate for one process.",
            discussion: """
                Writes ROLE-NAME.pem and ROLE-NAME.key beside ca.pem. The name of an agent is the \
                host's, as in its host file. Give a process all three files, or all but ca.key.

                  fermata pki issue agent a --directory pki
                  fermata agent --credentials pki/agent-a …
                """)
        @Argument(help: "server, agent, operator or notifier.")
        var role: String
        @Argument(help: "The name of the process's host or of the person.", transform: parseName)
        var name: HostID
        @Option(help: ArgumentHelp("Where ca.pem and ca.key are.", valueName: "directory"))
        var directory: String
        @Option(help: "How long the certificate is valid.")
        var days: Int = 30

        func validate() throws {
            try checkDays(days)
            guard Role(rawValue: role) != nil else {
                throw ValidationError(
                    "'\(printable(role))' is not a role: server, agent, operator or notifier.")
            }
        }

        func run() throws {
            let cluster = try Self.cluster(ofAuthorityIn: directory)
            let prefix = "\(directory)/\(role)-\(name)"
            do {
                _ = try CertificateAuthority.issue(
                    role: role, name: name.rawValue, cluster: cluster, directory: directory,
                    days: days, addresses: [])
            } catch {
                throw CommandFailure(makingCertificates: error)
            }
            StandardOutput.write(
                "made \(prefix).pem and \(prefix).key for fermata://\(cluster)/\(role)/\(name)\n")
        }

        /// The cluster is part of the authority's own name, `fermata://CLUSTER/authority/ca`.
        private static func cluster(
            ofAuthorityIn directory: String
        ) throws(CommandFailure) -> String {
            let path = "\(directory)/ca.pem"
            let uri: String
            do {
                uri = try CertificateAuthority.describe(certificatePath: path).uri ?? "missing"
            } catch {
                throw CommandFailure(
                    .badInput, "\(error)",
                    advice: "`fermata pki init --directory \(directory) --cluster NAME` makes an "
                        + "authority.")
            }
            let parts = uri.split(separator: "/")
            guard parts.count == 4, parts[0] == "fermata:", parts[2] == "authority" else {
                throw CommandFailure(
                    .badInput, "\(path) is not an authority of Fermata: its name is \(uri)",
                    advice: "Make one with `fermata pki init`.")
            }
            return String(parts[1])
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "show", abstract: "Shows who a certificate is for and how long.",
            discussion: "  fermata pki show pki/agent-a.pem")
        @Argument(help: "The certificate, a .pem file.")
        var file: String
        @OptionGroup var output: OutputOptions

        func run() throws {
            let shown: CertificateDescription
            do {
                shown = try CertificateAuthority.describe(certificatePath: file)
            } catch {
                throw CommandFailure(.badInput, "\(error)")
            }
            let from = Timestamp(microseconds: shown.notBeforeUnixSeconds * 1_000_000)
            let until = Timestamp(microseconds: shown.notAfterUnixSeconds * 1_000_000)
            let left = until.microseconds - WallClock.nowMicroseconds
            let validity =
                left <= 0
                ? "EXPIRED \(spanText(microseconds: -left)) ago"
                : "\(spanText(microseconds: left)) left"
            output.show(
                text: """
                    identity   \(printable(shown.uri ?? "none"))
                    subject    \(printable(shown.subject))
                    issuer     \(printable(shown.issuer))
                    serial     \(shown.serialHex)
                    valid      \(from.dateText) to \(until.dateText) (\(validity))
                    authority  \(shown.isCA ? "yes" : "no")

                    """,
                json: [
                    "uri": shown.uri.map { .string($0) } ?? .null,
                    "subject": .string(shown.subject),
                    "issuer": .string(shown.issuer), "serial": .string(shown.serialHex),
                    "notBefore": .string(from.rfc3339), "notAfter": .string(until.rfc3339),
                    "isAuthority": .bool(shown.isCA),
                ])
        }
    }
}

extension CommandFailure {
    /// Errors of `pki init` and `pki issue`; their texts say what to do.
    fileprivate init(makingCertificates error: TLSError) {
        let exit: Exit =
            switch error {
            case .alreadyExists, .fileUnwritable: .cannotCreate
            case .invalidName: .usage
            case .failed: .internalError
            default: .badInput
            }
        self.init(exit, "\(error)")
    }
}

private func checkDays(_ days: Int) throws {
    guard (1...3650).contains(days) else {
        throw ValidationError("--days \(days) is out of bounds: 1 to 3650.")
    }
}
