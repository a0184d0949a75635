// Every value of a TOML document must be read with its type and with the exact line and column it stands
// at, in all of TOML's ways to write a table. Each document below is written so that the place of a value
// can be counted by eye; a random test compares positions with those its generator noted while writing.

import Testing

@testable import Configuration

@Suite struct TOMLDocumentTests {
    private func parse(_ text: String) throws -> Configuration.TOMLTable {
        try TOMLDocument.parse(text: text, file: "f.toml")
    }

    private func place(_ location: TOMLLocation?) -> String {
        location.map { "\($0.line):\($0.column)" } ?? "none"
    }

    private func error(_ text: String) -> String {
        do {
            _ = try parse(text)
            return "no error"
        } catch {
            return "\(error)"
        }
    }

    @Test func everyTypeKeepsItsValueAndPlace() throws {
        let table = try parse(
            """
            text = "a\\tb"   # comment
            literal = 'C:\\x'
              number = 1_000
            hex = 0xff
            ratio = -2.5e3
            yes = true
            day = 2024-02-29
            moment = 1979-05-27 07:32:00.5Z   # with a space
            clock=07:32:00
            list = [ 1,
               "two", # note
               [3.0], ]
            """)
        #expect(
            table.keys == [
                "text", "literal", "number", "hex", "ratio", "yes", "day", "moment", "clock", "list",
            ])
        #expect(table["text"]?.string == "a\tb")
        #expect(place(table["text"]?.location) == "1:8")
        #expect(table["literal"]?.string == "C:\\x")
        #expect(table["number"]?.integer == 1000)
        #expect(place(table["number"]?.location) == "3:12")
        #expect(place(table.keyLocation("number")) == "3:3")
        #expect(table["hex"]?.integer == 255)
        #expect(table["ratio"]?.float == -2500)
        #expect(table["yes"]?.boolean == true)
        #expect(table["day"]?.datetime == "2024-02-29")
        #expect(table["moment"]?.datetime == "1979-05-27 07:32:00.5Z")
        #expect(table["clock"]?.datetime == "07:32:00")
        #expect(place(table["clock"]?.location) == "9:7")
        let list = try #require(table["list"]?.array)
        #expect(list.map { place($0.location) } == ["10:10", "11:4", "12:4"])
        #expect(list[1].string == "two")
        #expect(list[2].array?.first?.float == 3)
        #expect(place(list[2].array?.first?.location) == "12:5")
        #expect(table["none"] == nil)
        #expect(table["yes"]?.integer == nil)
    }

    @Test func everyWayToNestIsFollowed() throws {
        let table = try parse(
            """
            a.b.c = 1
            a . "x.y" . 'z' = 2
            inline = { p = 1, q.r = [ { s = 3 } ] }

            [server]
            name = "n"
            [server.limits]
            deep = { er = 4 }
            [ other . "quoted \\u00e9" ]
            k = 5
            [[item]]
            id = 1
            [item.sub]
            v = 10
            [[item.list]]
            w = 20
            [[item]]
            id = 2
            """)
        let a = try #require(table["a"]?.table)
        #expect(a["b"]?.table?["c"]?.integer == 1)
        #expect(place(a["b"]?.table?["c"]?.location) == "1:9")
        #expect(place(a["b"]?.table?.keyLocation("c")) == "1:5")
        #expect(place(a["x.y"]?.table?["z"]?.location) == "2:19")
        let inline = try #require(table["inline"]?.table)
        let s = inline["q"]?.table?["r"]?.array?.first?.table
        #expect(place(s?["s"]?.location) == "3:33")
        #expect(place(s?.location) == "3:27")
        #expect(place(table["server"]?.location) == "5:2")
        #expect(place(table["server"]?.table?["limits"]?.table?["deep"]?.table?["er"]?.location) == "8:15")
        #expect(place(table["other"]?.table?["quoted é"]?.table?["k"]?.location) == "10:5")
        let items = try #require(table["item"]?.array)
        #expect(items.count == 2)
        #expect(items.map { place($0.location) } == ["11:3", "17:3"])
        #expect(place(items[0].table?["sub"]?.table?["v"]?.location) == "14:5")
        #expect(place(items[0].table?["list"]?.array?.first?.table?["w"]?.location) == "16:5")
        #expect(place(items[1].table?["id"]?.location) == "18:6")
    }

    @Test func stringsOverSeveralLinesDoNotShiftWhatFollows() throws {
        let table = try parse(
            "a = \"\"\"\nx = 1 # no comment\n\\\"\"\" [t]\n\"\"\"\"\"\nb = '''\n'it''s'''''\nc = \"\"\nd = ''\r\n"
                + "e = \"\"\"\"\"\"\n\"π é\" = \"ünï\"  \nf = [ '''\n]''', 7 ]\n")
        #expect(table["a"]?.string == "x = 1 # no comment\n\"\"\" [t]\n\"\"")
        #expect(place(table["b"]?.location) == "5:5")
        #expect(table["b"]?.string == "'it''s''")
        #expect(table["c"]?.string == "")
        #expect(place(table["d"]?.location) == "8:5")
        #expect(place(table["e"]?.location) == "9:5")
        #expect(table["e"]?.string == "")
        #expect(place(table["f"]?.array?.last?.location) == "12:7")
        #expect(place(table["π é"]?.location) == "10:9")
    }

    @Test func errorsSayWhere() {
        #expect(error("a = 1\nb = \n").hasPrefix("f.toml:2:"))
        #expect(error("a = 1\na = 2\n").hasPrefix("f.toml:2:"))
        #expect(error("x = \"\\u0000\"") == "f.toml:1:6: the character U+0000 cannot be used in a string")
        #expect(error("x = 1\0").hasPrefix("f.toml:1:1: the file has a zero byte"))
        #expect(error(String(repeating: "a.", count: 300) + "a = 1").contains("more than 64 parts"))
        #expect(
            error("a = " + String(repeating: "[", count: 100) + String(repeating: "]", count: 100))
                .contains("more than 64 deep"))
        #expect(error(String(repeating: "#", count: TOMLDocument.maximumBytes + 1)).contains("the most that is read"))
        #expect(ConfigurationError(message: "m").description == "m")
    }

    @Test func emptyAndMarkedDocuments() throws {
        #expect(try parse("").keys.isEmpty)
        #expect(try parse("# only\n\n").isEmpty)
        #expect(place(try parse("\u{FEFF}a = 1").keyLocation("a")) == "1:1")
    }

    /// Writes random documents while noting where each value goes, and compares.
    @Test func randomDocuments() throws {
        var random = SplitMix(state: 7)
        for round in 0..<300 {
            var writer = DocumentWriter()
            for _ in 0..<(1 + random.next(8)) { writer.section(&random) }
            let table = try TOMLDocument.parse(text: writer.text, file: "r")
            for (path, expected) in writer.expected {
                var value: Configuration.TOMLValue?
                var current: Configuration.TOMLTable? = table
                for part in path {
                    value = current?[part]
                    if let last = value?.array?.last, last.table != nil { value = last }
                    current = value?.table
                }
                #expect(
                    place(value?.location) == expected, "round \(round), \(path) in\n\(writer.text)")
            }
        }
    }
}

