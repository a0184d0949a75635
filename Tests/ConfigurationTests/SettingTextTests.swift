// Durations, sizes and URLs must be read exactly or refused, never rounded or wrapped, and their printed
// form must read back as the same value. Checked with tables of hand-written cases and a sweep of values.

import Testing

@testable import Configuration

@Suite struct SettingTextTests {
    private func duration(_ text: String) -> Duration? { try? SettingText.duration(text) }
    private func size(_ text: String) -> Int? { try? SettingText.size(text) }

    @Test func durations() {
        #expect(duration("100ms") == .milliseconds(100))
        #expect(duration("5s") == .seconds(5))
        #expect(duration("1h30m") == .seconds(5400))
        #expect(duration("2h0m0s") == .seconds(7200))
        #expect(duration("1.5s") == .milliseconds(1500))
        #expect(duration(".5s") == .milliseconds(500))
        #expect(duration("3µs") == .microseconds(3))
        #expect(duration("0") == .zero)
        #expect(duration("0s") == .zero)
        for wrong in [
            "", "5", "s", "5 s", "-5s", "+5s", "1.5ns", "1..5s", "1.s.", "5m3", "5x", "99999999999h", "5S", "٥s",
            "9223372036854775807s", "1.0000000000000001s", ".s",
        ] {
            #expect(duration(wrong) == nil, "\(wrong)")
        }
    }

    @Test func sizes() {
        #expect(size("64MiB") == 64 << 20)
        #expect(size("1.5MiB") == 1_572_864)
        #expect(size("1572864") == 1_572_864)
        #expect(size("64 KiB") == 65536)
        #expect(size("2GB") == 2_000_000_000)
        #expect(size("0") == 0)
        for wrong in ["", "MiB", "-1", "1.5", "0.3B", "1.3KiB", "5mb", "9999999999GiB", "1e6", "64M", " 1"] {
            #expect(size(wrong) == nil, "\(wrong)")
        }
    }

    @Test func printedFormsReadBack() {
        var random = SplitMix(state: 3)
        for _ in 0..<2000 {
            let scale = [1, 500, 1_000, 1_000_000, 500_000_000, 60_000_000_000][random.next(6)]
            let duration = Duration.nanoseconds(random.next(10_000) * scale)
            #expect(self.duration(SettingText.text(duration)) == duration)
            let size = random.next(5000) * [1, 512, 1024, 1 << 19, 1 << 20, 1 << 30][random.next(6)]
            #expect(self.size(SettingText.text(size: size)) == size)
        }
        #expect(SettingText.text(.milliseconds(1500)) == "1500ms")
        #expect(SettingText.text(size: 1_572_864) == "1.5MiB")
        #expect(SettingText.text(size: Int(Int32.max)) == "2147483647B")
    }

    private func url(_ text: String) -> String {
        do {
            return try EndpointURL(text).description
        } catch {
            return error.message
        }
    }

    @Test func urls() throws {
        #expect(url("http://127.0.0.1:2379") == "http://127.0.0.1:2379")
        #expect(url("http://[::1]:2379") == "http://[::1]:2379")
        #expect(url("http://:2379") == "http://:2379")
        #expect(url("127.0.0.1:2379") == "URL scheme must be http, https, unix, or unixs: 127.0.0.1:2379")
        #expect(url("ftp://a:1") == "URL scheme must be http, https, unix, or unixs: ftp://a:1")
        #expect(url("https://a:1").hasPrefix("TLS is not in this version"))
        #expect(url("unix:///x").hasPrefix("Unix sockets are not in this version"))
        #expect(url("http://a") == "URL address does not have the form \"host:port\": http://a")
        #expect(url("http://a:1/") == "URL must not contain a path: http://a:1/")
        for wrong in ["http://a:x", "http://a:70000", "http://::1:5", "http://[::1:5", "http://u@h:1", "http://[x]:1"] {
            #expect(url(wrong).hasPrefix("URL address does not have the form"), "\(wrong)")
        }
        #expect(try EndpointURL("http://localhost:1").bindHost == "127.0.0.1")
        #expect(try EndpointURL("http://localhost:1").canBeBound)
        #expect(try !EndpointURL("http://example.org:1").canBeBound)
        #expect(try EndpointURL("http://0.0.0.0:1").isUnspecified)
        #expect(
            try EndpointURL.list("http://b:2,http://a:1").sorted().map(\.description) == ["http://a:1", "http://b:2"])
    }

    @Test func nearestNames() {
        #expect(EditDistance.between("kitten", "sitting") == 3)
        #expect(EditDistance.between("ab", "ba") == 1)
        #expect(EditDistance.between("", "abc") == 3)
        #expect(EditDistance.nearest(to: "listn", among: ["name", "listen", "lists"]) == "listen")
        #expect(EditDistance.nearest(to: "x", among: []) == nil)
    }
}
