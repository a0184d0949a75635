/// A table with borders, as the tablewriter library draws etcdctl's: headings centred in capitals,
/// cells to the right, texts wider than 30 columns folded between words.
struct Table {
    let headings: [String]
    var rows: [[String]] = []

    private static let foldWidth = 30

    var text: String {
        let head = headings.map { [$0.uppercased()] }
        let body = rows.map { row in row.map(Self.fold) }
        let widths = headings.indices.map { column in
            ([head] + body).map { Self.width(of: $0[column]) }.max() ?? 0
        }
        let border = "+" + widths.map { String(repeating: "-", count: $0 + 2) + "+" }.joined() + "\n"
        var text = border
        text += "|" + zip(head, widths).map { " \(Self.center($0[0], $1)) |" }.joined() + "\n"
        text += border
        for row in body {
            for line in 0..<(row.map(\.count).max() ?? 0) {
                text += "|"
                for (cell, width) in zip(row, widths) {
                    text += " \(Self.right(line < cell.count ? cell[line] : "", width)) |"
                }
                text += "\n"
            }
        }
        return text + border
    }

    /// A folded text takes the whole width that it was folded to.
    private static func width(of cell: [String]) -> Int {
        max(cell.map(width).max() ?? 0, cell.count > 1 ? foldWidth : 0)
    }

    private static func width(_ text: String) -> Int { text.unicodeScalars.count }

    private static func right(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - Self.width(text))) + text
    }

    private static func center(_ text: String, _ width: Int) -> String {
        let gap = max(0, width - Self.width(text))
        let left = String(repeating: " ", count: gap / 2)
        return left + text + String(repeating: " ", count: gap - gap / 2)
    }

    /// Breaks a text between words so that the sum of the squared gaps at the ends of all lines
    /// but the last is least; of equal ways the one with the shorter first line.
    static func fold(_ text: String) -> [String] {
        let words = text.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
        let lengths = words.map(width)
        let natural = lengths.reduce(0, +) + words.count - 1
        if natural <= foldWidth { return [text] }
        let limit = max(foldWidth, lengths.max() ?? 0)
        // cost[i] is the least cost of the words from i on, next[i] where their first line ends.
        var cost = [Int](repeating: 0, count: words.count + 1)
        var next = [Int](repeating: words.count, count: words.count + 1)
        for first in words.indices.reversed() {
            if lengths[first...].reduce(0, +) + words.count - first - 1 <= limit { continue }
            var best = Int.max
            var length = -1
            for end in (first + 1)..<max(words.count, first + 2) {
                length += lengths[end - 1] + 1
                if length > limit { break }
                let gap = limit - length
                if gap * gap + cost[end] < best {
                    best = gap * gap + cost[end]
                    next[first] = end
                }
            }
            cost[first] = best
        }
        var lines: [String] = []
        var first = 0
        while first < words.count {
            lines.append(words[first..<next[first]].joined(separator: " "))
            first = next[first]
        }
        return lines
    }
}
