import Glibc

/// A file operation that failed: which, on what, and why.
package struct DiskError: Error, Equatable, Sendable {
    /// The operation that failed, named as an operator would look it up.
    package enum Operation: String, Sendable {
        case createDirectory = "create directory"
        case list
        case open
        case status = "read status of"
        case read
        case write
        case preallocate
        case synchronize
        case synchronizeDirectory = "synchronize directory"
        case rename
        case remove
        case close
        case lock
    }

    /// Why it failed.
    package enum Reason: Equatable, Sendable {
        /// The system call's `errno`.
        case system(Int32)
        /// Another process holds the lock; its process id when the lock file tells.
        case held(by: Int32?)
        /// The directory may be entered by others; its permission bits.
        case permissions(UInt32)
        /// The path is not of the kind that is needed.
        case notADirectory
        /// The file became shorter while it was read.
        case unexpectedEnd
        /// The file was closed by its owner and used again.
        case closed
        /// A restore into this data directory was interrupted.
        case incomplete
        /// A snapshot pinned so many pages that the file grew to the bound.
        case snapshotTooOld
    }

    package let operation: Operation
    package let path: String
    package let reason: Reason

    package init(_ operation: Operation, path: String, _ reason: Reason) {
        self.operation = operation
        self.path = path
        self.reason = reason
    }
}

extension DiskError: CustomStringConvertible {
    /// One line for a log: operation, path, cause, and what to do where that is known.
    package var description: String {
        switch reason {
        case .system(let code):
            return "cannot \(operation.rawValue) \"\(path)\": \(Self.text(of: code)) (errno \(code))"
        case .held(let holder):
            let who = holder.map { "process \($0)" } ?? "another process"
            return "cannot lock \"\(path)\": \(who) is using this data directory"
        case .permissions(let mode):
            let octal = String(mode, radix: 8)
            return "directory \"\(path)\" has mode 0\(octal), so others may enter it; it holds keys and "
                + "credentials and must have mode 0700: chmod 700 \"\(path)\""
        case .notADirectory:
            return "\"\(path)\" is not a directory"
        case .unexpectedEnd:
            return "cannot \(operation.rawValue) \"\(path)\": the file ends too early"
        case .closed:
            return "cannot \(operation.rawValue) \"\(path)\": it was closed"
        case .incomplete:
            return "data directory \"\(path)\" is incomplete: a restore into it was interrupted; remove it and "
                + "restore again"
        case .snapshotTooOld:
            return "cannot \(operation.rawValue) \"\(path)\": the database has grown too much since the snapshot "
                + "was taken"
        }
    }

    private static func text(of code: Int32) -> String {
        var buffer = [CChar](repeating: 0, count: 256)
        // The XSI form, which Glibc's import gives, fills the buffer with the text or a number.
        _ = strerror_r(code, &buffer, buffer.count)
        return buffer.withUnsafeBufferPointer { text in
            let bytes = text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
            return String(decoding: bytes, as: UTF8.self)
        }
    }
}
