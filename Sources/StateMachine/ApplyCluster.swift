// Alarms and the cluster version.

import KVCodec
import MVCC

extension StateMachine {
    /// Alarms that stand, by member and type.
    package var alarms: [Alarm] { alarmSet.all }

    /// AlarmRequest {1 action, 2 memberID, 3 alarm}. As in etcd, activating NONE and taking back
    /// what does not stand are answered with an empty list; an unknown action or an unknown alarm
    /// to activate, which etcd does not survive or stores, is `malformed`.
    func applyAlarm(_ body: UnsafeRawBufferPointer) throws(ApplyError) -> ApplyResult {
        let fields = try NumberFields(body)
        guard let action = AlarmAction(rawValue: Int32(truncatingIfNeeded: fields[1])) else {
            throw .malformed
        }
        let member = UInt64(bitPattern: fields[2])
        let number = Int32(truncatingIfNeeded: fields[3])
        let type = AlarmType(rawValue: number)

        var listed: [Alarm] = []
        var effect = ApplyEffect.none
        switch action {
        case .get:
            listed = number == 0 ? alarmSet.all : alarmSet.all.filter { $0.type == type }
        case .activate:
            guard let type else {
                if number == 0 { break }
                throw .malformed
            }
            let alarm = Alarm(member: member, type: type)
            if !alarmSet.contains(alarm), alarmSet.all.count >= configuration.maximumAlarms {
                throw .tooManyAlarms
            }
            if alarmSet.insert(alarm) {
                persistence.alarms.insert(alarm)
                effect = .alarmChanged(member: member, type: type, active: true)
            }
            listed = [alarm]
        case .deactivate:
            guard let type else { break }
            let alarm = Alarm(member: member, type: type)
            if alarmSet.remove(alarm) {
                persistence.alarms.insert(alarm)
                effect = .alarmChanged(member: member, type: type, active: false)
                listed = [alarm]
            }
        }
        var reply = ByteWriter(capacity: 0)
        for alarm in listed {
            reply.nested(2) { alarm.encode(into: &$0) }
        }
        return ApplyResult(revision: store.currentRevision, body: reply.bytes, effect: effect)
    }

    func applyClusterVersion(_ body: UnsafeRawBufferPointer) throws(ApplyError) -> ApplyResult {
        guard let version = Self.checkedVersion(body) else { throw .malformed }
        if version == clusterVersion { return ApplyResult(revision: store.currentRevision) }
        clusterVersion = version
        persistence.clusterVersion = true
        return ApplyResult(
            revision: store.currentRevision, effect: .clusterVersionChanged(version))
    }

    /// Three numbers of at most four digits with dots between; nil for anything else.
    static func checkedVersion(_ bytes: UnsafeRawBufferPointer) -> String? {
        guard bytes.count <= 14, let text = String(validating: bytes, as: UTF8.self) else {
            return nil
        }
        let parts = text.utf8.split(
            separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        let isNumber = { (part: Substring.UTF8View) in
            (1...4).contains(part.count)
                && part.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        }
        return parts.count == 3 && parts.allSatisfy(isNumber) ? text : nil
    }
}
