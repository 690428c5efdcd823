// The reader of host files.
//
// Input: 1 steering byte, then text (what is no UTF-8 is replaced).
//   0  bits 0-1 what stands before the text: 0 nothing; 1 host and hypervisor; 2 these and the
//      beginning of a guest in braces; 3 these and the beginning of a guest on lines of its own.
//      Bits 2-4 all set: the places of the problems are looked up too. Bits 5-6 all set: what was
//      read is written as text and read again; bit 7 too: the text is read a second time. Each
//      costs as much again, hence seldom.
import Fleet
import FuzzSupport
import HostConfiguration

private let head = "host: a\nhypervisor: {path: /q, version: v}\n"
private let prefixes = [
    "", head, head + "guests: [{id: g, memory: 1MiB, ",
    head + "guests:\n- id: g\n  memory: 1MiB\n  ",
].map { Array($0.utf8) }

@main enum FuzzHostFile {
    static func main() { fuzz(runOne) }
}

private func runOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = Input(start, count)
    let steering = input.header(0)
    let text = String(
        decoding: prefixes[Int(steering & 3)] + Array(input.body(after: 1)), as: UTF8.self)
    let result = HostFile.parse(text, fileName: "h")
    switch result {
    case .success(let file):
        checkFile(file)
        guard steering & 0x60 == 0x60 else { break }
        let written = yaml(file)
        switch HostFile.parse(written, fileName: "h") {
        case .success(let again):
            check(again == file, "written again it is another file: \(written)")
        case .failure(let failure):
            // The one refusal that looks at characters alone: a value may look like anchor and key.
            let isOfLooks = failure.problems.allSatisfy { $0.message.contains("with anchors") }
            check(isOfLooks, "written again it is refused: \(written)")
        }
    case .failure(let problems):
        check(problems, text, steering & 0x1C == 0x1C ? HostFilePlaces(text) : nil)
    }
    if steering & 0xE0 == 0xE0 {
        check(HostFile.parse(text, fileName: "h") == result, "read twice, with two results")
    }
    return 0
}

/// One problem at least, each within the file, in order, and of one line.
private func check(_ failure: HostFileProblems, _ text: String, _ places: HostFilePlaces?) {
    check(!failure.problems.isEmpty, "neither a file nor a problem")
    check(failure.problems.count <= 300, "\(failure.problems.count) problems")
    // Any line break that an editor counts, and one more for the end.
    let lineCount = text.utf8.count { $0 == 0x0A || $0 == 0x0D } + 1
    var previous = (line: 1, column: 1)
    for problem in failure.problems {
        let place = (line: problem.line, column: problem.column)
        check(previous <= place, "\(place) after \(previous)")
        check((1...lineCount + 1).contains(place.line), "line \(place.line) of \(lineCount)")
        check(!problem.message.isEmpty && !problem.advice.isEmpty, "an empty message or advice")
        for text in [problem.message, problem.advice] {
            check(!text.utf8.contains { $0 < 0x20 }, "a control character in \(problem)")
        }
        previous = place
        if let place = places?.place(of: problem.path) {
            check((1...lineCount + 1).contains(place.line), "place in line \(place.line)")
        }
    }
}

/// What every file that is taken keeps to, for those who use it without looking again.
private func checkFile(_ file: HostFile) {
    var paths = [
        file.runDirectory, file.stateDirectory, file.memoryDirectory, file.hypervisor.path,
    ]
    paths += file.hypervisor.dataDirectories
    if let directory = file.hypervisor.moduleDirectory { paths.append(directory) }
    check(["kvm", "tcg", "kvm:tcg", "tcg:kvm"].contains(file.accelerator), file.accelerator)
    var ids: Set<GuestID> = []
    var macs: Set<[UInt8]> = []
    for guest in file.guests {
        check(ids.insert(guest.id).inserted, "guest \(guest.id) is there twice")
        // What an adopted guest has is not in the file.
        check((guest.memoryBytes == 0) == (guest.adopt != nil), "memory")
        check(guest.memoryBytes.isMultiple(of: 1 << 20), "memory")
        if let monitor = guest.adopt { paths.append(monitor) }
        check((1...255).contains(guest.vcpuCount), "vcpus")
        check(guest.updateDomain == nil || guest.set != nil, "an update domain without a set")
        check(guest.kernel != nil || (guest.initrd == nil && guest.commandLine == nil), "no kernel")
        paths += [guest.kernel, guest.initrd, guest.firmware].compactMap(\.self)
        paths += guest.disks.map(\.path)
        check(guest.probes.count <= Probe.countMax, "\(guest.probes.count) probes")
        var words: [String] = []
        for case .command(let path, let arguments) in guest.probes.map(\.target) {
            paths.append(path)
            words += arguments
        }
        words += guest.arguments + [guest.machine, guest.cpu, guest.commandLine ?? ""]
        // A process gets them as C strings.
        check(words.allSatisfy { !$0.utf8.contains(0) }, "a NUL in an argument: \(words)")
        for nic in guest.nics {
            check(nic.mac.bytes.count == 6 && nic.mac.bytes[0] & 1 == 0, "address \(nic.mac)")
            check(macs.insert(nic.mac.bytes).inserted, "address \(nic.mac) is there twice")
        }
    }
    for path in paths {
        let isPlain = path.utf8.allSatisfy { $0 >= 0x20 && $0 != UInt8(ascii: ",") }
        check(path.utf8.first == UInt8(ascii: "/") && isPlain, "path \(path)")
    }
}

