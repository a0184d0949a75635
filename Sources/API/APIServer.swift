// Puts the services of every event loop together and runs the server around them.

import Logging
import NIOCore
import NIOPosix
import Node
import Peering
import RPC
import Synchronization

/// The gRPC and HTTP server of a node.
package final class APIServer: Sendable {
    package let rpc: RPCServer
    private let group: MultiThreadedEventLoopGroup
    private let node: Node
    private let options: APIOptions
    private let contexts: LoopContexts
    private let rangeThread: RangeThread
    private let rangeThreadHandle: OwnedThread
    private let policy: PolicyEngine?
    private let collector: MetricsCollector
    private let metricsServer = Mutex<RPCServer?>(nil)

    /// The contexts by loop index, each used on its own loop only.
    private final class LoopContexts: @unchecked Sendable {
        // Unchecked: filled while the loops are being set up, read afterwards; the contexts
        // themselves are only touched on their loops.
        var all: [LoopContext] = []
        var problem: (any Error)?
    }

    /// Builds all services. The node must be open and not started.
    package init(
        node: Node, options: APIOptions, configuration: RPCServerConfiguration, loopCount: Int,
        policy: PolicyEngine?, admin: PluginAdministration?,
        peers: @escaping @Sendable () -> [PeerCounters], logger: Logger,
        fatal: @escaping FatalHandler
    ) throws {
        self.node = node
        self.options = options
        self.policy = policy
        group = MultiThreadedEventLoopGroup(numberOfThreads: loopCount)
        let contexts = LoopContexts()
        self.contexts = contexts
        let rangeThread = RangeThread(node: node, queueLength: 256, fatal: fatal)
        self.rangeThread = rangeThread
        rangeThreadHandle = rangeThread.start()
        let slow = options.slowRequestNanoseconds
        let monitoring = Monitoring()
        let collector = MetricsCollector(
            node: node, options: options, policy: policy, admin: admin, monitoring: monitoring,
            peers: peers)
        self.collector = collector
        rpc = try RPCServer(group: group, configuration: configuration) { loop in
            do {
                let context = LoopContext(
                    node: node, loop: loop, options: options, reader: try node.makeReader(),
                    gate: try policy?.makeGate(loop: loop, node: node, options: options),
                    observer: RequestObserver(logger: logger, slowNanoseconds: slow),
                    rangeThread: rangeThread, monitoring: monitoring)
                context.hub.subscribe()
                context.followers.subscribe()
                contexts.all.append(context)
                loop.userState = context
                return Self.services(context, collector)
            } catch {
                contexts.problem = error
                return LoopServices(routes: RouteTable([]))
            }
        }
        if let problem = contexts.problem { throw problem }
        collector.loops = rpc.loops
    }

    /// Answers of the replica, one sink for each loop.
    package var sinks: [any AnswerSink] { rpc.loops.map { LoopAnswers($0) } }

    /// A second server on the same loops for `/metrics` and the health pages alone, for scrapers
    /// that must not reach the data.
    package func makeMetricsServer() throws -> RPCServer {
        let contexts = contexts
        let collector = collector
        let server = try RPCServer(group: group, configuration: rpc.configuration) { loop in
            guard let context = contexts.all.first(where: { $0.loop.index == loop.index }) else {
                preconditionFailure("no services on loop \(loop.index)")
            }
            let http = HTTPEndpoints(context, admin: nil) { collector.collect(on: $0) }
            return LoopServices(routes: RouteTable([])) { request, loop, responder in
                http.handleMonitoring(request, loop, responder)
            }
        }
        metricsServer.withLock { $0 = server }
        return server
    }

    /// Ends all connections gracefully and stops the range thread. The loops still run, so that
    /// answers and audit records on their way arrive.
    package func drain() throws {
        try metricsServer.withLock { $0 }?.close()
        try rpc.drainAndClose()
        rangeThread.stop()
        rangeThreadHandle.join()
    }

    /// Stops the loops, after what was posted to them; nothing may post to them any more.
    package func stop() throws {
        for loop in rpc.loops { try loop.eventLoop.submit {}.wait() }
        try group.syncShutdownGracefully()
    }

    // MARK: Routes

    private static func services(
        _ context: LoopContext, _ collector: MetricsCollector
    ) -> LoopServices {
        let kv = KVService(context)
        let lease = LeaseService(context)
        let maintenance = MaintenanceService(context)
        let cluster = ClusterService(context)
        let auth = AuthService(context)
        let election = ElectionService(context)
        let http = HTTPEndpoints(context, admin: collector.admin) { collector.collect(on: $0) }
        let routes = Method.allCases.map { method -> Route in
            Route(method.path, method.id, kind(method, context, kv, lease, maintenance, cluster, auth, election))
        }
        return LoopServices(routes: RouteTable(routes)) { request, loop, responder in
            http.handle(request, loop, responder)
        }
    }

    private static func kind(
        _ method: Method, _ context: LoopContext, _ kv: KVService, _ lease: LeaseService,
        _ maintenance: MaintenanceService, _ cluster: ClusterService, _ auth: AuthService,
        _ election: ElectionService
    ) -> MethodKind {
        switch method {
        case .range: .unary { kv.range($0, $1) }
        case .put: .unary { kv.put($0, $1) }
        case .deleteRange: .unary { kv.deleteRange($0, $1) }
        case .txn: .unary { kv.txn($0, $1) }
        case .compact: .unary { kv.compact($0, $1) }
        case .rangeStream: .stream { opened($0, context) { _ in RangeStreamCall(context) } }
        case .snapshot: .stream { opened($0, context) { _ in SnapshotStream(context) } }
        case .watch: .stream { opened($0, context) { call in WatchStream(context, call) } }
        case .leaseGrant: .unary { lease.grant($0, $1) }
        case .leaseRevoke: .unary { lease.revoke($0, $1) }
        case .leaseTimeToLive: .unary { lease.timeToLive($0, $1) }
        case .leaseLeases: .unary { lease.leases($0, $1) }
        case .leaseKeepAlive: .stream { opened($0, context) { _ in KeepAliveStream(context) } }
        case .status: .unary { maintenance.status($0, $1) }
        case .alarm: .unary { maintenance.alarm($0, $1) }
        case .hash: .unary { maintenance.hash($0, $1) }
        case .hashKV: .unary { maintenance.hashKV($0, $1) }
        case .defragment: .unary { maintenance.defragment($0, $1) }
        case .moveLeader: .unary { maintenance.moveLeader($0, $1) }
        case .memberAdd: .unary { cluster.memberAdd($0, $1) }
        case .memberRemove: .unary { cluster.memberRemove($0, $1) }
        case .memberUpdate: .unary { cluster.memberUpdate($0, $1) }
        case .memberPromote: .unary { cluster.memberPromote($0, $1) }
        case .memberList: .unary { cluster.memberList($0, $1) }
        case .authStatus: .unary { maintenance.authStatus($0, $1) }
        case .authenticate: .unary { auth.authenticate($0, $1) }
        case .healthCheck: .unary { HealthService.check($0, $1, context) }
        case .healthWatch: .stream { HealthService.watch($0, context) }
        case .lock: .stream { opened($0, context) { call in CandidacyCall(.lock, context, call) } }
        case .unlock: .unary { election.unlock($0, $1) }
        case .campaign: .stream { opened($0, context) { call in CandidacyCall(.campaign, context, call) } }
        case .proclaim: .unary { election.proclaim($0, $1) }
        case .leader: .unary { election.leader($0, $1) }
        case .observe: .stream { opened($0, context) { call in ObserveCall(context, call) } }
        case .resign: .unary { election.resign($0, $1) }
        default: unserved(method)
        }
    }

    private static func opened(
        _ call: ServerCall, _ context: LoopContext, _ make: (ServerCall) -> any CallHandler
    ) -> (any CallHandler)? {
        if let status = context.refusal(call) {
            call.finish(status)
            return nil
        }
        // As in etcd a unary call is asked for its leader when it begins; one that waits keeps its place.
        let isStream = Method(rawValue: call.method.rawValue)?.flow != .unary
        return isStream ? context.leaderWatch.guarding(call, make(call)) : make(call)
    }

    /// What this version does not have says so; nothing pretends.
    private static func unserved(_ method: Method) -> MethodKind {
        let status = RPCStatus(
            .unimplemented, "moonraft: \(method.name) is not implemented in this version")
        if method.flow == .unary { return .unary { call, _ in call.finish(status) } }
        return .stream { call in
            call.finish(status)
            return nil
        }
    }
}

