// The other end of the agent's control socket: one line there, one line back.

internal import UvLoop

enum ControlClient {
    /// - Parameters:
    ///   - limit: how long the agent may take.
    ///   - completion: called once: the answer's line without its end, or nil if there is none.
    static func ask(
        _ line: [UInt8], over stream: SocketStream, limit: Duration, on loop: Loop,
        completion: @escaping ([UInt8]?) -> Void
    ) {
        var received: [UInt8] = []
        var isOver = false
        let end = { (answer: [UInt8]?) in
            guard !isOver else { return }
            isOver = true
            completion(answer)
        }
        let timer = loop.after(limit) {
            end(nil)
            stream.close()
        }
        stream.onEnd = { _ in
            timer.cancel()
            end(nil)
        }
        stream.onBytes = { bytes in
            guard !isOver else { return }
            received.append(contentsOf: bytes)
            if let newline = received.firstIndex(of: UInt8(ascii: "\n")) {
                end(Array(received[..<newline]))
                stream.close()
            } else if received.count > PreflightAnswerLine.byteCountMax {
                stream.close()
            }
        }
        stream.write(line)
    }
}
