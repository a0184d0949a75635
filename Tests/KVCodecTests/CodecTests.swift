// The hand-coded codec must agree with protobuf's wire format byte for byte, and no input may trap
// it: checked by known vectors, round trips, and every truncation and single-byte change of a
// message that holds all fields.

import Testing

@testable import KVCodec

private func with<R>(_ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
    try bytes.withUnsafeBytes(body)
}

@Test func varintSizesMatchTheirEncodings() {
    var values: [UInt64] = [0, 1, UInt64.max]
    for shift in 1..<64 { values += [1 << shift, (1 << shift) - 1, (1 << shift) + 1] }
    for value in values {
        var writer = ByteWriter()
        writer.varint(value)
        #expect(writer.count == varintSize(value), "value \(value)")
        let read = with(writer.bytes) { bytes in
            var reader = ProtoReader(bytes)
            return try? reader.varint()
        }
        #expect(read == value)
    }
}

@Test func keyValueRecordHasTheKnownBytes() {
    let key: [UInt8] = Array("foo".utf8)
    let value: [UInt8] = Array("bar".utf8)
    var view = KeyValueView()
    var writer = ByteWriter()
    with(key) { k in
        with(value) { v in
            view.key = k
            view.value = v
            view.createRevision = 2
            view.modRevision = 300
            view.version = 1
            view.lease = -1
            view.encode(into: &writer)
            #expect(writer.count == view.encodedSize)
            let raw = UnsafeMutableRawPointer.allocate(byteCount: view.encodedSize, alignment: 1)
            defer { raw.deallocate() }
            view.encode(to: raw)
            #expect(Array(UnsafeRawBufferPointer(start: raw, count: view.encodedSize)) == writer.bytes)
        }
    }
    #expect(
        writer.bytes == [
            0x0A, 3, 0x66, 0x6F, 0x6F, 0x10, 2, 0x18, 0xAC, 2, 0x20, 1, 0x2A, 3, 0x62, 0x61, 0x72,
            0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1,
        ])
}

@Test func nestedMessagesOfEveryLengthClassReadBack() throws {
    for length in [0, 1, 127, 128, 16383, 16384, 70000] {
        var writer = ByteWriter()
        writer.int64(1, 7)
        writer.nested(2) { $0.raw([UInt8](repeating: 0x5A, count: length)) }
        writer.bool(3, true)
        try with(writer.bytes) { bytes in
            var reader = ProtoReader(bytes)
            _ = try reader.next()
            _ = try reader.varint()
            let tag = try #require(try reader.next())
            #expect(try reader.slice(tag).count == length)
            let last = try #require(try reader.next())
            #expect(try reader.bool(last))
            #expect(try reader.next() == nil)
        }
    }
}

private func fullTxn() -> [UInt8] {
    var txn = ByteWriter()
    txn.nested(1) {
        $0.int64(1, 1)
        $0.int64(2, 3)
        $0.data(3, Array("k".utf8))
        $0.data(7, Array("v".utf8))
        $0.data(64, Array("l".utf8))
    }
    txn.nested(2) {
        $0.nested(1) {
            $0.data(1, [1]); $0.int64(3, 9); $0.bool(7, true)
        }
    }
    txn.nested(2) {
        $0.nested(2) {
            $0.data(1, [2]); $0.data(2, [3]); $0.int64(3, 77)
        }
    }
    txn.nested(3) {
        $0.nested(3) {
            $0.data(1, [4]); $0.data(2, [0]); $0.bool(3, true)
        }
    }
    txn.nested(3) { $0.nested(4) { $0.nested(2) { $0.nested(2) { $0.data(1, [5]) } } } }
    return txn.bytes
}

