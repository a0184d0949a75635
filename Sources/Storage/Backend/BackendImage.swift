// A copy of a backend as one file, as `Backend.copy` makes it and a snapshot carries it: reading it, and
// putting its content in the place of a backend's. The file must be sound: LMDB follows its pointers
// unchecked, so whoever received it has compared its checksum first.

import CLMDB

/// A copied backend, opened for reading.
package final class BackendImage {
    private let environment: BackendEnvironment
    private let reader: BackendReader

    /// Opens the file. Nothing is written, not even a lock file.
    package init(file: String) throws(BackendError) {
        environment = try BackendEnvironment(image: file)
        let transaction = try environment.begin(writing: false)
        do throws(BackendError) {
            try environment.openBuckets(transaction, creating: false)
        } catch {
            mdb_txn_abort(transaction)
            throw error
        }
        try environment.check(mdb_txn_commit(transaction), "open buckets of")
        reader = try BackendReader(environment)
        try reader.renew()
    }

    /// The value of a key, valid as long as the image.
    package func get(
        _ bucket: BackendBucket, key: String
    ) throws(BackendError) -> UnsafeRawBufferPointer? {
        let bytes = Array(key.utf8)
        return try bytes.withUnsafeBufferPointer { key throws(BackendError) in
            try reader.get(bucket, key: UnsafeRawBufferPointer(key))
        }
    }

    package func scan(
        _ bucket: BackendBucket,
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(BackendError) {
        try reader.scan(bucket, body)
    }
}

extension BackendTransaction {
    /// Puts the content of an image in the place of everything.
    package func replaceAll(with image: BackendImage) throws(BackendError) {
        for bucket in BackendBucket.allCases {
            try clear(bucket)
            var failure: BackendError?
            try image.scan(bucket) { key, value in
                do throws(BackendError) {
                    try put(bucket, key: key, value: value, append: true)
                    return true
                } catch {
                    failure = error
                    return false
                }
            }
            if let failure { throw failure }
        }
    }
}
