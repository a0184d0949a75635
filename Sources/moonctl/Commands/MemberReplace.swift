// `member replace`: a new member takes the place of a dead one, in the order that risks the quorum least:
// it joins without a vote, catches up, gets its vote, and only then the old one goes.
//
// Nothing is remembered between runs. What has been done is read off the membership each time, so
// the command can be run again after an interruption anywhere.

import RPC
import Wire

/// What replacing comes down to, for a given membership.
struct ReplacePlan: Equatable {
    /// In the order in which they are done.
    enum Step: Int, CaseIterable {
        case add, start, promote, remove
    }

    let old: UInt64
    let name: String
    let peerURLs: [String]

    /// Why these two cannot be exchanged; nil when they can.
    func problem(_ members: [Etcdserverpb_Member]) -> String? {
        let new = newcomer(members)
        if let dead = members.first(where: { $0.id == old }) {
            if let shared = dead.peerUrls.first(where: peerURLs.contains) {
                return "member \(hex(old)) still has the peer URL \(shared); the new one needs another"
            }
        } else if new == nil {
            return "there is no member \(hex(old)), and none with the peer URLs of a new one"
        }
        if let new {
            if !new.name.isEmpty && new.name != name {
                return "member \(hex(new.id)) at \(new.peerUrls.joined(separator: ",")) is called "
                    + "\(GoText.quote(new.name)), not \(GoText.quote(name))"
            }
        } else if let other = members.first(where: { $0.name == name && $0.id != old }) {
            return "member \(hex(other.id)) is already called \(GoText.quote(name))"
        }
        return nil
    }

    /// The member that the peer URLs belong to, once it was added.
    func newcomer(_ members: [Etcdserverpb_Member]) -> Etcdserverpb_Member? {
        members.first { $0.id != old && $0.peerUrls.contains(where: peerURLs.contains) }
    }

    /// The first thing left to do; nil when everything is done.
    func next(_ members: [Etcdserverpb_Member]) -> Step? {
        guard let new = newcomer(members) else { return .add }
        if new.name.isEmpty { return .start }
        if new.isLearner { return .promote }
        return members.contains { $0.id == old } ? .remove : nil
    }

    /// One line for each step, with what is done already.
    func lines(_ members: [Etcdserverpb_Member]) -> [String] {
        let next = next(members)?.rawValue ?? Step.allCases.count
        let id = newcomer(members).map { hex($0.id) } ?? "(the new id)"
        let urls = peerURLs.joined(separator: ",")
        let texts = [
            "add the learner \(GoText.quote(name)): moonctl member add \(name) --learner --peer-urls=\(urls)",
            "start its process with ETCD_INITIAL_CLUSTER_STATE=existing and wait until it has published its name",
            "wait until it is in sync and give it a vote: moonctl member promote \(id)",
            "remove the old member: moonctl member remove \(hex(old))",
        ]
        return texts.enumerated().map { index, text in
            "\(index + 1). \(index < next ? "[done] " : "")\(text)"
        }
    }

    private func hex(_ id: UInt64) -> String { String(id, radix: 16) }
}

/// The command.
enum MemberReplace {
    static let command = Command(
        name: "replace", usage: "replace <oldMemberID> <newMemberName> [options]",
        summary: "Replaces a dead member by a new one, step by step",
        flags: [
            .text(MemberCommands.peerURLsFlag, "", "comma separated peer URLs for the new member."),
            .bool("yes", "do it; without this only the steps are printed"),
            Flag(
                "wait", .duration(.seconds(600)),
                "longest time to wait until the new member has started, and again until it is in sync"),
        ]
    ) { invocation throws(CommandError) in
        guard invocation.arguments.count == 2 else {
            throw .badArguments("member replace command needs the old member's ID and the new one's name")
        }
        let session = try Session(invocation, printing: Etcdserverpb_MemberListResponse.self)
        let plan = ReplacePlan(
            old: try MemberCommands.id(invocation.arguments[0]),
            name: String(decoding: invocation.arguments[1], as: UTF8.self),
            peerURLs: try MemberCommands.peerURLs(invocation))
        let members = try await MemberCommands.members(session).members
        if let problem = plan.problem(members) { throw CommandError(.error, problem) }
        if invocation.bool("yes") {
            return try await carryOut(plan, session, wait: invocation.duration("wait"))
        }
        for line in plan.lines(members) { session.line(line) }
        session.line("Nothing was changed. Add --yes to do this.")
    }

    /// Time between two looks at what is waited for.
    private static let pollInterval = Duration.seconds(1)

    private static func carryOut(
        _ plan: ReplacePlan, _ session: Session, wait: Duration
    ) async throws(CommandError) {
        var waiting: (step: ReplacePlan.Step, since: ContinuousClock.Instant)?
        while true {
            let members = try await MemberCommands.members(session).members
            if let problem = plan.problem(members) { throw CommandError(.error, problem) }
            guard let step = plan.next(members) else { break }
            let isNew = waiting?.step != step
            if isNew { waiting = (step, .now) }
            let isDone = try await carryOut(step, plan, members, session, isFirst: isNew)
            if isDone { continue }
            if let since = waiting?.since, ContinuousClock.now - since > wait {
                throw CommandError(
                    .error,
                    step == .start
                        ? "the new member has not started" : "the new member is not in sync yet",
                    hint: "Run the same command again to go on from here.")
            }
            try? await Task.sleep(for: pollInterval)
        }
        session.line("Done.")
        try session.print(try await MemberCommands.members(session))
    }

    /// - Returns: false when there is nothing to do but wait.
    private static func carryOut(
        _ step: ReplacePlan.Step, _ plan: ReplacePlan, _ members: [Etcdserverpb_Member],
        _ session: Session, isFirst: Bool
    ) async throws(CommandError) -> Bool {
        let id = plan.newcomer(members)?.id ?? 0
        switch step {
        case .add:
            let added = try await MemberCommands.add(
                session, name: plan.name, plan.peerURLs, asLearner: true)
            session.line("Added the learner \(String(added.reply.member.id, radix: 16)).")
            return true
        case .start:
            guard isFirst else { return false }
            session.line(
                "Start the new member's process with these, and with the cluster's token when it has one "
                    + "of its own:")
            for line in MemberAddReport.environment(
                name: plan.name, id: id, peerURLs: plan.peerURLs, members: members)
            {
                session.line(line)
            }
            session.line("Waiting until it has started.")
            return false
        case .promote:
            if isFirst { session.line("Waiting until \(String(id, radix: 16)) is in sync.") }
            return try await promote(id, session)
        case .remove:
            let removed = try await MemberCommands.remove(session, plan.old)
            session.line("Removed \(String(removed.id, radix: 16)).")
            return true
        }
    }

    private static func promote(_ id: UInt64, _ session: Session) async throws(CommandError) -> Bool {
        try await session.authenticate()
        do throws(RPCStatus) {
            let _: Etcdserverpb_MemberPromoteResponse = try await session.client.call(
                .memberPromote, MemberCommands.promotionRequest(id))
            session.line("Promoted \(String(id, radix: 16)).")
            return true
        } catch {
            let notReady = "etcdserver: can only promote a learner member which is in sync with leader"
            if error.message == notReady { return false }
            throw CommandError(.error, error.clientText)
        }
    }
}
