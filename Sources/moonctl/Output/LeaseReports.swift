import SwiftProtobuf
import Wire

// Answers of the lease service. Their JSON carries the header's members side by side with their
// own, as the Go client's types do; their protobuf is the server's message.

extension Etcdserverpb_LeaseGrantResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line("lease \(GoText.leaseID(id)) granted with TTL(\(ttl)s)")
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        output.line("\"ID\" : \(id)")
        output.line("\"TTL\" : \(ttl)")
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = header.members
        object.set("ID", .integer(id))
        object.set("TTL", .integer(ttl))
        object.set("Error", .string(error))
        return .object(object)
    }
}

/// A revocation names its lease, which the answer does not.
struct LeaseRevokeReport: Report {
    let id: Int64
    let reply: Etcdserverpb_LeaseRevokeResponse

    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line("lease \(GoText.leaseID(id)) revoked")
    }

    func fields(_ output: inout Output) { output.fields(reply.header) }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if reply.hasHeader { object.set("header", reply.header.json) }
        return .object(object)
    }

    func protobuf() throws -> [UInt8] { try reply.serializedBytes() }
}

extension Etcdserverpb_LeaseKeepAliveResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line("lease \(GoText.leaseID(id)) keepalived with TTL(\(ttl))")
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        output.line("\"ID\" : \(id)")
        output.line("\"TTL\" : \(ttl)")
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = header.members
        object.set("ID", .integer(id))
        object.set("TTL", .integer(ttl))
        return .object(object)
    }
}

/// The time a lease has left, with its keys when they were asked for.
struct LeaseTimeReport: Report {
    let reply: Etcdserverpb_LeaseTimeToLiveResponse
    let showsKeys: Bool

    func simple(_ output: inout Output, _ style: OutputStyle) {
        let name = "lease \(GoText.leaseID(reply.id))"
        if reply.grantedTtl == 0, reply.ttl == -1 {
            output.line("\(name) already expired")
            return
        }
        output.text("\(name) granted with TTL(\(reply.grantedTtl)s), remaining(\(reply.ttl)s)")
        if showsKeys {
            output.text(", attached keys([")
            output.raw(reply.keys.joined(separator: [0x20]))
            output.text("])")
        }
        output.line("")
    }

    func fields(_ output: inout Output) {
        output.fields(reply.header)
        output.line("\"ID\" : \(reply.id)")
        output.line("\"TTL\" : \(reply.ttl)")
        output.line("\"GrantedTTL\" : \(reply.grantedTtl)")
        for key in reply.keys { output.line("\"Key\" : \(GoText.quote(key))") }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = reply.header.members
        object.set("id", .integer(reply.id))
        object.set("ttl", .integer(reply.ttl))
        object.set("granted-ttl", .integer(reply.grantedTtl))
        object.set("keys", reply.keys.isEmpty ? .null : .array(reply.keys.map { .bytes($0) }))
        return .object(object)
    }

    func protobuf() throws -> [UInt8] { try reply.serializedBytes() }
}

extension Etcdserverpb_LeaseLeasesResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line("found \(leases.count) leases")
        for lease in leases { output.line(GoText.leaseID(lease.id)) }
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        for lease in leases { output.line("\"ID\" : \(lease.id)") }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = header.members
        object.set(
            "leases",
            .array(
                leases.map { lease in
                    var item = JSONObject()
                    item.set("id", .integer(lease.id))
                    return .object(item)
                }))
        return .object(object)
    }
}
