import ArgumentParser
import Fleet
import Presentation
import UvLoop

// `fermata pki show` and `fermata pki list`: what certificates and lists say.

extension PKICommand {
    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "show", abstract: "Shows what a certificate or a revocation list says.",
            discussion: """
                  fermata pki show pki/agent-a.pem
                  fermata pki show pki/crl.pem
                  fermata pki show pki/ca.pem --output json
                """)
        @Argument(help: "A certificate or a revocation list, a .pem file.")
        var file: String
        @OptionGroup var output: OutputOptions

        func run() throws {
            let shown: PEMDescription
            do {
                shown = try CertificateAuthority.describe(path: file)
            } catch {
                throw CommandFailure(.badInput, "\(error)")
            }
            switch shown {
            case .certificates(let certificates):
                output.show(
                    text: certificates.map(text).joined(separator: "\n"),
                    json: certificates.count == 1
                        ? json(certificates[0]) : .array(certificates.map(json)))
            case .lists(let lists):
                output.show(
                    text: lists.map(text).joined(separator: "\n"),
                    json: lists.count == 1 ? json(lists[0]) : .array(lists.map(json)))
            }
        }

        private func text(_ shown: CertificateDescription) -> String {
            let from = Timestamp(microseconds: shown.notBeforeUnixSeconds * 1_000_000)
            let until = Timestamp(microseconds: shown.notAfterUnixSeconds * 1_000_000)
            let left = until.microseconds - WallClock.nowMicroseconds
            let validity =
                left <= 0
                ? "EXPIRED \(spanText(microseconds: -left)) ago"
                : "\(spanText(microseconds: left)) left"
            return """
                identity   \(printable(shown.uri ?? "none"))
                subject    \(printable(shown.subject))
                issuer     \(printable(shown.issuer))
                serial     \(shown.serialHex)
                valid      \(from.dateText) to \(until.dateText) (\(validity))
                authority  \(shown.isCA ? "yes" : "no")

                """
        }

        private func json(_ shown: CertificateDescription) -> JSON {
            [
                "uri": shown.uri.map { .string($0) } ?? .null,
                "subject": .string(shown.subject),
                "issuer": .string(shown.issuer), "serial": .string(shown.serialHex),
                "notBefore": time(shown.notBeforeUnixSeconds),
                "notAfter": time(shown.notAfterUnixSeconds),
                "isAuthority": .bool(shown.isCA),
            ]
        }

        private func text(_ list: RevocationListDescription) -> String {
            let next = list.notAfterUnixSeconds.map { dateText($0) } ?? "not said"
            var text = """
                issuer   \(printable(list.issuer))
                number   \(list.number)
                made     \(dateText(list.madeAtUnixSeconds))
                next by  \(next)
                revoked  \(list.entries.count)

                """
            guard !list.entries.isEmpty else { return text }
            var table = TextTable([
                ("SERIAL", .left), ("REVOKED", .left), ("REASON", .left),
            ])
            for entry in list.entries {
                table.add([
                    entry.serialHex, dateText(entry.revokedAtUnixSeconds), entry.reason.rawValue,
                ])
            }
            text += "\n" + table.text
            return text
        }

        private func json(_ list: RevocationListDescription) -> JSON {
            [
                "issuer": .string(list.issuer), "number": .unsigned(list.number),
                "madeAt": time(list.madeAtUnixSeconds),
                "notAfter": list.notAfterUnixSeconds.map(time) ?? .null,
                "entries": .array(
                    list.entries.map {
                        [
                            "serial": .string($0.serialHex),
                            "revokedAt": time($0.revokedAtUnixSeconds),
                            "reason": .string($0.reason.rawValue),
                        ]
                    }),
            ]
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "list", abstract: "Lists what the authority has issued.",
            discussion: """
                In the order of issue: a renewed certificate is there twice until the old one has \
                expired, and after it. States: valid, ends soon (within 30 days), expired, revoked.

                  fermata pki list --directory pki
                  fermata pki list --directory pki --output json
                """)
        @Option(help: ArgumentHelp("Where the authority is.", valueName: "directory"))
        var directory: String
        @OptionGroup var output: OutputOptions

        func run() throws {
            let entries: [IssuedEntry]
            do {
                entries = try CertificateAuthority.list(directory: directory)
            } catch {
                throw CommandFailure(makingCertificates: error)
            }
            let now = WallClock.nowMicroseconds
            var table = TextTable([
                ("IDENTITY", .left), ("SERIAL", .left), ("VALID UNTIL", .left), ("STATE", .left),
            ])
            for entry in entries {
                let state = CertificateState(entry, atMicroseconds: now)
                let revoked =
                    entry.revocation.map {
                        " \(dateText($0.atUnixSeconds)) (\($0.reason.rawValue))"
                    } ?? ""
                table.add([
                    entry.uri, entry.serialHex, dateText(entry.notAfterUnixSeconds),
                    state.text + revoked,
                ])
            }
            output.show(
                text: table.isEmpty ? "nothing issued yet\n" : table.text,
                json: .array(entries.map { json($0, now) }))
        }

        private func json(_ entry: IssuedEntry, _ now: Int64) -> JSON {
            [
                "uri": .string(entry.uri), "serial": .string(entry.serialHex),
                "notBefore": time(entry.notBeforeUnixSeconds),
                "notAfter": time(entry.notAfterUnixSeconds),
                "state": .string(CertificateState(entry, atMicroseconds: now).rawValue),
                "revokedAt": entry.revocation.map { time($0.atUnixSeconds) } ?? .null,
                "reason": entry.revocation.map { .string($0.reason.rawValue) } ?? .null,
            ]
        }
    }
}

/// The raw value is the word in JSON.
private enum CertificateState: String {
    case valid
    case endsSoon
    case expired
    case revoked

    init(_ entry: IssuedEntry, atMicroseconds now: Int64) {
        let end = entry.notAfterUnixSeconds * 1_000_000
        self =
            entry.revocation != nil
            ? .revoked
            : end <= now
                ? .expired
                : end <= now + Limits.certificateWarningMicroseconds ? .endsSoon : .valid
    }

    var text: String { self == .endsSoon ? "ends soon" : rawValue }
}

private func time(_ unixSeconds: Int64) -> JSON {
    .string(Timestamp(microseconds: unixSeconds * 1_000_000).rfc3339)
}
