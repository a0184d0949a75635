// The bytes of watch responses: a head per watcher, events shared by all who want the same ones.

import KVCodec
import MVCC
import RPC

/// Field 1 of a response, encoded once per batch; the watch id follows per watcher.
struct BatchHead {
    private var bytes: [UInt8]
    private let headerCount: Int

    init(_ context: LoopContext, revision: Int64) {
        var writer = ByteWriter(capacity: ResponseHeader.maximumSize + 16)
        context.header.append(to: &writer, revision: revision, term: context.term)
        bytes = writer.bytes
        headerCount = bytes.count
    }

    /// Header and watch id, and the fragment mark where it is wanted.
    mutating func with<R>(
        watchID: Int64, fragment: Bool = false, _ body: (UnsafeRawBufferPointer) -> R
    ) -> R {
        var writer = ByteWriter(reusing: bytes)
        bytes = []
        writer.int64(2, watchID)
        writer.bool(7, fragment)
        defer {
            bytes = writer.bytes
            bytes.removeLast(bytes.count - headerCount)
        }
        return writer.bytes.withUnsafeBytes(body)
    }
}

/// The events of one batch that a group's watchers get.
struct EventPayload {
    let shared: SharedBytes
    let eventCount: Int
    /// Ends of the events in `shared`, ascending, for fragmenting.
    let ends: [Int]
}

/// The encodings of one batch for one group, made when first asked for.
struct EventEncodings {
    private var made: [EventPayload?] = []
    private var isMade: UInt8 = 0

    /// Nil when the variant wants none of the events.
    mutating func payload(
        _ variant: EventVariant, batch: EventBatch, events: [Int], context: LoopContext
    ) -> EventPayload? {
        if made.isEmpty { made = Array(repeating: nil, count: 8) }
        let number = variant.number
        if isMade & (1 << UInt8(number)) == 0 {
            isMade |= 1 << UInt8(number)
            made[number] = Self.encode(variant, batch, events, context)
        }
        return made[number]
    }

    private static func encode(
        _ variant: EventVariant, _ batch: EventBatch, _ events: [Int], _ context: LoopContext
    ) -> EventPayload? {
        var writer = ByteWriter(capacity: batch.bytes.count + 16)
        var ends: [Int] = []
        for position in events {
            let event = batch.events[position]
            guard variant.wants(event) else { continue }
            let previous =
                variant.withPrevious
                ? context.node.store.previousRecord(
                    of: event, at: batch.revision, reader: context.reader) : nil
            if let previous {
                writer.nested(11) { inner in
                    inner.int64(1, event.isDelete ? 1 : 0)
                    batch.with(event.record) { inner.message(2, $0) }
                    inner.message(3, previous)
                }
            } else {
                batch.with(event.field) { writer.raw($0) }
            }
            ends.append(writer.count)
        }
        if ends.isEmpty { return nil }
        return EventPayload(
            shared: SharedBytes(writer.bytes), eventCount: ends.count, ends: ends)
    }
}
