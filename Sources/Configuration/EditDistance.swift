/// Finds the name a misspelt one was probably meant to be.
package enum EditDistance {
    /// Insertions, deletions, replacements and swaps of neighbours that turn one text into the other.
    package static func between(_ left: String, _ right: String) -> Int {
        let a = Array(left.utf8)
        let b = Array(right.utf8)
        var beforeLast = [Int](repeating: 0, count: b.count + 1)
        var last = Array(0...b.count)
        for i in a.indices {
            var row = [i + 1]
            for j in b.indices {
                var best = min(last[j + 1] + 1, row[j] + 1, last[j] + (a[i] == b[j] ? 0 : 1))
                if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                    best = min(best, beforeLast[j - 1] + 1)
                }
                row.append(best)
            }
            beforeLast = last
            last = row
        }
        return last[b.count]
    }

    /// The nearest of `candidates`, the first one among equals; nil when there are none or when `name` is
    /// longer than any name could be.
    package static func nearest(to name: String, among candidates: [String]) -> String? {
        guard name.utf8.count <= 256 else { return candidates.first }
        return candidates.map { (name: $0, distance: between(name, $0)) }.min { $0.distance < $1.distance }?.name
    }

    /// The nearest full key to a full key: what matters is the part after the section, which may also
    /// have been put into a wrong section.
    static func nearestKey(to key: String, among keys: [String]) -> String? {
        guard key.utf8.count <= 256 else { return keys.first }
        let leaf = lastPart(key)
        return keys.map { candidate -> (key: String, distance: Int) in
            let moved = between(leaf, lastPart(candidate)) + 1
            return (candidate, min(between(key, candidate), moved))
        }.min { $0.distance < $1.distance }?.key
    }

    private static func lastPart(_ key: String) -> String {
        key.split(separator: ".").last.map(String.init) ?? key
    }
}
