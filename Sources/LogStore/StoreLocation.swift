/// Where a log is, as people write it: `sqlite:DIRECTORY`, a directory alone, or
/// `etcd:URL[,URL…]`.
public enum StoreLocation: Hashable, Sendable, CustomStringConvertible {
    case sqlite(directory: String)
    /// One URL for each member, without a slash at the end.
    case etcd(urls: [String])

    /// What is wrong with a text that is no location, in words for people.
    public struct Malformed: Error, Hashable, Sendable {
        public var reason: String
    }

    public init(parsing text: String) throws(Malformed) {
        guard let colon = text.firstIndex(of: ":"), !text[..<colon].contains("/") else {
            self = try .directory(text[...])
            return
        }
        let rest = text[text.index(after: colon)...]
        switch text[..<colon] {
        case "sqlite": self = try .directory(rest)
        case "etcd": self = .etcd(urls: try Self.urls(rest))
        default:
            throw Malformed(
                reason: "'\(text[..<colon])' is no kind of store; write sqlite:DIRECTORY or "
                    + "etcd:https://HOST:2379,…")
        }
    }

    private static func directory(_ text: Substring) throws(Malformed) -> Self {
        guard !text.isEmpty else { throw Malformed(reason: "no directory is named") }
        return .sqlite(directory: String(text))
    }

    private static func urls(_ text: Substring) throws(Malformed) -> [String] {
        var urls: [String] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            var url = part
            while url.hasSuffix("/") { url.removeLast() }
            let host = ["http://", "https://"].first { url.hasPrefix($0) }.map {
                url.dropFirst($0.count)
            }
            guard let host, !host.isEmpty, !host.contains("/") else {
                throw Malformed(
                    reason: "'\(part)' is not the URL of an etcd member; write "
                        + "https://HOST:2379, and separate several with commas")
            }
            urls.append(String(url))
        }
        return urls
    }

    public var description: String {
        switch self {
        case .sqlite(let directory): "sqlite:\(directory)"
        case .etcd(let urls): "etcd:\(urls.joined(separator: ","))"
        }
    }
}
