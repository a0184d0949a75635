// How a member without data asks an existing cluster who belongs to it, before anything else runs.

import NIOCore
import NIOPosix
import RaftCore

/// Why no member of a list told about its cluster.
package struct ClusterLookupError: Error, CustomStringConvertible, Sendable {
    /// One line a URL: what went wrong there.
    package var attempts: [String]

    package var description: String {
        attempts.isEmpty
            ? "no peer URL to ask" : "no member answers: " + attempts.joined(separator: "; ")
    }
}

/// Asks the members at `urls` in turn; the first answer counts. Waits at most `timeout` for each. Not on
/// an event loop.
///
/// - Parameter identity: what is known of this member; cluster and member id may be 0.
package func lookupCluster(
    at urls: [String], identity: PeerIdentity, configuration: PeerConfiguration = .init(),
    timeout: TimeAmount = .seconds(5)
) throws(ClusterLookupError) -> ClusterDescription {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    // The thread ends by itself; an answer that is at hand need not wait for it.
    defer { group.shutdownGracefully { _ in } }
    let loop = group.next()
    var attempts: [String] = []
    for url in urls {
        let dialog = LookupDialog(identity: identity, result: loop.makePromise())
        let connected = dialPeer(url, loop: loop, configuration: configuration)
        connected.whenComplete { result in
            switch result {
            case .success(let connection): dialog.begin(connection)
            case .failure(let error): dialog.end(.failure(error))
            }
        }
        let timer = loop.scheduleTask(in: timeout) { dialog.end(.failure(LookupFailure(text: "timed out"))) }
        defer { timer.cancel() }
        do {
            return try dialog.result.futureResult.wait()
        } catch {
            attempts.append("\(url): \(error)")
        }
    }
    throw ClusterLookupError(attempts: attempts)
}

private struct LookupFailure: Error, CustomStringConvertible {
    let text: String
    var description: String { text }
}

/// One question and its answer. Confined to the event loop.
private final class LookupDialog: PeerConnectionOwner, @unchecked Sendable {
    let result: EventLoopPromise<ClusterDescription>
    private let identity: PeerIdentity
    private var connection: PeerConnection?
    private var isEnded = false

    init(identity: PeerIdentity, result: EventLoopPromise<ClusterDescription>) {
        self.identity = identity
        self.result = result
    }

    func begin(_ connection: PeerConnection) {
        guard !isEnded, connection.isOpen else {
            connection.close("too late")
            return end(.failure(LookupFailure(text: "the connection was closed at once")))
        }
        self.connection = connection
        connection.attach(self)
        connection.send(.hello, Greeting(purpose: .lookup, sender: identity, targetID: 0).encoded())
    }

    func received(
        _ kind: FrameKind, _ payload: UnsafeRawBufferPointer, on connection: PeerConnection
    ) {
        do throws(GreetingError) {
            switch kind {
            case .welcome:
                let welcome = try Greeting(decoding: payload, isRefusal: false)
                let cluster = ClusterDescription(
                    clusterID: welcome.sender.clusterID, members: welcome.members,
                    version: welcome.sender.productVersion)
                end(.success(cluster))
            case .refusal:
                let answer = try Greeting(decoding: payload, isRefusal: true)
                end(.failure(LookupFailure(text: "refused: \(printable(answer.refusal?.text ?? ""))")))
            default: end(.failure(LookupFailure(text: "unexpected frame of kind \(kind)")))
            }
        } catch {
            end(.failure(LookupFailure(text: error.text)))
        }
    }

    func readCompleted(on connection: PeerConnection) {}

    func becameWritable(_ connection: PeerConnection) {}

    func closed(_ connection: PeerConnection, reason: String) {
        end(.failure(LookupFailure(text: reason)))
    }

    func end(_ outcome: Result<ClusterDescription, any Error>) {
        guard !isEnded else { return }
        isEnded = true
        connection?.close("looked up")
        result.completeWith(outcome)
    }
}
