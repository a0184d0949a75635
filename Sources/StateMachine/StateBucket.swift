// Where replicated state outside the key space lies in the backend. Names are etcd's.
//
//   bucket           key                              value
//   meta             consistent_index                 8 bytes big endian: index of the last applied entry
//   meta             term                             8 bytes big endian: its term
//   meta             confState                        as given by the replica
//   meta             currentRevision                  8 bytes big endian
//   meta             scheduledCompactRev              17 bytes: revision (8, big endian), "_", 8 zero bytes
//   meta             finishedCompactRev               the same; written with the last deletes of a compaction
//   lease            8 bytes big endian: lease id     leasepb.Lease {1 ID, 2 TTL, 3 RemainingTTL}, seconds
//   alarm            etcdserverpb.AlarmMember         empty
//   members          member id in hexadecimal          etcdserverpb.Member
//   members_removed  member id in hexadecimal          "removed"; such an id never comes back
//   cluster          clusterVersion                   "3.6.0"
//
// currentRevision is written so that the revision never goes back over a restart, even when the
// newest records were tombstones and are compacted away (etcd issue 17780). The keys of a lease are
// not stored: the key index names the lease of every key.

/// A named database of the backend, besides `key`.
package enum StateBucket: String, CaseIterable, Sendable {
    case meta
    case lease
    case alarm
    case members
    case membersRemoved = "members_removed"
    case cluster
}

/// Keys of bucket `meta` and `cluster`.
package enum StateKey {
    package static let appliedIndex = "consistent_index"
    package static let appliedTerm = "term"
    package static let confState = "confState"
    package static let currentRevision = "currentRevision"
    package static let scheduledCompactRevision = "scheduledCompactRev"
    package static let finishedCompactRevision = "finishedCompactRev"
    package static let clusterVersion = "clusterVersion"
}

/// Reads buckets at start. Implemented over LMDB by the storage layer, by a dictionary in tests.
package protocol StateReader {
    /// Every pair in the order of the keys.
    func forEach(
        in bucket: StateBucket, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void)
}

/// A pair to write (`value`) or a key to delete (nil).
package struct BucketChange: Equatable, Sendable {
    package var bucket: StateBucket
    package var key: [UInt8]
    package var value: [UInt8]?

    package init(bucket: StateBucket, key: [UInt8], value: [UInt8]?) {
        self.bucket = bucket
        self.key = key
        self.value = value
    }
}

/// Fixed-width forms of numbers in keys and values.
enum StateBytes {
    static func bigEndian(_ number: UInt64) -> [UInt8] {
        withUnsafeBytes(of: number.bigEndian) { [UInt8]($0) }
    }

    static func number(_ bytes: UnsafeRawBufferPointer) -> UInt64? {
        guard bytes.count == 8 else { return nil }
        return bytes.reduce(0) { $0 &<< 8 | UInt64($1) }
    }

    /// etcd's form of a revision with sub-revision 0.
    static func revision(_ main: Int64) -> [UInt8] {
        bigEndian(UInt64(bitPattern: main)) + [UInt8(ascii: "_")] + [UInt8](repeating: 0, count: 8)
    }

    static func revision(from bytes: UnsafeRawBufferPointer) -> Int64? {
        guard bytes.count == 17, bytes[8] == UInt8(ascii: "_") else { return nil }
        return number(UnsafeRawBufferPointer(rebasing: bytes[..<8])).map(Int64.init(bitPattern:))
    }

    /// The id behind a key that `hex` made.
    static func id(fromHex bytes: UnsafeRawBufferPointer) -> UInt64? {
        guard bytes.count <= 16, let text = String(validating: bytes, as: UTF8.self),
            let id = UInt64(text, radix: 16), id != 0
        else { return nil }
        return id
    }

    static func hex(_ id: UInt64) -> [UInt8] { [UInt8](String(id, radix: 16).utf8) }
}
