// What the key space was at every revision, rebuilt from the first member's events for each, and the judge of
// every read.

import KVCodec
import MVCC

/// All versions of all keys since the start of the run.
struct KeyHistory {
    struct Version: Equatable {
        var revision: Int64
        var create: Int64
        /// 0 for a deletion.
        var version: Int64
        var value: [UInt8]
        var lease: Int64

        var isLive: Bool { version > 0 }
    }

    private(set) var revision: Int64 = 1
    /// A digest of the events of revision 2, 3, …
    private var digests: [UInt64] = []
    /// Sorted, so that a listing of them all has an order.
    private var keys: [[UInt8]] = []
    private var versions: [[UInt8]: [Version]] = [:]

    /// Takes over the next revision, or compares a known one.
    ///
    /// - Returns: what is wrong, nil when nothing is.
    mutating func note(_ batch: EventBatch) -> String? {
        let digest = fold(batch.bytes)
        if batch.revision <= revision {
            let position = Int(batch.revision) - 2
            guard position >= 0 else { return "events of revision \(batch.revision)" }
            return digests[position] == digest
                ? nil : "revision \(batch.revision) has other events than on another member"
        }
        guard batch.revision == revision + 1 else {
            return "revision \(batch.revision) follows \(revision)"
        }
        revision = batch.revision
        digests.append(digest)
        for event in batch.events {
            if let problem = add(event, of: batch) { return problem }
        }
        return nil
    }

    private mutating func add(_ event: EventRecord, of batch: EventBatch) -> String? {
        let key = batch.with(event.key) { [UInt8]($0) }
        let before = versions[key]?.last
        var next = Version(
            revision: batch.revision, create: 0, version: 0, value: [], lease: 0)
        if !event.isDelete {
            let problem = batch.with(event.record) { bytes -> String? in
                guard let record = try? KeyValueView(bytes) else { return "a record cannot be read" }
                next.create = record.createRevision
                next.version = record.version
                next.value = [UInt8](record.value)
                next.lease = record.lease
                return nil
            }
            if let problem { return problem }
            let isNew = !(before?.isLive ?? false)
            guard next.version == (isNew ? 1 : (before?.version ?? 0) + 1),
                next.create == (isNew ? batch.revision : before?.create ?? 0)
            else {
                return "revision \(batch.revision) makes version \(next.version), created \(next.create), "
                    + "after \(String(describing: before))"
            }
        } else if !(before?.isLive ?? false) {
            return "revision \(batch.revision) deletes a key that does not exist"
        }
        if before == nil {
            let position = keys.firstIndex { key.lexicographicallyPrecedes($0) } ?? keys.endIndex
            keys.insert(key, at: position)
        }
        versions[key, default: []].append(next)
        return nil
    }

    /// The version of `key` that was current at `revision`; nil when it did not exist.
    func version(of key: [UInt8], at revision: Int64) -> Version? {
        let found = versions[key]?.last { $0.revision <= revision }
        return found?.isLive == true ? found : nil
    }

    /// Compares a RangeResponse's keys with what existed at `revision`.
    func check(_ reply: [UInt8], at revision: Int64, key only: [UInt8]?) -> String? {
        guard revision <= self.revision else { return "revision \(revision) has not happened yet" }
        var expected: [([UInt8], Version)] = []
        for key in only.map({ [$0] }) ?? keys {
            if let version = version(of: key, at: revision) { expected.append((key, version)) }
        }
        var position = 0
        let problem = reply.withUnsafeBytes { bytes -> String? in
            var reader = ProtoReader(bytes)
            do throws(DecodeError) {
                while let tag = try reader.next() {
                    guard tag.field == 2 else {
                        try reader.skip(tag)
                        continue
                    }
                    let record = try KeyValueView(try reader.slice(tag))
                    guard position < expected.count else { return "a key too many at revision \(revision)" }
                    let (key, version) = expected[position]
                    position += 1
                    let isEqual =
                        key.elementsEqual(record.key) && version.revision == record.modRevision
                        && version.create == record.createRevision && version.version == record.version
                        && version.value.elementsEqual(record.value) && version.lease == record.lease
                    if !isEqual {
                        return "at revision \(revision) key \(text(key)) is read as revision "
                            + "\(record.modRevision), should be \(version.revision)"
                    }
                }
            } catch {
                return "the reply cannot be read"
            }
            return nil
        }
        if let problem { return problem }
        return position == expected.count
            ? nil : "\(position) keys at revision \(revision), should be \(expected.count)"
    }
}

/// FNV-1a over eight bytes at a time.
func fold(_ bytes: [UInt8], _ start: UInt64 = 0xCBF2_9CE4_8422_2325) -> UInt64 {
    bytes.withUnsafeBytes { bytes in
        var hash = start
        var offset = 0
        while offset + 8 <= bytes.count {
            hash = (hash ^ bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) &* 0x100_0000_01B3
            hash ^= hash >> 29
            offset += 8
        }
        while offset < bytes.count {
            hash = (hash ^ UInt64(bytes[offset])) &* 0x100_0000_01B3
            offset += 1
        }
        return hash ^ (hash >> 32)
    }
}

func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