/// Gathers the figures of all loops for a scrape.
final class MetricsCollector: @unchecked Sendable {
    // Unchecked: `loops` is set once, before the server listens.
    var loops: [ServerLoop] = []
    private let node: Node
    private let options: APIOptions
    private let policy: PolicyEngine?

    /// What `/plugins` does; nil without plugins.
    let admin: PluginAdministration?

    private let monitoring: Monitoring
    private let peers: @Sendable () -> [PeerCounters]

    init(
        node: Node, options: APIOptions, policy: PolicyEngine?, admin: PluginAdministration?,
        monitoring: Monitoring, peers: @escaping @Sendable () -> [PeerCounters]
    ) {
        self.peers = peers
        self.monitoring = monitoring
        self.node = node
        self.options = options
        self.policy = policy
        self.admin = admin
    }

    func collect(on eventLoop: any EventLoop) -> EventLoopFuture<[UInt8]> {
        let parts = loops.map { loop in
            loop.eventLoop.submit { () -> LoopFigures in
                var figures = LoopFigures(rpc: loop.statistics)
                guard let context = loop.userState as? LoopContext else { return figures }
                figures.watchStreams = context.hub.streamCount
                figures.watchers = context.hub.watcherCount
                figures.slowWatchers = context.hub.slowWatcherCount
                figures.eventsSent = context.hub.eventsSent
                figures.slowRequests = context.observer.slowRequests
                figures.pendingEvents = context.hub.pendingRevisions
                figures.clientVersions = context.clientVersions
                figures.durations = context.observer.durations
                return figures
            }
        }
        let node = node
        let options = options
        let monitoring = monitoring
        let peers = peers()
        let extra = policy?.metricsText(on: eventLoop) ?? eventLoop.makeSucceededFuture("")
        return EventLoopFuture.whenAllSucceed(parts, on: eventLoop).and(extra).map { loops, extra in
            MetricsEndpoint.text(
                node: node, options: options, loops: loops, monitoring: monitoring, peers: peers,
                extra: extra)
        }
    }
}

/// What operators can ask of the plugins over HTTP, from this machine only.
package struct PluginAdministration: Sendable {
    /// The loaded plugins as a JSON array.
    package let list: @Sendable () -> String
    /// Reloads; answers nil or why the old set stays. Called on a thread that may wait.
    package let reload: @Sendable () -> String?

    package init(
        list: @escaping @Sendable () -> String, reload: @escaping @Sendable () -> String?
    ) {
        self.list = list
        self.reload = reload
    }
}
