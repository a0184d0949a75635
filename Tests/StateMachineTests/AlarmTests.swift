// Property: alarms are raised, listed, taken back and kept as in etcd, and refuse exactly what they
// must. Method: a table of commands under each alarm.

import MVCC
import Testing

@testable import StateMachine

@Suite struct AlarmTests {
    @Test func alarmsAreRaisedListedAndTakenBack() throws {
        let machine = Machine()
        let raised = machine.alarm(.activate, .noSpace, member: 9)
        #expect(try Reply.alarms(raised.body) == ["9:1"])
        #expect(raised.effect == .alarmChanged(member: 9, type: .noSpace, active: true))
        // Again: answered, but nothing changes.
        let again = machine.alarm(.activate, .noSpace, member: 9)
        #expect(try Reply.alarms(again.body) == ["9:1"])
        #expect(again.effect == .none)

        machine.alarm(.activate, .corrupt, member: 9)
        machine.alarm(.activate, .noSpace, member: 3)
        #expect(try Reply.alarms(machine.alarm(.get, nil, member: 0).body) == ["3:1", "9:1", "9:2"])
        #expect(try Reply.alarms(machine.alarm(.get, .noSpace).body) == ["3:1", "9:1"])
        #expect(machine.state.alarms.map(\.member) == [3, 9, 9])

        let back = machine.alarm(.deactivate, .noSpace, member: 9)
        #expect(try Reply.alarms(back.body) == ["9:1"])
        #expect(back.effect == .alarmChanged(member: 9, type: .noSpace, active: false))
        #expect(try Reply.alarms(machine.alarm(.deactivate, .noSpace, member: 9).body) == [])
        #expect(try Reply.alarms(machine.alarm(.get, nil).body) == ["3:1", "9:2"])
    }

    @Test func oddRequestsAreAnsweredTheSameWayEveryTime() throws {
        let machine = Machine()
        let request = { (action: UInt8, type: UInt8) in
            machine.apply([1, 8, 0, 0, 0x08, action, 0x10, 1, 0x18, type])
        }
        #expect(request(1, 0).error == nil)
        #expect(request(1, 0).body.isEmpty)
        #expect(request(2, 0).error == nil)
        #expect(request(2, 77).error == nil)
        #expect(request(0, 77).body.isEmpty)
        #expect(request(1, 3).error == .malformed)
        #expect(request(3, 1).error == .malformed)
        #expect(machine.state.alarms.isEmpty)
    }

    @Test func theNumberOfAlarmsIsBounded() {
        var configuration = StateMachineConfiguration()
        configuration.maximumAlarms = 2
        let machine = Machine(configuration)
        #expect(machine.alarm(.activate, .noSpace, member: 1).error == nil)
        #expect(machine.alarm(.activate, .noSpace, member: 2).error == nil)
        #expect(machine.alarm(.activate, .noSpace, member: 3).error == .tooManyAlarms)
        #expect(machine.alarm(.activate, .noSpace, member: 2).error == nil)
        machine.alarm(.deactivate, .noSpace, member: 1)
        #expect(machine.alarm(.activate, .noSpace, member: 3).error == nil)
    }

    /// Error of each command under the alarms that stand.
    private func outcomes(_ machine: Machine) -> [String: ApplyError?] {
        machine.clock += 1
        return [
            "put": machine.put("a", "1").error,
            "put with unknown lease": machine.put("a", "1", lease: 99).error,
            "put without key": machine.put("", "1").error,
            "delete": machine.delete("a").error,
            "txn with put": machine.txn(Txn(then: [.put(Put("a"))])).error,
            "txn with put not taken": machine.txn(Txn(else: [.put(Put("a"))])).error,
            "txn with nested put":
                machine.txn(Txn(then: [.txn(Txn(then: [.put(Put("a"))]))])).error,
            "txn with delete": machine.txn(Txn(then: [.delete(Delete("a"))])).error,
            "txn with get": machine.txn(Txn(then: [.get(Get("a"))])).error,
            "grant": machine.grant(100 + machine.clock, ttl: 60).error,
            "revoke": machine.revoke(5).error,
            "checkpoint": machine.apply(
                Command.leaseCheckpoint([(id: 6, remainingSeconds: 3)])
            ).error,
            "compact": machine.compact(machine.store.currentRevision).error,
            "member": machine.apply(
                Command.memberUpdate(Member(id: 1, name: "m", peerURLs: [], clientURLs: []))
            ).error,
            "version": machine.apply(Command.clusterVersion("3.6.\(machine.clock)")).error,
            "alarm": machine.alarm(.get, nil).error,
        ]
    }

    private func machine() -> Machine {
        let machine = Machine()
        machine.put("z", "1")
        machine.grant(5, ttl: 60)
        machine.grant(6, ttl: 60)
        return machine
    }

    @Test func noSpaceRefusesWhatGrows() {
        let machine = machine()
        machine.alarm(.activate, .noSpace, member: 77)
        let refused = outcomes(machine).filter { $0.value == .noSpace }.keys.sorted()
        #expect(
            refused == [
                "grant", "put", "put with unknown lease", "txn with nested put", "txn with put",
                "txn with put not taken",
            ])
        // The form of a request comes first.
        #expect(outcomes(machine)["put without key"] == .keyEmpty)
        machine.alarm(.deactivate, .noSpace, member: 77)
        #expect(outcomes(machine)["put"] == .some(nil))
    }

    @Test func corruptRefusesWhatChangesKeysOrLeases() {
        let machine = machine()
        machine.alarm(.activate, .corrupt, member: 77)
        machine.alarm(.activate, .noSpace, member: 77)
        let refused = outcomes(machine).filter { $0.value == .corrupt }.keys.sorted()
        #expect(
            refused == [
                "compact", "delete", "grant", "put", "put with unknown lease", "revoke",
                "txn with delete", "txn with get", "txn with nested put", "txn with put",
                "txn with put not taken",
            ])
        #expect(machine.store.currentRevision == 2)
    }
}
