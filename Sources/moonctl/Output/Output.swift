import Glibc

/// Text on its way to standard output and standard error; `flush` writes what has gathered.
struct Output {
    private(set) var bytes: [UInt8] = []
    private(set) var errorBytes: [UInt8] = []

    mutating func text(_ text: String) { bytes.append(contentsOf: text.utf8) }

    mutating func line(_ text: String) {
        bytes.append(contentsOf: text.utf8)
        bytes.append(0x0A)
    }

    mutating func line(_ raw: some Sequence<UInt8>) {
        bytes.append(contentsOf: raw)
        bytes.append(0x0A)
    }

    mutating func raw(_ raw: some Sequence<UInt8>) { bytes.append(contentsOf: raw) }

    /// A whole line on standard error.
    mutating func error(_ text: String) { errorText(text + "\n") }

    mutating func errorText(_ text: String) { errorBytes.append(contentsOf: text.utf8) }

    /// Ends the process with code 6 when standard output cannot be written.
    mutating func flush() {
        let isWritten = Self.write(bytes, STDOUT_FILENO)
        _ = Self.write(errorBytes, STDERR_FILENO)
        bytes.removeAll(keepingCapacity: true)
        errorBytes.removeAll(keepingCapacity: true)
        if !isWritten { exitProcess(.inputOutput) }
    }

    private static func write(_ bytes: [UInt8], _ descriptor: Int32) -> Bool {
        bytes.withUnsafeBytes { buffer in
            var rest = buffer[...]
            while !rest.isEmpty {
                let part = UnsafeRawBufferPointer(rebasing: rest)
                let count = Glibc.write(descriptor, part.baseAddress, part.count)
                if count < 0 {
                    if errno == EINTR { continue }
                    return false
                }
                rest = rest.dropFirst(count)
            }
            return true
        }
    }
}

/// Standard input, by lines or as a whole.
struct StandardInput {
    private var buffer: [UInt8] = []
    private var start = 0
    private var isAtEnd = false

    /// The next line without its newline; nil when the input ends before a newline.
    mutating func line() -> [UInt8]? {
        var searched = start
        while true {
            if let end = buffer[searched...].firstIndex(of: 0x0A) {
                defer { start = end + 1 }
                return Array(buffer[start..<end])
            }
            searched = buffer.count
            if !fill() { return nil }
        }
    }

    /// Everything that is left.
    mutating func rest() -> [UInt8] {
        while fill() {}
        defer { start = buffer.count }
        return Array(buffer[start...])
    }

    private mutating func fill() -> Bool {
        if isAtEnd { return false }
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = read(STDIN_FILENO, &chunk, chunk.count)
            if count > 0 {
                buffer.append(contentsOf: chunk[..<count])
                return true
            }
            if count < 0, errno == EINTR { continue }
            isAtEnd = true
            return false
        }
    }
}
