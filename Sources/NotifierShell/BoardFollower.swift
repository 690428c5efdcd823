// The board's half of a notifier: what guests read before a hold, and what they acknowledge.
//
//   session ready ─▶ query notices and guests ─┬─▶ board known: events go on from its cursor
//                                              └─▶ board new, or events missing: it is loaded from
//                                                  the answer, and asked for again if the events
//                                                  seen meanwhile are newer than the answer
//
// Happy path: an event of the leader is folded, kept and given to the web server in one turn of the
// loop. An acknowledgement is kept in the database, then answered, then sent to the leader until
// that has taken it.
// Failure modes: the leader is away → documents stay as they are, acknowledgements wait; an address
// that no guest has asks → the inventory is asked for anew, ever more seldom while it stays as it is
// (``InventoryPauses``), and by itself every minute or two; a restart → the numbers of documents go on from
// the database; the board is behind what is stored of annotations (guests were not served for a while, or
// the session ended before the inventory was there) → it is loaded, and nothing of before is given out first.
public import Fleet
import Logging
import NoticeServer
public import Notices
import SessionCore
public import UvLoop
import Wire

/// How a notifier serves guests.
public struct GuestService: Sendable {
    public var listen: [SocketAddress]
    /// Only guests of this host, and only their holds are recorded; nil serves all guests.
    public var host: HostID?
    /// Believed when they say for whom they ask.
    public var proxies: TrustedProxies
    public init(
        listen: [SocketAddress], host: HostID?, proxies: TrustedProxies = TrustedProxies()
    ) {
        self.listen = listen
        self.host = host
        self.proxies = proxies
    }
}

final class BoardFollower {
    var onListening: ((String) -> Void)?
    var onFatal: ((NotifierError) -> Void)?

    /// Guests are served at every address.
    var isListening: Bool { listeningCount == addressCount }
    var isForOneHost: Bool { host != nil }
    private let host: HostID?
    private let loop: Loop
    private let log: Logger
    private let store: NotifierStore
    private let client: SessionClient
    /// Of the texts of records that guests ask for.
    private let renderer: BulletinRenderer
    private let server: NoticeHTTPServer
    private let mailbox: Mailbox<ServerRequest>
    private let addressCount: Int
    private var listeningCount = 0
    private var watch: DescriptorWatch?
    private var resending: UvLoop.Timer?
    private var refreshing: UvLoop.Timer?
    /// What guests are told, once it is published.
    private(set) var board: NoticeBoard
    /// The board lacks events: what comes is of no use before it is loaded.
    private var needsNotices: Bool { didSet { if needsNotices { board.lackEvents() } } }
    /// Without the guests it cannot be told whose documents an event changes: it waits for them.
    private var hasGuests = false
    /// The sets of the guests known last.
    private(set) var book = SetBook()
    private var waiting: [FleetEvent] = []
    private var isUnpublished = false
    private var isAskingNotices = false
    private var isAskingGuests = false
    /// Newest event that the leader was heard to have.
    private var lastSequence: UInt64 = 0
    private var pauses = InventoryPauses()
    private var hasWarnedOfHost = false
    private var sending: Set<PendingAcknowledgement> = []

    private static let resendInterval = Duration.seconds(30)
    /// Of the inventory, for what nobody asks about; not all notifiers at once.
    private static let refreshMilliseconds: ClosedRange<Int64> = 60_000...120_000
    /// Of events; behind more the board is loaded anew.
    private static let waitingMax = 10_000
    private static let requestTimeout = Duration.seconds(10)

    init(
        _ service: GuestService, store: NotifierStore, client: SessionClient,
        renderer: BulletinRenderer, loop: Loop, log: Logger
    ) throws(NotifierError) {
        self.renderer = renderer
        self.store = store
        self.client = client
        self.loop = loop
        self.log = log
        host = service.host
        addressCount = service.listen.count
        do {
            let memory = try store.boardMemory()
            let stored = try store.cursor()
            var board = NoticeBoard(memory, host: service.host)
            // The annotations' half has gone on without guests being served, or was killed ahead of it:
            // what is between is not sent again.
            let isBehind = service.host == nil && memory.cursor != stored
            needsNotices = memory.base == 0 || isBehind
            if needsNotices { board.lackEvents() }
            self.board = board
        } catch {
            throw .store(error)
        }
        do {
            let mailbox = try Mailbox<ServerRequest>()
            self.mailbox = mailbox
            // Descriptors that are left for the session, the database and what is opened in between.
            let connectionsMax = max(64, Descriptors.raiseLimit() - 128)
            server = NoticeHTTPServer(
                listen: service.listen.map { ListenAddress(ip: $0.ip, port: $0.port) },
                cluster: renderer.cluster, proxies: service.proxies, connectionsMax: connectionsMax,
                log: log,
                post: { mailbox.post($0) })
        } catch {
            throw .cannotListen("the web: \(error)")
        }
    }