@Test func transactionsDecodeWithAllTheirParts() throws {
    try with(fullTxn()) { bytes in
        let txn = try TxnRequestView(bytes)
        #expect(txn.compare.count == 1)
        #expect(txn.compare[0].value.array == Array("v".utf8))
        #expect(txn.compare[0].rangeEnd.array == Array("l".utf8))
        #expect(txn.compare[0].number(ofField: 4) == 0)
        guard case .range(let range) = txn.success[0], case .put(let put) = txn.success[1],
            case .deleteRange(let delete) = txn.failure[0], case .txn(let inner) = txn.failure[1]
        else {
            Issue.record("wrong operations")
            return
        }
        #expect(range.limit == 9 && range.serializable)
        #expect(put.lease == 77 && put.value.array == [3])
        #expect(delete.prevKV && KeyRange.isOpenEnd(delete.rangeEnd))
        #expect(inner.success.count == 1)
    }
}

@Test func noDamageToAMessageTraps() {
    let message = fullTxn()
    var refused = 0
    for cut in 0..<message.count {
        with(Array(message[..<cut])) { if (try? TxnRequestView($0)) == nil { refused += 1 } }
    }
    for position in 0..<message.count {
        for change in [0x00, 0x7F, 0x80, 0xFF] as [UInt8] {
            var damaged = message
            damaged[position] = change
            with(damaged) { if (try? TxnRequestView($0)) == nil { refused += 1 } }
        }
    }
    #expect(refused > message.count)
}

@Test func wrongWireTypesAndGroupsAndLongVarintsAreRefused() {
    let cases: [[UInt8]] = [
        [0x08, 1],  // key as a varint
        [0x0B],  // group start
        [0x0A, 5, 1],  // length beyond the end
        [0x18] + [UInt8](repeating: 0xFF, count: 10),  // eleven-byte varint
        [0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2],  // over 64 bits
        [0x00, 0],  // field number zero
        [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1],  // length 2^64-1
    ]
    for bytes in cases {
        with(bytes) { #expect((try? PutRequestView($0)) == nil, "\(bytes)") }
    }
}

@Test func unknownGroupsArePassedOver() throws {
    let key: [UInt8] = [0x0A, 1, 0x6B]
    let groups: [[UInt8]] = [
        [0xA3, 0x06, 0xA4, 0x06],  // field 100, empty
        [0xA3, 0x06, 0x08, 1, 0x12, 1, 0x78, 0xA4, 0x06],  // with fields in it
        [0xA3, 0x06, 0xAB, 0x06, 0xAC, 0x06, 0xA4, 0x06],  // with a group in it
    ]
    for group in groups {
        for bytes in [group + key, key + group] {
            with(bytes) { #expect((try? PutRequestView($0))?.key.array == [0x6B], "\(bytes)") }
        }
    }
    let broken: [[UInt8]] = [
        [0xA3, 0x06],  // never ends
        [0xA4, 0x06],  // never began
        [0xA3, 0x06, 0xAC, 0x06],  // another's end
        [0x0B, 0x0C],  // a known field as a group
        Array(repeating: [0xA3, 0x06], count: 1000).flatMap { $0 },
    ]
    for bytes in broken {
        with(key + bytes) { #expect((try? PutRequestView($0)) == nil, "\(bytes)") }
    }
}

@Test func nestingBeyondTheBoundIsRefused() {
    func nest(_ depth: Int) -> [UInt8] {
        var inner: [UInt8] = []
        for _ in 0..<depth {
            var operation = ByteWriter()
            operation.message(4, inner)
            var txn = ByteWriter()
            txn.message(2, operation.bytes)
            inner = txn.bytes
        }
        return inner
    }
    with(nest(maximumTxnNesting)) { #expect((try? TxnRequestView($0)) != nil) }
    with(nest(maximumTxnNesting + 1)) { #expect((try? TxnRequestView($0)) == nil) }
    with(nest(10_000)) { #expect((try? TxnRequestView($0)) == nil) }
}

@Test func prefixEndsCarry() {
    #expect(KeyRange.prefixEnd([1, 2]) == [1, 3])
    #expect(KeyRange.prefixEnd([1, 0xFF]) == [2])
    #expect(KeyRange.prefixEnd([0xFF, 0xFF]) == [0])
    #expect(KeyRange.prefixEnd([]) == [0])
}
