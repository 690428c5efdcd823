import Testing

@testable import AgentCore

@Suite("The command line of a QEMU that somebody else has started")
struct AdoptedCommandLineTests {
    private func second(_ words: String, machineType: String? = nil) -> AdoptedCommandLine {
        AdoptedCommandLine(
            words.split(separator: " ").map(String.init), suffix: ".fermata-1",
            machineType: machineType)
    }

    @Test(
        "further arguments of our own guests: what only one process can have is refused",
        arguments: [
            ("-device virtio-rng-pci -vnc unix:/r/v -name x", ["/r/v cannot be listened on"]),
            ("-vnc :1", ["-vnc :1 listens on a port"]),
            ("-serial tcp:127.0.0.1:4444,server=on", ["cannot be opened twice"]),
            (
                "-chardev socket,id=c,path=/r/c,server=on,wait=off -device pci-serial,chardev=c",
                ["the socket /r/c cannot be listened on by two processes"]
            ),
            ("-netdev user,id=n,hostfwd=tcp::80-:80", ["hostfwd=tcp::80-:80 listens on a port"]),
            ("-chardev file,id=l,path=/var/log/x -device virtio-rng-pci", []),
            ("-brand-new x", []), ("", []),
        ])
    func own(words: String, says: [String]) {
        let problems = AdoptedCommandLine.problems(
            ofOwn: words.split(separator: " ").map(String.init))
        #expect(problems.count == says.count, "\(problems)")
        for (problem, words) in zip(problems, says) { #expect(problem.contains(words)) }
    }

    @Test("is given to a second one with what both cannot have written otherwise")
    func rewritten() {
        let cases = [
            ("-m 256 -smp 2 disk.img", "-m 256 -smp 2 disk.img"),
            ("--m 256", "--m 256"),
            (
                "-qmp unix:/r/q,server,nowait -monitor unix:/r/m,server=on,wait=off",
                "-qmp unix:/r/q.fermata-1,server,wait=off "
                    + "-monitor unix:/r/m.fermata-1,server=on,wait=off"
            ),
            (
                "-chardev socket,id=c,path=/r/a,,b,server=on -mon chardev=c,mode=control",
                "-chardev socket,id=c,server=on,path=/r/a,,b.fermata-1,wait=off "
                    + "-mon chardev=c,mode=control"
            ),
            (
                "-chardev socket,id=c,fd=7,server=on,wait=off",
                "-chardev socket,id=c,server=on,fd=3,wait=off"
            ),
            (
                "-chardev file,id=l,path=/var/log/x",
                "-chardev file,id=l,path=/var/log/x,append=on"
            ),
            (
                "-serial file:/var/log/x,y",
                "-chardev file,id=fermata-serial-1,path=/var/log/x,,y,append=on "
                    + "-serial chardev:fermata-serial-1"
            ),
            ("-serial mon:stdio -parallel none", "-serial mon:stdio -parallel none"),
            (
                "-netdev user,id=n,hostfwd=tcp::1-:2,restrict=on,hostfwd=tcp::3-:4",
                "-netdev user,id=n,restrict=on"
            ),
            (
                "-netdev tap,id=n,ifname=t0,script=no,downscript=no -netdev tap,id=o,fd=9",
                "-netdev tap,id=n,fd=3 -netdev tap,id=o,fd=4"
            ),
            ("-netdev bridge,id=n,br=br0", "-netdev tap,id=n,fd=3"),
            ("-daemonize -pidfile /r/pid -S -incoming defer -D /l -d int", "-d int"),
            ("-vnc unix:/r/v", "-vnc unix:/r/v.fermata-1"), ("-vnc none", "-vnc none"),
            ("-nic none -net nic -nic user", "-nic none -net nic -nic user"),
        ]
        for (original, expected) in cases {
            let second = second(original)
            #expect(second.problems.isEmpty, "\(original): \(second.problems)")
            #expect(second.arguments.joined(separator: " ") == expected)
        }
    }

    @Test("gets the name of the machine that runs, wherever the word for it stands")
    func machine() {
        let cases = [
            ("-M q35,memory-backend=r", "-M pc-q35-7.2,memory-backend=r"),
            ("-machine type=q35,a=b", "-machine a=b,type=pc-q35-7.2"),
            ("-machine usb=on", "-machine usb=on,type=pc-q35-7.2"),
            ("-m 1", "-m 1 -machine pc-q35-7.2"),
        ]
        for (original, expected) in cases {
            let arguments = second(original, machineType: "pc-q35-7.2").arguments
            #expect(arguments.joined(separator: " ") == expected)
        }
    }

    @Test("tells what has to be done once the guest has moved")
    func afterwards() {
        let line = second(
            "-qmp unix:/r/q,server -pidfile /r/pid -netdev user,id=n,hostfwd=tcp::1-:2 "
                + "-netdev tap,id=t,ifname=x -chardev socket,id=c,fd=7,server=on "
                + "-chardev socket,id=ga,path=/r/ga,server=on "
                + "-device virtserialport,chardev=ga,name=org.qemu.guest_agent.0")
        #expect(
            line.sockets == [
                .init(temporary: "/r/q.fermata-1", path: "/r/q"),
                .init(temporary: "/r/ga.fermata-1", path: "/r/ga"),
            ])
        #expect(line.forwards == [.init(network: "n", rule: "tcp::1-:2")])
        #expect(line.inherited == [.tap(number: nil), .copy(number: 7)])
        #expect(line.pidFile == "/r/pid")
        #expect(line.guestAgentPath == "/r/ga")
    }

    @Test(
        "is refused where a second process cannot have the same",
        arguments: [
            "-snapshot", "-s", "-vnc :1", "-spice port=1", "-drive file=a,snapshot=on",
            "-qmp tcp:127.0.0.1:1,server", "-serial tcp::1,server", "-serial telnet::1,server",
            "-chardev socket,id=c,host=h,port=1,server=on", "-chardev socket,id=c,path=/r/c",
            "-qmp unix:/r/q", "-chardev udp,id=c,host=h,port=1", "-netdev socket,id=n,listen=:1",
            "-netdev tap,id=n,vhost=on", "-netdev tap,id=n,fds=3:4", "-netdev tap,id=n,fd=mine",
            "-netdev {}", "-nic user,hostfwd=tcp::1-:2", "-nic tap", "-display gtk",
            "-loadvm x", "-what 1", "-m", "-qmp unix:q,server",
        ])
    func refused(_ original: String) {
        #expect(second(original).problems.count == 1)
    }

    @Test("is refused if a socket's name has no room for a longer one")
    func longPath() {
        let path = "/" + String(repeating: "x", count: 100)
        #expect(second("-qmp unix:\(path),server").problems.count == 1)
    }
}
