import CUv

/// Multi-queue tap interfaces without a virtio-net header, as guests' NICs.
public enum Tap {
    /// Opens one queue of the tap `name`, which is created if there is none (and vanishes with its
    /// last queue, unless it was made persistent). The descriptor is close-on-exec.
    ///
    /// - Parameter name: at most 15 bytes.
    /// - Throws: ``UvError``: `EPERM` without CAP_NET_ADMIN, `ENOENT` without /dev/net/tun,
    ///   `EINVAL` if the interface is no multi-queue tap, `ENAMETOOLONG`.
    public static func openQueue(name: String) throws(UvError) -> Int32 {
        guard name.utf8.count < IFNAMSIZ else {
            throw UvError(code: UV_ENAMETOOLONG.rawValue, operation: "open tap", subject: name)
        }
        return try check(fermata_tap_open_queue(name), "open tap", name)
    }

    /// Whether the interface's packets may come to this queue.
    public static func setAttached(_ descriptor: Int32, _ attached: Bool) throws(UvError) {
        try check(
            fermata_tap_set_attached(descriptor, attached ? 1 : 0),
            attached ? "attach" : "detach", "tap queue \(descriptor)")
    }
}
