// The checks of a request that need no state. The API makes them before it proposes, and applying
// makes them again, but for the number of operations, so that a poisoned entry is refused in the same words.
// Order and conditions: etcd api/v3rpc/key.go.

import KVCodec

/// Static checks of KV requests, in etcd's order.
package enum RequestCheck {
    /// - Throws: `keyEmpty`, `invalidSortOption`.
    @inlinable package static func range(_ request: RangeRequestView) throws(ApplyError) {
        if request.key.isEmpty { throw .keyEmpty }
        switch request.sortOrder {
        case SortOrder.none, SortOrder.ascend, SortOrder.descend: break
        default: throw .invalidSortOption
        }
        switch request.sortTarget {
        case SortTarget.key, SortTarget.version, SortTarget.create, SortTarget.mod,
            SortTarget.value:
            break
        default: throw .invalidSortOption
        }
    }

    /// - Throws: `keyEmpty`, `valueProvided`, `leaseProvided`.
    @inlinable package static func put(_ request: PutRequestView) throws(ApplyError) {
        if request.key.isEmpty { throw .keyEmpty }
        if request.ignoreValue && !request.value.isEmpty { throw .valueProvided }
        if request.ignoreLease && request.lease != 0 { throw .leaseProvided }
    }

    /// - Throws: `keyEmpty`.
    @inlinable package static func deleteRange(_ request: DeleteRangeRequestView)
        throws(ApplyError)
    {
        if request.key.isEmpty { throw .keyEmpty }
    }

    /// Checks a transaction with all its branches.
    ///
    /// A level may hold `maxOps` comparisons or operations, whichever of its three lists is the
    /// longest; nested transactions may use what their level leaves. An operation without content
    /// is answered `keyNotFound`. Overlaps are looked for after that, so that their cost is bounded.
    ///
    /// - Throws: `tooManyOperations`, `keyEmpty`, `invalidSortOption`, `valueProvided`,
    ///   `leaseProvided`, `keyNotFound`, `duplicateKey`.
    package static func txn(_ request: TxnRequestView, maxOps: Int) throws(ApplyError) {
        try operations(request, maxOps: maxOps)
        try WriteSet.checkTop(request.success)
        try WriteSet.checkTop(request.failure)
    }

    private static func operations(_ request: TxnRequestView, maxOps: Int) throws(ApplyError) {
        let count = max(request.compare.count, request.success.count, request.failure.count)
        if count > maxOps { throw .tooManyOperations }
        for compare in request.compare where compare.key.isEmpty { throw .keyEmpty }
        for operation in request.success {
            try check(operation, maxOps: maxOps - count)
        }
        for operation in request.failure {
            try check(operation, maxOps: maxOps - count)
        }
    }

    private static func check(_ operation: RequestOpView, maxOps: Int) throws(ApplyError) {
        switch operation {
        case .range(let request): try range(request)
        case .put(let request): try put(request)
        case .deleteRange(let request): try deleteRange(request)
        case .txn(let request): try operations(request, maxOps: maxOps)
        case .none: throw .keyNotFound
        }
    }
}
