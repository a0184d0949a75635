// One range read under way: streams keys in key order, or collects, filters, sorts and then writes.

import KVCodec

/// The state of a range between two holds of the lock.
struct RangeRead {
    /// A key that passed the filters, before sorting.
    private struct Candidate {
        var revision: Revision
        var create: Int64
        var version: Int64
        var lease: Int64
        /// Position in key order, the tie-breaker.
        var ordinal: Int
        /// Key (keys_only) and value (sort by value) in `scratch`.
        var key: Range<Int>
        var value: Range<Int>
    }

    private enum Stage { case collecting, writing }

    private let query: RangeQuery
    /// The revision that is read.
    let revision: Int64
    private(set) var result: RangeResult
    /// Keys in the range, when the index could tell at once.
    private var knownCount: Int?
    private var counted = 0
    /// Keys written, or collected before filtering.
    private var taken = 0
    private var resumeAfter: [UInt8]?
    private var stage = Stage.collecting
    private var candidates: [Candidate] = []
    private var scratch: [UInt8] = []
    private var written = 0
    private var failure: Revision?

    init(_ query: RangeQuery, revision: Int64, current: Int64) {
        self.query = query
        self.revision = revision
        result = RangeResult(count: 0, more: false, revision: current)
    }

    /// Reads on; true when the range is complete. `current` is the newest revision the index holds.
    ///
    /// - Throws: `.corruptRecord`.
    mutating func step(
        _ store: MVCCStore, current: Int64, _ session: inout ReaderSession,
        _ writer: inout ByteWriter, maximumKeys: Int, maximumBytes: Int
    ) throws(MVCCError) -> Bool {
        let isCurrent = revision == current
        if isCurrent && resumeAfter == nil && stage == .collecting {
            knownCount = store.index.liveCount(query.key, query.rangeEnd)
        }
        let finished: Bool
        if query.countOnly {
            finished = countStep(store, isCurrent, maximumKeys)
        } else if query.isPlain {
            finished = plainStep(store, isCurrent, &session, &writer, maximumKeys, maximumBytes)
        } else if stage == .collecting {
            finished = collectStep(store, isCurrent, &session, &writer, maximumKeys, maximumBytes)
        } else {
            finished = writeStep(store, &session, &writer, maximumKeys, maximumBytes)
        }
        if let failure { throw .corruptRecord(failure) }
        return finished
    }

    private mutating func countStep(
        _ store: MVCCStore, _ isCurrent: Bool, _ maximumKeys: Int
    ) -> Bool {
        if let knownCount {
            result.count = Int64(knownCount)
            return true
        }
        let paused = store.index.walk(
            query.key, query.rangeEnd, after: resumeAfter, revision: revision,
            isCurrent: isCurrent, maximumEntries: maximumKeys
        ) { _, _ in
            counted &+= 1
            return true
        }
        result.count = Int64(counted)
        return pause(paused)
    }

    private mutating func plainStep(
        _ store: MVCCStore, _ isCurrent: Bool, _ session: inout ReaderSession,
        _ writer: inout ByteWriter, _ maximumKeys: Int, _ maximumBytes: Int
    ) -> Bool {
        let limit = query.limit > 0 ? Int(clamping: query.limit) : .max
        let byteLimit = writer.count &+ min(maximumBytes, .max &- writer.count)
        let isCounted = knownCount != nil
        let paused = store.index.walk(
            query.key, query.rangeEnd, after: resumeAfter, revision: revision,
            isCurrent: isCurrent, maximumEntries: maximumKeys, expected: limit &- taken,
            upcoming: { if !query.keysOnly { reserve($0, &writer, byteLimit) } }
        ) { entry, version in
            counted &+= 1
            if taken < limit {
                taken &+= 1
                write(entry, version, store, &session, &writer)
                if failure != nil { return false }
            }
            return !(isCounted && taken == limit) && writer.count < byteLimit
        }
        let finished = pause(paused) || (isCounted && taken == limit)
        if finished {
            let count = knownCount ?? counted
            result.count = Int64(count)
            result.more = count > limit
        }
        return finished
    }

