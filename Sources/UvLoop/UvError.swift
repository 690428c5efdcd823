import CUv
import Glibc

/// A failed call of libuv or of the kernel.
public struct UvError: Error, Hashable, Sendable, CustomStringConvertible {
    /// A negative errno, as libuv has it: `-ECONNREFUSED`.
    public let code: Int32
    /// What was tried, as a verb and its object: `connect`, `open`.
    public let operation: String
    /// What it was tried on: a path, an address, a process.
    public let subject: String

    public init(code: Int32, operation: String, subject: String) {
        self.code = code
        self.operation = operation
        self.subject = subject
    }

    /// The constant's name, such as `ECONNREFUSED`.
    public var name: String { text { uv_err_name_r(code, $0, $1) } }

    public var description: String {
        "\(operation) \(subject): \(text { uv_strerror_r(code, $0, $1) }) (\(name))"
    }

    private func text(
        _ fill: (UnsafeMutablePointer<CChar>, Int) -> UnsafeMutablePointer<CChar>?
    ) -> String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { buffer in
            guard let base = buffer.baseAddress, fill(base, buffer.count) != nil else { return "" }
            return String(cString: base)
        }
    }
}

/// - Throws: ``UvError`` if `result` is negative.
@discardableResult
func check(_ result: Int32, _ operation: String, _ subject: String) throws(UvError) -> Int32 {
    guard result >= 0 else {
        throw UvError(code: result, operation: operation, subject: subject)
    }
    return result
}

/// - Throws: ``UvError`` made from `errno` if `result` is negative. Call it at once after the call.
@discardableResult
func checkErrno<Result: SignedInteger>(
    _ result: Result, _ operation: String, _ subject: String
) throws(UvError) -> Result {
    let code = -errno
    guard result >= 0 else {
        throw UvError(code: code, operation: operation, subject: subject)
    }
    return result
}
