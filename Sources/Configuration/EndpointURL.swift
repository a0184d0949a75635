#if canImport(Glibc)
    import Glibc
#endif

/// An address in URL form, `http://HOST:PORT`, as listeners and advertised addresses are written.
///
/// Rules and error texts follow etcd's `client/pkg/types/urls.go`. TLS and Unix sockets are refused by name.
package struct EndpointURL: Equatable, Hashable, Comparable, Sendable, CustomStringConvertible {
    /// A name or an address; an IPv6 address stands without its brackets; empty means every address.
    package let host: String
    package let port: Int

    package init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// Reads one URL.
    package init(_ text: String) throws(SettingText.Problem) {
        let text = String(text.drop(while: \.isWhitespace))
        guard let separator = text.firstRange(of: "://") else {
            throw .init(message: "URL scheme must be http, https, unix, or unixs: \(text)")
        }
        switch text[..<separator.lowerBound] {
        case "http": break
        case "https":
            throw .init(message: "TLS is not in this version, use http:// instead of https://: \(text)")
        case "unix", "unixs":
            throw .init(message: "Unix sockets are not in this version, use http://: \(text)")
        default: throw .init(message: "URL scheme must be http, https, unix, or unixs: \(text)")
        }
        let authority = text[separator.upperBound...]
        let address = authority.prefix { $0 != "/" && $0 != "?" && $0 != "#" }
        let shape = SettingText.Problem(message: "URL address does not have the form \"host:port\": \(text)")
        guard let colon = address.lastIndex(of: ":") else { throw shape }
        guard let port = UInt16(address[address.index(after: colon)...]) else { throw shape }
        var host = address[..<colon]
        if host.hasPrefix("[") {
            guard host.hasSuffix("]"), host.count > 2 else { throw shape }
            host = host.dropFirst().dropLast()
            guard Self.isAddress(String(host)) else { throw shape }
        } else if host.contains(":") || host.contains("@") || host.contains(where: \.isWhitespace) {
            throw shape
        }
        guard address.count == authority.count else {
            throw .init(message: "URL must not contain a path: \(text)")
        }
        self.host = String(host)
        self.port = Int(port)
    }

    /// Reads a comma-separated list, as flags carry it.
    package static func list(_ text: String) throws(SettingText.Problem) -> [EndpointURL] {
        var urls: [EndpointURL] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            urls.append(try EndpointURL(String(part)))
        }
        return urls
    }

    package var description: String {
        host.contains(":") ? "http://[\(host)]:\(port)" : "http://\(host):\(port)"
    }

    /// The host to bind a listener to. `localhost` becomes the IPv4 loopback address, as in etcd, whatever
    /// the machine's name service says first.
    package var bindHost: String {
        switch host {
        case "localhost": "127.0.0.1"
        case "": "0.0.0.0"
        default: host
        }
    }

    /// Whether a listener can be bound to this: an address or `localhost`, not a name.
    package var canBeBound: Bool { host == "localhost" || Self.isAddress(host) }

    /// Whether this stands for all addresses of the machine, which others cannot connect to.
    package var isUnspecified: Bool { host.isEmpty || host == "0.0.0.0" || host == "::" }

    /// Order of the printed form, which is the order in which etcd lists URLs.
    package static func < (left: EndpointURL, right: EndpointURL) -> Bool {
        left.description.utf8.lexicographicallyPrecedes(right.description.utf8)
    }

    private static func isAddress(_ host: String) -> Bool {
        var storage = in6_addr()
        return inet_pton(AF_INET, host, &storage) == 1 || inet_pton(AF_INET6, host, &storage) == 1
    }
}

/// One member that `initial-cluster` names.
package struct InitialMember: Equatable, Sendable {
    package let name: String
    /// Sorted.
    package let peerURLs: [EndpointURL]

    package init(name: String, peerURLs: [EndpointURL]) {
        self.name = name
        self.peerURLs = peerURLs
    }

    /// Reads `NAME=URL,NAME=URL,…`; a name may come several times, each time with one URL.
    package static func list(_ text: String) throws(SettingText.Problem) -> [InitialMember] {
        var urls: [String: [EndpointURL]] = [:]
        for part in text.split(separator: ",") {
            let pieces = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let url = try EndpointURL(pieces.count == 2 ? String(pieces[1]) : "")
            urls[String(pieces[0]), default: []].append(url)
        }
        return urls.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
            .map { InitialMember(name: $0.key, peerURLs: $0.value.sorted()) }
    }

    /// The form that ``list(_:)`` reads.
    package static func text(_ members: [InitialMember]) -> String {
        members.flatMap { member in member.peerURLs.map { "\(member.name)=\($0)" } }.joined(separator: ",")
    }
}
