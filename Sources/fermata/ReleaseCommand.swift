import ArgumentParser
import Fleet
import Presentation
import UvLoop
import Wire

struct ReleaseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "release", abstract: "Adds and lists what can be installed.",
        subcommands: [Add.self, List.self])

    struct List: QueryCommand {
        static let configuration = CommandConfiguration(
            commandName: "list", abstract: "Lists the releases.",
            discussion: "  fermata release list")
        @OptionGroup var client: ClientOptions
        var query: OperatorQuery { .releases }

        func show(_ result: OperatorQueryResult) throws(CommandFailure) {
            guard case .releases(let releases) = result else { throw mismatch() }
            client.output.show(text: text(of: releases), json: .array(releases.map(\.json)))
        }
    }

    struct Add: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "add", abstract: "Makes a release known: a QEMU that is on every host.",
            discussion: """
                The QEMU binary must be at the same path on every host already. Its SHA-256 is \
                checked there before any guest is held; if you do not give it, it is computed from \
                the file at --path on this host.

                  fermata release add qemu-7.2.22 --version 7.2.22 \\
                      --path /opt/qemu-7.2.22/bin/qemu-system-x86_64
                  fermata release add qemu-7.2.22 --version 7.2.22 --path /opt/q/bin/qemu \\
                      --sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \\
                      --module-directory /opt/q/lib/qemu --data-directory /opt/q/share/qemu
                """)
        @OptionGroup var client: ClientOptions
        @Argument(help: "What to call the release.", transform: parseName)
        var id: ReleaseID
        @Option(help: "What is replaced: hypervisor.")
        var component: String = "hypervisor"
        @Option(help: "Its version, as people say it.")
        var version: String
        @Option(help: ArgumentHelp("Absolute path of the QEMU binary.", valueName: "file"))
        var path: String
        @Option(help: ArgumentHelp("SHA-256 of the file, 64 digits.", valueName: "hex"))
        var sha256: String?
        @Option(help: ArgumentHelp("Where its loadable modules are.", valueName: "directory"))
        var moduleDirectory: String?
        @Option(
            name: .customLong("data-directory"),
            help: ArgumentHelp("Where it finds firmware; repeatable.", valueName: "directory"))
        var dataDirectories: [String] = []

        func validate() throws {
            for file in [path] + dataDirectories + [moduleDirectory].compactMap(\.self)
            where !file.hasPrefix("/") {
                throw ValidationError(
                    "'\(file)' is not an absolute path: it has to mean the same on every host.")
            }
            guard !version.isEmpty else { throw ValidationError("--version is empty.") }
            guard Component(component) != nil else {
                throw ValidationError("'\(component)' is not the name of a component.")
            }
            if let sha256, parseHex(sha256)?.count != 32 {
                throw ValidationError("--sha256 takes 64 hexadecimal digits.")
            }
        }

        func run() throws {
            guard let component = Component(component) else { return }
            let release = Fleet.Release(
                id: id, component: component,
                hypervisor: Hypervisor(
                    version: version, path: path, moduleDirectory: moduleDirectory,
                    dataDirectories: dataDirectories),
                sha256: try digest())
            let connection = try ClientConnection.open(client)
            let accepted = try connection.command(.addRelease(release))
            connection.close()
            client.output.show(
                text: "release \(id) added (\(component) \(version), "
                    + "SHA-256 \(hexText(release.mainFile.sha256)))\n",
                json: accepted.json)
        }

        private func digest() throws(CommandFailure) -> [UInt8] {
            if let sha256, let bytes = parseHex(sha256) { return bytes }
            do {
                return try SHA256Digest.ofFile(path)
            } catch {
                throw CommandFailure(
                    .badInput, "cannot read \(path) to compute its SHA-256: \(error)",
                    advice: "Give the digest with --sha256 (sha256sum FILE on a host that has it).")
            }
        }
    }
}
