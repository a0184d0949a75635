// Snapshots of the backend: the leader's, streamed out of the file itself, and those that arrive, whose file
// becomes the backend's. Neither is copied on this disk, which others' logs wait for.

import MVCC
import RaftCore
import Replica
import StateMachine
import Storage

extension BackendThread {
    /// Sends the state as of the commits queued so far to those that ask together. It stays pinned in the
    /// backend until the last of these transfers has ended.
    ///
    /// - Parameter ended: hears of each transfer; any thread.
    func send(
        _ requests: [SnapshotRequest], to peers: any PeerLinks, note: @escaping NoteHandler,
        ended: @escaping @Sendable (NodeID, Bool) -> Void
    ) {
        let isTaken = perform { backend in
            do {
                let snapshot = try backend.snapshot()
                let metadata = try SnapshotFiles.metadata(of: snapshot)
                for request in requests {
                    var message = request.message
                    message.body = .snapshot(metadata)
                    peers.sendSnapshot(message, source: snapshot) { ended(request.to, $0) }
                }
            } catch {
                note(.warning, "no snapshot can be taken: \(error)")
                for request in requests { ended(request.to, false) }
            }
        }
        if isTaken { return }
        for request in requests { ended(request.to, false) }
    }

    /// Readers keep the state that they have until the replica takes the new one over, so that records and
    /// index change for them in one moment.
    func installNow(
        _ file: String, _ store: MVCCConfiguration, _ done: @escaping @Sendable (InstalledSnapshot) -> Void
    ) {
        // Reading a million records takes a second of processor time, which nobody's clients should feel.
        OwnedThread(name: "install", nice: OwnedThread.bulkNice) { [self] in
            do {
                let replacement = try backend.replace(withFile: file)
                let state = try replacement.makeReader()
                try state.renew()
                let records = LMDBRecordReader(bulk: try replacement.makeReader(), fatal: fatal)
                let contents = try StoreContents(of: records, configuration: store)
                done(
                    InstalledSnapshot(
                        state: BackendStateReader(reader: state, fatal: fatal), contents: contents
                    ) { [self] in
                        replacement.activate()
                        performSurely { [self] backend in
                            backend.releaseReplaced()
                            publishSizes()
                        }
                    })
            } catch {
                fatal("snapshot \"\(file)\": \(error)")
            }
        }.join()
    }
}
