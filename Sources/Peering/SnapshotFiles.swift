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

/// A snapshot that is being sent. Confined to the disk thread.
final class OutgoingFile: @unchecked Sendable {
    enum Step: Sendable {
        /// Frames to write; more follow.
        case chunk(ByteBuffer)
        /// The last frames.
        case end(ByteBuffer)
        case failed(String)
    }

    private let message: Message
    private let chunkBytes: Int
    /// Nil when all was read or nothing more will be: it may hold up others.
    private var source: (any ByteSource)?
    private var offset: UInt64 = 0
    private var checksum: UInt32 = 0

    init(source: any ByteSource, message: Message, chunkBytes: Int) {
        self.source = source
        self.message = message
        self.chunkBytes = max(1, chunkBytes)
    }

    /// Each call reads one chunk.
    func next() -> Step {
        guard let source else { return .failed("it was closed") }
        let length = source.byteCount
        var buffer = ByteBuffer()
        if offset == 0 {
            let header = littleEndianBytes(length) + PeerMessage.raft(message).encoded()
            buffer.writeFrame(.snapshotHeader, header)
        }
        do throws(DiskError) {
            if offset < length { try readChunk(source, into: &buffer) }
        } catch {
            close()
            return .failed("\(error)")
        }
        guard offset == length else { return .chunk(buffer) }
        buffer.writeFrame(.snapshotEnd, littleEndianBytes(checksum))
        close()
        return .end(buffer)
    }

    private func readChunk(
        _ source: any ByteSource, into buffer: inout ByteBuffer
    ) throws(DiskError) {
        let wanted = Int(min(UInt64(chunkBytes), source.byteCount - offset))
        var failure: DiskError?
        buffer.writeFrame(.snapshotChunk, sizeBound: wanted) { raw in
            let target = UnsafeMutableRawBufferPointer(rebasing: raw[..<wanted])
            do throws(DiskError) {
                try source.read(at: offset, into: target)
                checksum = moonraft_crc32c(checksum, target.baseAddress, wanted)
            } catch {
                failure = error
            }
            return wanted
        }
        if let failure { throw failure }
        offset += UInt64(wanted)
    }

    func close() { source = nil }
}

/// A file that arrives. Confined to the disk thread.
final class IncomingFile: @unchecked Sendable {
    private let disk = PosixDisk()
    private let directory: String
    private let partialPath: String
    private let path: String
    private var file: DiskFile?
    private var offset: UInt64 = 0
    /// Up to here writing to the medium has been started.
    private var started: UInt64 = 0
    private var checksum: UInt32 = 0
    private var failure: String?

    /// What is written at a time, one step behind what arrives. Left to the end, one sync of hundreds of
    /// MiB would keep the disk from everybody else for seconds, the logs of neighbours among them; synced in
    /// steps, each sync would be a commit of the file system's journal, which those wait for as well.
    private static let bytesPerStep: UInt64 = 1 << 20

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
            if offset - started >= Self.bytesPerStep {
                try disk.writeBack(file, at: started, count: offset - started, wait: false)
                let before = min(started, Self.bytesPerStep)
                if before > 0 {
                    try disk.writeBack(file, at: started - before, count: before, wait: true)
                }
                started = offset
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