    /// Sequence of the last event folded.
    var cursor: UInt64 { board.cursor }

    func start() {
        do {
            watch = try mailbox.deliver(on: loop) { [unowned self] in onRequest($0) }
        } catch {
            return onFatal?(.cannotListen("the web: \(error)")) ?? ()
        }
        resending = loop.every(Self.resendInterval) { [unowned self] in
            guarded { () throws(NotifierStoreError) in try sendAcknowledgements() }
        }
        refreshLater()
        server.start()
    }

    private func refreshLater() {
        let wait = loop.random(in: Self.refreshMilliseconds)
        refreshing = loop.after(.milliseconds(wait)) { [unowned self] in
            askGuests()
            refreshLater()
        }
    }

    /// Open streams end in order.
    func stop() {
        resending?.cancel()
        refreshing?.cancel()
        server.stop()
    }

    // MARK: The leader

    func onSession() {
        isAskingNotices = false
        isAskingGuests = false
        sending = []
        waiting = []
        guarded { () throws(NotifierStoreError) in
            // Events that waited for the guests are stored and acknowledged: they do not come again.
            let stored = try store.cursor()
            if !isForOneHost, board.cursor < stored { needsNotices = true }
            askNotices()
            askGuests()
            try sendAcknowledgements()
        }
    }

    /// Keeps what follows from events; ``publish()`` gives it out, when it is durable.
    func onBatch(_ events: [FleetEvent], lastSequence: UInt64) throws(NotifierStoreError) {
        self.lastSequence = max(lastSequence, events.last?.sequence ?? 0)
        if self.lastSequence < board.cursor { needsNotices = true }
        guard hasGuests else {
            waiting += events
            if waiting.count > Self.waitingMax {
                waiting = []
                needsNotices = true
            }
            return
        }
        try fold(events)
    }

    private func fold(_ events: [FleetEvent]) throws(NotifierStoreError) {
        var isChanged = false
        for event in events where !needsNotices {
            switch board.apply(event) {
            case .unchanged: break
            case .changed: isChanged = true
            case .gap: needsNotices = true
            }
        }
        if needsNotices { askNotices() }
        try keep(isChanged: isChanged)
        if !board.knowsAllGuests { askGuestsSoon() }
    }

    private func askNotices() {
        guard client.isReady, hasGuests, !isAskingNotices else { return }
        isAskingNotices = true
        client.request(.query(.notices), timeout: Self.requestTimeout) { [weak self] result in
            guard let self else { return }
            isAskingNotices = false
            guard
                case .success(.queryResult(.notices(let notices, let sequence))) = result
            else { return retry(result) { $0.askNotices() } }
            guarded { () throws(NotifierStoreError) in try self.take(notices, sequence) }
        }
    }

    private func take(_ notices: [Notice], _ sequence: UInt64) throws(NotifierStoreError) {
        guard needsNotices || sequence < board.cursor else { return }
        board.load(notices, sequence: sequence)
        // Events that came before the answer were passed over; the answer may be older than they.
        needsNotices = sequence < lastSequence
        if needsNotices { askNotices() }
        try keep(isChanged: true)
        publish()
        if !board.knowsAllGuests { askGuestsSoon() }
    }

    private func askGuests() {
        guard client.isReady, !isAskingGuests else { return }
        isAskingGuests = true
        pauses.onAsked(nowMilliseconds: loop.nowMilliseconds)
        client.request(.query(.guests), timeout: Self.requestTimeout) { [weak self] result in
            guard let self else { return }
            isAskingGuests = false
            guard case .success(.queryResult(.guests(let views))) = result else {
                return retry(result) { $0.askGuests() }
            }
            guarded { () throws(NotifierStoreError) in
                try self.take(views.map { BoardGuest($0) })
            }
        }
    }

    private func take(_ guests: [BoardGuest]) throws(NotifierStoreError) {
        let isChanged = board.take(guests)
        if isForOneHost, isChanged { book = SetBook(guests) }
        if isChanged { pauses.onChange() }
        warnOfHost(guests)
        for address in board.claimedTwice.sorted() where isChanged {
            log.warning(
                "two guests have one address; neither is known by it",
                metadata: ["address": "\(address)"])
        }
        try keep(isChanged: isChanged)
        if !hasGuests {
            hasGuests = true
            let events = waiting
            waiting = []
            try fold(events)
        }
        publish()
    }

    /// Once, until it has guests: they may be reported later.
    private func warnOfHost(_ guests: [BoardGuest]) {
        guard let host else { return }
        let isThere = guests.contains { $0.host == host }
        if !isThere, !hasWarnedOfHost {
            log.warning(
                """
                the inventory has no guest of this host: nobody is served. Is its name that of the \
                host file, and does its agent run?
                """, metadata: ["host": "\(host)"])
        }
        hasWarnedOfHost = !isThere
    }

