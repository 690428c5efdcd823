import ArgumentParser
import Fleet
import HostConfiguration
import Presentation
import UvLoop
import Wire

struct ReleaseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "release", abstract: "Adds and lists what can be installed.",
        subcommands: [Add.self, List.self])

    struct List: StaleQueryCommand {
        static let configuration = CommandConfiguration(
            commandName: "list", abstract: "Lists the releases.",
            discussion: "  fermata release list")
        @OptionGroup var client: ClientOptions
        @OptionGroup var staleOption: StaleOption
        var query: OperatorQuery { .releases }

        func show(_ result: OperatorQueryResult) throws(CommandFailure) {
            guard case .releases(let releases) = result else { throw mismatch() }
            client.output.show(text: text(of: releases), json: .array(releases.map(\.json)))
        }
    }
}

extension ReleaseCommand {
    struct Add: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "add",
            abstract: "Makes a release known: a QEMU, other host software, or the agent's program.",
            discussion: """
                All files of a release must be at the same paths on every host already. Their \
                SHA-256 is checked there before any guest is held; what you do not give is computed \
                from the files on this host.

                A QEMU:
                  fermata release add qemu-7.2.22 --version 7.2.22 \\
                      --path /opt/qemu-7.2.22/bin/qemu-system-x86_64
                  fermata release add qemu-7.2.22 --version 7.2.22 --path /opt/q/bin/qemu \\
                      --sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \\
                      --module-directory /opt/q/lib/qemu --data-directory /opt/q/share/qemu
                Other host software, by commands (the README shows a release file):
                  fermata release add ovs-3.2 --component network --file ovs-3.2.yaml
                The agent's own program:
                  fermata release add fermata-0.2.0 --component agent --version 0.2.0 \\
                      --path /opt/fermata-0.2.0/fermata
                """)
        @OptionGroup var client: ClientOptions
        @Argument(help: "What to call the release.", transform: parseName)
        var id: ReleaseID
        @Option(help: "What is replaced: hypervisor, network, agent, or another name.")
        var component: String = "hypervisor"
        @Option(help: ArgumentHelp("Release file with the commands.", valueName: "yaml"))
        var file: String?
        @Option(help: "Its version, as people say it.")
        var version: String?
        @Option(
            help: ArgumentHelp(
                "Absolute path of the QEMU binary, or of the agent's program.", valueName: "file"))
        var path: String?
        @Option(help: ArgumentHelp("SHA-256 of the file at --path, 64 digits.", valueName: "hex"))
        var sha256: String?
        @Option(help: ArgumentHelp("Where its loadable modules are.", valueName: "directory"))
        var moduleDirectory: String?
        @Option(
            name: .customLong("data-directory"),
            help: ArgumentHelp("Where it finds firmware; repeatable.", valueName: "directory"))
        var dataDirectories: [String] = []

        func validate() throws {
            guard let component = Component(component) else {
                throw ValidationError("'\(component)' is not the name of a component.")
            }
            if file != nil {
                try validateFileForm(component)
            } else {
                try validatePathForm(component)
            }
        }

        private func validateFileForm(_ component: Component) throws {
            guard component != .hypervisor else {
                throw ValidationError(
                    "A hypervisor has no release file: give --path and --version, or --component "
                        + "of what the file replaces.")
            }
            let isAlone =
                version == nil && path == nil && sha256 == nil && moduleDirectory == nil
                && dataDirectories.isEmpty
            guard isAlone else {
                throw ValidationError("With --file, the release file says all the rest.")
            }
        }

        private func validatePathForm(_ component: Component) throws {
            guard component == .hypervisor || component == .agent else {
                throw ValidationError(
                    "A release of component \(component) is made of commands: write them down and "
                        + "give the file with --file.")
            }
            guard let path else {
                throw ValidationError("Missing expected argument '--path <file>'")
            }
            guard let version else {
                throw ValidationError("Missing expected argument '--version <version>'")
            }
            if component == .agent, moduleDirectory != nil || !dataDirectories.isEmpty {
                throw ValidationError(
                    "--module-directory and --data-directory are for component hypervisor only.")
            }
            for file in [path] + dataDirectories + [moduleDirectory].compactMap(\.self)
            where !file.hasPrefix("/") {
                throw ValidationError(
                    "'\(file)' is not an absolute path: it has to mean the same on every host.")
            }
            guard !version.isEmpty else { throw ValidationError("--version is empty.") }
            if let sha256, parseHex(sha256)?.count != 32 {
                throw ValidationError("--sha256 takes 64 hexadecimal digits.")
            }
        }

        func run() throws {
            guard let component = Component(component) else { return }
            let release = Fleet.Release(id: id, component: component, work: try work(component))
            // As the leader will say, but without asking it.
            if let refusal = release.refusal {
                throw CommandFailure(.badInput, refusal.message, advice: refusal.advice)
            }
            let connection = try ClientConnection.open(client)
            let accepted = try connection.command(.addRelease(release))
            connection.close()
            client.output.show(
                text: "release \(id) added (\(component) \(printable(release.version)), "
                    + "SHA-256 \(hexText(release.mainFile.sha256)))\n",
                json: accepted.json)
        }

        private func work(_ component: Component) throws(CommandFailure) -> Work {
            if let file { return .host(try hostWork(file)) }
            guard let path, let version else { preconditionFailure("not validated") }
            let given = sha256.flatMap(parseHex)
            let digest = if let given { given } else { try Self.digest(path) }
            if component == .agent {
                return .agent(version: version, program: ReleaseFile(path: path, sha256: digest))
            }
            return .hypervisor(
                Hypervisor(
                    version: version, path: path, moduleDirectory: moduleDirectory,
                    dataDirectories: dataDirectories), sha256: digest)
        }

        private func hostWork(_ file: String) throws(CommandFailure) -> HostWork {
            let bytes: [UInt8]
            do {
                bytes = try Files.read(path: file, byteCountMax: 4 << 20)
            } catch {
                throw CommandFailure(
                    .badInput, "cannot read the release file \(file): \(error)",
                    advice: "Give the path of a release file with --file.")
            }
            guard let text = String(validating: bytes, as: UTF8.self) else {
                throw CommandFailure(
                    .badInput, "the release file \(file) is not UTF-8",
                    advice: "Save it as UTF-8.")
            }
            switch ReleaseDraft.parse(text, fileName: file) {
            case .success(let draft): return try draft.work(digest: Self.digest)
            case .failure(let problems):
                let count = problems.problems.count
                throw CommandFailure(
                    .badInput,
                    "the release file has \(count == 1 ? "a problem" : "\(count) problems")\n"
                        + problems.description)
            }
        }

        private static func digest(_ path: String) throws(CommandFailure) -> [UInt8] {
            do {
                return try SHA256Digest.ofFile(path)
            } catch {
                throw CommandFailure(
                    .badInput, "cannot read \(path) to compute its SHA-256: \(error)",
                    advice: "Give the digest (sha256sum FILE on a host that has it) with --sha256, "
                        + "or as `sha256` in the release file.")
            }
        }
    }
}
