import Foundation
import Testing

@Suite struct UsageTests {
    /// A command line that is wrong, and what its error must say.
    struct Wrong: Sendable, CustomTestStringConvertible {
        var line: String
        var says: String
        var testDescription: String { line }
        init(_ line: String, _ says: String) {
            self.line = line
            self.says = says
        }
    }

    @Test(
        "wrong use exits with 64 and says what is wrong",
        arguments: [
            Wrong("frobnicate", "Unexpected argument 'frobnicate'"),
            Wrong("status --output xml", "'text' and 'json'"),
            Wrong("status --timeout never", "Write seconds"),
            Wrong("status --timeout 0", "Write seconds"),
            Wrong("status", "--credentials PREFIX or set FERMATA_CREDENTIALS"),
            Wrong("status --credentials x --server nowhere", "Write host:port"),
            Wrong("status --credentials x --server nowhere:0", "Write host:port"),
            Wrong("status --credentials x --server nowhere:65536", "Write host:port"),
            Wrong("status --credentials x --server ,", "no server is named"),
            Wrong("guests --set a/b", "is not a name"),
            Wrong("guests --host .hidden", "is not a name"),
            Wrong("rollout show nine", "Write rollout-7 or 7"),
            Wrong("rollout watch 0", "Write rollout-7 or 7"),
            Wrong("rollout watch", "Missing expected argument"),
            Wrong("rollout start", "Missing expected argument '--release"),
            Wrong("rollout start --release r --deadline 30", "Write a number with a unit"),
            Wrong("rollout start --release r --deadline 31s", "out of bounds: 500ms to 30s"),
            Wrong("rollout start --release r --deadline 499ms", "out of bounds: 500ms to 30s"),
            Wrong("rollout start --release r --parallelism 0", "out of bounds: 1 to 1000"),
            Wrong("rollout start --release r --parallelism -1", "Missing value for '--parallelism"),
            Wrong("rollout start --release r --failures-max 0", "must be at least 1"),
            Wrong("rollout start --release r --host a,,b", "is not a name"),
            Wrong("cordon a", "Missing expected argument '--reason"),
            Wrong("cordon a --reason x b", "Unexpected argument 'b'"),
            Wrong(
                "notifier --database d --host a --listen 127.0.0.1:0 --sinks s",
                "leave --sinks to the notifier that keeps the record"),
            Wrong(
                "notifier --database d --host a --listen 127.0.0.1:0 --append f",
                "leave --append to the notifier"),
            Wrong("notifier forget", "Missing expected argument '<name>'"),
            Wrong("notifier dead-letters drop --pending --database d", "--pending needs --sink"),
            Wrong("notifier forget a/b", "is not a name"),
            Wrong("rollout abort 1", "Missing expected argument '--reason"),
            Wrong("plan --release r --host a;b", "is not a name"),
            Wrong("release add r --version 1 --path qemu", "is not an absolute path"),
            Wrong("release add r --version 1", "Missing expected argument '--path"),
            Wrong("release add r --path /q", "Missing expected argument '--version"),
            Wrong("release add r --component network --version 1 --path /q", "with --file"),
            Wrong("release add r --file r.yaml", "A hypervisor has no release file"),
            Wrong(
                "release add r --component network --file r.yaml --version 1", "says all the rest"),
            Wrong(
                "release add r --component agent --version 1 --path /f --module-directory /m",
                "for component hypervisor only"),
            Wrong("release add r --version 1 --path /q --sha256 12", "64 hexadecimal digits"),
            Wrong(
                "release add r --version 1 --path /q --data-directory d",
                "is not an absolute path"),
            Wrong("release add r --version 1 --path /q --component a/b", "name of a component"),
            Wrong("annotations", "--database FILE or set FERMATA_NOTIFIER_DATABASE"),
            Wrong("annotations --limit 0", "--limit must be at least 1"),
            Wrong("backup --file f", "Missing expected argument '--store"),
            Wrong("backup --store ftp:x --file f", "'ftp' is no kind of store"),
            Wrong("restore --store etcd:x --file f", "is not the URL of an etcd member"),
            Wrong("backup --store etcd:http://a:1 --file f", "cluster's log in etcd is meant"),
            Wrong("backup --store sqlite:d --file f --etcd-prefix p", "is for a log in etcd"),
            Wrong("backup --store etcd:http://a:1 --file f --etcd-ca no", "no cannot be read"),
            Wrong(
                "backup --store etcd:http://a:1 --file f --cluster c --etcd-user u",
                "his password belong together"),
            Wrong("server --data d --store etcd:ftp://a:1", "is not the URL of an etcd member"),
            Wrong("server", "Missing expected argument '--data"),
            Wrong("pki init --directory d --cluster a/b", "is not a name"),
            Wrong("pki init --directory d --cluster c --days 0", "out of bounds: 1 to 3650"),
            Wrong("pki issue king a --directory d", "server, agent, operator or notifier"),
            Wrong("pki renew", "Give a role and a name, or a certificate's file"),
            Wrong("pki renew agent --directory d", "Give a name after the role"),
            Wrong("pki renew agent a", "Give --directory DIR"),
            Wrong("pki renew king a --directory d", "server, agent, operator or notifier"),
            Wrong("pki renew agent a b --directory d", "one role and one name, or one file"),
            Wrong("pki renew agent a --directory d --days 3651", "out of bounds: 1 to 3650"),
            Wrong("pki revoke --directory d", "or --serial"),
            Wrong("pki revoke agent a --directory d --serial 00", "or --serial"),
            Wrong("pki revoke agent a --directory d --reason because", "keyCompromise"),
            Wrong("pki revoke --serial 00", "Give --directory DIR"),
            Wrong("server --data d", "--credentials PREFIX"),
            Wrong("notifier --credentials x", "Missing expected argument '--database"),
            Wrong(
                "notifier --credentials x --database d --log-level loud",
                "is invalid for '--log-level"),
        ])
    func wrongUse(_ wrong: Wrong) throws {
        let result = try Runner.run(wrong.line.split(separator: " ").map(String.init))
        #expect(result.code == 64)
        #expect(result.errors.hasPrefix("fermata: "))
        #expect(result.errors.contains(wrong.says), "\(result.errors)")
        #expect(result.output.isEmpty)
    }

