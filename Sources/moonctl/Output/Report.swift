import SwiftProtobuf
import Wire

/// The names that `--write-out` takes.
enum OutputFormat: String, Sendable {
    case simple, fields, json, protobuf, table
}

/// What the printing depends on besides the answer itself.
struct OutputStyle: Sendable {
    var isHex = false
    /// Leaves the keys out of the simple format.
    var valuesOnly = false
}

/// An answer that can be printed. The texts are etcdctl's, byte for byte.
protocol Report {
    static var formats: Set<OutputFormat> { get }

    func simple(_ output: inout Output, _ style: OutputStyle)
    func fields(_ output: inout Output)
    func json(_ style: OutputStyle) -> JSONValue
    func table() -> Table
    func protobuf() throws -> [UInt8]
}

extension Report {
    static var formats: Set<OutputFormat> { [.simple, .fields, .json, .protobuf] }

    func fields(_ output: inout Output) { Self.unreachable(.fields) }
    func table() -> Table { Self.unreachable(.table) }
    func protobuf() throws -> [UInt8] { Self.unreachable(.protobuf) }

    private static func unreachable(_ format: OutputFormat) -> Never {
        preconditionFailure("\(Self.self) was asked for \(format), which it does not have")
    }

    static func require(_ format: OutputFormat) throws(CommandError) {
        if !formats.contains(format) {
            throw CommandError(.badFeature, "\(format.rawValue) not supported as output format")
        }
    }

    func write(
        _ format: OutputFormat, _ style: OutputStyle, _ output: inout Output
    ) throws(CommandError) {
        try Self.require(format)
        switch format {
        case .simple: simple(&output, style)
        case .fields: fields(&output)
        case .json: output.line(json(style).text)
        case .table: output.text(table().text)
        case .protobuf:
            do {
                output.raw(try protobuf())
            } catch {
                throw CommandError(.error, "\(error)")
            }
        }
    }
}

extension Report where Self: SwiftProtobuf.Message {
    func protobuf() throws -> [UInt8] { try serializedBytes() }
}

extension Output {
    mutating func fields(_ header: Etcdserverpb_ResponseHeader) {
        line("\"ClusterID\" : \(header.clusterID)")
        line("\"MemberID\" : \(header.memberID)")
        line("\"Revision\" : \(header.revision)")
        line("\"RaftTerm\" : \(header.raftTerm)")
    }
}

extension Etcdserverpb_ResponseHeader {
    /// The members of the header; answers of the lease service carry them without a `header` key.
    var members: JSONObject {
        var object = JSONObject()
        object.unlessZero("cluster_id", clusterID)
        object.unlessZero("member_id", memberID)
        object.unlessZero("revision", revision)
        object.unlessZero("raft_term", raftTerm)
        return object
    }

    var json: JSONValue { .object(members) }
}
