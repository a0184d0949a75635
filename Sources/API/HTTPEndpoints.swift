// HTTP/1.1 on the client port: /health, /livez, /readyz, /version, /metrics (etcd-parity 2.2).

import KVCodec
import MVCC
import NIOCore
import Node
import RPC

/// The HTTP side of one event loop.
final class HTTPEndpoints {
    private unowned let context: LoopContext
    private let collectMetrics: (any EventLoop) -> EventLoopFuture<[UInt8]>

    private let admin: PluginAdministration?

    init(
        _ context: LoopContext, admin: PluginAdministration?,
        collectMetrics: @escaping (any EventLoop) -> EventLoopFuture<[UInt8]>
    ) {
        self.context = context
        self.admin = admin
        self.collectMetrics = collectMetrics
    }

    func handle(_ request: HTTPRequest, _ loop: ServerLoop, _ responder: HTTPResponder) {
        let parts = request.path.split(separator: "/", omittingEmptySubsequences: true)
        switch parts.first {
        case "health" where parts.count == 1: onlyGet(request, responder) { health(request, $0) }
        case "livez" where parts.count <= 2:
            onlyGet(request, responder) { checks(.livez, parts.dropFirst().first, request, $0) }
        case "readyz" where parts.count <= 2:
            onlyGet(request, responder) { checks(.readyz, parts.dropFirst().first, request, $0) }
        case "version" where parts.count == 1: onlyGet(request, responder) { version($0) }
        case "metrics" where parts.count == 1: onlyGet(request, responder) { metrics($0) }
        case "plugins" where parts.count <= 2: plugins(parts, request, responder)
        case "v2", "v3", "v3alpha", "v3beta": gateway(parts[0], responder)
        default: text(responder, 404, "404 page not found\n")
        }
    }

    /// What the listeners for monitoring serve.
    func handleMonitoring(
        _ request: HTTPRequest, _ loop: ServerLoop, _ responder: HTTPResponder
    ) {
        switch request.path.split(separator: "/", omittingEmptySubsequences: true).first {
        case "metrics", "health", "livez", "readyz": handle(request, loop, responder)
        default: text(responder, 404, "404 page not found\n")
        }
    }

    // MARK: What etcd serves as JSON

    /// Clients of the JSON gateway (Patroni, APISIX, etcd3gw) show the text of an error to their user, so
    /// it says what is missing where 404 would let him look for a wrong address. Status, shape and code
    /// (12, Unimplemented) are those in which etcd's gateway reports a call that is not served.
    private func gateway(_ version: Substring, _ responder: HTTPResponder) {
        let what = version == "v2" ? "etcd's v2 API" : "the JSON gateway"
        let text = "moonraft: \(what) is not in this version; use a client that speaks gRPC"
        json(responder, 501, "{\"error\":\"\(text)\",\"code\":12,\"message\":\"\(text)\"}")
    }

    // MARK: /plugins, for operators on this machine

    private func plugins(
        _ parts: [Substring], _ request: HTTPRequest, _ responder: HTTPResponder
    ) {
        guard request.peer.isLocal else { return text(responder, 403, "local clients only\n") }
        if parts.count == 1 {
            return onlyGet(request, responder) { json($0, 200, admin?.list() ?? "[]") }
        }
        guard parts[1] == "reload" else { return text(responder, 404, "404 page not found\n") }
        guard request.method == "POST" else {
            return text(responder, 405, "Method Not Allowed\n")
        }
        // A browser on this machine can be made to send a plain form, but not this header.
        guard request.header("content-type")?.hasPrefix("application/json") == true else {
            return text(responder, 415, "content-type must be application/json\n")
        }
        guard let admin else {
            return json(responder, 200, "{\"ok\":false,\"error\":\"no plugin is bound\"}")
        }
        let loop = context.loop
        let back = LoopReturn { [self] (problem: String?) in
            json(
                responder, 200,
                problem.map { "{\"ok\":false,\"error\":\"\(JSONText.escape($0))\"}" }
                    ?? "{\"ok\":true}")
        }
        // Loading waits for the plugin thread, so it must not hold a loop.
        let reload = OwnedThread(name: "reload") {
            let problem = admin.reload()
            loop.eventLoop.execute { back.body(problem) }
        }
        reload.detach()
    }

