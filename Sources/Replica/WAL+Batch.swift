// How the replica's effects go into the log. One place for the node's log thread and the simulator.

import RaftCore
import Storage

extension WAL {
    /// Appends one batch, in an order in which every prefix is a valid Raft state: term and vote, then a
    /// received snapshot, then the entries, then the commit index. `flush` makes it durable.
    package func append(_ batch: PersistBatch) throws(WALError) {
        let hardState = batch.hardState.map {
            WALHardState(term: $0.term, vote: $0.vote, commit: $0.commit)
        }
        if var first = hardState {
            first.commit = self.hardState.commit
            try append(first)
        }
        if let snapshot = batch.snapshot {
            try append(WALSnapshot(index: snapshot.index, term: snapshot.term), restartsLog: true)
        }
        for entry in batch.entries {
            // A closure would have to carry the typed error out; the result does.
            let result = entry.data.withUnsafeBytes { payload -> Result<Void, WALError> in
                Result { () throws(WALError) in
                    try append(
                        WALEntry(
                            index: entry.index, term: entry.term, kind: entry.kind.rawValue,
                            payload: payload))
                }
            }
            try result.get()
        }
        if var last = hardState {
            last.commit = max(last.commit, self.hardState.commit)
            try append(last)
        }
    }

    /// Notes that the backend is durable, and gives up the segments that nobody needs any more.
    package func release(_ release: LogRelease) throws(WALError) {
        var state = hardState
        state.commit = max(state.commit, min(release.commit, lastIndex))
        try append(state)
        if release.applied.index > snapshot.index {
            try append(release.applied, restartsLog: false)
        }
        try flush()
        try truncate(before: min(release.keepFrom, state.commit &+ 1))
    }
}
