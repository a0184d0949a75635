import Glibc

/// A program run to its end, with our standard streams.
enum ChildProcess {
    /// Runs a program found in PATH; `variables` come after the inherited ones.
    /// - Returns: nil when it exited with 0, else what happened.
    static func run(_ words: [[UInt8]], adding variables: [String]) -> String? {
        guard let name = words.first else { return nil }
        var inherited: [[UInt8]] = []
        if let file = fopen("/proc/self/environ", "r") {
            defer { fclose(file) }
            inherited = readAll(file).split(separator: 0).map(Array.init)
        }
        let names = variables.compactMap { $0.split(separator: "=").first.map { Array("\($0)=".utf8) } }
        inherited.removeAll { variable in names.contains { variable.starts(with: $0) } }
        var process = pid_t()
        let status = withPointers(words) { arguments in
            withPointers(inherited + variables.map { Array($0.utf8) }) { environment in
                posix_spawnp(
                    &process, String(decoding: name, as: UTF8.self), nil, nil, arguments,
                    environment)
            }
        }
        if status != 0 {
            return "exec: \(GoText.quote(name)): \(String(cString: strerror(status)).lowercased())"
        }
        var result: Int32 = 0
        while waitpid(process, &result, 0) < 0, errno == EINTR {}
        let signal = result & 0x7F
        if signal != 0 { return "signal: \(signal)" }
        let code = (result >> 8) & 0xFF
        return code == 0 ? nil : "exit status \(code)"
    }

    private static func readAll(_ file: UnsafeMutablePointer<FILE>) -> [UInt8] {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = fread(&chunk, 1, chunk.count, file)
            if count == 0 { return bytes }
            bytes += chunk[..<count]
        }
    }

    /// The texts as a C array of C strings, for as long as `body` runs.
    private static func withPointers<Result>(
        _ texts: [[UInt8]], _ body: ([UnsafeMutablePointer<CChar>?]) -> Result
    ) -> Result {
        let copies = texts.map { strdup(($0 + [0]).map { CChar(bitPattern: $0) }) }
        defer { for copy in copies { free(copy) } }
        return body(copies + [nil])
    }
}
