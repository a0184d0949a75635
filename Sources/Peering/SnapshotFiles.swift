// The files of snapshots under way. Used on the disk thread only: a sync may take seconds, and an event
// loop must not wait for it.

import CSupport
import NIOCore
import RaftCore
import Replica
import Storage

/// Names of received snapshots within their directory. They come from numbers alone, never from the
/// wire.
package enum SnapshotFileName {
    private static let partial = ".part"
    private static let whole = ".snapshot"

    /// The durable file of a snapshot; the same for every copy that stands at this entry, so that it
    /// can be found after a restart.
    package static func durable(_ metadata: SnapshotMetadata) -> String {
        name(metadata) + whole
    }

    /// While it arrives.
    static func arriving(_ metadata: SnapshotMetadata) -> String { name(metadata) + partial }

    static func isLeftover(_ name: String) -> Bool { name.hasSuffix(partial) }

    private static func name(_ metadata: SnapshotMetadata) -> String {
        "\(padded(metadata.term))-\(padded(metadata.index))"
    }

    private static func padded(_ number: UInt64) -> String {
        let digits = hex(number)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}

/// A file that is being sent. Confined to the disk thread.
final class OutgoingFile: @unchecked Sendable {
    enum Step: Sendable {
        /// Frames to write; more follow.
        case chunk(ByteBuffer)
        /// The last frames.
        case end(ByteBuffer)
        case failed(String)
    }

    private let disk = PosixDisk()
    private let path: String
    private let message: Message
    private let chunkBytes: Int
    private var file: DiskFile?
    private var length: UInt64 = 0
    private var offset: UInt64 = 0
    private var checksum: UInt32 = 0

    init(path: String, message: Message, chunkBytes: Int) {
        self.path = path
        self.message = message
        self.chunkBytes = max(1, chunkBytes)
    }

    /// Opens the file with the first call; each call reads one chunk.
    func next() -> Step {
        do throws(DiskError) {
            var buffer = ByteBuffer()
            if file == nil {
                let opened = try disk.open(path, .read)
                file = opened
                length = try disk.size(opened)
                let header = littleEndianBytes(length) + PeerMessage.raft(message).encoded()
                buffer.writeFrame(.snapshotHeader, header)
            }
            if offset < length {
                try readChunk(into: &buffer)
            }
            guard offset == length else { return .chunk(buffer) }
            buffer.writeFrame(.snapshotEnd, littleEndianBytes(checksum))
            close()
            return .end(buffer)
        } catch {
            close()
            return .failed("\(error)")
        }
    }

    private func readChunk(into buffer: inout ByteBuffer) throws(DiskError) {
        guard let file else { return }
        let wanted = Int(min(UInt64(chunkBytes), length - offset))
        var failure: DiskError?
        var count = 0
        buffer.writeFrame(.snapshotChunk, sizeBound: wanted) { raw in
            do throws(DiskError) {
                let target = UnsafeMutableRawBufferPointer(rebasing: raw[..<wanted])
                count = try disk.read(file, at: offset, into: target)
                checksum = moonraft_crc32c(checksum, target.baseAddress, count)
            } catch {
                failure = error
            }
            return count
        }
        if let failure { throw failure }
        guard count == wanted else {
            throw DiskError(.read, path: path, .unexpectedEnd)
        }
        offset += UInt64(count)
    }

    func close() {
        guard let file else { return }
        self.file = nil
        // Only read from, so nothing can be lost by a failing close.
        try? disk.close(file)
    }
}

/// A file that arrives. Confined to the disk thread.
final class IncomingFile: @unchecked Sendable {
    private let disk = PosixDisk()
    private let directory: String
    private let partialPath: String
    private let path: String
    private var file: DiskFile?
    private var offset: UInt64 = 0
    private var synchronized: UInt64 = 0
    private var checksum: UInt32 = 0
    private var failure: String?

    /// What is written before it is synchronized. One sync of a whole large file at the end would keep
    /// the disk from everybody else for seconds, the log of a neighbour among them.
    private static let bytesPerSync: UInt64 = 8 << 20

    init(directory: String, metadata: SnapshotMetadata) {
        self.directory = directory
        partialPath = directory + "/" + SnapshotFileName.arriving(metadata)
        path = directory + "/" + SnapshotFileName.durable(metadata)
    }

    /// Writes the next bytes.
    ///
    /// - Returns: what went wrong, now or before.
    func write(_ bytes: [UInt8]) -> String? {
        if let failure { return failure }
        do throws(DiskError) {
            let file = try opened()
            try disk.write(file, at: offset, bytes)
            offset += UInt64(bytes.count)
            checksum = bytes.withUnsafeBytes { moonraft_crc32c(checksum, $0.baseAddress, $0.count) }
            if offset - synchronized >= Self.bytesPerSync {
                try disk.synchronize(file)
                synchronized = offset
            }
            return nil
        } catch {
            return fail("\(error)")
        }
    }

    /// Makes the whole file durable under its name.
    func finish(checksum expected: UInt32) -> Result<String, SnapshotFailure> {
        if let failure { return .failure(SnapshotFailure(text: failure)) }
        guard checksum == expected else {
            return .failure(
                SnapshotFailure(
                    text: fail(
                        "checksum of the snapshot is \(hex(UInt64(checksum))), its sender says \(hex(UInt64(expected)))"
                    )))
        }
        do throws(DiskError) {
            let whole = try opened()
            try disk.synchronize(whole)
            file = nil
            try disk.close(whole)
            try disk.rename(partialPath, to: path)
            try disk.synchronizeDirectory(directory)
            return .success(path)
        } catch {
            return .failure(SnapshotFailure(text: fail("\(error)")))
        }
    }

    /// Closes and removes what has arrived.
    func discard() { _ = fail("given up") }

    private func opened() throws(DiskError) -> DiskFile {
        if let file { return file }
        // One transfer at a time: whatever has the name is of one that ended.
        try? disk.remove(partialPath)
        let file = try disk.open(partialPath, .createNew)
        self.file = file
        return file
    }

    private func fail(_ text: String) -> String {
        if let file {
            self.file = nil
            try? disk.close(file)
            // What cannot be removed now is removed at the next start.
            try? disk.remove(partialPath)
        }
        failure = failure ?? text
        return text
    }
}

/// Why a snapshot did not arrive.
struct SnapshotFailure: Error, Sendable, Equatable {
    var text: String
}

/// Makes the directory when missing and removes what broken transfers left there; on the caller's
/// thread.
func prepareSnapshotDirectory(_ directory: String) throws(DiskError) {
    let disk = PosixDisk()
    try disk.createDirectory(directory)
    for name in try disk.list(directory) where SnapshotFileName.isLeftover(name) {
        try disk.remove(directory + "/" + name)
    }
    try disk.synchronizeDirectory(directory)
}
