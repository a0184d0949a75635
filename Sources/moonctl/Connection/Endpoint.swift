import Glibc
import NIOCore
import NIOPosix
import RPC

/// Where a server listens.
struct Endpoint: Sendable {
    enum Address: Sendable {
        case tcp(host: String, port: Int)
        case unix(path: String)
    }

    /// As the user wrote it; outputs show it so.
    let text: String
    let address: Address

    /// Takes `host:port`, `[v6]:port`, `http://host:port` and `unix:path` or `unix://path`.
    init(_ text: String) throws(CommandError) {
        self.text = text
        var rest = Substring(text)
        if rest.hasPrefix("https://") || rest.hasPrefix("unixs:") {
            throw .badArguments("endpoint \(text) asks for TLS, which is not offered by this version")
        }
        if rest.hasPrefix("unix:") {
            rest = rest.dropFirst(5)
            address = .unix(path: String(rest.hasPrefix("//") ? rest.dropFirst(2) : rest))
            return
        }
        if rest.hasPrefix("http://") { rest = rest.dropFirst(7) }
        if rest.hasSuffix("/") { rest = rest.dropLast() }
        guard let colon = rest.lastIndex(of: ":"), let port = UInt16(rest[rest.index(after: colon)...])
        else { throw .badArguments("endpoint \(GoText.quote(text)) is not of the form HOST:PORT") }
        var host = rest[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        address = .tcp(host: host.isEmpty ? "127.0.0.1" : String(host), port: Int(port))
    }

    /// Connects; the error is a reason for people.
    func connect(_ configuration: RPCClientConfiguration) async -> Result<RPCClient, ConnectError> {
        do {
            switch address {
            case .tcp(let host, let port):
                return .success(
                    try await RPCClient.connect(
                        host: host, port: port, configuration: configuration
                    ).get())
            case .unix(let path):
                return .success(
                    try await RPCClient.connect(unixPath: path, configuration: configuration).get())
            }
        } catch {
            return .failure(ConnectError("\(text): \(Self.reason(error))"))
        }
    }

    private static func reason(_ error: any Error) -> String {
        switch error {
        case let error as IOError: String(cString: strerror(error.errnoCode))
        case let all as NIOConnectionError:
            if let first = all.connectionErrors.first {
                reason(first.error)
            } else {
                "\(all.dnsAError ?? all.dnsAAAAError ?? error)"
            }
        default: "\(error)"
        }
    }
}

/// No connection came about; the text names the endpoint and the reason.
struct ConnectError: Error, Sendable {
    let reason: String

    init(_ reason: String) { self.reason = reason }
}
