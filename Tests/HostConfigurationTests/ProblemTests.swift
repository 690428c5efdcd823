import Fleet
import Testing

@testable import HostConfiguration

private let head = "host: a\nhypervisor: {path: /q, version: v}\n"

private func guest(_ keys: String) -> String {
    "\(head)guests: [{id: g, memory: 64MiB, \(keys)}]\n"
}

@Suite("Problems of a host file")
struct ProblemTests {
    @Test("are all told at once, in the order of lines")
    func terrible() {
        let text = """
            host: bad name!
            runDirectory: run
            runDirectory: /run/x
            stateDirectory: /var/../etc
            memoryDirectry: /dev/shm
            accelerator: hvf
            hypervisor:
              path: [/usr/bin/qemu]
              dataDirectories: /usr/share
            availabilitySets:
              db: {updateDomains: 30}
              web: {updateDomains: "3", size: 2}
              db: {updateDomains: 2}
              _x: {}
            guests:
              - id: g0
                set: web
                updateDomain: 5
                memory: 512M
                cpus: 2
                disks:
                  - {path: disk.raw, format: vmdk}
                  - {path: /d.raw, format: raw, readOnly: yes}
              - id: g0
                updateDomain: 1
                memory: 100
                initrd: /initrd
                disks: [{path: /d.raw, format: raw}]
                nics:
                  - {tap: a-much-too-long-name, mac: "53:00:00:00:00:01"}
                  - {tap: t0, user: {}}
                  - {bridge: br0}
                arguments: [-incoming, defer]
                probe: {tcp: "example.org:80", timeout: 5}
              - memory: 64MiB
                vcpus: many
                nics:
                  - {tap: t1, mac: "52:54:00:00:00:01"}
                  - {tap: t1, mac: "52:54:00:00:00:01"}
                  - user: {forwards: ["127.0.0.1:80-:80", ":80-:81", "80:80"]}
              - just-a-word
            """
        let expected = """
            h:1:7: host is `bad name!`, which is no valid name: use 1 to 63 of A-Z a-z 0-9 . _ -, the first a letter or digit
            h:2:15: runDirectory is `run`, which is no absolute path: begin it with a slash
            h:3:1: `runDirectory` is there already, in line 2: remove one of the two
            h:4:17: stateDirectory is `/var/../etc`, which goes upwards: write the path without `..`
            h:5:1: `memoryDirectry` is not known here: did you mean `memoryDirectory`?
            h:6:14: accelerator is `hvf`: use `kvm`, `tcg`, or `kvm:tcg` for either
            h:8:3: hypervisor has no `version`: add it, as in `{path: /usr/bin/qemu-system-x86_64, version: "7.2.22"}`
            h:8:9: hypervisor.path is a list where a word or text is wanted: write it as `/absolute/path`
            h:9:20: hypervisor.dataDirectories is `/usr/share` where a list is wanted: write it as `[/usr/share/seabios]`
            h:11:23: availabilitySets.db.updateDomains is 30: write a number from 1 to 20
            h:12:24: availabilitySets.web.updateDomains is text in quotes where a number is wanted: remove the quotes
            h:12:29: `size` is not known in availabilitySets.web: remove it, or use one of updateDomains
            h:13:3: `db` is there already, in line 11: remove one of the two
            h:14:7: `_x` is no valid name of an availability set: use 1 to 63 of A-Z a-z 0-9 . _ -, the first a letter or digit
            h:19:13: guests[0].memory is `512M`, which is no size: write `512MiB`
            h:20:5: `cpus` is not known in guests[0]: did you mean `vcpus`?
            h:22:16: guests[0].disks[0].path is `disk.raw`, which is no absolute path: begin it with a slash
            h:22:34: guests[0].disks[0].format is `vmdk`: use `raw` or `qcow2`
            h:23:47: guests[0].disks[1].readOnly is `yes`: write true or false, without quotes
            h:24:9: guests[1].id is `g0`, as that of the guest in line 16: give each guest an id of its own
            h:25:19: guests[1].updateDomain is given without a set: name the set, or remove the update domain
            h:26:13: guests[1].memory is `100`: give a multiple of 1 MiB, from 1 MiB to 16 TiB
            h:27:13: guests[1].initrd is given without a kernel: name the kernel, or remove this
            h:28:20: guests[1].disks[0].path is `/d.raw`, as the disk in line 23: give each its own file, or make both read-only
            h:30:15: guests[1].nics[0].tap is `a-much-too-long-name`, with 20 bytes: use 1 to 15 bytes, without spaces and the signs / : , %
            h:30:42: guests[1].nics[0].mac is `53:00:00:00:00:01`, which is no address of one NIC: write six bytes like `"52:54:00:00:00:01"`, the first one even
            h:31:25: guests[1].nics[1].user is given beside a tap: remove one of the two
            h:32:9: guests[1].nics[2] says neither `tap` nor `user`: add one of them
            h:33:17: guests[1].arguments[0] is `-incoming`, which Fermata gives itself: remove it
            h:34:18: guests[1].probe.tcp is `example.org:80`: write a numeric address and a port, such as `10.77.1.10:7000` or `[::1]:7000`
            h:34:45: guests[1].probe.timeout is `5`: write a time from 10ms to 60s, such as `5s` or `300ms`
            h:35:5: guests[2] has no `id`: add it, as in `{id: db-0, memory: 256MiB}`
            h:36:12: guests[2].vcpus is `many`, which is no whole number: write a number from 1 to 255
            h:39:15: guests[2].nics[1].tap is `t1`, as the tap in line 38: give each NIC a tap of its own
            h:39:24: guests[2].nics[1].mac has `52:54:00:00:00:01`, as in line 38: give each NIC an address of its own
            h:40:47: guests[2].nics[2].user.forwards[1] takes port 80 of the host, as does line 40: use another port
            h:40:58: guests[2].nics[2].user.forwards[2] is `80:80`, which is no port forward: write it as HOSTADDRESS:PORT-GUESTADDRESS:PORT, such as `127.0.0.1:17000-:7000`
            h:41:5: guests[3] is `just-a-word` where a map is wanted: write it as `{id: db-0, memory: 256MiB}`
            """
        #expect(problems(text) == expected.split(separator: "\n").map(String.init))
    }

