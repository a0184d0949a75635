/// Bytes that stay the same while they are read, such as a file that nobody writes. Any thread.
package protocol ByteSource: AnyObject, Sendable {
    var byteCount: UInt64 { get }

    /// Fills `buffer` from `offset`; all of it lies within `byteCount`.
    func read(
        at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws(DiskError)
}
