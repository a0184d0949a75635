import Glibc
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import RaftCore
import Replica
import StateMachine

@testable import Peering

/// A host that remembers what it was told.
final class RecordingInbox: PeerInbox {
    struct Seen: Sendable {
        var messages: [PeerMessage] = []
        var calls = 0
        var reachable: [NodeID] = []
        var unreachable: [NodeID] = []
        var snapshots: [(Message, String, NodeID)] = []
        var removal: [String] = []
        var notes: [String] = []
    }

    let seen = NIOLockedValueBox(Seen())
    let cluster: ClusterDescription

    init(cluster: ClusterDescription) { self.cluster = cluster }

    var now: Seen { seen.withLockedValue { $0 } }

    func received(_ messages: [PeerMessage], from: NodeID) {
        seen.withLockedValue { seen in
            seen.messages += messages
            seen.calls += 1
        }
    }
    func peerReachable(_ id: NodeID) { seen.withLockedValue { $0.reachable.append(id) } }
    func peerUnreachable(_ id: NodeID) { seen.withLockedValue { $0.unreachable.append(id) } }
    func snapshotArrived(_ message: Message, file: String, from: NodeID) {
        seen.withLockedValue { $0.snapshots.append((message, file, from)) }
    }
    func removedFromCluster(_ text: String) { seen.withLockedValue { $0.removal.append(text) } }
    func note(_ level: PeerNoteLevel, _ text: String) { seen.withLockedValue { $0.notes.append(text) } }
    func lookup() -> ClusterDescription { cluster }

    func hasNote(_ text: String) -> Bool { now.notes.contains { $0.contains(text) } }
}

/// A directory that goes away with its owner.
final class TemporaryDirectory: Sendable {
    let path: String
    init() throws {
        var template = Array("/tmp/moonraft-peering-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw POSIXFailure(code: errno) }
        path = String(cString: made)
    }
    struct POSIXFailure: Error { let code: Int32 }

    var names: [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    func write(_ name: String, _ bytes: [UInt8]) -> String {
        let file = "\(path)/\(name)"
        let descriptor = open(file, O_CREAT | O_WRONLY | O_TRUNC, 0o600)
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + done, bytes.count - done) }
            if count <= 0 { break }
            done += count
        }
        Glibc.close(descriptor)
        return file
    }

    static func read(_ file: String) -> [UInt8] {
        let descriptor = open(file, O_RDONLY)
        defer { Glibc.close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count <= 0 { return bytes }
            bytes += chunk[..<count]
        }
    }

    deinit {
        for name in names { unlink("\(path)/\(name)") }
        rmdir(path)
    }
}

/// Bounds that make tests quick.
func quickConfiguration() -> PeerConfiguration {
    var configuration = PeerConfiguration()
    configuration.retryMinimum = .milliseconds(10)
    configuration.retryMaximum = .milliseconds(50)
    configuration.handshakeTimeout = .milliseconds(400)
    configuration.removalGrace = .milliseconds(300)
    configuration.pingInterval = .milliseconds(100)
    return configuration
}

let clusterID: UInt64 = 0xcdf8_1819_4e3a_8c32

func identity(_ id: NodeID) -> PeerIdentity {
    PeerIdentity(
        clusterID: clusterID, memberID: id, name: "n\(id)", peerURLs: ["http://n\(id):2380"],
        productVersion: "0.2.0", lowestVersion: "0.1.0", clusterToken: "token", pluginDigest: "digest")
}

/// One member's transport on a port of its own.
final class TestPeer {
    let id: NodeID
    let inbox: RecordingInbox
    let transport: PeerTransport
    let directory: TemporaryDirectory
    private(set) var port = 0
    private let group: MultiThreadedEventLoopGroup

    init(
        _ id: NodeID, identity own: PeerIdentity? = nil,
        configuration: PeerConfiguration = quickConfiguration(), port: Int? = 0
    ) throws {
        self.id = id
        inbox = RecordingInbox(
            cluster: ClusterDescription(
                clusterID: clusterID,
                members: [
                    Member(
                        id: id, name: "n\(id)", peerURLs: ["http://n\(id):2380"],
                        clientURLs: ["http://n\(id):2379"], isLearner: true)
                ], version: "0.2.0"))
        directory = try TemporaryDirectory()
        group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        transport = try PeerTransport(
            identity: own ?? identity(id), configuration: configuration,
            snapshotDirectory: directory.path, inbox: inbox, group: group)
        if let port { self.port = try transport.listen(on: [("127.0.0.1", port)])[0] }
    }

    var url: String { "http://127.0.0.1:\(port)" }

    var member: Member { Member(id: id, name: "n\(id)", peerURLs: [url], clientURLs: []) }

    func close() {
        transport.close()
        try? group.syncShutdownGracefully()
    }

    func counters(_ id: NodeID) -> PeerCounters? { transport.counters.first { $0.id == id } }
}

/// Waits until `condition` holds; false when it does not within five seconds.
func eventually(_ condition: () -> Bool) -> Bool {
    for _ in 0..<2500 {
        if condition() { return true }
        usleep(2000)
    }
    return condition()
}

/// A plain socket, for what no member would send.
final class RawSocket {
    private let descriptor: Int32

    init(port: Int) {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        _ = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        var wait = timeval(tv_sec: 3, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &wait, socklen_t(MemoryLayout<timeval>.size))
    }

    func send(_ bytes: [UInt8]) { _ = Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) }

    func send(_ kind: FrameKind, _ payload: [UInt8]) { send(frame(kind, payload)) }

    /// All bytes until the other side closes; nil when it does not within three seconds.
    func readToEnd() -> [UInt8]? {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = recv(descriptor, &chunk, chunk.count, 0)
            if count > 0 {
                bytes += chunk[..<count]
            } else if count == 0 || errno == ECONNRESET {
                return bytes
            } else {
                return nil
            }
        }
    }

    /// The next frame.
    func readFrame() -> (kind: FrameKind, payload: [UInt8])? {
        guard let head = read(8) else { return nil }
        let length = head[..<4].reversed().reduce(0) { $0 << 8 | Int($1) }
        guard let body = read(length), let kind = FrameKind(rawValue: body[0]) else { return nil }
        return (kind, Array(body.dropFirst()))
    }

    private func read(_ count: Int) -> [UInt8]? {
        var bytes: [UInt8] = []
        while bytes.count < count {
            var chunk = [UInt8](repeating: 0, count: count - bytes.count)
            let got = recv(descriptor, &chunk, chunk.count, 0)
            if got <= 0 { return nil }
            bytes += chunk[..<got]
        }
        return bytes
    }

    deinit { close(descriptor) }
}

func frame(_ kind: FrameKind, _ payload: [UInt8]) -> [UInt8] {
    var buffer = ByteBuffer()
    buffer.writeFrame(kind, payload)
    return Array(buffer.readableBytesView)
}

func heartbeat(_ from: NodeID, _ to: NodeID, _ round: UInt64) -> PeerMessage {
    .raft(Message(from: from, to: to, term: 1, body: .heartbeat(commit: 0, round: round)))
}
