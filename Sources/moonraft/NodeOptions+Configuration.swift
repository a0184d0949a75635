// From settings to the options of the parts. One place, so that it is easy to see that every
// setting goes somewhere.

import API
import Configuration
import NIOCore
import Node
import RPC
import Replica

extension NodeOptions {
    init(_ settings: NodeConfiguration) {
        self.init()
        name = settings.member.name
        dataDirectory = settings.member.dataDirectory
        initialMembers = settings.cluster.initialMembers.map {
            (name: $0.name, peerURLs: $0.peerURLs.map(\.description))
        }
        clientURLs = settings.clients.advertise.map(\.description)
        ownPeerURLs = initialMembers.first { $0.name == name }?.peerURLs ?? []
        replica.strictReconfiguration = settings.cluster.strictReconfigurationCheck
        replica.maximumLearners = settings.cluster.maximumLearners
        joinsExisting = settings.cluster.initialState == .existing
        clusterToken = settings.cluster.initialToken
        let heartbeat = max(1, settings.raft.heartbeatInterval.milliseconds)
        replica.electionTicks = Int(settings.raft.electionTimeout.milliseconds / heartbeat)
        preVote = settings.raft.preVote

        replica.tickMilliseconds = heartbeat
        replica.backendIntervalMilliseconds = settings.storage.backendBatchInterval.milliseconds
        replica.backendBatchRecords = settings.storage.backendBatchLimit
        replica.requestTimeoutMilliseconds = 5_000 + 2 * settings.raft.electionTimeout.milliseconds
        replica.compactionBatch = settings.compaction.batchLimit
        replica.compactionPauseMilliseconds = settings.compaction.sleepInterval.milliseconds
        replica.snapshotCount = UInt64(settings.raft.snapshotCount)
        replica.catchUpEntries = UInt64(settings.raft.snapshotCatchUpEntries)
        replica.maxPendingProposals = settings.limits.pendingProposals
        slowApplyNanoseconds = settings.log.slowApply.nanoseconds
        switch settings.compaction.automatic {
        case .off: replica.autoCompaction = .off
        case .periodic(let period):
            replica.autoCompaction = .periodic(milliseconds: period.milliseconds)
        case .revision(let count): replica.autoCompaction = .revision(retention: Int64(count))
        }

        wal.segmentBytes = settings.storage.walSegmentBytes
        backend.mapBytes = UInt64(settings.storage.mapBytes)
        store.rangeChunkKeys = settings.limits.rangeChunkKeys
        machine.quotaBytes = Int64(settings.storage.quotaBytes ?? -1)
        machine.leaseCheckpointIntervalMilliseconds = Int64(
            settings.lease.checkpointInterval.milliseconds)
        mailboxCapacity = settings.limits.replicaMailbox
        slowDiskNanoseconds = settings.log.slowDisk.nanoseconds
        maxEntryBytes = settings.limits.maximumRequestBytes + 1024
    }
}

extension APIOptions {
    init(_ settings: NodeConfiguration) {
        self.init()
        maxRequestBytes = settings.limits.maximumRequestBytes
        maxTxnOps = settings.limits.maximumTransactionOperations
        // ceil(1.5 × election ticks × heartbeat), as etcd.
        minimumLeaseTTLSeconds = Int64(
            (3 * settings.raft.electionTimeout.milliseconds / 2 + 999) / 1000)
        quotaBytes = settings.storage.quotaBytes.map { Int64($0) }
        progressNotifyNanoseconds = settings.watch.progressNotifyInterval.nanoseconds
        eventQueueLength = settings.limits.eventBusQueue
        maxResponseBytes = settings.limits.maximumResponseBytes
        slowRequestNanoseconds = settings.log.slowRequest.nanoseconds
    }
}

extension RPCServerConfiguration {
    init(_ settings: NodeConfiguration) {
        self.init()
        let transport = settings.transport
        maxReceiveMessageBytes = settings.limits.maximumRequestBytes + 512 * 1024
        maxConcurrentStreams = transport.maximumConcurrentStreams
        initialWindowBytes = transport.streamWindowBytes
        connectionWindowBytes = transport.connectionWindowBytes
        maxHeaderListBytes = transport.headerListBytes
        writeBufferHighWaterBytes = settings.watch.streamBufferBytes
        writeBufferLowWaterBytes = settings.watch.streamBufferBytes / 4
        maxBufferedBytesPerConnection = transport.unreadBytes
        maxResetBurst = transport.streamResetBurst
        resetsPerSecond = transport.streamResetsPerSecond
        maxControlFrameBurst = transport.controlFrameBurst
        controlFramesPerSecond = transport.controlFramesPerSecond
        handshakeTimeout = TimeAmount(transport.handshakeTimeout)
        requestReceiveTimeout = TimeAmount(transport.requestTimeout)
        idleTimeout =
            transport.idleTimeout == .zero
            ? .hours(24 * 365) : TimeAmount(transport.idleTimeout)
        drainTimeout = TimeAmount(transport.drainTimeout)
        keepaliveMinInterval = TimeAmount(settings.keepalive.minimumTime)
        keepaliveInterval =
            settings.keepalive.interval == .zero
            ? .hours(24 * 365) : TimeAmount(settings.keepalive.interval)
        keepaliveTimeout = TimeAmount(settings.keepalive.timeout)
        maxConnections = settings.limits.connections == 0 ? nil : settings.limits.connections
    }
}

extension Duration {
    /// Whole nanoseconds; 0 when negative.
    var nanoseconds: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        let (whole, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1_000_000_000)
        return overflow ? .max : whole &+ UInt64(attoseconds / 1_000_000_000)
    }

    /// Whole milliseconds; 0 when negative.
    var milliseconds: UInt64 { nanoseconds / 1_000_000 }
}

extension TimeAmount {
    init(_ duration: Duration) {
        self = .nanoseconds(Int64(clamping: duration.nanoseconds))
    }
}
