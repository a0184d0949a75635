// Messages must have etcd's field numbers and types on the wire. Each vector below is the encoding worked
// out by hand from the numbers of etcd's API; a message must encode to it and read back from it.

import Foundation
import SwiftProtobuf
import Testing

@testable import Wire

@Suite struct WireVectorTests {
    private func hex(_ bytes: Data) -> String {
        bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    private func check<Message: SwiftProtobuf.Message & Equatable>(_ message: Message, _ expected: String) throws {
        let bytes: Data = try message.serializedBytes()
        #expect(hex(bytes) == expected.filter { $0 != " " })
        #expect(try Message(serializedBytes: bytes) == message)
    }

    @Test func keysAndValues() throws {
        try check(
            Mvccpb_KeyValue.with {
                $0.key = Data("foo".utf8)
                $0.createRevision = 2
                $0.modRevision = 300
                $0.version = 1
                $0.value = Data("bar".utf8)
                $0.lease = -1
            }, "0a03666f6f 1002 18ac02 2001 2a03626172 30ffffffffffffffffff01")
        try check(
            Mvccpb_Event.with {
                $0.type = .delete
                $0.kv.key = Data("k".utf8)
                $0.prevKv.version = 1
            }, "0801 12030a016b 1a022001")
        try check(
            Etcdserverpb_PutRequest.with {
                $0.key = Data("foo".utf8)
                $0.value = Data("bar".utf8)
                $0.lease = 7
                $0.prevKv = true
                $0.ignoreValue = true
                $0.ignoreLease = true
            }, "0a03666f6f 1203626172 1807 2001 2801 3001")
        try check(
            Etcdserverpb_RangeRequest.with {
                $0.key = Data([0])
                $0.rangeEnd = Data([0])
                $0.limit = 10
                $0.revision = 5
                $0.sortOrder = .descend
                $0.sortTarget = .value
                $0.serializable = true
                $0.keysOnly = true
                $0.countOnly = true
                $0.minModRevision = 1
                $0.maxModRevision = 2
                $0.minCreateRevision = 3
                $0.maxCreateRevision = 4
            }, "0a0100 120100 180a 2005 2802 3004 3801 4001 4801 5001 5802 6003 6804")
    }

    @Test func transactions() throws {
        try check(
            Etcdserverpb_TxnRequest.with {
                $0.compare = [
                    .with {
                        $0.result = .notEqual
                        $0.target = .lease
                        $0.key = Data("k".utf8)
                        $0.lease = 0
                        $0.rangeEnd = Data("l".utf8)
                    }
                ]
                $0.success = [.with { $0.requestDeleteRange.key = Data("k".utf8) }]
                $0.failure = [.with { $0.requestTxn = .init() }]
            }, "0a0d 0803 1004 1a016b 4000 8204016c 1205 1a03 0a016b 1a02 2200")
    }

    @Test func watches() throws {
        try check(
            Etcdserverpb_WatchRequest.with {
                $0.createRequest = .with {
                    $0.key = Data("k".utf8)
                    $0.startRevision = 9
                    $0.filters = [.noput, .nodelete]
                    $0.watchID = 3
                    $0.fragment = true
                }
            }, "0a0d 0a016b 1809 2a020001 3803 4001")
        try check(
            Etcdserverpb_WatchResponse.with {
                $0.watchID = 1
                $0.canceled = true
                $0.compactRevision = 4
                $0.cancelReason = "x"
                $0.fragment = true
                $0.events = [.init()]
            }, "1001 2001 2804 320178 3801 5a00")
    }

    @Test func leasesMembersAndMaintenance() throws {
        try check(
            Etcdserverpb_LeaseGrantRequest.with {
                $0.ttl = 60
                $0.id = 5
            }, "083c 1005")
        try check(
            Etcdserverpb_Member.with {
                $0.id = 1
                $0.name = "n"
                $0.peerUrls = ["p"]
                $0.clientUrls = ["c"]
                $0.isLearner = true
            }, "0801 12016e 1a0170 220163 2801")
        try check(
            Etcdserverpb_StatusResponse.with {
                $0.version = "3"
                $0.dbSize = 1
                $0.leader = 2
                $0.raftIndex = 3
                $0.raftTerm = 4
                $0.raftAppliedIndex = 5
                $0.errors = ["e"]
                $0.dbSizeInUse = 6
                $0.isLearner = true
                $0.storageVersion = "s"
                $0.dbSizeQuota = 7
            }, "120133 1801 2002 2803 3004 3805 420165 4806 5001 5a0173 6007")
        try check(
            Etcdserverpb_AlarmRequest.with {
                $0.action = .deactivate
                $0.memberID = 1
                $0.alarm = .corrupt
            }, "0802 1001 1802")
        try check(Etcdserverpb_RangeStreamResponse.with { $0.rangeResponse.more = true }, "0a02 1801")
    }

    @Test func otherPackages() throws {
        try check(
            Authpb_Permission.with {
                $0.permType = .readwrite
                $0.key = Data("k".utf8)
            }, "0802 12016b")
        try check(
            V3electionpb_LeaderKey.with {
                $0.name = Data("n".utf8)
                $0.key = Data("k".utf8)
                $0.rev = 1
                $0.lease = 2
            }, "0a016e 12016b 1801 2002")
        try check(V3lockpb_LockResponse.with { $0.header.revision = 3 }, "0a02 1803")
        try check(Grpc_Health_V1_HealthCheckResponse.with { $0.status = .serving }, "0801")
    }
}