// MARK: - A file as text

private func yaml(_ file: HostFile) -> String {
    var text = "{host: \(file.host), runDirectory: \(quoted(file.runDirectory)), "
    text += "stateDirectory: \(quoted(file.stateDirectory)), "
    text += "memoryDirectory: \(quoted(file.memoryDirectory)), accelerator: \(file.accelerator), "
    text += "hypervisor: {path: \(quoted(file.hypervisor.path)), "
    text += "version: \(quoted(file.hypervisor.version)), "
    if let directory = file.hypervisor.moduleDirectory {
        text += "moduleDirectory: \(quoted(directory)), "
    }
    text += "dataDirectories: \(list(file.hypervisor.dataDirectories.map(quoted)))}, "
    let sets = file.sets.map { "\"\($0.id)\": {updateDomains: \($0.updateDomainCount)}" }
    text += "availabilitySets: {\(sets.joined(separator: ", "))}, "
    return text + "guests: \(list(file.guests.map(entry)))}"
}

private func entry(_ guest: GuestConfiguration) -> String {
    var text = "{id: \"\(guest.id)\", guestAgent: \(guest.guestAgent), "
    if let set = guest.set { text += "set: \"\(set)\", " }
    if let domain = guest.updateDomain { text += "updateDomain: \(domain.number), " }
    if !guest.probes.isEmpty { text += "probes: \(list(guest.probes.map(yaml))), " }
    if let monitor = guest.adopt { return text + "adopt: \(quoted(monitor))}" }
    text += "memory: \(guest.memoryBytes), vcpus: \(guest.vcpuCount), "
    text += "machine: \(quoted(guest.machine)), cpu: \(quoted(guest.cpu)), "
    if let kernel = guest.kernel { text += "kernel: \(quoted(kernel)), " }
    if let initrd = guest.initrd { text += "initrd: \(quoted(initrd)), " }
    if let line = guest.commandLine { text += "commandLine: \(quoted(line)), " }
    if let firmware = guest.firmware { text += "firmware: \(quoted(firmware)), " }
    let disks = guest.disks.map {
        "{path: \(quoted($0.path)), format: \($0.format), readOnly: \($0.readOnly)}"
    }
    let nics = guest.nics.map { nic in
        switch nic {
        case .tap(let name, let bridge, let mac):
            "{tap: \(quoted(name)), mac: \"\(mac)\""
                + (bridge.map { ", bridge: \(quoted($0))" } ?? "") + "}"
        case .user(let forwards, let mac):
            "{user: {forwards: \(list(forwards.map { "\"\($0)\"" }))}, mac: \"\(mac)\"}"
        }
    }
    text += "disks: \(list(disks)), nics: \(list(nics)), "
    return text + "arguments: \(list(guest.arguments.map(quoted)))}"
}

private func yaml(_ probe: Probe) -> String {
    func milliseconds(_ duration: Duration) -> String {
        "\(Int(duration / .milliseconds(1)))ms"
    }
    // A name that was not given is made of the target, and may be longer than one that is.
    let name = probe.name.utf8.count <= 64 ? "name: \(quoted(probe.name)), " : ""
    var text = "{\(name)timeout: \(milliseconds(probe.timeout))"
    text += ", interval: \(milliseconds(probe.interval))"
    if let attempts = probe.attempts { text += ", attempts: \(attempts)" }
    switch probe.target {
    case .tcp(let address): text += ", tcp: \(quoted(address))"
    case .http(let url, let status):
        text += ", http: \(quoted(url)), status: \(status.lowerBound)-\(status.upperBound)"
    case .command(let path, let arguments):
        text += ", command: \(quoted(path)), arguments: \(list(arguments.map(quoted)))"
    }
    return text + "}"
}

private func list(_ entries: [String]) -> String { "[\(entries.joined(separator: ", "))]" }

/// A text in double quotes, with an escape for all but printable ASCII.
private func quoted(_ text: String) -> String {
    var quoted = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"", "\\": quoted += "\\\(scalar)"
        case " "..."~": quoted.unicodeScalars.append(scalar)
        default:
            let digits = String(scalar.value, radix: 16)
            quoted += "\\U" + String(repeating: "0", count: 8 - digits.utf8.count) + digits
        }
    }
    return quoted + "\""
}
