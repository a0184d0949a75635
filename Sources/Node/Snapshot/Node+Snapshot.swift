extension Node {
    /// Where there is room for copies of the backend, on its disk.
    package var snapshotDirectory: String { options.dataDirectory + "/member/snap" }
}
