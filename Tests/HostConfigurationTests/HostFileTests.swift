import Fleet
import Testing

@testable import HostConfiguration

/// The contract's example, nearly.
let fullFile = """
    host: a
    runDirectory: /run/fermata//a/./
    stateDirectory: /var/lib/fermata/a
    memoryDirectory: /dev/shm/fermata-a
    accelerator: tcg
    hypervisor:
      path: /opt/qemu-a/bin/qemu-system-x86_64
      version: "7.2.18"
      moduleDirectory: /opt/qemu-a/lib
      dataDirectories: [/usr/share/seabios, /usr/share/qemu]
    availabilitySets:
      web: {}
      db: {updateDomains: 3}
    guests:
      - id: db-0
        set: db
        updateDomain: 2
        memory: 256MiB
        vcpus: 2
        machine: q35
        cpu: max
        kernel: /boot/vmlinuz
        initrd: /boot/initrd
        commandLine: "console=ttyS0 quiet"
        firmware: /usr/share/bios.bin
        disks:
          - {path: /var/disk.qcow2, format: qcow2}
          - path: /var/cd.raw
            format: raw
            readOnly: true
        nics:
          - tap: fm-db0
            bridge: br0
            mac: "52:54:00:00:00:0A"
          - user: {forwards: ["127.0.0.1:17000-:7000", ":17001-10.0.2.15:22"]}
        arguments: ["-device", "virtio-rng-pci"]
        guestAgent: false
        probe:
          tcp: "10.77.1.10:7000"
          timeout: 300ms
    """

/// The values of a file without problems.
func parsed(_ text: String, _ location: SourceLocation = #_sourceLocation) throws -> HostFile {
    switch HostFile.parse(text, fileName: "h.yaml") {
    case .success(let file): return file
    case .failure(let problems):
        Issue.record("\(problems)", sourceLocation: location)
        throw problems
    }
}

/// The problems of a file, one a line.
func problems(_ text: String) -> [String] {
    switch HostFile.parse(text, fileName: "h") {
    case .success: []
    case .failure(let problems): problems.problems.map(\.description)
    }
}

@Suite("Host file")
struct HostFileTests {
    @Test("gives every value that it names")
    func full() throws {
        let file = try parsed(fullFile)
        let set = SetID(checked: "db")
        let mac = try #require(MACAddress("52:54:00:00:00:0a"))
        let expected = HostFile(
            host: HostID(checked: "a"), runDirectory: "/run/fermata/a",
            stateDirectory: "/var/lib/fermata/a", memoryDirectory: "/dev/shm/fermata-a",
            accelerator: "tcg",
            hypervisor: Hypervisor(
                version: "7.2.18", path: "/opt/qemu-a/bin/qemu-system-x86_64",
                moduleDirectory: "/opt/qemu-a/lib",
                dataDirectories: ["/usr/share/seabios", "/usr/share/qemu"]),
            sets: [
                SetDefinition(id: set, updateDomainCount: 3),
                SetDefinition(id: SetID(checked: "web"), updateDomainCount: 5),
            ],
            guests: [
                GuestConfiguration(
                    id: GuestID(checked: "db-0"), set: set, updateDomain: UpdateDomain(2),
                    memoryBytes: 268_435_456, vcpuCount: 2, machine: "q35", cpu: "max",
                    kernel: "/boot/vmlinuz", initrd: "/boot/initrd",
                    commandLine: "console=ttyS0 quiet", firmware: "/usr/share/bios.bin",
                    disks: [
                        Disk(path: "/var/disk.qcow2", format: .qcow2),
                        Disk(path: "/var/cd.raw", format: .raw, readOnly: true),
                    ],
                    nics: [
                        .tap(name: "fm-db0", bridge: "br0", mac: mac),
                        .user(
                            forwards: [
                                PortForward(
                                    hostAddress: "127.0.0.1", hostPort: 17_000, guestAddress: "",
                                    guestPort: 7_000),
                                PortForward(
                                    hostAddress: "", hostPort: 17_001,
                                    guestAddress: "10.0.2.15", guestPort: 22),
                            ],
                            mac: MACAddress(derivedFrom: GuestID(checked: "db-0"), index: 1)),
                    ],
                    arguments: ["-device", "virtio-rng-pci"], guestAgent: false,
                    probes: [
                        Probe(
                            name: "tcp 10.77.1.10:7000", target: .tcp("10.77.1.10:7000"),
                            timeout: .milliseconds(300))
                    ])
            ])
        #expect(file == expected)
        #expect(file.guests[0].nics[0].mac.description == "52:54:00:00:00:0a")
    }

