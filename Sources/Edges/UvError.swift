/// A failed call of libuv or of the kernel. A plain value: `UvLoop` makes it and knows the names of all
/// codes; a simulated surrounding makes those that it needs.
public struct UvError: Error, Hashable, Sendable, CustomStringConvertible {
    /// A negative errno, as libuv has it: `-ECONNREFUSED`.
    public let code: Int32
    /// The constant's name, such as `ECONNREFUSED`.
    public let name: String
    /// What it means, in libuv's words: `connection refused`.
    public let meaning: String
    /// What was tried, as a verb and its object: `connect`, `open`.
    public let operation: String
    /// What it was tried on: a path, an address, a process.
    public let subject: String

    public init(code: Int32, name: String, meaning: String, operation: String, subject: String) {
        self.code = code
        self.name = name
        self.meaning = meaning
        self.operation = operation
        self.subject = subject
    }

    public var description: String { "\(operation) \(subject): \(meaning) (\(name))" }
}
