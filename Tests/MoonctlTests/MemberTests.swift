import Testing
import Wire

@testable import moonctl

// Replacing a member goes on from whatever the membership shows, and never touches a member it does not
// mean. Each case is a membership and what follows from it.
struct MemberTests {
    private func member(
        _ id: UInt64, _ name: String, _ url: String, isLearner: Bool = false
    ) -> Etcdserverpb_Member {
        var member = Etcdserverpb_Member()
        member.id = id
        member.name = name
        member.peerUrls = [url]
        member.isLearner = isLearner
        return member
    }

    private let plan = ReplacePlan(old: 0xC, name: "d", peerURLs: ["http://d:2380"])

    private var founders: [Etcdserverpb_Member] {
        [member(0xA, "a", "http://a:2380"), member(0xB, "b", "http://b:2380")]
    }
    private var dead: Etcdserverpb_Member { member(0xC, "c", "http://c:2380") }

    @Test func everyInterruptionIsPickedUp() {
        var members = founders + [dead]
        #expect(plan.problem(members) == nil)
        #expect(plan.next(members) == .add)
        members.append(member(0xD, "", "http://d:2380", isLearner: true))
        #expect(plan.problem(members) == nil)
        #expect(plan.next(members) == .start)
        members[3].name = "d"
        #expect(plan.next(members) == .promote)
        members[3].isLearner = false
        #expect(plan.next(members) == .remove)
        members.remove(at: 2)
        #expect(plan.problem(members) == nil)
        #expect(plan.next(members) == nil)

        // The old one went first, by other means.
        members[2] = member(0xD, "d", "http://d:2380", isLearner: true)
        #expect(plan.next(members) == .promote)
    }

    @Test func whatCannotBeMeantIsRefused() {
        let all = founders + [dead]
        #expect(
            plan.problem(founders) == "there is no member c, and none with the peer URLs of a new one")
        #expect(
            ReplacePlan(old: 0xC, name: "d", peerURLs: ["http://x:1", "http://c:2380"]).problem(all)
                == "member c still has the peer URL http://c:2380; the new one needs another")
        #expect(
            ReplacePlan(old: 0xC, name: "a", peerURLs: ["http://d:2380"]).problem(all)
                == #"member a is already called "a""#)
        // The URLs are those of a living member with another name.
        #expect(
            ReplacePlan(old: 0xC, name: "d", peerURLs: ["http://b:2380"]).problem(all)
                == #"member b at http://b:2380 is called "b", not "d""#)
        // A new member may take over the name of the dead one.
        #expect(ReplacePlan(old: 0xC, name: "c", peerURLs: ["http://d:2380"]).problem(all) == nil)
    }

    @Test func theStepsSayWhatIsDone() {
        let members = founders + [dead, member(0xD, "d", "http://d:2380", isLearner: true)]
        let lines = plan.lines(members)
        #expect(lines.map { $0.contains("[done]") } == [true, true, false, false])
        #expect(lines[2].hasSuffix("moonctl member promote d"))
        #expect(lines[3] == "4. remove the old member: moonctl member remove c")
    }

    @Test func idsAreHexadecimalAsParseUintReadsThem() {
        for (text, value) in [("12", 0x12), ("FFFFFFFFFFFFFFFF", UInt64.max), ("0", 0)] {
            #expect((try? GoNumber.hexadecimal(text)) == value)
        }
        for (text, reason) in [
            ("zz", #"strconv.ParseUint: parsing "zz": invalid syntax"#),
            ("", #"strconv.ParseUint: parsing "": invalid syntax"#),
            ("-1", #"strconv.ParseUint: parsing "-1": invalid syntax"#),
            ("0x1", #"strconv.ParseUint: parsing "0x1": invalid syntax"#),
            ("11111111111111111", #"strconv.ParseUint: parsing "11111111111111111": value out of range"#),
        ] {
            do throws(ValueError) {
                _ = try GoNumber.hexadecimal(text)
                Issue.record("\(text) was taken")
            } catch {
                #expect(error.reason == reason)
            }
        }
        #expect(GoText.hex16(0x48276a8f75b6a87) == " 48276a8f75b6a87")
    }

    @Test func peerURLsAreCheckedAsEtcdctlDoes() {
        for url in ["http://a:1", "https://127.0.0.1:2380", "http://[::1]:2380", "unix://x"] {
            #expect(MemberCommands.problem(ofURL: url) == nil, "\(url)")
        }
        for (url, problem) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://a", #"URL address does not have the form "host:port": http://a"#),
            ("http://[::1]", #"URL address does not have the form "host:port": http://[::1]"#),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
        ] { #expect(MemberCommands.problem(ofURL: url) == problem) }
    }

    @Test func aNewMemberIsToldHowToStart() {
        let lines = MemberAddReport.environment(
            name: "d", id: 0xD, peerURLs: ["http://d:2380"],
            members: founders + [member(0xD, "", "http://d:2380")])
        #expect(
            lines == [
                #"ETCD_NAME="d""#,
                #"ETCD_INITIAL_CLUSTER="a=http://a:2380,b=http://b:2380,d=http://d:2380""#,
                #"ETCD_INITIAL_ADVERTISE_PEER_URLS="http://d:2380""#,
                #"ETCD_INITIAL_CLUSTER_STATE="existing""#,
            ])
    }
}
