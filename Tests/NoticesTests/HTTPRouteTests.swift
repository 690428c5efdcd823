import Fleet
import Notices
import Testing

@Suite struct HTTPRouteTests {
    private static let metadata = [HTTPField("Host", "m"), HTTPField("metadata", "True")]

    private func status(_ head: RequestHead) -> Int {
        do {
            _ = try head.route()
            return 200
        } catch {
            return error.status
        }
    }

    @Test(
        "every version of the documents is known, and no other", arguments: EventsVersion.allCases)
    func versions(_ version: EventsVersion) throws {
        for path in ["/metadata/scheduledevents", "/Metadata/ScheduledEvents/"] {
            let target = "\(path)?api-version=\(version.rawValue)"
            let get = RequestHead(method: "GET", target: target, fields: Self.metadata)
            #expect(try get.route() == .events(version))
            let post = RequestHead(method: "POST", target: target, fields: Self.metadata)
            #expect(try post.route() == .acknowledge)
        }
    }

    @Test(
        "what cannot be answered is said",
        arguments: [
            ("GET", "/metadata/scheduledevents", 400),
            ("GET", "/metadata/scheduledevents?api-version=2017-03-02", 400),
            ("GET", "/metadata/scheduledevents?api-version=2020-07-01&API-version=2020-07-01", 400),
            ("PUT", "/metadata/scheduledevents?api-version=2020-07-01", 405),
            ("DELETE", "/metadata/instance?api-version=2021-12-13", 405),
            ("POST", "/metadata/instance?api-version=2021-12-13", 405),
            ("GET", "/metadata/attested/document?api-version=2021-12-13", 404),
            ("GET", "/metadata/../healthz", 400), ("GET", "/metadata/%2e%2e/healthz", 400),
            ("GET", "/healthz%00", 400), ("GET", "/a%2fb", 400), ("GET", "/%zz", 400),
            ("GET", "/%ff%fe", 400), ("GET", "/healthz%", 400), ("GET", "*", 400), ("GET", "", 400),
            ("GET", "/", 404), ("GET", "/healthz", 200), ("HEAD", "/healthz", 200),
            ("POST", "/healthz", 405), ("GET", "http://169.254.169.254/healthz", 200),
            ("GET", "/v1/events", 200), ("GET", "/v1/events?after=x", 400),
            ("GET", "/v1/events?after=-1", 400), ("GET", "/v1/events?after=3&wait=61s", 400),
            ("GET", "/v1/events?after=3&wait=-1s", 400), ("GET", "/v1/events?after=3&wait=9s", 200),
            ("POST", "/v1/events", 405), ("GET", "/v1/annotations?limit=0", 400),
            ("GET", "/v1/annotations?limit=99999999999999999999", 400),
            ("GET", "/v1/annotations?limit=5", 200), ("GET", "/v1/events/x/acknowledgement", 405),
            ("POST", "/v1/events/x/acknowledgement", 200),
        ])
    func refusals(_ method: String, _ target: String, _ expected: Int) {
        let head = RequestHead(method: method, target: target, fields: Self.metadata)
        #expect(status(head) == expected)
    }

    @Test("405 names what is possible")
    func allow() {
        let head = RequestHead(
            method: "PUT", target: "/metadata/scheduledevents", fields: Self.metadata)
        #expect {
            _ = try head.route()
        } throws: {
            ($0 as? GuestAnswer)?.fields.contains(HTTPField("Allow", "GET, HEAD, POST")) == true
        }
    }

    @Test("the metadata service wants its header, and nobody in between")
    func header() {
        let target = "/metadata/scheduledevents?api-version=2020-07-01"
        func with(_ fields: [HTTPField]) -> Int {
            status(
                RequestHead(
                    method: "GET", target: target, fields: [HTTPField("Host", "m")] + fields))
        }
        #expect(with([]) == 400)
        #expect(with([HTTPField("Metadata", "false")]) == 400)
        #expect(with([HTTPField("METADATA", "TRUE")]) == 200)
        #expect(
            with([HTTPField("Metadata", "true"), HTTPField("X-Forwarded-For", "10.0.0.1")]) == 400)
    }

    @Test("a request has one Host, unless it is of HTTP/1.0")
    func host() {
        func with(_ fields: [HTTPField], isVersion10: Bool = false) -> Int {
            status(
                RequestHead(
                    method: "GET", target: "/healthz", fields: fields, isVersion10: isVersion10))
        }
        #expect(with([]) == 400)
        #expect(with([HTTPField("Host", "a"), HTTPField("host", "b")]) == 400)
        #expect(with([], isVersion10: true) == 200)
    }

    @Test("a stream goes on behind what the client has")
    func stream() throws {
        func route(_ fields: [HTTPField]) throws -> Route {
            try RequestHead(
                method: "GET", target: "/v1/events",
                fields: [HTTPField("Host", "m"), HTTPField("Accept", "text/event-stream")] + fields
            ).route()
        }
        #expect(try route([]) == .nativeEvents(.stream(after: nil)))
        #expect(
            try route([HTTPField("Last-Event-ID", "17")]) == .nativeEvents(.stream(after: 17)))
        #expect(throws: GuestAnswer.self) { try route([HTTPField("Last-Event-ID", "x")]) }
    }

    @Test(
        "a tag is found in If-None-Match",
        arguments: [
            ("\"17\"", true), ("W/\"17\"", true), ("\"1\", \"17\" ", true), ("*", true),
            ("\"18\"", false), ("17", false), ("", false),
        ])
    func tags(_ value: String, _ expected: Bool) {
        let head = RequestHead(
            method: "GET", target: "/", fields: [HTTPField("if-none-match", value)])
        #expect(head.has("\"17\"") == expected)
    }

    @Test("a guest reads about itself, whole or a leaf")
    func instance() throws {
        let guest = BoardSamples.guests[0]
        let whole = try InstanceDocument.answer(guest, cluster: "test", path: [], asText: false)
        #expect(String(decoding: whole.body, as: UTF8.self).contains(#""name":"db-0""#))
        let leaf = try InstanceDocument.answer(
            guest, cluster: "test", path: ["compute", "vmid"], asText: true)
        #expect(leaf.body.count == 36)
        for path in [["compute", "nothing"], ["compute", "name", "more"]] {
            #expect(throws: GuestAnswer.self) {
                try InstanceDocument.answer(guest, cluster: "test", path: path, asText: true)
            }
        }
    }
}

