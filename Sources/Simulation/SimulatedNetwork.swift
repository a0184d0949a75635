// The network between members: when a message arrives, and whether.

import RaftCore

/// The state of all links. One-way: each direction has its own.
struct SimulatedNetwork {
    private struct Link {
        /// Counts reasons to be cut, so that healing one fault does not undo another.
        var cuts = 0
        /// Messages sent while the link is clogged arrive after this.
        var cloggedUntil: Nanoseconds = 0
        /// When the last message arrives, where order is kept.
        var lastArrival: Nanoseconds = 0
    }

    private struct Route: Hashable {
        var from: NodeID
        var to: NodeID
    }

    /// Looked up only, never walked.
    private var links: [Route: Link] = [:]
    private var random: SimulationRandom
    private let knobs: Knobs
    /// Once healed for good, nothing is lost any more.
    private var isReliable = false

    init(knobs: Knobs, random: SimulationRandom) {
        self.knobs = knobs
        self.random = random
    }

    /// When a message sent now arrives: never, once or twice.
    mutating func arrivals(from: NodeID, to: NodeID, now: Nanoseconds) -> [Nanoseconds] {
        let route = Route(from: from, to: to)
        var link = links[route] ?? Link()
        defer { links[route] = link }
        if link.cuts > 0 { return [] }
        if !isReliable, random.chance(knobs.lossPerMille) { return [] }
        var arrivals = [now + delay()]
        if !isReliable, random.chance(knobs.duplicatePerMille) { arrivals.append(now + delay() * 3) }
        if link.cloggedUntil > now {
            arrivals = arrivals.map { max($0, link.cloggedUntil + $0 - now) }
        }
        if !knobs.reorders || isReliable {
            arrivals[0] = max(arrivals[0], link.lastArrival)
            link.lastArrival = arrivals[0]
        }
        return arrivals
    }

    private mutating func delay() -> Nanoseconds {
        !isReliable && random.chance(knobs.slowPerMille)
            ? random.within(knobs.slowDelay) : random.within(knobs.delay)
    }

    func isCut(from: NodeID, to: NodeID) -> Bool {
        (links[Route(from: from, to: to)]?.cuts ?? 0) > 0
    }

    mutating func cut(from: NodeID, to: NodeID) { links[Route(from: from, to: to), default: Link()].cuts += 1 }

    mutating func heal(from: NodeID, to: NodeID) {
        let route = Route(from: from, to: to)
        guard var link = links[route], link.cuts > 0 else { return }
        link.cuts -= 1
        links[route] = link
    }

    mutating func clog(from: NodeID, to: NodeID, until time: Nanoseconds) {
        links[Route(from: from, to: to), default: Link()].cloggedUntil = time
    }

    /// No link fails from now on.
    mutating func healForGood() {
        links = [:]
        isReliable = true
    }
}
