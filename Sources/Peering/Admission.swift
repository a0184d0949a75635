// Who may connect, as a pure decision. Both sides decide: the acceptor over the hello, the dialler over
// the welcome, so that a stranger behind a member's URL harms nobody.

import RaftCore

/// Whom a member knows.
struct PeerDirectory {
    var members: Set<NodeID> = []
    var removed: Set<NodeID> = []
}

/// The outcome for a peer that may connect.
struct Admitted: Equatable {
    /// Something an operator should know.
    var warning: String?
}

enum Admission {
    /// Decides over what a dialler said.
    static func acceptor(
        _ hello: Greeting, own: PeerIdentity, directory: PeerDirectory, policy: PluginPolicy
    ) throws(Refusal) -> Admitted {
        let peer = hello.sender
        try versions(peer, own)
        if hello.purpose == .lookup {
            // A joiner knows neither cluster nor ids; a token that it has must be ours.
            try tokens(peer, own)
            return Admitted()
        }
        try cluster(peer, own)
        guard hello.targetID == own.memberID else {
            throw Refusal(
                code: .targetMismatch,
                text: "\(peer.description) wants to reach member \(hex(hello.targetID)), this is \(own.description)")
        }
        if directory.removed.contains(peer.memberID) {
            throw Refusal(
                code: .removed,
                text: removalText(peer.description, own))
        }
        guard directory.members.contains(peer.memberID) else {
            throw Refusal(
                code: .unknownMember,
                text: """
                    \(peer.description) is not a member of the cluster \(hex(own.clusterID)) as far as \
                    \(own.description) knows
                    """)
        }
        return try plugins(peer, own, policy)
    }

    /// What a removed member is told.
    static func removalText(_ member: String, _ own: PeerIdentity) -> String {
        "\(member) was removed from the cluster \(hex(own.clusterID)); told by \(own.description)"
    }

    /// Decides over what an acceptor answered.
    static func dialler(
        _ welcome: Greeting, target: NodeID, own: PeerIdentity, policy: PluginPolicy
    ) throws(Refusal) -> Admitted {
        let peer = welcome.sender
        try versions(peer, own)
        try cluster(peer, own)
        guard peer.memberID == target else {
            throw Refusal(
                code: .targetMismatch,
                text: "\(peer.description) answers in place of member \(hex(target))")
        }
        return try plugins(peer, own, policy)
    }

    private static func versions(_ peer: PeerIdentity, _ own: PeerIdentity) throws(Refusal) {
        let text = """
            product version mismatch: \(peer.description) has \(printable(peer.productVersion)) and needs at \
            least \(printable(peer.lowestVersion)), this member (\(own.name)) has \(own.productVersion) and \
            needs at least \(own.lowestVersion)
            """
        guard let theirs = ReleaseVersion(peer.productVersion),
            let theirLowest = ReleaseVersion(peer.lowestVersion),
            let ours = ReleaseVersion(own.productVersion),
            let ourLowest = ReleaseVersion(own.lowestVersion),
            theirs >= ourLowest, ours >= theirLowest
        else { throw Refusal(code: .productVersion, text: text) }
    }

    private static func cluster(_ peer: PeerIdentity, _ own: PeerIdentity) throws(Refusal) {
        guard peer.clusterID != own.clusterID else { return try tokens(peer, own) }
        var text = """
            cluster id mismatch: \(peer.description) has cluster \(hex(peer.clusterID)), this member \
            (\(own.name)) has \(hex(own.clusterID))
            """
        if peer.clusterToken != own.clusterToken {
            text += "; the cluster tokens are \"\(printable(peer.clusterToken))\" and \"\(own.clusterToken)\""
        }
        throw Refusal(code: .clusterMismatch, text: text)
    }

    private static func tokens(_ peer: PeerIdentity, _ own: PeerIdentity) throws(Refusal) {
        guard !peer.clusterToken.isEmpty, !own.clusterToken.isEmpty,
            peer.clusterToken != own.clusterToken
        else { return }
        throw Refusal(
            code: .tokenMismatch,
            text: """
                cluster token mismatch: \(peer.description) has "\(printable(peer.clusterToken))", this \
                member (\(own.name)) has "\(own.clusterToken)"
                """)
    }

    private static func plugins(
        _ peer: PeerIdentity, _ own: PeerIdentity, _ policy: PluginPolicy
    ) throws(Refusal) -> Admitted {
        guard peer.pluginDigest != own.pluginDigest else { return Admitted() }
        let text = """
            plugin digest mismatch: \(peer.description) has "\(printable(peer.pluginDigest))", this member \
            (\(own.name)) has "\(own.pluginDigest)"
            """
        switch policy {
        case .refuse: throw Refusal(code: .pluginMismatch, text: text)
        case .warn: return Admitted(warning: text)
        }
    }
}
