import RaftCore

// Short forms for scenario traces.

func trace(_ data: [UInt8]) -> String { String(decoding: data, as: UTF8.self) }

func trace(_ entry: Entry) -> String {
    let place = "\(entry.index)@\(entry.term)"
    switch entry.kind {
    case .normal:
        return entry.data.isEmpty ? "\(place) -" : "\(place) \(trace(entry.data))"
    case .configChange:
        guard let change = try? ConfigChange(decoding: entry.data) else { return "\(place) ?" }
        return "\(place) change(\(trace(change)))"
    }
}

func trace(_ change: ConfigChange) -> String {
    if change.isLeaveJoint { return "leave" }
    let steps = change.changes.map { step in
        switch step.kind {
        case .addVoter: "voter \(step.id)"
        case .addLearner: "learner \(step.id)"
        case .remove: "remove \(step.id)"
        }
    }
    return (change.transition == .automatic ? [] : ["\(change.transition)"]).joined()
        + (change.transition == .automatic ? "" : " ") + steps.joined(separator: ", ")
}

func trace(_ entries: [Entry]) -> String {
    "[" + entries.map(trace).joined(separator: ", ") + "]"
}

func trace(_ conf: ConfState) -> String {
    func list(_ ids: [NodeID]) -> String { ids.map(String.init).joined(separator: ",") }
    var text = "voters=\(list(conf.voters))"
    if conf.isJoint { text += " outgoing=\(list(conf.votersOutgoing))" }
    if !conf.learners.isEmpty { text += " learners=\(list(conf.learners))" }
    if !conf.learnersNext.isEmpty { text += " learnersNext=\(list(conf.learnersNext))" }
    if conf.autoLeave { text += " autoLeave" }
    return text
}

func trace(_ message: Message) -> String {
    "\(message.from)->\(message.to) term=\(message.term) \(trace(message.body))"
}

func trace(_ body: Message.Body) -> String {
    switch body {
    case .voteRequest(let request):
        "\(request.isPreVote ? "PreVote?" : "Vote?") last=\(request.lastIndex)@\(request.lastTerm)"
            + (request.isTransfer ? " transfer" : "")
    case .voteResponse(let response):
        "\(response.isPreVote ? "PreVote" : "Vote") \(response.isGranted ? "granted" : "refused")"
    case .append(let request):
        "Append prev=\(request.previousIndex)@\(request.previousTerm) commit=\(request.commit) "
            + trace(request.entries)
    case .appendResponse(.accepted(let match)):
        "Accepted match=\(match)"
    case .appendResponse(.rejected(let previous, let index, let term)):
        "Rejected prev=\(previous) hint=\(index)@\(term)"
    case .heartbeat(let commit, let round):
        "Heartbeat commit=\(commit) round=\(round)"
    case .heartbeatResponse(let round):
        "HeartbeatSeen round=\(round)"
    case .snapshot(let metadata):
        "Snapshot \(metadata.index)@\(metadata.term) \(trace(metadata.confState))"
    case .newerTerm:
        "NewerTerm"
    case .timeoutNow:
        "TimeoutNow"
    case .readRequest:
        "Read?"
    case .readResponse(_, let index):
        "Read index=\(index)"
    }
}

func trace(_ ready: Ready) -> [String] {
    var lines: [String] = []
    if let state = ready.softState {
        lines.append("state \(state.role) term=\(state.term) leader=\(state.leader.map(String.init) ?? "-")")
    }
    if let batch = ready.persist {
        var line = "persist #\(batch.sequence)"
        if let snapshot = batch.snapshot {
            line += " snapshot \(snapshot.index)@\(snapshot.term) \(trace(snapshot.confState))"
        }
        if !batch.entries.isEmpty { line += " \(trace(batch.entries))" }
        if let hard = batch.hardState {
            line += " term=\(hard.term) vote=\(hard.vote) commit=\(hard.commit)"
        }
        lines.append(line)
    }
    lines += ready.messages.map { "send \(trace($0))" }
    lines += ready.committed.map { "apply \(trace($0))" }
    lines += ready.readStates.map { "read \($0.context) at \($0.index)" }
    lines += ready.abandonedReads.map { "read \($0) abandoned" }
    return lines
}
