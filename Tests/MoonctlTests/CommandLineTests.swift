import FoundationEssentials
import Testing
import Wire

@testable import moonctl

// A command line means what it means to etcdctl: flags are found wherever they stand, and requests
// carry what the flags say. Each case parses a line and looks at the outcome.
struct CommandLineTests {
    private func parse(_ line: String) throws(CommandError) -> Invocation {
        let words = try TxnText.words(Array(line.utf8))
        return try Invocation(words, root: Moonctl.root, globals: GlobalOptions.flags)
    }

    private func failure(_ line: String) -> CommandError? {
        do throws(CommandError) {
            _ = try parse(line)
            return nil
        } catch {
            return error
        }
    }

    @Test func flagsStandAnywhere() throws {
        for line in [
            "-w json get a b --limit 5 --prefix", "get --limit=5 -wjson a --prefix=true b",
            "get a --prefix b -w=json --limit 0x5", "ge --limit=3 a --limit=5 -w json --prefix b",
        ] {
            let invocation = try parse(line)
            #expect(invocation.title == "moonctl get")
            #expect(invocation.arguments == [Array("a".utf8), Array("b".utf8)])
            #expect(invocation.integer("limit") == 5)
            #expect(invocation.bool("prefix"))
            #expect(invocation.text("write-out") == "json")
        }
        let put = try parse("put --endpoints a:1,b:2 --endpoints c:3 -- -k --prev-kv")
        #expect(put.arguments == [Array("-k".utf8), Array("--prev-kv".utf8)])
        #expect(put.separator == 0)
        #expect(put.list("endpoints") == ["a:1", "b:2", "c:3"])
        #expect(try parse("endpoint --cluster health").bool("cluster"))
        #expect(try parse("lease keep -h").wantsHelp)
        #expect(try parse("get -").arguments == [[0x2D]])
    }

    @Test func mistakesAreNamed() {
        for (line, message) in [
            ("get a --nope", "unknown flag: --nope"), ("get a -z", "unknown shorthand flag: 'z' in -z"),
            ("get a --limit", "flag needs an argument: --limit"),
            ("get a -w", "flag needs an argument: 'w' in -w"), ("get ---x", "bad flag syntax: ---x"),
            ("nope", #"unknown command "nope" for "moonctl""#),
            ("lease nope", #"unknown command "nope" for "moonctl lease""#),
            ("p a", #"unknown command "p" for "moonctl""#),
            (
                "get a --limit x",
                #"invalid argument "x" for "--limit" flag: strconv.ParseInt: parsing "x": invalid syntax"#
            ),
            (
                "--hex=2 get a",
                #"invalid argument "2" for "--hex" flag: strconv.ParseBool: parsing "2": invalid syntax"#
            ),
            (
                "--dial-timeout 5 get a",
                #"invalid argument "5" for "--dial-timeout" flag: time: missing unit in duration "5""#
            ),
        ] {
            #expect(failure(line)?.message == message)
            #expect(failure(line)?.code == .error)
        }
    }

    @Test func spans() throws {
        func span(_ words: [String], prefix: Bool = false, fromKey: Bool = false) throws -> [[UInt8]] {
            let span = try KeySpan(words.map { Array($0.utf8) }, prefix: prefix, fromKey: fromKey)
            return [Array(span.key), Array(span.end)]
        }
        #expect(try span(["a"]) == [[0x61], []])
        #expect(try span(["a", "c"]) == [[0x61], [0x63]])
        #expect(try span(["az"], prefix: true) == [[0x61, 0x7A], [0x61, 0x7B]])
        #expect(try span([""], prefix: true) == [[0], [0]])
        #expect(try span(["k"], fromKey: true) == [[0x6B], [0]])
        #expect(Array(KeySpan.prefixEnd(Data([0x61, 0xFF, 0xFF]))) == [0x62])
        #expect(Array(KeySpan.prefixEnd(Data([0xFF]))) == [0])
        #expect(throws: CommandError.self) { try span(["a", "b"], prefix: true) }
        #expect(throws: CommandError.self) { try span(["a"], prefix: true, fromKey: true) }
    }

    @Test func compares() throws {
        func compare(_ line: String) throws(CommandError) -> Etcdserverpb_Compare {
            try TxnText.compare(Array(line.utf8))
        }
        let value = try compare(#"value("k\n") != "v\x00""#)
        #expect(value.key == Data("k\n".utf8) && value.value == Data([0x76, 0]))
        #expect(value.target == .value && value.result == .notEqual)
        let mod = try compare(#"m( "k") > "12""#)
        #expect(mod.target == .mod && mod.modRevision == 12 && mod.result == .greater)
        #expect(try compare(#"ver("k") = "0""#).target == .version)
        #expect(try compare(#"create("k") < "9""#).createRevision == 9)
        #expect(try compare(#"lease("k") = "58eea20537debf4a""#).lease == 0x58ee_a205_37de_bf4a)
        for line in [
            "", "mod", "mod(k) = \"1\"", #"mod("k" ) = "1""#, #"mod("k") "1""#, #"mod("k") = x"#,
            #"mod("k") = "x""#, #"size("k") = "1""#, #"mod("k") == "1""#, #"mod("k") = "0x1""#,
        ] {
            #expect(throws: CommandError.self) { try compare(line) }
        }
    }

    @Test func operations() throws {
        let put = try TxnCommand.operation(Array(#"put "a b" 'c d' --lease=1f --prev-kv"#.utf8)).requestPut
        #expect(put.key == Data("a b".utf8) && put.value == Data("c d".utf8))
        #expect(put.lease == 31 && put.prevKv)
        let get = try TxnCommand.operation(
            Array("get k --prefix --order DESCEND --sort-by modify --keys-only --rev 4".utf8)
        ).requestRange
        #expect(get.rangeEnd == Data("l".utf8) && get.sortOrder == .descend && get.sortTarget == .mod)
        #expect(get.keysOnly && get.revision == 4)
        #expect(try TxnCommand.operation(Array("del k --from-key".utf8)).requestDeleteRange.rangeEnd == Data([0]))
        for (line, code) in [
            ("put k", ExitCode.badArguments), ("get", .invalidInput), ("watch k", .invalidInput),
            ("get k -w json", .invalidInput), ("put k v --lease x", .badArguments), ("get k 'open", .invalidInput),
        ] {
            do throws(CommandError) {
                _ = try TxnCommand.operation(Array(line.utf8))
                Issue.record("\(line) was taken")
            } catch {
                #expect(error.code == code)
            }
        }
    }

    @Test func endpoints() throws {
        func tcp(_ text: String) throws -> String {
            guard case .tcp(let host, let port) = try Endpoint(text).address else { return "unix" }
            return "\(host) \(port)"
        }
        #expect(try tcp("127.0.0.1:2379") == "127.0.0.1 2379")
        #expect(try tcp("http://node:1/") == "node 1")
        #expect(try tcp("[::1]:2379") == "::1 2379")
        #expect(try tcp("unix:///tmp/s") == "unix")
        for text in ["https://a:1", "a", "a:", "a:x", "a:70000", ""] {
            #expect(throws: CommandError.self) { try Endpoint(text) }
        }
    }

    @Test func httpReplies() {
        func reply(_ text: String) -> HTTPExchange.Reply? { HTTPExchange.parse(Array(text.utf8)) }
        let good = reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nokmore")
        #expect(good?.status == 200 && good?.body == Array("ok".utf8))
        #expect(reply("HTTP/1.1 404 Not Found\r\n\r\ngone")?.body == Array("gone".utf8))
        for text in [
            "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] { #expect(reply(text) == nil) }
    }
}
