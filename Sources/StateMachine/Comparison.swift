import KVCodec
import MVCC

/// How a comparison of a transaction judges one pair (etcd txn.go, compareKV).
///
/// An unknown target compares as equal, an unknown result always holds: etcd's code falls through
/// to that, and a client may see it.
enum Comparison {
    /// Judges what the index knows of a key. Not for target VALUE.
    static func holds(_ compare: CompareView, _ metadata: KeyMetadata) -> Bool {
        judge(
            compare, create: metadata.createRevision, mod: metadata.modRevision,
            version: metadata.version, lease: metadata.lease)
    }

    /// Judges a whole record.
    static func holds(_ compare: CompareView, _ record: KeyValueView) -> Bool {
        if compare.target == CompareTarget.value {
            // Another member of the oneof leaves the value empty.
            return holds(compare.result, order: KeyRange.compare(record.value, compare.value))
        }
        return judge(
            compare, create: record.createRevision, mod: record.modRevision,
            version: record.version, lease: record.lease)
    }

    /// Judges a range without keys: as zero, except that a value which is not there equals nothing
    /// and differs from nothing.
    static func holdsForNothing(_ compare: CompareView) -> Bool {
        if compare.target == CompareTarget.value { return false }
        return judge(compare, create: 0, mod: 0, version: 0, lease: 0)
    }

    private static func judge(
        _ compare: CompareView, create: Int64, mod: Int64, version: Int64, lease: Int64
    ) -> Bool {
        let order: Int =
            switch compare.target {
            case CompareTarget.version: Self.order(version, compare.number(ofField: 4))
            case CompareTarget.create: Self.order(create, compare.number(ofField: 5))
            case CompareTarget.mod: Self.order(mod, compare.number(ofField: 6))
            case CompareTarget.lease: Self.order(lease, compare.number(ofField: 8))
            default: 0
            }
        return holds(compare.result, order: order)
    }

    private static func order(_ left: Int64, _ right: Int64) -> Int {
        left == right ? 0 : left < right ? -1 : 1
    }

    private static func holds(_ result: Int32, order: Int) -> Bool {
        switch result {
        case CompareResult.equal: order == 0
        case CompareResult.notEqual: order != 0
        case CompareResult.greater: order > 0
        case CompareResult.less: order < 0
        default: true
        }
    }
}
