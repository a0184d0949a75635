import KVCodec

/// A member: etcdserverpb.Member {1 ID, 2 name, 3 peerURLs*, 4 clientURLs*, 5 isLearner}.
package struct Member: Hashable, Sendable {
    package var id: UInt64
    package var name: String
    package var peerURLs: [String]
    package var clientURLs: [String]
    package var isLearner: Bool

    package init(
        id: UInt64, name: String, peerURLs: [String], clientURLs: [String], isLearner: Bool = false
    ) {
        self.id = id
        self.name = name
        self.peerURLs = peerURLs
        self.clientURLs = clientURLs
        self.isLearner = isLearner
    }

    /// Reads a Member message.
    ///
    /// - Throws: `malformed` also for id 0 and for text that is not UTF-8.
    package init(_ bytes: UnsafeRawBufferPointer) throws(ApplyError) {
        self.init(id: 0, name: "", peerURLs: [], clientURLs: [])
        do throws(DecodeError) {
            var reader = ProtoReader(bytes)
            while let tag = try reader.next() {
                switch tag.field {
                case 1: id = try reader.uint64(tag)
                case 2: name = try Self.text(&reader, tag)
                case 3: peerURLs.append(try Self.text(&reader, tag))
                case 4: clientURLs.append(try Self.text(&reader, tag))
                case 5: isLearner = try reader.bool(tag)
                default: try reader.skip(tag)
                }
            }
        } catch {
            throw .malformed
        }
        if id == 0 { throw .malformed }
    }

    private static func text(_ reader: inout ProtoReader, _ tag: ProtoTag) throws(DecodeError)
        -> String
    {
        guard let text = String(validating: try reader.slice(tag), as: UTF8.self) else {
            throw .truncated
        }
        return text
    }

    /// Writes a Member message; also the value in bucket `members`.
    package func encode(into writer: inout ByteWriter) {
        writer.uint64(1, id)
        writer.string(2, name)
        for url in peerURLs { writer.string(3, url) }
        for url in clientURLs { writer.string(4, url) }
        writer.bool(5, isLearner)
    }
}
