// The versions this node reports.

/// What clients and operators see as versions.
package enum ProductVersion {
    /// Moonraft's own.
    package static let moonraft = "0.2.0"
    /// The oldest version of a peer that this one can work with.
    package static let lowestPeer = "0.2.0"
    /// The etcd release whose API this is; clients decide by it which calls they may make.
    package static let server = "3.7.1"
    package static let cluster = "3.7.0"
    package static let storage = "3.7.0"
}
