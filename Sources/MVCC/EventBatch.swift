/// Why keys changed. Watchers cannot tell, the event bus can.
package enum EventReason: UInt8, Sendable {
    case client, transaction, leaseExpired, leaseRevoked, plugin
    /// Read back from history, where the reason is not recorded.
    case unknown
}

/// One change inside an `EventBatch`. Ranges are positions in the batch's `bytes`.
package struct EventRecord: Sendable, Equatable {
    package var isDelete: Bool
    /// True when the put made the key: create revision = mod revision.
    package var created: Bool
    package var lease: Int64
    /// Where the version before this revision is; nil when there was none. For prev_kv.
    package var previous: Revision?
    /// The whole field 11: tag, length, event.
    package var field: Range<Int>
    package var key: Range<Int>
    /// The encoded KeyValue. Of a delete it holds key and mod_revision.
    package var record: Range<Int>
}

/// Everything one revision changed: immutable, encoded once, shared by reference.
package final class EventBatch: Sendable {
    package let revision: Int64
    package let reason: EventReason
    /// All events in order of sub-revision, each as field 11 of WatchResponse: tag 0x5A, length,
    /// `mvccpb.Event` {1 type, 2 kv} without prev_kv.
    package let bytes: [UInt8]
    package let events: [EventRecord]

    init(revision: Int64, reason: EventReason, bytes: [UInt8], events: [EventRecord]) {
        self.revision = revision
        self.reason = reason
        self.bytes = bytes
        self.events = events
    }

    /// The bytes of one event's key, record or whole field.
    @inlinable package func with<R>(
        _ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws -> R
    ) rethrows -> R {
        try bytes.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[range])) }
    }
}
