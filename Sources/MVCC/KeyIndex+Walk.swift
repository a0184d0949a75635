import KVCodec

extension KeyIndex {
    /// Visits the keys in a range that exist at `revision`, in key order.
    ///
    /// - Parameters:
    ///   - after: where an earlier walk paused: only greater keys are visited.
    ///   - isCurrent: `revision` is the newest there is, so the live bits tell all.
    ///   - maximumEntries: pause after looking at this many entries.
    ///   - expected: about how many entries the body will use before it pauses.
    ///   - upcoming: told the record bytes of the next entries, before they are visited; only when
    ///     `isCurrent`. Adding them up also brings the entries into the cache side by side, which
    ///     the body alone, with its own misses in between, would do one by one.
    ///   - body: gets the entry and the revision of the version that `revision` sees; false pauses
    ///     after this entry.
    /// - Returns: the entry to resume after; nil when the range is at its end.
    @inline(__always)
    func walk(
        _ key: UnsafeRawBufferPointer, _ rangeEnd: UnsafeRawBufferPointer, after: [UInt8]?,
        revision: Int64, isCurrent: Bool, maximumEntries: Int, expected: Int = 0,
        upcoming: (Int) -> Void = { _ in }, _ body: (KeyEntry, Revision) -> Bool
    ) -> KeyEntry? {
        if rangeEnd.isEmpty {
            guard after == nil, let entry = find(key),
                let version = entry.version(at: revision), !version.isTombstone
            else { return nil }
            _ = body(entry, version.revision)
            return nil
        }
        let isOpen = KeyRange.isOpenEnd(rangeEnd)
        if !isOpen && KeyRange.compare(rangeEnd, key) <= 0 { return nil }
        var place: Place
        if let after {
            let (next, found) = after.withUnsafeBytes { lowerBound($0) }
            place = next
            if found { place.position &+= 1 }
        } else {
            place = lowerBound(key).place
        }
        var budget = maximumEntries
        var expected = isCurrent ? min(expected, maximumEntries) : 0
        while true {
            let leaf = place.leaf
            let count = leaf.count
            let end = isOpen ? count : leaf.lowerBound(rangeEnd).position
            var bits = isCurrent ? leaf.live : Self.lowBits(count)
            bits &= Self.lowBits(end) & ~Self.lowBits(place.position)
            if expected > 0 { upcoming(Self.recordBytes(leaf, bits, &expected)) }
            while bits != 0 {
                let entry = leaf.entry(bits.trailingZeroBitCount)
                bits &= bits &- 1
                budget &-= 1
                var goesOn = true
                if isCurrent {
                    goesOn = body(entry, entry.revision)
                } else if let version = entry.version(at: revision), !version.isTombstone {
                    goesOn = body(entry, version.revision)
                }
                if !goesOn || budget <= 0 { return entry }
            }
            guard end == count, let next = leaf.next else { return nil }
            place = Place(leaf: next, position: 0)
        }
    }

    /// Record bytes of the chosen entries of a leaf, at most `limit` of them; lowers `limit`.
    private static func recordBytes(_ leaf: IndexNode, _ chosen: UInt64, _ limit: inout Int) -> Int {
        var bits = chosen
        var bytes = 0
        while bits != 0 && limit > 0 {
            bytes &+= Int(leaf.entry(bits.trailingZeroBitCount).recordSize)
            bits &= bits &- 1
            limit &-= 1
        }
        return bytes
    }
}
