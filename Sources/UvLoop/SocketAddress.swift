import CUv
import Glibc

/// An IPv4 or IPv6 address and a port.
public struct SocketAddress: Hashable, Sendable, CustomStringConvertible {
    public let ip: String
    public let port: UInt16

    /// - Returns: nil unless `ip` is a numeric address.
    public init?(ip: String, port: UInt16) {
        var v4 = sockaddr_in()
        var v6 = sockaddr_in6()
        guard uv_ip4_addr(ip, 0, &v4) == 0 || uv_ip6_addr(ip, 0, &v6) == 0 else { return nil }
        self.ip = ip
        self.port = port
    }

    /// Reads `1.2.3.4:99` or `[::1]:99`.
    public init?(parsing text: String) {
        guard let (host, port) = splitHostAndPort(text) else { return nil }
        self.init(ip: host, port: port)
    }

    public var description: String { ip.contains(":") ? "[\(ip)]:\(port)" : "\(ip):\(port)" }

    init?(_ storage: UnsafePointer<sockaddr>) {
        var name = [CChar](repeating: 0, count: 64)
        guard uv_ip_name(storage, &name, name.count) == 0 else { return nil }
        ip = String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let inPort = UnsafeRawPointer(storage).loadUnaligned(
            fromByteOffset: 2, as: UInt16.self)  // sin_port and sin6_port are at the same place
        port = UInt16(bigEndian: inPort)
    }

    func withRaw<Result>(_ body: (UnsafePointer<sockaddr>) -> Result) -> Result {
        var storage = sockaddr_storage()
        return withUnsafeMutablePointer(to: &storage) { pointer in
            let raw = UnsafeMutableRawPointer(pointer)
            let v4 = raw.assumingMemoryBound(to: sockaddr_in.self)
            if uv_ip4_addr(ip, Int32(port), v4) != 0 {
                uv_ip6_addr(ip, Int32(port), raw.assumingMemoryBound(to: sockaddr_in6.self))
            }
            return body(UnsafePointer(raw.assumingMemoryBound(to: sockaddr.self)))
        }
    }
}

/// Splits at the last colon, and takes the brackets off an IPv6 address.
private func splitHostAndPort(_ text: String) -> (host: String, port: UInt16)? {
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...])
    else { return nil }
    var host = text[..<colon]
    if host.hasPrefix("[") {
        guard host.hasSuffix("]") else { return nil }
        host = host.dropFirst().dropLast()
    } else if host.contains(":") {
        return nil
    }
    return host.isEmpty ? nil : (String(host), port)
}

private final class Resolution {
    let subject: String
    let port: UInt16
    let completion: (Result<[SocketAddress], UvError>) -> Void
    let loop: Loop

    init(
        _ subject: String, _ port: UInt16, _ loop: Loop,
        _ completion: @escaping (Result<[SocketAddress], UvError>) -> Void
    ) {
        self.subject = subject
        self.port = port
        self.loop = loop
        self.completion = completion
    }

    func finish(_ status: Int32, _ list: UnsafeMutablePointer<addrinfo>?) {
        let addresses = addresses(in: list, port: port)
        uv_freeaddrinfo(list)
        if status == 0, !addresses.isEmpty {
            completion(.success(addresses))
        } else {
            let code = status == 0 ? UV_EAI_NODATA.rawValue : status
            completion(.failure(UvError(code: code, operation: "resolve", subject: subject)))
        }
    }
}

/// Each once, in their order.
func addresses(in list: UnsafeMutablePointer<addrinfo>?, port: UInt16) -> [SocketAddress] {
    var addresses: [SocketAddress] = []
    var entry = list
    while let current = entry?.pointee {
        if let raw = current.ai_addr, let found = SocketAddress(raw),
            let address = SocketAddress(ip: found.ip, port: port), !addresses.contains(address)
        {
            addresses.append(address)
        }
        entry = current.ai_next
    }
    return addresses
}

/// Answers, later, what nobody has to be asked for: an address in numbers, and `EINVAL` to what is no
/// `HOST:PORT`.
///
/// - Returns: what has to be looked up; nil if it is answered.
func lookUpIsNeeded(
    _ hostAndPort: String, on loop: Loop,
    completion: @escaping (Result<[SocketAddress], UvError>) -> Void
) -> (host: String, port: UInt16)? {
    guard let (host, port) = splitHostAndPort(hostAndPort) else {
        let error = UvError(code: -EINVAL, operation: "resolve", subject: hostAndPort)
        loop.soon { completion(.failure(error)) }
        return nil
    }
    guard let address = SocketAddress(ip: host, port: port) else { return (host, port) }
    loop.soon { completion(.success([address])) }
    return nil
}

/// Finds the addresses of `HOST:PORT`, in the resolver's order of preference.
///
/// On libuv's threads, of which there are four for the whole process: a name server that does not answer
/// delays all that look something up. Who must not be delayed by others has a ``NameLookup``.
///
/// - Parameter completion: called once, later; `EINVAL` if the text is not of that form.
public func resolve(
    _ hostAndPort: String, on loop: Loop,
    completion: @escaping (Result<[SocketAddress], UvError>) -> Void
) {
    guard let (host, port) = lookUpIsNeeded(hostAndPort, on: loop, completion: completion)
    else { return }
    let resolution = Resolution(hostAndPort, port, loop, completion)
    let request = allocateZeroed(uv_getaddrinfo_t.self)
    request.pointee.data = Unmanaged.passRetained(resolution).toOpaque()
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    let result = uv_getaddrinfo(
        loop.raw, request,
        { request, status, list in
            let resolution = takeOwner(request?.pointee.data, as: Resolution.self)
            request?.deallocate()
            resolution.finish(status, list)
        }, host, nil, &hints)
    guard result == 0 else {
        Unmanaged.passUnretained(resolution).release()
        request.deallocate()
        return loop.soon { resolution.finish(result, nil) }
    }
}
