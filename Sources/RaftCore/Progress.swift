/// What the leader knows of one member's log, and what it may send next (etcd raft, tracker
/// package).
///
/// Invariant: `match < next`. The transitions all live here.
package struct Progress: Sendable {
    /// How entries flow to the peer.
    package enum State: Equatable, Sendable {
        /// The peer's log end is unknown: one append at a time, then wait for its answer.
        case probe
        /// The peer follows: appends are sent ahead of their answers, up to the inflight bound.
        case replicate
        /// The peer needs entries that are gone: nothing is sent until the snapshot has arrived.
        case snapshot(pending: LogIndex)
    }

    package let id: NodeID
    /// Everything up to here is known to be durable at the peer.
    package private(set) var match: LogIndex = 0
    /// The next index to send.
    package private(set) var next: LogIndex
    package private(set) var state: State = .probe
    /// In `probe`: an append is under way, wait for its answer or a heartbeat's.
    private(set) var isProbeOutstanding = false
    /// The peer must be sent an append even if there are no entries for it.
    private(set) var owesAppend = false
    /// The commit index last told to the peer.
    private(set) var sentCommit: LogIndex = 0
    /// The last entry of each append under way; empty unless in `replicate`.
    private(set) var inflights: Inflights
    /// Heard from within the last election timeout.
    package private(set) var isRecentlyActive: Bool
    /// The leader's ticks since the peer was last heard, or since it was first waited for.
    private(set) var silentTicks = 0
    /// The latest heartbeat round answered, for read requests.
    var acknowledgedRound: UInt64 = 0

    init(
        id: NodeID, next: LogIndex, maxInflight: Int, maxInflightBytes: Int, isRecentlyActive: Bool
    ) {
        self.id = id
        self.next = next
        self.isRecentlyActive = isRecentlyActive
        inflights = Inflights(capacity: maxInflight, maxBytes: maxInflightBytes)
    }

    /// Forgets everything, for a new term.
    mutating func reset(next: LogIndex) {
        self = Progress(
            id: id, next: next, maxInflight: inflights.capacity,
            maxInflightBytes: inflights.maxBytes, isRecentlyActive: false)
    }

    /// The peer holds everything up to here, or will when its snapshot has arrived.
    var reach: LogIndex {
        if case .snapshot(let pending) = state { max(match, pending) } else { match }
    }

    /// Notes a sign of life.
    mutating func heard() {
        silentTicks = 0
        isRecentlyActive = true
    }

    /// Counts a tick of silence.
    mutating func tick(electionTicks: Int) {
        guard silentTicks < electionTicks else { return }
        silentTicks += 1
        if silentTicks == electionTicks { isRecentlyActive = false }
    }

    /// Whether nothing new may be sent for now.
    package var isPaused: Bool {
        switch state {
        case .probe: isProbeOutstanding
        case .replicate: inflights.isFull
        case .snapshot: true
        }
    }

    /// Whether an append without entries is due now.
    func wantsEmptyAppend(commit: LogIndex) -> Bool {
        switch state {
        case .probe: !isProbeOutstanding && (owesAppend || sentCommit < commit)
        case .replicate: owesAppend
        case .snapshot: false
        }
    }

    /// The commit index to tell the peer apart from any append, or nil when there is no news that it
    /// could use. It holds everything up to there, so nothing needs to be compared or answered.
    func commitNews(_ commit: LogIndex) -> LogIndex? {
        let usable = min(match, commit)
        return state == .replicate && usable > sentCommit ? usable : nil
    }

    /// Notes that the peer was told `commit`.
    mutating func told(commit: LogIndex) { sentCommit = max(sentCommit, commit) }

    /// Asks for an append even if there is nothing new, to learn where the peer is.
    mutating func requestAppend() { owesAppend = true }

    /// Notes that an append with `count` entries of `bytes` in all from `next` on was sent.
    mutating func sent(count: Int, bytes: Int, commit: LogIndex) {
        owesAppend = false
        told(commit: commit)
        switch state {
        case .probe:
            isProbeOutstanding = true
        case .replicate where count > 0:
            next += UInt64(count)
            inflights.add(next - 1, bytes: bytes)
        case .replicate, .snapshot:
            break
        }
    }

    /// Notes that the peer holds everything up to `index`; returns whether that is news.
    @discardableResult
    mutating func accepted(_ index: LogIndex, firstIndex: LogIndex) -> Bool {
        let isNews = index > match
        match = max(match, index)
        next = max(next, match + 1)
        switch state {
        case .probe:
            becomeReplicate()
        case .replicate:
            inflights.free(through: match)
        case .snapshot:
            // The log now reaches the peer, by this snapshot or by another way.
            if match + 1 >= firstIndex { becomeReplicate() }
        }
        return isNews
    }

    /// Notes that the peer refused the append after `previous`; its log may agree up to
    /// `candidate`.
    ///
    /// Returns whether the refusal was news and not an old message.
    mutating func rejected(previous: LogIndex, candidate: LogIndex) -> Bool {
        switch state {
        case .replicate:
            guard previous > match else { return false }
            becomeProbe()
        case .probe:
            guard next == previous + 1 else { return false }
            next = max(min(previous, candidate + 1), match + 1)
            isProbeOutstanding = false
        case .snapshot:
            return false
        }
        return true
    }

    /// The peer answered a heartbeat: it is reachable, so a lost probe or append can be noticed.
    mutating func heartbeatAnswered(lastIndex: LogIndex) {
        isProbeOutstanding = false
        if match < lastIndex || state == .probe { owesAppend = true }
    }

    /// The host saw the connection fail: appends under way are probably lost.
    mutating func becameUnreachable() {
        if state == .replicate { becomeProbe() }
    }

    /// Starts waiting for a snapshot that stands at `index`.
    mutating func becomeSnapshot(at index: LogIndex) {
        state = .snapshot(pending: index)
        inflights.removeAll()
        owesAppend = false
    }

    /// The transfer of the snapshot has ended; the peer's answer or a heartbeat resumes the flow.
    mutating func snapshotReported(succeeded: Bool) {
        guard case .snapshot(let pending) = state else { return }
        state = .probe
        next = succeeded ? max(match, pending) + 1 : match + 1
        isProbeOutstanding = true
    }

    /// Treats this member as itself: its log is followed through the disk, not the network.
    mutating func becomeSelf(stable: LogIndex, lastIndex: LogIndex) {
        match = stable
        next = max(lastIndex, stable) + 1
        state = .replicate
        heard()
    }

    private mutating func becomeProbe() {
        state = .probe
        next = match + 1
        isProbeOutstanding = false
        inflights.removeAll()
    }

    private mutating func becomeReplicate() {
        state = .replicate
        next = match + 1
        isProbeOutstanding = false
        inflights.removeAll()
    }
}

