import CLua
import Configuration
import Crypto

#if canImport(Glibc)
    import Glibc
#endif

/// A plugin's folder, read once into memory: what is digested, checked and run are the same bytes.
package final class PluginPackage: Sendable {
    package struct File: Sendable {
        /// Path below the package, with `/` between parts.
        package let path: String
        package let bytes: [UInt8]
    }

    package static let maximumFiles = 256
    package static let maximumFileBytes = 256 << 10
    package static let maximumLuaBytes = 1 << 20
    package static let maximumBytes = 4 << 20
    private static let maximumDepth = 6

    package let name: String
    package let directory: String
    /// Sorted by the bytes of their paths.
    package let files: [File]
    /// `sha256:` and the hex digest of the tree.
    package let digest: String

    /// Reads the folder at `directory`.
    ///
    /// - Throws: what cannot be part of a package: links, special files, odd names, too many or too large files.
    package init(directory: String) throws(PluginError) {
        var trimmed = directory
        while trimmed.count > 1 && trimmed.hasSuffix("/") { trimmed.removeLast() }
        self.directory = trimmed
        // The folder's own name; "." and the like are resolved first.
        var resolved = trimmed
        if let real = realpath(trimmed, nil) {
            resolved = String(cString: real)
            free(real)
        }
        name = resolved.split(separator: "/").last.map(String.init) ?? ""
        guard PluginName.isValid(name) else {
            throw PluginError(file: trimmed, message: "\"\(name)\" is not a plugin name; \(PluginName.rule)")
        }
        let descriptor = open(trimmed, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else { throw PluginError(file: trimmed, message: FileReading.reason(errno)) }
        var reader = Reader(root: trimmed)
        try reader.read(directory: descriptor, prefix: "", depth: 0)
        files = reader.files.sorted { $0.path.utf8.lexicographicallyPrecedes($1.path.utf8) }
        digest = Self.digest(files)
    }

    package func file(_ path: String) -> File? { files.first { $0.path == path } }

    private static func digest(_ files: [File]) -> String {
        var hash = SHA256()
        func add(_ count: Int) {
            withUnsafeBytes(of: UInt64(count).bigEndian) { hash.update(bufferPointer: $0) }
        }
        for file in files {
            add(file.path.utf8.count)
            hash.update(data: Array(file.path.utf8))
            add(file.bytes.count)
            hash.update(data: file.bytes)
        }
        return "sha256:" + Hex.encode(hash.finalize())
    }

    /// The private modules by the name `require` takes: `lua/a/b.lua` is `NAME.a.b`.
    var modules: [(module: String, file: File)] {
        files.compactMap { file in
            guard file.path.hasPrefix("lua/"), file.path.hasSuffix(".lua") else { return nil }
            let inner = file.path.dropFirst(4).dropLast(4).replacing("/", with: ".")
            return ("\(name).\(inner)", file)
        }
    }

    /// The names a script's errors carry: the package and the path.
    func chunk(_ file: File) -> String { "@\(name)/\(file.path)" }

    private struct Reader {
        let root: String
        var files: [File] = []
        var total = 0
        var luaTotal = 0
        var folded: Set<String> = []

        /// Reads one directory; closes the descriptor.
        mutating func read(directory: Int32, prefix: String, depth: Int) throws(PluginError) {
            guard depth <= PluginPackage.maximumDepth else {
                close(directory)
                throw error(prefix, "folders are nested too deep")
            }
            guard let stream = fdopendir(directory) else {
                close(directory)
                throw error(prefix, FileReading.reason(errno))
            }
            defer { closedir(stream) }
            var names: [String] = []
            while let entry = readdir(stream) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                    pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                if name == "." || name == ".." { continue }
                names.append(name)
                guard names.count <= PluginPackage.maximumFiles else {
                    throw error(prefix, "more than \(PluginPackage.maximumFiles) files")
                }
            }
            for name in names.sorted() {
                try add(name, prefix: prefix, depth: depth, directory: dirfd(stream))
            }
        }

        private mutating func add(
            _ name: String, prefix: String, depth: Int, directory: Int32
        ) throws(PluginError) {
            let path = prefix + name
            guard Self.isValid(name, prefix: prefix) else { throw error(path, "this file name is not allowed") }
            guard folded.insert(path.lowercased()).inserted else {
                throw error(path, "another name differs only in case")
            }
            let descriptor = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
            guard descriptor >= 0 else {
                throw error(path, errno == ELOOP ? "symbolic links are refused" : FileReading.reason(errno))
            }
            var info = stat()
            guard fstat(descriptor, &info) == 0 else {
                close(descriptor)
                throw error(path, FileReading.reason(errno))
            }
            if info.st_mode & S_IFMT == S_IFDIR {
                try read(directory: descriptor, prefix: path + "/", depth: depth + 1)
                return
            }
            defer { close(descriptor) }
            guard info.st_mode & S_IFMT == S_IFREG else { throw error(path, "only regular files are allowed") }
            guard files.count < PluginPackage.maximumFiles else {
                throw error(path, "more than \(PluginPackage.maximumFiles) files")
            }
            let bytes: [UInt8]
            do {
                bytes = try FileReading.read(descriptor: descriptor, maximum: PluginPackage.maximumFileBytes)
            } catch {
                throw self.error(path, error.message)
            }
            total += bytes.count
            guard total <= PluginPackage.maximumBytes else {
                throw error(path, "the package is larger than \(PluginPackage.maximumBytes) bytes")
            }
            if path.hasSuffix(".lua") {
                luaTotal += bytes.count
                guard luaTotal <= PluginPackage.maximumLuaBytes else {
                    throw error(path, "the package has more than \(PluginPackage.maximumLuaBytes) bytes of Lua")
                }
                guard bytes.first != 0x1B else { throw error(path, "precompiled Lua is refused") }
            }
            files.append(File(path: path, bytes: bytes))
        }

        /// Plain names; Lua modules must also be names that `require` takes.
        private static func isValid(_ name: String, prefix: String) -> Bool {
            let bytes = Array(name.utf8)
            guard let first = bytes.first, bytes.count <= 100, first != UInt8(ascii: "."), first != UInt8(ascii: "-")
            else {
                return false
            }
            let plain = bytes.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                    true
                default: false
                }
            }
            guard plain, prefix.hasPrefix("lua/") else { return plain }
            let stem = name.hasSuffix(".lua") ? String(name.dropLast(4)) : name
            return stem.utf8.count <= 64
                && stem.utf8.allSatisfy {
                    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0)
                        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
                        || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: "-")
                }
        }

        private func error(_ path: String, _ message: String) -> PluginError {
            PluginError(file: path.isEmpty ? root : "\(root)/\(path)", message: message)
        }
    }
}

/// Why a plugin or a set of plugins cannot be loaded.
package struct PluginError: Error, Equatable, Sendable, CustomStringConvertible {
    package let location: TOMLLocation?
    /// The file or folder, when there is no place in TOML.
    package let file: String?
    package let message: String

    package init(file: String? = nil, message: String) {
        location = nil
        self.file = file
        self.message = message
    }

    package init(_ error: ConfigurationError) {
        location = error.location
        file = nil
        message = error.message
    }

    package init(location: TOMLLocation?, message: String) {
        self.location = location
        file = nil
        self.message = message
    }

    package var description: String {
        if let location { return "\(location): \(message)" }
        if let file { return "\(file): \(message)" }
        return message
    }
}
