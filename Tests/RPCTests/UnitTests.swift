import NIOCore
import NIOPosix
import Testing

@testable import RPC

/// The parts that need no socket, against simple models.
@Suite struct UnitTests {
    private struct Random {
        var state: UInt64
        mutating func next(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
    }

    /// What gathers during a batch, or outside one during a turn of the loop, is handed over once at its end.
    @Test func aTurnEndsOnceForAllThatGathered() throws {
        final class State: @unchecked Sendable {
            // Unchecked: touched on the event loop only.
            var loop: ServerLoop?
            var ended = 0
        }
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        defer { try? group.syncShutdownGracefully() }
        let eventLoop = group.next()
        let state = State()
        let before = try eventLoop.submit {
            let loop = ServerLoop(eventLoop: eventLoop, index: 0, configuration: RPCServerConfiguration())
            state.loop = loop
            loop.turnEnded = { state.ended += 1 }
            loop.gathered()
            loop.gathered()
            return state.ended
        }.wait()
        #expect(before == 0)
        let counts = try eventLoop.submit { () -> [Int] in
            guard let loop = state.loop else { return [] }
            var counts = [state.ended]
            loop.batch {
                loop.batch {
                    loop.gathered()
                    loop.gathered()
                }
                counts.append(state.ended)
            }
            counts.append(state.ended)
            loop.batch {}
            counts.append(state.ended)
            loop.turnEnded = nil
            state.loop = nil
            return counts
        }.wait()
        #expect(counts == [1, 1, 2, 2])
    }

    /// The queue yields exactly the bytes that were put in, in order, however it is drained.
    @Test func outputQueueMatchesAByteArray() {
        for seed in 0..<200 {
            var random = Random(state: UInt64(seed))
            var queue = OutputQueue()
            var model: [UInt8] = []
            var expected: [UInt8] = []
            var drained: [UInt8] = []
            for step in 0..<60 {
                let bytes = (0..<random.next(random.next(4) == 0 ? 5000 : 80)).map {
                    UInt8(truncatingIfNeeded: $0 &+ step)
                }
                switch random.next(5) {
                case 0:
                    bytes.withUnsafeBytes { queue.append(message: $0) }
                    model += grpcMessage(bytes)
                case 1:
                    queue.append(message: bytes)
                    model += grpcMessage(bytes)
                case 2:
                    let head = [UInt8](repeating: 9, count: random.next(20))
                    head.withUnsafeBytes { queue.append(head: $0, shared: SharedBytes(bytes)) }
                    model += grpcMessage(head + bytes)
                default:
                    var out = ByteBuffer()
                    let count = random.next(queue.count + 1)
                    queue.drain(count, into: &out)
                    drained += Array(out.readableBytesView)
                    expected += model.prefix(count)
                    model.removeFirst(count)
                }
                #expect(queue.count == model.count)
            }
            #expect(drained == expected, "seed \(seed)")
        }
    }

    private final class Alarm: DeadlineEntry {
        var fired = 0
    }

    /// Every entry fires once, not early, and no later than one slot; disarmed ones never.
    @Test func deadlineWheelFiresInTime() {
        for seed in 0..<50 {
            var random = Random(state: UInt64(seed))
            let start = NIODeadline.uptimeNanoseconds(77_123_456_789)
            var wheel = DeadlineWheel(now: start)
            var armed: [(Alarm, NIODeadline)] = []
            var disarmed: [Alarm] = []
            for _ in 0..<300 {
                let alarm = Alarm()
                let at = start + .milliseconds(Int64(random.next(12_000)))
                wheel.arm(alarm, at: at)
                if random.next(3) == 0 {
                    wheel.disarm(alarm)
                    disarmed.append(alarm)
                } else {
                    armed.append((alarm, at))
                }
            }
            var now = start
            while let next = wheel.nextSweep(), next < start + .seconds(30) {
                #expect(next > now)
                now = next
                for entry in wheel.expire(now: now) {
                    guard let alarm = entry as? Alarm else { continue }
                    alarm.fired += 1
                    #expect(alarm.fireAt <= now && now <= alarm.fireAt + .milliseconds(20))
                }
            }
            #expect(armed.allSatisfy { $0.0.fired == 1 })
            #expect(disarmed.allSatisfy { $0.fired == 0 })
            #expect(wheel.count == 0)
        }
    }