    private func json(_ responder: HTTPResponder, _ status: Int, _ body: String) {
        responder.respond(
            status, headers: [("Content-Type", "application/json")], body: Array(body.utf8))
    }

    private func onlyGet(
        _ request: HTTPRequest, _ responder: HTTPResponder, _ body: (HTTPResponder) -> Void
    ) {
        if request.method == "GET" { return body(responder) }
        responder.respond(
            405,
            headers: [
                ("Allow", "GET"), ("Content-Type", "text/plain; charset=utf-8"),
                ("X-Content-Type-Options", "nosniff"),
            ],
            body: Array("Method Not Allowed\n".utf8))
    }

    private func text(_ responder: HTTPResponder, _ status: Int, _ text: String) {
        responder.respond(
            status,
            headers: [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("X-Content-Type-Options", "nosniff"),
            ], body: Array(text.utf8))
    }

    // MARK: /health

    private func health(_ request: HTTPRequest, _ responder: HTTPResponder) {
        let query = QueryItems(request.query)
        let excluded = query.all("exclude")
        let status = context.node.status
        if status.hasNoSpaceAlarm && !excluded.contains("NOSPACE") {
            return answerHealth(responder, reason: "ALARM NOSPACE")
        }
        if status.hasCorruptAlarm && !excluded.contains("CORRUPT") {
            return answerHealth(responder, reason: "ALARM CORRUPT")
        }
        if query.first("serializable") == "true" {
            return answerHealth(responder, reason: readLocally())
        }
        if !status.hasLeader { return answerHealth(responder, reason: "RAFT NO LEADER") }
        confirmRead { [self] error in
            answerHealth(responder, reason: error.map { "RANGE ERROR:\($0)" } ?? readLocally())
        }
    }

    /// Reads a key as a client would; empty when that works.
    private func readLocally() -> String {
        var unused = ByteWriter(capacity: 64)
        let key: [UInt8] = [0x61]
        return key.withUnsafeBytes { key in
            let empty = UnsafeRawBufferPointer(start: nil, count: 0)
            do throws(MVCCError) {
                _ = try context.node.store.range(
                    RangeQuery(key: key, rangeEnd: empty), reader: context.reader, into: &unused)
                return ""
            } catch {
                return "RANGE ERROR:\(RPCStatus(error).message)"
            }
        }
    }

    /// Calls back with the error that keeps a linearizable read from being served, or nil.
    private func confirmRead(_ body: @escaping (String?) -> Void) {
        if context.isReadable(serializable: false) { return body(nil) }
        let query = PendingQuery(loopIndex: context.loop.index) { answer in
            switch answer {
            case .readReady: body(nil)
            case .refused(let error): body(RPCStatus(error).message)
            default: preconditionFailure("a read was answered with \(answer)")
            }
        }
        if !context.node.confirmRead(query) { body(RPCStatus.tooManyRequests.message) }
    }

    private func answerHealth(_ responder: HTTPResponder, reason: String) {
        let isHealthy = reason.isEmpty
        context.monitoring.health(isHealthy: isHealthy)
        let body = "{\"health\":\"\(isHealthy)\",\"reason\":\"\(JSONText.escape(reason))\"}"
        responder.respond(
            isHealthy ? 200 : 503, headers: [("Content-Type", "text/plain; charset=utf-8")],
            body: Array(body.utf8))
    }

    // MARK: /livez, /readyz

    private enum Probe {
        case livez, readyz

        var checks: [String] {
            switch self {
            case .livez: ["serializable_read"]
            case .readyz:
                ["data_corruption", "serializable_read", "linearizable_read", "non_learner"]
            }
        }

