import KVCodec
import MVCC

extension StateMachine {
    /// A digest of everything replicated, equal on members that applied the same entries. For tests
    /// and the simulator: it reads every record. Not inside a batch.
    package func stateHash() -> UInt32 {
        var writer = ByteWriter(capacity: 1024)
        writer.uint64(1, appliedIndex)
        writer.uint64(2, appliedTerm)
        writer.int64(3, store.currentRevision)
        writer.int64(4, store.compactRevision)
        for lease in lessor.sortedByID {
            writer.message(5, lease.record)
            for key in lease.sortedKeys {
                writer.message(6, key)
            }
        }
        for alarm in alarms {
            writer.nested(7) { alarm.encode(into: &$0) }
        }
        for member in members {
            writer.nested(8) { member.encode(into: &$0) }
        }
        writer.string(9, clusterVersion ?? "")
        writer.uint64(10, UInt64(recordsHash()))
        for id in removedMembers { writer.uint64(11, id) }
        return Self.fold(writer.bytes)
    }

    private func recordsHash() -> UInt32 {
        do throws(MVCCError) {
            return try store.hash(revision: store.currentRevision, reader: reader).hash
        } catch {
            preconditionFailure("hash at the current revision failed: \(error)")
        }
    }

    /// FNV-1a.
    private static func fold(_ bytes: [UInt8]) -> UInt32 {
        bytes.reduce(0x811C_9DC5) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
    }
}
