// Another member's data file in the place of the backend's: how a snapshot that arrived is taken over. The
// file becomes the backend's by a rename, so nothing is written twice, and a crash leaves one or the other.

import CLMDB

/// A file that is in its place on disk and not yet in force: readers still see the state before, until
/// `activate`. Nothing may be written meanwhile.
package final class BackendReplacement: Sendable {
    private let environments: BackendEnvironments
    private let environment: BackendEnvironment

    init(_ environments: BackendEnvironments, _ environment: BackendEnvironment) {
        self.environments = environments
        self.environment = environment
    }

    /// A reader of the new state, already before it is in force.
    package func makeReader() throws(BackendError) -> BackendReader { try BackendReader(environment) }

    /// Puts it in force: readers see it from their next `renew` on.
    package func activate() { environments.replace(by: environment) }
}

extension Backend {
    /// Puts a data file in the place of this backend's. It must be durable, lie on the same file system, and be a
    /// file that this version wrote and nobody damaged: its checksum has been compared. What pages are
    /// found by is checked here all the same.
    ///
    /// - Parameter file: gone from its place afterwards.
    /// - Throws: before anything has changed, or with the new file in its place; the caller stops the process.
    package func replace(withFile file: String) throws(BackendError) -> BackendReplacement {
        try Self.checkFile(file)
        let disk = PosixDisk()
        let directory = file.lastIndex(of: "/").map { String(file[..<$0]) } ?? "."
        try onBackendDisk { () throws(DiskError) in
            try disk.rename(file, to: Self.dataFile(path))
            try disk.synchronizeDirectory(path)
            try disk.synchronizeDirectory(directory)
            // The new environment makes one of its own (BackendEnvironments.swift).
            try disk.remove(path + "/lock.mdb")
        }
        return BackendReplacement(environments, try Self.open(path, configuration))
    }

    /// Closes files that were replaced, as far as no reader is at work on them. To be called after
    /// `BackendReplacement.activate` and now and then, where the closing of a large file harms nobody.
    package func releaseReplaced() { environments.letGo() }
}
