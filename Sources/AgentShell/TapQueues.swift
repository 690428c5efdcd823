internal import UvLoop

/// Copies of one QEMU process's tap queues, kept only while a step may have to switch them: a queue
/// that stays open, even unused, swallows packets.
final class TapQueues {
    private var descriptors: [Int32] = []

    /// - Parameter numbers: of the queues among the process's own descriptors.
    func copy(from process: ProcessReference, _ numbers: [Int32]) throws(UvError) {
        close()
        for number in numbers { descriptors.append(try process.duplicateDescriptor(number)) }
    }

    func setAttached(_ attached: Bool) throws(UvError) {
        for descriptor in descriptors {
            do {
                try Tap.setAttached(descriptor, attached)
            } catch  where error.name == "EINVAL" {
                // It is so already.
            }
        }
    }

    func close() {
        for descriptor in descriptors { Descriptors.close(descriptor) }
        descriptors = []
    }

    deinit { close() }
}
