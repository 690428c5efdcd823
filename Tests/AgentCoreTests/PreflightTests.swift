import AgentCore
import Testing

@Suite("Preflight")
struct PreflightTests {
    typealias Facts = PreflightFacts

    /// Everything is known, and nothing is wrong.
    static var healthy: Facts {
        var facts = Facts()
        facts.backends = [
            Facts.Backend(
                id: "ram0", isShared: true, byteCount: 256 << 20, type: "memory-backend-file",
                path: "/dev/shm/g0.ram")
        ]
        facts.ramFiles = ["ram0": .same]
        facts.deviceTypes = ["virtio-blk-pci", "virtio-net-pci", "scsi-hd"]
        facts.images = [
            Facts.Image(path: "/d/disk.qcow2"), Facts.Image(path: "/d/base.qcow2", isBacking: true),
        ]
        facts.imageFormats = ["qcow2", "raw"]
        facts.program = Facts.Program(
            path: "/q/qemu", moduleDirectory: "/q/modules", modules: ["accel-tcg-x86_64.so"],
            hasFirmware: true)
        facts.machineWord = "q35"
        facts.machineType = "pc-q35-7.2"
        facts.newMachineTypes = [
            Facts.MachineType(name: "pc-q35-7.2", alias: "q35"),
            Facts.MachineType(name: "pc-i440fx-7.2", alias: "pc"),
        ]
        facts.newMachineType = "pc-q35-7.2"
        facts.featureWords = [Facts.FeatureWord(name: "CPUID 7.0 EBX", bits: 0b1010)]
        facts.newFeatureWords = facts.featureWords
        facts.privateBytes = 100 << 20
        facts.availableBytes = 1 << 30
        facts.threadCount = 8
        facts.threadRoom = 1_000
        facts.descriptorCount = 30
        facts.descriptorRoom = 900
        facts.taps = [Facts.TapInterface(name: "tap0", flags: 0x1102)]
        facts.guestAgent = .answers
        return facts
    }

    struct Case: CustomTestStringConvertible {
        var check: PreflightCheck
        var severity = PreflightSeverity.blocks
        /// What the problem has to name.
        var words: String
        var spoil: @Sendable (inout Facts) -> Void
        var testDescription: String { "\(check): \(words)" }
    }

