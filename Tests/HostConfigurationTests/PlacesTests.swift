import HostConfiguration
import Testing

@Suite struct PlacesTests {
    private let text = """
        host: a
        hypervisor:
          path: /qemu
        guests:
          - id: db-0
            disks:
              - {path: /one, format: raw}
              - path: /two
          - id: db-1
        """

    @Test(
        "a part is found where it stands, and one that is not written at what is around it",
        arguments: [
            ("host", 1, 7), ("hypervisor.path", 3, 9), ("guests", 4, 1), ("guests[0]", 5, 5),
            ("guests[0].disks[0].path", 7, 16), ("guests[0].disks[1].path", 8, 15),
            ("guests[1].id", 9, 9), ("guests[1].memory", 9, 5), ("guests[7].id", 4, 1),
            ("runDirectory", 1, 1), ("host.more", 1, 7), ("guests[0].disks[1].format", 8, 9),
        ])
    func place(path: String, line: Int, column: Int) throws {
        let place = try #require(HostFilePlaces(text)?.place(of: path))
        #expect(place == (line, column))
    }

    @Test("what is no YAML has no places, and an empty file neither")
    func none() {
        #expect(HostFilePlaces("a: [") == nil)
        #expect(HostFilePlaces("")?.place(of: "host") == nil)
    }
}
