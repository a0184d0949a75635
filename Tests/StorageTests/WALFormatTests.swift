import Storage
import Testing

/// Format version 1 stays what it is: a log written by today's code equals the bytes recorded here,
/// and those bytes open. When this fails the format has changed: give it a new version, keep
/// reading the old one, and add to the version history in docs/storage-format.md.
@Suite struct WALFormatTests {
    @Test func goldenBytes() throws {
        let disk = MemoryDisk()
        let wal = try WAL.create(
            disk: disk, directory: "/wal", configuration: small, metadata: testMetadata,
            base: WALSnapshot(index: 4, term: 2))
        try wal.append(
            TestBatch(
                hardState: WALHardState(term: 3, vote: 5, commit: 5),
                entries: [
                    TestEntry(index: 5, term: 2, kind: 0, data: []),
                    TestEntry(index: 6, term: 3, kind: 7, data: Array("moonraft".utf8) + [0xff]),
                ]))
        try wal.flush()
        try wal.append(WALSnapshot(index: 5, term: 2), restartsLog: false)
        try wal.append(WALSnapshot(index: 9, term: 3), restartsLog: true)
        try wal.append(TestEntry(index: 10, term: 3, data: [UInt8](repeating: 0x41, count: 600)))
        try wal.flush()
        let paths = disk.paths(under: "/wal")
        #expect(
            paths == [
                "/wal/0000000000000001-0000000000000005.wal",
                "/wal/0000000000000002-000000000000000a.wal",
            ])
        for (path, golden) in zip(paths, [first, second]) {
            let bytes = disk.content(path)
            let used = (bytes.lastIndex { $0 != 0 } ?? -1) + 1
            #expect(bytes.count == 1024)
            #expect(lines(of: bytes.prefix(used)) == golden)
        }
        let stored = MemoryDisk()
        try stored.createDirectory("/wal")
        for (path, golden) in zip(paths, [first, second]) {
            let bytes = golden.flatMap { $0.split(separator: " ") }
                .flatMap { word in
                    (0..<word.count / 2).map { number in
                        let start = word.index(word.startIndex, offsetBy: number * 2)
                        return UInt8(word[start..<word.index(start, offsetBy: 2)], radix: 16) ?? 0
                    }
                }
            stored.setContent(path, bytes + [UInt8](repeating: 0, count: 1024 - bytes.count))
        }
        let opened = try openLog(stored, replayFrom: 5)
        #expect(opened.replay.hardState == WALHardState(term: 3, vote: 5, commit: 9))
        #expect(opened.replay.snapshot == WALSnapshot(index: 9, term: 3))
        #expect(opened.log.entries.map(\.index) == [10])
        #expect(opened.log.entries.first?.data.count == 600)
    }

    /// 32 bytes a line, in words of eight.
    private func lines(of bytes: some Collection<UInt8>) -> [String] {
        let bytes = Array(bytes)
        return stride(from: 0, to: bytes.count, by: 32).map { start in
            stride(from: start, to: min(start + 32, bytes.count), by: 8).map { word in
                bytes[word..<min(word + 8, bytes.count)].map { byte in
                    (byte < 16 ? "0" : "") + String(byte, radix: 16)
                }.joined()
            }.joined(separator: " ")
        }
    }

    /// Header; hard state (term 3, vote 5, commit as before); entry 5; entry 6; hard state (commit
    /// 5); marker 5; marker 9 that restarts the log; end.
    private let first = [
        "4d5241465457414c 0100000080000000 0100000000000000 0500000000000000",
        "8877665544332211 00ffeeddccbbaa99 0807060504030201 0200000000000000",
        "0000000000000000 0400000000000000 0400000000000000 0200000000000000",
        "0200000000000000 0000000000000000 0000000000000000 00000000fc52f184",
        "5ae5606718000000 01000000fc52f184 80000000fc52f184 0300000000000000",
        "0500000000000000 0400000000000000 d3a73f7c10000000 02000000fc52f184",
        "800000005ae56067 0500000000000000 0200000000000000 d8fb7c5519000000",
        "02070000fc52f184 80000000d3a73f7c 0600000000000000 0300000000000000",
        "6d6f6f6e72616674 ff00000000000000 8d7ec96618000000 01000000fc52f184",
        "80000000d8fb7c55 0300000000000000 0500000000000000 0500000000000000",
        "8e99d58510000000 03000000fc52f184 400100008d7ec966 0500000000000000",
        "0200000000000000 ec9a64d210000000 03010000fc52f184 400100008e99d585",
        "0900000000000000 0300000000000000 b3f042a308000000 04000000fc52f184",
        "40010000ec9a64d2 09",
    ]

    /// Header with the state at the cut; entry 10, 600 times 'A'.
    private let second =
        [
            "4d5241465457414c 0100000080000000 0200000000000000 0a00000000000000",
            "8877665544332211 00ffeeddccbbaa99 0807060504030201 0300000000000000",
            "0500000000000000 0900000000000000 0900000000000000 0300000000000000",
            "0300000000000000 0000000000000000 0000000000000000 b3f042a37095686c",
            "4eb8c33768020000 020000007095686c 800000007095686c 0a00000000000000",
            "0300000000000000 4141414141414141 4141414141414141 4141414141414141",
        ]
        + [String](
            repeating: "4141414141414141 4141414141414141 4141414141414141 4141414141414141", count: 18)
}
