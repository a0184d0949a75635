// How segment files come into being. A file gets the name of a segment only when its header is
// durable.

extension WAL {
    /// Makes the file of a future segment under its temporary name.
    static func makeSpare(
        disk: any Disk, directory: String, bytes: Int
    ) throws(DiskError) -> DiskFile {
        let file = try disk.open(directory + "/" + WALFormat.spareName, .createNew)
        try disk.preallocate(file, size: UInt64(bytes))
        return file
    }

    static func writeZeros(
        _ file: DiskFile, from start: UInt64, count: UInt64, disk: any Disk
    ) throws(DiskError) {
        let zeros = [UInt8](repeating: 0, count: Int(min(count, UInt64(preparationStepBytes))))
        var left = count
        while left > 0 {
            let part = min(left, UInt64(zeros.count))
            try zeros.withUnsafeBufferPointer { buffer throws(DiskError) in
                let bytes = UnsafeRawBufferPointer(buffer)
                try disk.write(
                    file, at: start + count - left,
                    UnsafeRawBufferPointer(rebasing: bytes[..<Int(part)]))
            }
            left -= part
        }
    }

    /// Turns the spare file into the segment with this header: content first, then the name.
    static func name(
        _ spare: DiskFile, _ header: WALSegmentHeader, disk: any Disk, directory: String
    ) throws(DiskError) -> DiskFile {
        try disk.write(spare, at: 0, header.encoded().bytes)
        try disk.synchronize(spare)
        let path = directory + "/" + header.name
        try disk.rename(directory + "/" + WALFormat.spareName, to: path)
        #if MOONRAFT_MUTATIONS
            if StorageMutation.isOn(.segmentNameNotDurable) {
                return DiskFile(descriptor: spare.descriptor, path: path)
            }
        #endif
        try disk.synchronizeDirectory(directory)
        return DiskFile(descriptor: spare.descriptor, path: path)
    }
}
