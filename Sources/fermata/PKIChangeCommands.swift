import ArgumentParser
import Fleet
import Presentation
import UvLoop
import Wire

// `fermata pki renew` and `fermata pki revoke`: what changes a certificate that is out.

/// `ROLE NAME`, or the file of a certificate.
struct CertificateArguments: ParsableArguments {
    @Argument(
        help: ArgumentHelp(
            "Role and name, such as agent a; or the certificate's file.",
            valueName: "role name | file.pem"))
    var words: [String] = []

    @Option(
        name: .customLong("directory"),
        help: ArgumentHelp(
            "Where the authority is: ca.pem, ca.key, index.txt. Default: that of the file.",
            valueName: "directory"))
    var directoryOption: String?

    func validate() throws {
        switch words.count {
        case 0: break
        case 1:
            guard Role(rawValue: words[0]) == nil else {
                throw ValidationError("'\(words[0])' what? Give a name after the role.")
            }
        case 2:
            try checkRole(words[0])
            _ = try parseName(words[1]) as HostID
        default: throw ValidationError("Give one role and one name, or one file.")
        }
    }

    /// - Returns: nil if nothing was named.
    var reference: CertificateReference? {
        switch words.count {
        case 0: nil
        case 1: .file(words[0])
        default: .identity(role: words[0], name: words[1])
        }
    }

    var directory: String {
        get throws(CommandFailure) {
            if let directoryOption { return directoryOption }
            guard words.count == 1 else {
                throw CommandFailure(
                    .usage, "no authority is named",
                    advice: "Give --directory DIR, where ca.pem and ca.key are.")
            }
            let file = words[0]
            guard let slash = file.lastIndex(of: "/") else { return "." }
            return slash == file.startIndex ? "/" : String(file[..<slash])
        }
    }
}

extension PKICommand {
    struct Renew: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "renew", abstract: "Replaces a certificate by one that ends later.",
            discussion: """
                The new one says the same, of the same key, so the .key file stays as it is and \
                only the .pem has to be copied to its process. --new-key makes a new key as well; \
                the two files change together, whatever happens meanwhile. The old certificate \
                stays valid until its end: revoke it if it must not. What has expired can be \
                renewed; what was revoked only with --new-key.

                  fermata pki renew agent a --directory pki
                  scp pki/agent-a.pem a:/etc/fermata/ && ssh a systemctl reload fermata-agent

                A file may lie anywhere:
                  fermata pki renew /mnt/a/agent-a.pem --directory pki --days 30
                """)
        @OptionGroup var certificate: CertificateArguments
        @Option(help: "How long the new certificate is valid.")
        var days: Int = PKICommand.leafDays
        @Flag(help: "Make a new key too.")
        var newKey = false

        func validate() throws {
            try checkDays(days)
            guard certificate.reference != nil else {
                throw ValidationError("Give a role and a name, or a certificate's file.")
            }
        }

        func run() throws {
            guard let reference = certificate.reference else { return }
            let directory = try certificate.directory
            _ = try cluster(ofAuthorityIn: directory)
            do {
                let made = try CertificateAuthority.renew(
                    reference, directory: directory, days: days, newKey: newKey)
                let files =
                    newKey
                    ? "\(made.certificatePath) and its key" : "\(made.certificatePath)"
                StandardOutput.write(
                    "renewed \(files) for \(made.uri), valid until "
                        + "\(dateText(made.notAfterUnixSeconds))\n")
            } catch {
                throw CommandFailure(makingCertificates: error)
            }
        }
    }

    struct Revoke: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "revoke", abstract: "Puts certificates on the revocation list.",
            discussion: """
                Of a role and a name: every certificate that is still valid. Processes learn of it \
                from crl.pem: copy it beside ca.pem wherever that is, and send the servers, agents \
                and notifiers there SIGHUP. Open sessions of revoked certificates are then closed, \
                and new ones refused. Nothing is ever taken off the list. To revoke what is \
                revoked changes nothing.

                Reasons: unspecified, keyCompromise, affiliationChanged, superseded, \
                cessationOfOperation, privilegeWithdrawn.

                  fermata pki revoke agent a --directory pki --reason keyCompromise
                  fermata pki revoke pki/operator-alice.pem --reason cessationOfOperation
                  fermata pki revoke --serial 4f0c… --directory pki
                """)
        @OptionGroup var certificate: CertificateArguments
        @Option(help: ArgumentHelp("The serial number, as `pki list` shows it.", valueName: "hex"))
        var serial: String?
        @Option(help: "Why.", transform: parseRevocationReason)
        var reason: RevocationReason = .unspecified

        func validate() throws {
            guard (certificate.reference == nil) != (serial == nil) else {
                throw ValidationError(
                    "Give a role and a name, or a certificate's file, or --serial.")
            }
        }

        func run() throws {
            guard let reference = serial.map({ .serial($0) }) ?? certificate.reference else {
                return
            }
            let directory = try certificate.directory
            _ = try cluster(ofAuthorityIn: directory)
            do {
                let outcome = try CertificateAuthority.revoke(
                    reference, directory: directory, reason: reason)
                StandardOutput.write(text(outcome, directory))
            } catch {
                throw CommandFailure(makingCertificates: error)
            }
        }

        private func text(_ outcome: RevocationOutcome, _ directory: String) -> String {
            var lines = outcome.revoked.map { "revoked \($0.serialHex) of \($0.uri)" }
            for entry in outcome.before {
                guard let revocation = entry.revocation else { continue }
                lines.append(
                    "\(entry.serialHex) of \(entry.uri) was revoked before, on "
                        + "\(dateText(revocation.atUnixSeconds)) (\(revocation.reason.rawValue))")
            }
            for entry in outcome.expired {
                lines.append(
                    "\(entry.serialHex) of \(entry.uri) expired on "
                        + "\(dateText(entry.notAfterUnixSeconds)), which is enough")
            }
            let list = "\(directory)/crl.pem (number \(outcome.listNumber))"
            lines.append(
                outcome.revoked.isEmpty
                    ? "nothing new to revoke: \(list)"
                    : "now copy \(list) beside every ca.pem and send SIGHUP to the processes there")
            return lines.map { printable($0) + "\n" }.joined()
        }
    }
}

private func parseRevocationReason(_ text: String) throws -> RevocationReason {
    guard let reason = RevocationReason(rawValue: text) else {
        throw ValidationError(
            "'\(printable(text))' is not a reason. Write "
                + RevocationReason.allCases.map(\.rawValue).joined(separator: ", ") + ".")
    }
    return reason
}
