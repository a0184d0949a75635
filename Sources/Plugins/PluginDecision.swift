/// The gRPC codes that a hook's denial can have.
package enum DenyCode: Int, Sendable {
    case invalidArgument = 3
    case permissionDenied = 7
    case resourceExhausted = 8
    case failedPrecondition = 9

    /// The name a script uses; permission denied belongs to authz and has none.
    init?(name: Substring.UTF8View) {
        if name.elementsEqual("invalid_argument".utf8) {
            self = .invalidArgument
        } else if name.elementsEqual("failed_precondition".utf8) {
            self = .failedPrecondition
        } else if name.elementsEqual("resource_exhausted".utf8) {
            self = .resourceExhausted
        } else {
            return nil
        }
    }
}

/// The outcome of a chain of hooks.
package enum Decision: Sendable, Equatable {
    /// Goes on. Warnings are for the trailing metadata `moonraft-plugin-warning`; mostly there are none.
    case allow(warnings: [String])
    /// Answer this now. `text` is complete, as the client shall see it.
    case deny(code: DenyCode, text: String)

    package static let allow = Decision.allow(warnings: [])

    package var isAllowed: Bool {
        if case .allow = self { return true }
        return false
    }
}

/// What one hook of one plugin decided on one request, for the audit record.
package struct DecisionRecord: Sendable {
    package enum Verdict: UInt8, Sendable {
        case allow, deny, error, skipped, changed
        /// A denial in mode `warn` or `audit`.
        case wouldDeny

        package var name: String {
            switch self {
            case .allow: "allow"
            case .deny: "deny"
            case .error: "error"
            case .skipped: "skipped"
            case .changed: "changed"
            case .wouldDeny: "would_deny"
            }
        }
    }

    /// Texts that most records do not have.
    package final class Detail: Sendable {
        /// The plugin's reason, or the failure.
        package let text: String
        package let annotations: [(name: String, value: String)]

        init(text: String, annotations: [(name: String, value: String)]) {
            self.text = text
            self.annotations = annotations
        }
    }

    package let plugin: LoadedPlugin
    package let hook: PluginHook
    package let verdict: Verdict
    package let microseconds: UInt32
    package let detail: Detail?
}