        var name: String { self == .livez ? "livez" : "readyz" }
    }

    private func checks(
        _ probe: Probe, _ single: Substring?, _ request: HTTPRequest, _ responder: HTTPResponder
    ) {
        let query = QueryItems(request.query)
        var names = probe.checks
        if probe == .readyz && context.gate != nil { names.append("plugins") }
        if let single {
            guard names.contains(String(single)) else {
                return text(responder, 404, "404 page not found\n")
            }
            names = [String(single)]
        }
        let excluded = Set(query.all("exclude"))
        let isVerbose = query.contains("verbose")
        run(names, excluded) { [self] results in
            var lines = ""
            var failed = false
            for (name, error) in results {
                if excluded.contains(name) { continue }
                context.monitoring.check(probe.name, name, isOK: error == nil)
                if let error {
                    failed = true
                    lines += "[-]\(name) failed: \(error)\n"
                } else {
                    lines += "[+]\(name) ok\n"
                }
            }
            if failed { return text(responder, 503, lines) }
            text(responder, 200, isVerbose ? lines + "ok\n" : "ok\n")
        }
    }

    private func run(
        _ names: [String], _ excluded: Set<String>,
        _ body: @escaping ([(String, String?)]) -> Void
    ) {
        func collect(_ linearizable: String?) {
            body(
                names.map { name in
                    switch name {
                    case "data_corruption":
                        (name, context.node.status.hasCorruptAlarm ? "alarm activated: CORRUPT" : nil)
                    case "serializable_read":
                        (name, readLocally().isEmpty ? nil : readLocally())
                    case "linearizable_read": (name, linearizable)
                    case "non_learner":
                        (name, context.isLearner ? "not supported for learner" : nil)
                    case "plugins": (name, context.gate?.readinessProblem)
                    default: (name, nil)
                    }
                })
        }
        if names.contains("linearizable_read") && !excluded.contains("linearizable_read") {
            confirmRead { collect($0) }
        } else {
            collect(nil)
        }
    }

    // MARK: /version, /metrics

    private func version(_ responder: HTTPResponder) {
        let body =
            "{\"etcdserver\":\"\(ProductVersion.server)\","
            + "\"etcdcluster\":\"\(ProductVersion.cluster)\",\"storage\":\"\(ProductVersion.storage)\"}"
        responder.respond(
            200, headers: [("Content-Type", "application/json")], body: Array(body.utf8))
    }

    private func metrics(_ responder: HTTPResponder) {
        collectMetrics(context.loop.eventLoop).assumeIsolated().whenComplete { result in
            switch result {
            case .success(let body):
                responder.respond(
                    200, headers: [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")],
                    body: body)
            case .failure(let error):
                responder.respond(500, body: Array("\(error)\n".utf8))
            }
        }
    }
}

/// `a=1&b&a=2`, percent-decoded.
struct QueryItems {
    private var items: [(name: String, value: String)] = []

    init(_ query: Substring) {
        for part in query.split(separator: "&") {
            let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard let name = pair.first else { continue }
            items.append((Self.decode(name), pair.count > 1 ? Self.decode(pair[1]) : ""))
        }
    }

    func contains(_ name: String) -> Bool { items.contains { $0.name == name } }
    func first(_ name: String) -> String? { items.first { $0.name == name }?.value }
    func all(_ name: String) -> [String] { items.filter { $0.name == name }.map(\.value) }

    private static func decode(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == 0x2B {
                bytes.append(0x20)
            } else if byte == 0x25, rest.count >= 2,
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            {
                bytes.append(value)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// Text inside JSON strings.
enum JSONText {
    static func escape(_ text: String) -> String {
        var out = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\r": out += "\\r"
            case "\t": out += "\\t"
            case let control where control.value < 0x20:
                out += "\\u00" + (control.value < 16 ? "0" : "") + String(control.value, radix: 16)
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out
    }
}
