// What the node needs of the transport between members. Peering implements it; a sole member has nobody to
// talk to and uses `NoPeers`.

import RaftCore
import Replica
import StateMachine
import Storage

/// The connections to the other members. Any thread.
package protocol PeerLinks: AnyObject, Sendable {
    /// Queues messages for their receivers; drops what a full queue cannot take.
    func send(_ messages: [PeerMessage])
    /// Says who the others are; those no longer named are let go.
    func setMembers(_ members: [Member], removed: [NodeID])
    /// Streams a data file; `completion` hears whether it is durable over there.
    func sendSnapshot(
        _ message: Message, source: any ByteSource, completion: @escaping @Sendable (Bool) -> Void)
    /// Sends what is left of a snapshot to this member as fast as it takes it.
    func hurrySnapshot(to peer: NodeID)
    func close()
}

/// Nobody.
package final class NoPeers: PeerLinks {
    package init() {}
    package func send(_ messages: [PeerMessage]) {}
    package func setMembers(_ members: [Member], removed: [NodeID]) {}
    package func sendSnapshot(
        _ message: Message, source: any ByteSource, completion: @escaping @Sendable (Bool) -> Void
    ) { completion(false) }
    package func hurrySnapshot(to peer: NodeID) {}
    package func close() {}
}
