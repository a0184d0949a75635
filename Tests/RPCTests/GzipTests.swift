import CZlib
import Testing

@testable import RPC

/// Messages that a client compressed: taken apart within the bound, or refused with a reason.
@Suite struct GzipTests {
    /// One gzip member.
    private func compressed(_ bytes: [UInt8]) -> [UInt8] {
        var stream = z_stream()
        let size = Int32(MemoryLayout<z_stream>.size)
        guard deflateInit2_(&stream, 6, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, size) == Z_OK else {
            return []
        }
        defer { deflateEnd(&stream) }
        var input = bytes
        var output = [UInt8](repeating: 0, count: bytes.count + 100)
        input.withUnsafeMutableBufferPointer { source in
            output.withUnsafeMutableBufferPointer { target in
                stream.next_in = source.baseAddress
                stream.avail_in = UInt32(source.count)
                stream.next_out = target.baseAddress
                stream.avail_out = UInt32(target.count)
                _ = deflate(&stream, Z_FINISH)
            }
        }
        return Array(output[..<(output.count - Int(stream.avail_out))])
    }

    private func inflated(_ bytes: [UInt8], limit: Int = 1 << 20) throws(Gzip.Failure) -> [UInt8] {
        let result = bytes.withUnsafeBytes { bytes in
            Result { () throws(Gzip.Failure) in try Gzip.inflate(bytes, limit: limit) }
        }
        return try result.get()
    }

    @Test func whatWasCompressedComesBack() throws {
        for size in [0, 1, 100, 4095, 4096, 4097, 70_000, 1 << 20] {
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* $0 >> 7) }
            #expect(try inflated(compressed(bytes)) == bytes, "\(size)")
        }
        // Go's reader takes members one behind the other.
        #expect(try inflated(compressed([1, 2]) + compressed([]) + compressed([3])) == [1, 2, 3])
    }

    @Test func theBoundHoldsForTheResult() throws {
        let bomb = compressed([UInt8](repeating: 0, count: 1 << 20))
        #expect(bomb.count < 2000)
        #expect(try inflated(bomb, limit: 1 << 20).count == 1 << 20)
        for limit in [0, 1, 1000, (1 << 20) - 1] {
            #expect { try inflated(bomb, limit: limit) } throws: { ($0 as? Gzip.Failure)?.isTooLarge == true }
        }
        #expect { try inflated(bomb + bomb, limit: 1 << 20) } throws: { ($0 as? Gzip.Failure)?.isTooLarge == true }
    }

    /// What came out before the fault is told, for it was work all the same.
    @Test func aBombWithAWrongChecksumTellsItsSize() throws {
        var bomb = compressed([UInt8](repeating: 0, count: 1 << 20))
        bomb[bomb.count - 8] ^= 1
        #expect { try inflated(bomb) } throws: {
            if case .malformed(_, let count)? = $0 as? Gzip.Failure { count == 1 << 20 } else { false }
        }
    }

    @Test func brokenInputIsRefusedAtEveryByte() throws {
        let bytes = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        let sound = compressed(bytes)
        for end in 0..<sound.count {
            #expect { try inflated(Array(sound[..<end])) } throws: { ($0 as? Gzip.Failure)?.isTooLarge == false }
        }
        #expect { try inflated(sound + [0]) } throws: { ($0 as? Gzip.Failure)?.isTooLarge == false }
        for position in sound.indices {
            var flipped = sound
            flipped[position] ^= 0x10
            // Some bytes of the head say nothing about the content.
            if let result = try? inflated(flipped) { #expect(result == bytes, "\(position)") }
        }
    }
}

extension Gzip.Failure {
    fileprivate var isTooLarge: Bool { if case .tooLarge = self { true } else { false } }
}
