// A log record must be one line that a JSON or key=value reader gets back whole, whatever text is in it, and
// lines of several threads must never mix. Records are written to a file and read back with a JSON parser.

import Foundation
import Logging
import Testing

@testable import Configuration

@Suite struct LogOutputTests {
    private func lines(
        _ format: NodeConfiguration.Log.Format, _ level: NodeConfiguration.Log.Level = .info,
        _ body: (Logger) -> Void
    ) throws -> [String] {
        let path = FileManager.default.temporaryDirectory.appending(path: "moonraft-log-\(UUID())").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let output = try LogOutput(outputs: [path])
        let logger = Logger(label: "node") { label in
            StructuredLogHandler(label: label, level: level, format: format, output: output) {
                timespec(tv_sec: 1_700_000_000, tv_nsec: 12_345_678)
            }
        }
        body(logger)
        #expect(output.droppedRecords == 0)
        let text = try String(contentsOfFile: path, encoding: .utf8)
        #expect(text.isEmpty || text.hasSuffix("\n"))
        return text.split(separator: "\n").map(String.init)
    }

    @Test func jsonKeepsWhatWasSaid() throws {
        let lines = try lines(.json) { logger in
            logger.debug("not shown")
            logger.warning(
                "a \"b\"\n\u{1}é",
                metadata: ["took": .stringConvertible(12), "ok": .stringConvertible(true), "list": ["x", ["k": "v"]]])
        }
        #expect(
            lines == [
                #"{"level":"warn","ts":"2023-11-14T22:13:20.012345Z","logger":"node","msg":"a \"b\"\n\u0001é","#
                    + #""list":["x",{"k":"v"}],"ok":true,"took":12}"#
            ])
    }

    @Test func consoleQuotesWhatCouldEndAField() throws {
        let lines = try lines(.console, .debug) { logger in
            logger.debug("two words", metadata: ["key": "a=b", "plain": "x", "empty": "", "inject": "1\nlevel=info"])
        }
        #expect(
            lines == [
                #"level=debug ts=2023-11-14T22:13:20.012345Z logger=node msg="two words" empty="" "#
                    + #"inject="1\nlevel=info" key="a=b" plain=x"#
            ])
    }

    @Test func longRecordsAreCutAndStayReadable() throws {
        for format in NodeConfiguration.Log.Format.allCases {
            let lines = try lines(format) { logger in
                logger.info("m", metadata: ["v": .string(String(repeating: "é\"", count: 20_000))])
            }
            #expect(lines.count == 1)
            let line = try #require(lines.first)
            #expect(line.utf8.count < LogOutput.maximumRecordBytes)
            #expect(line.contains("record too long"))
            if format == .json {
                #expect(try JSONSerialization.jsonObject(with: Data(line.utf8)) is [String: Any])
            }
        }
    }

    @Test func threadsDoNotMixLines() throws {
        let lines = try lines(.json) { logger in
            DispatchQueue.concurrentPerform(iterations: 8) { thread in
                for number in 0..<200 {
                    logger.info("m", metadata: ["t": .stringConvertible(thread), "n": .stringConvertible(number)])
                }
            }
        }
        #expect(lines.count == 1600)
        for line in lines {
            #expect((try? JSONSerialization.jsonObject(with: Data(line.utf8))) is [String: Any], "\(line)")
        }
    }

    @Test func outputsThatCannotBeWritten() throws {
        #expect(throws: ConfigurationError(message: "log.outputs: cannot open /none/x: No such file or directory")) {
            try LogOutput(outputs: ["/none/x"])
        }
        let full = try LogOutput(outputs: ["/dev/full"])
        full.write(Array("line\n".utf8))
        #expect(full.droppedRecords == 1)
    }
}
