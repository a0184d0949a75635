// Cluster and member ids, computed as etcd computes them, so that the same flags give the same ids
// (etcd server/etcdserver/api/membership: computeMemberId, genID).

import Crypto

/// The ids of a cluster's founding members.
package enum Identity {
    /// The first eight bytes of SHA-1 over the sorted peer URLs, joined, and the cluster token.
    package static func memberID(peerURLs: [String], token: String) -> UInt64 {
        var bytes: [UInt8] = []
        for url in peerURLs.sorted() { bytes += Array(url.utf8) }
        bytes += Array(token.utf8)
        return firstEightBytes(bytes)
    }

    /// The id of a member that joins a running cluster: the second in which it was asked for, so
    /// that a member with the URLs of a removed one is another.
    package static func memberID(peerURLs: [String], joinedAt unixSeconds: UInt64) -> UInt64 {
        memberID(peerURLs: peerURLs, token: String(unixSeconds))
    }

    /// The first eight bytes of SHA-1 over the member ids, ascending, big endian.
    package static func clusterID(memberIDs: [UInt64]) -> UInt64 {
        var bytes: [UInt8] = []
        for id in memberIDs.sorted() {
            withUnsafeBytes(of: id.bigEndian) { bytes += Array($0) }
        }
        return firstEightBytes(bytes)
    }

    private static func firstEightBytes(_ bytes: [UInt8]) -> UInt64 {
        Insecure.SHA1.hash(data: bytes).prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
    }
}
