// Counters must count, histograms must be cumulative in the exposition, and labels must be escaped:
// checked against text written by hand.

import Testing

@testable import Metrics

@Test func histogramsAreCumulativeWithAnInfinityBucket() {
    let histogram = DurationHistogram(HistogramBuckets(start: 0.001, factor: 2, count: 3))
    histogram.observe(nanoseconds: 1_000_000)  // on a bound: belongs to it
    histogram.observe(nanoseconds: 1_500_000)
    histogram.observe(nanoseconds: 9_000_000_000)
    var exposition = Exposition()
    exposition.histogram("h_seconds", "Help.", histogram)
    #expect(
        exposition.text == """
            # HELP h_seconds Help.
            # TYPE h_seconds histogram
            h_seconds_bucket{le="0.001"} 1
            h_seconds_bucket{le="0.002"} 2
            h_seconds_bucket{le="0.004"} 2
            h_seconds_bucket{le="+Inf"} 3
            h_seconds_sum 9.0025
            h_seconds_count 3

            """)
}

@Test func labelsAndNumbersArePrintedAsTheFormatSays() {
    var exposition = Exposition()
    exposition.family("c", .counter, "a\nb\\c")
    exposition.sample("c", labels: [("k", "a\"b\\c\nd")], 3)
    #expect(exposition.text == "# HELP c a\\nb\\\\c\n# TYPE c counter\nc{k=\"a\\\"b\\\\c\\nd\"} 3\n")
    #expect(Exposition.number(1.5) == "1.5")
    #expect(Exposition.number(.infinity) == "+Inf")
    #expect(Exposition.number(-2) == "-2")
}

@Test func countersAddAndSet() {
    let counters = CounterArray(count: 2)
    counters.add(0)
    counters.add(0, 4)
    counters.set(1, 9)
    #expect(counters[0] == 5 && counters[1] == 9)
}
