/// The committed records, ordered by revision. One object per reading thread.
///
/// The Node implements it over an LMDB read transaction. A record is an encoded
/// `mvccpb.KeyValue`; a tombstone is one that holds the key only (KeyValueRecord.swift).
package protocol RecordReader: AnyObject {
    /// Starts (renews) a read transaction. Always called while the store's lock is held, so that a
    /// record released from the record buffer is visible here.
    func begin()
    /// The record at exactly this revision; valid until `end()`.
    func get(_ revision: Revision) -> UnsafeRawBufferPointer?
    /// Visits records with revision >= `from` in ascending order until `body` returns false.
    func scan(
        from: Revision, _ body: (Revision, _ isTombstone: Bool, UnsafeRawBufferPointer) -> Bool)
    /// Ends the read transaction begun last.
    func end()
    /// A record that the index names is gone, or does not decode: the medium changed under a running process. Ends it
    /// with this reason, since every answer would be a guess, and an apply that goes on would diverge.
    func damaged(_ reason: String) -> Never
}

extension RecordReader {
    package func damaged(_ reason: String) -> Never { fatalError(reason) }
}

/// A reader whose transaction begins with the first record it is asked for.
struct ReaderSession {
    let reader: RecordReader
    private(set) var isOpen = false

    @inline(__always) init(_ reader: RecordReader) { self.reader = reader }

    @inline(__always) mutating func open() {
        if isOpen { return }
        reader.begin()
        isOpen = true
    }

    @inline(__always) mutating func close() {
        if !isOpen { return }
        reader.end()
        isOpen = false
    }
}
