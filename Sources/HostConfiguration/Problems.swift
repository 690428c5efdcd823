/// One thing that is wrong in a host's file.
public struct Problem: Hashable, Sendable, CustomStringConvertible {
    /// The file's name as it was given.
    public var file: String
    /// From 1.
    public var line: Int
    /// From 1, in Unicode scalars.
    public var column: Int
    /// Where in the document, such as `guests[1].memory`; empty for the document as a whole.
    public var path: String
    /// What is wrong, with what.
    public var message: String
    /// What to do about it, in the imperative.
    public var advice: String

    public init(
        file: String, line: Int, column: Int, path: String, message: String, advice: String
    ) {
        self.file = file
        self.line = line
        self.column = column
        self.path = path
        self.message = message
        self.advice = advice
    }

    /// `FILE:LINE:COLUMN: message: advice`, as compilers and editors know it.
    public var description: String { "\(file):\(line):\(column): \(message): \(advice)" }
}

/// Everything that is wrong in a host's file, in the order of its lines; never empty.
public struct HostFileProblems: Error, Hashable, Sendable, CustomStringConvertible {
    public var problems: [Problem]
    public init(_ problems: [Problem]) { self.problems = problems }
    /// One line for each problem.
    public var description: String {
        problems.map(\.description).joined(separator: "\n")
    }
}