@Suite struct StartRequestsTests {
    @Test("ids are taken, each once, in their order")
    func ids() throws {
        let text =
            #"{"Other":1,"StartRequests":[{"EventId":"b"},{"EventId":"a","x":[]},"#
            + #"{"EventId":"b"}]}"#
        #expect(try StartRequests.parse(Array(text.utf8)) == ["b", "a"])
    }

    @Test(
        "anything else is a 400",
        arguments: [
            "", "x", "[]", "null", "{}", #"{"StartRequests":{}}"#, #"{"StartRequests":[]}"#,
            #"{"StartRequests":[1]}"#, #"{"StartRequests":[{"EventId":1}]}"#,
            #"{"StartRequests":[{"EventId":""}]}"#, #"{"StartRequests":[{"EventId":"a"}]} x"#,
            #"{"StartRequests":[{"EventId":"a"}],"StartRequests":[{"EventId":"b"}]}"#,
            #"{"StartRequests":[{"EventId":"a","EventId":"b"}]}"#,
            #"{"StartRequests":"# + String(repeating: "[", count: 50_000),
            #"{"x":[[[[[[[[1]]]]]]]],"StartRequests":[{"EventId":"a"}]}"#,
            #"{"StartRequests":[{"EventId":"\#(String(repeating: "a", count: 129))"}]}"#,
            "{\"StartRequests\":[{\"EventId\":\"a\u{0}\"}]}",
            #"{"StartRequests":[{"EventId":"a"},]}"#,
        ])
    func refuses(_ text: String) {
        #expect {
            try StartRequests.parse(Array(text.utf8))
        } throws: { ($0 as? GuestAnswer)?.status == 400 }
    }
}

@Suite struct HTTPAnswerTests {
    @Test("an answer's header has its length, and ends the connection when it should")
    func head() {
        let answer = GuestAnswer.error(404, "gone")
        let head = answer.head(closes: true)
        #expect(head.hasPrefix("HTTP/1.1 404 Not Found\r\n"))
        #expect(head.contains("Content-Length: 16\r\n") && head.contains("Connection: close\r\n"))
        let unchanged = GuestAnswer.notModified(tag: "\"3\"").head(closes: false)
        #expect(unchanged.contains("ETag: \"3\"\r\n") && !unchanged.contains("Content-Length"))
        #expect(unchanged.contains("Connection: keep-alive\r\n"))
    }

    @Test("who polls once a second is never refused, who floods is, and is let in again")
    func bucket() {
        var bucket = TokenBucket(atMilliseconds: 0)
        for second in Int64(0)..<10_000 {
            #expect(bucket.take(atMilliseconds: second * 1_000) == nil)
        }
        let now: Int64 = 10_000_000
        let taken = (0..<200).prefix { _ in bucket.take(atMilliseconds: now) == nil }
        #expect(taken.count == Int(HTTPLimits.requestBurst))
        let seconds = bucket.take(atMilliseconds: now)
        #expect(seconds == 1)
        #expect(!bucket.isFull(atMilliseconds: now))
        #expect(bucket.take(atMilliseconds: now + 1_000) == nil)
        // A clock that stands still, or is read a little early, takes nothing away.
        #expect(bucket.take(atMilliseconds: now) == nil)
        #expect(bucket.isFull(atMilliseconds: now + 3_600_000))
    }

    @Test("chunks say how long they are")
    func chunks() {
        #expect(chunk(Array("abcdefghijklmnop".utf8)) == Array("10\r\nabcdefghijklmnop\r\n".utf8))
    }
}
