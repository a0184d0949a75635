import Foundation
import NIOCore
import Testing

@testable import RPC

/// The same port serves HTTP/1.1: keep-alive, pipelining, bodies, streaming, and bounds.
/// Method: requests written by hand, answers compared as text.
@Suite struct HTTP1Tests {
    /// Reads until `text` has come or nothing more does.
    private func read(_ peer: RawPeer, until text: String, seconds: Double = 3) -> String {
        var all = ""
        while !all.contains(text), let bytes = peer.readBytes(seconds: seconds) {
            all += String(decoding: bytes, as: UTF8.self)
        }
        return all
    }

    @Test func keepAlivePipeliningAndBodies() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.write(Array("GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n".utf8))
        let first = read(peer, until: "GET /a?x=1 0")
        #expect(first.hasPrefix("HTTP/1.1 200 OK\r\n") && first.contains("content-length: 12"))
        #expect(first.contains("x-test: 1"))
        let post = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
        let chunked =
            "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        let last = "GET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        peer.write(Array((post + chunked + last).utf8))
        let rest = read(peer, until: "GET /d 0")
        #expect(rest.contains("POST /b 5") && rest.contains("POST /c 7"))
        #expect(peer.isClosed())
    }

    @Test func bytesMayComeOneByOne() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        for byte in Array("PUT /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".utf8) {
            peer.write([byte])
            usleep(500)
        }
        #expect(read(peer, until: "PUT /slow 3").contains("200 OK"))
    }

    @Test func headAnswersHaveNoBody() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.write(
            Array("HEAD /x HTTP/1.1\r\nHost: h\r\n\r\nGET /y HTTP/1.1\r\nHost: h\r\n\r\n".utf8))
        let text = read(peer, until: "GET /y 0")
        #expect(text.contains("content-length: 9") && !text.contains("HEAD /x 0"))
    }

    @Test func streamedAnswersAndLostConnections() throws {
        let server = try TestServer()
        defer { server.stop() }
        let peer = try RawPeer(port: server.port)
        peer.write(Array("GET /stream HTTP/1.1\r\nHost: h\r\n\r\n".utf8))
        let text = read(peer, until: "0\r\n\r\n")
        #expect(text.contains("transfer-encoding: chunked"))
        #expect(text.contains("4\r\none \r\n") && text.contains("3\r\ntwo\r\n"))
        do {
            let lost = try RawPeer(port: server.port)
            lost.write(Array("GET /never HTTP/1.1\r\nHost: h\r\n\r\n".utf8))
            usleep(100_000)
        }
        #expect(server.journal.waitFor("http closed"))
    }

    @Test func boundsHold() throws {
        let server = try TestServer {
            $0.maxHTTPBodyBytes = 1000
            $0.maxHTTPHeadBytes = 8000
        }
        defer { server.stop() }
        let announced = try RawPeer(port: server.port)
        announced.write(Array("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n".utf8))
        #expect(read(announced, until: "\r\n\r\n").hasPrefix("HTTP/1.1 413"))
        #expect(announced.isClosed())
        let chunked = try RawPeer(port: server.port)
        chunked.write(Array("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".utf8))
        let chunk = "1f4\r\n" + String(repeating: "x", count: 500) + "\r\n"
        for _ in 0..<3 { chunked.write(Array(chunk.utf8)) }
        #expect(read(chunked, until: "\r\n\r\n").hasPrefix("HTTP/1.1 413"))
        #expect(chunked.isClosed())
        let header = try RawPeer(port: server.port)
        header.write(Array("GET /x HTTP/1.1\r\n".utf8))
        var accepted = 0
        while accepted < 10_000_000,
            header.write(Array("a: \(String(repeating: "b", count: 1000))\r\n".utf8))
        {
            accepted += 1000
        }
        #expect(header.isClosed())
        #expect(accepted < 10_000_000)
        #expect(server.serves())
    }

    @Test func malformedRequestsAreRefused() throws {
        let server = try TestServer()
        defer { server.stop() }
        let requests = [
            "\u{1}\u{2}\u{3}\u{4} nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET  / HTTP/1.1\r\nBad Header : x\r\n\r\n",
        ]
        for request in requests {
            let peer = try RawPeer(port: server.port)
            peer.write(Array(request.utf8))
            #expect(peer.isClosed(), "\(request)")
        }
        #expect(server.serves())
    }

    @Test func idleAndSlowConnectionsAreCutOff() throws {
        let server = try TestServer {
            $0.idleTimeout = .milliseconds(2500)
            $0.handshakeTimeout = .milliseconds(200)
            $0.requestReceiveTimeout = .milliseconds(200)
        }
        defer { server.stop() }
        let idle = try RawPeer(port: server.port)
        idle.write(Array("GET /a HTTP/1.1\r\nHost: h\r\n\r\n".utf8))
        _ = read(idle, until: "GET /a 0")
        // Longer than the handshake limit, shorter than the idle limit.
        usleep(280_000)
        idle.write(Array("GET /b HTTP/1.1\r\nHost: h\r\n\r\n".utf8))
        #expect(read(idle, until: "GET /b 0").contains("200 OK"))
        idle.write(Array("GET /c HT".utf8))
        #expect(idle.isClosed(seconds: 1.5), "a later head may not be slow either")
        let unused = try RawPeer(port: server.port)
        unused.write(Array("GET /a HTTP/1.1\r\nHost: h\r\n\r\n".utf8))
        _ = read(unused, until: "GET /a 0")
        #expect(unused.isClosed(seconds: 6))
        let body = try RawPeer(port: server.port)
        body.write(Array("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf".utf8))
        #expect(body.isClosed(seconds: 2))
    }
}
