// How a member recognises the entries that it sent to the leader of the day.
//
// A forwarded command has flag 1 set in the fourth byte of its header (StateMachine/Command.swift) and 16
// bytes behind it: the run of the member that sent it and its number there, both little endian. The
// context of a membership change always begins with these 16 bytes. They mean nothing to the state
// machine. Runs are chosen at random, so a tag names its sender.

/// Who waits for an entry: request `number` of the run `run`.
package struct EntryTag: Sendable, Hashable {
    package static let size = 16
    package var run: UInt64
    package var number: UInt64

    package init(run: UInt64, number: UInt64) {
        self.run = run
        self.number = number
    }

    /// Reads the first 16 bytes; nil when there are fewer.
    package init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count >= Self.size else { return nil }
        var words: (UInt64, UInt64) = (0, 0)
        for (position, byte) in bytes.prefix(Self.size).enumerated() {
            if position < 8 {
                words.0 |= UInt64(byte) << UInt64(8 * position)
            } else {
                words.1 |= UInt64(byte) << UInt64(8 * (position - 8))
            }
        }
        run = words.0
        number = words.1
    }

    package var bytes: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.size)
        for word in [run, number] {
            for shift in stride(from: UInt64(0), to: 64, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        return bytes
    }
}

extension EntryTag {
    /// The tag of a command that was forwarded; nil for any other entry.
    package init?(command entry: [UInt8]) {
        guard entry.count >= 4 + Self.size, entry[3] & 1 == 1 else { return nil }
        self.init(entry[4..<4 + Self.size])
    }
}
