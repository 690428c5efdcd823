extension JSON {
    /// Reads exactly one value, with white space around it.
    ///
    /// Strict as RFC 8259 says, and beyond it: names within an object are unique, text is valid
    /// UTF-8, surrogates come in pairs, numbers are finite.
    ///
    /// - Parameters:
    ///   - bytes: the whole value.
    ///   - byteCountMax: more bytes than this are refused before any is read.
    ///   - depthMax: arrays and objects within each other; an empty array has depth 1.
    /// - Throws: ``QMPError/json(_:offset:)``.
    /// - Source: RFC 8259.
    public static func parse(
        _ bytes: [UInt8], byteCountMax: Int = QMPLimits.monitorLineByteCountMax,
        depthMax: Int = QMPLimits.jsonDepthMax
    ) throws(QMPError) -> JSON {
        guard bytes.count <= byteCountMax else {
            throw .json(.tooLong(byteCountMax: byteCountMax), offset: byteCountMax)
        }
        return try bytes.withUnsafeBufferPointer { buffer throws(QMPError) in
            var parser = JSONParser(bytes: buffer, depthMax: depthMax)
            return try parser.parseDocument()
        }
    }
}

/// Recursive descent over bytes that outlive it. Every access goes through ``peek()`` or a check
/// of the index, so that no input reads out of bounds.
private struct JSONParser {
    let bytes: UnsafeBufferPointer<UInt8>
    let depthMax: Int
    var index = 0
    var depth = 0

    init(bytes: UnsafeBufferPointer<UInt8>, depthMax: Int) {
        self.bytes = bytes
        self.depthMax = depthMax
    }

    mutating func parseDocument() throws(QMPError) -> JSON {
        skipSpace()
        let value = try parseValue()
        skipSpace()
        guard index == bytes.count else { throw problem(.trailingBytes) }
        return value
    }

    // MARK: Structure

    private mutating func parseValue() throws(QMPError) -> JSON {
        switch try peek() {
        case UInt8(ascii: "{"): return try parseObject()
        case UInt8(ascii: "["): return try parseArray()
        case UInt8(ascii: "\""): return .string(try parseString())
        case UInt8(ascii: "t"): return try parseWord("true", .bool(true))
        case UInt8(ascii: "f"): return try parseWord("false", .bool(false))
        case UInt8(ascii: "n"): return try parseWord("null", .null)
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try parseNumber()
        case let byte: throw problem(.unexpectedByte(byte))
        }
    }

    private mutating func parseObject() throws(QMPError) -> JSON {
        try enter()
        var members: [JSON.Member] = []
        // Objects of QMP are small; a set only pays, and only defends, beyond that.
        var names: Set<String> = []
        skipSpace()
        if try peek() == UInt8(ascii: "}") {
            leave()
            return .object([])
        }
        while true {
            let start = index
            guard try peek() == UInt8(ascii: "\"") else {
                throw problem(.unexpectedByte(try peek()))
            }
            let name = try parseString()
            let isRepeated: Bool
            if members.count < 16 {
                isRepeated = members.contains { $0.name == name }
            } else {
                if names.isEmpty { names = Set(members.map(\.name)) }
                isRepeated = !names.insert(name).inserted
            }
            guard !isRepeated else { throw .json(.repeatedKey(name), offset: start) }
            skipSpace()
            try expect(UInt8(ascii: ":"))
            skipSpace()
            members.append(JSON.Member(name, try parseValue()))
            skipSpace()
            if try endsList(with: UInt8(ascii: "}")) { return .object(members) }
        }
    }

    private mutating func parseArray() throws(QMPError) -> JSON {
        try enter()
        var values: [JSON] = []
        skipSpace()
        if try peek() == UInt8(ascii: "]") {
            leave()
            return .array([])
        }
        while true {
            values.append(try parseValue())
            skipSpace()
            if try endsList(with: UInt8(ascii: "]")) { return .array(values) }
        }
    }

    /// Consumes a comma and the space after it, or the end of the list.
    private mutating func endsList(with end: UInt8) throws(QMPError) -> Bool {
        let byte = try peek()
        if byte == end {
            leave()
            return true
        }
        guard byte == UInt8(ascii: ",") else { throw problem(.unexpectedByte(byte)) }
        index += 1
        skipSpace()
        return false
    }

    private mutating func enter() throws(QMPError) {
        guard depth < depthMax else { throw problem(.tooDeep(depthMax: depthMax)) }
        depth += 1
        index += 1
    }

    private mutating func leave() {
        depth -= 1
        index += 1
    }

    private mutating func parseWord(
        _ word: StaticString, _ value: JSON
    ) throws(QMPError) -> JSON {
        for offset in 0..<word.utf8CodeUnitCount {
            try expect(word.utf8Start[offset])
        }
        return value
    }

    // MARK: Numbers