/// A small deterministic generator, so that a failing round can be repeated.
struct SplitMix {
    var state: UInt64
    mutating func next(_ bound: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return Int((z ^ (z >> 31)) % UInt64(bound))
    }
}

/// A file that an operator writes can have any mistake, and is read again while the node runs: every mistake ends as an
/// error with a place, also where the parser by itself would abort the process.
@Suite struct TOMLHostileTextTests {
    private func outcome(_ text: String) -> String {
        do {
            _ = try TOMLDocument.parse(text: text, file: "f")
            return "fine"
        } catch {
            return "\(error)"
        }
    }

    @Test(arguments: [
        ("[!a]", "f:1:2: expected a key"), ("[\n", "f:1:2: expected a key"), ("[[.a]]", "f:1:3: expected a key"),
        ("a = [1,}", "f:1:8: expected a value or ']'"), ("a = [\n}", "f:2:1: expected a value or ']'"),
        ("a = [1, \u{2028}2]", "f:1:9: expected a value or ']'"),
        ("a = 1979-05-27T`7:32", "f:1:5: expected a time after the date"),
        ("a = 1979-05-27T", "f:1:5: expected a time after the date"),
        ("a = [197_9-05-27 0]", "f:1:6: expected a time after the date"),
        ("a = 1979-05-27 0#:32:00-0", "f:1:5: expected a time after the date"),
        (String(repeating: "a.", count: 200_000) + "a = 1", "f:1:129: a key has more than 64 parts"),
        ("[" + String(repeating: "a.", count: 200_000) + "a]", "f:1:130: a key has more than 64 parts"),
        ("a = " + String(repeating: "[", count: 200_000), "f:1:69: values are nested more than 64 deep"),
    ])
    func isRefusedWithItsPlace(_ text: String, _ error: String) { #expect(outcome(text) == error) }

    @Test func whatIsRightStaysRight() {
        #expect(outcome("a = \"x\nb = [1,}\"").hasPrefix("f:1:7: "))
        for text in [
            "a = 1979-05-27", "a = 1979-05-27 # 0", "a = 1979-05-27 07:32:00", "a = 1979-05-27T07:32:00Z", "[ a ]",
            "[[ 'a' ]]", "a = [ # }\n]",
        ] { #expect(outcome(text) == "fine", "\(text)") }
    }

    @Test func noChangeOfATextStopsTheProcess() {
        var random = SplitMix(state: 5)
        let sound = Array(
            """
            [a]
            b = [1, 2.5, "x", { c = 1979-05-27T07:32:00Z, "d" = 07:32:00.5 }]
            [[d]]
            e = '''x'''
            [[d]]
            "q\\u00e9".f = 0x1F
            g.h.'i' = -inf # comment
            j = 1979-05-27 00:32:00-07:00
            """.utf8)
        let parts = [
            "[", "]", "{", "}", "[[", "\"", "'", "'''", "\"\"\"", ".", "=", ",", "#", "\n", " ", "_", "-", "T", "0",
            "é",
            "\\u", "1979-05-27 ", "\u{2028}", "\u{A0}",
        ]
        for _ in 0..<3000 {
            var text = sound
            for _ in 0...random.next(3) {
                let at = random.next(text.count)
                switch random.next(3) {
                case 0: text.remove(at: at)
                case 1: text[at] = UInt8(1 + random.next(255))
                default: text.insert(contentsOf: parts[random.next(parts.count)].utf8, at: at)
                }
            }
            let result = outcome(String(decoding: text, as: UTF8.self))
            #expect(result == "fine" || result.hasPrefix("f:"))
        }
    }
}

/// Writes TOML and remembers the place of every scalar it writes.
private struct DocumentWriter {
    var text = ""
    var expected: [([String], String)] = []
    private var count = 0

    private mutating func fresh() -> String {
        count += 1
        return "k\(count)"
    }

    private var here: String {
        let lines = text.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false)
        return "\(lines.count):\((lines.last?.count ?? 0) + 1)"
    }

    mutating func section(_ random: inout SplitMix) {
        let name = fresh()
        var path = [name]
        switch random.next(3) {
        case 0: text += "[\(name)] # é\n"
        case 1:
            text += "[[ \"\(name)\" ]]\nq = 1\n[[\(name)]]\n"
        default:
            path.append("sub")
            text += "\t[\(name).'sub']\r\n"
        }
        for _ in 0..<random.next(6) {
            let key = fresh()
            text += random.next(2) == 0 ? "  \(key)\t= " : "\"\(key)\"="
            scalar(path + [key], &random)
            text += random.next(2) == 0 ? "\n" : " # = [ \" '''\n\n"
        }
    }

    private mutating func scalar(_ path: [String], _ random: inout SplitMix) {
        expected.append((path, here))
        switch random.next(8) {
        case 0: text += "12"
        case 1: text += "'a # \" b'"
        case 2: text += "\"\"\"é\n ]] \\\\ \\\"\n\"\"\""
        case 3: text += "1979-05-27 00:32:00-07:00"
        case 4: text += "[ 1, 'x', # ]\n [true] ]"
        case 5:
            let key = fresh()
            text += "{ \(key).z = "
            scalar(path + [key, "z"], &random)
            text += " }"
        case 6: text += "'''''\n'''''"
        default: text += "false"
        }
    }
}