    @Test("a reason must say something")
    func emptyReason() throws {
        let result = try Runner.run(["locks", "release", "db", "--reason", "  "])
        #expect(result.code == 64)
        #expect(result.errors.contains("A reason is needed"))
    }

    @Test("what was typed cannot steer the terminal in the answer")
    func terminal() throws {
        let result = try Runner.run(["rollout", "show", "\u{1B}[2J"])
        #expect(result.code == 64)
        #expect(result.errors.contains("' [2J' is not a rollout"))
    }
}

@Suite struct HelpTests {
    @Test(
        "each command's help goes to stdout, with an example",
        arguments: [
            "server", "notifier run", "notifier forget", "pki", "pki init", "pki issue",
            "pki renew", "pki revoke",
            "pki show", "pki list", "status", "hosts",
            "guests", "sets", "locks list", "locks release", "release add", "release list", "plan",
            "rollout start", "rollout watch", "rollout show", "rollout list",
            "rollout pause", "rollout resume", "rollout abort", "cordon", "uncordon",
            "annotations list", "annotations show", "availability",
            "agent", "simulate",
        ])
    func help(command: String) throws {
        let result = try Runner.run(command.split(separator: " ").map(String.init) + ["--help"])
        #expect(result.code == 0)
        #expect(result.errors.isEmpty)
        // What is run when no further word is given.
        let example =
            ["locks list": "locks", "notifier run": "notifier", "annotations list": "annotations"][
                command] ?? command
        #expect(result.output.contains("\n  fermata \(example)"), "\(result.output)")
    }

    @Test("the help of fermata itself lists every exit code")
    func exitCodes() throws {
        let result = try Runner.run(["--help"])
        #expect(result.code == 0)
        for code in [0, 1, 64, 65, 69, 70, 73, 76, 77, 78] {
            #expect(result.output.contains("\n  \(code) "))
        }
        #expect(!result.output.contains("guard"), "only the agent starts it")
    }

