// The command line of a QEMU that somebody else has started, and what a second one is given so that
// it can take the guest over while the first still runs.
//
//  option                           in the second process
//  -------------------------------  -----------------------------------------------------------------
//  -machine, -M                     the running machine's own name, since `q35` is another in each QEMU
//  -chardev socket, -qmp, -serial,  a socket file: under another name until the guest has moved, then
//  … with a server's `path`         renamed; an inherited socket (`fd=`): inherited too
//  -chardev file, -serial file:     appended to
//  -netdev tap, -netdev bridge      a queue of the same tap, as a descriptor
//  -netdev user                     without its port forwards, which follow when the guest runs
//  -daemonize, -pidfile, -D, -S,    left out; the pid file is written when the guest moves
//  -incoming
//  what listens on a port, connects somewhere, or keeps what only the first process has: a problem
//  everything else that is known    as it is
//
// Unknown options are a problem: whether the next word belongs to one cannot be told.

/// What a QEMU was started with, and what is needed to start it a second time; pure.
public struct AdoptedCommandLine: Hashable, Sendable {
    /// A socket file that changes its name when the guest has moved.
    public struct SocketFile: Hashable, Sendable {
        public var temporary: String
        public var path: String
    }

    /// A port of the host that leads to the guest, as QEMU's `hostfwd_add` takes it.
    public struct Forward: Hashable, Sendable {
        public var network: String
        /// Such as `tcp:127.0.0.1:7000-:7000`.
        public var rule: String

        public init(network: String, rule: String) {
            self.network = network
            self.rule = rule
        }
    }

    /// What the second process inherits in the place of a descriptor of the first.
    public enum Inherited: Hashable, Sendable {
        /// A queue of a tap: the number in the first process if its command line has it.
        case tap(number: Int32?)
        /// The first process's descriptor itself.
        case copy(number: Int32)
    }

    /// Without the program's own name; descriptors count from ``firstDescriptor``.
    public private(set) var arguments: [String] = []
    /// In the order of their numbers.
    public private(set) var inherited: [Inherited] = []
    public private(set) var sockets: [SocketFile] = []
    public private(set) var forwards: [Forward] = []
    public private(set) var pidFile: String?
    /// Where the guest's agent answers; nil if it has no channel that we can use.
    public private(set) var guestAgentPath: String?
    /// Why there cannot be a second process; empty if there can.
    public var problems: [String] {
        refused + (unknownOption.map { ["\($0) is an option that Fermata does not know"] } ?? [])
    }
    private var refused: [String] = []
    /// What is behind it was not looked at: it may or may not be its value.
    private var unknownOption: String?

    /// The number of the first inherited descriptor in the second process.
    public static let firstDescriptor: Int32 = 3

    private let suffix: String
    private let machineType: String?
    private var hasMachine = false
    private var serialCount = 0

    /// - Parameters:
    ///   - original: as the first process was started, without the program's own name.
    ///   - suffix: of the socket files until the guest has moved, such as `.fermata-2`.
    ///   - machineType: the running machine, such as `pc-q35-7.2`; nil leaves the word as it is.
    public init(_ original: [String], suffix: String, machineType: String?) {
        self.suffix = suffix
        self.machineType = machineType
        var words = original[...]
        while let word = words.popFirst() {
            guard word.hasPrefix("-"), word.utf8.count > 1 else {
                arguments.append(word)
                continue
            }
            let name = String(word.drop { $0 == "-" })
            if QEMUOptions.flags.contains(name) {
                takeFlag(name, word)
            } else if QEMUOptions.withValue.contains(name) {
                guard let value = words.popFirst() else {
                    refused.append("\(word) has no value")
                    break
                }
                take(name, word, value)
            } else {
                unknownOption = word
                break
            }
        }
        if !hasMachine, let machineType { arguments += ["-machine", machineType] }
        guestAgentPath = Self.guestAgent(original)
    }

