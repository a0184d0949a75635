import SwiftProtobuf
import Wire

// Answers about changes of the membership, and of who leads.

/// A member was added, and how to start it.
struct MemberAddReport: Report {
    static var formats: Set<OutputFormat> { [.simple, .json, .protobuf] }

    let name: String
    let peerURLs: [String]
    let reply: Etcdserverpb_MemberAddResponse

    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line(
            "Member \(GoText.hex16(reply.member.id)) added to cluster "
                + GoText.hex16(reply.header.clusterID))
        output.line("")
        for line in Self.environment(
            name: name, id: reply.member.id, peerURLs: peerURLs, members: reply.members)
        {
            output.line(line)
        }
    }

    /// The variables that a new member's process is started with.
    static func environment(
        name: String, id: UInt64, peerURLs: [String], members: [Etcdserverpb_Member]
    ) -> [String] {
        let pairs = members.flatMap { member in
            member.peerUrls.map { "\(member.id == id ? name : member.name)=\($0)" }
        }
        return [
            "ETCD_NAME=\(GoText.quote(name))",
            "ETCD_INITIAL_CLUSTER=\(GoText.quote(pairs.joined(separator: ",")))",
            "ETCD_INITIAL_ADVERTISE_PEER_URLS=\(GoText.quote(peerURLs.joined(separator: ",")))",
            "ETCD_INITIAL_CLUSTER_STATE=\"existing\"",
        ]
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if reply.hasHeader { object.set("header", reply.header.json) }
        if reply.hasMember { object.set("member", reply.member.json) }
        object.unlessEmpty("members", reply.members.map(\.json))
        return .object(object)
    }

    func protobuf() throws -> [UInt8] { try reply.serializedBytes() }
}

/// A member was removed, updated or promoted.
struct MemberChangeReport: Report {
    static var formats: Set<OutputFormat> { [.simple, .json, .protobuf] }

    let id: UInt64
    /// "removed from", say.
    let what: String
    let header: Etcdserverpb_ResponseHeader
    let members: [Etcdserverpb_Member]
    let reply: any SwiftProtobuf.Message

    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line("Member \(GoText.hex16(id)) \(what) cluster \(GoText.hex16(header.clusterID))")
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        object.set("header", header.json)
        object.unlessEmpty("members", members.map(\.json))
        return .object(object)
    }

    func protobuf() throws -> [UInt8] { try reply.serializedBytes() }
}

/// Leadership has moved.
struct MoveLeaderReport: Report {
    static var formats: Set<OutputFormat> { [.simple, .json, .protobuf] }

    let from: UInt64
    let to: UInt64
    let reply: Etcdserverpb_MoveLeaderResponse

    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line(
            "Leadership transferred from \(String(from, radix: 16)) to \(String(to, radix: 16))")
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if reply.hasHeader { object.set("header", reply.header.json) }
        return .object(object)
    }

    func protobuf() throws -> [UInt8] { try reply.serializedBytes() }
}
