package import Coordination
import LeaderCore
import Presentation
import UvLoop

/// Tells whether two states are the same: SHA-256 of the records of a snapshot, wherever they are
/// cut into chunks.
///
/// Servers that have applied the same facts have equal digests; so has a state after it was backed
/// up and restored. Versions whose snapshots have other fields do not.
package enum StateDigest {
    /// 64 hexadecimal digits.
    package static func of(_ state: FleetState) -> String {
        let digest = SHA256Digest()
        var encoder = SnapshotEncoder(state)
        while let chunk = encoder.next() { digest.update(chunk) }
        return hexText(digest.finish())
    }
}
