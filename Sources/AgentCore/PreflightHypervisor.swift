// The checks of Preflight's table that concern the QEMU to come.

extension Preflight {
    static func hypervisor(_ facts: PreflightFacts) -> [PreflightFinding] {
        program(facts) + machine(facts) + processor(facts)
    }

    private static func program(_ facts: PreflightFacts) -> [PreflightFinding] {
        guard let program = facts.program else { return [] }
        var found: [PreflightFinding] = []
        if !program.exists {
            found.append(
                PreflightFinding(
                    .program, .blocks, problem: "there is no program \(program.path)",
                    advice: "install the release on this host, or correct the path"))
        } else if !program.startProblem.isEmpty {
            found.append(
                PreflightFinding(
                    .program, .blocks,
                    problem: "\(program.path) does not start: \(program.startProblem)",
                    advice: "try it by hand: \(program.path) -machine none -display none -S"))
        }
        if let directory = program.moduleDirectory {
            let advice = "give the module directory that came with \(program.path)"
            if let modules = program.modules {
                // Which modules a QEMU needs only it knows; a directory without any is the wrong one.
                if !modules.contains(where: { $0.hasSuffix(".so") }) {
                    found.append(
                        PreflightFinding(
                            .modules, .blocks, problem: "\(directory) has no QEMU modules",
                            advice: advice))
                }
            } else {
                found.append(
                    PreflightFinding(
                        .modules, .blocks, problem: "there is no directory \(directory)",
                        advice: advice))
            }
        }
        for directory in program.missingDataDirectories {
            found.append(
                PreflightFinding(
                    .firmware, .blocks, problem: "there is no directory \(directory)",
                    advice: "give the data directories that came with \(program.path)"))
        }
        let isPC = facts.machineWord.hasPrefix("q35") || facts.machineWord.hasPrefix("pc")
        if program.hasFirmware == false, isPC, !facts.hasOwnFirmware {
            found.append(
                PreflightFinding(
                    .firmware, .warns,
                    problem: "no data directory has bios-256k.bin; the guest could not be reset",
                    advice: "add the directory that has it, such as /usr/share/seabios"))
        }
        return found
    }

    private static func machine(_ facts: PreflightFacts) -> [PreflightFinding] {
        guard let running = facts.machineType else { return [] }
        let known = facts.newMachineTypes
        if !known.isEmpty, !known.contains(where: { $0.name == running }) {
            return [
                PreflightFinding(
                    .machine, .blocks, problem: "the new QEMU does not know machine \(running)",
                    advice: "use a QEMU that still has it, or start the guest afresh on a newer one"
                )
            ]
        }
        // A word such as `q35` means each QEMU's newest.
        let word = facts.machineWord.prefix { $0 != "," }
        let meant =
            facts.newMachineType
            ?? known.first { $0.alias.map { $0 == word } ?? false || $0.name == word }?.name
        guard let meant, meant != running else { return [] }
        return [
            PreflightFinding(
                .machine, .blocks,
                problem: "the guest runs on machine \(running), and `\(word)` is \(meant) in the "
                    + "new QEMU",
                advice: "write `machine: \(running)` in the host file and restart the agent")
        ]
    }

    private static func processor(_ facts: PreflightFacts) -> [PreflightFinding] {
        var lost: [String] = []
        var gained: [String] = []
        for word in facts.featureWords {
            guard let new = facts.newFeatureWords.first(where: { $0.name == word.name }) else {
                continue
            }
            lost += names(word.name, word.bits & ~new.bits)
            gained += names(word.name, new.bits & ~word.bits)
        }
        let advice = "name a CPU model in the host file that both QEMUs and this host have"
        if !lost.isEmpty {
            return [
                PreflightFinding(
                    .processor, .blocks,
                    problem: "the new QEMU's CPU lacks what the guest uses: "
                        + lost.joined(separator: ", "), advice: advice)
            ]
        }
        guard !gained.isEmpty else { return [] }
        return [
            PreflightFinding(
                .processor, .warns,
                problem: "the new QEMU's CPU has more than the guest knows: "
                    + gained.joined(separator: ", "), advice: advice)
        ]
    }

    private static func names(_ word: String, _ bits: UInt32) -> [String] {
        (0..<32).filter { bits >> $0 & 1 == 1 }.map { "\(word) bit \($0)" }
    }
}
