/// What the index knows of a live key without reading its value.
package struct KeyMetadata: Equatable, Sendable {
    package var createRevision: Int64
    package var modRevision: Int64
    package var modSub: Int64
    package var version: Int64
    package var lease: Int64
    /// Bytes of the encoded record.
    package var recordSize: Int

    package init(
        createRevision: Int64, modRevision: Int64, modSub: Int64, version: Int64, lease: Int64,
        recordSize: Int
    ) {
        self.createRevision = createRevision
        self.modRevision = modRevision
        self.modSub = modSub
        self.version = version
        self.lease = lease
        self.recordSize = recordSize
    }

    /// Where the record of this version is found.
    package var revision: Revision { Revision(main: modRevision, sub: modSub) }
}
