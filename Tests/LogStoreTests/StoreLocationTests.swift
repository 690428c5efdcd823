import LogStore
import Testing

@Suite("Where a log is")
struct StoreLocationTests {
    @Test(
        "locations are read, and written as they are read",
        arguments: [
            ("sqlite:/var/lib/x", StoreLocation.sqlite(directory: "/var/lib/x"), nil),
            ("data", .sqlite(directory: "data"), "sqlite:data"),
            ("./a:b", .sqlite(directory: "./a:b"), "sqlite:./a:b"),
            ("sqlite:a:b", .sqlite(directory: "a:b"), nil),
            ("etcd:http://a:2379", .etcd(urls: ["http://a:2379"]), nil),
            (
                "etcd:https://a:2379/,https://[::1]:2379",
                .etcd(urls: ["https://a:2379", "https://[::1]:2379"]),
                "etcd:https://a:2379,https://[::1]:2379"
            ),
        ] as [(String, StoreLocation, String?)])
    func valid(text: String, location: StoreLocation, written: String?) throws {
        #expect(try StoreLocation(parsing: text) == location)
        #expect(location.description == written ?? text)
    }

    @Test(
        "what is no location is told why",
        arguments: [
            ("", "no directory is named"), ("sqlite:", "no directory is named"),
            ("ftp:x", "'ftp' is no kind of store"), ("etcd:", "is not the URL"),
            ("etcd:a:2379", "is not the URL"), ("etcd:https://", "is not the URL"),
            ("etcd:https://a/b", "is not the URL"), ("etcd:https://a,,", "'' is not the URL"),
        ])
    func invalid(text: String, says: String) {
        #expect {
            try StoreLocation(parsing: text)
        } throws: { error in
            (error as? StoreLocation.Malformed)?.reason.contains(says) == true
        }
    }
}
