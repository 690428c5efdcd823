"""Receivers for the notifier's sinks: certificates by authorities of their own, mail servers, syslog daemons
that read strictly, web servers that misbehave."""
import http.server
import logging
import os
import re
import socket
import ssl
import subprocess
import threading
import time
import warnings

from support import wait_until  # first: it sets the path for the others


def with_mount(source, target):
    """What runs a command so that it sees `source` at `target`, and nobody else does."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--mount", "sh", "-c", f'mount --bind {source} {target} && exec "$@"', "sh"]


# ---- certificates ----

class Authority:
    """A certificate authority of its own, and what it has signed."""

    def __init__(self, directory, name):
        self.directory, self.name = directory, name
        self.file, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-days", "2", "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.file)

    @staticmethod
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def context(self, host):
        """A server's TLS for the name or address `host`."""
        path = self.directory / f"{self.name}-{host}"
        kind = "IP" if re.fullmatch(r"[\d.]+", host) else "DNS"
        extensions = path.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={kind}:{host}\nextendedKeyUsage=serverAuth\n")
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                     f"/CN={host}", "-keyout", f"{path}.key", "-out", f"{path}.csr")
        self.openssl("x509", "-req", "-in", f"{path}.csr", "-CA", self.file, "-CAkey", self.key,
                     "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", f"{path}.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{path}.pem", f"{path}.key")
        return context


# ---- syslog ----

class SyslogError(Exception):
    pass


HEADER = re.compile(
    rb"<(0|[1-9]\d{0,2})>([1-9]\d{0,2}) "
    rb"(-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)) "
    rb"([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) ")
ELEMENT = re.compile(rb"\[([!#-<>-\\^-~]{1,32})((?: [!#-<>-\\^-~]{1,32}=\"(?:[^\"\\\]]|\\[\"\\\]])*\")*)\]")
PARAMETER = re.compile(rb" ([!#-<>-\\^-~]{1,32})=\"((?:[^\"\\\]]|\\[\"\\\]])*)\"")


def parse_syslog(message):
    """What an RFC 5424 message says. Anything that its grammar does not have is an error."""
    header = HEADER.match(message)
    if not header:
        raise SyslogError(f"no header: {message!r}")
    priority, version, stamp, host, app, process, kind = header.groups()
    if int(priority) > 191 or version != b"1":
        raise SyslogError(f"priority or version: {message!r}")
    rest, data = message[header.end():], {}
    if rest.startswith(b"-"):
        rest = rest[1:]
    else:
        while element := ELEMENT.match(rest):
            name, parameters = element.groups()
            if name in data:
                raise SyslogError(f"{name!r} twice: {message!r}")
            found = PARAMETER.findall(parameters)
            data[name.decode()] = {
                key.decode(): re.sub(rb"\\([\"\\\]])", rb"\1", value).decode()
                for key, value in found}
            rest = rest[element.end():]
        if not data:
            raise SyslogError(f"no structured data: {message!r}")
    if rest and not rest.startswith(b" "):
        raise SyslogError(f"no space before the text: {message!r}")
    text = rest[1:]
    if text.startswith(b"\xef\xbb\xbf"):
        text = text[3:]
    elif not text.isascii():
        raise SyslogError(f"UTF-8 without its mark: {message!r}")
    return {"facility": int(priority) // 8, "severity": int(priority) % 8, "time": stamp.decode(),
            "host": host.decode(), "app": app.decode(), "process": process.decode(),
            "kind": kind.decode(), "data": data, "text": text.decode()}


def split_frames(received):
    """(messages, what is left) of a stream with octet counting (RFC 6587)."""
    messages = []
    while True:
        count = re.match(rb"([1-9]\d{0,8}) ", received)
        if not count:
            if received and not re.fullmatch(rb"[1-9]\d{0,8}", received):
                raise SyslogError(f"no count: {received[:80]!r}")
            return messages, received
        end = count.end() + int(count[1])
        if len(received) < end:
            return messages, received
        messages.append(received[count.end():end])
        received = received[end:]


class StrictSyslog:
    """Takes messages over TCP. Until `reads` is set it accepts connections and reads nothing, and keeps
    no more than a few kilobytes for later."""

    def __init__(self, port=0, reads=True):
        self.reads = threading.Event()
        if reads:
            self.reads.set()
        self.messages, self.error, self.connections = [], None, []
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.read, args=(connection,), daemon=True).start()

    def read(self, connection):
        left = b""
        try:
            while self.reads.wait(60) and (part := connection.recv(100)):
                found, left = split_frames(left + part)
                self.messages += map(parse_syslog, found)
        except SyslogError as error:
            self.error = error
        except OSError:
            pass

    @property
    def ids(self):
        if self.error:
            raise self.error
        return [message["data"]["fermata@32473"]["id"] for message in list(self.messages)]

    def close(self):
        """As a process that dies: whoever sends gets a reset. Twice does no harm."""
        if self.listener.fileno() < 0:
            return
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()


