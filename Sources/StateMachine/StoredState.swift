// The buckets as a tool sees them that works on a backend without running it: restoring a backup,
// checking one, cutting a member loose from its cluster. The forms are those of StateBucket.swift and
// Persistence.swift.

import KVCodec

/// What bucket `meta` says of the rest.
package struct StoredMeta: Equatable, Sendable {
    /// 0 when nothing was ever committed.
    package var appliedIndex: UInt64 = 0
    package var appliedTerm: UInt64 = 0
    package var confState: [UInt8] = []
    package var currentRevision: Int64 = 1
    /// -1 for none, as in the store.
    package var scheduledCompactRevision: Int64 = -1
    package var finishedCompactRevision: Int64 = -1
    /// Log entries up to this index change no membership; 0 for none. See `forcedMembershipIndex`.
    package var forcedMembershipIndex: UInt64 = 0

    package init() {}

    /// The highest revision that reads are refused below.
    package var compactRevision: Int64 { max(scheduledCompactRevision, finishedCompactRevision) }

    /// Takes one pair of bucket `meta`; a key that is not known here is passed over.
    ///
    /// - Returns: false when the value is not of the key's form.
    package mutating func read(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) -> Bool {
        switch String(decoding: key, as: UTF8.self) {
        case StateKey.appliedIndex: return Self.take(StateBytes.number(value), &appliedIndex)
        case StateKey.appliedTerm: return Self.take(StateBytes.number(value), &appliedTerm)
        case StateKey.confState: confState = [UInt8](value)
        case StateKey.currentRevision:
            let number = StateBytes.number(value).flatMap { Int64(exactly: $0) }
            return Self.take(number, &currentRevision)
        case StateKey.scheduledCompactRevision:
            return Self.take(Self.revision(value), &scheduledCompactRevision)
        case StateKey.finishedCompactRevision:
            return Self.take(Self.revision(value), &finishedCompactRevision)
        case StateKey.forcedMembershipIndex:
            return Self.take(StateBytes.number(value), &forcedMembershipIndex)
        default: break
        }
        return true
    }

    private static func take<Value>(_ found: Value?, _ place: inout Value) -> Bool {
        guard let found else { return false }
        place = found
        return true
    }

    private static func revision(_ value: UnsafeRawBufferPointer) -> Int64? {
        StateBytes.revision(from: value).flatMap { $0 >= 0 ? $0 : nil }
    }

    /// The pairs that make these values stand.
    package var changes: [BucketChange] {
        func meta(_ key: String, _ value: [UInt8]?) -> BucketChange {
            BucketChange(bucket: .meta, key: [UInt8](key.utf8), value: value)
        }
        func revision(_ number: Int64) -> [UInt8]? { number < 0 ? nil : StateBytes.revision(number) }
        return [
            meta(StateKey.confState, confState),
            meta(StateKey.appliedIndex, StateBytes.bigEndian(appliedIndex)),
            meta(
                StateKey.currentRevision,
                StateBytes.bigEndian(UInt64(bitPattern: currentRevision))),
            meta(StateKey.finishedCompactRevision, revision(finishedCompactRevision)),
            meta(
                StateKey.forcedMembershipIndex,
                forcedMembershipIndex == 0 ? nil : StateBytes.bigEndian(forcedMembershipIndex)),
            meta(StateKey.scheduledCompactRevision, revision(scheduledCompactRevision)),
            meta(StateKey.appliedTerm, StateBytes.bigEndian(appliedTerm)),
        ]
    }
}

extension StateKey {
    /// 8 bytes big endian: a member that was cut loose (`--force-new-cluster`) had log entries up to
    /// here of which the changes of membership are void.
    package static let forcedMembershipIndex = "forcedMembershipIndex"
}

/// Single pairs.
package enum StoredState {
    /// The pair that makes `member` a member.
    package static func member(_ member: Member) -> BucketChange {
        var writer = ByteWriter(capacity: 64)
        member.encode(into: &writer)
        return BucketChange(bucket: .members, key: StateBytes.hex(member.id), value: writer.bytes)
    }

    /// The change that makes a member unknown.
    package static func noMember(_ id: UInt64) -> BucketChange {
        BucketChange(bucket: .members, key: StateBytes.hex(id), value: nil)
    }

    /// The pair that keeps a removed member from coming back, or the change that lets it.
    package static func removedMember(_ id: UInt64, isRemoved: Bool) -> BucketChange {
        BucketChange(
            bucket: .membersRemoved, key: StateBytes.hex(id),
            value: isRemoved ? [UInt8]("removed".utf8) : nil)
    }

    /// Whether a pair outside `meta` is one that this version writes.
    package static func isSound(
        _ bucket: StateBucket, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) -> Bool {
        switch bucket {
        case .meta: return true
        case .lease:
            guard let fields = try? NumberFields(value), fields[1] != 0 else { return false }
            return StateBytes.number(key) == UInt64(bitPattern: fields[1])
        case .alarm: return (try? Alarm(key)) != nil
        case .members:
            guard let member = try? Member(value) else { return false }
            return StateBytes.hex(member.id).elementsEqual(key)
        case .membersRemoved:
            guard key.count <= 16, let text = String(validating: key, as: UTF8.self),
                let id = UInt64(text, radix: 16)
            else { return false }
            return StateBytes.hex(id).elementsEqual(key)
        case .cluster:
            return String(decoding: key, as: UTF8.self) != StateKey.clusterVersion
                || StateMachine.checkedVersion(value) != nil
        }
    }
}
