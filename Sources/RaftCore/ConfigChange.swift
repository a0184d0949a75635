// The membership change and its bytes in the log. The bytes are part of the replicated format:
//
//   offset 0  version, 1
//   offset 1  transition: 0 automatic, 1 joint with automatic leave, 2 joint with explicit leave
//   offset 2  number of steps n, 0…64
//   offset 3  n × { kind: 0 add voter, 1 add learner, 2 remove; id: 8 bytes, little endian }
//   then      context: all remaining bytes, meaning known to the host only

/// A change of the membership, carried by an entry and in force once that entry is applied.
///
/// No steps at all means: leave the joint configuration.
package struct ConfigChange: Sendable, Equatable {
    /// The most steps in one change; enough to replace a large cluster at once.
    package static let maxChanges = 64

    /// How the change gets from the old membership to the new one.
    package enum Transition: UInt8, Sendable, Equatable {
        /// Directly for one step, otherwise jointly with automatic leave.
        case automatic = 0
        /// Jointly, and the leader leaves by itself.
        case jointImplicit = 1
        /// Jointly, and the host proposes to leave.
        case jointExplicit = 2
    }

    /// What happens to one member.
    package enum StepKind: UInt8, Sendable, Equatable {
        case addVoter = 0
        case addLearner = 1
        case remove = 2
    }

    /// One member's part of a change.
    package struct Step: Sendable, Equatable {
        package var kind: StepKind
        package var id: NodeID

        /// Makes a step for the member `id`.
        package init(_ kind: StepKind, _ id: NodeID) {
            self.kind = kind
            self.id = id
        }
    }

    package var transition: Transition
    package var changes: [Step]
    /// Opaque to the core, for instance the new member's addresses.
    package var context: [UInt8]

    /// Makes a change of the given steps.
    package init(_ changes: [Step], transition: Transition = .automatic, context: [UInt8] = []) {
        self.transition = transition
        self.changes = changes
        self.context = context
    }

    /// The change that ends a joint configuration.
    package static let leaveJoint = ConfigChange([])

    /// Whether this change ends a joint configuration.
    package var isLeaveJoint: Bool { changes.isEmpty }

    /// Whether the change passes through a joint configuration.
    package var needsJoint: Bool { transition != .automatic || changes.count > 1 }
}

/// Why bytes are not a membership change.
package enum ConfigChangeDecodingError: Error, Sendable, Equatable {
    case truncated
    case unknownVersion(UInt8)
    case unknownTransition(UInt8)
    case unknownStep(UInt8)
    case tooManyChanges(Int)
}

extension ConfigChange {
    private static let version: UInt8 = 1
    private static let headerBytes = 3
    private static let stepBytes = 9

    /// The bytes for the log. At most `maxChanges` steps are allowed.
    package func encoded() -> [UInt8] {
        precondition(changes.count <= Self.maxChanges, "change has \(changes.count) steps")
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.headerBytes + changes.count * Self.stepBytes + context.count)
        bytes += [Self.version, transition.rawValue, UInt8(changes.count)]
        for step in changes {
            bytes.append(step.kind.rawValue)
            for shift in stride(from: UInt64(0), to: 64, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: step.id >> shift))
            }
        }
        return bytes + context
    }

    /// Reads the bytes of a log entry; they may come from a peer, so nothing is taken for granted.
    package init(decoding bytes: [UInt8]) throws(ConfigChangeDecodingError) {
        guard bytes.count >= Self.headerBytes else { throw .truncated }
        guard bytes[0] == Self.version else { throw .unknownVersion(bytes[0]) }
        guard let transition = Transition(rawValue: bytes[1]) else {
            throw .unknownTransition(bytes[1])
        }
        let count = Int(bytes[2])
        guard count <= Self.maxChanges else { throw .tooManyChanges(count) }
        let end = Self.headerBytes + count * Self.stepBytes
        guard bytes.count >= end else { throw .truncated }
        var changes: [Step] = []
        for start in stride(from: Self.headerBytes, to: end, by: Self.stepBytes) {
            guard let kind = StepKind(rawValue: bytes[start]) else { throw .unknownStep(bytes[start]) }
            var id: UInt64 = 0
            for offset in (1...8).reversed() { id = id << 8 | UInt64(bytes[start + offset]) }
            changes.append(Step(kind, id))
        }
        self.init(changes, transition: transition, context: Array(bytes[end...]))
    }
}
