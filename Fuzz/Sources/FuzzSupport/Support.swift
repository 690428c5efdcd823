// What the targets share: the property check, the header of an input, and the cutting into pieces.

import CFuzzer
import Glibc

/// Runs libFuzzer on `target` with the process's arguments, as its own `main` would.
public func fuzz(
    _ target: @escaping @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> Never {
    var argc = CommandLine.argc
    var argv: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
    exit(LLVMFuzzerRunDriver(&argc, &argv, target))
}

/// Ends the process if a property does not hold. `precondition` would not say why in an optimised
/// build.
@inlinable
public func check(
    _ holds: Bool, _ message: @autoclosure () -> String, file: StaticString = #fileID,
    line: UInt = #line
) {
    if !holds { fatalError("property violated: \(message())", file: file, line: line) }
}

/// An input's bytes: a few that steer the harness, then what the code under test gets.
public struct Input {
    public let bytes: UnsafeRawBufferPointer

    @inlinable
    public init(_ start: UnsafePointer<UInt8>?, _ count: Int) {
        bytes = UnsafeRawBufferPointer(start: start, count: count)
    }

    /// The steering byte at `index`; 0 beyond the end.
    @inlinable
    public func header(_ index: Int) -> UInt8 { index < bytes.count ? bytes[index] : 0 }

    /// What lies behind `count` steering bytes.
    @inlinable
    public func body(after count: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: bytes.dropFirst(count))
    }
}

/// Hands `bytes` out in pieces, whose lengths follow from `seed`: 0 gives single bytes, 1 all at
/// once, others a mixture of short and long ones. No piece is empty.
@inlinable
public func cut(
    _ bytes: UnsafeRawBufferPointer, seed: UInt8, _ take: (UnsafeRawBufferPointer) -> Void
) {
    guard !bytes.isEmpty else { return }
    guard seed != 1 else { return take(bytes) }
    var state = UInt32(seed) &* 0x9E37_79B1
    var start = 0
    while start < bytes.count {
        var length = 1
        if seed != 0 {
            state = state &* 1_664_525 &+ 1_013_904_223
            // One to three, or up to 64.
            length = Int(state >> 28) < 10 ? 1 + Int(state >> 20) % 3 : 1 + Int(state >> 20) % 64
        }
        let end = min(bytes.count, start + length)
        take(UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
        start = end
    }
}
