/// Counters of one event loop since start. Read them on that loop, or through
/// `RPCServer.statistics`.
package struct ServerStatistics: Sendable {
    /// Bytes read from and written to sockets.
    package var bytesIn: UInt64 = 0
    package var bytesOut: UInt64 = 0
    package var connectionsAccepted: UInt64 = 0
    package var connectionsOpen: Int = 0
    package var streamsOpen: Int = 0
    /// Connections ended for breaking a limit.
    package var connectionsRefused: UInt64 = 0
    /// Requests that named no known method.
    package var unknownMethods: UInt64 = 0
    /// Calls begun, by method number.
    package var started: [UInt64]
    /// Calls ended, at `method * 17 + code`.
    package var handled: [UInt64]
    /// Messages received and sent, by method number.
    package var messagesReceived: [UInt64]
    package var messagesSent: [UInt64]

    init(methodCount: Int) {
        started = Array(repeating: 0, count: methodCount)
        handled = Array(repeating: 0, count: methodCount * 17)
        messagesReceived = Array(repeating: 0, count: methodCount)
        messagesSent = Array(repeating: 0, count: methodCount)
    }

    /// Sums the counters of two loops.
    package mutating func add(_ other: ServerStatistics) {
        bytesIn &+= other.bytesIn
        bytesOut &+= other.bytesOut
        connectionsAccepted &+= other.connectionsAccepted
        connectionsOpen += other.connectionsOpen
        streamsOpen += other.streamsOpen
        connectionsRefused &+= other.connectionsRefused
        unknownMethods &+= other.unknownMethods
        Self.add(&started, other.started)
        Self.add(&handled, other.handled)
        Self.add(&messagesReceived, other.messagesReceived)
        Self.add(&messagesSent, other.messagesSent)
    }

    private static func add(_ sums: inout [UInt64], _ values: [UInt64]) {
        while sums.count < values.count { sums.append(0) }
        for (index, value) in values.enumerated() { sums[index] &+= value }
    }
}
