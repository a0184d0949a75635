// From the state machine to the backend and back. What one commit writes belongs together: the
// records, the buckets and the applied index reach the disk in one backend transaction, so that a
// crash can never separate an index from the state it stands for (etcd issue 13766).

import KVCodec
import MVCC

/// What the backend writes in one transaction: first the records, then the deletions, then the
/// bucket changes.
package struct PendingCommit: Sendable {
    /// Records written since the last freeze; give them to `MVCCStore.release` once they are read
    /// back through the backend. Nil when there are none.
    package var records: PendingRecords?
    /// Records that compaction takes away; may name records of this same commit.
    package var deletedRevisions: [Revision]
    /// Each key once, bucket by bucket and in the order of the keys (members by id); `meta` is always
    /// among them.
    package var changes: [BucketChange]
    /// The last entry that this commit contains.
    package var appliedIndex: UInt64
    package var appliedTerm: UInt64
}

/// Why the state cannot be restored: the backend holds something this version did not write.
package enum RestoreError: Error, Equatable, Sendable {
    case badBucket(StateBucket, key: [UInt8])
    case badRecord(Revision)
    /// The records do not fit what `meta` says of them.
    case badRevisions
}

/// What changed since the last freeze.
struct PersistenceState {
    var alarms: Set<Alarm> = []
    var members: Set<UInt64> = []
    var clusterVersion = false
    var deletedRevisions: [Revision] = []
    var frozenIndex: UInt64 = 0
    var frozenConfState: [UInt8] = []
    var frozenFinishedCompactRevision: Int64 = -1
}

extension StateMachine {
    /// Takes everything that changed since the last freeze; nil when nothing did. The caller holds
    /// `store.beginBatch()` or is between batches.
    package func freeze() -> PendingCommit? {
        let records = store.freezePending()
        var changes = stateChanges()
        let isUnchanged =
            records == nil && changes.isEmpty && persistence.deletedRevisions.isEmpty
            && appliedIndex == persistence.frozenIndex
            && confState == persistence.frozenConfState
            && store.finishedCompactRevision == persistence.frozenFinishedCompactRevision
        if isUnchanged { return nil }

        changes.append(contentsOf: metaChanges())
        let commit = PendingCommit(
            records: records, deletedRevisions: persistence.deletedRevisions, changes: changes,
            appliedIndex: appliedIndex, appliedTerm: appliedTerm)

        lessor.clearChanged()
        persistence.alarms.removeAll()
        persistence.members.removeAll()
        persistence.clusterVersion = false
        persistence.deletedRevisions = []
        persistence.frozenIndex = appliedIndex
        persistence.frozenConfState = confState
        persistence.frozenFinishedCompactRevision = store.finishedCompactRevision
        return commit
    }

    /// What changed outside `meta`, bucket by bucket, each in the order of its keys. Sets have no
    /// order; a commit has.
    private func stateChanges() -> [BucketChange] {
        var changes: [BucketChange] = []
        changes.reserveCapacity(lessor.changed.count)
        for alarm in persistence.alarms.sorted() {
            var key = ByteWriter(capacity: 16)
            alarm.encode(into: &key)
            changes.append(
                BucketChange(
                    bucket: .alarm, key: key.bytes, value: alarmSet.contains(alarm) ? [] : nil))
        }
        if persistence.clusterVersion {
            changes.append(
                BucketChange(
                    bucket: .cluster, key: [UInt8](StateKey.clusterVersion.utf8),
                    value: clusterVersion.map { [UInt8]($0.utf8) }))
        }
        #if MOONRAFT_MUTATIONS
            if StateMutation.isOn(.leasesNotCommitted) { lessor.clearChanged() }
        #endif
        for id in lessor.changed.map(UInt64.init(bitPattern:)).sorted() {
            changes.append(
                BucketChange(
                    bucket: .lease, key: StateBytes.bigEndian(id),
                    value: lessor.lease(Int64(bitPattern: id))?.record))
        }
        for id in persistence.members.sorted() {
            changes.append(
                BucketChange(
                    bucket: .members, key: StateBytes.hex(id),
                    value: memberByID[id].map { member in
                        var writer = ByteWriter(capacity: 64)
                        member.encode(into: &writer)
                        return writer.bytes
                    }))
        }
        for id in persistence.members.sorted() where removedIDs.contains(id) {
            changes.append(
                BucketChange(
                    bucket: .membersRemoved, key: StateBytes.hex(id), value: [UInt8]("removed".utf8)))
        }
        return changes
    }

    /// All of `meta`; a handful of pairs, so they are written every time.
    private func metaChanges() -> [BucketChange] {
        func meta(_ key: String, _ value: [UInt8]) -> BucketChange {
            BucketChange(bucket: .meta, key: [UInt8](key.utf8), value: value)
        }
        #if MOONRAFT_MUTATIONS
            let appliedIndex =
                StateMutation.isOn(.appliedIndexBehindData) && appliedIndex > 2 ? appliedIndex - 1 : appliedIndex
        #endif
        var changes = [
            meta(StateKey.confState, confState),
            meta(StateKey.appliedIndex, StateBytes.bigEndian(appliedIndex)),
            meta(
                StateKey.currentRevision,
                StateBytes.bigEndian(UInt64(bitPattern: store.currentRevision))),
        ]
        if store.finishedCompactRevision >= 0 {
            changes.append(
                meta(
                    StateKey.finishedCompactRevision,
                    StateBytes.revision(store.finishedCompactRevision)))
        }
        if store.compactRevision >= 0 {
            changes.append(
                meta(
                    StateKey.scheduledCompactRevision,
                    StateBytes.revision(store.compactRevision)))
        }
        changes.append(meta(StateKey.appliedTerm, StateBytes.bigEndian(appliedTerm)))
        return changes
    }

