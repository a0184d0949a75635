// What the transport tells its host.

import RaftCore
import Replica

/// How much an operator should care.
package enum PeerNoteLevel: Sendable, Equatable { case info, warning, error }

/// The host's side of the transport. Called on the transport's event loop; nothing here may block.
package protocol PeerInbox: AnyObject, Sendable {
    /// Messages of one read, in the order sent. `from` is the authenticated sender and every
    /// message's own; `to` is this member.
    func received(_ messages: [PeerMessage], from: NodeID)
    /// Messages can be sent to this peer from now on.
    func peerReachable(_ id: NodeID)
    /// What was sent last is probably lost, and nothing will get through until `peerReachable`. Said of
    /// every member at first.
    func peerUnreachable(_ id: NodeID)
    /// A snapshot has arrived whole and is durable under `file`, which the host owns from now on.
    func snapshotArrived(_ message: Message, file: String, from: NodeID)
    /// A member of this cluster says that this member was removed.
    func removedFromCluster(_ text: String)
    /// For the log.
    func note(_ level: PeerNoteLevel, _ text: String)
    /// What a joiner may know.
    func lookup() -> ClusterDescription
}
