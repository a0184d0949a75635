// Received snapshots on disk: DATA/member/snap/TERM-INDEX.snapshot, both in 16 hexadecimal digits. The
// transport gives a file this name once it is whole, checked and durable (Peering/SnapshotFiles.swift); nothing is left
// to do for the disk when the node hears of it. It then becomes the backend's file (Storage/Backend/BackendReplacement.swift);
// what a crash left behind goes at the next start, after recovery had its use of it.

import KVCodec
import RaftCore
import Replica
import StateMachine
import Storage

/// The snapshot directory of one member. Stateless; any thread.
struct SnapshotFiles: Sendable {
    let directory: String

    func path(index: UInt64, term: UInt64) -> String {
        "\(directory)/\(Self.name(index: index, term: term))"
    }

    func exists(index: UInt64, term: UInt64) -> Bool {
        (try? PosixDisk().list(directory))?.contains(Self.name(index: index, term: term)) ?? false
    }

    func remove(index: UInt64, term: UInt64) { try? PosixDisk().remove(path(index: index, term: term)) }

    /// Removes everything; at start, after recovery.
    func removeAll() {
        let disk = PosixDisk()
        for name in (try? disk.list(directory)) ?? [] { try? disk.remove("\(directory)/\(name)") }
    }

    /// Where the state in a backend stands.
    static func metadata(of snapshot: BackendSnapshot) throws -> SnapshotMetadata {
        func number(_ key: String) throws -> UInt64 {
            guard let bytes = try snapshot.get(.meta, key: key), bytes.count == 8 else {
                throw RecoveryError(description: "the backend does not say its \(key)")
            }
            return bytes.reduce(0) { $0 << 8 | UInt64($1) }
        }
        guard let stored = try snapshot.get(.meta, key: StateKey.confState),
            let confState = ConfState(stored: stored)
        else {
            throw RecoveryError(description: "the backend does not say its membership")
        }
        return SnapshotMetadata(
            index: try number(StateKey.appliedIndex), term: try number(StateKey.appliedTerm),
            confState: confState)
    }

    private static func name(index: UInt64, term: UInt64) -> String {
        "\(hex(term))-\(hex(index)).snapshot"
    }

    private static func hex(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}

/// Recovery over the real backend.
struct NodeRecovery: RecoveryHost {
    let backend: Backend
    let files: SnapshotFiles
    let fatal: FatalHandler

    func stateReader() throws -> any StateReader {
        let reader = try backend.makeReader()
        try reader.renew()
        return BackendStateReader(reader: reader, fatal: fatal)
    }

    func commit(_ pending: PendingCommit) throws {
        try backend.update { transaction throws(BackendError) in
            try BackendThread.apply(pending, to: transaction)
        }
    }

    func installSnapshot(index: UInt64, term: UInt64) throws -> Bool {
        guard files.exists(index: index, term: term) else { return false }
        try backend.replace(withFile: files.path(index: index, term: term)).activate()
        backend.releaseReplaced()
        return true
    }
}
