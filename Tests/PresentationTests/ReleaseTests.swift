import Fleet
import Testing

@testable import Presentation

/// Releases that are commands or the agent's program, and rollouts of them.
@Suite struct ReleaseTests {
    private static let digest = [UInt8](repeating: 0xAB, count: 32)
    private static let command = HostCommand(
        path: "/n/apply", arguments: ["-x"], sha256: digest, limitMilliseconds: 500)
    private static let hostRelease = Release(
        id: ReleaseID(checked: "n2"), component: .network,
        work: .host(
            HostWork(
                version: "2", holdsGuests: true, apply: command,
                environment: [EnvironmentVariable(name: "A", value: "b")])))
    private static let agentRelease = Release(
        id: ReleaseID(checked: "f2"), component: .agent,
        work: .agent(version: "0.2", program: ReleaseFile(path: "/f", sha256: digest)))
    private static func view(_ release: Release) -> ReleaseView {
        ReleaseView(release: release, addedAt: Samples.heldAt, addedBy: "alice")
    }

    @Test("the list shows the file that tells one release from another")
    func list() {
        #expect(
            text(of: [Self.view(Self.hostRelease), Self.view(Self.agentRelease)]) == """
                RELEASE  COMPONENT  VERSION  SHA-256       ADDED BY  PATH
                n2       network    2        abababababab  alice     /n/apply
                f2       agent      0.2      abababababab  alice     /f

                """)
    }

    @Test("JSON says the kind of work and all of it")
    func json() {
        let digest = String(repeating: "ab", count: 32)
        #expect(
            Self.view(Self.hostRelease).json.compact == """
                {"id":"n2","component":"network","version":"2","kind":"hostWork","holdsGuests":true,\
                "artifact":null,"prepare":null,"apply":{"path":"/n/apply","arguments":["-x"],\
                "sha256":"\(digest)","limitMilliseconds":500},"check":null,"undo":null,\
                "environment":{"A":"b"},"user":"","workingDirectory":"",\
                "addedAt":"\(Samples.heldAt.rfc3339)","addedBy":"alice"}
                """)
        #expect(
            Self.view(Self.agentRelease).json.compact.hasPrefix(
                #"{"id":"f2","component":"agent","version":"0.2","kind":"agentProgram","path":"/f""#
            ))
    }

    @Test("a plan shows steps that hold nobody, and hosts that are left alone")
    func plan() {
        let a = HostID(checked: "a")
        let plan = PlanView(
            release: ReleaseID(checked: "f2"), policy: Policy(),
            steps: [PlanView.Step(host: a, guests: [], pairs: [], wave: 1)], waveCount: 1,
            skipped: [
                PlanView.Skipped(
                    guest: nil, host: HostID(checked: "b"), reason: "has agent 0.2 already")
            ], problems: [])
        #expect(plan.text.contains("\n   1  a     none held  -\n"), "\(plan.text)")
        #expect(plan.text.contains("  host b: has agent 0.2 already\n"))
        #expect(
            plan.json(withoutAddress: []).compact.contains(#"{"guest":null,"host":"b","reason":"#))
    }

    @Test("a plan with many guests that cannot be told names some of them")
    func withoutAddress() {
        let guests = (1...22).map { GuestID(checked: "g-\($0)") }
        #expect(withoutAddressText([]).isEmpty)
        #expect(
            withoutAddressText([guests[0]]).contains("1 guest has no address in its host's file"))
        #expect(withoutAddressText(guests).hasSuffix("g-19, g-20 and 2 others\n"))
    }

    @Test("a rollout's table has a line for a step that holds nobody")
    func rollout() {
        var step = Samples.stepView(1, phase: .finished)
        step.guests = []
        step.pairs = []
        step.outcome = .succeeded
        let text = Samples.rollout(.succeeded, steps: [step]).text
        let line = text.split(separator: "\n").first { $0.contains("none held") }
        #expect(line?.contains("finished") == true, "\(text)")
        #expect(line?.hasSuffix("succeeded") == true, "\(text)")
    }

    @Test("an annotation of other software says which")
    func annotation() {
        var annotation = Samples.annotation()
        annotation.component = .network
        annotation.version = "3.2"
        #expect(
            annotation.text.contains("to update the network software of its host to 3.2."))
        annotation.component = .agent
        #expect(annotation.text.contains("to update the agent software of its host to 3.2."))
    }
}
