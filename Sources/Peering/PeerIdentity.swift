// Who a member says it is. Pure values.

import RaftCore
import StateMachine

/// What a member tells of itself in the handshake.
package struct PeerIdentity: Sendable, Equatable {
    /// 0 while unknown (a joiner that looks the cluster up).
    package var clusterID: UInt64
    package var memberID: NodeID
    package var name: String
    package var peerURLs: [String]
    package var productVersion: String
    /// The lowest product version that this member can work with.
    package var lowestVersion: String
    /// Empty when it was not given; then it is not compared.
    package var clusterToken: String
    /// Names what the plugins are; equal digests mean equal behaviour.
    package var pluginDigest: String

    package init(
        clusterID: UInt64, memberID: NodeID, name: String, peerURLs: [String],
        productVersion: String, lowestVersion: String, clusterToken: String = "",
        pluginDigest: String = ""
    ) {
        self.clusterID = clusterID
        self.memberID = memberID
        self.name = name
        self.peerURLs = peerURLs
        self.productVersion = productVersion
        self.lowestVersion = lowestVersion
        self.clusterToken = clusterToken
        self.pluginDigest = pluginDigest
    }

    /// For messages: `member 8e9e05c52164694d (n1) at http://10.0.0.1:2380`. What came from a
    /// stranger is cut and freed of control characters.
    var description: String {
        let urls = peerURLs.prefix(4).map { printable($0) }.joined(separator: ",")
        let place = urls.isEmpty ? "" : " at \(urls)"
        return "member \(hex(memberID)) (\(printable(name)))\(place)"
    }
}

/// What a joining member may know of a cluster.
package struct ClusterDescription: Sendable, Equatable {
    package var clusterID: UInt64
    package var members: [Member]
    package var version: String

    package init(clusterID: UInt64, members: [Member], version: String) {
        self.clusterID = clusterID
        self.members = members
        self.version = version
    }
}

/// `major.minor.patch`; what follows a `-` or `+` does not count.
struct ReleaseVersion: Comparable {
    private let numbers: [Int]

    /// Nil when the text is no version.
    init?(_ text: String) {
        let core = text.prefix { $0 != "-" && $0 != "+" }
        let parts = core.split(separator: ".", omittingEmptySubsequences: false)
        let numbers = parts.compactMap { UInt32($0).map(Int.init) }
        guard parts.count == 3, numbers.count == 3 else { return nil }
        self.numbers = numbers
    }

    static func < (left: Self, right: Self) -> Bool {
        left.numbers.lexicographicallyPrecedes(right.numbers)
    }
}

/// An id as etcd prints it.
func hex(_ id: UInt64) -> String { String(id, radix: 16) }

/// A peer's text for a log line: at most 200 characters, without control characters.
func printable(_ text: String) -> String {
    var result = String.UnicodeScalarView()
    for scalar in text.unicodeScalars.prefix(200) {
        let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
        result.append(isControl ? "?" : scalar)
    }
    return String(result)
}

/// Host and port of `http://HOST:PORT`, where a member listens for its peers.
struct PeerEndpoint: Equatable {
    let host: String
    let port: Int

    /// Nil when the text is no such URL.
    init?(url: String) {
        var rest = Substring(url)
        if rest.hasPrefix("http://") {
            rest = rest.dropFirst(7)
        } else if rest.hasPrefix("https://") {
            rest = rest.dropFirst(8)
        } else {
            return nil
        }
        if rest.hasSuffix("/") { rest = rest.dropLast() }
        guard let colon = rest.lastIndex(of: ":"), let port = UInt16(rest[rest.index(after: colon)...])
        else { return nil }
        var host = rest[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty, !host.contains("/") else { return nil }
        self.host = String(host)
        self.port = Int(port)
    }
}
