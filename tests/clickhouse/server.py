"""ClickHouse's HTTP interface before ClickHouse's own engine (chdb): for tests.

The engine is the real one: parser, tables, merges, deduplication, exceptions. This page is the door: what a request must
look like, who may come in, and how an error is told. Written after ClickHouse's documentation of the HTTP interface; what the
real one refuses is refused here, and `tests/clickhouse.rs` has a test that it is.

    server.py DIR PORT [CERTIFICATE KEY]

It listens on that port of 127.0.0.1, with TLS where it has a certificate. DIR/data is kept. DIR/password is the password of the
user octroi; without that file none is needed. Lines of DIR/moods are used up, one a request that changes something (read-*: that
reads): what then goes wrong.
"""

import json
import os
import re
import socket
import socketserver
import ssl
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from chdb import session

# HTTP statuses of exceptions; every other code is 500.
STATUS = {
    401: (194,),
    403: (192, 193, 497, 516),
    400: (6, 25, 26, 27, 36, 38, 41, 44, 53, 62, 69, 117, 376, 427),
    404: (46, 47, 50, 56, 60, 63, 73, 81, 115, 511),
    413: (307,),
    411: (381,),
    408: (159,),
    501: (48,),
}
# What a URL may have beside settings and param_*.
PARAMETERS = {
    "query", "database", "default_format", "query_id", "wait_end_of_query", "buffer_size", "user", "password",
    "compress", "decompress", "session_id", "session_timeout", "session_check", "quota_key", "role",
}
TYPES = {
    "JSONCompact": "application/json; charset=UTF-8",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "RowBinary": "application/octet-stream",
}
READS = ("SELECT", "SHOW", "EXISTS", "WITH", "DESCRIBE", "EXPLAIN")


class Refused(Exception):
    """An exception of ClickHouse: its code and its words."""

    def __init__(self, code, words):
        super().__init__(words)
        self.code = code
        self.words = words


LATE = Refused(241, "DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)")


def of_engine(error):
    """The same, of what the engine says."""
    words = str(error)
    found = re.search(r"Code: (\d+)\. (DB::Exception: .*)", words, re.S)
    return Refused(int(found[1]), found[2].strip()) if found else Refused(1002, f"DB::Exception: {words}")


class Engine:
    """One engine, asked one thing at a time; nothing of a request is left for the next one."""

    def __init__(self, path):
        self.session = session.Session(str(path))
        self.file = path.with_name("insert")
        self.lock = threading.Lock()
        self.version = self.ask("SELECT version()").decode().strip()
        self.settings = set(self.ask("SELECT name FROM system.settings").decode().split())

    def ask(self, query, form="TabSeparated", params=None):
        try:
            return self.session.query(query, form, params=params).bytes() or b""
        except Exception as error:
            raise of_engine(error) from None

    def run(self, request):
        """A request's answer, and the format that it is in."""
        query, data = request.query, request.data
        if is_several(query):
            raise Refused(62, "DB::Exception: Syntax error (Multi-statements are not allowed)")
        if not query.strip():
            raise Refused(62, "DB::Exception: Syntax error: failed at position 1 (end of query): . Empty query. (SYNTAX_ERROR)")
        for name in request.settings:
            if name not in self.settings:
                raise Refused(115, f"DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)")
        found = re.search(r"\bFORMAT\s+(\w+)\s*$", query)
        form = found[1] if found else request.form
        is_insert = re.match(r"\s*INSERT\b", query, re.I)
        if data and not is_insert:
            raise Refused(62, "DB::Exception: Syntax error: data behind a query that takes none. (SYNTAX_ERROR)")
        with self.lock:
            if is_insert and found:
                # The engine takes data in a query as text alone, up to a line feed: so it is in a file.
                self.file.write_bytes(data)
                query = f"{query[:found.start()]} FROM INFILE '{self.file}' {found[0]}"
            try:
                self.ask(f"USE `{request.database}`")
                for name, value in request.settings.items():
                    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
                    self.ask(f"SET {name} = '{quoted}'")
                return self.ask(query, form, request.params), form
            finally:
                for name in request.settings:
                    self.ask(f"SET {name} = DEFAULT")
                self.ask("USE default")