    static let single: [(String, String)] = [
        (
            "",
            "h:1:1: the file is empty: begin with `host: NAME`, and describe its hypervisor and guests"
        ),
        (
            "# only a comment\n",
            "h:1:1: the file is empty: begin with `host: NAME`, and describe its hypervisor and guests"
        ),
        (
            "---\n",
            "h:1:1: the file is empty: begin with `host: NAME`, and describe its hypervisor and guests"
        ),
        (
            "just text\n",
            "h:1:1: the file is `just text` where a map is wanted: write it as `host: a`"
        ),
        (
            "- host: a\n",
            "h:1:1: the file is a list where a map is wanted: write it as `host: a`"
        ),
        (
            "~\n",
            "h:1:1: the file is empty: begin with `host: NAME`, and describe its hypervisor and guests"
        ),
        (
            head + "guests:\n\t- id: g\n",
            "h:4:1: a tab is in the line's indentation: indent with spaces"
        ),
        (
            head + "guests: [\n",
            "h:4:1: this is not YAML: did not find expected node content: correct the syntax here or in the lines before"
        ),
        (
            "host: 'a\n",
            "h:2:1: this is not YAML: found unexpected end of stream: correct the syntax here or in the lines before"
        ),
        (
            "host: a\n b: c\n",
            "h:2:3: this is not YAML: mapping values are not allowed in this context: correct the syntax here or in the lines before"
        ),
        (
            head + "---\nhost: b\n",
            "h:3:1: a second document begins here: keep one document in the file, without a further `---`"
        ),
        (
            "host: *nowhere\n",
            "h:1:7: this is not YAML: found undefined alias: define the anchor before it is used, or write the value out"
        ),
        (
            "host: a\u{0}b\n",
            "h:1:8: the character U+0000 has no place in a host file: remove it"
        ),
        (
            "host: \u{2028}a\n",
            "h:1:7: the character U+2028 has no place in a host file: remove it"
        ),
        (
            "host: a\u{E000}b\n",
            "h:1:8: the character U+E000 has no place in a host file: remove it"
        ),
        (
            "hypervisor: {path: /q, version: v}\n",
            "h:1:1: the file has no `host`: add it, as in `host: a`"
        ),
        (
            "host:\nhypervisor: {path: /q, version: v}\n",
            "h:1:6: host is empty where a word or text is wanted: write it as `a`"
        ),
        (
            "host: [a]\nhypervisor: {path: /q, version: v}\n",
            "h:1:7: host is a list where a word or text is wanted: write it as `a`"
        ),
        (
            "host: a\n",
            "h:1:1: the file has no `hypervisor`: add it, as in `hypervisor: {path: /usr/bin/qemu-system-x86_64, version: \"7.2.22\"}`"
        ),
        (
            "host: a\nhypervisor: /q\n",
            "h:2:13: hypervisor is `/q` where a map is wanted: write it as `{path: /usr/bin/qemu-system-x86_64, version: \"7.2.22\"}`"
        ),
        (
            "host: a\nhypervisor: {path: /q, version: \"a b\"}\n",
            "h:2:33: hypervisor.version is `a b`: use 1 to 63 characters without spaces"
        ),
        (
            "host: a\nhypervisor: {path: '/q,x', version: v}\n",
            "h:2:20: hypervisor.path is `/q,x`, with a comma in it: rename the file or directory"
        ),
        (
            "host: a\nhypervisor: {path: /q, version: v, \"path\": /r}\n",
            "h:2:36: `path` is there already, in line 2: remove one of the two"
        ),
        (
            head + "? [a, b]\n: c\n",
            "h:3:3: a key in the file is a list or a map: write the key as a word"
        ),
        (
            head + "colour: red\n",
            "h:3:1: `colour` is not known here: remove it, or use one of host, runDirectory, stateDirectory, memoryDirectory, accelerator, hypervisor, availabilitySets, guests"
        ),
        (
            head + "<<: {guests: []}\n",
            "h:3:1: `<<` is not known here: write the keys out; an alias may stand for a whole value only"
        ),
        (
            head + "guest: []\n",
            "h:3:1: `guest` is not known here: did you mean `guests`?"
        ),
        (
            head + "guests: {}\n",
            "h:3:9: guests is a map where a list is wanted: write it as `[{id: db-0, memory: 256MiB}]`"
        ),
        (
            head + "guests: [~]\n",
            "h:3:10: guests[0] is empty where a map is wanted: write it as `{id: db-0, memory: 256MiB}`"
        ),
        (
            head + "availabilitySets: [db]\n",
            "h:3:19: availabilitySets is a list where a map is wanted: write it as `{db: {updateDomains: 3}}`"
        ),
        (
            head + "availabilitySets: {db: 3}\n",
            "h:3:24: availabilitySets.db is `3` where a map is wanted: write it as `{updateDomains: 3}`"
        ),
        (
            head + "availabilitySets: {db: {updateDomains: 0}}\n",
            "h:3:40: availabilitySets.db.updateDomains is 0: write a number from 1 to 20"
        ),
        (
            head + "availabilitySets: {db: {updateDomains: 2.5}}\n",
            "h:3:40: availabilitySets.db.updateDomains is `2.5`, which is no whole number: write a number from 1 to 20"
        ),
        (
            head
                + "runDirectory: /a-directory/whose-name-leaves-no-room-for/the-sockets-of-any-guest-in-it/at-all/really-none\nguests: [{id: db-0, memory: 64MiB}]\n",
            "h:4:15: guests[0].id makes a socket's path of 112 bytes, and 107 is the most: shorten the id or runDirectory by 5 characters"
        ),
        (
            guest("vcpus: 0"),
            "h:3:40: guests[0].vcpus is 0: write a number from 1 to 255"
        ),
        (
            guest("vcpus: 0x10"),
            "h:3:40: guests[0].vcpus is `0x10`, which is no whole number: write a number from 1 to 255"
        ),
        (
            guest("vcpus: ~"),
            "h:3:40: guests[0].vcpus is empty where a number is wanted: write a number from 1 to 255"
        ),
        (
            guest("guestAgent: 'true'"),
            "h:3:45: guests[0].guestAgent is `true`: write true or false, without quotes"
        ),
        (
            guest("guestAgent: on"),
            "h:3:45: guests[0].guestAgent is `on`: write true or false, without quotes"
        ),
        (
            guest("machine: 'q 35'"),
            "h:3:42: guests[0].machine is `q 35`: write one word, such as `q35`"
        ),
        (
            guest("updateDomain: 0"),
            "h:3:47: guests[0].updateDomain is given without a set: name the set, or remove the update domain"
        ),
        (
            guest("set: db, updateDomain: 5"),
            "h:3:56: guests[0].updateDomain is 5, and set db has only 5, from 0 to 4: use one of these, or raise updateDomains of the set"
        ),
        (
            guest("set: db, updateDomain: -1"),
            "h:3:56: guests[0].updateDomain is -1: write a number from 0 to 19"
        ),
        (
            guest("set: db, updateDomain: 99999999999999999999"),
            "h:3:56: guests[0].updateDomain is `99999999999999999999`, which is no whole number: write a number from 0 to 19"
        ),
        (
            guest("commandLine: quiet"),
            "h:3:46: guests[0].commandLine is given without a kernel: name the kernel, or remove this"
        ),
        (
            guest("disks: [{path: /d, format: raw}, {path: /x/../d, format: raw}]"),
            "h:3:73: guests[0].disks[1].path is `/x/../d`, which goes upwards: write the path without `..`"
        ),
        (
            guest("disks: [{path: /d, format: raw}, {path: //d/., format: raw, readOnly: true}]"),
            "h:3:73: guests[0].disks[1].path is `/d`, as the disk in line 3: give each its own file, or make both read-only"
        ),
        (
            guest("nics: [{tap: t0, bridge: t0}]"),
            "h:3:58: guests[0].nics[0].bridge is the tap itself: name the bridge that it is to join"
        ),
        (
            guest("nics: [{user: {}, bridge: br0}]"),
            "h:3:59: guests[0].nics[0].bridge is given for a user-mode NIC: remove it, or use a tap"
        ),
        (
            guest("nics: [{tap: ''}]"),
            "h:3:46: guests[0].nics[0].tap is ``: use 1 to 15 bytes, without spaces and the signs / : , %"
        ),
        (
            guest("nics: [{tap: t0, mac: 1}]"),
            "h:3:55: guests[0].nics[0].mac is `1`, which is no address of one NIC: write six bytes like `\"52:54:00:00:00:01\"`, the first one even"
        ),
        (
            guest("nics: [{user: {forwards: [':0-:1']}}]"),
            "h:3:59: guests[0].nics[0].user.forwards[0] is `:0-:1`, which is no port forward: write it as HOSTADDRESS:PORT-GUESTADDRESS:PORT, such as `127.0.0.1:17000-:7000`"
        ),
        (
            guest("nics: [{user: {forwards: ['127.0.0.1:80-:1', '0.0.0.0:80-:1']}}]"),
            "h:3:78: guests[0].nics[0].user.forwards[1] takes port 80 of the host, as does line 3: use another port"
        ),
        (
            guest("probe: {}"),
            "h:3:40: guests[0].probe says none of `tcp`, `http` and `command`: write `{tcp: \"10.77.1.10:7000\", timeout: 5s}`"
        ),
        (
            guest("probe: {tcp: '10.0.0.1:1', http: 'http://h'}"),
            "h:3:40: guests[0].probe says both `tcp` and `http`: make two `probes` of it"
        ),
        (
            guest("probe: {tcp: '10.0.0.1:1', status: 200}"),
            "h:3:68: guests[0].probe.status is given without `http`: remove it"
        ),
        (
            guest("probe: {http: 'ftp://h'}"),
            "h:3:47: guests[0].probe.http is `ftp://h`: write a URL such as `http://10.77.1.10/health`"
        ),
        (
            guest("probe: {http: 'http://a:b@h'}"),
            "h:3:47: guests[0].probe.http is `http://a:b@h`, with a user's name or password in it: use an address that needs none"
        ),
        (
            guest("probe: {http: 'http://h', status: 299-200}"),
            "h:3:67: guests[0].probe.status is `299-200`: write a status or a range, such as `200` or `200-399`"
        ),
        (
            guest("probe: {command: check}"),
            "h:3:50: guests[0].probe.command is `check`, which is no absolute path: begin it with a slash"
        ),
        (
            guest("probe: {tcp: '10.0.0.1:1', attempts: 0}"),
            "h:3:70: guests[0].probe.attempts is 0: write a number from 1 to 1000"
        ),
        (
            guest("probe: {tcp: '10.0.0.1:1', name: ''}"),
            "h:3:66: guests[0].probe.name is ``: write 1 to 64 bytes on one line, such as `web`"
        ),
        (
            guest("probes: [{tcp: '10.0.0.1:1'}, {tcp: '10.0.0.1:1'}]"),
            "h:3:63: guests[0].probes[1] is named `tcp 10.0.0.1:1`, as the probe in line 3: give it a `name` of its own"
        ),
        (
            guest("probe: {tcp: '10.0.0.1:1'}, probes: []"),
            "h:3:40: guests[0].probe is given beside `probes`: move it into the list"
        ),
        (
            guest("probe: {tcp: '10.0.0.1:1', timeout: 0s}"),
            "h:3:69: guests[0].probe.timeout is `0s`: write a time from 10ms to 60s, such as `5s` or `300ms`"
        ),
        (
            guest("probe: {tcp: '10.0.0.300:1'}"),
            "h:3:46: guests[0].probe.tcp is `10.0.0.300:1`: write a numeric address and a port, such as `10.77.1.10:7000` or `[::1]:7000`"
        ),
        (
            guest("arguments: ['--incoming']"),
            "h:3:45: guests[0].arguments[0] is `--incoming`, which Fermata gives itself: remove it"
        ),
        (
            guest(#"arguments: ["-S\0x"]"#),
            "h:3:45: guests[0].arguments[0] is `-S x`, with a NUL in it: remove `\\0`"
        ),
        (
            guest(#"kernel: /k, commandLine: "a\0b""#),
            "h:3:58: guests[0].commandLine is `a b`, with a NUL in it: remove `\\0`"
        ),
        (
            guest("arguments: -S"),
            "h:3:44: guests[0].arguments is `-S` where a list is wanted: write it as `[\"-device\", \"virtio-rng-pci\"]`"
        ),
        (
            guest("memory: 1GiB"),
            "h:3:33: `memory` is there already, in line 3: remove one of the two"
        ),
        (
            head + "guests: [{id: g, memory: 256mb}]\n",
            "h:3:26: guests[0].memory is `256mb`, which is no size: write `256MiB`"
        ),
        (
            head + "guests: [{id: g, memory: lots}]\n",
            "h:3:26: guests[0].memory is `lots`, which is no size: write it in bytes or with KiB, MiB or GiB, such as `256MiB`"
        ),
        (
            head + "guests: [{id: g, memory: 17TiB}]\n",
            "h:3:26: guests[0].memory is `17TiB`: give a multiple of 1 MiB, from 1 MiB to 16 TiB"
        ),
        (
            head
                + "guests:\n  - {id: g0, memory: 64MiB, nics: [{tap: t}]}\n  - {id: g1, memory: 64MiB, nics: [{tap: t}]}\n",
            "h:5:42: guests[1].nics[0].tap is `t`, as the tap in line 4: give each NIC a tap of its own"
        ),
        (
            head + "guests: [{id: g0, adopt: /r/q, memory: 64MiB}]\n",
            "h:3:40: guests[0].memory is given for a guest that is adopted: remove it: it is found from the QEMU that runs"
        ),
        (
            head + "guests: [{id: g0, adopt: r/q}]\n",
            "h:3:26: guests[0].adopt is `r/q`, which is no absolute path: begin it with a slash"
        ),
        (
            head + "guests:\n  - {id: g0, adopt: /r/q}\n  - {id: g1, adopt: /r//q}\n",
            "h:5:21: guests[1].adopt is `/r/q`, as that of the guest in line 4: name the monitor of this guest's QEMU"
        ),
        (
            head + "guests: &g [{id: g0, memory: 64MiB}]\n? *g\n: 1\n",
            "h:4:1: a key that is no plain word is in a file with anchors: write the key as a word, or the anchors' values out"
        ),
    ]

    @Test("are the same each time, also where the YAML library's are not")
    func repeatedComplexKeys() {
        let text = "? {a: b}\n? {a: c}\n? [d]\n? {a: b}\n? {a: c}\n? [d]\n"
        for _ in 0..<20 {
            #expect(
                problems(text) == [
                    "h:1:1: a key that is a list or a map is repeated: write each key as a word"
                ])
        }
    }

    @Test("are the same each time for keys that differ by their tags only")
    func repeatedTaggedKeys() {
        // A dictionary's order may hold for a process: other keys give it other chances.
        for key in (0..<20).map({ "k\($0)" }) {
            let text = "!a \(key): 1\n!b \(key): 1\n!a \(key): 1\n!b \(key): 1\n"
            #expect(
                problems(text) == [
                    "h:1:1: key `\(key)` is repeated under tags: write each key once, without a tag"
                ])
        }
    }

