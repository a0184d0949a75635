#if canImport(Glibc)
    import Glibc
#endif
import CLua

/// The node's bounds on what manifests and bindings may ask for.
package struct PluginLimits: Sendable, Equatable {
    package var defaultInstructions: UInt64 = 200_000
    package var maximumInstructions: UInt64 = 20_000_000
    package var defaultNanoseconds: UInt64 = 50_000_000
    package var maximumNanoseconds: UInt64 = 1_000_000_000
    package var defaultMemory = 16 << 20
    package var minimumMemory = 512 << 10
    package var maximumMemory = 256 << 20
    /// A call slower than this is counted and logged.
    package var slowNanoseconds: UInt64 = 5_000_000
    /// `init` and `shutdown` have this much more than other hooks, and at least a second.
    package var initializationFactor: UInt64 = 20
    package var logLinesPerSecond = 100
    package var maximumBindings = 64
    package var maximumPrefixes = 256
    /// Identities kept for tokens, per loop.
    package var tokenCacheEntries = 4096

    package init() {}
}

/// The host's clock, replaced in tests.
package struct PluginClock: Sendable {
    /// Seconds since 1970.
    package var now: @Sendable () -> Double
    /// Seconds from an arbitrary start, never backwards.
    package var monotonic: @Sendable () -> Double

    package init(now: @escaping @Sendable () -> Double, monotonic: @escaping @Sendable () -> Double) {
        self.now = now
        self.monotonic = monotonic
    }

    package static let system = PluginClock(
        now: { moonraft_realtime_seconds() },
        monotonic: { Double(moonraft_monotonic_nanoseconds()) / 1e9 })
}

/// One line that a plugin, or the host about a plugin, wants logged.
package struct PluginLogEntry: Sendable {
    package enum Level: String, Sendable { case debug, info, warning = "warn", error }

    package let plugin: String
    package let level: Level
    package let message: String
    package let fields: [(name: String, value: String)]
}

/// What plugins are loaded into: folders, clock, log and bounds.
package struct PluginEnvironment: Sendable {
    /// Where relative paths of configuration keys of type `file` start.
    package var configurationDirectory: String
    /// Where sinks write.
    package var sinkDirectory: String
    package var limits = PluginLimits()
    package var clock = PluginClock.system
    package var log: @Sendable (PluginLogEntry) -> Void = { _ in }
    /// Opens a sink; tests replace it by memory.
    package var openSink: SinkFactory
    /// Seed of math.random in every VM.
    package var seed: UInt64 = 0
    /// The count hook's period; 1 for exact instruction counts in tests.
    package var hookPeriod: Int32 = 100

    package init(configurationDirectory: String, sinkDirectory: String) {
        self.configurationDirectory = configurationDirectory
        self.sinkDirectory = sinkDirectory
        openSink = { options throws(SinkError) in try FileSink(directory: sinkDirectory, options: options) }
    }
}

/// Opens a sink with the given options.
package typealias SinkFactory = @Sendable (SinkOptions) throws(SinkError) -> any PluginSink
