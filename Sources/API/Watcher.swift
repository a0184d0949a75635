// One watcher of one stream.

import KVCodec
import MVCC

/// What a client watches, and how far it has been told.
///
/// A watcher is *synced* (in the hub's live index, told of every batch as it comes), *unsynced*
/// (reads history until it has caught up), or *stalled* (its stream takes no more; it goes on as
/// unsynced when the client reads again). In every state `nextRevision` is the first revision it
/// has not been told of, so moving between states can neither lose nor repeat an event.
final class Watcher {
    enum State { case synced, unsynced, stalled }

    let id: Int64
    unowned let stream: WatchStream
    let key: [UInt8]
    let rangeEnd: [UInt8]
    let variant: EventVariant
    let notifiesProgress: Bool
    let fragments: Bool
    /// As the client asked; 0 for what comes.
    let requestedRevision: Int64
    var nextRevision: Int64
    var state = State.unsynced
    /// Position in the index of its state; nil while stalled.
    var token: WatcherToken?
    /// Whether something was sent since the last progress tick.
    var wasToldSinceTick = false

    init(
        id: Int64, stream: WatchStream, key: [UInt8], rangeEnd: [UInt8], variant: EventVariant,
        notifiesProgress: Bool, fragments: Bool, requestedRevision: Int64, nextRevision: Int64
    ) {
        self.id = id
        self.stream = stream
        self.key = key
        self.rangeEnd = rangeEnd
        self.variant = variant
        self.notifiesProgress = notifiesProgress
        self.fragments = fragments
        self.requestedRevision = requestedRevision
        self.nextRevision = nextRevision
    }
}

/// What watchers of the same range may want differently. At most eight encodings of a batch exist
/// for one range, however many watch it.
struct EventVariant: Equatable {
    var withoutPuts = false
    var withoutDeletes = false
    var withPrevious = false

    /// 0…7.
    var number: Int {
        (withoutPuts ? 1 : 0) | (withoutDeletes ? 2 : 0) | (withPrevious ? 4 : 0)
    }

    func wants(_ event: EventRecord) -> Bool {
        event.isDelete ? !withoutDeletes : !withoutPuts
    }
}

/// etcdserverpb.WatchRequest: the last member of the oneof on the wire; `.none` when nothing was set.
/// Nothing is done about a message before all of it is known to be one.
enum WatchRequestView {
    case none
    /// The request and its bytes, which alias the message.
    case create(WatchCreateRequest, UnsafeRawBufferPointer)
    case cancel(Int64)
    case progress

    init(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) {
        self = .none
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1:
                let body = try reader.slice(tag)
                self = .create(try WatchCreateRequest(body), body)
            case 2: self = .cancel(try LeaseNumbers.decode(try reader.slice(tag)).0)
            case 3:
                var body = ProtoReader(try reader.slice(tag))
                while let inner = try body.next() { try body.skip(inner) }
                self = .progress
            default: try reader.skip(tag)
            }
        }
    }
}

/// etcdserverpb.WatchCreateRequest.
struct WatchCreateRequest {
    var key: [UInt8] = []
    var rangeEnd: [UInt8] = []
    var startRevision: Int64 = 0
    var progressNotify = false
    var variant = EventVariant()
    var watchID: Int64 = 0
    var fragment = false

    init(_ bytes: UnsafeRawBufferPointer) throws(DecodeError) {
        var reader = ProtoReader(bytes)
        while let tag = try reader.next() {
            switch tag.field {
            case 1: key = try reader.slice(tag).array
            case 2: rangeEnd = try reader.slice(tag).array
            case 3: startRevision = try reader.int64(tag)
            case 4: progressNotify = try reader.bool(tag)
            case 5: try addFilters(&reader, tag)
            case 6: variant.withPrevious = try reader.bool(tag)
            case 7: watchID = try reader.int64(tag)
            case 8: fragment = try reader.bool(tag)
            default: try reader.skip(tag)
            }
        }
    }

    /// Filters come packed (proto3) or one by one.
    private mutating func addFilters(
        _ reader: inout ProtoReader, _ tag: ProtoTag
    ) throws(DecodeError) {
        guard tag.wireType == 2 else { return addFilter(try reader.int32(tag)) }
        var packed = ProtoReader(try reader.slice(tag))
        while !packed.isAtEnd { addFilter(Int32(truncatingIfNeeded: try packed.varint())) }
    }

    private mutating func addFilter(_ filter: Int32) {
        switch filter {
        case 0: variant.withoutPuts = true
        case 1: variant.withoutDeletes = true
        default: break
        }
    }
}
