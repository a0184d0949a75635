import Glibc
import RPC

/// What the process returns to the shell; the numbers are etcdctl's (pkg/cobrautl/error.go).
enum ExitCode: Int32, Sendable {
    case error = 1
    case badConnection = 2
    /// Input of `txn` that cannot be read.
    case invalidInput = 3
    /// A flag that exists, with a value that is not offered.
    case badFeature = 4
    /// A watch that the server ended.
    case interrupted = 5
    case inputOutput = 6
    case badArguments = 128
}

/// Why a command ends without success; `Error: message` on standard error, when there is a message.
struct CommandError: Error, Sendable {
    let code: ExitCode
    let message: String?
    /// A further line that tells what to do.
    var hint: String?

    init(_ code: ExitCode, _ message: String?, hint: String? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
    }

    static func badArguments(_ message: String) -> CommandError {
        CommandError(.badArguments, message)
    }
}

extension RPCStatus {
    /// The text that etcd's Go client shows for this status: its own errors bare, the end of the
    /// time as Go's contexts call it, everything else with its code (client/v3, toErr).
    var clientText: String {
        if message.hasPrefix("etcdserver: ") { return message }
        return switch code {
        case .deadlineExceeded: "context deadline exceeded"
        case .cancelled: "context canceled"
        default: description
        }
    }
}

func exitProcess(_ code: ExitCode) -> Never { exit(code.rawValue) }
