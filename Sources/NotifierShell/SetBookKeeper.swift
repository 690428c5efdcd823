import Fleet
import Logging
import Notices
import SessionCore
import UvLoop
import Wire

/// Asks the leader for its availability sets: when events make one doubt what is known, and now and then
/// after that. Nothing waits for the answer; until it is there no advice is given.
final class SetBookKeeper {
    var onBook: ((SetBook) -> Void)?

    private let client: SessionClient
    private let loop: Loop
    private let log: Logger
    private var book = SetBook()
    private var isAsking = false
    private var hasAsked = false
    private var asking: UvLoop.Timer?
    /// Before that it is not asked again because of events.
    private var restsUntil: Int64 = .min

    private static let timeout = Duration.seconds(10)
    private static let interval = Duration.seconds(600)
    private static let restMilliseconds: Int64 = 2_000
    /// A large fleet's answer takes a while to make: asking takes a twentieth of the time at most.
    private static let restFactor: Int64 = 20

    init(_ client: SessionClient, loop: Loop, log: Logger) {
        self.client = client
        self.loop = loop
        self.log = log
    }

    func start() {
        asking = loop.every(Self.interval) { [unowned self] in if hasAsked { ask() } }
    }

    func stop() { asking?.cancel() }

    /// With a new one nothing is asked until events give a reason.
    func onSession() {
        isAsking = false
        hasAsked = false
        restsUntil = .min
    }

    func onEvents(_ events: [FleetEvent]) {
        guard loop.nowMilliseconds >= restsUntil, book.isDoubted(by: events) else { return }
        ask()
    }

    private func ask() {
        guard client.isReady, !isAsking else { return }
        isAsking = true
        hasAsked = true
        let began = loop.nowMilliseconds
        client.request(.query(.sets), timeout: Self.timeout) { [weak self] result in
            guard let self else { return }
            isAsking = false
            let took = loop.nowMilliseconds - began
            restsUntil =
                loop.nowMilliseconds + max(Self.restMilliseconds, took * Self.restFactor)
            guard case .success(.queryResult(.sets(let sets))) = result else {
                return log.debug("no answer about sets", metadata: ["result": "\(result)"])
            }
            book = SetBook(sets)
            onBook?(book)
        }
    }
}
