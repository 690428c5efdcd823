// A syslog daemon, by datagrams or over one TCP connection that is kept.
//
// Happy path: a datagram is taken when the kernel has it, a message over TCP when the other side's kernel
// has acknowledged its last byte: syslog itself answers nothing.
// Failure modes: nobody listens, no acknowledgement in time (a program that reads no more, a computer that
// is gone), the connection ends → later, over a new connection. What a daemon has not read when it dies is
// lost although it was acknowledged, and a datagram may be lost on its way: RFC 5424 knows no better.
// A name server that does not answer keeps what is due to this daemon waiting, and nothing of other sinks.
import Notices
import UvLoop

final class SyslogReceiver: Receiver {
    private let settings: SyslogSettings
    private let renderer: BulletinRenderer
    private let hostname: String
    private let loop: Loop
    /// nil for a path.
    private let lookup: NameLookup?
    private var sender: DatagramSender?
    /// Where ``sender`` sends to, by UDP; nil before it is known, and after a failure.
    private var address: SocketAddress?
    /// When the name is looked up again, while datagrams go to the address known so far.
    private var freshUntil: Int64 = .min
    private var stream: SyslogStream?

    private static let freshMilliseconds: Int64 = 300_000

    /// - Throws: ``UvError`` when the process is out of descriptors.
    init(
        _ settings: SyslogSettings, _ renderer: BulletinRenderer, hostname: String, on loop: Loop
    ) throws(UvError) {
        switch settings.transport {
        case .unix: lookup = nil
        case .udp(let place), .tcp(let place): lookup = try NameLookup(place, on: loop)
        }
        self.renderer = renderer
        self.settings = settings
        self.hostname = hostname
        self.loop = loop
    }

    func take(_ items: [OutboxItem], completion: @escaping (DeliveryOutcome) -> Void) {
        let bulletin = items[0].bulletin
        let text = renderer.text(bulletin)
        let bytes = SyslogMessage.bytes(
            bulletin, text: text, facility: settings.facility, hostname: hostname)
        switch settings.transport {
        case .unix(let path):
            completion(
                send(bytes, by: &sender) { () throws(UvError) in
                    try DatagramSender(unixPath: path)
                })
        case .udp:
            if let address {
                if loop.nowMilliseconds >= freshUntil { lookUp { _ in } }
                completion(sendByUDP(bytes, to: address))
            } else {
                lookUp { [self] result in
                    switch result {
                    case .success(let address): completion(sendByUDP(bytes, to: address))
                    case .failure(let error):
                        completion(.later(reason: "\(error)", afterMilliseconds: nil))
                    }
                }
            }
        case .tcp(let place):
            if stream?.hasEnded ?? true {
                stream = lookup.map { SyslogStream(to: place, $0, on: loop) }
            }
            stream?.write(SyslogMessage.framed(bytes), completion)
        }
    }

    private func sendByUDP(_ bytes: [UInt8], to address: SocketAddress) -> DeliveryOutcome {
        let outcome = send(bytes, by: &sender) { () throws(UvError) in
            try DatagramSender(udp: address)
        }
        if sender == nil { self.address = nil }
        return outcome
    }

    /// - Parameter completion: called once, later.
    private func lookUp(completion: @escaping (Result<SocketAddress, UvError>) -> Void) {
        freshUntil = loop.nowMilliseconds + Self.freshMilliseconds
        lookup?.run { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let addresses):
                if address != addresses[0] { sender = nil }
                address = addresses[0]
                completion(.success(addresses[0]))
            case .failure(let error):
                completion(.failure(error))
            }
        }
    }
}

/// One connection, from the look-up of the name on. It ends once, with whatever was not acknowledged.
private final class SyslogStream {
    private(set) var hasEnded = false
    private let place: String
    private let loop: Loop
    private var stream: SocketStream?
    /// Not written yet.
    private var early: [(bytes: [UInt8], completion: (DeliveryOutcome) -> Void)] = []
    private var unacknowledged: [Message] = []
    private var writtenByteCount = 0
    private var looking: UvLoop.Timer?
    private var pause = firstPause

    private struct Message {
        /// Of all bytes written, up to its last one.
        var end: Int
        var limitMilliseconds: Int64
        var completion: (DeliveryOutcome) -> Void
    }

    private static let connectLimit = Duration.seconds(5)
    private static let acknowledgeLimitMilliseconds: Int64 = 10_000
    /// Between two looks at what is acknowledged: as a rule it takes less than a millisecond, and with a
    /// receiver that delays its acknowledgements 40 ms.
    private static let firstPause = Duration.milliseconds(1)
    private static let longestPause = Duration.milliseconds(16)

    init(to place: String, _ lookup: NameLookup, on loop: Loop) {
        self.place = place
        self.loop = loop
        lookup.run { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let addresses): connect(addresses[...])
            case .failure(let error): end("\(error)")
            }
        }
    }

    func write(_ bytes: [UInt8], _ completion: @escaping (DeliveryOutcome) -> Void) {
        guard let stream else {
            early.append((bytes, completion))
            return
        }
        writtenByteCount += bytes.count
        unacknowledged.append(
            Message(
                end: writtenByteCount,
                limitMilliseconds: loop.nowMilliseconds + Self.acknowledgeLimitMilliseconds,
                completion: completion))
        stream.write(bytes) { [weak self] error in
            if let error { self?.end("\(error)") }
        }
        pause = Self.firstPause
        lookLater()
    }

    /// - Parameter addresses: of the name, at least one; tried one after the other.
    private func connect(_ addresses: ArraySlice<SocketAddress>) {
        let address = addresses[addresses.startIndex]
        SocketStream.connectTCP(address, on: loop, timeout: Self.connectLimit) {
            [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let stream):
                self.stream = stream
                // Read, so that its end is noticed; nothing is expected.
                stream.onBytes = { _ in }
                stream.onEnd = { [weak self] _ in
                    self?.settle()
                    self?.end("\(address) has closed the connection")
                }
                let early = early
                self.early = []
                for (bytes, completion) in early { write(bytes, completion) }
            case .failure(let error):
                let others = addresses.dropFirst()
                others.isEmpty ? end("\(error)") : connect(others)
            }
        }
    }

    private func lookLater() {
        guard !unacknowledged.isEmpty, !hasEnded else { return }
        looking?.cancel()
        looking = loop.after(pause) { [weak self] in self?.look() }
        pause = min(pause * 2, Self.longestPause)
    }

    private func look() {
        settle()
        if let oldest = unacknowledged.first, oldest.limitMilliseconds <= loop.nowMilliseconds {
            end("\(place) has not acknowledged what was sent for 10 s")
        }
        lookLater()
    }

    /// Says of all that is acknowledged that it is taken.
    private func settle() {
        guard let left = stream?.unacknowledgedByteCount else { return }
        let acknowledged = writtenByteCount - left
        let count = unacknowledged.prefix { $0.end <= acknowledged }.count
        let taken = unacknowledged.prefix(count)
        unacknowledged.removeFirst(count)
        for message in taken { message.completion(.taken) }
    }

    private func end(_ reason: String) {
        guard !hasEnded else { return }
        hasEnded = true
        looking?.cancel()
        let left = early.map(\.completion) + unacknowledged.map(\.completion)
        early = []
        unacknowledged = []
        stream?.close()
        for completion in left { completion(.later(reason: reason, afterMilliseconds: nil)) }
    }
}
