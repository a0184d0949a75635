import NIOCore
import Testing

@testable import Peering

@Suite struct FrameTests {
    @Test func theLayoutStays() {
        #expect(frame(.ping, [1, 2]) == [3, 0, 0, 0] + frame(.ping, [1, 2])[4..<8] + [5, 1, 2])
    }
}
