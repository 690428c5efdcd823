import Glibc
import Testing

@testable import UvLoop

/// A real HTTP server in Python, whose answers are slow, cut off, huge, or what else is asked for.
/// It ends when its standard input does, so also if the tests crash.
final class HTTPPeer {
    let port: UInt16
    private let input: Int32

    /// - Parameter tls: certificate, key, and the authority whose clients alone are let in, or "".
    init(on loop: Loop, tls: [String] = []) throws {
        try #require(
            Files.isExecutable(path: "/usr/bin/python3"),
            "this test needs Python: apt-get install python3")
        let ends = try Self.pipe()
        let answers = try Self.pipe()
        input = ends[1]
        _ = try ChildProcess.spawn(
            executable: "/usr/bin/python3", arguments: ["-c", Self.program] + tls,
            descriptors: [.inherit(ends[0]), .inherit(answers[1])], on: loop
        ) { _ in }
        Descriptors.close(ends[0])
        Descriptors.close(answers[1])
        var said: [UInt8] = []
        var byte: UInt8 = 0
        while Glibc.read(answers[0], &byte, 1) == 1, byte != UInt8(ascii: "\n") { said.append(byte) }
        Descriptors.close(answers[0])
        port = try #require(UInt16(text(said)), "the server in Python has not started")
    }

    private static func pipe() throws -> [Int32] {
        var ends: [Int32] = [0, 0]
        try #require(Glibc.pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        return ends
    }

    deinit { Descriptors.close(input) }

    func url(_ path: String) -> String { "http://127.0.0.1:\(port)\(path)" }

    /// `/port` tells the port of the connection.
    private static let program = #"""
        import http.server, os, socket, ssl, sys, threading, time, urllib.parse

        gate = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *arguments):
                pass

            def answer(self, body, status=200):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def piece(self, text):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
                self.wfile.flush()

            def do_POST(self):
                count = int(self.headers["Content-Length"] or 0)
                body = self.rfile.read(count)
                kind = (self.headers["Content-Type"] or "none").encode()
                if self.headers["Expect"]:
                    self.answer(b"asked for leave", 417)
                elif self.path == "/kind":
                    self.answer(kind)
                else:
                    self.answer(body)

            def do_GET(self):
                path, _, number = self.path.partition("?")
                number = int(number or 0)
                if path == "/port":
                    self.answer(str(self.client_address[1]).encode())
                elif path == "/status":
                    self.answer(b"told", number)
                elif path == "/slow":
                    time.sleep(number / 1000)
                    self.answer(b"slow")
                elif path == "/stall":
                    self.send_response(200)
                    self.send_header("Content-Length", "10")
                    self.end_headers()
                    self.wfile.write(b"half")
                    time.sleep(60)
                elif path == "/cut":
                    self.send_response(200)
                    self.send_header("Content-Length", "100")
                    self.end_headers()
                    self.wfile.write(b"a part of it")
                    self.close_connection = True
                elif path == "/drop":
                    self.close_connection = True
                elif path == "/once":
                    # Says that the connection is kept, and closes it.
                    self.answer(str(self.client_address[1]).encode())
                    self.close_connection = True
                elif path == "/huge":
                    self.answer(b"x" * number)
                elif path == "/endless":
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    while True:
                        self.piece(b"y" * 65536)
                elif path == "/open":
                    gate.set()
                    self.answer(b"")
                elif path == "/pieces":
                    gate.clear()
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.piece(b"first")
                    gate.wait(30)
                    self.piece(b"second")
                    self.piece(b"")

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *arguments):
                pass

            def finish_request(self, request, address):
                if context:
                    request.settimeout(10)
                    request = context.wrap_socket(request, server_side=True)
                super().finish_request(request, address)

        context = None
        if len(sys.argv) > 1:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(sys.argv[1], sys.argv[2])
            if sys.argv[3]:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(sys.argv[3])
        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()
        os._exit(0)
        """#
}
