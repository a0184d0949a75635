// The bytes of a log segment, format version 1. docs/storage-format.md has the same tables with the
// crash argument. Integers are little-endian.
//
// Segment file "SSSSSSSSSSSSSSSS-IIIIIIIIIIIIIIII.wal": sequence and first index in hexadecimal.
//
// Segment header, 128 bytes, durable before the file gets its name:
//
//     0   magic "MRAFTWAL"
//     8   format version u32 = 1
//     12  header bytes u32 = 128
//     16  sequence u64           one above that of the segment before
//     24  first index u64        one above the last entry of the segment before
//     32  cluster id u64, 40 member id u64, 48 salt u64
//     56  term u64, 64 vote u64, 72 commit u64          hard state at the cut
//     80  snapshot index u64, 88 snapshot term u64      last snapshot marker at the cut
//     96  previous term u64      term of the entry before first index
//     104 zero, 16 bytes
//     120 previous u32           checksum of the end record of the segment before; 0 in the first
//     124 checksum u32           CRC32C of bytes 0..<124; the segment's tag
//
// Record, at a multiple of 8:
//
//     0   checksum u32           CRC32C seeded with the tag, over the record's offset as u64, then bytes
//                                4..<24, the payload and its padding
//     4   length u32             bytes of payload, without padding
//     8   type u8                1 hard state, 2 entry, 3 snapshot, 4 end
//     9   kind u8                entry: the caller's; snapshot: 1 when the log restarts there; else 0
//     10  zero u16
//     12  tag u32                checksum of the segment header
//     16  durable u32            offset in this segment below which all was durable when this was encoded
//     20  previous u32           checksum of the record before; of the header (the tag) for the first
//     24  payload, then zeros up to a multiple of 8
//
// Payloads: hard state {term u64, vote u64, commit u64}; entry {index u64, term u64, data};
// snapshot {index u64, term u64}; end {last index u64}.

import CSupport

enum WALFormat {
    static let version: UInt32 = 1
    /// "MRAFTWAL" read as a little-endian integer.
    static let magic: UInt64 = 0x4c41_5754_4641_524d
    static let segmentHeaderBytes = 128
    static let recordHeaderBytes = 24
    static let entryFieldsBytes = 16
    static let endRecordBytes = recordHeaderBytes + 8
    /// Record offsets are kept in 32 bits.
    static let maxSegmentBytes = 1 << 30
    static let minSegmentBytes = 512

    /// Where the next segment is prepared before it gets its name.
    static let spareName = "next.tmp"

    static func segmentName(sequence: UInt64, firstIndex: UInt64) -> String {
        hexadecimal(sequence) + "-" + hexadecimal(firstIndex) + ".wal"
    }

    /// Nil when the name is not that of a segment.
    static func parseSegmentName(_ name: String) -> (sequence: UInt64, firstIndex: UInt64)? {
        let bytes = Array(name.utf8)
        guard bytes.count == 37, name.hasSuffix(".wal"), bytes[16] == UInt8(ascii: "-") else {
            return nil
        }
        guard let sequence = UInt64(String(decoding: bytes[0..<16], as: UTF8.self), radix: 16),
            let firstIndex = UInt64(String(decoding: bytes[17..<33], as: UTF8.self), radix: 16),
            segmentName(sequence: sequence, firstIndex: firstIndex) == name
        else {
            return nil
        }
        return (sequence, firstIndex)
    }

    private static func hexadecimal(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    /// The bytes a record takes, padding included.
    @inline(__always)
    static func recordBytes(payload: Int) -> Int {
        recordHeaderBytes + (payload + 7) & ~7
    }

    /// The checksum of a record that lies at `offset` of the segment with this tag.
    @inline(__always)
    static func checksum(tag: UInt32, offset: UInt64, _ record: UnsafeRawPointer, count: Int) -> UInt32 {
        moonraft_crc32c(moonraft_crc32c_u64(tag, offset), record + 4, count - 4)
    }
}

enum WALRecordType: UInt8 {
    case hardState = 1
    case entry = 2
    case snapshot = 3
    case end = 4
}

/// The fields of a segment header.
struct WALSegmentHeader: Equatable {
    var sequence: UInt64
    var firstIndex: UInt64
    var metadata: WALMetadata
    var hardState: WALHardState
    var snapshot: WALSnapshot
    var previousTerm: UInt64
    var previous: UInt32

