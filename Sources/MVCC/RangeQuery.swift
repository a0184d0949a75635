import KVCodec

/// What a range request asks of the store, after validation. Slices alias the request.
package struct RangeQuery {
    package var key: UnsafeRawBufferPointer
    package var rangeEnd: UnsafeRawBufferPointer
    /// Zero or less: no limit.
    package var limit: Int64 = 0
    /// Zero or less: the current revision.
    package var revision: Int64 = 0
    package var sortOrder: Int32 = SortOrder.none
    package var sortTarget: Int32 = SortTarget.key
    package var keysOnly = false
    package var countOnly = false
    package var minModRevision: Int64 = 0
    package var maxModRevision: Int64 = 0
    package var minCreateRevision: Int64 = 0
    package var maxCreateRevision: Int64 = 0

    package init(key: UnsafeRawBufferPointer, rangeEnd: UnsafeRawBufferPointer) {
        self.key = key
        self.rangeEnd = rangeEnd
    }

    package init(_ request: RangeRequestView) {
        key = request.key
        rangeEnd = request.rangeEnd
        limit = request.limit
        revision = request.revision
        sortOrder = request.sortOrder
        sortTarget = request.sortTarget
        keysOnly = request.keysOnly
        countOnly = request.countOnly
        minModRevision = request.minModRevision
        maxModRevision = request.maxModRevision
        minCreateRevision = request.minCreateRevision
        maxCreateRevision = request.maxCreateRevision
    }

    var hasFilter: Bool {
        minModRevision != 0 || maxModRevision != 0 || minCreateRevision != 0
            || maxCreateRevision != 0
    }

    /// True when keys come out in key order and unfiltered, so that they can be streamed.
    ///
    /// etcd decides by the order asked for where the limit applies (txn/range.go): NONE with another
    /// target than KEY takes the first `limit` keys and one more, and sorts only those.
    var isPlain: Bool {
        !hasFilter && sortTarget == SortTarget.key && sortOrder != SortOrder.descend
    }

    /// The order to sort by: NONE with another target than KEY means ASCEND.
    var effectiveOrder: Int32 {
        sortOrder == SortOrder.none && sortTarget != SortTarget.key ? SortOrder.ascend : sortOrder
    }

    /// Most keys that are looked at before sorting and filtering, nil for all of them.
    var fetchLimit: Int? {
        let isDefaultOrder =
            sortOrder == SortOrder.none
            || (sortTarget == SortTarget.key && sortOrder == SortOrder.ascend)
        if limit <= 0 || hasFilter || !isDefaultOrder { return nil }
        return Int(clamping: limit &+ (limit == .max ? 0 : 1))
    }

    @inline(__always) func passesFilter(mod: Int64, create: Int64) -> Bool {
        (maxModRevision == 0 || mod <= maxModRevision)
            && (minModRevision == 0 || mod >= minModRevision)
            && (maxCreateRevision == 0 || create <= maxCreateRevision)
            && (minCreateRevision == 0 || create >= minCreateRevision)
    }
}

/// The parts of a range reply besides the keys.
package struct RangeResult: Equatable, Sendable {
    /// Keys in the range, whatever limit and filters say.
    package var count: Int64
    package var more: Bool
    /// Store revision for the reply's header.
    package var revision: Int64
}
