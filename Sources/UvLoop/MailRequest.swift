/// A mail for a server that takes mails (RFC 6409), by ``HTTPClient``.
public struct MailRequest: Hashable, Sendable {
    /// `smtp://host:port` or `smtps://host:port`.
    public var url: String
    /// Whether to send nothing before STARTTLS.
    public var needsStartTLS: Bool
    public var from: String
    public var to: [String]
    public var user: String?
    public var password: String?
    public var authorityFile: String?
    /// Lines end in CR LF; libcurl doubles full stops.
    public var message: [UInt8]
    /// For all of it.
    public var limit: Duration

    public init(
        url: String, needsStartTLS: Bool, from: String, to: [String], user: String? = nil,
        password: String? = nil, authorityFile: String? = nil, message: [UInt8],
        limit: Duration = .seconds(30)
    ) {
        self.url = url
        self.needsStartTLS = needsStartTLS
        self.from = from
        self.to = to
        self.user = user
        self.password = password
        self.authorityFile = authorityFile
        self.message = message
        self.limit = limit
    }
}
