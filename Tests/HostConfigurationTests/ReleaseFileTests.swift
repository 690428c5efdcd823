import Fleet
import Testing

@testable import HostConfiguration

@Suite("Release files")
struct ReleaseFileTests {
    private func problems(_ text: String) -> String {
        switch ReleaseDraft.parse(text, fileName: "r") {
        case .success: "none"
        case .failure(let problems): problems.description
        }
    }

    @Test("every key is read, and only missing digests are computed")
    func everything() throws {
        let given = String(repeating: "0a", count: 32)
        let draft = try ReleaseDraft.parse(
            """
            version: 3.10
            holdsGuests: true
            artifact: {path: /opt/x.deb, sha256: \(given)}
            prepare: {path: /opt/prepare, arguments: [--all, "", 7], limit: 3600s}
            apply: {path: /opt/apply, limit: 20s}
            check: {path: /opt/check, limit: 500ms}
            undo: {path: /opt/undo, limit: 7s, sha256: \(given)}
            environment: {Z: "1", A_B: ""}
            user: ovs
            workingDirectory: /var/lib/ovs
            """, fileName: "r"
        ).get()
        var asked: [String] = []
        let work = draft.work { path in
            asked.append(path)
            return [UInt8](repeating: 1, count: 32)
        }
        #expect(asked == ["/opt/prepare", "/opt/apply", "/opt/check"])
        func command(
            _ path: String, _ limit: UInt32, _ arguments: [String] = [], _ digest: UInt8 = 1
        ) -> HostCommand {
            HostCommand(
                path: path, arguments: arguments, sha256: [UInt8](repeating: digest, count: 32),
                limitMilliseconds: limit)
        }
        #expect(
            work
                == HostWork(
                    version: "3.10", holdsGuests: true,
                    prepare: command("/opt/prepare", 3_600_000, ["--all", "", "7"]),
                    apply: command("/opt/apply", 20_000), check: command("/opt/check", 500),
                    undo: command("/opt/undo", 7_000, [], 10),
                    environment: [
                        EnvironmentVariable(name: "A_B", value: ""),
                        EnvironmentVariable(name: "Z", value: "1"),
                    ], user: "ovs", workingDirectory: "/var/lib/ovs",
                    artifact: ReleaseFile(
                        path: "/opt/x.deb", sha256: [UInt8](repeating: 10, count: 32))))
    }

    @Test("the least that is enough holds guests")
    func least() throws {
        let draft = try ReleaseDraft.parse(
            "version: v\napply: {path: /a, limit: 1ms}", fileName: "r"
        ).get()
        #expect(draft.holdsGuests)
        let work = draft.work { _ in [] }
        #expect(
            work
                == HostWork(
                    version: "v", holdsGuests: true,
                    apply: HostCommand(
                        path: "/a", arguments: [], sha256: [], limitMilliseconds: 1)))
    }

    @Test("all problems are told at once, with their lines")
    func terrible() {
        let text = """
            version: a b
            holdGuests: true
            holdsGuests: "yes"
            artifact: /opt/x
            prepare: {path: opt/p, limit: 2h}
            apply:
              arguments: -x
              limit: 0ms
              sha256: "12"
            check: {path: /opt/c, limit: 3601s, shell: true}
            undo: {path: /opt/u, limit: 5}
            environment:
              1A: x
              FERMATA_STEP: y
              OK: [z]
            user: "a b"
            workingDirectory: var
            """
        let expected = [
            "r:1:10: version is `a b`: use 1 to 63",
            "r:2:1: `holdGuests` is not known here: did you mean `holdsGuests`?",
            "r:3:14: holdsGuests is `yes`: write true or false",
            "r:4:11: artifact is `/opt/x` where a map is wanted",
            "r:5:17: prepare.path is `opt/p`, which is no absolute path",
            "r:5:31: prepare.limit is `2h`: write a time from 1ms to 3600s",
            "r:7:3: apply has no `path`",
            "r:7:14: apply.arguments is `-x` where a list is wanted",
            "r:8:10: apply.limit is `0ms`: write a time from 1ms to 3600s",
            "r:9:11: apply.sha256 is `12`, which is no SHA-256",
            "r:10:30: check.limit is `3601s`: write a time from 1ms to 3600s",
            "r:10:37: `shell` is not known in check",
            "r:11:29: undo.limit is `5`: write a time from 1ms to 3600s",
            "r:13:7: `1A` is no name of a variable",
            "r:14:17: `FERMATA_STEP` is no name of a variable",
            "r:15:7: environment.OK is a list where a word or text is wanted",
            "r:16:7: user is `a b`, which is no name of a user",
            "r:17:19: workingDirectory is `var`, which is no absolute path",
        ]
        let lines = problems(text).split(separator: "\n").map(String.init)
        #expect(lines.count == expected.count, "\(lines)")
        for (line, start) in zip(lines, expected) { #expect(line.hasPrefix(start)) }
    }

    @Test("what cannot fit into a hold is said with the numbers, unless nobody is held")
    func hold() {
        let apply = "version: v\napply: {path: /a, limit: 29s}\n"
        #expect(
            problems(apply).hasPrefix(
                "r:2:8: its hold may take 31000 ms (apply 29000 ms, and 2000 ms to stop"))
        #expect(problems(apply + "holdsGuests: false") == "none")
        #expect(problems("version: v\napply: {path: /a, limit: 28s}") == "none")
    }

    @Test("an empty file says how to begin")
    func empty() {
        #expect(problems("# nothing").contains("begin with `version: VERSION`"))
    }

    @Test("advice is about a release file, in one line for each problem")
    func advice() {
        #expect(
            problems("user: x") == """
                r:1:1: the file has no `version`: add it, as in `version: "3.2"`
                r:1:1: the file has no `apply`: add it, as in `apply: {path: /opt/x/apply, limit: 20s}`
                """)
        #expect(
            problems("x").hasSuffix(
                "write it as `{version: \"3.2\", apply: {path: /opt/x/apply, limit: 20s}}`"))
        #expect(problems("a\u{0}").contains("has no place in a release file"))
        let deep = String(repeating: "[", count: 20_000)
        #expect(problems(deep).contains("check that this is the release file"))
    }
}
