// A transaction whose reply would exceed its bound is carried out and answered with an error, and
// reads no further: checked with a bound of a few bytes.

import KVCodec
import MVCC
import Testing

@testable import StateMachine

@Test func transactionRepliesAreBounded() throws {
    var configuration = StateMachineConfiguration()
    configuration.maximumReplyBytes = 64
    let machine = Machine(configuration)
    machine.put("a", String(repeating: "v", count: 100))
    var txn = ByteWriter()
    for _ in 0..<100 { txn.nested(2) { $0.nested(1) { $0.data(1, Array("a".utf8)) } } }
    txn.nested(2) { $0.nested(2) { $0.data(1, Array("b".utf8)) } }
    let result = machine.apply(Command.encode(kind: .txn, body: txn.bytes))
    #expect(result.error == .replyTooLarge)
    #expect(result.body.isEmpty)
    #expect(result.events?.events.count == 1, "the put of the transaction stands")
}