    @Test("the version is one line")
    func version() throws {
        let result = try Runner.run(["--version"])
        #expect(result.code == 0)
        #expect(result.output.split(separator: ".").count == 3)
        #expect(result.output.hasSuffix("\n"))
    }
}

@Suite struct FileTests {
    let directory: String

    init() throws {
        directory = NSTemporaryDirectory() + "/fermata-command-line-\(UUID().uuidString)"
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
    }

    private func run(_ line: String) throws -> Runner.Result {
        try Runner.run(line.split(separator: " ").map(String.init), in: directory)
    }

    @Test("an authority issues certificates, shows them, and overwrites nothing")
    func certificates() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        #expect(try run("pki init --directory pki --cluster demo").code == 0)
        let again = try run("pki init --directory pki --cluster other")
        #expect(again.code == 73)
        #expect(again.errors.contains("exists already"))
        #expect(try run("pki issue operator alice --directory pki").code == 0)
        #expect(try run("pki issue operator alice --directory pki").code == 73)
        let shown = try run("pki show pki/operator-alice.pem --output json")
        #expect(shown.code == 0)
        let json = try JSONSerialization.jsonObject(with: Data(shown.output.utf8))
        #expect((json as? [String: Any])?["uri"] as? String == "fermata://demo/operator/alice")
        #expect((json as? [String: Any])?["isAuthority"] as? Bool == false)
        let lost = try run("pki issue agent a --directory nowhere")
        #expect(lost.code == 65)
        #expect(lost.errors.contains("fermata pki init --directory nowhere"))

