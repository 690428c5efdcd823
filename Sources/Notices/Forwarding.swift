// Reverse proxies that ask for guests. Who asks is known by its address, and that of a proxy is nobody's: it has
// to say for whom it asks, in X-Forwarded-For. Anybody can write that header, so it is believed only of
// proxies that an operator has named, and of what they say only what they have added themselves.
//
//   X-Forwarded-For: 10.0.0.9, 10.0.0.5        from the proxy 10.1.0.1
//                    └ whatever the client      └ the client, as the proxy saw it: it asks
//                      wrote
public import Fleet

/// The proxies that an operator trusts.
public struct TrustedProxies: Hashable, Sendable {
    /// Only looked up.
    private let addresses: Set<IPAddress>

    public init(_ addresses: [IPAddress] = []) { self.addresses = Set(addresses) }

    public func contains(_ address: IPAddress?) -> Bool {
        address.map { addresses.contains($0) } ?? false
    }

    /// For whom one of them asks: the last address in the header that is not one of theirs.
    ///
    /// - Returns: nil if it does not say, or says it in no way that can be read.
    public func asker(in head: RequestHead) -> IPAddress? {
        let values = head.fields.filter { $0.isForwardedFor }.map(\.value)
        for entry in values.joined(separator: ",").split(separator: ",").reversed() {
            // What stands to the left of one that cannot be read is worth nothing.
            guard let address = IPAddress(String(withoutBlanks(entry))) else { return nil }
            if !addresses.contains(address) { return address }
        }
        return nil
    }
}

extension RequestHead {
    /// As if its sender had asked by itself.
    public var withoutForwarding: RequestHead {
        var head = self
        head.fields.removeAll { $0.isForwardedFor }
        return head
    }
}

extension HTTPField {
    fileprivate var isForwardedFor: Bool { name.lowercased() == "x-forwarded-for" }
}
