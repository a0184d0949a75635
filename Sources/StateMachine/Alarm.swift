// Alarms that stand: facts of the whole cluster that an operator must take back.

import KVCodec

/// etcdserverpb.AlarmType without NONE.
package enum AlarmType: Int32, CaseIterable, Sendable {
    /// The backend is over its quota; writes that add are refused.
    case noSpace = 1
    /// Members disagree; everything that writes is refused.
    case corrupt = 2
}

/// etcdserverpb.AlarmRequest.AlarmAction.
package enum AlarmAction: Int32, CaseIterable, Sendable {
    case get = 0
    case activate = 1
    case deactivate = 2
}

/// An alarm that stands.
package struct Alarm: Hashable, Comparable, Sendable {
    package var member: UInt64
    package var type: AlarmType

    package init(member: UInt64, type: AlarmType) {
        self.member = member
        self.type = type
    }

    package static func < (left: Alarm, right: Alarm) -> Bool {
        left.member != right.member
            ? left.member < right.member : left.type.rawValue < right.type.rawValue
    }

    /// etcdserverpb.AlarmMember {1 memberID, 2 alarm}; also the key in bucket `alarm`.
    package func encode(into writer: inout ByteWriter) {
        writer.uint64(1, member)
        writer.int64(2, Int64(type.rawValue))
    }

    /// - Throws: `malformed`.
    init(_ bytes: UnsafeRawBufferPointer) throws(ApplyError) {
        let fields = try NumberFields(bytes)
        guard let type = AlarmType(rawValue: Int32(truncatingIfNeeded: fields[2])) else {
            throw .malformed
        }
        member = UInt64(bitPattern: fields[1])
        self.type = type
    }
}

/// The alarms of the cluster, sorted.
struct AlarmSet {
    private(set) var all: [Alarm] = []
    /// Kept beside the list because every write asks.
    private(set) var noSpace = false
    private(set) var corrupt = false

    func contains(_ alarm: Alarm) -> Bool { all.contains(alarm) }

    /// - Returns: whether it was not there before.
    mutating func insert(_ alarm: Alarm) -> Bool {
        if all.contains(alarm) { return false }
        all.append(alarm)
        all.sort()
        refresh()
        return true
    }

    /// - Returns: whether it was there.
    mutating func remove(_ alarm: Alarm) -> Bool {
        guard let index = all.firstIndex(of: alarm) else { return false }
        all.remove(at: index)
        refresh()
        return true
    }

    private mutating func refresh() {
        noSpace = all.contains { $0.type == .noSpace }
        corrupt = all.contains { $0.type == .corrupt }
    }
}
