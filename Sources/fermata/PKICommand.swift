import ArgumentParser
import Fleet
import Presentation
import UvLoop
import Wire

struct PKICommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pki",
        abstract: "Makes an authority, and issues, renews, revokes certificates.",
        discussion: """
            Every process of Fermata has a certificate that says who it is: one URI name, \
            fermata://CLUSTER/ROLE/NAME. All of this works on files in one directory, that of the \
            authority, which belongs on no host and no server. Any other authority that writes \
            such names will do as well.

            Once:
              fermata pki init --directory pki --cluster demo
              fermata pki issue server one --directory pki
              fermata pki issue agent a --directory pki
              fermata pki issue operator alice --directory pki

            Every few weeks (copy the new .pem to its process and send it SIGHUP):
              fermata pki list --directory pki
              fermata pki renew agent a --directory pki

            When a key has leaked (then copy crl.pem to every server and host, beside ca.pem, \
            and send SIGHUP):
              fermata pki revoke agent a --directory pki --reason keyCompromise
              fermata pki renew agent a --directory pki --new-key
            """,
        subcommands: [
            Init.self, Issue.self, Renew.self, Revoke.self, Show.self, List.self,
        ])

    /// What authorities are made for, unless told otherwise: about as long as hosts live.
    static let authorityDays = 3_650
    /// A certificate that leaked unnoticed is worth nothing after a quarter.
    static let leafDays = 90

    struct Init: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "init", abstract: "Makes a new authority.",
            discussion: """
                Writes ca.pem and ca.key, an empty revocation list (crl.pem) and an empty index of \
                what is issued (index.txt). Never overwrites an authority that is there. Keep \
                ca.key and index.txt away from hosts and servers, and in your backup: with ca.key \
                anybody can make certificates for anybody.

                  fermata pki init --directory pki --cluster demo
                """)
        @Option(help: ArgumentHelp("Where to put the files.", valueName: "directory"))
        var directory: String
        @Option(help: "The name of the cluster.", transform: parseName)
        var cluster: HostID
        @Option(help: "How long the authority is valid.")
        var days: Int = PKICommand.authorityDays

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
            StandardOutput.write(
                "made \(directory)/ca.pem, \(directory)/ca.key and \(directory)/crl.pem\n")
        }
    }

    struct Issue: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "issue", abstract: "Makes a key and a certificate for one process.",
            discussion: """
                Writes ROLE-NAME.pem and ROLE-NAME.key beside ca.pem. The name of an agent is the \
                host's, as in its host file. Give the process these two, ca.pem and crl.pem, in \
                one directory; never ca.key.

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
        var days: Int = PKICommand.leafDays

        func validate() throws {
            try checkDays(days)
            try checkRole(role)
        }

        func run() throws {
            let cluster = try cluster(ofAuthorityIn: directory)
            let prefix = "\(directory)/\(role)-\(name)"
            do {
                let made = try CertificateAuthority.issue(
                    role: role, name: name.rawValue, cluster: cluster, directory: directory,
                    days: days, addresses: [])
                StandardOutput.write(
                    "made \(prefix).pem and \(prefix).key for \(made.uri), valid until "
                        + "\(dateText(made.notAfterUnixSeconds))\n")
            } catch {
                throw CommandFailure(makingCertificates: error)
            }
        }
    }
}

// MARK: - What several of them need

/// The cluster is part of the authority's own name, `fermata://CLUSTER/authority/ca`.
func cluster(ofAuthorityIn directory: String) throws(CommandFailure) -> String {
    let path = "\(directory)/ca.pem"
    let uri: String
    do {
        try CertificateAuthority.finish(directory: directory)
        uri = try CertificateAuthority.describe(certificatePath: path).uri ?? "missing"
    } catch {
        throw CommandFailure(
            .badInput, "\(error)",
            advice: "`fermata pki init --directory \(directory) --cluster NAME` makes an authority."
        )
    }
    let parts = uri.split(separator: "/")
    guard parts.count == 4, parts[0] == "fermata:", parts[2] == "authority" else {
        throw CommandFailure(
            .badInput, "\(path) is not an authority of Fermata: its name is \(uri)",
            advice: "Make one with `fermata pki init`.")
    }
    return String(parts[1])
}

extension CommandFailure {
    /// Errors of the subcommands of `pki` that write; their texts say what to do.
    init(makingCertificates error: TLSError) {
        let exit: Exit =
            switch error {
            case .alreadyExists, .fileUnwritable: .cannotCreate
            case .directoryBusy: .unavailable
            case .revokedKey: .failed
            case .invalidName: .usage
            case .failed: .internalError
            default: .badInput
            }
        self.init(exit, "\(error)")
    }
}

func checkDays(_ days: Int) throws {
    guard (1...3650).contains(days) else {
        throw ValidationError("--days \(days) is out of bounds: 1 to 3650.")
    }
}

func checkRole(_ role: String) throws {
    guard Role(rawValue: role) != nil else {
        throw ValidationError(
            "'\(printable(role))' is not a role: server, agent, operator or notifier.")
    }
}

func dateText(_ unixSeconds: Int64) -> String {
    Timestamp(microseconds: unixSeconds * 1_000_000).dateText
}
