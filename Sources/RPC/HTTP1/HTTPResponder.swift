import NIOCore
import NIOHTTP1

/// The answer to one HTTP/1 request. Confined to its loop; other threads may only hold it.
///
/// Either `respond` once, or `begin`, any number of `write`, `end`. After the connection is gone
/// everything does nothing.
package final class HTTPResponder: @unchecked Sendable {
    private enum State {
        case waiting
        case streaming
        case ended
    }

    package let loop: ServerLoop
    /// Runs once when the connection goes away before the answer has ended.
    package var onClose: (() -> Void)?
    /// Runs when a streamed answer may go on after `isWritable` was false.
    package var onWritable: (() -> Void)?
    private weak var connection: HTTP1Connection?
    private let isHead: Bool
    private let keepsAlive: Bool
    private let version: HTTPVersion
    private var state = State.waiting

    init(
        _ connection: HTTP1Connection, loop: ServerLoop, isHead: Bool, keepsAlive: Bool,
        version: HTTPVersion
    ) {
        self.connection = connection
        self.loop = loop
        self.isHead = isHead
        self.keepsAlive = keepsAlive
        self.version = version
    }

    /// Whether anything can still be sent.
    package var isOpen: Bool { connection != nil && state != .ended }

    /// False while the socket takes no more; wait for `onWritable` before writing on.
    package var isWritable: Bool { connection?.isWritable ?? false }

    /// Sends a whole answer with its length.
    package func respond(
        _ status: Int, headers: [(String, String)] = [], body: [UInt8] = []
    ) {
        guard state == .waiting, let connection else { return }
        state = .ended
        var head = makeHead(status, headers)
        head.headers.replaceOrAdd(name: "content-length", value: String(body.count))
        connection.send(head)
        if !isHead, !body.isEmpty { connection.send(ByteBuffer(bytes: body)) }
        connection.finish(keepsAlive: keepsAlive)
    }

    /// Begins an answer of unknown length (chunked, or until close for HTTP/1.0).
    package func begin(_ status: Int, headers: [(String, String)] = []) {
        guard state == .waiting, let connection else { return }
        state = .streaming
        connection.send(makeHead(status, headers))
        connection.flush()
    }

    package func write(_ bytes: [UInt8]) {
        guard state == .streaming, let connection, !bytes.isEmpty, !isHead else { return }
        connection.send(ByteBuffer(bytes: bytes))
        connection.flush()
    }

    package func end() {
        guard state == .streaming, let connection else { return }
        state = .ended
        connection.finish(keepsAlive: keepsAlive && version.minor >= 1)
    }

    func connectionClosed() {
        connection = nil
        guard state != .ended else { return }
        state = .ended
        onClose?()
        onClose = nil
        onWritable = nil
    }

    private func makeHead(_ status: Int, _ headers: [(String, String)]) -> HTTPResponseHead {
        var fields = HTTPHeaders()
        for (name, value) in headers {
            // Header injection is impossible: the encoder's own check would fail the connection.
            fields.add(name: name, value: value)
        }
        if !keepsAlive { fields.replaceOrAdd(name: "connection", value: "close") }
        return HTTPResponseHead(
            version: version, status: HTTPResponseStatus(statusCode: status), headers: fields)
    }
}
