import KVCodec

extension KeyIndex {
    /// Visits the keys in a range that exist at `revision`, in key order.
    ///
    /// - Parameters:
    ///   - after: where an earlier walk paused: only greater keys are visited.
    ///   - isCurrent: `revision` is the newest there is, so the live bits tell all.
    ///   - maximumEntries: pause after looking at this many entries.
    ///   - body: gets the entry and the revision of the version that `revision` sees; false pauses
    ///     after this entry.
    /// - Returns: the entry to resume after; nil when the range is at its end.
    @inline(__always)
    func walk(
        _ key: UnsafeRawBufferPointer, _ rangeEnd: UnsafeRawBufferPointer, after: [UInt8]?,
        revision: Int64, isCurrent: Bool, maximumEntries: Int,
        _ body: (KeyEntry, Revision) -> Bool
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
        while true {
            let leaf = place.leaf
            let count = leaf.count
            let end = isOpen ? count : leaf.lowerBound(rangeEnd).position
            var bits = isCurrent ? leaf.live : Self.lowBits(count)
            bits &= Self.lowBits(end) & ~Self.lowBits(place.position)
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
}