    /// - Parameter address: that nobody has; nil for guests in notices.
    private func askGuestsSoon(for address: String? = nil) {
        guard client.isReady, !isAskingGuests else { return }
        let unknown = address.map { [$0] } ?? board.unknownGuests.map { "guest \($0)" }
        // Before there are any guests, who asks is not known to be a stranger.
        guard
            pauses.mayAsk(
                for: board.isReady ? unknown : [], nowMilliseconds: loop.nowMilliseconds)
        else { return }
        askGuests()
    }

    /// A refusal, as by a leader that is just being deposed, is asked again a little later.
    private func retry(
        _ result: Result<Message, RequestError>, _ ask: @escaping (BoardFollower) -> Void
    ) {
        guard client.isReady else { return }
        log.debug("no answer about notices", metadata: ["result": "\(result)"])
        loop.after(.seconds(1)) { [weak self] in self.map(ask) }
    }

    private func keep(isChanged: Bool) throws(NotifierStoreError) {
        if let changes = board.takeChanges() { try store.save(changes) }
        if isChanged { isUnpublished = true }
    }

    /// Gives out what has changed.
    func publish() {
        if isUnpublished { server.publish(board) }
        isUnpublished = false
    }

    // MARK: The web server

    func onRequest(_ request: ServerRequest) {
        switch request {
        case .listening(let address):
            listeningCount += 1
            onListening?(address)
        case .failed(let reason): onFatal?(.cannotListen(reason))
        case .unknownAddress(let address): askGuestsSoon(for: address)
        case .acknowledge(let guest, let eventIDs, let mustBeSeen, let reply):
            guarded { () throws(NotifierStoreError) in
                let isSeen = try acknowledge(eventIDs, by: guest)
                reply(
                    isSeen || !mustBeSeen
                        ? GuestAnswer(status: 200)
                        : .error(404, "There is no such event, or it is over."))
            }
        case .annotations(let guest, let limit, let reply):
            guarded { () throws(NotifierStoreError) in
                let holds = try store.bulletins(
                    ofAnnotations: AnnotationFilter(guest: guest), limit: limit)
                reply(.json(.array(holds.map { renderer.json(annotation: $0) })))
            }
        }
    }

    /// Says for all guests in an event that it may start, whoever of those who can see it asks: some
    /// cluster managers drain a guest and then let a neighbour of its set say so.
    ///
    /// An event that is gone, is started, or is none of the asker's needs no acknowledgement.
    ///
    /// - Returns: whether the asker sees one of the events.
    private func acknowledge(
        _ eventIDs: [String], by guest: GuestID
    ) throws(NotifierStoreError) -> Bool {
        guard let known = board.guest(guest) else { return false }
        let events = board.document(for: known).events
        var isSeen = false
        for id in eventIDs {
            guard let event = events.first(where: { $0.eventID == id }) else { continue }
            isSeen = true
            guard let notice = board.notice(of: event.step), !notice.isStarted else { continue }
            for held in event.resources where !notice.acknowledgedBy.contains(held) {
                log.info(
                    "acknowledged",
                    metadata: [
                        "step": "\(notice.step)", "guest": "\(held)", "by": "\(guest)",
                    ])
                try store.save(
                    PendingAcknowledgement(
                        step: notice.step, guest: held, noticedAt: notice.noticedAt))
            }
        }
        try sendAcknowledgements()
        return isSeen
    }

    private func sendAcknowledgements() throws(NotifierStoreError) {
        guard client.isReady else { return }
        for pending in try store.pendingAcknowledgements() where !sending.contains(pending) {
            // Nobody is ready for a notice that was given anew. The leader says so too, if it is of today.
            if let noticedAt = pending.noticedAt, let notice = board.notice(of: pending.step),
                notice.noticedAt > noticedAt
            {
                try store.remove(pending)
                continue
            }
            sending.insert(pending)
            client.request(
                .command(
                    .acknowledgeNotice(
                        pending.step, guest: pending.guest, noticedAt: pending.noticedAt)),
                timeout: Self.requestTimeout
            ) { [weak self] result in
                guard let self else { return }
                sending.remove(pending)
                switch result {
                case .success(.refused(let refusal)) where refusal.code != .unavailable:
                    log.notice(
                        "the server did not take an acknowledgement",
                        metadata: [
                            "step": "\(pending.step)", "guest": "\(pending.guest)",
                            "reason": "\(refusal.message)",
                        ])
                    fallthrough
                case .success(.commandAccepted):
                    guarded { () throws(NotifierStoreError) in try self.store.remove(pending) }
                // Sent again with the next session, or in half a minute.
                default: break
                }
            }
        }
    }

    private func guarded(_ body: () throws(NotifierStoreError) -> Void) {
        do {
            try body()
        } catch {
            onFatal?(.store(error))
        }
    }
}
