// `[[cluster.member]]`: one file for all members of a cluster. Each table says what differs between them;
// `--member NAME` picks the one that this process is, everything else in the file is shared.

extension Setting {
    /// A key of a member's table, and the setting that it stands for on the member it names.
    struct MemberKey: Sendable {
        /// Written to the configuration of the member that was picked.
        let setting: Setting
        let standsFor: String
        let isRequired: Bool
    }

    /// The keys of `[[cluster.member]]`, in the order of the reference page.
    static let memberKeys: [MemberKey] = [
        MemberKey(
            setting: .string(
                "cluster.member.name", \.member.name,
                """
                Name of the member, which --member picks it by. Required.
                """),
            standsFor: "member.name", isRequired: true),
        MemberKey(
            setting: .urls(
                "cluster.member.peer-urls", \.peers.advertise,
                """
                Addresses that the other members use, as in peers.advertise. Required.
                """),
            standsFor: "peers.advertise", isRequired: true),
        MemberKey(
            setting: .urls(
                "cluster.member.client-urls", \.clients.advertise,
                """
                Addresses that member lists tell clients to use, as in clients.advertise. Required.
                """),
            standsFor: "clients.advertise", isRequired: true),
        MemberKey(
            setting: .urls(
                "cluster.member.listen-peer-urls", \.peers.listen,
                """
                Addresses to accept other members on, when they are not peer-urls.
                """),
            standsFor: "peers.listen", isRequired: false),
        MemberKey(
            setting: .urls(
                "cluster.member.listen-client-urls", \.clients.listen,
                """
                Addresses to accept clients on, when they are not client-urls.
                """),
            standsFor: "clients.listen", isRequired: false),
        MemberKey(
            setting: .string(
                "cluster.member.data-dir", \.member.dataDirectory,
                """
                The member's data folder, when it is not NAME.moonraft.
                """),
            standsFor: "member.data-dir", isRequired: false),
    ]
}

/// One `[[cluster.member]]` table.
struct ClusterMember {
    let name: String
    let peerURLs: [EndpointURL]
    /// Where the table starts.
    let location: TOMLLocation
    /// By the key of the setting that each stands for.
    private(set) var values: [(setting: Setting, key: String, value: Setting.Value, location: TOMLLocation)] = []

    /// Members that one file may list; as many as a cluster may have.
    static let maximumCount = 64

    /// Reads all tables of a file.
    ///
    /// - Throws: the first mistake, with its place; two members with one name or URL are a mistake.
    static func list(_ value: TOMLValue) throws(ConfigurationError) -> [ClusterMember] {
        guard let elements = value.array else {
            throw ConfigurationError(
                location: value.location,
                message: "cluster.member: expected tables that start with [[cluster.member]], found \(value.typeName)")
        }
        guard elements.count <= maximumCount else {
            throw ConfigurationError(
                location: value.location,
                message: "cluster.member: \(elements.count) members are too many, expected at most \(maximumCount)")
        }
        var members: [ClusterMember] = []
        var owners: [EndpointURL: String] = [:]
        for element in elements {
            guard let table = element.table else {
                throw ConfigurationError(
                    location: element.location, message: "cluster.member: expected a table, found \(element.typeName)")
            }
            let member = try ClusterMember(table)
            if members.contains(where: { $0.name == member.name }) {
                throw ConfigurationError(
                    location: table["name"]?.location ?? table.location,
                    message: "cluster.member.name: \"\(member.name)\" stands twice")
            }
            for url in member.peerURLs {
                if let other = owners.updateValue(member.name, forKey: url) {
                    throw ConfigurationError(
                        location: table["peer-urls"]?.location ?? table.location,
                        message: "cluster.member.peer-urls: \(url) is also that of \"\(other)\"")
                }
            }
            members.append(member)
        }
        return members
    }

    private init(_ table: TOMLTable) throws(ConfigurationError) {
        location = table.location
        var scratch = NodeConfiguration()
        for name in table.keys {
            guard let value = table[name] else { continue }
            guard let key = Setting.memberKeys.first(where: { $0.setting.key == "cluster.member.\(name)" }) else {
                let names = Setting.memberKeys.map { String($0.setting.key.dropFirst("cluster.member.".count)) }
                let hint = EditDistance.nearest(to: name, among: names).map { "; the nearest is \"\($0)\"" } ?? ""
                throw ConfigurationError(
                    location: table.keyLocation(name), message: "unknown key \"cluster.member.\(name)\"" + hint)
            }
            let read = try key.setting.value(value)
            if read == .urls([]) {
                throw ConfigurationError(
                    location: value.location, message: "\(key.setting.key): needs at least one URL")
            }
            key.setting.write(&scratch, read)
            values.append((key.setting, key.standsFor, read, value.location))
        }
        for key in Setting.memberKeys where key.isRequired {
            guard values.contains(where: { $0.key == key.standsFor }) else {
                throw ConfigurationError(location: table.location, message: "\(key.setting.key) is missing")
            }
        }
        name = scratch.member.name
        peerURLs = scratch.peers.advertise
        for (listen, advertise) in [("peers.listen", "peers.advertise"), ("clients.listen", "clients.advertise")]
        where !values.contains(where: { $0.key == listen }) {
            guard let source = values.first(where: { $0.key == advertise }),
                let target = Setting.memberKeys.first(where: { $0.standsFor == listen })
            else { continue }
            values.append((target.setting, listen, source.value, source.location))
        }
    }

    var initialMember: InitialMember { InitialMember(name: name, peerURLs: peerURLs) }
}
