// How the membership is kept beside the applied index, in bucket `meta` under `confState`.
//
// A protobuf message: 1 voters*, 2 votersOutgoing*, 3 learners*, 4 learnersNext* (each a uint64 of
// its own), 5 autoLeave.

import KVCodec
import RaftCore

extension ConfState {
    /// The stored form.
    package func encoded() -> [UInt8] {
        var writer = ByteWriter(capacity: 64)
        for id in voters { writer.uint64(1, id) }
        for id in votersOutgoing { writer.uint64(2, id) }
        for id in learners { writer.uint64(3, id) }
        for id in learnersNext { writer.uint64(4, id) }
        writer.bool(5, autoLeave)
        return writer.bytes
    }

    /// Reads the stored form; nil when it is not one.
    package init?(stored bytes: [UInt8]) {
        var lists: [[NodeID]] = [[], [], [], []]
        var autoLeave = false
        let isSound = bytes.withUnsafeBytes { raw -> Bool in
            do throws(DecodeError) {
                var reader = ProtoReader(raw)
                while let tag = try reader.next() {
                    switch tag.field {
                    case 1...4: lists[Int(tag.field) - 1].append(try reader.uint64(tag))
                    case 5: autoLeave = try reader.bool(tag)
                    default: try reader.skip(tag)
                    }
                }
                return true
            } catch {
                return false
            }
        }
        guard isSound else { return nil }
        self.init(
            voters: lists[0], votersOutgoing: lists[1], learners: lists[2], learnersNext: lists[3],
            autoLeave: autoLeave)
        guard isWellFormed else { return nil }
    }
}
