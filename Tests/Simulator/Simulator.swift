// Nothing but `simulate`: what scripts/check-mutants.py builds with the deliberate bugs in it, in a fraction of the
// time that all of Fermata takes.

import ArgumentParser
import SimulationShell

@main
struct Simulator: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulator", abstract: "The simulator, without the rest of Fermata.",
        subcommands: [SimulateCommand.self])
}
