import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import RaftCore

@testable import Peering

/// Accepts connections and answers the handshake as told; after that it reads nothing.
final class SilentPeer {
    private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    private let channel: any Channel

    init(
        id: NodeID, cluster: UInt64 = clusterID, refusal: Refusal? = nil, answers: Bool = true
    ) throws {
        var own = identity(id)
        own.clusterID = cluster
        let greeting = Greeting(purpose: .messages, sender: own, targetID: 1, refusal: refusal)
        let answer = frame(refusal == nil ? .welcome : .refusal, greeting.encoded())
        channel = try ServerBootstrap(group: group)
            .childChannelOption(.autoRead, value: false)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Answerer(answer: answers ? answer : []))
                }
            }
            .bind(host: "127.0.0.1", port: 0).wait()
    }

    var url: String { "http://127.0.0.1:\(channel.localAddress?.port ?? 0)" }

    func close() {
        try? channel.close().wait()
        try? group.syncShutdownGracefully()
    }

    private final class Answerer: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer
        let answer: [UInt8]
        init(answer: [UInt8]) { self.answer = answer }

        func channelActive(context: ChannelHandlerContext) {
            context.writeAndFlush(wrapOutboundOut(ByteBuffer(bytes: answer)), promise: nil)
        }
    }
}
