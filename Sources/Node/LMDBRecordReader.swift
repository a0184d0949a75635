// The store's view of committed records: bucket `key` of the backend.

import Glibc
import MVCC
import Storage

/// Reads records for one thread. A backend that cannot be read stops the process: the mapping is
/// then damaged, and every answer from it would be a guess.
package final class LMDBRecordReader: RecordReader {
    private let reader: BackendReader
    private let fatal: FatalHandler
    /// Records of a scan after which others may have the processor; 0: it is not offered.
    private let recordsPerTurn: Int

    package init(_ backend: Backend, fatal: @escaping FatalHandler) throws(BackendError) {
        reader = try backend.makeReader()
        self.fatal = fatal
        recordsPerTurn = 0
    }

    /// A reader for bulk work: a scan gives the processor away every 100 µs or so. The scheduler alone would let it
    /// run for milliseconds before a thread that clients wait for, and a put passes through many of those.
    init(bulk reader: BackendReader, fatal: @escaping FatalHandler) {
        self.reader = reader
        self.fatal = fatal
        recordsPerTurn = 128
    }

    package func begin() {
        do throws(BackendError) { try reader.renew() } catch { fatal("\(error)") }
    }

    package func get(_ revision: Revision) -> UnsafeRawBufferPointer? {
        do throws(BackendError) {
            return try RevisionKey(main: revision.main, sub: revision.sub).withBytes {
                key throws(BackendError) in try reader.get(.key, key: key)
            }
        } catch {
            fatal("\(error)")
        }
    }

    package func scan(
        from: Revision, _ body: (Revision, _ isTombstone: Bool, UnsafeRawBufferPointer) -> Bool
    ) {
        do throws(BackendError) {
            // Keys order as unsigned numbers, so a negative start would lie behind every record.
            let start = RevisionKey(main: max(0, from.main), sub: max(0, from.sub))
            var turn = recordsPerTurn
            try start.withBytes { start throws(BackendError) in
                try reader.scan(.key, from: start) { key, value in
                    guard let revision = RevisionKey(key) else {
                        fatal("backend: bucket key holds a key of \(key.count) bytes")
                    }
                    turn -= 1
                    if turn == 0 {
                        turn = recordsPerTurn
                        sched_yield()
                    }
                    return body(
                        Revision(main: revision.main, sub: revision.sub), revision.isTombstone,
                        value)
                }
            }
        } catch {
            fatal("\(error)")
        }
    }

    package func end() { reader.reset() }

    package func damaged(_ reason: String) -> Never { fatal("backend: \(reason)") }
}
