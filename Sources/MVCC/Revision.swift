/// One change's place in history: `main` counts transactions, `sub` the changes inside one.
///
/// An empty store is at main revision 1; the first write makes 2 (etcd-parity G2).
package struct Revision: Comparable, Hashable, Sendable {
    package var main: Int64
    package var sub: Int64

    @inlinable package init(main: Int64, sub: Int64) {
        self.main = main
        self.sub = sub
    }

    @inlinable package static func < (left: Revision, right: Revision) -> Bool {
        left.main == right.main ? left.sub < right.sub : left.main < right.main
    }
}