    /// Makes room for `bytes` of records more, growing at least by half, so that the reply is moved
    /// seldom.
    private func reserve(_ bytes: Int, _ writer: inout ByteWriter, _ byteLimit: Int) {
        let needed = min(writer.count &+ bytes &+ bytes / 32 &+ 64, byteLimit)
        if needed > writer.bytes.capacity {
            writer.bytes.reserveCapacity(max(needed, writer.bytes.capacity / 2 &* 3))
        }
    }

    private mutating func pause(_ entry: KeyEntry?) -> Bool {
        guard let entry else { return true }
        resumeAfter = [UInt8](entry.key)
        return false
    }

    // MARK: Writing one key

    private mutating func write(
        _ entry: KeyEntry, _ version: Revision, _ store: MVCCStore,
        _ session: inout ReaderSession, _ writer: inout ByteWriter
    ) {
        if query.keysOnly && version == entry.revision {
            var view = KeyValueView()
            view.key = entry.key
            view.createRevision = entry.createMain
            view.modRevision = entry.modMain
            view.version = entry.version
            view.lease = entry.lease
            Self.write(view, &writer)
            return
        }
        guard let record = store.record(version, &session) else {
            failure = version
            return
        }
        writeRecord(record, version, &writer)
    }

    private mutating func writeRecord(
        _ record: UnsafeRawBufferPointer, _ version: Revision, _ writer: inout ByteWriter
    ) {
        if !query.keysOnly {
            writer.message(2, record)
        } else if var view = try? KeyValueView(record) {
            view.value = UnsafeRawBufferPointer(start: nil, count: 0)
            Self.write(view, &writer)
        } else {
            failure = version
        }
    }

    private static func write(_ view: KeyValueView, _ writer: inout ByteWriter) {
        // One append of finished bytes costs less than one for each byte of the numbers.
        let size = view.encodedSize
        withUnsafeTemporaryAllocation(byteCount: size &+ 11, alignment: 1) { buffer in
            guard let base = buffer.baseAddress else { return }
            var cursor = RawCursor(base)
            cursor.byte(2 << 3 | 2)
            cursor.varint(UInt64(size))
            view.encode(to: cursor.pointer)
            writer.raw(
                UnsafeRawBufferPointer(start: base, count: cursor.pointer - base &+ size))
        }
    }

    // MARK: Filter and sort

    private mutating func collectStep(
        _ store: MVCCStore, _ isCurrent: Bool, _ session: inout ReaderSession,
        _ writer: inout ByteWriter, _ maximumKeys: Int, _ maximumBytes: Int
    ) -> Bool {
        let fetchLimit = query.fetchLimit ?? .max
        let isCounted = knownCount != nil
        let byteLimit = scratch.count &+ min(maximumBytes, .max &- scratch.count)
        let paused = store.index.walk(
            query.key, query.rangeEnd, after: resumeAfter, revision: revision,
            isCurrent: isCurrent, maximumEntries: maximumKeys, expected: fetchLimit &- taken
        ) { entry, version in
            counted &+= 1
            if taken < fetchLimit {
                taken &+= 1
                collect(entry, version, store, &session)
                if failure != nil { return false }
            }
            return !(isCounted && taken == fetchLimit) && scratch.count < byteLimit
        }
        if failure != nil { return false }
        guard pause(paused) || (isCounted && taken == fetchLimit) else { return false }
        result.count = Int64(knownCount ?? counted)
        sort()
        if query.limit > 0 && candidates.count > Int(clamping: query.limit) {
            candidates.removeLast(candidates.count &- Int(clamping: query.limit))
            result.more = true
        }
        stage = .writing
        return writeStep(store, &session, &writer, maximumKeys, maximumBytes)
    }

