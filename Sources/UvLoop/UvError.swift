import CUv
public import Edges
import Glibc

/// Under the name by which all that does I/O knows it.
public typealias UvError = Edges.UvError

extension UvError {
    /// - Parameter code: a negative errno, as libuv has it: `-ECONNREFUSED`.
    public init(code: Int32, operation: String, subject: String) {
        self.init(
            code: code, name: text { uv_err_name_r(code, $0, $1) },
            meaning: text { uv_strerror_r(code, $0, $1) }, operation: operation,
            subject: subject)
    }
}

private func text(
    _ fill: (UnsafeMutablePointer<CChar>, Int) -> UnsafeMutablePointer<CChar>?
) -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { buffer in
        guard let base = buffer.baseAddress, fill(base, buffer.count) != nil else { return "" }
        return String(cString: base)
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
