// Keys and ranges of keys as etcd's requests spell them (etcd-parity G7).

import Glibc

/// What `key` and `range_end` of a request select.
///
/// `range_end` empty: the one key. `range_end` a single zero byte: every key from `key` on.
/// Otherwise the half-open interval; empty when `range_end <= key`.
package enum KeyRange {
    /// Compares keys as unsigned bytes; a prefix sorts first.
    @inlinable package static func compare(
        _ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer
    ) -> Int {
        let shared = Swift.min(left.count, right.count)
        if shared > 0, let a = left.baseAddress, let b = right.baseAddress {
            let order = memcmp(a, b, shared)
            if order != 0 { return Int(order) }
        }
        return left.count &- right.count
    }

    /// True when `rangeEnd` means "every key from key on".
    @inlinable package static func isOpenEnd(_ rangeEnd: UnsafeRawBufferPointer) -> Bool {
        rangeEnd.count == 1 && rangeEnd[0] == 0
    }

    /// True when `key` lies in [from, rangeEnd) by the rules above.
    @inlinable package static func contains(
        _ key: UnsafeRawBufferPointer, from: UnsafeRawBufferPointer,
        rangeEnd: UnsafeRawBufferPointer
    ) -> Bool {
        if rangeEnd.isEmpty { return compare(key, from) == 0 }
        if compare(key, from) < 0 { return false }
        return isOpenEnd(rangeEnd) || compare(key, rangeEnd) < 0
    }

    /// The range end that selects every key with this prefix: the last byte below 0xFF plus one,
    /// the rest cut; a single zero byte when there is none.
    package static func prefixEnd(_ prefix: [UInt8]) -> [UInt8] {
        var end = prefix
        while let last = end.popLast() {
            if last < 0xFF {
                end.append(last &+ 1)
                return end
            }
        }
        return [0]
    }
}
