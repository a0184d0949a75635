// An event loop's part in the replica's work.

import NIOCore
import Node

/// Runs the replica's turn at the end of the loop's round, after the sockets that were ready have been read:
/// one turn then takes all that they brought. Confined to the loop.
package final class LoopTurns: TurnScheduler, @unchecked Sendable {
    // Unchecked: named in a closure that runs on the loop, where everything else here is used too.
    private let loop: any EventLoop
    private let node: Node
    private var isScheduled = false

    package init(_ loop: any EventLoop, node: Node) {
        self.loop = loop
        self.node = node
    }

    package func scheduleTurn() {
        if isScheduled { return }
        isScheduled = true
        loop.execute { [self] in
            isScheduled = false
            node.runTurns()
        }
    }
}