    private mutating func collect(
        _ entry: KeyEntry, _ version: Revision, _ store: MVCCStore,
        _ session: inout ReaderSession
    ) {
        var candidate = Candidate(
            revision: version, create: entry.createMain, version: entry.version,
            lease: entry.lease, ordinal: counted, key: 0..<0, value: 0..<0)
        let sortsByValue = query.sortTarget == SortTarget.value
        if sortsByValue || version != entry.revision {
            guard let record = store.record(version, &session),
                let view = try? KeyValueView(record)
            else {
                failure = version
                return
            }
            candidate.create = view.createRevision
            candidate.version = view.version
            candidate.lease = view.lease
            if sortsByValue && query.passesFilter(mod: version.main, create: candidate.create) {
                candidate.value = keep(view.value)
            }
        }
        guard query.passesFilter(mod: version.main, create: candidate.create) else { return }
        if query.keysOnly { candidate.key = keep(entry.key) }
        candidates.append(candidate)
        prune()
    }

    private mutating func keep(_ bytes: UnsafeRawBufferPointer) -> Range<Int> {
        let start = scratch.count
        scratch.append(contentsOf: bytes)
        return start..<scratch.count
    }

    /// With a limit only the best `limit + 1` candidates matter; drops the rest now and then, so that
    /// "the newest key below this prefix" needs little memory whatever the size of the range.
    private mutating func prune() {
        guard query.limit > 0, query.limit < 1 << 40 else { return }
        let needed = Int(query.limit) &+ 1
        if candidates.count < 2 &* needed &+ 1_024 { return }
        sort()
        candidates.removeLast(candidates.count &- needed)
        let old = scratch
        scratch = []
        for position in candidates.indices {
            let key = candidates[position].key
            let value = candidates[position].value
            candidates[position].key = old.withUnsafeBytes {
                keep(UnsafeRawBufferPointer(rebasing: $0[key]))
            }
            candidates[position].value = old.withUnsafeBytes {
                keep(UnsafeRawBufferPointer(rebasing: $0[value]))
            }
        }
    }

    /// Sorts by target and order; equal ones stay in key order.
    private mutating func sort() {
        let order = query.effectiveOrder
        let isDescending = order == SortOrder.descend
        guard isDescending || order == SortOrder.ascend else { return }
        let target = query.sortTarget
        scratch.withUnsafeBytes { bytes in
            candidates.sort { left, right in
                let difference: Int
                switch target {
                case SortTarget.version: difference = Self.compare(left.version, right.version)
                case SortTarget.create: difference = Self.compare(left.create, right.create)
                case SortTarget.mod:
                    difference = Self.compare(left.revision.main, right.revision.main)
                case SortTarget.value:
                    difference = KeyRange.compare(
                        UnsafeRawBufferPointer(rebasing: bytes[left.value]),
                        UnsafeRawBufferPointer(rebasing: bytes[right.value]))
                default: difference = Self.compare(Int64(left.ordinal), Int64(right.ordinal))
                }
                if difference == 0 { return left.ordinal < right.ordinal }
                return isDescending ? difference > 0 : difference < 0
            }
        }
    }

    private static func compare(_ left: Int64, _ right: Int64) -> Int {
        left < right ? -1 : left > right ? 1 : 0
    }

    private mutating func writeStep(
        _ store: MVCCStore, _ session: inout ReaderSession, _ writer: inout ByteWriter,
        _ maximumKeys: Int, _ maximumBytes: Int
    ) -> Bool {
        let byteLimit = writer.count &+ min(maximumBytes, .max &- writer.count)
        var keys = 0
        while written < candidates.count {
            if keys >= maximumKeys || writer.count >= byteLimit { return false }
            let candidate = candidates[written]
            if query.keysOnly {
                writeKeyOnly(candidate, &writer)
            } else if let record = store.record(candidate.revision, &session) {
                writer.message(2, record)
            } else {
                failure = candidate.revision
                return false
            }
            written &+= 1
            keys &+= 1
        }
        return true
    }

    private func writeKeyOnly(_ candidate: Candidate, _ writer: inout ByteWriter) {
        scratch.withUnsafeBytes { bytes in
            var view = KeyValueView()
            view.key = UnsafeRawBufferPointer(rebasing: bytes[candidate.key])
            view.createRevision = candidate.create
            view.modRevision = candidate.revision.main
            view.version = candidate.version
            view.lease = candidate.lease
            Self.write(view, &writer)
        }
    }
}
