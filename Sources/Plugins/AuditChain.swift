import Crypto

#if canImport(Glibc)
    import Glibc
#endif

/// The hash chain of a sink: each line tells its number, the hash of the line before and its own hash, so that a
/// changed, missing or reordered line shows.
///
/// A line `{…}` becomes `{…,"seq":N,"prev":"HEX","hash":"HEX"}`. `hash` is SHA-256, or HMAC-SHA256 with a key, over
/// the bytes of the line before `,"hash"`; these include `prev`. The first line ever has number 1 and a `prev` of
/// 64 zeros. Without a key, whoever can write the file can also make a new chain from any line on; and lines cut off at
/// the end show only against a number and hash noted elsewhere.
package struct AuditChain: Sendable {
    package private(set) var sequence: UInt64 = 0
    /// The hash of the line before, as hexadecimal text: always 64 digits.
    private var last = start
    private static let start = [UInt8](repeating: UInt8(ascii: "0"), count: 64)
    private let key: SymmetricKey?

    package init(key: [UInt8]?) { self.key = key.map { SymmetricKey(data: $0) } }

    /// Adds the hash of a line's covered bytes, as hexadecimal text.
    private func addHash(of bytes: UnsafeRawBufferPointer, to out: TextBuffer) {
        if let key {
            HMAC<SHA256>.authenticationCode(for: bytes, using: key).withUnsafeBytes { out.add(hex: $0) }
        } else {
            var hash = SHA256()
            hash.update(bufferPointer: bytes)
            hash.finalize().withUnsafeBytes { out.add(hex: $0) }
        }
    }

    /// Links one line and adds it to `out`, which may hold lines before it; false, and nothing added, when it is
    /// no JSON object.
    mutating func append(_ line: UnsafeRawBufferPointer, to out: TextBuffer) -> Bool {
        guard line.count >= 2, line.first == UInt8(ascii: "{"), line.last == UInt8(ascii: "}") else { return false }
        let start = out.count
        out.add(UnsafeRawBufferPointer(rebasing: line.dropLast()))
        out.add(line.count > 2 ? ",\"seq\":" : "\"seq\":")
        out.add(decimal: sequence + 1)
        out.add(",\"prev\":\"")
        out.add(last)
        out.add("\"")
        let end = out.count
        out.add(",\"hash\":\"")
        let hash = out.count
        addHash(of: UnsafeRawBufferPointer(rebasing: out.bytes(from: start).prefix(end - start)), to: out)
        last.withUnsafeMutableBytes { $0.copyMemory(from: out.bytes(from: hash)) }
        out.add("\"}")
        sequence += 1
        return true
    }

    /// Goes back to an earlier state, after lines that could not be written.
    mutating func restore(_ other: AuditChain) { self = other }

    /// The chain's fields of a written line.
    struct Link {
        let sequence: UInt64
        let previous: [UInt8]
        let hash: [UInt8]
        /// The bytes the hash covers.
        let covered: ArraySlice<UInt8>
    }

    static func link(_ line: ArraySlice<UInt8>) -> Link? {
        // From the end: `,"hash":"` 64 digits `"}`, before it `"prev":"` 64 digits `"`, before it `"seq":N,`.
        let hashMark = Array(",\"hash\":\"".utf8)
        let previousMark = Array(",\"prev\":\"".utf8)
        let sequenceMark = Array("\"seq\":".utf8)
        let tail = hashMark.count + 64 + 2
        guard line.count > tail, line.suffix(2).elementsEqual("\"}".utf8) else { return nil }
        let covered = line.dropLast(tail)
        guard line.suffix(tail).prefix(hashMark.count).elementsEqual(hashMark) else { return nil }
        let hash = line.suffix(66).prefix(64)
        let previousTail = previousMark.count + 65
        guard covered.count > previousTail, covered.last == UInt8(ascii: "\""),
            covered.suffix(previousTail).prefix(previousMark.count).elementsEqual(previousMark)
        else { return nil }
        let previous = covered.suffix(65).prefix(64)
        let before = covered.dropLast(previousTail)
        let digits = before.reversed().prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        guard before.dropLast(digits.count).suffix(sequenceMark.count).elementsEqual(sequenceMark),
            // No chain gets to the last number there is; a file that says so cannot be continued.
            let sequence = UInt64(String(decoding: digits.reversed(), as: UTF8.self)), sequence < .max
        else { return nil }
        return Link(sequence: sequence, previous: Array(previous), hash: Array(hash), covered: covered)
    }

    /// Continues after a line of an existing file. Its own hash is not checked here; verification does that.
    mutating func resume(after link: Link) {
        sequence = link.sequence
        last = link.hash
    }

    // MARK: - Verification

    package struct Report: Sendable, Equatable {
        package var records: UInt64 = 0
        package var firstSequence: UInt64 = 0
        package var lastSequence: UInt64 = 0
        package var lastHash = ""
    }

    package struct Defect: Error, Equatable, Sendable, CustomStringConvertible {
        package let file: String
        package let line: Int
        package let message: String
        package var description: String { "\(file):\(line): \(message)" }
    }

    /// The longest line that is read.
    private static let maximumLine = 4 << 20

    /// Verifies files that follow one another, oldest first.
    ///
    /// - Throws: the first line that is changed, missing or out of order.
    package static func verify(_ paths: [String], key: [UInt8]?) throws(Defect) -> Report {
        let chain = AuditChain(key: key)
        var report = Report()
        for path in paths {
            try chain.verify(path, &report)
        }
        return report
    }

    private func verify(_ path: String, _ report: inout Report) throws(Defect) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Defect(file: path, line: 0, message: FileReading.reason(errno)) }
        defer { close(descriptor) }
        var pending: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 256 << 10)
        var number = 0
        while true {
            let count = read(descriptor, &chunk, chunk.count)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw Defect(file: path, line: number, message: FileReading.reason(errno)) }
            if count == 0 { break }
            pending.append(contentsOf: chunk.prefix(count))
            var start = 0
            while let end = pending[start...].firstIndex(of: 0x0A) {
                number += 1
                try check(pending[start..<end], &report, path, number)
                start = end + 1
            }
            pending.removeFirst(start)
            guard pending.count <= Self.maximumLine else {
                throw Defect(file: path, line: number + 1, message: "the line is too long")
            }
        }
        if !pending.isEmpty {
            throw Defect(file: path, line: number + 1, message: "the last line is not finished")
        }
    }

    private func check(
        _ line: ArraySlice<UInt8>, _ report: inout Report, _ path: String, _ number: Int
    ) throws(Defect) {
        func defect(_ message: String) -> Defect { Defect(file: path, line: number, message: message) }
        guard let link = Self.link(line) else { throw defect("the record has no chain fields at its end") }
        let hash = TextBuffer(capacity: 64)
        link.covered.withUnsafeBytes { addHash(of: $0, to: hash) }
        guard hash.bytes().elementsEqual(link.hash) else {
            throw defect("record \(link.sequence) was changed, or the key is wrong")
        }
        if report.records == 0 {
            if link.sequence == 1 && link.previous != Self.start {
                throw defect("record 1 does not start a chain")
            }
            report.firstSequence = link.sequence
        } else {
            guard link.sequence == report.lastSequence &+ 1 else {
                throw defect("record \(link.sequence) follows record \(report.lastSequence): missing or out of order")
            }
            guard link.previous.elementsEqual(report.lastHash.utf8) else {
                throw defect("record \(link.sequence) does not continue record \(report.lastSequence)")
            }
        }
        report.records += 1
        report.lastSequence = link.sequence
        report.lastHash = String(decoding: link.hash, as: UTF8.self)
    }
}
