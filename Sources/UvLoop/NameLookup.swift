import CUv
import Glibc

/// Looks up one name on a thread of its own, one question at a time: a name server that never answers delays
/// whoever asks for this name, and nobody else.
public final class NameLookup {
    public typealias Addresses = Result<[SocketAddress], UvError>

    private let place: String
    private let loop: Loop
    private let work: BlockingWork<Addresses>
    private var waiting: [(Addresses) -> Void] = []

    /// - Parameter place: `HOST:PORT`.
    /// - Throws: ``UvError`` when the process is out of descriptors.
    public init(_ place: String, on loop: Loop) throws(UvError) {
        self.place = place
        self.loop = loop
        work = try BlockingWork(on: loop)
    }

    /// Finds the addresses, at least one, in the resolver's order of preference. Who asks while a question is
    /// on its way gets its answer.
    ///
    /// - Parameter completion: called once, later; `EINVAL` if the text is not of the form.
    public func run(completion: @escaping (Addresses) -> Void) {
        waiting.append(completion)
        guard waiting.count == 1 else { return }
        let needed = lookUpIsNeeded(place, on: loop) { [weak self] in self?.answer($0) }
        guard let (host, port) = needed else { return }
        work.run { [place] in
            lookUp(host, port: port, subject: place)
        } completion: { [weak self] result in
            guard let self else { return }
            let busy = UvError(code: -EAGAIN, operation: "resolve", subject: place)
            answer(result ?? .failure(busy))
        }
    }

    private func answer(_ result: Addresses) {
        let completions = waiting
        waiting = []
        for completion in completions { completion(result) }
    }
}

private func lookUp(_ host: String, port: UInt16, subject: String) -> NameLookup.Addresses {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let result = getaddrinfo(host, nil, &hints, &list)
    let systemCode = -errno
    defer { if let list { freeaddrinfo(list) } }
    let found = addresses(in: list, port: port)
    if result == 0, !found.isEmpty { return .success(found) }
    let code =
        switch result {
        case 0: UV_EAI_NODATA.rawValue
        case EAI_SYSTEM: systemCode
        case EAI_AGAIN: UV_EAI_AGAIN.rawValue
        case EAI_NONAME: UV_EAI_NONAME.rawValue
        case EAI_MEMORY: UV_EAI_MEMORY.rawValue
        // Glibc's -5, for which its header wants _GNU_SOURCE.
        case -5: UV_EAI_NODATA.rawValue
        default: UV_EAI_FAIL.rawValue
        }
    return .failure(UvError(code: code, operation: "resolve", subject: subject))
}
