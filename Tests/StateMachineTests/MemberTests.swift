// Property: members and the cluster version are published, and never nonsense.
// Method: scenarios.

import KVCodec
import Testing

@testable import StateMachine

@Suite struct MemberTests {
    private let one = Member(
        id: 0x8E9E_05C5_2164_694D, name: "one", peerURLs: ["http://127.0.0.1:2380"],
        clientURLs: ["http://127.0.0.1:2379", "http://10.0.0.1:2379"])

    @Test func aMemberPublishesItsNameAndURLs() {
        let machine = Machine()
        let result = machine.apply(Command.memberUpdate(one))
        #expect(result.error == nil)
        #expect(result.effect == .memberUpdated(id: one.id))
        #expect(machine.state.members == [one])

        var changed = one
        changed.name = "uno"
        changed.peerURLs = []
        changed.clientURLs = ["http://127.0.0.1:4001"]
        machine.apply(Command.memberUpdate(changed))
        changed.peerURLs = one.peerURLs
        #expect(machine.state.members == [changed])
    }

    @Test func nonsenseIsMalformed() {
        let machine = Machine()
        #expect(machine.apply([1, 9, 1, 0]).error == .malformed)
        #expect(machine.apply([1, 9, 1, 0, 0x08, 1, 0x12, 2, 0xC3, 0x28]).error == .malformed)
        #expect(machine.apply([1, 9, 1, 0, 0x08, 1, 0x12, 9, 0x61]).error == .malformed)
        #expect(machine.state.members.isEmpty)
    }

    @Test func theClusterVersionIsThreeNumbers() {
        let machine = Machine()
        let result = machine.apply(Command.clusterVersion("3.6.0"))
        #expect(result.effect == .clusterVersionChanged("3.6.0"))
        #expect(machine.state.clusterVersion == "3.6.0")
        #expect(machine.apply(Command.clusterVersion("3.6.0")).effect == .none)
        for text in [
            "", "3", "3.6", "3.6.0.1", "3..0", "a.b.c", "3.6.-1", "3.6.0 ", "33333.6.0",
            "9999.9999.99999", ".6.0", "٣.6.0",
        ] {
            #expect(machine.apply(Command.clusterVersion(text)).error == .malformed, "\(text)")
        }
        #expect(machine.state.clusterVersion == "3.6.0")
        #expect(machine.apply(Command.clusterVersion("3.5.0")).error == nil)
        #expect(machine.state.clusterVersion == "3.5.0")
    }
}
