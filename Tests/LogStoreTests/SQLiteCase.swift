import Foundation
import LogCore
import LogStore
import Testing
import UvLoop

/// What the suites of the embedded log share: a directory of its own for each test, and a loop.
class SQLiteCase {
    let directory = NSTemporaryDirectory() + "fermata-log-\(UUID().uuidString)"
    let loop: Loop

    init() throws { loop = try Loop() }
    deinit { try? FileManager.default.removeItem(atPath: directory) }

    func wait<T>(_ start: (@escaping (Result<T, LogStoreError>) -> Void) -> Void) throws -> T {
        var answer: Result<T, LogStoreError>?
        start { [loop] result in
            answer = result
            loop.stop()
        }
        #expect(answer == nil, "a completion came inside the call")
        loop.run()
        return try #require(answer).get()
    }

    func open() throws -> (SQLiteLogStore, OpenedLog) {
        let store = SQLiteLogStore(directory: directory, loop: loop)
        let writer = LogWriter(name: "one", address: "")
        return (store, try wait { store.lead(as: writer, after: 0, completion: $0) })
    }
}
