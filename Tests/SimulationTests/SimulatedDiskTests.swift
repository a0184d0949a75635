import Storage
import Testing

@testable import Simulation

@Suite struct SimulatedDiskTests {
    private var random = SimulationRandom(seed: 1)

    private func content(_ disk: SimulatedDisk, _ path: String) throws -> [UInt8] {
        let file = try disk.open(path, .read)
        var bytes = [UInt8](repeating: 0, count: Int(try disk.size(file)))
        let count = try bytes.withUnsafeMutableBytes { buffer in try disk.read(file, at: 0, into: buffer) }
        return Array(bytes.prefix(count))
    }

    @Test mutating func whatWasNotSynchronizedIsLostWithThePower() throws {
        let disk = SimulatedDisk()
        try disk.createDirectory("/d")
        let file = try disk.open("/d/a", .createNew)
        try disk.write(file, at: 0, [1, 1, 1])
        try disk.synchronize(file)
        try disk.synchronizeDirectory("/d")
        try disk.write(file, at: 1, [2])
        _ = try disk.open("/d/b", .createNew)
        disk.crash(losesPower: false, keepPerMille: 0, random: &random)
        #expect(try content(disk, "/d/a") == [1, 2, 1], "the process died, the page cache did not")
        // With no sector kept; the new name survives or not.
        disk.crash(losesPower: true, keepPerMille: 0, random: &random)
        #expect(try content(disk, "/d/a") == [1, 1, 1])
    }

    @Test mutating func aNameIsLostUntilItsDirectoryIsSynchronized() throws {
        var survivals = 0
        for _ in 0..<50 {
            let disk = SimulatedDisk()
            try disk.createDirectory("/d")
            _ = try disk.open("/d/a", .createNew)
            disk.crash(losesPower: true, keepPerMille: 1000, random: &random)
            survivals += try disk.list("/d").count
        }
        #expect((1..<50).contains(survivals))
    }

    @Test mutating func aFailedSynchronizeIsNotRepaired() throws {
        let disk = SimulatedDisk()
        try disk.createDirectory("/d")
        let file = try disk.open("/d/a", .createNew)
        try disk.synchronizeDirectory("/d")
        try disk.write(file, at: 0, [7])
        disk.fault = SimulatedDisk.Fault(after: 0, code: SimulatedDisk.inputOutputError)
        #expect(throws: DiskError.self) { try disk.synchronize(file) }
        disk.fault = nil
        try disk.synchronize(file)
        disk.crash(losesPower: true, keepPerMille: 1000, random: &random)
        #expect(try content(disk, "/d/a") == [0])
    }
}