    static let cases: [Case] = [
        Case(check: .running, words: "not run") { $0.isRunning = false },
        Case(check: .monitor, words: "no greeting") { $0.monitorProblem = "no greeting" },
        Case(check: .memory, words: "256 MiB") { $0.backends[0].isShared = false },
        Case(check: .backend, words: "memory-backend-memfd") {
            $0.backends.append(
                Facts.Backend(
                    id: "ram1", isShared: true, byteCount: 1, type: "memory-backend-memfd"))
        },
        Case(check: .ramfile, words: "not there") { $0.ramFiles["ram0"] = .missing },
        Case(check: .ramfile, words: "another file") { $0.ramFiles["ram0"] = .replaced },
        Case(check: .blocker, words: "non-migratable device: nvme") {
            $0.blockers = ["non-migratable device: nvme"]
        },
        Case(check: .passthrough, words: "vfio-pci") { $0.deviceTypes.append("vfio-pci") },
        Case(check: .passthrough, words: "usb-host") {
            $0.deviceTypes += ["usb-host", "usb-host"]
        },
        Case(check: .passthrough, words: "scsi-generic") { $0.deviceTypes.append("scsi-generic") },
        Case(check: .passthrough, words: "scsi-block") { $0.deviceTypes.append("scsi-block") },
        Case(check: .hotplug, words: "type virtio-rng-pci was added") {
            $0.newDeviceTypes = $0.deviceTypes
            $0.deviceTypes.append("virtio-rng-pci")
        },
        Case(check: .hotplug, words: "was removed") {
            $0.newDeviceTypes = $0.deviceTypes + ["virtio-rng-pci"]
        },
        Case(check: .commandline, words: "-snapshot keeps") {
            $0.commandLineProblems = ["-snapshot keeps what the guest writes"]
        },
        Case(check: .image, words: "/d/disk.qcow2 is not there") { $0.images[0].state = .missing },
        Case(check: .image, words: "another file") { $0.images[0].state = .replaced },
        Case(check: .image, words: "cannot be read") { $0.images[0].state = .unreadable },
        Case(check: .image, words: "cannot be written") { $0.images[0].state = .unwritable },
        Case(check: .backing, words: "/d/base.qcow2") { $0.images[1].state = .missing },
        Case(check: .format, words: "vmdk") { $0.imageFormats.append("vmdk") },
        Case(check: .lock, words: "backup (pid 7) holds a lock on /d/disk.qcow2") {
            $0.images[0].foreignLocks = [ImageLockHolder(pid: 7, name: "backup")]
        },
        Case(check: .program, words: "no program /q/qemu") { $0.program?.exists = false },
        Case(check: .program, words: "no such luck") { $0.program?.startProblem = "no such luck" },
        Case(check: .modules, words: "no directory /q/modules") { $0.program?.modules = nil },
        Case(check: .modules, words: "no QEMU modules") { $0.program?.modules = ["README"] },
        Case(check: .firmware, words: "/q/share") {
            $0.program?.missingDataDirectories = ["/q/share"]
        },
        Case(check: .firmware, severity: .warns, words: "bios-256k") {
            $0.program?.hasFirmware = false
        },
        Case(check: .machine, words: "does not know machine pc-q35-2.0") {
            $0.machineType = "pc-q35-2.0"
        },
        Case(check: .machine, words: "`q35` is pc-q35-8.0") {
            $0.newMachineType = nil
            $0.newMachineTypes = [
                Facts.MachineType(name: "pc-q35-8.0", alias: "q35"),
                Facts.MachineType(name: "pc-q35-7.2"),
            ]
        },
        Case(check: .machine, words: "`q35` is pc-q35-8.0") {
            $0.newMachineTypes = []
            $0.newMachineType = "pc-q35-8.0"
        },
        Case(check: .processor, words: "lacks what the guest uses: CPUID 7.0 EBX bit 3") {
            $0.newFeatureWords[0].bits = 0b0010
        },
        Case(check: .processor, severity: .warns, words: "CPUID 7.0 EBX bit 0") {
            $0.newFeatureWords[0].bits = 0b1011
        },
        Case(check: .room, words: "needs 164 MiB besides the guest's RAM, and 163 MiB") {
            $0.availableBytes = 163 << 20
        },
        Case(check: .tap, words: "single queue") { $0.taps[0].flags = 0x1002 },
        Case(check: .tap, words: "vnet_hdr") { $0.taps[0].flags = 0x5102 },
        Case(check: .pids, words: "24 threads, and 23") { $0.threadRoom = 23 },
        Case(check: .descriptors, words: "62 descriptors, and 61") { $0.descriptorRoom = 61 },
        Case(check: .guestagent, severity: .warns, words: "no guest agent") {
            $0.guestAgent = .absent
        },
        Case(check: .guestagent, severity: .warns, words: "did not answer") {
            $0.guestAgent = .silent(reason: "the guest agent did not answer")
        },
    ]

    @Test("A healthy guest has no findings")
    func healthyGuest() {
        #expect(Preflight.findings(Self.healthy) == [])
        #expect(Preflight.blockingReason([]) == nil)
    }

    @Test("What is not known is not held against a guest")
    func nothingKnown() {
        #expect(Preflight.findings(Facts()) == [])
    }

    @Test("Each check finds its own fault, and only that", arguments: cases)
    func oneFault(_ one: Case) {
        var facts = Self.healthy
        one.spoil(&facts)
        let found = Preflight.findings(facts)
        #expect(found.map(\.check) == [one.check])
        #expect(found.first?.severity == one.severity)
        #expect(found.first?.problem.contains(one.words) ?? false, "\(found)")
        #expect(found.first?.advice.isEmpty == false)
        #expect((Preflight.blockingReason(found) != nil) == (one.severity == .blocks))
    }

    @Test("Every check has a case here")
    func everyCheckIsTested() {
        #expect(Set(Self.cases.map(\.check)) == Set(PreflightCheck.allCases))
    }

    @Test("What exactly suffices suffices")
    func bounds() {
        var facts = Self.healthy
        facts.availableBytes = 164 << 20
        facts.threadRoom = 24
        facts.descriptorRoom = 62
        #expect(Preflight.findings(facts) == [])
    }

