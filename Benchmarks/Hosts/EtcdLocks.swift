import Foundation
import UvLoop

/// The peer: clients that take and give back locks by etcd's own lock API, over its JSON gateway.
///
/// Each client has a lease of its own, made before, and a lock of its own, so that nobody waits for
/// another: the fastest that this API can be used.
final class EtcdLocks {
    private let loop: Loop
    private let http: HTTPClient
    private let servers: [String]
    private let clientCount: Int
    private let duration: Duration
    private var leases: [String] = []
    private var granted = 0
    private var count = 0
    private var failures = 0
    private var since = ContinuousClock.now
    private var isOver = false

    init(servers: [String], clientCount: Int, seconds: Int) throws {
        loop = try Loop()
        http = HTTPClient(on: loop)
        self.servers = servers
        self.clientCount = clientCount
        duration = .seconds(seconds)
    }

    func run() {
        leases = [String](repeating: "", count: clientCount)
        for number in 0..<clientCount { lease(number) }
        loop.run()
    }

    private func lease(_ number: Int) {
        call(number, "/v3/lease/grant", ["TTL": "600"]) { [self] answer in
            guard let lease = answer?["ID"] as? String else {
                _ = loop.after(.milliseconds(100)) { [self] in self.lease(number) }
                return
            }
            leases[number] = lease
            granted += 1
            guard granted == clientCount else { return }
            since = .now
            for number in 0..<clientCount { lock(number) }
            _ = loop.after(duration) { [self] in end() }
        }
    }

    private func lock(_ number: Int) {
        let name = Data("lock-\(number)".utf8).base64EncodedString()
        call(number, "/v3/lock/lock", ["name": name, "lease": leases[number]]) { [self] answer in
            guard let key = answer?["key"] as? String else { return failed(number) }
            call(number, "/v3/lock/unlock", ["key": key]) { [self] answer in
                guard answer != nil else { return failed(number) }
                if !isOver { count += 1 }
                lock(number)
            }
        }
    }

    private func failed(_ number: Int) {
        failures += 1
        _ = loop.after(.milliseconds(100)) { [self] in lock(number) }
    }

    private func end() {
        isOver = true
        let (whole, part) = (ContinuousClock.now - since).components
        print(
            "{\"locks\":\(count),\"failures\":\(failures),"
                + "\"seconds\":\(Double(whole) + Double(part) / 1e18)}")
        fflush(nil)
        exit(0)
    }

    private func call(
        _ number: Int, _ path: String, _ body: [String: String],
        completion: @escaping ([String: Any]?) -> Void
    ) {
        let data = (try? JSONSerialization.data(withJSONObject: body)) ?? Data()
        _ = http.send(
            HTTPRequest(url: servers[number % servers.count] + path, body: [UInt8](data))
        ) { result in
            guard case .success(let answer) = result, answer.status == 200 else {
                return completion(nil)
            }
            let object = try? JSONSerialization.jsonObject(with: Data(answer.body))
            completion(object as? [String: Any] ?? [:])
        }
    }
}
