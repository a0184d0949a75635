import KVCodec

/// What a request is charged against the backend quota, in bytes (etcd storage/quota.go).
package enum QuotaCost {
    /// Stands for the metadata of a key.
    package static let keyOverhead: Int64 = 256
    /// A lease.
    package static let lease: Int64 = 64

    @inlinable package static func put(_ request: PutRequestView) -> Int64 {
        keyOverhead &+ Int64(request.key.count) &+ Int64(request.value.count)
    }

    /// The dearer of the two branches, nested transactions included; 0 when nothing is put.
    package static func txn(_ request: TxnRequestView) -> Int64 {
        max(branch(request.success), branch(request.failure))
    }

    private static func branch(_ operations: [RequestOpView]) -> Int64 {
        var sum: Int64 = 0
        for operation in operations {
            switch operation {
            case .put(let request): sum &+= put(request)
            case .txn(let request): sum &+= txn(request)
            case .range, .deleteRange, .none: break
            }
        }
        return sum
    }
}
