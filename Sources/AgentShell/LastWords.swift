/// What a command said last, fit for one line of a log or a reason: its last lines, without control
/// characters.
///
/// - Parameter output: the end of it; what is no UTF-8 is replaced.
func lastWords(_ output: [UInt8]) -> String {
    let lines = String(decoding: output, as: UTF8.self).split(whereSeparator: \.isNewline)
        .suffix(3)
        .map { line in
            String(
                String.UnicodeScalarView(
                    line.unicodeScalars.filter { $0.value >= 0x20 && $0.value != 0x7F }))
        }
    return String(lines.filter { !$0.isEmpty }.joined(separator: "; ").suffix(300))
}
