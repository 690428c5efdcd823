import Fleet

extension HostFile {
    static let kindOfFile = "host file"

    /// Reads a host's file.
    ///
    /// Paths must be absolute. Unknown and repeated keys are problems, as are values that QEMU or
    /// the kernel would refuse later: whatever can be known from the file alone is said here.
    ///
    /// - Parameters:
    ///   - text: the whole file, 4 MiB at most.
    ///   - fileName: for the problems; nothing is opened.
    /// - Returns: the values with every default, or all problems at once, in the order of lines.
    public static func parse(
        _ text: String, fileName: String
    ) -> Result<HostFile, HostFileProblems> {
        let advice = "begin with `host: NAME`, and describe its hypervisor and guests"
        return Reader.read(
            text, kind: Self.kindOfFile, fileName: fileName, emptyAdvice: advice
        ) { $0.hostFile($1) }
    }
}

extension Reader {
    /// Reads a file's one document.
    ///
    /// - Parameters:
    ///   - kind: of the file, for people.
    ///   - emptyAdvice: what to do about an empty file.
    ///   - parse: makes a value of the document, or adds problems.
    static func read<Output>(
        _ text: String, kind: String, fileName: String, emptyAdvice: String,
        _ parse: (Reader, Value) -> Output?
    ) -> Result<Output, HostFileProblems> {
        let document: Document
        do throws(DocumentProblem) {
            document = try Document(text, kind: kind)
        } catch {
            let problems = (error.others + [error]).sorted { $0.position < $1.position }
            return .failure(
                HostFileProblems(
                    problems.map {
                        Problem(
                            file: fileName, line: $0.position.line, column: $0.position.column,
                            path: "", message: $0.message, advice: $0.advice)
                    }))
        }
        let value = document.root.map {
            Value(node: $0, position: document.position($0), path: "")
        }
        guard let value, !value.isNull else {
            return .failure(
                HostFileProblems([
                    Problem(
                        file: fileName, line: 1, column: 1, path: "", message: "the file is empty",
                        advice: emptyAdvice)
                ]))
        }
        let reader = Reader(document, fileName: fileName)
        let output = parse(reader, value)
        guard let output, !reader.hasProblems else {
            return .failure(HostFileProblems(reader.sortedProblems))
        }
        return .success(output)
    }
}

extension Reader {
    fileprivate func hostFile(_ value: Value) -> HostFile? {
        let known = [
            "host", "runDirectory", "stateDirectory", "memoryDirectory", "accelerator",
            "hypervisor", "availabilitySets", "guests",
        ]
        guard
            let fields = fields(
                value, known: known, required: ["host", "hypervisor"], example: "host: a",
                examples: ["hypervisor": "hypervisor: \(Self.hypervisorExample)"])
        else { return nil }
        let host: HostID? = fields["host"].flatMap { name($0, example: "a") }
        let runDirectory =
            fields["runDirectory"].map { path($0) }
            ?? host.map { HostFile.runDirectoryDefault($0) }
        let stateDirectory =
            fields["stateDirectory"].map { path($0) }
            ?? host.map { HostFile.stateDirectoryDefault($0) }
        let memoryDirectory =
            fields["memoryDirectory"].map { path($0) }
            ?? host.map { HostFile.memoryDirectoryDefault($0) }
        let accelerator =
            fields["accelerator"].map { self.accelerator($0) }
            ?? HostFile.acceleratorDefault
        let hypervisor = fields["hypervisor"].flatMap { self.hypervisor($0) }
        let sets = fields.nonEmpty("availabilitySets").map { self.sets($0) } ?? []
        let guests =
            fields.nonEmpty("guests").map {
                self.guests($0, sets: sets ?? [], runDirectory: runDirectory)
            } ?? []
        guard let host, let runDirectory, let stateDirectory, let memoryDirectory,
            let accelerator, let hypervisor, let sets, let guests
        else { return nil }
        return HostFile(
            host: host, runDirectory: runDirectory, stateDirectory: stateDirectory,
            memoryDirectory: memoryDirectory, accelerator: accelerator, hypervisor: hypervisor,
            sets: sets, guests: guests)
    }

    private static let hypervisorExample =
        "{path: /usr/bin/qemu-system-x86_64, version: \"7.2.22\"}"

    private func accelerator(_ value: Value) -> String? {
        guard let text = text(value, example: "kvm:tcg") else { return nil }
        guard ["kvm", "tcg", "kvm:tcg", "tcg:kvm"].contains(text) else {
            add(value, "is \(quoted(text))", "use `kvm`, `tcg`, or `kvm:tcg` for either")
            return nil
        }
        return text
    }

    private func hypervisor(_ value: Value) -> Hypervisor? {
        guard
            let fields = fields(
                value, known: ["path", "version", "moduleDirectory", "dataDirectories"],
                required: ["path", "version"],
                example: Self.hypervisorExample)
        else { return nil }
        let binary = fields["path"].flatMap { path($0) }
        let version = fields["version"].flatMap { self.version($0) }
        let moduleDirectory = fields["moduleDirectory"].flatMap { path($0) }
        let dataDirectories = fields.nonEmpty("dataDirectories").flatMap {
            list($0, example: "[/usr/share/seabios]")?.compactMap { path($0) }
        }
        guard let binary, let version else { return nil }
        return Hypervisor(
            version: version, path: binary, moduleDirectory: moduleDirectory,
            dataDirectories: dataDirectories ?? [])
    }

    func version(_ value: Value) -> String? {
        guard let text = text(value, example: "7.2.22") else { return nil }
        guard isVersion(text) else {
            add(value, "is \(quoted(text))", "use 1 to 63 characters without spaces")
            return nil
        }
        return text
    }

    private func sets(_ value: Value) -> [SetDefinition]? {
        guard
            let fields = fields(value, known: nil, example: "{db: {updateDomains: 3}}")
        else { return nil }
        let count = Int64(Limits.updateDomainsMax)
        return fields.entries.sorted { $0.key < $1.key }.compactMap { name, value in
            guard let id = SetID(name) else {
                add(
                    value.position, value.path,
                    "\(quoted(name)) is no valid name of an availability set", Self.nameAdvice)
                return nil
            }
            guard !value.isNull else {
                return SetDefinition(id: id, updateDomainCount: Limits.updateDomainsDefault)
            }
            let settings = self.fields(
                value, known: ["updateDomains"], example: "{updateDomains: 3}")
            guard let settings else { return nil }
            guard let number = settings["updateDomains"] else {
                return SetDefinition(id: id, updateDomainCount: Limits.updateDomainsDefault)
            }
            // One that cannot be read has as many as can be, so that its guests are not blamed.
            let domainCount = integer(number, in: 1...count) ?? count
            return SetDefinition(id: id, updateDomainCount: Int(domainCount))
        }
    }

    private func guests(
        _ value: Value, sets: [SetDefinition], runDirectory: String??
    ) -> [GuestConfiguration]? {
        let example = "[{id: db-0, memory: 256MiB}]"
        guard let values = list(value, countMax: Limits.hostGuestsMax, example: example) else {
            return nil
        }
        var used = UsedResources()
        return values.compactMap {
            guest($0, sets: sets, runDirectory: runDirectory ?? nil, used: &used)
        }
    }
}
