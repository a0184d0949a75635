// Property: text is what the slow ways make of the same values, and memory that was kept holds nothing over.

import Foundation
import Testing

@testable import Plugins

@Suite struct TextBufferTests {
    private func text(_ build: (TextBuffer) -> Void) -> String {
        let buffer = TextBuffer(capacity: 1)
        build(buffer)
        return String(decoding: buffer.bytes(), as: UTF8.self)
    }

    @Test func numbers() {
        var values: [UInt64] = [0, .max, .max - 1]
        for power in 0..<20 {
            let value = (0..<power).reduce(UInt64(1)) { product, _ in product &* 10 }
            values += [value &- 1, value, value &+ 1]
        }
        for value in values {
            #expect(text { $0.add(decimal: value) } == "\(value)")
            #expect(text { $0.add(hexadecimal: value) } == String(value, radix: 16))
            let signed = Int64(bitPattern: value)
            #expect(text { $0.add(decimal: signed) } == "\(signed)")
        }
        #expect(text { $0.add(padded: 7, 2) } == "07")
        #expect(text { $0.add(padded: 0, 6) } == "000000")
        #expect(Hex.encode([0x00, 0x9F, 0xA0, 0xFF]) == "009fa0ff")
    }

    @Test func stringsReadBackAsJSON() throws {
        let every = String(decoding: UInt8(0)...127, as: UTF8.self) + "ä€😀"
        for string in ["", "a", "\"", "\\", every, String(repeating: "\u{1F}", count: 300)] {
            let json = text { $0.add(json: string) }
            #expect(try JSONDecoder().decode([String].self, from: Data("[\(json)]".utf8)) == [string])
        }
        #expect(text { $0.add(json: "a\n\t\r\u{1}\u{7F}" as String) } == "\"a\\n\\t\\r\\u0001\\u007f\"")
    }

    @Test func growsAndForgets() {
        let buffer = TextBuffer(capacity: 1)
        for i in 0..<1000 { buffer.add("\(i),") }
        #expect(String(decoding: buffer.bytes(), as: UTF8.self) == (0..<1000).map { "\($0)," }.joined())
        let length = buffer.count
        buffer.add([1, 2])
        #expect(Array(buffer.bytes(from: length)) == [1, 2])
        buffer.clear(keeping: 100)
        #expect(buffer.count == 0 && buffer.bytes().isEmpty)
        buffer.add("x")
        #expect(Array(buffer.bytes()) == [0x78])
    }
}
