import Glibc

/// One HTTP/1.1 request over its own connection: what the node's plain endpoints need and no more.
enum HTTPExchange {
    struct Reply {
        let status: Int
        let body: [UInt8]
    }

    /// No answer of the node comes near it.
    private static let maxReplyBytes = 16 << 20

    /// Sends a request without a body and reads the answer to its end. The content type shows a node
    /// that no browser was talked into sending it.
    /// - Parameter timeout: for each step: connecting, and every wait for bytes.
    static func send(
        _ method: String, _ path: String, to endpoint: Endpoint, timeout: Duration
    ) throws(ConnectError) -> Reply {
        let socket = try connect(endpoint, timeout)
        defer { close(socket) }
        let request =
            "\(method) \(path) HTTP/1.1\r\nHost: \(host(endpoint))\r\n"
            + "User-Agent: \(Moonctl.name)\r\nContent-Type: application/json\r\n"
            + "Content-Length: 0\r\nConnection: close\r\n\r\n"
        var rest = Array(request.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count < 0 {
                if errno == EINTR { continue }
                throw failure(endpoint, "send")
            }
            rest = rest.dropFirst(count)
        }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while bytes.count < maxReplyBytes {
            let count = recv(socket, &chunk, chunk.count, 0)
            if count == 0 { break }
            if count < 0 {
                if errno == EINTR { continue }
                throw failure(endpoint, "receive")
            }
            bytes += chunk[..<count]
        }
        guard let reply = parse(bytes) else {
            throw ConnectError("\(endpoint.text): the answer is not a whole HTTP/1.1 response")
        }
        return reply
    }

    /// Takes a whole response apart; nil when it is none. The body must have its declared length
    /// or end with the connection; other codings are not asked for.
    static func parse(_ bytes: [UInt8]) -> Reply? {
        let gap = Array("\r\n\r\n".utf8)
        guard let end = bytes.indices.first(where: { bytes[$0...].starts(with: gap) }) else {
            return nil
        }
        let lines = String(decoding: bytes[..<end], as: UTF8.self).split(separator: "\r\n")
        guard let first = lines.first else { return nil }
        let words = first.split(separator: " ")
        guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]) else {
            return nil
        }
        var body = bytes[(end + gap.count)...]
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else { return nil }
            let value = GoText.trimmed(String(parts[1]))
            switch parts[0].lowercased() {
            case "content-length":
                guard let length = Int(value), length >= 0, body.count >= length else { return nil }
                body = body.prefix(length)
            case "transfer-encoding": return nil
            default: break
            }
        }
        return Reply(status: status, body: Array(body))
    }

    private static func host(_ endpoint: Endpoint) -> String {
        switch endpoint.address {
        case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix: "localhost"
        }
    }

    private static func failure(_ endpoint: Endpoint, _ step: String) -> ConnectError {
        ConnectError("\(endpoint.text): \(step): \(String(cString: strerror(errno)))")
    }

    /// A connected socket with both timeouts set.
    private static func connect(
        _ endpoint: Endpoint, _ timeout: Duration
    ) throws(ConnectError) -> Int32 {
        guard case .tcp(let host, let port) = endpoint.address else {
            throw ConnectError("\(endpoint.text): plugin commands need a TCP endpoint")
        }
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(host, String(port), &hints, &list)
        guard code == 0 else {
            throw ConnectError("\(endpoint.text): \(String(cString: gai_strerror(code)))")
        }
        defer { freeaddrinfo(list) }
        var limit = timeval()
        limit.tv_sec = Int(timeout.nanoseconds / 1_000_000_000)
        limit.tv_usec = Int(timeout.nanoseconds / 1000 % 1_000_000)
        var next = list
        errno = EADDRNOTAVAIL
        while let address = next?.pointee {
            next = address.ai_next
            let type = address.ai_socktype | Int32(SOCK_CLOEXEC.rawValue)
            let socket = Glibc.socket(address.ai_family, type, 0)
            if socket < 0 { continue }
            let size = socklen_t(MemoryLayout<timeval>.size)
            setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, size)
            setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, size)
            if Glibc.connect(socket, address.ai_addr, address.ai_addrlen) == 0 { return socket }
            let reason = errno
            close(socket)
            errno = reason
        }
        throw failure(endpoint, "connect")
    }
}