    /// Does the next part of a physical compaction, visiting about `maxKeys` keys of the index; the
    /// records to delete go with the next commit. Call it between other work and not in a loop: it
    /// makes no headway while a long read from before the compaction is under way.
    ///
    /// - Returns: false when there is nothing left to do.
    package func compactionStep(maxKeys: Int) -> Bool {
        guard let revisions = store.compactionStep(maxKeys: maxKeys) else { return false }
        persistence.deletedRevisions.append(contentsOf: revisions)
        return store.scheduledCompactRevision != nil
    }

    /// Empties the state machine, so that `restore(from:)` can follow when another member's snapshot
    /// has taken the place of what the backend held. No lease runs here afterwards. The store keeps
    /// what it had until that restore replaces it, and readers see no empty store in between.
    ///
    /// The caller has written, or given up, what `freeze` handed out and does not release its
    /// records any more; what was not frozen is lost.
    package func reset() {
        lessor = Lessor(configuration: configuration)
        alarmSet = AlarmSet()
        memberByID = [:]
        removedIDs = []
        clusterVersion = nil
        appliedIndex = 0
        appliedTerm = 0
        confState = []
        forcedMembershipIndex = 0
        persistence = PersistenceState()
    }

    /// Fills a new state machine, or one just reset, and its store from the backend. Leases do not run until `promote`.
    ///
    /// - Parameters:
    ///   - contents: the records that go with the buckets, if they were read already.
    ///   - activate: makes these records what readers see; called in the moment in which the store changes.
    /// - Throws: `RestoreError` when the backend holds what this version cannot have written.
    package func restore(
        from buckets: some StateReader, contents: StoreContents? = nil, activate: () -> Void = {}
    ) throws(RestoreError) {
        precondition(appliedIndex == 0, "restore into a state machine at \(appliedIndex)")
        var failure: RestoreError?
        func read(
            _ bucket: StateBucket,
            _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
        ) throws(RestoreError) {
            buckets.forEach(in: bucket) { key, value in
                if failure == nil, !body(key, value) {
                    failure = .badBucket(bucket, key: [UInt8](key))
                }
            }
            if let failure { throw failure }
        }

        var currentRevision: Int64 = 1
        var scheduledCompactRevision: Int64 = -1
        var finishedCompactRevision: Int64 = -1
        try read(.meta) { key, value in
            switch String(decoding: key, as: UTF8.self) {
            case StateKey.appliedIndex:
                guard let number = StateBytes.number(value) else { return false }
                appliedIndex = number
            case StateKey.appliedTerm:
                guard let number = StateBytes.number(value) else { return false }
                appliedTerm = number
            case StateKey.confState:
                confState = [UInt8](value)
            case StateKey.forcedMembershipIndex:
                guard let number = StateBytes.number(value) else { return false }
                forcedMembershipIndex = number
            case StateKey.currentRevision:
                guard let number = StateBytes.number(value), number <= UInt64(Int64.max) else {
                    return false
                }
                currentRevision = Int64(number)
            case StateKey.scheduledCompactRevision:
                guard let revision = StateBytes.revision(from: value), revision >= 0 else {
                    return false
                }
                scheduledCompactRevision = revision
            case StateKey.finishedCompactRevision:
                guard let revision = StateBytes.revision(from: value), revision >= 0 else {
                    return false
                }
                finishedCompactRevision = revision
            default: break
            }
            return true
        }
        try read(.lease) { _, value in
            guard let fields = try? NumberFields(value), fields[1] != 0 else { return false }
            lessor.restore(
                id: fields[1], ttlSeconds: fields[2], remainingSeconds: fields[3])
            return true
        }
        try read(.alarm) { key, _ in
            guard let alarm = try? Alarm(key) else { return false }
            _ = alarmSet.insert(alarm)
            return true
        }
        try read(.members) { _, value in
            guard let member = try? Member(value) else { return false }
            memberByID[member.id] = member
            return true
        }
        try read(.membersRemoved) { key, _ in
            guard let id = StateBytes.id(fromHex: key) else { return false }
            removedIDs.insert(id)
            return true
        }
        try read(.cluster) { key, value in
            if String(decoding: key, as: UTF8.self) == StateKey.clusterVersion {
                guard let version = Self.checkedVersion(value) else { return false }
                clusterVersion = version
            }
            return true
        }
        do throws(MVCCError) {
            let lessor = self.lessor
            let records: StoreContents
            if let contents {
                records = contents
            } else {
                records = try StoreContents(of: reader, configuration: store.configuration)
            }
            store.restore(
                records, lastRevision: currentRevision, compactRevision: finishedCompactRevision,
                scheduledCompactRevision: scheduledCompactRevision, activate: activate,
                lease: { key, lease in lessor.attach(key, to: lease) })
        } catch {
            guard case .corruptRecord(let revision) = error else { throw .badRevisions }
            throw .badRecord(revision)
        }
        persistence.frozenIndex = appliedIndex
        persistence.frozenConfState = confState
        persistence.frozenFinishedCompactRevision = store.finishedCompactRevision
    }
}
