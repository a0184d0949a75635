import FoundationEssentials
import Wire

// Answers of the KV service.

extension Etcdserverpb_RangeResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        for kv in kvs { kv.simple(&output, style) }
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        for kv in kvs { kv.fields(&output, prefix: "") }
        output.line("\"More\" : \(more)")
        output.line("\"Count\" : \(count)")
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if hasHeader { object.set("header", header.json) }
        object.unlessEmpty("kvs", kvs.map(\.json))
        object.ifTrue("more", more)
        object.unlessZero("count", count)
        return .object(object)
    }
}

extension Etcdserverpb_PutResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line("OK")
        if hasPrevKv { prevKv.simple(&output, style) }
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        if hasPrevKv { prevKv.fields(&output, prefix: "Prev") }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if hasHeader { object.set("header", header.json) }
        if hasPrevKv { object.set("prev_kv", prevKv.json) }
        return .object(object)
    }
}

extension Etcdserverpb_DeleteRangeResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line("\(deleted)")
        for kv in prevKvs { kv.simple(&output, style) }
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        output.line("\"Deleted\" : \(deleted)")
        for kv in prevKvs { kv.fields(&output, prefix: "Prev") }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if hasHeader { object.set("header", header.json) }
        object.unlessZero("deleted", deleted)
        object.unlessEmpty("prev_kvs", prevKvs.map(\.json))
        return .object(object)
    }
}

extension Etcdserverpb_TxnResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        output.line(succeeded ? "SUCCESS" : "FAILURE")
        for response in responses {
            output.line("")
            response.report?.simple(&output, style)
        }
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        output.line("\"Succeeded\" : \(succeeded)")
        for response in responses { response.report?.fields(&output) }
    }

    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        if hasHeader { object.set("header", header.json) }
        object.ifTrue("succeeded", succeeded)
        object.unlessEmpty("responses", responses.map { $0.json(style) })
        return .object(object)
    }
}

extension Etcdserverpb_ResponseOp {
    fileprivate var report: (any Report)? {
        switch response {
        case .responseRange(let reply): reply
        case .responsePut(let reply): reply
        case .responseDeleteRange(let reply): reply
        case .responseTxn(let reply): reply
        case nil: nil
        }
    }

    fileprivate func json(_ style: OutputStyle) -> JSONValue {
        let name =
            switch response {
            case .responseRange: "response_range"
            case .responsePut: "response_put"
            case .responseDeleteRange: "response_delete_range"
            case .responseTxn, nil: "response_txn"
            }
        var choice = JSONObject()
        if let report { choice.set(name, report.json(style)) }
        var object = JSONObject()
        object.set("Response", report == nil ? .null : .object(choice))
        return .object(object)
    }
}

extension Etcdserverpb_WatchResponse: Report {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        for event in events {
            output.line(event.type.text)
            if event.hasPrevKv { event.prevKv.simple(&output, style) }
            event.kv.simple(&output, style)
        }
    }

    func fields(_ output: inout Output) {
        output.fields(header)
        for event in events {
            output.line("\"Type\" : \(event.type.text)")
            if event.hasPrevKv { event.prevKv.fields(&output, prefix: "Prev") }
            event.kv.fields(&output, prefix: "")
        }
    }

    /// The members of the Go client's own type, which unlike others shows what is empty.
    func json(_ style: OutputStyle) -> JSONValue {
        var object = JSONObject()
        object.set("Header", header.json)
        object.set("Events", .array(events.map(\.json)))
        object.set("CompactRevision", .integer(compactRevision))
        object.set("Canceled", .bool(canceled))
        object.set("Created", .bool(created))
        return .object(object)
    }

    func protobuf() throws -> [UInt8] {
        var shown = self
        shown.watchID = 0
        shown.cancelReason = ""
        shown.fragment = false
        return try shown.serializedBytes()
    }
}

extension Mvccpb_Event.EventType {
    var text: String {
        switch self {
        case .put: "PUT"
        case .delete: "DELETE"
        case .UNRECOGNIZED(let number): "\(number)"
        }
    }
}

extension Mvccpb_Event {
    fileprivate var json: JSONValue {
        var object = JSONObject()
        object.unlessZero("type", Int64(type.rawValue))
        if hasKv { object.set("kv", kv.json) }
        if hasPrevKv { object.set("prev_kv", prevKv.json) }
        return .object(object)
    }
}

extension Mvccpb_KeyValue {
    func simple(_ output: inout Output, _ style: OutputStyle) {
        if style.isHex {
            if !style.valuesOnly { output.line(GoText.hexEscaped(key)) }
            output.line(GoText.hexEscaped(value))
        } else {
            if !style.valuesOnly { output.line(key) }
            output.line(value)
        }
    }

    func fields(_ output: inout Output, prefix: String) {
        output.line("\"\(prefix)Key\" : \(GoText.quote(key))")
        output.line("\"\(prefix)CreateRevision\" : \(createRevision)")
        output.line("\"\(prefix)ModRevision\" : \(modRevision)")
        output.line("\"\(prefix)Version\" : \(version)")
        output.line("\"\(prefix)Value\" : \(GoText.quote(value))")
        output.line("\"\(prefix)Lease\" : \(lease)")
    }

    var json: JSONValue {
        var object = JSONObject()
        object.unlessEmpty("key", key)
        object.unlessZero("create_revision", createRevision)
        object.unlessZero("mod_revision", modRevision)
        object.unlessZero("version", version)
        object.unlessEmpty("value", value)
        object.unlessZero("lease", lease)
        return .object(object)
    }
}
