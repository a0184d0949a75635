// What the pairs of a backup must be, one by one and together.

import KVCodec
import RaftCore
import Replica
import StateMachine
import Storage

/// Takes the pairs in the order of the file.
struct SnapshotInspection {
    var report = SnapshotReport()
    private var hash = BackendHash()
    private var keys: Set<[UInt8]> = []
    private var newest: Int64 = 0
    private var format: UInt32?

    mutating func take(
        _ bucket: [UInt8], _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(BackendFileFault) {
        hash.add(bucket: bucket, key: key, value: value)
        let name = String(decoding: bucket, as: UTF8.self)
        switch name {
        case BackendBucket.key.name: try takeRecord(key, value)
        case BackendBucket.meta.name:
            if key.elementsEqual(Backend.formatKey.utf8), value.count == 4 {
                format = value.reduce(0) { $0 << 8 | UInt32($1) }
            }
            guard report.meta.read(key, value) else { throw Self.fault(name, key) }
        default:
            guard let kind = StateBucket(rawValue: name) else { return }
            guard StoredState.isSound(kind, key, value) else { throw Self.fault(name, key) }
        }
    }

    private static func fault(_ bucket: String, _ key: UnsafeRawBufferPointer) -> BackendFileFault {
        let hex = key.prefix(32).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        return BackendFileFault("bucket \(bucket), key 0x\(hex)", "the value is none of this version's")
    }

    /// A record is an encoded KeyValue; the rules are those of the store's restore.
    private mutating func takeRecord(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(BackendFileFault) {
        guard let revision = RevisionKey(key), revision.main > 0, revision.sub >= 0 else {
            throw BackendFileFault(
                "bucket key, record \(report.records)", "the key of \(key.count) bytes is no revision")
        }
        let place = "bucket key, revision \(revision.main)_\(revision.sub)"
        guard let view = try? KeyValueView(value) else {
            throw BackendFileFault(place, "the record cannot be decoded")
        }
        guard view.key.count > 0 else { throw BackendFileFault(place, "the record has no key") }
        if revision.isTombstone {
            keys.remove([UInt8](view.key))
        } else {
            guard view.modRevision == revision.main, view.version > 0, view.createRevision > 0,
                view.createRevision <= view.modRevision
            else {
                throw BackendFileFault(
                    place,
                    "the record says version \(view.version), created at \(view.createRevision), modified "
                        + "at \(view.modRevision)")
            }
            keys.insert([UInt8](view.key))
        }
        // The walk has seen that keys ascend, which is the order of the revisions.
        newest = revision.main
        report.records += 1
    }

    /// What holds between the buckets.
    mutating func finish(
        dataBytes: UInt64, hasDigest: Bool
    ) throws(BackendFileFault) -> SnapshotReport {
        let meta = report.meta
        guard let format else { throw BackendFileFault("bucket meta", "has no format version") }
        guard format >= 1, format <= Backend.formatVersion else {
            throw BackendFileFault(
                "bucket meta",
                "has format version \(format); this release reads up to \(Backend.formatVersion)")
        }
        guard meta.appliedIndex > 0 else {
            throw BackendFileFault("bucket meta", "does not say which log entry was applied last")
        }
        guard ConfState(stored: meta.confState) != nil else {
            throw BackendFileFault("bucket meta", "the membership cannot be read")
        }
        guard meta.currentRevision >= max(1, newest) else {
            throw BackendFileFault(
                "bucket meta", "the revision is \(meta.currentRevision), but a record has \(newest)")
        }
        guard meta.compactRevision <= meta.currentRevision else {
            throw BackendFileFault(
                "bucket meta",
                "is compacted at \(meta.compactRevision), after its revision \(meta.currentRevision)")
        }
        report.hash = hash.finish()
        report.revision = meta.currentRevision
        report.totalKeys = keys.count
        report.totalBytes = dataBytes
        report.hasDigest = hasDigest
        return report
    }
}
