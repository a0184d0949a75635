import SwiftProtobuf
import Wire

// Answers about members, alarms and users.

extension Etcdserverpb_MemberListResponse: Report {
    static var formats: Set<OutputFormat> { [.simple, .fields, .json, .protobuf, .table] }

    func simple(_ output: inout Output, _ style: OutputStyle) {
        for row in table().rows { output.line(row.joined(separator: ", ")) }
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        for member in members {
            output.line("\"ID\" : \(member.id)")
            output.line("\"Name\" : \(GoText.quote(member.name))")
            for url in member.peerUrls { output.line("\"PeerURL\" : \(GoText.quote(url))") }
            for url in member.clientUrls { output.line("\"ClientURL\" : \(GoText.quote(url))") }
            output.line("\"IsLearner\" : \(member.isLearner)")
            output.line("")
        }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if style.isHex {
            var head = JSONObject()
            head.set("cluster_id", .string(String(header.clusterID, radix: 16)))
            head.set("member_id", .string(String(header.memberID, radix: 16)))
            head.set("raft_term", .unsigned(header.raftTerm))
            object.set("header", .object(head))
        } else if hasHeader {
            object.set("header", header.json)
        }
        object.unlessEmpty("members", members.map { style.isHex ? $0.hexJSON : $0.json })
        return .object(object)
    }

    func table() -> Table {
        var table = Table(
            headings: ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"])
        table.rows = members.map { member in
            [
                String(member.id, radix: 16), member.name.isEmpty ? "unstarted" : "started",
                member.name, member.peerUrls.joined(separator: ","),
                member.clientUrls.joined(separator: ","), "\(member.isLearner)",
            ]
        }
        return table
    }
}

extension Etcdserverpb_Member {
    var json: JSONValue {
        var object = JSONObject()
        object.unlessZero("ID", id)
        object.unlessEmpty("name", name)
        object.unlessEmpty("peerURLs", peerUrls.map { .string($0) })
        object.unlessEmpty("clientURLs", clientUrls.map { .string($0) })
        object.ifTrue("isLearner", isLearner)
        return .object(object)
    }

    /// With `--hex` etcdctl spells one name differently.
    fileprivate var hexJSON: JSONValue {
        var object = JSONObject()
        object.set("ID", .string(String(id, radix: 16)))
        object.set("name", .string(name))
        object.set("peerURLs", peerUrls.isEmpty ? .null : .array(peerUrls.map { .string($0) }))
        object.set("clientURLS", clientUrls.isEmpty ? .null : .array(clientUrls.map { .string($0) }))
        return .object(object)
    }
}

extension Etcdserverpb_AlarmResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        for alarm in alarms { output.line(alarm.text) }
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        for alarm in alarms {
            output.line("\"MemberID\" : \(alarm.memberID)")
            output.line("\"AlarmType\" : \(alarm.alarm.text)")
            output.line("")
        }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if hasHeader { object.set("header", header.json) }
        object.unlessEmpty(
            "alarms",
            alarms.map { alarm in
                var item = JSONObject()
                item.unlessZero("memberID", alarm.memberID)
                item.unlessZero("alarm", Int64(alarm.alarm.rawValue))
                return .object(item)
            })
        return .object(object)
    }
}

extension Etcdserverpb_AlarmMember {
    /// The message in protobuf's text form on one line, which ends with a space.
    fileprivate var text: String {
        var text = memberID == 0 ? "" : "memberID:\(memberID) "
        if alarm != .none { text += "alarm:\(alarm.text) " }
        return text
    }
}

extension Etcdserverpb_AlarmType {
    var text: String {
        switch self {
        case .none: "NONE"
        case .nospace: "NOSPACE"
        case .corrupt: "CORRUPT"
        case .UNRECOGNIZED(let number): "\(number)"
        }
    }
}

extension Etcdserverpb_AuthStatusResponse: Report {
    static var formats: Set<OutputFormat> { [.simple, .json, .protobuf] }

    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line("Authentication Status: \(enabled)")
        output.line("AuthRevision: \(authRevision)")
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if hasHeader { object.set("header", header.json) }
        object.ifTrue("enabled", enabled)
        object.unlessZero("authRevision", authRevision)
        return .object(object)
    }
}
