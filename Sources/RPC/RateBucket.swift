import NIOCore

/// A token bucket: `burst` events at once, `perSecond` in the long run.
struct RateBucket {
    private let burst: Int
    private let perSecond: Int
    private var tokens: Int
    private var refilledAt: NIODeadline

    init(burst: Int, perSecond: Int, now: NIODeadline) {
        self.burst = burst
        self.perSecond = perSecond
        tokens = burst
        refilledAt = now
    }

    /// Takes one token. False when there is none: the limit is broken.
    mutating func take(now: NIODeadline) -> Bool {
        if tokens > 0 {
            tokens -= 1
            return true
        }
        return refillAndTake(now)
    }

    /// Gives tokens back, up to the burst.
    mutating func credit(_ amount: Int) {
        tokens = min(burst, tokens + amount)
    }

    /// Refilling only when empty keeps the clock out of the common path; the time since the last
    /// refill is credited at once, never beyond the burst.
    private mutating func refillAndTake(_ now: NIODeadline) -> Bool {
        let elapsed = max(0, (now - refilledAt).nanoseconds)
        let seconds = elapsed / 1_000_000_000
        let earned: Int
        if seconds > 3600 {
            earned = burst
        } else {
            earned = Int(elapsed / 1_000_000) * perSecond / 1000
        }
        guard earned > 0 else { return false }
        refilledAt = now
        tokens = min(burst, earned) - 1
        return true
    }
}