def is_several(query):
    """Whether a statement follows a semicolon; what is quoted or a comment has none."""
    bare = re.sub(r"--[^\n]*|'(?:[^'\\]|\\.)*'|`[^`]*`|\"[^\"]*\"", "", query, flags=re.S)
    return ";" in bare.rstrip().rstrip(";")


class Request:
    """A request's parts."""

    def __init__(self, handler):
        parts = urlsplit(handler.path)
        if parts.path != "/":
            raise Refused(404, f"There is no handle {parts.path}")
        try:
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise Refused(36, f"DB::Exception: {error}. (BAD_ARGUMENTS)") from None
        names = dict(pairs)
        self.names = names
        self.params = {key[6:]: value for key, value in pairs if key.startswith("param_")}
        self.settings = {
            key: value for key, value in pairs if key not in PARAMETERS and not key.startswith("param_")
        }
        self.database = names.get("database", "default")
        self.form = names.get("default_format", "TabSeparated")
        self.is_whole = names.get("wait_end_of_query") == "1"
        body = self.body(handler)
        if "query" in names:
            self.query, self.data = names["query"], body
        else:
            # What follows the format's name and a line feed is data.
            found = re.match(rb"(\s*INSERT\b.*?\bFORMAT\s+\w+)\s*\n(.*)$", body, re.S | re.I)
            head, self.data = (found[1], found[2]) if found else (body, b"")
            self.query = head.decode()
        if handler.command == "GET" and not self.query.lstrip().upper().startswith(READS):
            raise Refused(164, "DB::Exception: Cannot execute query in readonly mode. (READONLY)")

    @staticmethod
    def body(handler):
        if handler.command == "GET":
            return b""
        if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
            whole = b""
            while length := int(handler.rfile.readline(), 16):
                whole += handler.rfile.read(length)
                handler.rfile.readline()
            handler.rfile.readline()
            return whole
        length = handler.headers.get("Content-Length")
        if length is None:
            raise Refused(381, "DB::Exception: The Transfer-Encoding is not chunked and there is no Content-Length header "
                               "for POST request. (HTTP_LENGTH_REQUIRED)")
        return handler.rfile.read(int(length))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine = None
    directory = None
    moods = threading.Lock()

    def log_message(self, *_):
        pass

    def address_string(self):
        return "test"

    def mood(self, request):
        """What goes wrong with this one; with one that reads only where the line says read."""
        is_read = not request.data and request.query.lstrip().upper().startswith(READS)
        with self.moods:
            path = self.directory / "moods"
            lines = path.read_text().split() if path.exists() else []
            if not lines or lines[0].startswith("read-") != is_read:
                return None
            path.write_text("\n".join(lines[1:]))
            return lines[0]

    def who(self, names):
        """Refuses whom the real one refuses."""
        file = self.directory / "password"
        wanted = file.read_text() if file.exists() else None
        user, key = self.headers.get("X-ClickHouse-User"), self.headers.get("X-ClickHouse-Key")
        by_header = bool(user or key)
        by_name = "user" in names or "password" in names
        if by_header + by_name + ("Authorization" in self.headers) > 1:
            raise Refused(516, "DB::Exception: Invalid authentication: it is not allowed to use two ways simultaneously. "
                               "(AUTHENTICATION_FAILED)")
        if by_header and not user:
            raise Refused(516, "DB::Exception: Got an empty user name from X-ClickHouse HTTP headers. (AUTHENTICATION_FAILED)")
        if not by_header:
            user, key = names.get("user", "default"), names.get("password", "")
        if wanted is None:
            return
        if not key:
            raise Refused(194, f"DB::Exception: {user}: Password required for user {user}. (REQUIRED_PASSWORD)")
        if (user, key) != ("octroi", wanted):
            raise Refused(516, f"DB::Exception: {user}: Authentication failed: password is incorrect, or there is no user with "
                               "such name. (AUTHENTICATION_FAILED)")

    def serve(self):
        try:
            request = Request(self)
            self.who(request.names)
            mood = self.mood(request)
            if mood == "well":
                mood = None
            if mood == "busy":
                raise Refused(202, "DB::Exception: Too many simultaneous queries. Maximum: 100. (TOO_MANY_SIMULTANEOUS_QUERIES)")
            if mood == "gateway":
                return self.answer(503, b"<html>no upstream</html>", {"Content-Type": "text/html"})
            if mood == "nobody":
                # Something that is no ClickHouse says that all is well.
                return self.answer(200, b"", {})
            if mood == "reset":
                return self.cut()
            if mood == "hang":
                time.sleep(600)
            done, form = self.engine.run(request)
            if mood == "done-reset":
                return self.cut()
            if mood == "done-hang":
                time.sleep(600)
            if mood in ("done-late", "read-late"):
                return self.late(done[:len(done) // 2])
            if mood == "read-tag":
                return self.late(done[:len(done) // 2], "0123456789abcdef")
            if mood == "read-json":
                words = json.dumps(self.said(LATE).decode())
                done = done.replace(b'"rows":', b'"exception": %s,\n\n\t"rows":' % words.encode())
            if mood == "read-short":
                return self.answer(200, done[:len(done) // 2], self.names(form))
        except Refused as refused:
            return self.refuse(refused)
        return self.answer(200, done, self.names(form))

    do_GET = serve
    do_POST = serve

    def names(self, form):
        nothing = {name: "0" for name in ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read",
                                          "result_rows", "result_bytes", "elapsed_ns")}
        return {
            "Content-Type": TYPES.get(form, "text/plain; charset=UTF-8"),
            "X-ClickHouse-Server-Display-Name": "test",
            "X-ClickHouse-Query-Id": str(uuid.uuid4()),
            "X-ClickHouse-Format": form,
            "X-ClickHouse-Timezone": "UTC",
            "X-ClickHouse-Summary": json.dumps(nothing),
        }

    def answer(self, status, body, names):
        self.send_response(status)
        for name, value in names.items():
            self.send_header(name, value)
        if names.get("X-ClickHouse-Format"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            chunks = [body[at:at + 16384] for at in range(0, len(body), 16384)] + [b""]
            for chunk in chunks:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def said(self, refused):
        return f"Code: {refused.code}. {refused.words} (version {self.engine.version})\n".encode()

    def refuse(self, refused):
        if refused.code == 404:
            return self.answer(404, refused.words.encode(), {"Content-Type": "text/plain"})
        statuses = [status for status, codes in STATUS.items() if refused.code in codes]
        self.close_connection = True
        return self.answer(statuses[0] if statuses else 500, self.said(refused), {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Exception-Code": str(refused.code),
            "X-ClickHouse-Server-Display-Name": "test",
        })

    def late(self, begun, tag=None):
        """An exception behind a 200 that has begun. Servers before 25.11 end the body with it as if that was all; later ones name
        a tag in a header, put the words between two lines with it, and do not end the body."""
        words = self.said(LATE)
        names = self.names("TabSeparated")
        if tag is None:
            return self.answer(200, begun + words, names)
        self.send_response(200)
        for name, value in names.items():
            self.send_header(name, value)
        self.send_header("X-ClickHouse-Exception-Tag", tag)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        mark = f"\r\n__exception__\r\n{tag}\r\n".encode()
        chunk = begun + mark + words + f"{len(words)} {tag}\r\n__exception__\r\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.cut()

    def cut(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, *_):
        """A client that went away is no error of the server's."""


def main():
    directory = Path(sys.argv[1])
    Handler.directory = directory
    Handler.engine = Engine(directory / "data")
    server = Server(("127.0.0.1", int(sys.argv[2])), Handler)
    if len(sys.argv) > 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[3:5])
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    parent = os.getppid()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    # It ends with whoever started it, and without a word to the engine, as if it were killed.
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


main()
