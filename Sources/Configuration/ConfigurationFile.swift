#if canImport(Glibc)
    import Glibc
#endif

/// Reads the text of a configuration file.
package enum ConfigurationFile {
    /// Reads at most ``TOMLDocument/maximumBytes`` and one byte more, so that the parser can say "too large".
    ///
    /// - Throws: an error that names the file and what the system said.
    package static func read(_ path: String) throws(ConfigurationError) -> String {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw failure(path) }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: TOMLDocument.maximumBytes + 1)
        var count = 0
        while count < bytes.count {
            let offset = count
            let got = bytes.withUnsafeMutableBytes { buffer in
                Glibc.read(file, buffer.baseAddress?.advanced(by: offset), buffer.count - offset)
            }
            if got < 0 && errno == EINTR { continue }
            guard got >= 0 else { throw failure(path) }
            if got == 0 { break }
            count += got
        }
        guard let text = String(validating: bytes[..<count], as: UTF8.self) else {
            throw ConfigurationError(
                location: TOMLLocation(file: path, line: 1, column: 1), message: "the file is not UTF-8 text")
        }
        return text
    }

    private static func failure(_ path: String) -> ConfigurationError {
        ConfigurationError(message: "cannot read \(path): \(String(cString: strerror(errno)))")
    }
}
