import CLua
import Crypto
import Foundation

/// What a run of a plugin's tests gave.
package struct PluginTestReport: Sendable {
    package struct Case: Sendable {
        package let file: String
        package let name: String
        /// Nil: passed. Else the message, which starts with file and line.
        package let failure: String?
    }

    package struct Maximum: Sendable {
        package let hook: PluginHook
        package let calls: Int
        package let instructions: UInt64
        package let microseconds: UInt64
    }

    package let plugin: String
    package var cases: [Case] = []
    package var maxima: [Maximum] = []
    package let seed: UInt64

    package var failures: [Case] { cases.filter { $0.failure != nil } }
    /// False as well when there are no tests.
    package var succeeded: Bool { !cases.isEmpty && failures.isEmpty }

    /// The report as printed by `plugin test`.
    package var text: String {
        var lines: [String] = []
        for test in cases {
            lines.append("\(test.failure == nil ? "ok   " : "FAIL ") \(test.file): \(test.name)")
            if let failure = test.failure { lines.append("      \(failure)") }
        }
        if !maxima.isEmpty {
            lines.append("")
            lines.append("hook              calls  most instructions   most µs")
            for maximum in maxima {
                func right(_ text: String, _ width: Int) -> String {
                    String(repeating: " ", count: max(0, width - text.count)) + text
                }
                let name = maximum.hook.name + String(repeating: " ", count: max(0, 16 - maximum.hook.name.count))
                lines.append(
                    name + right("\(maximum.calls)", 7) + right("\(maximum.instructions)", 19)
                        + right("\(maximum.microseconds)", 10))
            }
        }
        lines.append("")
        lines.append(
            "\(plugin): \(cases.count) tests, \(failures.count) failed" + (cases.isEmpty ? "; there are no tests" : "")
                + " (seed \(seed))")
        return lines.joined(separator: "\n") + "\n"
    }
}

/// Runs the tests of a plugin package (docs/plugin-api.md 9). Figures are taken with exact instruction counting, which
/// makes the microseconds larger than they are in a node.
package enum PluginTestRunner {
    /// Runs every `tests/*_test.lua` of the package at `path`.
    ///
    /// - Parameter updatesGolden: write golden files instead of comparing with them.
    /// - Throws: why the package cannot be read.
    package static func run(
        path: String, updatesGolden: Bool = false, seed: UInt64 = 1
    ) throws(PluginError) -> PluginTestReport {
        let package = try PluginPackage(directory: path)
        _ = try PluginManifest(package)
        var report = PluginTestReport(plugin: package.name, seed: seed)
        var maxima: [PluginHook: PluginUnderTest.Maximum] = [:]
        for file in package.files where file.path.hasPrefix("tests/") && file.path.hasSuffix("_test.lua") {
            let driver = TestDriver(package, updatesGolden: updatesGolden, seed: seed)
            report.cases.append(contentsOf: driver.run(file))
            for (hook, other) in driver.maxima {
                var maximum = maxima[hook] ?? PluginUnderTest.Maximum()
                maximum.calls += other.calls
                maximum.instructions = max(maximum.instructions, other.instructions)
                maximum.nanoseconds = max(maximum.nanoseconds, other.nanoseconds)
                maxima[hook] = maximum
            }
        }
        report.maxima = PluginHook.allCases.compactMap { hook in
            maxima[hook].map {
                PluginTestReport.Maximum(
                    hook: hook, calls: $0.calls, instructions: $0.instructions, microseconds: $0.nanoseconds / 1000)
            }
        }
        return report
    }
}

/// The VM of one test file and what its tests loaded.
final class TestDriver {
    private let package: PluginPackage
    private let updatesGolden: Bool
    private let seed: UInt64
    private var vm: OpaquePointer?
    private var plugins: [PluginUnderTest] = []
    private var keys = TestKeys()
    private var scratch: String?

    init(_ package: PluginPackage, updatesGolden: Bool, seed: UInt64) {
        self.package = package
        self.updatesGolden = updatesGolden
        self.seed = seed
    }

    deinit {
        moonraft_vm_destroy(vm)
        if let scratch { try? FileManager.default.removeItem(atPath: scratch) }
    }

    private(set) var maxima: [PluginHook: PluginUnderTest.Maximum] = [:]

    private static let budget = moonraft_budget(instructions: 500_000_000, nanoseconds: 60_000_000_000)

