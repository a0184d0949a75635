// Members whose settings differ, as while an operator changes them one by one, apply every entry alike.

import RaftCore
import StateMachine
import Testing

@testable import Replica

@Suite struct DifferingSettingsTests {
    private func learner(_ id: NodeID) -> MembershipChange {
        .add(Member(id: id, name: "", peerURLs: ["http://m\(id)"], clientURLs: [], isLearner: true))
    }

    @Test func theLeaderSettingBoundsTheLearnersEverywhere() throws {
        let cluster = Cluster()
        cluster.configure = { $0.replica.maximumLearners = $0.memberID == 1 ? 2 : 1 }
        try cluster.startAll()
        try cluster.elect(1)
        for id: NodeID in [11, 12, 13] {
            let asked = Asked()
            try cluster.give(.changeMembership([learner(id)], asked), to: 2)
            if id == 13 {
                #expect(asked.refusal == .tooManyLearners)
            } else {
                guard case .membershipChanged(let members)? = asked.answers.first else {
                    Issue.record("\(id): \(asked.answers)")
                    return
                }
                #expect(members.contains { $0.id == id })
            }
        }
        let members = try cluster.replica(1).machine.members
        #expect(members.filter(\.isLearner).map(\.id) == [11, 12])
        for id in cluster.ids {
            #expect(try cluster.replica(id).machine.members == members)
            #expect(try Set(cluster.replica(id).raft.confState.learners) == [11, 12])
        }
    }

    /// One list is one change: what it adds and what it takes away count together.
    @Test func learnersOfOneListAreCountedTogether() throws {
        let cluster = Cluster()
        try cluster.startAll()
        try cluster.elect(1)
        let asked = Asked()
        try cluster.give(.changeMembership([learner(11), learner(12)], asked), to: 1)
        #expect(asked.refusal == .tooManyLearners)
        let replaced = Asked()
        try cluster.give(.changeMembership([learner(11), .remove(11), learner(12)], replaced), to: 1)
        #expect(replaced.refusal == nil)
    }
}
