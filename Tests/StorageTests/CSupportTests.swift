import CSupport
import Testing

/// The C helpers against published values, and their two forms against each other.
@Suite struct CSupportTests {
    /// RFC 3720, appendix B.4.
    @Test func checksumVectors() {
        func check(_ bytes: [UInt8], _ expected: UInt32) {
            #expect(moonraft_crc32c(0, bytes, bytes.count) == expected)
            #expect(moonraft_crc32c_software(0, bytes, bytes.count) == expected)
        }
        check([], 0)
        check(Array("123456789".utf8), 0xe306_9283)
        check([UInt8](repeating: 0, count: 32), 0x8a91_36aa)
        check([UInt8](repeating: 0xff, count: 32), 0x62a8_ab43)
        check((0..<32).map { UInt8($0) }, 0x46dd_794e)
        check((0..<32).reversed().map { UInt8($0) }, 0x113f_db5c)
    }

    @Test func instructionEqualsTables() {
        var state: UInt64 = 1
        let bytes = (0..<4096).map { _ -> UInt8 in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return UInt8(truncatingIfNeeded: state >> 33)
        }
        for start in 0..<17 {
            for length in Array(0..<70) + [255, 256, 1000, 4000] {
                bytes.withUnsafeBytes { raw in
                    let part = UnsafeRawBufferPointer(rebasing: raw[start..<start + length])
                    let seed = UInt32(truncatingIfNeeded: start &* 0x9e37_79b9)
                    let fast = moonraft_crc32c(seed, part.baseAddress, length)
                    #expect(fast == moonraft_crc32c_software(seed, part.baseAddress, length))
                    let cut = length / 3
                    let head = moonraft_crc32c(seed, part.baseAddress, cut)
                    let rest = UnsafeRawBufferPointer(rebasing: part[cut...])
                    #expect(moonraft_crc32c(head, rest.baseAddress, rest.count) == fast)
                }
            }
        }
        let word: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
        #expect(moonraft_crc32c_u64(5, 0x0807_0605_0403_0201) == moonraft_crc32c(5, word, 8))
    }

    /// Vectors of OpenBSD's and Go's bcrypt tests.
    @Test func bcryptVectors() {
        func verify(_ password: String, _ hash: String) -> Int32 {
            let bytes = Array(password.utf8)
            return moonraft_bcrypt_verify(bytes, bytes.count, hash)
        }
        let vectors = [
            ("", "$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s."),
            ("a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"),
            ("abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"),
            (
                "abcdefghijklmnopqrstuvwxyz",
                "$2a$06$.rCVZVOThsIa97pEDOxvGuRRgzG64bvtJ0938xuqzv18d3ZpQhstC"
            ),
            (
                "~!@#$%^&*()      ~!@#$%^&*()PNBFRD",
                "$2a$06$fPIsBO8qRqkjj273rfaOI.HtSV9jLDpTbZn782DC6/t7qT67P6FfO"
            ),
            ("allmine", "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga"),
        ]
        for (password, hash) in vectors {
            #expect(verify(password, hash) == 1)
            #expect(verify(password + "x", hash) == 0)
            #expect(verify(password, hash.replacingOccurrence(of: "$2a$", with: "$2b$")) == 1)
        }
        #expect(verify("a", "plain") == -1)
        #expect(verify("a", String(vectors[1].1.dropLast())) == -1)
        #expect(verify("a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfx:") == -1)
        #expect(verify("a\0b", vectors[1].1) == -1)
    }

    @Test func bcryptHashes() {
        // The salt of the vector for "allmine", decoded.
        let salt: [UInt8] = [
            0x65, 0xc9, 0x64, 0x4a, 0x1a, 0x4f, 0x65, 0xf4, 0x9a, 0x7c, 0x86, 0x9c, 0x19, 0xe4, 0x53, 0x07,
        ]
        var out = [CChar](repeating: 0, count: MOONRAFT_BCRYPT_HASH_BYTES)
        let password = Array("allmine".utf8)
        #expect(moonraft_bcrypt_hash(password, password.count, 4, salt, &out) == 0)
        #expect(out.prefix(7).map { UInt8($0) } == Array("$2a$04$".utf8))
        #expect(moonraft_bcrypt_verify(password, password.count, out) == 1)
        #expect(moonraft_bcrypt_hash(password, password.count, 3, salt, &out) == -1)
        #expect(moonraft_bcrypt_hash([97, 0], 2, 4, salt, &out) == -1)
        // Bytes above 0x7f and passwords longer than bcrypt looks at.
        let wide = [UInt8](repeating: 0xff, count: 100)
        #expect(moonraft_bcrypt_hash(wide, wide.count, 4, salt, &out) == 0)
        #expect(moonraft_bcrypt_verify(wide, 72, out) == 1)
        #expect(moonraft_bcrypt_verify(wide, 71, out) == 0)
    }

    @Test func eventDescriptor() {
        let descriptor = moonraft_eventfd_create()
        #expect(descriptor >= 0)
        #expect(moonraft_eventfd_wait(descriptor, 0) == 0)
        #expect(moonraft_eventfd_signal(descriptor) == 0)
        #expect(moonraft_eventfd_signal(descriptor) == 0)
        #expect(moonraft_eventfd_wait(descriptor, 1000) == 1)
        #expect(moonraft_eventfd_drain(descriptor) == 0)
    }

    @Test func processFigures() {
        var figures = moonraft_process_figures()
        #expect(moonraft_process_figures_read(&figures) == 0)
        #expect(figures.resident_bytes > 0 && figures.virtual_bytes > figures.resident_bytes)
        #expect(figures.open_descriptors >= 3 && figures.max_descriptors >= figures.open_descriptors)
        #expect(figures.start_time_seconds > 1_500_000_000)
        #expect(figures.cpu_user_microseconds + figures.cpu_system_microseconds > 0)
        #expect(moonraft_thread_set_name("a name longer than fifteen") == 0)
    }
}

extension String {
    fileprivate func replacingOccurrence(of old: String, with new: String) -> String {
        hasPrefix(old) ? new + dropFirst(old.count) : self
    }
}