    func run(_ file: PluginPackage.File) -> [PluginTestReport.Case] {
        func failed(_ message: String) -> [PluginTestReport.Case] {
            [PluginTestReport.Case(file: file.path, name: "(the file itself)", failure: message)]
        }
        let functions = HostFunction.table(for: [], driver: true)
        defer { functions.deallocate() }
        var options = moonraft_vm_options()
        options.memory_bytes = 128 << 20
        options.seed = seed
        options.hook_period = 1000
        options.functions = UnsafePointer(functions.baseAddress)
        options.function_count = Int32(functions.count)
        options.host.context = Unmanaged.passUnretained(self).toOpaque()
        options.host.call = { context, id, arguments, count in
            guard let context else { return 1 }
            return Unmanaged<TestDriver>.fromOpaque(context).takeUnretainedValue().hostCall(id, arguments, count)
        }
        guard let vm = moonraft_vm_create(&options) else { return failed("out of memory") }
        self.vm = vm
        var prelude = TestPrelude.source
        let status = prelude.withUTF8 { moonraft_vm_prelude(vm, "t", $0.baseAddress, $0.count, Self.budget) }
        guard status == MOONRAFT_OK.int32 else { return failed("test library: \(text)") }
        let loaded = file.bytes.withUnsafeBufferPointer {
            moonraft_vm_load(vm, package.chunk(file), $0.baseAddress, $0.count, 1, Self.budget)
        }
        guard loaded == MOONRAFT_OK.int32 else { return failed(text) }
        var cases: [PluginTestReport.Case] = []
        for index in 0..<moonraft_vm_test_count(vm) {
            let name = String(cString: moonraft_vm_test_name(vm, index))
            let status = moonraft_vm_test_run(vm, index, Self.budget)
            cases.append(
                PluginTestReport.Case(file: file.path, name: name, failure: status == MOONRAFT_OK.int32 ? nil : text))
            for plugin in plugins { collect(plugin) }
            plugins.removeAll()
            if status == MOONRAFT_INSTRUCTIONS.int32 || status == MOONRAFT_TIME.int32 || status == MOONRAFT_MEMORY.int32
            {
                break
            }
        }
        return cases
    }

    private func collect(_ plugin: PluginUnderTest) {
        for (hook, other) in plugin.maxima {
            var maximum = maxima[hook] ?? PluginUnderTest.Maximum()
            maximum.calls += other.calls
            maximum.instructions = max(maximum.instructions, other.instructions)
            maximum.nanoseconds = max(maximum.nanoseconds, other.nanoseconds)
            maxima[hook] = maximum
        }
    }

    private var text: String {
        guard let vm else { return "" }
        let outcome = moonraft_vm_outcome(vm).pointee
        return String(decoding: UnsafeBufferPointer(start: outcome.text, count: outcome.text_count), as: UTF8.self)
    }

    // MARK: - The library's host side

    private func hostCall(_ id: Int32, _ arguments: UnsafePointer<moonraft_value>?, _ count: Int32) -> Int32 {
        guard let vm, let function = HostFunction(rawValue: id) else { return 1 }
        let a = HostArguments(base: arguments, count: Int(count))
        do throws(HostError) {
            switch function {
            case .hashSHA256: give(vm, [.text(Hex.encode(SHA256.hash(data: try a.array(0, "bytes"))))])
            case .hashHMAC:
                let key = SymmetricKey(data: try a.array(0, "key"))
                give(vm, [.text(Hex.encode(HMAC<SHA256>.authenticationCode(for: try a.array(1, "bytes"), using: key)))])
            case .testCall:
                // Failures are results, so that the library raises them at the test's line.
                do throws(HostError) {
                    give(vm, [.boolean(true)] + (try call(try a.string(0, "name"), a)))
                } catch {
                    give(vm, [.boolean(false), .text(error.message)])
                }
            default: throw HostError("not available in tests")
            }
            return 0
        } catch {
            var message = error.message
            message.withUTF8 { moonraft_vm_set_error(vm, $0.baseAddress, $0.count) }
            return 1
        }
    }

    private func give(_ vm: OpaquePointer, _ values: [LuaValue]) {
        for value in values {
            LuaEncoder.encode(value).withUnsafeBufferPointer {
                moonraft_vm_return_encoded(vm, $0.baseAddress, $0.count)
            }
        }
    }

    private func plugin(_ a: HostArguments) throws(HostError) -> PluginUnderTest {
        let number = Int(try a.integer(1, "the plugin"))
        guard plugins.indices.contains(number - 1) else { throw HostError("this plugin belongs to another test") }
        return plugins[number - 1]
    }

