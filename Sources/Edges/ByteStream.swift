/// Why a stream is over.
public enum StreamEnd: Error, Hashable, Sendable, CustomStringConvertible {
    /// The peer has said everything (for TLS: with its close_notify).
    case endOfFile
    case failed(UvError)
    /// TLS says that the bytes cannot be trusted; the text says why.
    case tls(String)
    /// The peer has refused us with an alert; see ``TLSAlert/init(ofReason:)``.
    case refused(reason: String)
    /// ``ByteStream/close()`` or ``ByteStream/closeAfterWriting()`` was called on our side.
    case closedHere

    public var description: String {
        switch self {
        case .endOfFile: "closed by the peer"
        case .failed(let error): error.description
        case .tls(let reason): "TLS: \(reason)"
        case .refused(let reason): "TLS: the peer refused our certificate or offer: \(reason)"
        case .closedHere: "closed here"
        }
    }
}

/// Bytes in order, both ways. Belongs to the loop's thread.
///
/// The loop keeps an open stream alive. Its closures are dropped after `onEnd`, so cycles through
/// them end there.
public protocol ByteStream: AnyObject {
    /// Called with what has arrived; the bytes are valid during the call only.
    /// Nothing is read while this is nil, and then an end is not noticed either.
    var onBytes: ((UnsafeRawBufferPointer) -> Void)? { get set }
    /// Called exactly once, never from inside a call to the stream.
    /// After `.endOfFile` what has been written by the time it returns is flushed and the
    /// stream closes by itself.
    var onEnd: ((StreamEnd) -> Void)? { get set }
    /// Queues in order; tries the kernel at once.
    func write(_ bytes: [UInt8])
    /// - Parameter completion: called once, later, when the kernel has taken all the bytes (nil) or
    ///   never will.
    func write(_ bytes: [UInt8], completion: @escaping (UvError?) -> Void)
    /// Bytes not yet taken by the kernel.
    var queuedByteCount: Int { get }
    /// Closes now; pending writes are dropped and their completions get `ECANCELED`.
    func close()
    /// Flushes, then closes; gives up on a peer that does not read for 10 s.
    func closeAfterWriting()
}
