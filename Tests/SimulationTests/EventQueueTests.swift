import Testing

@testable import Simulation

@Suite struct EventQueueTests {
    @Test func eventsOfOneMomentKeepTheirOrder() {
        var queue = EventQueue<Int>()
        for number in 0..<100 { queue.schedule(number, at: UInt64(number % 3)) }
        var order: [Int] = []
        while let (_, event) = queue.next() { order.append(event) }
        let expected = (0..<3).flatMap { time in (0..<100).filter { $0 % 3 == time } }
        #expect(order == expected)
    }
}
