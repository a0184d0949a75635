import Logging

/// One log record as it is being written.
///
/// Text from outside (keys, user names, error texts) is escaped, so that it can neither end the line nor
/// make a field.
struct LogLine {
    private let isJSON: Bool
    private var bytes: [UInt8] = []
    private var isFirst = true

    /// How deep nested fields are followed; what lies deeper is written as text.
    private static let maximumDepth = 4

    static var json: LogLine { LogLine(isJSON: true) }
    static var console: LogLine { LogLine(isJSON: false) }

    private init(isJSON: Bool) {
        self.isJSON = isJSON
        bytes.reserveCapacity(256)
        if isJSON { bytes.append(UInt8(ascii: "{")) }
    }

    mutating func field(_ name: String, _ value: String) {
        start(name)
        text(value)
    }

    mutating func field(_ name: String, _ value: Logger.MetadataValue) {
        start(name)
        if isJSON { json(value, depth: 0) } else { text(Self.plain(value)) }
    }

    /// The line with its end, cut to `limit` bytes. A JSON line that is too long stays valid JSON: what was
    /// written of it becomes the text of one field.
    consuming func finish(limit: Int) -> [UInt8] {
        if isJSON { bytes.append(UInt8(ascii: "}")) }
        bytes.append(UInt8(ascii: "\n"))
        guard bytes.count > limit else { return bytes }
        // Escaping can double a byte; an eighth more is room for the rest of the line.
        var kept = bytes[..<(limit * 3 / 8)]
        while let last = kept.last, last & 0x80 != 0 { kept = kept.dropLast() }
        let dropped = bytes.count - kept.count
        var line = isJSON ? LogLine.json : LogLine.console
        line.field("level", "warn")
        line.field("msg", "record too long, \(dropped) bytes left out")
        line.field("start", String(decoding: kept, as: UTF8.self))
        if isJSON { line.bytes.append(UInt8(ascii: "}")) }
        line.bytes.append(UInt8(ascii: "\n"))
        return line.bytes
    }

    private mutating func start(_ name: String) {
        if !isFirst { bytes.append(UInt8(ascii: isJSON ? "," : " ")) }
        isFirst = false
        if isJSON {
            quoted(name)
            bytes.append(UInt8(ascii: ":"))
        } else {
            text(name)
            bytes.append(UInt8(ascii: "="))
        }
    }

    private mutating func json(_ value: Logger.MetadataValue, depth: Int) {
        switch value {
        case .string(let value): quoted(value)
        case .stringConvertible(let value):
            // Numbers and truth values stay what they are.
            switch value {
            case let number as any BinaryInteger: bytes.append(contentsOf: number.description.utf8)
            case let number as Double where number.isFinite: bytes.append(contentsOf: number.description.utf8)
            case let truth as Bool: bytes.append(contentsOf: truth.description.utf8)
            default: quoted(value.description)
            }
        case .dictionary(let fields) where depth < Self.maximumDepth:
            bytes.append(UInt8(ascii: "{"))
            let sorted = fields.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
            for (offset, field) in sorted.enumerated() {
                if offset > 0 { bytes.append(UInt8(ascii: ",")) }
                quoted(field.key)
                bytes.append(UInt8(ascii: ":"))
                json(field.value, depth: depth + 1)
            }
            bytes.append(UInt8(ascii: "}"))
        case .array(let values) where depth < Self.maximumDepth:
            bytes.append(UInt8(ascii: "["))
            for (offset, value) in values.enumerated() {
                if offset > 0 { bytes.append(UInt8(ascii: ",")) }
                json(value, depth: depth + 1)
            }
            bytes.append(UInt8(ascii: "]"))
        case .dictionary, .array: quoted(value.description)
        }
    }

    private static func plain(_ value: Logger.MetadataValue) -> String {
        switch value {
        case .string(let text): text
        case .stringConvertible(let value): value.description
        case .array, .dictionary: value.description
        }
    }

    /// A value or name of a `key=value` line: quoted when it is empty or holds anything that could end it.
    private mutating func text(_ text: String) {
        let isPlain =
            !text.isEmpty
            && text.utf8.allSatisfy { byte in
                byte > 0x20 && byte != 0x7F && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "=")
                    && byte != UInt8(ascii: "\\")
            }
        if isPlain && !isJSON { bytes.append(contentsOf: text.utf8) } else { quoted(text) }
    }

    private mutating func quoted(_ text: String) {
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                bytes.append(UInt8(ascii: "\\"))
                bytes.append(byte)
            case UInt8(ascii: "\n"): bytes.append(contentsOf: "\\n".utf8)
            case UInt8(ascii: "\r"): bytes.append(contentsOf: "\\r".utf8)
            case UInt8(ascii: "\t"): bytes.append(contentsOf: "\\t".utf8)
            case 0..<0x20, 0x7F:
                let digits = Array("0123456789abcdef".utf8)
                bytes.append(contentsOf: "\\u00".utf8)
                bytes.append(digits[Int(byte >> 4)])
                bytes.append(digits[Int(byte & 15)])
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}
