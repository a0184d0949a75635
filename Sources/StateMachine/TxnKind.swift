import KVCodec

/// True when a transaction can be answered without a log entry: both branches hold ranges only. A
/// nested transaction makes it a write, as in etcd (txn.go, IsTxnReadonly).
package func isReadOnly(_ request: TxnRequestView) -> Bool {
    request.success.allSatisfy(\.isRange) && request.failure.allSatisfy(\.isRange)
}

/// True when a read-only transaction may be answered from this member's state: every range in both
/// branches is serializable (txn.go, IsTxnSerializable).
package func isSerializable(_ request: TxnRequestView) -> Bool {
    request.success.allSatisfy(\.isSerializableRange)
        && request.failure.allSatisfy(\.isSerializableRange)
}

extension RequestOpView {
    fileprivate var isRange: Bool {
        if case .range = self { return true }
        return false
    }

    fileprivate var isSerializableRange: Bool {
        if case .range(let request) = self { return request.serializable }
        return false
    }
}