class Rsyslog:
    """Debian's rsyslogd with a configuration of its own, as a process of the test. What it takes by UDP
    and TCP it writes to `file`, as it came."""

    def __init__(self, directory, port):
        self.port, self.file = port, directory / "rsyslog.out"
        self.config, self.errors = directory / "rsyslog.conf", directory / "rsyslog.err"
        self.pid_file = directory / "rsyslog.pid"
        self.config.write_text(f"""
global(workDirectory="{directory}" net.enableDNS="off")
module(load="imudp")
module(load="imtcp")
template(name="raw" type="string" string="%inputname% %rawmsg%\\n")
ruleset(name="all") {{ action(type="omfile" file="{self.file}" template="raw" asyncWriting="off"
                       flushOnTXEnd="on") }}
input(type="imudp" address="127.0.0.1" port="{port}" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="all")
""")
        self.process = None

    def start(self):
        self.pid_file.unlink(missing_ok=True)
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(
                ["rsyslogd", "-n", "-f", self.config, "-i", self.pid_file], stdin=subprocess.DEVNULL,
                stdout=errors, stderr=errors)
        wait_until(self.listens, 60, f"rsyslogd to listen: {self.errors.read_text()}")
        return self

    def listens(self):
        assert self.process.poll() is None, self.errors.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait(30)

    def received(self, way):
        """The ids of what came by `imudp` or `imtcp`, all of it as the grammar says."""
        lines = self.file.read_bytes().split(b"\n") if self.file.exists() else []
        found = [line.partition(b" ")[2] for line in lines[:-1] if line.startswith(way.encode() + b" ")]
        return [parse_syslog(message)["data"]["fermata@32473"]["id"] for message in found]


# ---- mail ----

class MailServer:
    """Debian's aiosmtpd. tls: (context, "starttls" or "tls"); replies: to the next mails, then 250."""

    def __init__(self, tls=None, password=None, replies=()):
        # It tells of each handshake that fails, as it shall here.
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", "Requiring AUTH", UserWarning)
        from aiosmtpd.controller import Controller
        from aiosmtpd.smtp import AuthResult
        self.mails, self.logins, replies = [], [], list(replies)
        mails, logins = self.mails, self.logins

        class Handler:
            async def handle_DATA(self, server, session, envelope):
                answer = replies.pop(0) if replies else "250 taken"
                mails.append((answer, envelope, session))
                return answer

        def check(server, session, envelope, mechanism, data):
            logins.append((mechanism, data.login.decode(), data.password.decode()))
            # A login that fails is answered by aiosmtpd itself: 535.
            return AuthResult(success=data.password.decode() == password, handled=False)

        options = {}
        if password:
            options |= dict(authenticator=check, auth_required=True)
        context, how = tls or (None, None)
        if how == "starttls":
            options |= dict(tls_context=context, require_starttls=True)
        if how == "tls":
            options |= dict(ssl_context=context, auth_require_tls=False)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.controller = Controller(Handler(), hostname="127.0.0.1", port=port, ready_timeout=60,
                                     **options)
        if how == "tls":
            self.controller._trigger_server = self.look
        self.controller.start()
        self.place = f"127.0.0.1:{port}"

    def look(self):
        """Whether it has started; the controller's own look does not work with a server's context."""
        client = ssl.create_default_context()
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        place = ("127.0.0.1", self.controller.port)
        with socket.create_connection(place, 30) as plain, client.wrap_socket(plain) as secure:
            secure.recv(1024)

    @property
    def ids(self):
        """Of the mails that it has taken."""
        return [re.search(rb"Message-ID: <(.*)@", envelope.content)[1].decode()
                for answer, envelope, _ in list(self.mails) if answer.startswith("250")]

    def close(self):
        self.controller.stop()


# ---- web servers ----

class Web(http.server.ThreadingHTTPServer):
    """Answers each request by `answer(handler, body)`; `seen` has (idempotency key, path)."""
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer, context=None):
        self.answer, self.seen = answer, []
        self.ends = threading.Event()
        super().__init__(("127.0.0.1", 0), WebHandler)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server_address[1]}"
        if context:
            # The handshake is the handler's, so that one that hangs stops nobody else.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass

    @property
    def keys(self):
        return [key for key, _ in list(self.seen)]

    def close(self):
        self.ends.set()
        self.shutdown()
        self.server_close()


class WebHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.headers["Idempotency-Key"], self.path))
        self.server.answer(self, body)

    do_GET = do_PUT = do_POST

    def say(self, status, body=b"ok", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def cut(self):
        """Ends the connection with what was said so far."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass


def well(handler, _):
    handler.say(200)


def dribble(handler, _):
    """The status at once, then a byte now and then, without end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.ends.wait(0.2):
        handler.wfile.write(b".")


def flood(handler, _):
    """The status, then as much as is read, up to 256 MiB."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(256 << 20))
    handler.end_headers()
    for _ in range(256):
        handler.wfile.write(b"x" * (1 << 20))


def slowly(handler, _):
    time.sleep(1)
    handler.say(200)


def break_off(handler, _):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"half")
    handler.cut()


def garbage(handler, _):
    handler.wfile.write(b"\x16\x03\x00 220 hello\r\n\0\xff\r\n\r\n")
    handler.cut()


def hang(handler, _):
    handler.server.ends.wait(120)
    handler.cut()
