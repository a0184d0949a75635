/// Stops asking a hook that keeps failing. Only hooks whose failure is `open` have one: skipping a closed hook would be
/// a way around it.
struct CircuitBreaker {
    static let failures = 5
    /// Seconds.
    static let window = 10.0
    static let pause = 30.0

    private var recent: [Double] = []
    /// Calls are skipped until then; after it one call is tried.
    private var openUntil: Double?

    /// Whether a call may be made at `now`, in monotonic seconds.
    func allows(now: Double) -> Bool { openUntil.map { now >= $0 } ?? true }

    mutating func succeeded() {
        if openUntil != nil { self = CircuitBreaker() }
    }

    mutating func failed(now: Double) {
        if openUntil != nil {
            openUntil = now + Self.pause
            return
        }
        recent.removeAll { now - $0 > Self.window }
        recent.append(now)
        if recent.count >= Self.failures {
            openUntil = now + Self.pause
            recent.removeAll()
        }
    }
}
