import Glibc
import Testing

@testable import UvLoop

@Suite("An authority's directory") struct AuthorityDirectoryTests {
    private typealias Change = AuthorityDirectory.Change

    private let changes = [
        AuthorityDirectory.Change(path: "a.key", mode: 0o600, bytes: Array("key\n2 1 x\n".utf8)),
        AuthorityDirectory.Change(path: "a.pem", mode: 0o644, bytes: []),
        AuthorityDirectory.Change(path: "index.txt", mode: 0o644, bytes: Array("i".utf8)),
    ]

    @Test("a command killed at any point has done all or nothing, and the next one sees to it")
    func killed() throws {
        for done in -1...changes.count {
            try withDirectory { directory in
                let pki = AuthorityDirectory.Change(path: "a.pem", mode: 0o644, bytes: [7])
                let first = try AuthorityDirectory(directory)
                try first.commit([pki])
                if done >= 0 {
                    try first.stage(changes)
                    try first.apply(changes[..<done])
                } else {
                    // Killed while it wrote what is to be done.
                    try Files.create(
                        path: "\(directory)/pki.unfinished.1f.new",
                        bytes: Array(Journal.encode(changes).prefix(9)), durable: false)
                }
                first.close()
                #expect(AuthorityDirectory.isUnfinished(directory) == (done >= 0))
                try AuthorityDirectory(directory).close()
                let names = try Files.list(path: directory).filter { $0 != "pki.lock" }
                guard done >= 0 else { return #expect(names == ["a.pem"]) }
                #expect(names == ["a.key", "a.pem", "index.txt"])
                for change in changes {
                    let path = "\(directory)/\(change.path)"
                    #expect(try Files.read(path: path, byteCountMax: 99) == change.bytes)
                    #expect(try Files.mode(path: path) == change.mode)
                }
            }
        }
    }

    @Test("renewing with a new key is finished by any command, and explained until then")
    func interruptedRenewal() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issue("agent", "a")
            let old = ["agent-a.key", "agent-a.pem", "index.txt"]
            let before = try old.map { try pki.read($0) }
            let made = try CertificateAuthority.renew(
                .identity(role: "agent", name: "a"), directory: directory, days: 1, newKey: true)
            let after = try old.map { try pki.read($0) }
            for (name, bytes) in zip(old, before) { try pki.write(name, bytes, mode: 0o600) }
            // As it is right after the first of the renames.
            let held = try AuthorityDirectory(directory)
            let changes = zip(old, after).map {
                Change(path: $0, mode: $0.hasSuffix("key") ? 0o600 : 0o644, bytes: $1)
            }
            try held.stage(changes)
            try held.apply(changes[..<1])
            held.close()
            let error = #expect(throws: TLSError.self) { try pki.context(.client, "agent-a") }
            #expect(error?.description.contains("`fermata pki list` finishes it") == true)
            #expect(
                try CertificateAuthority.list(directory: directory).last?.serialHex
                    == made.serialHex)
            #expect(try pki.context(.client, "agent-a").identity.serialHex == made.serialHex)
            #expect(!AuthorityDirectory.isUnfinished(directory))
        }
    }

    @Test("a file that cannot be written keeps nobody else from working")
    func unwritable() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issue("agent", "a")
            // As long as a name may be, so that the new file beside it cannot have one.
            let long = String(repeating: "x", count: 251) + ".pem"
            try Files.create(
                path: "\(directory)/\(long)", bytes: try pki.read("agent-a.pem"), durable: false)
            for newKey in [false, true] {
                let error = #expect(throws: TLSError.self) {
                    try CertificateAuthority.renew(
                        .file("\(directory)/\(long)"), directory: directory, days: 1,
                        newKey: newKey)
                }
                guard case .fileUnwritable(let cause) = error else {
                    return #expect(Bool(false), "\(error as Any)")
                }
                #expect(cause.name == "ENAMETOOLONG")
                #expect(!AuthorityDirectory.isUnfinished(directory))
            }
            #expect(try CertificateAuthority.list(directory: directory).count == 1)

            let held = try AuthorityDirectory(directory)
            try held.stage([Change(path: long, mode: 0o644, bytes: [])])
            held.close()
            let stuck = #expect(throws: TLSError.self) {
                try CertificateAuthority.list(directory: directory)
            }
            #expect(stuck?.description.contains("remove this file to give its change up") == true)
        }
    }

    @Test("what is to be done is read back as it was written, and damage is noticed")
    func journal() {
        let bytes = Journal.encode(changes)
        #expect(Journal.decode(bytes) == changes)
        #expect(Journal.decode([]) == nil)
        for count in 0..<bytes.count { #expect(Journal.decode(Array(bytes.prefix(count))) == nil) }
        #expect(Journal.decode(bytes + [1]) == nil)
    }

    @Test("the index is read back as it was written, and a wrong line is named")
    func index() throws {
        var index = IssuedIndex()
        index.listNumber = 7
        index.entries = [
            IssuedEntry(
                serialHex: "0a1f", uri: "fermata://c/agent/a", notBeforeUnixSeconds: 1_800_000_000,
                notAfterUnixSeconds: 1_900_000_000),
            IssuedEntry(
                serialHex: "00", uri: "-", notBeforeUnixSeconds: 0,
                notAfterUnixSeconds: 3_000_000_000,
                revocation: .init(atUnixSeconds: 1_850_000_001, reason: .superseded)),
        ]
        #expect(try IssuedIndex(index.text) == index)
        #expect(
            index.text.hasPrefix(
                "fermata-index 1 7\n"
                    + "0a1f fermata://c/agent/a 2027-01-15T08:00:00Z 2030-03-17T17:46:40Z - -\n"))
        for (old, new, line) in [
            ("fermata-index 1", "fermata-index 2", 1), ("0a1f", "0a1", 2), ("- -", "- x", 2),
            ("superseded", "because", 3), ("2030-03-17", "2030-02-30", 2), ("Z -", "-", 2),
        ] {
            let wrong = index.text.replacing(old, with: new)
            #expect(throws: IssuedIndex.Malformed(line: line)) { try IssuedIndex(wrong) }
        }
        #expect(throws: IssuedIndex.Malformed(line: 1)) {
            try IssuedIndex(String(index.text.dropLast()))
        }
    }

    @Test("a directory without an index, as an older Fermata left it, is served as well")
    func noIndex() throws {
        try withDirectory { directory in
            let pki = try Cluster(directory)
            try pki.issue("agent", "a")
            for name in ["index.txt", "crl.pem"] { try Files.remove(path: "\(directory)/\(name)") }
            let outcome = try CertificateAuthority.revoke(
                .identity(role: "agent", name: "a"), directory: directory, reason: .superseded)
            #expect(outcome.revoked.count == 1 && outcome.listNumber == 1)
            try pki.issue("agent", "b")
            #expect(try CertificateAuthority.list(directory: directory).count == 2)
        }
    }
}
