// What `snapshot status` prints, in etcdutl's forms.

import Node

/// A format of `--write-out`.
enum SnapshotStatus: String {
    case simple, fields, json, table

    func text(_ report: SnapshotReport) -> String {
        let cells = [
            String(report.hash, radix: 16), "\(report.revision)", "\(report.totalKeys)",
            Self.size(report.totalBytes), ProductVersion.storage,
        ]
        switch self {
        case .simple: return cells.joined(separator: ", ") + "\n"
        case .fields:
            return """
                "Hash" : \(report.hash)
                "Revision" : \(report.revision)
                "Keys" : \(report.totalKeys)
                "Size" : \(report.totalBytes)
                "Version" : \(ProductVersion.storage)

                """
        case .json:
            return """
                {"hash":\(report.hash),"revision":\(report.revision),"totalKey":\(report.totalKeys),\
                "totalSize":\(report.totalBytes),"version":"\(ProductVersion.storage)"}

                """
        case .table: return Self.table(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"], cells)
        }
    }

    private static func table(_ headings: [String], _ cells: [String]) -> String {
        let widths = zip(headings, cells).map { max($0.count, $1.count) }
        let border = "+" + widths.map { String(repeating: "-", count: $0 + 2) + "+" }.joined() + "\n"
        let head = zip(headings, widths).map { text, width in
            let left = (width - text.count) / 2
            return " " + spaces(left) + text + spaces(width - text.count - left) + " |"
        }
        let row = zip(cells, widths).map { text, width in " " + spaces(width - text.count) + text + " |" }
        return border + "|" + head.joined() + "\n" + border + "|" + row.joined() + "\n" + border
    }

    private static func spaces(_ count: Int) -> String { String(repeating: " ", count: count) }

    /// Decimal units with at most one decimal: `29 kB`, `2.1 MB` (go-humanize).
    static func size(_ bytes: UInt64) -> String {
        if bytes < 1000 { return "\(bytes) B" }
        var value = Double(bytes)
        var unit = -1
        while value >= 1000 {
            value /= 1000
            unit += 1
        }
        let rounded = (value * 10 + 0.5).rounded(.down) / 10
        let number = rounded < 10 ? "\(rounded)" : "\(Int(rounded.rounded(.toNearestOrEven)))"
        return number + " " + ["kB", "MB", "GB", "TB", "PB", "EB"][unit]
    }
}
