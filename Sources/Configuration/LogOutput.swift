import Logging
import Synchronization

#if canImport(Glibc)
    import Glibc
#endif

/// Where log records go: one or more file descriptors, each record written whole with one call.
///
/// A record is at most ``maximumRecordBytes``; a longer one is cut and says so. Nothing is queued: a record
/// that the system does not take (a full disk, a closed pipe) is dropped and counted, so that logging can
/// never grow memory. Safe to use from any thread; lines never mix.
package final class LogOutput: Sendable {
    /// The longest line that is written, in bytes, its end included.
    package static let maximumRecordBytes = 16 << 10

    /// Set once; Invariant: never empty.
    private let descriptors: [Int32]
    /// Descriptors that were opened here and are closed with this.
    private let owned: [Int32]
    private let lock = Mutex(())
    private let dropped = Atomic<Int>(0)

    /// Opens the outputs named in the configuration: "default" and "stderr", "stdout", or paths to append to.
    ///
    /// - Throws: an error that names the file and what the system said.
    package init(outputs: [String]) throws(ConfigurationError) {
        var descriptors: [Int32] = []
        var owned: [Int32] = []
        for output in outputs {
            switch output {
            case "default", "stderr": descriptors.append(STDERR_FILENO)
            case "stdout": descriptors.append(STDOUT_FILENO)
            default:
                let file = open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
                guard file >= 0 else {
                    let reason = String(cString: strerror(errno))
                    for descriptor in owned { close(descriptor) }
                    throw ConfigurationError(message: "log.outputs: cannot open \(output): \(reason)")
                }
                descriptors.append(file)
                owned.append(file)
            }
        }
        self.descriptors = descriptors
        self.owned = owned
    }

    deinit {
        for descriptor in owned { close(descriptor) }
    }

    /// Records that could not be written since the start, counted once for each output.
    package var droppedRecords: Int { dropped.load(ordering: .relaxed) }

    func write(_ line: [UInt8]) {
        lock.withLock { _ in
            for descriptor in descriptors where !Self.write(line, to: descriptor) {
                dropped.wrappingAdd(1, ordering: .relaxed)
            }
        }
    }

    private static func write(_ line: [UInt8], to descriptor: Int32) -> Bool {
        var offset = 0
        while offset < line.count {
            let written = line.withUnsafeBytes { bytes in
                Glibc.write(descriptor, bytes.baseAddress?.advanced(by: offset), bytes.count - offset)
            }
            if written < 0 && errno == EINTR { continue }
            guard written > 0 else { return false }
            offset += written
        }
        return true
    }
}

/// Turns the records of swift-log into lines of JSON or of `key=value` pairs on a ``LogOutput``.
///
/// Every line has `level`, `ts` (UTC, microseconds) and `msg`, then the fields in byte order of their names.
package struct StructuredLogHandler: LogHandler {
    package var logLevel: Logger.Level
    package var metadata: Logger.Metadata = [:]
    package var metadataProvider: Logger.MetadataProvider?

    private let label: String
    private let format: NodeConfiguration.Log.Format
    private let output: LogOutput
    private let now: @Sendable () -> timespec

    /// - Parameter now: the wall clock; replaced by tests.
    package init(
        label: String, level: NodeConfiguration.Log.Level, format: NodeConfiguration.Log.Format, output: LogOutput,
        now: @escaping @Sendable () -> timespec = StructuredLogHandler.wallClock
    ) {
        self.label = label
        self.logLevel = level.loggerLevel
        self.format = format
        self.output = output
        self.now = now
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        var fields = metadata
        if let provided = metadataProvider?.get() { fields.merge(provided) { $1 } }
        if let given = event.metadata { fields.merge(given) { $1 } }
        if let error = event.error { fields["error"] = .string("\(error)") }
        var line: LogLine
        switch format {
        case .json: line = .json
        case .console: line = .console
        }
        line.field("level", event.level.etcdName)
        line.field("ts", Self.text(now()))
        line.field("logger", label)
        line.field("msg", event.message.description)
        for (name, value) in fields.sorted(by: { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }) {
            line.field(name, value)
        }
        output.write(line.finish(limit: LogOutput.maximumRecordBytes))
    }

    /// The system's wall clock.
    @Sendable package static func wallClock() -> timespec {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return time
    }

    private static func text(_ time: timespec) -> String {
        var seconds = time.tv_sec
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func pad(_ number: some BinaryInteger, _ width: Int) -> String {
            let digits = String(number)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        let date = "\(pad(parts.tm_year + 1900, 4))-\(pad(parts.tm_mon + 1, 2))-\(pad(parts.tm_mday, 2))"
        let clock = "\(pad(parts.tm_hour, 2)):\(pad(parts.tm_min, 2)):\(pad(parts.tm_sec, 2))"
        return "\(date)T\(clock).\(pad(time.tv_nsec / 1000, 6))Z"
    }
}

extension NodeConfiguration.Log.Level {
    /// The level of swift-log from which records are written.
    package var loggerLevel: Logger.Level {
        switch self {
        case .debug: .debug
        case .info: .info
        case .warn: .warning
        case .error: .error
        case .panic, .fatal: .critical
        }
    }
}

extension Logger.Level {
    /// The name that etcd's logs give the level.
    fileprivate var etcdName: String {
        switch self {
        case .trace, .debug: "debug"
        case .info, .notice: "info"
        case .warning: "warn"
        case .error: "error"
        case .critical: "fatal"
        }
    }
}