    @Test("gives the probes of a guest in their order, with their defaults")
    func probes() throws {
        let file = try parsed(
            """
            host: a
            hypervisor: {path: /q, version: "1"}
            guests:
              - id: g
                memory: 1MiB
                probes:
                  - {tcp: "[::1]:22"}
                  - {http: "http://10.0.0.1/health"}
                  - {name: web, http: "https://[::1]:8443/", status: 200-399, timeout: 2s}
                  - {http: "http://h:80?q", status: 204, attempts: 3, interval: 1s}
                  - {command: /usr/lib/check, arguments: [db-0, "--lag=5"]}
            """)
        #expect(
            file.guests[0].probes == [
                Probe(name: "tcp [::1]:22", target: .tcp("[::1]:22")),
                Probe(
                    name: "http http://10.0.0.1/health",
                    target: .http(url: "http://10.0.0.1/health", status: 200...299)),
                Probe(
                    name: "web", target: .http(url: "https://[::1]:8443/", status: 200...399),
                    timeout: .seconds(2)),
                Probe(
                    name: "http http://h:80?q",
                    target: .http(url: "http://h:80?q", status: 204...204), attempts: 3,
                    interval: .seconds(1)),
                Probe(
                    name: "command /usr/lib/check",
                    target: .command(path: "/usr/lib/check", arguments: ["db-0", "--lag=5"])),
            ])
    }

    @Test("a guest whose QEMU somebody else starts has what concerns Fermata, and no more")
    func adopted() throws {
        let file = try HostFile.parse(
            "host: a\nhypervisor: {path: /q, version: v}\n"
                + "guests: [{id: g, set: db, updateDomain: 1, adopt: /run/g/qmp, guestAgent: false, "
                + "probe: {tcp: \"10.0.0.1:80\"}}]\n", fileName: "h"
        ).get()
        let guest = try #require(file.guests.first)
        #expect(guest.adopt == "/run/g/qmp")
        #expect(guest.memoryBytes == 0)
        #expect(!guest.guestAgent)
        #expect(guest.probes.count == 1)
        #expect(guest.updateDomain == UpdateDomain(1))
    }

    @Test("has a default for everything that it does not name")
    func defaults() throws {
        let file = try parsed(
            """
            host: host-7
            hypervisor: {path: /usr/bin/qemu, version: 7.10}
            availabilitySets:
            guests: [{id: g, memory: 134217728}]
            """)
        #expect(file.runDirectory == "/run/fermata/host-7")
        #expect(file.stateDirectory == "/var/lib/fermata/host-7")
        #expect(file.memoryDirectory == "/dev/shm/fermata-host-7")
        #expect(file.accelerator == "kvm:tcg")
        #expect(file.hypervisor == Hypervisor(version: "7.10", path: "/usr/bin/qemu"))
        #expect(file.sets.isEmpty)
        #expect(
            file.guests == [
                GuestConfiguration(id: GuestID(checked: "g"), memoryBytes: 134_217_728)
            ])
        let guest = file.guests[0]
        #expect(guest.vcpuCount == 1 && guest.machine == "q35" && guest.cpu == "max")
        #expect(guest.guestAgent && guest.probes.isEmpty && guest.nics.isEmpty)
    }

    @Test("may be written with carriage returns, a byte order mark, comments and anchors")
    func spellings() throws {
        let plain = try parsed(
            """
            host: a
            hypervisor: {path: /q, version: v}
            guests:
              - {id: g0, memory: 64MiB, disks: [{path: /d, format: raw, readOnly: true}]}
              - {id: g1, memory: 64MiB, disks: [{path: /d, format: raw, readOnly: true}]}
            """)
        let odd = try parsed(
            "\u{FEFF}---\r\n# comment\r\nhost: 'a'\r\nhypervisor: {path: /q, version: \"v\"}\r\n"
                + "guests:\r\n- id: g0\r\n  memory: &m 64MiB\r\n"
                + "  disks: &d [{path: /d, format: raw, readOnly: true}]\r\n"
                + "- id: g1\r\n  memory: *m\r\n  disks: *d\r\n...\r\n")
        #expect(plain == odd)
    }

    @Test("derives addresses that are stable, unicast, local and all different")
    func derivedAddresses() {
        let guest = GuestID(checked: "db-0")
        #expect(MACAddress(derivedFrom: guest, index: 0).description == "52:3f:06:5d:18:16")
        var seen: Set<MACAddress> = []
        for number in 0..<20_000 {
            let mac = MACAddress(derivedFrom: GuestID(checked: "g\(number / 2)"), index: number % 2)
            #expect(mac.bytes[0] & 0b11 == 0b10)
            seen.insert(mac)
        }
        #expect(seen.count == 20_000)
    }
}

