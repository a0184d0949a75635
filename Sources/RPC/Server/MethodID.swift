/// Which route of the table a call came in on.
///
/// A small dense number chosen by whoever builds the table (its index there), so that counters
/// and switches need no string.
package struct MethodID: RawRepresentable, Hashable, Sendable {
    package let rawValue: Int

    package init(rawValue: Int) { self.rawValue = rawValue }
}
