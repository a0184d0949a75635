import FoundationEssentials
import Glibc
import RPC
import Wire

/// `snapshot save`: the backend of one member, as a file.
///
/// The file appears under its name only when it is whole and durable; on the way it is FILE.part.
enum SnapshotCommands {
    static let group = Command(
        name: "snapshot", usage: "snapshot <subcommand>", summary: "Manages etcd node snapshots",
        subcommands: [save])

    private static let save = Command(
        name: "save", usage: "save <filename>",
        summary: "Stores an etcd node backend snapshot to a given file", run: run)

    @Sendable private static func run(_ invocation: Invocation) async throws(CommandError) {
        guard invocation.arguments.count == 1, let path = invocation.arguments.first else {
            throw .badArguments("snapshot save expects one argument")
        }
        let session = try Session(invocation, printing: nil)
        let endpoints = session.options.endpoints
        guard endpoints.count == 1 else {
            throw CommandError(
                .interrupted,
                "snapshot must be requested to one selected node, not multiple [\(endpoints.joined(separator: " "))]")
        }
        try await session.authenticate()
        // As in etcdctl there is no limit unless one is given: a large backend takes its time.
        let deadline =
            invocation.isSet("command-timeout")
            ? ContinuousClock.now + session.options.commandTimeout : nil
        var file = try PartFile(path)
        do throws(CommandError) {
            let version = try await receive(session, deadline, &file)
            try file.finish()
            session.line("Snapshot saved at \(String(decoding: path, as: UTF8.self))")
            if !version.isEmpty { session.line("Server version \(version)") }
        } catch {
            file.discard()
            throw error
        }
    }

    /// Writes what the server sends; returns the version it says.
    private static func receive(
        _ session: Session, _ deadline: ContinuousClock.Instant?, _ file: inout PartFile
    ) async throws(CommandError) -> String {
        do throws(RPCStatus) {
            let connectBy = deadline ?? ContinuousClock.now + session.options.dialTimeout + .seconds(1)
            let stream = try await session.client.stream(.snapshot, deadline: connectBy)
            stream.send(try ClusterClient.encode(Etcdserverpb_SnapshotRequest()))
            stream.closeSend()
            var version = ""
            while true {
                let left = deadline.map { max(.zero, $0 - ContinuousClock.now) } ?? .seconds(86_400)
                switch stream.receive(timeout: left.timeAmount) {
                case .message(let bytes):
                    let reply: Etcdserverpb_SnapshotResponse = try ClusterClient.decode(bytes)
                    version = reply.version
                    if let reason = file.write([UInt8](reply.blob)) {
                        stream.cancel()
                        throw RPCStatus(.unknown, "could not write snapshot: \(reason)")
                    }
                case .closed(let status, _):
                    guard status.code == .ok else { throw status }
                    return version
                case .timedOut:
                    stream.cancel()
                    throw RPCStatus(.deadlineExceeded, "context deadline exceeded")
                }
            }
        } catch {
            session.explain(session.client)
            // Ours needs no code in front.
            throw CommandError(
                .interrupted, error.message.hasPrefix("could not") ? error.message : error.clientText)
        }
    }
}

/// A file under construction. It has mode 0600: a backup holds every value.
private struct PartFile {
    private let path: [UInt8]
    private let part: String
    private let descriptor: Int32
    private var byteCount: UInt64 = 0

    init(_ path: [UInt8]) throws(CommandError) {
        self.path = path
        part = String(decoding: path, as: UTF8.self) + ".part"
        descriptor = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw CommandError(.interrupted, "could not open \(part) (\(Self.reason()))")
        }
        // One that lay there from before may be open to others.
        fchmod(descriptor, 0o600)
    }

    private static func reason() -> String { String(cString: strerror(errno)) }

    /// Nil, or why the bytes are not written.
    mutating func write(_ bytes: [UInt8]) -> String? {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count > 0 {
                rest = rest.dropFirst(count)
            } else if count == 0 || errno != EINTR {
                return Self.reason()
            }
        }
        byteCount += UInt64(bytes.count)
        return nil
    }

    /// Makes the file durable under its name.
    func finish() throws(CommandError) {
        // Pages are whole sectors; what is over is the digest.
        guard byteCount % 512 == 32 else {
            throw CommandError(.interrupted, "sha256 checksum not found [bytes: \(byteCount)]")
        }
        guard fsync(descriptor) == 0 else {
            throw CommandError(.interrupted, "could not fsync snapshot: \(Self.reason())")
        }
        let name = String(decoding: path, as: UTF8.self)
        guard rename(part, name) == 0 else {
            throw CommandError(
                .interrupted, "could not rename \(part) to \(name) (\(Self.reason()))")
        }
        let folder = name.lastIndex(of: "/").map { String(name[...$0]) } ?? "."
        let directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if directory >= 0 {
            fsync(directory)
            close(directory)
        }
        close(descriptor)
    }

    func discard() {
        close(descriptor)
        unlink(part)
    }
}
