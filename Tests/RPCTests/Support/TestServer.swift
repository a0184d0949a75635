import Foundation
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix

@testable import RPC

/// Method numbers of the test routes.
enum TestMethod: Int {
    case echo, stream, delayed, never, fail, metadata, source, pausing, big, hop, drainable, keep

    var id: MethodID { MethodID(rawValue: rawValue) }
    var path: String { "/test.Service/\(name)" }
    var name: String { "\(self)".prefix(1).uppercased() + "\(self)".dropFirst() }
}

/// What handlers saw, for tests to look at.
final class Journal: Sendable {
    private let lines = NIOLockedValueBox<[String]>([])

    func note(_ line: String) { lines.withLockedValue { $0.append(line) } }
    var all: [String] { lines.withLockedValue { $0 } }
    func count(_ line: String) -> Int { all.filter { $0 == line }.count }

    /// Waits until `line` has been noted `times` times.
    func waitFor(_ line: String, times: Int = 1, seconds: Double = 5) -> Bool {
        waitUntil(seconds: seconds) { self.count(line) >= times }
    }
}

/// Polls a condition that another thread makes true.
func waitUntil(seconds: Double = 5, _ condition: () -> Bool) -> Bool {
    let end = Date().addingTimeInterval(seconds)
    while Date() < end {
        if condition() { return true }
        usleep(2000)
    }
    return condition()
}

/// Echoes every message; ends OK when the client does.
final class EchoHandler: CallHandler {
    let journal: Journal
    init(_ journal: Journal) { self.journal = journal }
    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) { call.send(message) }
    func halfClosed(_ call: ServerCall) { call.finish(.ok, trailers: [("x-end", "yes")]) }
    func closed(_ call: ServerCall) { journal.note("closed") }
    func draining(_ call: ServerCall) {
        journal.note("draining")
        call.finish(RPCStatus(.unavailable, "etcdserver: server stopped"))
    }
}

/// The first message is a decimal count; so many 1000-byte shared messages follow, as fast as the
/// client takes them.
final class SourceHandler: CallHandler {
    static let block = SharedBytes([UInt8](repeating: 7, count: 1000))
    let journal: Journal
    var left = 0
    init(_ journal: Journal) { self.journal = journal }

    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        left = Int(String(decoding: message, as: UTF8.self)) ?? 0
        pump(call)
    }

    func writable(_ call: ServerCall) {
        journal.note("writable")
        pump(call)
    }

    func closed(_ call: ServerCall) { journal.note("source closed") }

    private func pump(_ call: ServerCall) {
        while left > 0, call.isWritable {
            let number = UInt32(left).bigEndian
            withUnsafeBytes(of: number) { call.send(head: $0, shared: Self.block) }
            left -= 1
        }
        if left == 0 { call.finish(.ok) }
    }
}

/// Pauses after each message and resumes 5 ms later.
final class PausingHandler: CallHandler {
    let journal: Journal
    var bytes = 0
    init(_ journal: Journal) { self.journal = journal }
    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall) {
        bytes += message.count
        call.pauseReceiving()
        call.loop.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(5)) {
            call.resumeReceiving()
        }
    }
    func halfClosed(_ call: ServerCall) {
        call.send(Array(String(bytes).utf8))
        call.finish(.ok)
    }
    func closed(_ call: ServerCall) {}
}

/// A server on its own loops with the test routes.
final class TestServer {
    let group: MultiThreadedEventLoopGroup
    let server: RPCServer
    let port: Int
    let journal = Journal()

    init(
        threads: Int = 1, _ adjust: (inout RPCServerConfiguration) -> Void = { _ in }
    ) throws {
        var configuration = RPCServerConfiguration()
        configuration.sweepInterval = .milliseconds(20)
        configuration.lingerTimeout = .milliseconds(300)
        adjust(&configuration)
        group = MultiThreadedEventLoopGroup(numberOfThreads: threads)
        let journal = journal
        server = try RPCServer(group: group, configuration: configuration) { loop in
            LoopServices(
                routes: TestServer.routes(journal, loop), http: TestServer.http(journal))
        }
        port = try server.bind(host: "127.0.0.1", port: 0)?.port ?? 0
    }