    @Test func routesAreFoundExactly() {
        let paths = (0..<300).map { "/service\($0 % 7).Name/Method\($0)" }
        let table = RouteTable(
            paths.enumerated().map { index, path in
                Route(path, MethodID(rawValue: index), .unary { _, _ in })
            })
        for (index, path) in paths.enumerated() {
            Array(path.utf8).withUnsafeBytes {
                #expect(table.find($0)?.method.rawValue == index)
            }
            for wrong in [String(path.dropLast()), path + "x", path.uppercased(), ""] {
                Array(wrong.utf8).withUnsafeBytes { bytes in
                    #expect((table.find(bytes) != nil) == paths.contains(wrong), "\(wrong)")
                }
            }
        }
    }

    @Test func grpcMessageTextSurvivesTheWire() {
        for text in ["", "plain", "100%", "%41", "ümlaut\r\n\u{0}", "\u{1F600}~ "] {
            let encoded = RPCStatus.percentEncoded(text)
            #expect(encoded.allSatisfy { $0 >= 0x20 && $0 < 0x7F })
            #expect(RPCStatus.percentDecoded(encoded) == text)
        }
        #expect(RPCStatus.percentEncoded("a%b\n") == Array("a%25b%0A".utf8))
        #expect(RPCStatus.percentDecoded(Array("%zz%4".utf8)) == "%zz%4")
    }

    @Test func base64DecodesWithAndWithoutPadding() {
        var random = Random(state: 5)
        for length in 0..<60 {
            let bytes = (0..<length).map { _ in UInt8(random.next(256)) }
            let text = Base64.encode(bytes)
            let padded = text + [UInt8](repeating: 0x3D, count: (4 - text.count % 4) % 4)
            text.withUnsafeBytes { #expect(Base64.decode($0) == bytes) }
            padded.withUnsafeBytes { #expect(Base64.decode($0) == bytes) }
        }
        for bad in ["A", "A===", "AA*A", "AAAA=AA"] {
            Array(bad.utf8).withUnsafeBytes { #expect(Base64.decode($0) == nil, "\(bad)") }
        }
    }

    @Test func timeoutsAreReadAndWritten() {
        func parse(_ text: String) -> UInt64? {
            Array(text.utf8).withUnsafeBytes { ServerCall.parseTimeout($0) }
        }
        #expect(parse("1n") == 1)
        #expect(parse("100m") == 100_000_000)
        #expect(parse("5S") == 5_000_000_000)
        #expect(parse("2M") == 120_000_000_000)
        #expect(parse("99999999H") == 3_155_760_000_000_000_000)
        for bad in ["", "5", "S", "-1S", "1.5S", "123456789S", "1s", " 1S"] {
            #expect(parse(bad) == nil, "\(bad)")
        }
        let amounts: [TimeAmount] = [
            .nanoseconds(1), .milliseconds(7), .seconds(5), .seconds(100_000), .hours(50_000),
        ]
        for amount in amounts {
            let read = parse(ClientConnection.timeoutText(amount)) ?? 0
            #expect(read >= UInt64(amount.nanoseconds))
            #expect(Double(read) <= Double(amount.nanoseconds) * 1.001 + 1)
        }
    }

    @Test func rateBucketHoldsItsRate() {
        let start = NIODeadline.uptimeNanoseconds(1_000_000_000)
        var bucket = RateBucket(burst: 10, perSecond: 100, now: start)
        var taken = 0
        for milli in 0..<2000 {
            let now = start + .milliseconds(Int64(milli))
            for _ in 0..<3 where bucket.take(now: now) { taken += 1 }
        }
        #expect(taken >= 190 && taken <= 215, "\(taken)")
    }
}