    var name: String { WALFormat.segmentName(sequence: sequence, firstIndex: firstIndex) }

    /// The header's bytes; the last four, its checksum, are also the segment's tag.
    func encoded() -> (bytes: [UInt8], tag: UInt32) {
        var bytes = [UInt8](repeating: 0, count: WALFormat.segmentHeaderBytes)
        let tag = bytes.withUnsafeMutableBytes { raw -> UInt32 in
            func put(_ value: UInt64, _ offset: Int) {
                raw.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt64.self)
            }
            put(WALFormat.magic, 0)
            let versionAndSize =
                UInt64(WALFormat.version) | UInt64(WALFormat.segmentHeaderBytes) << 32
            put(versionAndSize, 8)
            put(sequence, 16)
            put(firstIndex, 24)
            put(metadata.clusterID, 32)
            put(metadata.memberID, 40)
            put(metadata.salt, 48)
            put(hardState.term, 56)
            put(hardState.vote, 64)
            put(hardState.commit, 72)
            put(snapshot.index, 80)
            put(snapshot.term, 88)
            put(previousTerm, 96)
            raw.storeBytes(of: previous.littleEndian, toByteOffset: 120, as: UInt32.self)
            let tag = moonraft_crc32c(0, raw.baseAddress, 124)
            raw.storeBytes(of: tag.littleEndian, toByteOffset: 124, as: UInt32.self)
            return tag
        }
        return (bytes, tag)
    }

    /// Reads the header of the segment called `name`. Later versions keep the magic, the version
    /// and the checksum where they are, so that an unknown version can be told from damage.
    static func decode(
        _ raw: UnsafeRawBufferPointer, name: String
    ) throws(WALError) -> (header: WALSegmentHeader, tag: UInt32) {
        func corrupt(_ offset: UInt64, _ reason: String) -> WALError {
            .corrupt(segment: name, offset: offset, reason: reason)
        }
        guard raw.count == WALFormat.segmentHeaderBytes else {
            throw corrupt(UInt64(raw.count), "the file ends within the segment header")
        }
        func word(_ offset: Int) -> UInt64 {
            UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        }
        func half(_ offset: Int) -> UInt32 {
            UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        }
        guard word(0) == WALFormat.magic else {
            throw corrupt(0, "not a log segment (bad magic)")
        }
        let tag = half(124)
        guard moonraft_crc32c(0, raw.baseAddress, 124) == tag else {
            throw corrupt(0, "the segment header does not match its checksum")
        }
        guard half(8) == WALFormat.version else {
            throw .unsupportedVersion(segment: name, found: half(8), supported: WALFormat.version)
        }
        guard half(12) == UInt32(WALFormat.segmentHeaderBytes), word(104) == 0, word(112) == 0 else {
            throw corrupt(12, "reserved fields of the segment header are set")
        }
        let header = WALSegmentHeader(
            sequence: word(16), firstIndex: word(24),
            metadata: WALMetadata(clusterID: word(32), memberID: word(40), salt: word(48)),
            hardState: WALHardState(term: word(56), vote: word(64), commit: word(72)),
            snapshot: WALSnapshot(index: word(80), term: word(88)),
            previousTerm: word(96), previous: half(120))
        guard header.name == name else {
            throw corrupt(16, "the header belongs to segment \(header.name)")
        }
        guard header.firstIndex > 0 else {
            throw corrupt(24, "first index is 0")
        }
        return (header, tag)
    }
}
