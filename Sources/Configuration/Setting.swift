/// One setting: everything there is to know about it, in one place.
///
/// Parsing of the file, of flags and of environment variables, the errors, the effective print and the
/// reference page all work from ``all``.
package struct Setting: Sendable {
    /// What a setting may hold, and its bounds. Bounds are inclusive.
    package enum Kind: Equatable, Sendable {
        case string
        case boolean
        case integer(ClosedRange<Int>)
        case duration(ClosedRange<Duration>)
        /// Bytes.
        case size(ClosedRange<Int>)
        /// Bytes; 0 stands for the default and a negative number or "off" for no quota.
        case quota(ClosedRange<Int>)
        /// A duration, a plain number of hours or a number of revisions, depending on another setting.
        case retention
        case urls
        case strings
        case choice([String])
    }

    /// A value on its way between text and a typed property.
    package enum Value: Equatable, Sendable {
        case string(String)
        case boolean(Bool)
        case integer(Int)
        case duration(Duration)
        /// Bytes; nil is "off".
        case size(Int?)
        case urls([EndpointURL])
        case strings([String])
    }

    /// The flag of etcd with the same meaning.
    package struct Flag: Equatable, Sendable, ExpressibleByStringLiteral {
        /// Without dashes.
        package let name: String
        /// Whether a plain number after the flag means milliseconds, as in etcd.
        package let plainNumberIsMilliseconds: Bool

        package init(_ name: String, plainNumberIsMilliseconds: Bool = false) {
            self.name = name
            self.plainNumberIsMilliseconds = plainNumberIsMilliseconds
        }

        package init(stringLiteral name: String) { self.init(name) }
    }

    /// Section and name in the file, joined by a dot.
    package let key: String
    package let kind: Kind
    /// What a number counts, for kinds that do not say it themselves; empty otherwise.
    package let unit: String
    package let flag: Flag?
    /// Why the setting exists and what its default is good for.
    package let reason: String
    let read: @Sendable (NodeConfiguration) -> Value
    let write: @Sendable (inout NodeConfiguration, Value) -> Void

    /// The value a node has when nothing is said.
    package var defaultValue: Value { read(NodeConfiguration()) }

    /// The part of the key before the dot: the table in the file.
    package var section: String { String(key.prefix { $0 != "." }) }

    /// The part of the key after the dot.
    package var name: String { String(key.drop { $0 != "." }.dropFirst()) }

    /// The name that errors and help give the flag: etcd's when there is one, else the key.
    package var flagName: String { flag?.name ?? key }

    /// The environment variables that set this, ours first.
    package var environmentNames: [String] {
        var names = [Self.environmentName(prefix: "MOONRAFT", key)]
        if let flag { names.append(Self.environmentName(prefix: "ETCD", flag.name)) }
        return names
    }

    static func environmentName(prefix: String, _ name: String) -> String {
        let upper = name.uppercased().map { $0 == "-" || $0 == "." ? "_" : String($0) }.joined()
        return "\(prefix)_\(upper)"
    }
}

// MARK: - Makers, one for each type of property

extension Setting {
    typealias Path<Property> = WritableKeyPath<NodeConfiguration, Property> & Sendable

    private static func wrongKind(_ key: String, _ value: Value) -> Never {
        preconditionFailure("setting \(key) was given \(value)")
    }

    static func string(
        _ key: String, _ path: Path<String>, kind: Kind = .string, flag: Flag? = nil, _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: kind, unit: "", flag: flag, reason: reason,
            read: { .string($0[keyPath: path]) },
            write: { configuration, value in
                guard case .string(let text) = value else { wrongKind(key, value) }
                configuration[keyPath: path] = text
            })
    }

    static func boolean(
        _ key: String, _ path: Path<Bool>, flag: Flag? = nil, _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: .boolean, unit: "", flag: flag, reason: reason,
            read: { .boolean($0[keyPath: path]) },
            write: { configuration, value in
                guard case .boolean(let truth) = value else { wrongKind(key, value) }
                configuration[keyPath: path] = truth
            })
    }

    static func integer(
        _ key: String, _ path: Path<Int>, in range: ClosedRange<Int>, unit: String, flag: Flag? = nil,
        _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: .integer(range), unit: unit, flag: flag, reason: reason,
            read: { .integer($0[keyPath: path]) },
            write: { configuration, value in
                guard case .integer(let number) = value else { wrongKind(key, value) }
                configuration[keyPath: path] = number
            })
    }

    static func duration(
        _ key: String, _ path: Path<Duration>, in range: ClosedRange<Duration>, flag: Flag? = nil,
        _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: .duration(range), unit: "", flag: flag, reason: reason,
            read: { .duration($0[keyPath: path]) },
            write: { configuration, value in
                guard case .duration(let duration) = value else { wrongKind(key, value) }
                configuration[keyPath: path] = duration
            })
    }

    static func size(
        _ key: String, _ path: Path<Int>, in range: ClosedRange<Int>, flag: Flag? = nil, _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: .size(range), unit: "", flag: flag, reason: reason,
            read: { .size($0[keyPath: path]) },
            write: { configuration, value in
                guard case .size(let bytes?) = value else { wrongKind(key, value) }
                configuration[keyPath: path] = bytes
            })
    }

    static func quota(
        _ key: String, _ path: Path<Int?>, in range: ClosedRange<Int>, flag: Flag? = nil, _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: .quota(range), unit: "", flag: flag, reason: reason,
            read: { .size($0[keyPath: path]) },
            write: { configuration, value in
                guard case .size(let bytes) = value else { wrongKind(key, value) }
                configuration[keyPath: path] = bytes
            })
    }

    static func urls(
        _ key: String, _ path: Path<[EndpointURL]>, flag: Flag? = nil, _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: .urls, unit: "", flag: flag, reason: reason,
            read: { .urls($0[keyPath: path]) },
            write: { configuration, value in
                guard case .urls(let urls) = value else { wrongKind(key, value) }
                configuration[keyPath: path] = urls
            })
    }

    static func strings(
        _ key: String, _ path: Path<[String]>, flag: Flag? = nil, _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: .strings, unit: "", flag: flag, reason: reason,
            read: { .strings($0[keyPath: path]) },
            write: { configuration, value in
                guard case .strings(let texts) = value else { wrongKind(key, value) }
                configuration[keyPath: path] = texts
            })
    }

    static func choice<Choice: RawRepresentable<String> & CaseIterable & Sendable>(
        _ key: String, _ path: Path<Choice>, flag: Flag? = nil, _ reason: String
    ) -> Setting {
        Setting(
            key: key, kind: .choice(Choice.allCases.map(\.rawValue)), unit: "", flag: flag, reason: reason,
            read: { .string($0[keyPath: path].rawValue) },
            write: { configuration, value in
                guard case .string(let text) = value, let choice = Choice(rawValue: text) else {
                    wrongKind(key, value)
                }
                configuration[keyPath: path] = choice
            })
    }
}