/// The appends under way to one peer, oldest first: the index of the last entry of each, and its payload.
///
/// A ring that grows to `capacity` only if used.
struct Inflights: Sendable {
    private struct Sent: Sendable {
        var lastIndex: LogIndex
        var bytes: Int
    }

    let capacity: Int
    let maxBytes: Int
    private var ring: [Sent] = []
    private var start = 0
    private(set) var count = 0
    /// Payload under way. The message that reaches `maxBytes` still goes, so that any entry can.
    private(set) var bytes = 0

    init(capacity: Int, maxBytes: Int) {
        self.capacity = capacity
        self.maxBytes = maxBytes
    }

    var isFull: Bool { count >= capacity || bytes >= maxBytes }

    mutating func add(_ lastIndex: LogIndex, bytes size: Int) {
        precondition(!isFull, "\(count) appends of \(bytes) bytes are under way")
        if count == ring.count { grow() }
        ring[(start + count) % ring.count] = Sent(lastIndex: lastIndex, bytes: size)
        count += 1
        bytes += size
    }

    /// Forgets the appends whose entries all lie at or below `index`.
    mutating func free(through index: LogIndex) {
        while count > 0, ring[start].lastIndex <= index {
            bytes -= ring[start].bytes
            start = (start + 1) % ring.count
            count -= 1
        }
    }

    mutating func removeAll() {
        start = 0
        count = 0
        bytes = 0
    }

    private mutating func grow() {
        var larger: [Sent] = []
        let size = min(capacity, max(8, ring.count * 2))
        larger.reserveCapacity(size)
        for offset in 0..<count { larger.append(ring[(start + offset) % ring.count]) }
        larger.append(
            contentsOf: repeatElement(Sent(lastIndex: 0, bytes: 0), count: size - count))
        ring = larger
        start = 0
    }
}