    /// Why a guest of ours cannot have a second process beside the first with these further arguments of
    /// its host file. Nothing is changed in them, so what only one process can have is refused here:
    /// a port, or the name of a socket, which the second one would take from the first.
    public static func problems(ofOwn arguments: [String]) -> [String] {
        let line = AdoptedCommandLine(arguments, suffix: "", machineType: nil)
        // Options of a QEMU that is newer than our list are its own matter.
        return line.refused
            + line.sockets.map { "the socket \($0.path) cannot be listened on by two processes" }
            + line.forwards.map { "hostfwd=\($0.rule) listens on a port" }
    }

    private mutating func refuse(_ word: String, _ value: String, _ why: String) {
        refused.append("\(word) \(value) \(why)")
    }

    private mutating func takeFlag(_ name: String, _ word: String) {
        switch name {
        case "S", "daemonize": break
        case "snapshot": refused.append("\(word) keeps what the guest writes in that process")
        case "s": refused.append("\(word) listens on a port")
        default: arguments.append(word)
        }
    }

    private mutating func take(_ name: String, _ word: String, _ value: String) {
        switch name {
        case "incoming", "D": return
        case "pidfile": pidFile = value
        case "machine", "M": takeMachine(word, value)
        case "chardev": takeChardev(word, value)
        case "qmp", "qmp-pretty", "monitor", "serial", "parallel", "debugcon":
            takeLegacy(word, value)
        case "netdev": takeNetwork(word, value)
        case "nic", "net":
            let options = QEMUValue(value)
            let isPlain = ["none", "nic"].contains(options.first)
            if isPlain || (options.first == "user" && options["hostfwd"] == nil) {
                arguments += [word, value]
            } else {
                refuse(word, value, "cannot be split in two: write it as -netdev and -device")
            }
        case "drive":
            if QEMUValue(value)["snapshot"].map(QEMUValue.isOn) ?? false {
                refuse(word, value, "keeps what the guest writes in that process")
            } else {
                arguments += [word, value]
            }
        case "vnc": takeDisplay(word, value)
        case "display":
            if ["none", "egl-headless", "dbus"].contains(QEMUValue(value).first) {
                arguments += [word, value]
            } else {
                refuse(word, value, "cannot be shown by two processes")
            }
        case "spice", "gdb", "qtest", "tpmdev", "add-fd", "fsdev", "virtfs", "loadvm",
            "readconfig", "chroot", "runas", "mem-path":
            refuse(word, value, "cannot be given to a second process")
        default: arguments += [word, value]
        }
    }

    private mutating func takeMachine(_ word: String, _ value: String) {
        hasMachine = true
        guard let machineType else { return arguments += [word, value] }
        var options = QEMUValue(value)
        if options["type"] != nil {
            options["type"] = machineType
        } else if options.first != nil {
            options.first = machineType
        } else {
            options["type"] = machineType
        }
        arguments += [word, options.text]
    }

    private mutating func takeDisplay(_ word: String, _ value: String) {
        var options = QEMUValue(value)
        guard let first = options.first, first != "none" else { return arguments += [word, value] }
        guard first.hasPrefix("unix:") else { return refuse(word, value, "listens on a port") }
        options.first = "unix:" + temporary(String(first.dropFirst("unix:".count)))
        arguments += [word, options.text]
    }

    // MARK: Character devices

    private mutating func takeChardev(_ word: String, _ value: String) {
        var options = QEMUValue(value)
        switch options.first {
        case "null", "ringbuf", "memory", "stdio", "pty", "vc", "msmouse", "wctablet", "testdev":
            arguments += [word, value]
        case "file":
            options["append"] = "on"
            arguments += [word, options.text]
        case "socket":
            guard options["server"].map(QEMUValue.isOn) ?? false else {
                return refuse(word, value, "connects a second time")
            }
            if let path = options["path"] {
                options["path"] = temporary(path)
            } else if let number = options["fd"].flatMap({ Int32($0) }) {
                options["fd"] = "\(inherit(.copy(number: number)))"
            } else {
                return refuse(word, value, "listens on a port")
            }
            // Nobody is there to connect while it waits for its guest.
            options["wait"] = "off"
            options.remove("nowait")
            arguments += [word, options.text]
        default: refuse(word, value, "cannot be opened twice")
        }
    }