    @Test("name the place, the trouble and the way out", arguments: single)
    func one(_ text: String, _ expected: String) {
        #expect(problems(text) == [expected])
    }

    @Test("are bounded, whatever a file repeats or nests, and found in reasonable time")
    func bombs() {
        func expectOne(
            _ text: String, _ part: String, _ location: SourceLocation = #_sourceLocation
        ) {
            let found = problems(text)
            #expect(found.count == 1 && found[0].contains(part), sourceLocation: location)
        }
        expectOne(String(repeating: "[", count: 100_000), "nested too deeply")
        expectOne(String(repeating: "- ", count: 100_000), "nested too deeply")
        expectOne(String(repeating: "x", count: 4 * 1024 * 1024 + 1), "4194304 is the most")

        var laughs = "k0: &k0 [x,x,x,x,x,x,x,x,x]\n"
        for level in 1...20 {
            let aliases = Array(repeating: "*k\(level - 1)", count: 9).joined(separator: ",")
            laughs += "k\(level): &k\(level) [\(aliases)]\n"
        }
        #expect(problems(laughs).count == 23, "each key is unknown, and two are missing")
        expectOne(laughs + "? *k20\n: 1\n", "a key that is no plain word")
        expectOne(laughs + "[*k20] : 1\n", "a key that is no plain word")
        expectOne(laughs + "x: {*k20 : 1}\n", "a key that is no plain word")
        expectOne(laughs + "x: {[*k20] # c\n : 1}\n", "a key that is no plain word")

        let disks = Array(repeating: "{path: x, format: y}", count: 250).joined(separator: ",")
        let guests = String(repeating: "  - {id: g, memory: 1, disks: *d}\n", count: 1_000)
        #expect(problems("\(head)disks: &d [\(disks)]\nguests:\n\(guests)").count == 201)
        expectOne(
            "\(head)guests: [\(String(repeating: "g,", count: 4_097))]", "keep to 4096")
    }

    @Test("show repeated keys to the end, and give up with those found")
    func repeatedKeys() {
        let few = (0..<20).map { "k\($0): 1\n\"k\($0)\": 2\nk\($0): 3\n" }.joined()
        #expect(problems(head + few).filter { $0.contains("is there already") }.count == 40)
        let many = (0..<100).map { "k\($0): 1\nk\($0): 2\n" }.joined()
        let found = problems(head + many)
        #expect(found.count == 65 && found.allSatisfy { $0.contains("is repeated further down") })
        #expect(
            problems(String(repeating: "k: 1\n", count: 3)).prefix(3) == [
                "h:1:1: `k` is not known here: remove it, or use one of host, runDirectory, "
                    + "stateDirectory, memoryDirectory, accelerator, hypervisor, "
                    + "availabilitySets, guests",
                "h:1:1: the file has no `host`: add it, as in `host: a`",
                "h:1:1: the file has no `hypervisor`: add it, as in `hypervisor: "
                    + "{path: /usr/bin/qemu-system-x86_64, version: \"7.2.22\"}`",
            ])
    }
}
