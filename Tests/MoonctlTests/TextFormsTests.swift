import Testing

@testable import moonctl

// Texts have the form that etcdctl gives them. Expected values were read off etcdctl 3.5.1 and Go's
// fmt, strconv and time packages.
struct TextFormsTests {
    @Test func quotesAsGo() {
        for (bytes, text) in [
            (Array("plain é 🙂".utf8), #""plain é 🙂""#), (Array("a\"b\\c".utf8), #""a\"b\\c""#),
            ([7, 8, 12, 10, 13, 9, 11], #""\a\b\f\n\r\t\v""#), ([0, 1, 0x1F], #""\x00\x01\x1f""#),
            ([0xFF, 0x80, 0x61], #""\xff\x80a""#), (Array("\u{200b}\u{a0}".utf8), #""\u200b\u00a0""#),
            // Cut short, overlong, a surrogate: byte by byte.
            ([0xE2, 0x82], #""\xe2\x82""#), ([0xC0, 0x80], #""\xc0\x80""#),
            ([0xED, 0xA0, 0x80], #""\xed\xa0\x80""#), ([], #""""#),
        ] { #expect(GoText.quote(bytes) == text) }
    }

    @Test func unquotesWhatItQuotes() {
        let samples: [[UInt8]] = [
            [], Array("é🙂\u{200b}".utf8), Array(0...255), [0xF0, 0x9F, 0x99], Array("\\x41".utf8),
        ]
        for sample in samples {
            var rest = Array((GoText.quote(sample) + "rest").utf8)[...]
            #expect(QuotedText.take(&rest) == sample)
            #expect(Array(rest) == Array("rest".utf8))
        }
        for (text, bytes) in [
            (#""\x41\101\u00e9\U0001F642""#, Array("AAé🙂".utf8)), ("`a\\n\"b`", Array("a\\n\"b".utf8)),
        ] {
            var rest = Array(text.utf8)[...]
            #expect(QuotedText.take(&rest) == bytes)
        }
        for text in [#""open"#, #""\q""#, #""\x4""#, #""\400""#, #""\ud800""#, "plain", "", #""\"#, #""\x+1""#] {
            var rest = Array(text.utf8)[...]
            #expect(QuotedText.take(&rest) == nil)
            #expect(rest.count == text.utf8.count)
        }
    }

    @Test func durations() throws {
        for (text, nanoseconds, shown) in [
            ("5s", 5_000_000_000, "5s"), ("1m30s", 90_000_000_000, "1m30s"), ("0", 0, "0s"),
            ("100ms", 100_000_000, "100ms"), ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("2us", 2000, "2µs"), ("-1.5ms", -1_500_000, "-1.5ms"), ("1h", 3_600_000_000_000, "1h0m0s"),
            ("1s1ns", 1_000_000_001, "1.000000001s"), (".5s", 500_000_000, "500ms"), ("7ns", 7, "7ns"),
        ] {
            #expect(try GoDuration.parse(text) == .nanoseconds(Int64(nanoseconds)))
            #expect(GoDuration.text(.nanoseconds(Int64(nanoseconds))) == shown)
        }
        for text in ["", "5", "5x", "s", "-", "1e3s", "300000h h", "1.2.3s", "9999999999h"] {
            #expect(throws: ValueError.self) { try GoDuration.parse(text) }
        }
    }

    @Test func numbersAndSizes() throws {
        for (text, base, value) in [
            ("10", 10, 10), ("0x10", 0, 16), ("010", 0, 8), ("0b11", 0, 3), ("-5", 0, -5), ("58eea", 16, 364266),
            ("+7", 10, 7), ("-0x10", 0, -16), ("0", 0, 0),
        ] { #expect(try GoNumber.integer(text, base: base) == Int64(value)) }
        for (text, base) in [
            ("", 0), ("x", 0), ("-", 0), ("zz", 16), ("1 ", 10), ("9223372036854775808", 0), ("٣", 10), ("+-1", 10),
        ] {
            #expect(throws: ValueError.self) { try GoNumber.integer(text, base: base) }
        }
        for (bytes, text) in [
            (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (28672, "29 kB"), (9949, "9.9 kB"), (9950, "10 kB"),
            (2_050_000, "2.1 MB"), (1_000_000_000, "1.0 GB"), (20480, "20 kB"),
        ] { #expect(GoText.size(UInt64(bytes)) == text) }
        #expect(GoText.size(.max) == "18 EB")
        #expect(GoText.leaseID(0x77) == "0000000000000077")
        #expect(GoText.leaseID(-1) == "-000000000000001")
    }

    @Test func jsonEscapes() {
        var object = JSONObject()
        object.set("a\"b", .string("<&>\u{2028}\u{1}\n\tü"))
        object.unlessZero("zero", Int64(0))
        object.unlessEmpty("empty", "")
        object.set("list", .array([.null, .bool(true), .integer(-1), .unsigned(.max), .bytes(.init([1, 2]))]))
        #expect(
            JSONValue.object(object).text
                == #"{"a\"b":"\u003c\u0026\u003e\u2028\u0001\n\tü","list":[null,true,-1,18446744073709551615,"AQI="]}"#)
    }

    // The shape was copied from etcdctl's own output for a server with an alarm.
    @Test func tables() {
        let table = Table(headings: ["ID", "errors"], rows: [["7", "memberID:13813528830322000157 alarm:NOSPACE "]])
        #expect(
            table.text == """
                +----+--------------------------------+
                | ID |             ERRORS             |
                +----+--------------------------------+
                |  7 |  memberID:13813528830322000157 |
                |    |                 alarm:NOSPACE  |
                +----+--------------------------------+

                """)
        #expect(Table.fold("a b") == ["a b"])
        #expect(Table.fold(String(repeating: "x", count: 40)) == [String(repeating: "x", count: 40)])
        // A word wider than the column sets the width for the others.
        let wide = String(repeating: "y", count: 35)
        #expect(Table.fold("aa \(wide) bb") == ["aa", wide, "bb"])
        let words = (1...20).map { "word\($0)" }.joined(separator: " ")
        #expect(Table.fold(words).joined(separator: " ") == words)
        #expect(Table.fold(words).allSatisfy { $0.count <= 30 })
    }
}