    /// `-serial unix:PATH,server=on` and its like.
    private mutating func takeLegacy(_ word: String, _ value: String) {
        let device = value.hasPrefix("mon:") ? String(value.dropFirst("mon:".count)) : value
        let isPlain = ["none", "null", "stdio", "pty"].contains(device)
        if isPlain || ["chardev:", "vc", "ringbuf", "msmouse"].contains(where: device.hasPrefix) {
            return arguments += [word, value]
        }
        if device.hasPrefix("file:"), device == value {
            serialCount += 1
            let id = "fermata-\(word.drop { $0 == "-" })-\(serialCount)"
            let path = QEMUValue.escape(String(device.dropFirst("file:".count)))
            arguments += ["-chardev", "file,id=\(id),path=\(path),append=on"]
            return arguments += [word, "chardev:\(id)"]
        }
        guard device.hasPrefix("unix:") else {
            return refuse(word, value, "cannot be opened twice")
        }
        var options = QEMUValue(String(device.dropFirst("unix:".count)))
        guard options["server"].map(QEMUValue.isOn) ?? false, let path = options.first else {
            return refuse(word, value, "connects a second time")
        }
        options.first = temporary(path)
        options["wait"] = "off"
        options.remove("nowait")
        let prefix = device == value ? "" : "mon:"
        arguments += [word, "\(prefix)unix:\(options.text)"]
    }

    private mutating func temporary(_ path: String) -> String {
        let temporary = path + suffix
        if !path.hasPrefix("/") { refused.append("socket \(path) is no absolute path") }
        // The kernel's limit for a socket's path.
        if temporary.utf8.count > 107 {
            refused.append("\(path) is too long for a second socket beside it")
        }
        sockets.append(SocketFile(temporary: temporary, path: path))
        return temporary
    }

    private mutating func inherit(_ what: Inherited) -> Int32 {
        inherited.append(what)
        return Self.firstDescriptor + Int32(inherited.count) - 1
    }

    /// The socket behind the port `org.qemu.guest_agent.0`.
    private static func guestAgent(_ words: [String]) -> String? {
        var chardevs: [String: String] = [:]
        var port: String?
        for (word, value) in zip(words, words.dropFirst()) {
            let options = QEMUValue(value)
            switch word.drop(while: { $0 == "-" }) {
            case "chardev":
                if options.first == "socket", let id = options["id"], let path = options["path"] {
                    chardevs[id] = path
                }
            case "device":
                if options["name"] == "org.qemu.guest_agent.0" { port = options["chardev"] }
            default: break
            }
        }
        return port.flatMap { chardevs[$0] }
    }

    // MARK: Networks

    private mutating func takeNetwork(_ word: String, _ value: String) {
        guard !value.hasPrefix("{") else {
            return refuse(word, value, "is JSON: write it as words")
        }
        var options = QEMUValue(value)
        switch options.first {
        case "user":
            let network = options["id"] ?? ""
            for rule in options.values(of: "hostfwd") {
                forwards.append(Forward(network: network, rule: rule))
            }
            options.remove("hostfwd")
            arguments += [word, options.text]
        case "tap", "bridge":
            for key in ["fds", "vhost", "vhostfd", "vhostfds", "queues"] {
                guard let set = options[key], set != "off", set != "1" else { continue }
                return refuse(word, value, "has \(key), which a second process cannot share")
            }
            let number = options["fd"].flatMap { Int32($0) }
            if options["fd"] != nil, number == nil {
                return refuse(word, value, "has a descriptor that was given by name")
            }
            let id = options["id"].map { "id=\(QEMUValue.escape($0))," } ?? ""
            arguments += [word, "tap,\(id)fd=\(inherit(.tap(number: number)))"]
        case "hubport": arguments += [word, value]
        default: refuse(word, value, "cannot be opened twice")
        }
    }
}