@Suite("Words of a host file")
struct WordsTests {
    @Test("sizes")
    func sizes() {
        #expect(Words.size("1KiB") == 1024 && Words.size("2GiB") == 2 << 30)
        #expect(Words.size("0") == 0 && Words.size("123") == 123)
        for text in [
            "", "MiB", "-1MiB", "+1", "1.5GiB", "1 MiB", "1M", "0x10", "01", "1_000",
            "18446744073709551616", "99999999999GiB", "١MiB",
        ] {
            #expect(Words.size(text) == nil, "\(text)")
        }
        #expect(Words.sizeMeant("256M") == "256MiB" && Words.sizeMeant("1 gb") == "1GiB")
        #expect(Words.sizeMeant("M") == nil && Words.sizeMeant("5s") == nil)
    }

    @Test("durations")
    func durations() {
        #expect(Words.duration("5s") == .seconds(5))
        #expect(Words.duration("300ms") == .milliseconds(300))
        for text in ["", "s", "ms", "5", "5 s", "1m", "0.5s", "-1s", "99999999999999999999s"] {
            #expect(Words.duration(text) == nil, "\(text)")
        }
    }

    @Test("addresses and ports")
    func addresses() {
        for text in [
            "1.2.3.4:5", "[::1]:1", "[::]:65535", "[1:2:3:4:5:6:7:8]:9", "[1::8]:2",
            "[fe80::1:2]:3", "[::ffff:1.2.3.4]:5", "[1::]:2",
        ] {
            #expect(Words.isAddressAndPort(text), "\(text)")
        }
        for text in [
            "", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3:4",
            "1.2.3.256:4", "01.2.3.4:5", "host:1", "::1:5", "[::1:5", "[]:1", "[:]:1", "[:::]:1",
            "[1::2::3]:4", "[1:2:3:4:5:6:7]:8", "[1:2:3:4:5:6:7::8]:9", "[12345::]:1", "[g::]:1",
            "[1:]:2", "[:1::]:2", "[::1%eth0]:2", "[1.2.3.4]:5",
        ] {
            #expect(!Words.isAddressAndPort(text), "\(text)")
        }
    }

    @Test("port forwards keep their text")
    func forwards() {
        for text in ["127.0.0.1:17000-:7000", ":1-:2", "0.0.0.0:65535-10.0.2.15:1"] {
            #expect(Words.portForward(text)?.description == text)
        }
        for text in [
            "", "-", "1-2", ":1:2", ":1-", ":0-:1", ":1-:65536", "h:1-:2", ":1-:2-:3",
            "tcp::1-:2", "[::1]:1-:2",
        ] {
            #expect(Words.portForward(text) == nil, "\(text)")
        }
    }

    @Test("addresses of NICs")
    func macs() {
        #expect(MACAddress("52:54:00:aB:Cd:EF")?.description == "52:54:00:ab:cd:ef")
        for text in [
            "", "52:54:00:00:00", "52:54:00:00:00:0", "52:54:00:00:00:0g", "-1:54:0:0:0:0",
            "53:54:00:00:00:01", "00:00:00:00:00:00", "52:54:00:00:00:00:01", "+1:00:00:00:00:01",
        ] {
            #expect(MACAddress(text) == nil, "\(text)")
        }
    }

    @Test("interface names")
    func interfaceNames() {
        #expect(Words.isInterfaceName("fm-db0") && Words.isInterfaceName("123456789012345"))
        for text in ["", "1234567890123456", "a b", "a/b", "a:b", ".", "..", "a,b", "é", "t%d"] {
            #expect(!Words.isInterfaceName(text), "\(text)")
        }
    }

    @Test("suggestions are near or synonyms, or nothing")
    func suggestions() {
        let known = ["memory", "vcpus", "id", "commandLine"]
        #expect(Words.suggestion(for: "memroy", among: known) == "memory")
        #expect(Words.suggestion(for: "Memory", among: known) == "memory")
        #expect(Words.suggestion(for: "cpus", among: known) == "vcpus")
        #expect(Words.suggestion(for: "cmdline", among: known) == "commandLine")
        #expect(Words.suggestion(for: "colour", among: known) == nil)
        #expect(Words.distance("", "abc") == 3 && Words.distance("ab", "ba") == 1)
    }
}
