/// Answers a unary call.
///
/// Called on the call's event loop as soon as the whole request message has arrived; the bytes
/// are the message without gRPC's prefix and are valid only during the call (they usually lie in
/// the socket's read buffer). Exactly one of `respond` or `finish` must follow, at once or later
/// on the same loop.
package typealias UnaryHandler = (ServerCall, UnsafeRawBufferPointer) -> Void

/// Follows a call with streams in at least one direction. All methods run on the call's loop.
package protocol CallHandler: AnyObject {
    /// One whole request message; the bytes are valid only during the call.
    func received(_ message: UnsafeRawBufferPointer, _ call: ServerCall)
    /// The client has sent everything. Not called when the call is reset.
    func halfClosed(_ call: ServerCall)
    /// The buffered output fell below the low-water mark after `send` had reported more than the
    /// high-water mark.
    func writable(_ call: ServerCall)
    /// The server has begun to drain; end the call soon, with whatever status clients expect.
    func draining(_ call: ServerCall)
    /// The call is over: finished, reset, disconnected or past its deadline. Exactly once, last.
    func closed(_ call: ServerCall)
}

extension CallHandler {
    package func halfClosed(_ call: ServerCall) {}
    package func writable(_ call: ServerCall) {}
    package func draining(_ call: ServerCall) {}
}

/// How a method's calls are handled.
package enum MethodKind {
    /// One message in, one message or an error out.
    case unary(UnaryHandler)
    /// Messages reach the returned handler one by one (server, client and bidirectional streams).
    /// The factory runs when the request head has arrived; it may finish the call and return nil.
    case stream((ServerCall) -> (any CallHandler)?)
}

/// One entry of the table: a full path such as `/etcdserverpb.KV/Range`.
package struct Route {
    package let path: String
    package let method: MethodID
    package let kind: MethodKind

    package init(_ path: String, _ method: MethodID, _ kind: MethodKind) {
        self.path = path
        self.method = method
        self.kind = kind
    }
}

/// The methods one event loop serves. Built once per loop, so handlers may own loop-local state
/// without locks.
package final class RouteTable {
    final class Entry {
        let method: MethodID
        let path: [UInt8]
        let unary: UnaryHandler?
        let stream: ((ServerCall) -> (any CallHandler)?)?

        init(_ route: Route) {
            method = route.method
            path = Array(route.path.utf8)
            switch route.kind {
            case .unary(let handler): (unary, stream) = (handler, nil)
            case .stream(let make): (unary, stream) = (nil, make)
            }
        }
    }

    private let entries: [Entry]
    /// Open addressing, power of two, at most half full; -1 is free.
    private let buckets: [Int32]
    private let services: Set<String>
    /// One more than the largest method number; sizes the counters.
    package let methodCount: Int

    /// Paths must be distinct and of the form `/service/method`; method numbers must be in 0…4095.
    package init(_ routes: [Route]) {
        var size = 16
        while size < routes.count * 2 { size *= 2 }
        var buckets = [Int32](repeating: -1, count: size)
        var entries: [Entry] = []
        var services: Set<String> = []
        var methodCount = 0
        for route in routes {
            let raw = route.method.rawValue
            precondition((0..<4096).contains(raw), "method number \(raw) of \(route.path)")
            let slash = route.path.lastIndex(of: "/")
            precondition(
                route.path.hasPrefix("/") && slash != route.path.startIndex,
                "malformed route \(route.path)")
            if let slash { services.insert(String(route.path[..<slash].dropFirst())) }
            let entry = Entry(route)
            var slot = entry.path.withUnsafeBytes { Self.hash($0) } & (size - 1)
            while buckets[slot] >= 0 {
                precondition(
                    entries[Int(buckets[slot])].path != entry.path, "route \(route.path) twice")
                slot = (slot + 1) & (size - 1)
            }
            buckets[slot] = Int32(entries.count)
            entries.append(entry)
            methodCount = max(methodCount, raw + 1)
        }
        self.entries = entries
        self.buckets = buckets
        self.services = services
        self.methodCount = methodCount
    }

    func find(_ path: UnsafeRawBufferPointer) -> Entry? {
        let mask = buckets.count - 1
        var slot = Self.hash(path) & mask
        while true {
            let index = buckets[slot]
            if index < 0 { return nil }
            let entry = entries[Int(index)]
            let equal = entry.path.withUnsafeBytes { candidate in
                candidate.count == path.count && equalBytes(candidate, path)
            }
            if equal { return entry }
            slot = (slot + 1) & mask
        }
    }

    /// What an unknown path is answered with; the texts are grpc-go's (server.go, handleStream).
    func unknownPathStatus(_ path: UnsafeRawBufferPointer) -> RPCStatus {
        let text = String(decoding: path, as: UTF8.self)
        let name = text.hasPrefix("/") ? text.dropFirst() : text[...]
        guard let slash = name.lastIndex(of: "/") else {
            return RPCStatus(.unimplemented, "malformed method name: \"\(text)\"")
        }
        let service = String(name[..<slash])
        let method = name[name.index(after: slash)...]
        return services.contains(service)
            ? RPCStatus(.unimplemented, "unknown method \(method) for service \(service)")
            : RPCStatus(.unimplemented, "unknown service \(service)")
    }

    private static func hash(_ bytes: UnsafeRawBufferPointer) -> Int {
        var hash: UInt64 = 0x9E37_79B9_7F4A_7C15 ^ UInt64(truncatingIfNeeded: bytes.count)
        var offset = 0
        while offset + 8 <= bytes.count {
            hash =
                (hash ^ bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
                &* 0xFF51_AFD7_ED55_8CCD
            hash ^= hash >> 32
            offset += 8
        }
        while offset < bytes.count {
            hash = (hash ^ UInt64(bytes[offset])) &* 0xFF51_AFD7_ED55_8CCD
            hash ^= hash >> 32
            offset += 1
        }
        return Int(truncatingIfNeeded: hash)
    }
}
