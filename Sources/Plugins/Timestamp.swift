/// RFC 3339 in UTC, without a calendar library: records are written on a hot path.
enum Timestamp {
    /// `2026-01-31T12:34:56.789012Z`; nil outside years 0 to 9999.
    static func rfc3339(_ seconds: Double) -> String? {
        guard seconds.isFinite, seconds >= -62_167_219_200, seconds < 253_402_300_800 else { return nil }
        return rfc3339(microseconds: Int64((seconds * 1e6).rounded()))
    }

    static func rfc3339(microseconds: Int64) -> String? {
        let out = TextBuffer(capacity: 64)
        append(microseconds: microseconds, to: out)
        return out.count == 0 ? nil : String(decoding: out.bytes(), as: UTF8.self)
    }

    /// Appends the text; nothing outside years 0 to 9999.
    static func append(microseconds: Int64, to out: TextBuffer) {
        let day: Int64 = 86_400_000_000
        guard microseconds >= -62_167_219_200_000_000, microseconds < 253_402_300_800_000_000 else { return }
        var days = microseconds / day
        var rest = microseconds % day
        if rest < 0 {
            rest += day
            days -= 1
        }
        let (year, month, dayOfMonth) = civil(days)
        let second = rest / 1_000_000
        out.add(padded: year, 4)
        out.add("-")
        out.add(padded: month, 2)
        out.add("-")
        out.add(padded: dayOfMonth, 2)
        out.add("T")
        out.add(padded: second / 3600, 2)
        out.add(":")
        out.add(padded: second / 60 % 60, 2)
        out.add(":")
        out.add(padded: second % 60, 2)
        out.add(".")
        out.add(padded: rest % 1_000_000, 6)
        out.add("Z")
    }

    /// Writes times that mostly share their second with the one before, whose text is kept.
    struct Writer {
        private var second: Int64 = .min
        private let text = TextBuffer(capacity: 64)

        mutating func append(microseconds: Int64, to out: TextBuffer) {
            guard microseconds >= 0, microseconds / 1_000_000 == second else {
                text.clear()
                Timestamp.append(microseconds: microseconds, to: text)
                // Kept as far as the point: `2026-01-31T12:34:56.`
                second = text.count == 27 && microseconds >= 0 ? microseconds / 1_000_000 : .min
                return out.add(text.bytes())
            }
            out.add(UnsafeRawBufferPointer(rebasing: text.bytes().prefix(20)))
            out.add(padded: microseconds % 1_000_000, 6)
            out.add("Z")
        }
    }

    /// Reads RFC 3339 with `Z` or an offset; seconds since 1970, or nil.
    static func parse(_ text: String) -> Double? {
        let bytes = Array(text.utf8)
        var index = 0
        func number(_ digits: Int) -> Int64? {
            guard index + digits <= bytes.count else { return nil }
            var value: Int64 = 0
            for _ in 0..<digits {
                guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[index]) else { return nil }
                value = value * 10 + Int64(bytes[index] - UInt8(ascii: "0"))
                index += 1
            }
            return value
        }
        func mark(_ allowed: String) -> Bool {
            guard index < bytes.count, allowed.utf8.contains(bytes[index]) else { return false }
            index += 1
            return true
        }
        guard let year = number(4), mark("-"), let month = number(2), mark("-"), let day = number(2), mark("Tt "),
            let hour = number(2), mark(":"), let minute = number(2), mark(":"), let second = number(2)
        else { return nil }
        guard (1...12).contains(month), (1...31).contains(day), hour < 24, minute < 60, second <= 60 else { return nil }
        var fraction = 0.0
        if mark(".") {
            var scale = 0.1
            let start = index
            while index < bytes.count, index - start < 12, let digit = number(1) {
                fraction += Double(digit) * scale
                scale /= 10
            }
            guard index > start else { return nil }
        }
        var offset: Int64 = 0
        if !mark("Zz") {
            guard index < bytes.count else { return nil }
            let sign: Int64 = bytes[index] == UInt8(ascii: "-") ? -1 : 1
            guard mark("+-"), let hours = number(2), mark(":"), let minutes = number(2), hours < 24, minutes < 60 else {
                return nil
            }
            offset = sign * (hours * 3600 + minutes * 60)
        }
        guard index == bytes.count else { return nil }
        let (_, checkMonth, checkDay) = civil(days(year, month, day))
        guard checkMonth == month, checkDay == day else { return nil }
        return Double(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset) + fraction
    }

    // Days since 1970-01-01 and back, proleptic Gregorian, counted in eras of 400 years from March on.

    private static func civil(_ days: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * shiftedMonth + 2) / 5 + 1)
    }

    private static func days(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
        let y = month <= 2 ? year - 1 : year
        let era = (y >= 0 ? y : y - 399) / 400
        let yearOfEra = y - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }
}