    @Test("A machine named with its version is the same in both QEMUs")
    func versionedMachine() {
        var facts = Self.healthy
        facts.newMachineType = nil
        facts.machineWord = "pc-q35-7.2,hpet=off"
        facts.newMachineTypes = [
            Facts.MachineType(name: "pc-q35-8.0", alias: "q35"),
            Facts.MachineType(name: "pc-q35-7.2"),
        ]
        #expect(Preflight.findings(facts) == [])
    }

    @Test("The reason names every blocking check and leaves warnings out")
    func reason() {
        var facts = Self.healthy
        facts.blockers = ["nvme"]
        facts.backends[0].isShared = false
        facts.guestAgent = .absent
        let reason = Preflight.blockingReason(Preflight.findings(facts)) ?? ""
        #expect(reason.contains("memory: "))
        #expect(reason.contains("blocker: QEMU says: nvme: remove"))
        #expect(!reason.contains("guestagent"))
    }
}

@Suite("Locks on images")
struct ImageLockTests {
    private func lock(_ line: String) throws -> ImageLock { try #require(ImageLock(line: line)) }

    @Test("Lines of /proc/locks and of fdinfo are read")
    func lines() throws {
        let here = ImageLock(
            isWrite: false, pid: -1, file: "fe:00:162", first: 201, last: 203)
        #expect(try lock("1:1: OFDLCK ADVISORY  READ -1 fe:00:162 201 203").file == "fe:00:162")
        #expect(ImageLock(line: "1: OFDLCK ADVISORY  READ -1 fe:00:162 201 203") == here)
        #expect(ImageLock(line: "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:162 201 203") == here)
        let whole = try lock("8: POSIX  ADVISORY  WRITE 12922 fe:00:5 0 EOF")
        #expect(whole.isWrite && whole.pid == 12_922 && whole.last == .max)
    }

    @Test(
        "Other lines are none",
        arguments: [
            "", "9: FLOCK  ADVISORY  WRITE 12 fe:00:5 0 EOF",
            "1: -> OFDLCK ADVISORY  READ -1 fe:00:162 1 1",
            "1: OFDLCK ADVISORY  READ -1 fe:00:162 9 1", "1: OFDLCK ADVISORY READ x fe:00:1 0 1",
            "1: OFDLCK ADVISORY  UNLCK -1 fe:00:162 0 1",
        ])
    func otherLines(_ line: String) { #expect(ImageLock(line: line) == nil) }

    private static func range(
        _ first: UInt64, _ last: UInt64, write: Bool = false, file: String = "f"
    ) -> ImageLock {
        ImageLock(isWrite: write, pid: -1, file: file, first: first, last: last)
    }

    /// A guest's disk: reads and writes; nobody else may write or resize.
    private static let disk = [range(100, 101), range(103, 103), range(201, 201), range(203, 203)]
    /// A base image: only read; nobody may write.
    private static let base = [range(100, 100), range(201, 201), range(203, 203)]

    @Test("QEMU's own locks and those that get along with them are no conflict")
    func harmless() {
        #expect(ImageLock.conflicts(in: Self.disk, with: Self.disk) == [])
        #expect(ImageLock.conflicts(in: Self.base + Self.base, with: Self.base) == [])
        #expect(ImageLock.conflicts(in: Self.base, with: []) == [])
        let elsewhere = Self.range(201, 201, file: "g")
        #expect(ImageLock.conflicts(in: Self.disk + [elsewhere], with: Self.disk) == [])
    }

    @Test("Who forbids what QEMU does, or does what QEMU forbids, is in its way")
    func conflicts() {
        // As `qemu-img` does: nobody else may write.
        for foreign in [
            Self.range(201, 201), Self.range(101, 101), Self.range(203, 203),
            Self.range(0, .max, write: true),
        ] {
            let found = ImageLock.conflicts(in: Self.disk + [foreign], with: Self.disk)
            let isTwin = Self.disk.contains(foreign)
            #expect(found == [foreign] || isTwin && found.count == 1, "\(foreign)")
        }
        // Writing to a shared base image.
        #expect(
            ImageLock.conflicts(in: Self.base + [Self.range(101, 101)], with: Self.base).count == 1)
    }
}
