import Foundation
import Testing

/// Each file in testdata tells a story of one cluster: commands, and after `----` what they print.
/// The whole trace is compared. `REWRITE=1 swift test` writes the present traces into the files;
/// review the difference before keeping it.
@Suite struct ScenarioTests {
    private static let folder = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().appendingPathComponent("testdata")

    static let names: [String] = {
        let files = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        return files.filter { $0.hasSuffix(".txt") }.sorted()
    }()

    @Test func scenariosExist() { #expect(Self.names.count >= 16) }

    @Test(arguments: names)
    func scenario(name: String) throws {
        let file = Self.folder.appendingPathComponent(name)
        let text = try String(contentsOf: file, encoding: .utf8)
        let actual = try replay(text)
        if ProcessInfo.processInfo.environment["REWRITE"] == "1" {
            try actual.write(to: file, atomically: true, encoding: .utf8)
        } else if actual != text {
            let got = actual.split(separator: "\n", omittingEmptySubsequences: false)
            let expected = text.split(separator: "\n", omittingEmptySubsequences: false)
            let line = zip(got, expected).prefix { $0 == $1 }.count
            Issue.record(
                """
                \(name), line \(line + 1): expected
                \(expected.dropFirst(line).prefix(6).joined(separator: "\n"))
                but got
                \(got.dropFirst(line).prefix(6).joined(separator: "\n"))
                """)
        }
    }

    /// Blocks are separated by empty lines. In a block, comments and commands come first, then
    /// `----` and the output of the commands.
    private func replay(_ text: String) throws -> String {
        var scenario = Scenario()
        var result: [String] = []
        for block in text.components(separatedBy: "\n\n") {
            let lines = block.split(separator: "\n").map(String.init)
            let commands = lines.prefix { $0 != "----" }
            if commands.isEmpty { continue }
            var output = Array(commands)
            let isComment = commands.allSatisfy { $0.hasPrefix("#") }
            if !isComment { output.append("----") }
            for command in commands where !command.hasPrefix("#") {
                let printed = try scenario.run(command)
                if printed != "ok" || commands.filter({ !$0.hasPrefix("#") }).count == 1 {
                    output.append(printed)
                }
            }
            if !isComment, output.last == "----" { output.append("ok") }
            result.append(output.joined(separator: "\n"))
        }
        return result.joined(separator: "\n\n") + "\n"
    }
}