/// A value of an option as QEMU writes it: `first,key=value,key,…`, with each comma that belongs to
/// a value written twice.
public struct QEMUValue {
    private var parts: [(key: String, value: String?)] = []

    init(_ text: String) {
        var parts: [String] = []
        var part = ""
        var characters = Array(text)[...]
        while let character = characters.popFirst() {
            if character == ",", characters.first == "," {
                part.append(",")
                characters.removeFirst()
            } else if character == "," {
                parts.append(part)
                part = ""
            } else {
                part.append(character)
            }
        }
        parts.append(part)
        self.parts = parts.map { part in
            guard let equals = part.firstIndex(of: "=") else { return (part, nil) }
            return (String(part[..<equals]), String(part[part.index(after: equals)...]))
        }
    }

    /// A value as it has to be written between commas.
    public static func escape(_ value: String) -> String {
        value.split(separator: "," as Character, omittingEmptySubsequences: false)
            .joined(separator: ",,")
    }

    static func isOn(_ value: String) -> Bool { ["on", "yes", "true", "y"].contains(value) }

    /// What stands first without a key.
    var first: String? {
        get { parts.first.flatMap { $0.value == nil ? $0.key : nil } }
        set { if let newValue { parts[0] = (newValue, nil) } }
    }

    /// A key alone is `on`, with `no` before it (`nowait`) a key of its own.
    subscript(key: String) -> String? {
        get { parts.last { $0.key == key }.map { $0.value ?? "on" } }
        set {
            guard let newValue else { return }
            remove(key)
            parts.append((key, newValue))
        }
    }

    func values(of key: String) -> [String] {
        parts.filter { $0.key == key }.compactMap(\.value)
    }

    mutating func remove(_ key: String) { parts.removeAll { $0.key == key } }

    var text: String {
        parts.map { part in
            part.value.map { "\(part.key)=\(Self.escape($0))" } ?? Self.escape(part.key)
        }.joined(separator: ",")
    }
}

/// QEMU's options by whether a word follows.
///
/// - Source: QEMU 7.2, `qemu-options.hx`; those of later versions that have been looked up too.
enum QEMUOptions {
    static let flags: Set<String> = [
        "S", "daemonize", "snapshot", "s", "nographic", "nodefaults", "no-user-config",
        "enable-kvm", "no-reboot", "no-shutdown", "no-hpet", "no-acpi", "usb", "full-screen",
        "only-migratable", "mem-prealloc", "no-fd-bootchk", "win2k-hack", "singlestep",
        "semihosting", "old-param", "no-nodefaults", "enable-sync-profile", "xen-attach",
    ]
    static let withValue: Set<String> = [
        "machine", "M", "cpu", "accel", "smp", "numa", "m", "mem-path", "name", "uuid", "object",
        "device", "drive", "blockdev", "netdev", "nic", "net", "chardev", "mon", "monitor", "qmp",
        "qmp-pretty", "serial", "parallel", "debugcon", "boot", "kernel", "initrd", "append",
        "dtb", "bios", "pflash", "rtc", "global", "set", "L", "k", "vga", "display", "vnc",
        "spice", "smbios", "acpitable", "fw_cfg", "watchdog", "watchdog-action", "action",
        "sandbox", "msg", "trace", "d", "D", "dfilter", "seed", "pidfile", "incoming", "usbdevice",
        "audiodev", "audio", "tpmdev", "icount", "overcommit", "readconfig", "hda", "hdb", "hdc",
        "hdd", "cdrom", "fda", "fdb", "mtdblock", "sd", "option-rom", "chroot", "runas", "add-fd",
        "gdb", "qtest", "qtest-log", "fsdev", "virtfs", "loadvm", "compat", "plugin",
        "semihosting-config", "tb-size", "g", "run-with", "shim", "xen-domid",
    ]
}
