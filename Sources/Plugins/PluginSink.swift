/// How a sink is opened (docs/plugin-api.md, `sink.open`).
package struct SinkOptions: Sendable, Equatable {
    /// When written lines are forced to disk.
    package enum Sync: String, Sendable { case always, batch, interval, never }

    /// Relative, below the sink directory.
    package var path: String
    package var maximumBytes = 64 << 20
    /// Seconds after which a file is rotated; 0: never.
    package var maximumAge = 0.0
    /// Old files that are kept.
    package var maximumFiles = 10
    package var mode: UInt32 = 0o600
    package var sync = Sync.batch
    package var isChained = false
    package var chainKey: [UInt8]?

    package init(path: String) { self.path = path }
}

/// Why a sink could not be opened or written.
package struct SinkError: Error, Equatable, Sendable {
    package let message: String
    package init(_ message: String) { self.message = message }
}

/// Where a plugin's lines go. Confined to the thread of the events VM.
package protocol PluginSink: AnyObject {
    /// Adds one line, without its newline, to the batch.
    func write(_ line: UnsafeRawBufferPointer, now: Double) throws(SinkError)
    /// Writes the batch out and syncs as the options say.
    func flush(now: Double) throws(SinkError)
    /// Work by time: rotation by age, interval syncs.
    func tick(now: Double) throws(SinkError)
    func close()
}
