import Synchronization

/// A sink in memory, for tests of plugins.
package final class MemorySink: PluginSink {
    /// What was written, seen by the test while the sink is in use.
    package final class Lines: Sendable {
        private let state = Mutex((lines: [String](), failure: String?.none))

        package init() {}
        package var lines: [String] { state.withLock { $0.lines } }
        /// Makes writes fail with this text.
        package var failure: String? {
            get { state.withLock { $0.failure } }
            set { state.withLock { $0.failure = newValue } }
        }
        func append(_ lines: [String]) { state.withLock { $0.lines.append(contentsOf: lines) } }
    }

    private let options: SinkOptions
    private let target: Lines
    private var chain: AuditChain
    private var written: AuditChain
    private var batch: [String] = []

    package init(options: SinkOptions, target: Lines) throws(SinkError) {
        if let failure = target.failure { throw SinkError(failure) }
        self.options = options
        self.target = target
        chain = AuditChain(key: options.chainKey)
        if let last = target.lines.last, let link = AuditChain.link(Array(last.utf8)[...]) { chain.resume(after: link) }
        written = chain
    }

    package func write(_ line: UnsafeRawBufferPointer, now: Double) throws(SinkError) {
        if let failure = target.failure { throw SinkError(failure) }
        if options.isChained {
            let linked = TextBuffer()
            guard chain.append(line, to: linked) else { throw SinkError("a chained sink takes JSON objects") }
            batch.append(String(decoding: linked.bytes(), as: UTF8.self))
        } else {
            batch.append(String(decoding: line, as: UTF8.self))
        }
    }

    package func flush(now: Double) throws(SinkError) {
        defer { batch.removeAll() }
        if let failure = target.failure {
            chain.restore(written)
            throw SinkError(failure)
        }
        target.append(batch)
        written = chain
    }

    package func tick(now: Double) throws(SinkError) {}
    package func close() {}
}
