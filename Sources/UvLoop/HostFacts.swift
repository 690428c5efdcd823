import CUv
import Glibc

/// What a process can know about its host and itself.
public enum HostFacts {
    /// RAM of the host in bytes.
    public static var memoryBytes: UInt64 {
        UInt64(max(0, sysconf(Int32(_SC_PHYS_PAGES))))
            * UInt64(max(0, sysconf(Int32(_SC_PAGESIZE))))
    }

    /// Processors that are online.
    public static var cpuCount: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }

    /// A UUID that the kernel makes at boot; empty if /proc cannot be read.
    public static var bootID: String {
        let bytes = try? Files.read(path: "/proc/sys/kernel/random/boot_id", byteCountMax: 64)
        return String(decoding: (bytes ?? []).filter { $0 > 32 }, as: UTF8.self)
    }

    public static var hostName: String {
        var name = [CChar](repeating: 0, count: 256)
        guard gethostname(&name, name.count - 1) == 0 else { return "" }
        return String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// Who we are: the effective user.
    public static var userID: UInt32 { geteuid() }

    /// Our own pid.
    public static var processID: Int32 { getpid() }
}

/// Hexadecimal digits that nobody else has: up to two for each byte from the kernel's random source.
public func randomName(byteCount: Int) -> String {
    randomBytes(byteCount).map { String($0, radix: 16) }.joined()
}

/// Bytes from the kernel's random source, fit for keys.
public func randomBytes(_ count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var filled = 0
    while filled < count {
        let result = bytes.withUnsafeMutableBytes { buffer in
            getrandom(buffer.baseAddress.map { $0 + filled }, count - filled, 0)
        }
        precondition(result > 0 || errno == EINTR, "getrandom failed: errno \(errno)")
        filled += max(0, result)
    }
    return bytes
}
