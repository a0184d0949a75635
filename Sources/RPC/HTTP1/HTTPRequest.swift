import NIOCore

/// A whole HTTP/1.1 request.
package struct HTTPRequest {
    /// `GET`, `POST`, …
    package let method: String
    /// Path and query as sent, for example `/health?serializable=true`.
    package let uri: String
    /// In the order they came; compare names without case.
    package let headers: [(name: String, value: String)]
    package let body: [UInt8]
    package let peer: PeerAddress

    /// The first header of that name.
    package func header(_ name: String) -> String? {
        headers.first { $0.name.lowercased() == name.lowercased() }?.value
    }

    /// The part before `?`.
    package var path: Substring { uri.prefix { $0 != "?" } }

    /// The part after `?`, empty without one.
    package var query: Substring {
        guard let mark = uri.firstIndex(of: "?") else { return "" }
        return uri[uri.index(after: mark)...]
    }
}

/// Answers one HTTP/1 request, on the connection's loop; the answer may come later on that loop.
package typealias HTTPRequestHandler = (HTTPRequest, ServerLoop, HTTPResponder) -> Void