    private mutating func parseNumber() throws(QMPError) -> JSON {
        let start = index
        var isWhole = true
        if bytes[index] == UInt8(ascii: "-") { index += 1 }
        let firstDigit = index
        try skipDigits(from: start)
        // RFC 8259 has no leading zeros.
        if bytes[firstDigit] == UInt8(ascii: "0"), index - firstDigit > 1 {
            throw .json(.invalidNumber, offset: start)
        }
        if index < bytes.count, bytes[index] == UInt8(ascii: ".") {
            isWhole = false
            index += 1
            try skipDigits(from: start)
        }
        if index < bytes.count, bytes[index] | 0x20 == UInt8(ascii: "e") {
            isWhole = false
            index += 1
            if index < bytes.count,
                bytes[index] == UInt8(ascii: "+") || bytes[index] == UInt8(ascii: "-")
            {
                index += 1
            }
            try skipDigits(from: start)
        }
        let text = String(decoding: bytes[start..<index], as: UTF8.self)
        if isWhole, let value = Int64(text) { return .integer(value) }
        guard let value = Double(text), value.isFinite else {
            throw .json(.numberTooLarge, offset: start)
        }
        return .double(value)
    }

    /// One digit at least.
    private mutating func skipDigits(from start: Int) throws(QMPError) {
        let first = index
        while index < bytes.count,
            bytes[index] >= UInt8(ascii: "0"), bytes[index] <= UInt8(ascii: "9")
        {
            index += 1
        }
        guard index > first else {
            throw index == bytes.count
                ? problem(.endOfInput) : .json(.invalidNumber, offset: start)
        }
    }

    // MARK: Strings

    private mutating func parseString() throws(QMPError) -> String {
        index += 1
        let start = index
        // Most strings have no escape and are taken whole.
        while true {
            let byte = try peek()
            if byte == UInt8(ascii: "\"") {
                let text = try validated(UnsafeBufferPointer(rebasing: bytes[start..<index]), start)
                index += 1
                return text
            }
            guard byte >= 0x20 else { throw problem(.unexpectedByte(byte)) }
            if byte == UInt8(ascii: "\\") { break }
            index += 1
        }
        var decoded = Array(bytes[start..<index])
        while true {
            let byte = try peek()
            index += 1
            switch byte {
            case UInt8(ascii: "\""):
                return try decoded.withUnsafeBufferPointer { buffer throws(QMPError) in
                    try validated(buffer, start)
                }
            case UInt8(ascii: "\\"): try parseEscape(into: &decoded)
            case 0..<0x20:
                index -= 1
                throw problem(.unexpectedByte(byte))
            default: decoded.append(byte)
            }
        }
    }

    private func validated(
        _ buffer: UnsafeBufferPointer<UInt8>, _ start: Int
    ) throws(QMPError) -> String {
        guard let text = String(validating: buffer, as: UTF8.self) else {
            throw .json(.invalidUTF8, offset: start)
        }
        return text
    }

    /// `index` stands behind the backslash.
    private mutating func parseEscape(into decoded: inout [UInt8]) throws(QMPError) {
        let byte = try peek()
        index += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): decoded.append(byte)
        case UInt8(ascii: "b"): decoded.append(0x08)
        case UInt8(ascii: "f"): decoded.append(0x0C)
        case UInt8(ascii: "n"): decoded.append(0x0A)
        case UInt8(ascii: "r"): decoded.append(0x0D)
        case UInt8(ascii: "t"): decoded.append(0x09)
        case UInt8(ascii: "u"):
            let start = index - 2
            var value = try parseHex()
            if value & 0xFC00 == 0xD800 {
                guard index + 1 < bytes.count, bytes[index] == UInt8(ascii: "\\"),
                    bytes[index + 1] == UInt8(ascii: "u")
                else { throw .json(.loneSurrogate, offset: start) }
                index += 2
                let low = try parseHex()
                guard low & 0xFC00 == 0xDC00 else { throw .json(.loneSurrogate, offset: start) }
                value = 0x10000 + ((value & 0x3FF) << 10) + (low & 0x3FF)
            }
            guard let scalar = Unicode.Scalar(value) else {
                throw .json(.loneSurrogate, offset: start)
            }
            decoded += UTF8.encode(scalar).map(Array.init) ?? []
        default:
            index -= 1
            throw problem(.invalidEscape)
        }
    }

    private mutating func parseHex() throws(QMPError) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            let byte = try peek()
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
            default: throw problem(.invalidEscape)
            }
            value = value << 4 | UInt32(digit)
            index += 1
        }
        return value
    }

    // MARK: Bytes

    private func peek() throws(QMPError) -> UInt8 {
        guard index < bytes.count else { throw problem(.endOfInput) }
        return bytes[index]
    }

    private mutating func expect(_ byte: UInt8) throws(QMPError) {
        let found = try peek()
        guard found == byte else { throw problem(.unexpectedByte(found)) }
        index += 1
    }

    private mutating func skipSpace() {
        while index < bytes.count {
            switch bytes[index] {
            case 0x20, 0x0A, 0x0D, 0x09: index += 1
            default: return
            }
        }
    }

    private func problem(_ problem: JSONProblem) -> QMPError { .json(problem, offset: index) }
}