    func stop() {
        try? server.close()
        try? group.syncShutdownGracefully()
    }

    func client(_ configuration: RPCClientConfiguration = .init()) throws -> RPCClient {
        try RPCClient.connectAndWait(host: "127.0.0.1", port: port, configuration: configuration)
    }

    /// Unsent response bytes of the first loop.
    func bufferedBytes() throws -> Int {
        let loop = server.loops[0]
        return try loop.eventLoop.submit { loop.bufferedBytes }.wait()
    }

    /// Incomplete request bytes of the first loop.
    func partialBytes() throws -> Int {
        let loop = server.loops[0]
        return try loop.eventLoop.submit { loop.partialBytes }.wait()
    }

    /// Whether another client is served while something hostile goes on.
    func serves() -> Bool {
        guard let client = try? client() else { return false }
        defer { client.close() }
        guard
            case .success(let reply) = client.unary(
                TestMethod.echo.path, [1, 2, 3], timeout: .seconds(20))
        else { return false }
        return reply.message == [1, 2, 3]
    }

    private static func http(_ journal: Journal) -> HTTPRequestHandler {
        { request, loop, responder in
            switch request.path {
            case "/stream":
                responder.onClose = { journal.note("http closed") }
                responder.begin(200, headers: [("content-type", "text/plain")])
                responder.write(Array("one ".utf8))
                loop.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(10)) {
                    responder.write(Array("two".utf8))
                    responder.end()
                }
            case "/never":
                responder.onClose = { journal.note("http closed") }
            default:
                let text = "\(request.method) \(request.uri) \(request.body.count)"
                responder.respond(200, headers: [("x-test", "1")], body: Array(text.utf8))
            }
        }
    }

    private static func routes(_ journal: Journal, _ loop: ServerLoop) -> RouteTable {
        let outbox = LoopOutbox<(ServerCall, [UInt8])>(loop) { batch in
            for (call, bytes) in batch { call.respond(bytes) }
        }
        var kept: [ServerCall] = []
        func route(_ method: TestMethod, _ kind: MethodKind) -> Route {
            Route(method.path, method.id, kind)
        }
        return RouteTable([
            route(.echo, .unary { call, message in call.respond(message) }),
            route(.stream, .stream { _ in EchoHandler(journal) }),
            route(
                .delayed,
                .unary { call, message in
                    let copy = Array(message)
                    call.loop.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(50)) {
                        call.respond(copy)
                    }
                }),
            route(
                .never,
                .unary { call, _ in
                    journal.note("never called")
                    call.handler = EchoHandler(journal)
                }),
            route(
                .fail,
                .unary { call, message in
                    call.finish(
                        RPCStatus(.failedPrecondition, String(decoding: message, as: UTF8.self)),
                        trailers: [("x-detail", "d")])
                }),
            route(
                .metadata,
                .unary { call, _ in
                    var text = call.metadata.string("token") ?? "none"
                    text += "|" + (call.metadata.binary("blob-bin").map { "\($0)" } ?? "none")
                    text += "|" + (call.authority ?? "none")
                    text += "|" + (call.metadata.contains("user-agent") ? "agent" : "none")
                    text += "|" + (call.metadata.contains("te") ? "te" : "none")
                    call.respond(Array(text.utf8))
                }),
            route(.source, .stream { _ in SourceHandler(journal) }),
            route(.pausing, .stream { _ in PausingHandler(journal) }),
            route(
                .big,
                .unary { call, message in
                    let count = Int(String(decoding: message, as: UTF8.self)) ?? 0
                    call.respond([UInt8](repeating: 0x42, count: count))
                }),
            route(
                .hop,
                .unary { call, message in
                    let copy = Array(message)
                    DispatchQueue.global().async { outbox.push((call, copy)) }
                }),
            route(
                .drainable, .stream { _ in EchoHandler(journal) }),
            route(
                .keep,
                .unary { call, message in
                    kept.append(call)
                    call.respond(message)
                }),
        ])
    }
}
