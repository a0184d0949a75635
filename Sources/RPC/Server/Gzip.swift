import CZlib

/// Takes messages apart that a client compressed (`grpc-encoding: gzip`, RFC 1952). Answers are not compressed.
enum Gzip {
    enum Failure: Error {
        /// Not whole gzip members and nothing else; the text is for the client. `inflated` bytes came out before.
        case malformed(String, inflated: Int)
        /// Longer than allowed; never more than the bound is held.
        case tooLarge
    }

    /// The bytes that `input` stands for: one or more gzip members, as Go's reader takes them.
    ///
    /// - Parameter limit: the longest result, in bytes.
    static func inflate(_ input: UnsafeRawBufferPointer, limit: Int) throws(Failure) -> [UInt8] {
        guard let base = input.baseAddress, input.count > 0 else { throw .malformed("EOF", inflated: 0) }
        // zlib remembers where its stream lies, so that must not move.
        let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
        stream.initialize(to: z_stream())
        defer { stream.deallocate() }
        // 16: gzip and nothing else; 15: any window.
        guard inflateInit2_(stream, 16 + 15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            throw .malformed("out of memory", inflated: 0)
        }
        defer { inflateEnd(stream) }
        // zlib does not write to its input; its type is from before const.
        stream.pointee.next_in = UnsafeMutablePointer(mutating: base.assumingMemoryBound(to: UInt8.self))
        stream.pointee.avail_in = UInt32(clamping: input.count)
        var output: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: min(limit + 1, max(4096, min(input.count * 4, 256 << 10))))
        while true {
            let result = piece.withUnsafeMutableBufferPointer { buffer in
                stream.pointee.next_out = buffer.baseAddress
                stream.pointee.avail_out = UInt32(clamping: buffer.count)
                return CZlib.inflate(stream, Z_NO_FLUSH)
            }
            let count = piece.count - Int(stream.pointee.avail_out)
            guard output.count + count <= limit else { throw .tooLarge }
            output.append(contentsOf: piece[..<count])
            switch result {
            case Z_OK: continue
            case Z_STREAM_END:
                if stream.pointee.avail_in == 0 { return output }
                guard inflateReset(stream) == Z_OK else {
                    throw .malformed("gzip: invalid header", inflated: output.count)
                }
            case Z_BUF_ERROR: throw .malformed("unexpected EOF", inflated: output.count)
            default:
                let text = stream.pointee.msg.map { String(cString: $0) } ?? "gzip: invalid data"
                throw .malformed(text, inflated: output.count)
            }
        }
    }
}
