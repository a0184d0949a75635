// What happens to a message before its kind matters: form, and the sender's term against ours.

extension RaftCore {
    /// Refuses what no honest member can have sent. Afterwards arithmetic on the numbers is safe.
    func checkForm(of message: Message) throws(StepError) {
        guard message.to == id, message.from != id, message.from != 0 else { throw .misaddressed }
        guard (1...Self.maxTerm).contains(message.term) else { throw .malformed }
        let maxIndex = Self.maxIndex
        let isSound: Bool
        switch message.body {
        case .voteRequest(let request):
            isSound =
                request.lastIndex <= maxIndex && request.lastTerm <= message.term
                && request.known.index <= request.lastIndex
        case .voteResponse(let response):
            isSound = response.known.index <= maxIndex
        case .append(let request):
            isSound =
                request.previousTerm <= message.term && request.commit <= maxIndex
                && RaftLog.continues(
                    request.entries, index: request.previousIndex, term: request.previousTerm)
                && (request.entries.last?.term ?? 0) <= message.term
        case .appendResponse(.accepted(let match)):
            isSound = match <= maxIndex
        case .appendResponse(.rejected(let previous, let hintIndex, let hintTerm)):
            isSound =
                previous <= maxIndex && hintIndex <= maxIndex && hintTerm <= message.term
        case .heartbeat(let commit, _):
            isSound = commit <= maxIndex
        case .snapshot(let metadata):
            isSound =
                (1...maxIndex).contains(metadata.index)
                && (1...message.term).contains(metadata.term)
                && metadata.confState.isWellFormed && !metadata.confState.voters.isEmpty
        case .readResponse(_, let index):
            isSound = index <= maxIndex
        case .heartbeatResponse, .newerTerm, .timeoutNow, .readRequest:
            isSound = true
        }
        guard isSound else { throw .malformed }
    }

    /// Takes over the term of a message from a later one; returns whether to process the message.
    mutating func acceptHigherTerm(_ message: Message) -> Bool {
        switch message.body {
        case .voteRequest(let request):
            // Whoever hears a leader defends it against members that merely lost contact, or that
            // were removed and do not know it (thesis 4.2.3). The leader's own wish passes.
            if isInContactWithLeader, !request.isTransfer { return false }
            // Asking is free: a pre-vote changes nothing here.
            if !request.isPreVote { becomeFollower(term: message.term, leader: nil) }
        case .voteResponse(let response) where response.isPreVote && response.isGranted:
            // Granted for the term we would take, which is not ours yet.
            return role == .preCandidate && message.term == term + 1
        case .append, .heartbeat, .snapshot:
            becomeFollower(term: message.term, leader: message.from)
        case .voteResponse, .appendResponse, .heartbeatResponse, .newerTerm, .timeoutNow,
            .readRequest, .readResponse:
            // Those are said to a member by members. Whoever was removed may know a higher term,
            // which must depose nobody.
            guard position(of: message.from) != nil else { return false }
            becomeFollower(term: message.term, leader: nil)
        }
        return true
    }

    /// Tells the sender of an outdated message which term we are in, where that helps it on.
    ///
    /// A leader of an old term must learn it, or a member that came back with a higher term would
    /// ignore it for ever while everybody else follows it. A candidate of an old term must learn
    /// it, or it would go on asking in vain.
    mutating func answerLowerTerm(_ message: Message) {
        switch message.body {
        case .append, .heartbeat, .snapshot:
            sendWhenDurable(.newerTerm, to: message.from, term: term)
        case .voteRequest(let request):
            let refusal = Message.VoteResponse(
                isPreVote: request.isPreVote, isGranted: false, known: commitPoint)
            sendWhenDurable(.voteResponse(refusal), to: message.from, term: term)
        case .voteResponse, .appendResponse, .heartbeatResponse, .newerTerm, .timeoutNow,
            .readRequest, .readResponse:
            break
        }
    }

    /// Notes that `sender` leads the present term.
    mutating func follow(_ sender: NodeID) throws(StepError) {
        if let leader, leader != sender {
            throw .secondLeader(term: term, known: leader, claims: sender)
        }
        if role != .follower { becomeFollower(term: term, leader: sender) }
        leader = sender
        electionElapsed = 0
    }

    /// Whether a leader is alive as far as this member can tell, or is this member.
    private var isInContactWithLeader: Bool {
        configuration.checkQuorum && leader != nil
            && electionElapsed < configuration.electionTicks
    }
}