    private func call(_ name: String, _ a: HostArguments) throws(HostError) -> [LuaValue] {
        switch name {
        case "plugin":
            guard plugins.count < 64 else { throw HostError("more than 64 plugins in one test") }
            do {
                plugins.append(try PluginUnderTest(package, options: a.any(1), seed: seed))
            } catch {
                throw HostError("\(error)")
            }
            return [.integer(Int64(plugins.count))]
        case "authz": return [try plugin(a).decide(.authz, a.any(2), a.any(3))]
        case "admit_mutate": return [try plugin(a).decide(.admitMutate, a.any(2), a.any(3))]
        case "admit_validate": return [try plugin(a).decide(.admitValidate, a.any(2), a.any(3))]
        case "authn": return [try plugin(a).authenticate(a.any(2), a.any(3))]
        case "audit": return [try plugin(a).audit(a.any(2))]
        case "on_event": return [try plugin(a).deliver(a.any(2))]
        case "metrics_collect": return [try plugin(a).collectMetrics()]
        case "health": return [try plugin(a).health()]
        case "shutdown": return [try plugin(a).shutdown()]
        case "metric":
            var labels: [String] = []
            for i in 3..<max(3, a.count) { labels.append(try a.label(i, "label")) }
            return try plugin(a).metric(try a.string(2, "name"), labels)
        case "sink": return [.array(try plugin(a).sinks.at(try a.string(2, "path")).lines.map { .text($0) })]
        case "fail_sink":
            try plugin(a).sinks.at(try a.string(2, "path")).failure = a.isNil(3) ? nil : try a.string(3, "text")
            return []
        case "logs": return [.array(try plugin(a).log.all.map(Self.entry))]
        case "kv_put":
            try plugin(a).store.put(
                try a.array(2, "key"), try a.array(3, "value"), lease: a.isNil(4) ? 0 : try a.integer(4, "lease"))
            return []
        case "kv_delete":
            try plugin(a).store.delete(try a.array(2, "key"))
            return []
        case "advance":
            try plugin(a).clock.advance(try a.number(2, "seconds"))
            return []
        case "keyset": return [.text(try keyset(a.any(1)))]
        case "jwt": return [.text(try token(a.any(1)))]
        case "fixture":
            let name = try a.string(1, "name")
            guard let file = package.file("tests/fixtures/\(name)") else { throw HostError("no fixture \(name)") }
            return [.string(file.bytes)]
        case "golden":
            try golden(try a.string(1, "name"), try a.array(2, "text"))
            return []
        default: throw HostError("unknown function \(name)")
        }
    }

    private static func entry(_ entry: PluginLogEntry) -> LuaValue {
        .table([
            ("level", .text(entry.level.rawValue)), ("message", .text(entry.message)),
            ("fields", .table(entry.fields.map { ($0.name, .text($0.value)) })),
        ])
    }

    private func keyset(_ value: LuaValue) throws(HostError) -> String {
        keys = TestKeys()
        for item in value.items ?? [] {
            guard let id = item["kid"]?.string, let name = item["alg"]?.string,
                let algorithm = JWTAlgorithm(rawValue: name)
            else { throw HostError("a key needs kid and a known alg") }
            do { try keys.add(id: id, algorithm: algorithm) } catch {
                throw HostError("the key cannot be made: \(error)")
            }
        }
        let folder = scratch ?? NSTemporaryDirectory() + "moonraft-test-" + UUID().uuidString
        scratch = folder
        let path = "\(folder)/\(UUID().uuidString).json"
        do {
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            try Data(keys.jwks.utf8).write(to: URL(fileURLWithPath: path))
        } catch { throw HostError("\(error)") }
        return path
    }

    private func token(_ value: LuaValue) throws(HostError) -> String {
        let id = value["kid"]?.string ?? keys.keys.first?.id
        guard let entry = keys.keys.first(where: { $0.id == id }) else { throw HostError("no such key in the key set") }
        let name = value["alg"]?.string ?? entry.algorithm.rawValue
        var header: [LuaValue.Pair] = [LuaValue.Pair("alg", .text(name)), LuaValue.Pair("kid", .text(entry.id))]
        for pair in value["header"]?.pairs ?? [] {
            header.removeAll { $0.key == pair.key }
            header.append(pair)
        }
        do {
            return try TestKeys.token(
                header: LuaText.json(.map(header)), claims: LuaText.json(value["claims"] ?? .map([])), key: entry.key,
                algorithm: JWTAlgorithm(rawValue: name) ?? entry.algorithm)
        } catch { throw HostError("the token cannot be signed: \(error)") }
    }

    private func golden(_ name: String, _ text: [UInt8]) throws(HostError) {
        guard PluginVM.isSinkPath(name), !name.contains("/") else {
            throw HostError("the name of a golden file is plain")
        }
        if updatesGolden {
            let folder = "\(package.directory)/tests/fixtures"
            do {
                try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
                try Data(text).write(to: URL(fileURLWithPath: "\(folder)/\(name)"))
            } catch { throw HostError("\(error)") }
            return
        }
        guard let file = package.file("tests/fixtures/\(name)") else {
            throw HostError("no golden file \(name); run with --update to write it")
        }
        guard file.bytes != text else { return }
        let old = file.bytes.split(separator: 0x0A, omittingEmptySubsequences: false)
        let new = text.split(separator: 0x0A, omittingEmptySubsequences: false)
        let line =
            zip(old, new).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? min(old.count, new.count)
        func show(_ lines: [ArraySlice<UInt8>]) -> String {
            line < lines.count ? String(decoding: lines[line], as: UTF8.self) : "(end)"
        }
        throw HostError("\(name) line \(line + 1): got \(show(new)), expected \(show(old))")
    }
}