        let unreachable = try run(
            "status --credentials pki/operator-alice --server 127.0.0.1:1,localhost:1")
        #expect(unreachable.code == 69)
        #expect(unreachable.errors.contains("connection refused"))
        #expect(unreachable.errors.contains("\n  Check the address"))
        #expect(
            try run("status --credentials pki/operator-alice.pem --server 127.0.0.1:1").code == 69)
        let role = try run(
            "notifier --credentials pki/operator-alice --server 127.0.0.1:1 --database n")
        #expect(role.code == 77)
        #expect(role.errors.contains("for the role operator, not for notifier"))
        #expect(try run("status --credentials pki/nobody").code == 77)
    }

    @Test("certificates are renewed, listed, revoked, and shown on the revocation list")
    func certificateLife() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        func json(_ line: String) throws -> Any {
            let result = try run(line + " --output json")
            #expect(result.code == 0, "\(result.errors)")
            return try JSONSerialization.jsonObject(with: Data(result.output.utf8))
        }
        func states() throws -> [String?] {
            (try json("pki list --directory pki") as? [[String: Any]] ?? []).map {
                $0["state"] as? String
            }
        }
        #expect(try run("pki init --directory pki --cluster demo").code == 0)
        #expect(try run("pki list --directory pki").output == "nothing issued yet\n")
        #expect(try run("pki issue agent a --directory pki --days 20").code == 0)
        #expect(try run("pki issue agent b --directory pki").code == 0)
        #expect(try states() == ["endsSoon", "valid"])
        let renewed = try run("pki renew pki/agent-a.pem --new-key")
        #expect(renewed.code == 0)
        #expect(renewed.output.hasPrefix("renewed pki/agent-a.pem and its key for"))
        #expect(try run("pki renew agent b --directory pki").code == 0)

        let revoked = try run("pki revoke agent a --directory pki --reason keyCompromise")
        #expect(revoked.code == 0)
        #expect(revoked.output.contains("now copy pki/crl.pem (number 2) beside every ca.pem"))
        let again = try run("pki revoke pki/agent-a.pem")
        #expect(again.code == 0)
        #expect(again.output.contains("was revoked before"))
        #expect(again.output.contains("nothing new to revoke"))
        #expect(try states() == ["revoked", "valid", "revoked", "valid"])
        let list = try json("pki show pki/crl.pem") as? [String: Any]
        #expect(list?["number"] as? Int == 2)
        #expect((list?["entries"] as? [[String: Any]])?.count == 2)
        let shown = try run("pki show pki/crl.pem")
        #expect(shown.output.contains("number   2\n") && shown.output.contains("keyCompromise"))

        let refused = try run("pki renew agent a --directory pki")
        #expect(refused.code == 1)
        #expect(refused.errors.contains("give --new-key"))
        #expect(try run("pki renew agent a --directory pki --new-key").code == 0)
        let unknown = try run("pki revoke agent nobody --directory pki")
        #expect(unknown.code == 65)
        #expect(unknown.errors.contains("see `fermata pki list`"))
        let key = try run("pki show pki/agent-a.key")
        #expect(key.code == 65)
        #expect(key.errors.contains("it is a private key"))
        let nowhere = try run("pki revoke agent a --directory nowhere")
        #expect(nowhere.code == 65)
        #expect(nowhere.errors.contains("fermata pki init --directory nowhere"))
    }

    @Test("a notifier database that cannot be read exits with 65")
    func annotations() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let missing = try run("annotations --database none.db")
        #expect(missing.code == 65)
        #expect(missing.errors.contains("there is no notifier database at none.db"))
        try Data(repeating: 65, count: 9000).write(
            to: URL(fileURLWithPath: directory + "/letters.db"))
        let damaged = try run("annotations --database letters.db --output json")
        #expect(damaged.code == 65)
        #expect(damaged.errors.contains("is damaged"))
        #expect(damaged.output.isEmpty)
    }

    @Test("a release file's problems are told with their lines, before anybody is asked")
    func releaseFile() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let missing = try run("release add r --component network --file none.yaml")
        #expect(missing.code == 65)
        #expect(missing.errors.contains("cannot read the release file none.yaml"))
        try Data("version: 1\napply: {path: apply}\n".utf8).write(
            to: URL(fileURLWithPath: directory + "/r.yaml"))
        let bad = try run("release add r --component network --file r.yaml")
        #expect(bad.code == 65)
        #expect(bad.errors.contains("r.yaml:2:15: apply.path is `apply`"))
        #expect(bad.errors.contains("apply has no `limit`"))
        try Data("version: 1\napply: {path: /nonexistent/apply, limit: 1s}\n".utf8).write(
            to: URL(fileURLWithPath: directory + "/r.yaml"))
        let absent = try run("release add r --component network --file r.yaml")
        #expect(absent.code == 65)
        #expect(absent.errors.contains("cannot read /nonexistent/apply to compute its SHA-256"))
        let kernel = "version: 1\napply: {path: /dev/null, sha256: \(zeros), limit: 1s}\n"
        try Data(kernel.utf8).write(to: URL(fileURLWithPath: directory + "/r.yaml"))
        let refused = try run("release add r --component kernel --file r.yaml")
        #expect(refused.code == 65)
        #expect(refused.errors.contains("component kernel is not supported"))
    }

    private var zeros: String { "\"" + String(repeating: "0", count: 64) + "\"" }

    @Test("back-ups that cannot be made or restored say why, and with which exit code")
    func backups() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let nothing = try run("backup --store sqlite:none --file f")
        #expect(nothing.code == 65)
        #expect(nothing.errors.contains("there is no log in sqlite:none"))
        #expect(!FileManager.default.fileExists(atPath: directory + "/f"))
        let missing = try run("restore --file f --store new")
        #expect(missing.code == 65)
        #expect(missing.errors.contains("f: no such file"))
        let device = try run("backup --store sqlite:none --file /dev/null")
        #expect(device.code == 65, "nothing to back up comes first")
        try Data("FERMATAB".utf8).write(to: URL(fileURLWithPath: directory + "/f"))
        let short = try run("restore --file f --store new --output json")
        #expect(short.code == 65)
        #expect(short.errors.contains("f is damaged: it is cut off after 8 bytes"))
        #expect(short.output.isEmpty)
        try Data("something".utf8).write(to: URL(fileURLWithPath: directory + "/f"))
        #expect(try run("restore --file f --store new").errors.contains("is not a back-up"))
        #expect(!FileManager.default.fileExists(atPath: directory + "/new"))
    }

    @Test("a digest that cannot be computed names the way around")
    func digest() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let result = try run("release add r --version 1 --path /nonexistent/qemu")
        #expect(result.code == 65)
        #expect(result.errors.contains("--sha256"))
    }
}
