"""Attacks by bytes and by time: bodies that swell, messages without end, streams without number, clients that stand still.

Nothing of it may end the process or fill its memory, and whoever comes meanwhile is served (witness.py).
"""

import contextlib
import gzip
import json
import resource
import socket
import ssl
import struct
import threading
import time

import grpc
import psycopg

import flight_client
from attack_access import START_NS, WAIT_S, by_grpc, channel_of, header
from attack_sql import by_postgres
from grpc_client import messages, new
from plant import check, equal
from raw_http2 import (
    CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, RawHttp2, call_headers, connect_tls, frame, literal, message,
)
from witness import open_files, post_http

WRITE, EXECUTE = "/tagmill.v1.Ingest/Write", "/tagmill.v1.Query/Execute"
STREAMS = 100_000
# Of each door: connections that it serves at once (docs/security.md).
CROWD = 600
# A client that stands still is cut off within this: a minute for a statement, one for its answer, and what tells of it.
STILL_S = 150


# ---- bytes -----------------------------------------------------------------------------------------------------------


def bombs(plant):
    """Bodies of which a little becomes much."""
    member = gzip.compress(b"\0" * (64 << 20), 9)
    count = (7 << 20) // len(member)
    for name, body, wanted in [
        (f"{count * 64 >> 10} GiB in {count * len(member) >> 20} MiB", member * count, 413),
        ("64 MiB", member, 413),
        ("lines", gzip.compress(b"m v=1 1\n" * (2 << 20), 9), 413),
        ("a bomb in a bomb", gzip.compress(member * 20, 9), (400, 413)),
        ("cut off", member[: len(member) // 2], (400, 413)),
        # A number of any length is one, if only an infinite one.
        ("one line that does not end", gzip.compress(b"m v=" + b"1" * (7 << 20), 9), (204, 400)),
        ("half a million fields", gzip.compress(b"m " + b",".join(b"f%d=1" % n for n in range(500_000)) + b" 1", 9), 400),
    ]:
        for path in ["/api/v1/write", "/api/v2/write"]:
            status, told = post_http(plant, path, body, "gateway", headers={"Content-Encoding": "gzip"})
            check(status in (wanted if isinstance(wanted, tuple) else (wanted,)), f"{name} by {path}: {status} {told[:200]}")
    for encoding in ["deflate", "br", "zstd", "gzip, gzip", "nonsense"]:
        status, told = post_http(plant, "/api/v2/write", member, "gateway", headers={"Content-Encoding": encoding})
        check(400 <= status < 500, f"a body of {encoding}: {status} {told[:100]}")
    status, told = post_http(plant, "/api/v1/sql", gzip.compress(b"SELECT 1" + b" " * (64 << 20)), headers={"Content-Encoding": "gzip"})
    check(400 <= status < 500, f"a packed statement: {status} {told[:100]}")
    # gRPC messages that say they are packed; the server takes none.
    for path in [WRITE, EXECUTE, "/arrow.flight.protocol.FlightService/DoPut"]:
        with RawHttp2(plant.grpc, plant.ca).settled() as raw:
            opened, number = raw.open(call_headers(path, plant.tokens["boss"], grpc_encoding="gzip"))
            raw.send(opened, *data_frames(number, message(member, compressed=True)))
            check(ends(raw, number), f"a packed message to {path} ends with an answer")
    return f"{len(member)} bytes for 64 MiB"


def data_frames(stream, body, ends_it=True):
    pieces = [body[at:at + 16_384] for at in range(0, len(body), 16_384)] or [b""]
    return [frame(DATA, END_STREAM if ends_it and at == len(pieces) - 1 else 0, stream, piece) for at, piece in enumerate(pieces)]


def ends(raw, number, timeout=WAIT_S):
    """Whether a stream, or the connection, comes to an end."""
    for kind, flags, stream, _ in raw.frames(timeout):
        if kind == GOAWAY or (stream == number and (kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END_STREAM))):
            return True
    return raw.goaway is not None


def large_messages(plant):
    """Over the limit of 4 MiB, and those that only say they are."""
    column = new("TagColumn", count=700_000, base_ns=START_NS, step_ns=1, f64=[1.0] * 700_000)
    large = new("WriteRequest", batch=new("NamedBatch", columns=[new("NamedColumn", name="large/T", column=column)]))
    too_large = (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    with channel_of(plant) as channel:
        for what, call in {
            "Write": lambda: messages["IngestStub"](channel).Write(large, timeout=WAIT_S, metadata=header(plant, "gateway")),
            "Execute": lambda: list(messages["QueryStub"](channel).Execute(new("ExecuteRequest", sql="SELECT '" + "x" * (5 << 20) + "'"), timeout=WAIT_S, metadata=header(plant, "reader"))),
            "Stream": lambda: list(messages["IngestStub"](channel).Stream(iter([new("ClientMessage", hello=new("Hello", gateway="g", agent="x" * (5 << 20)))]), timeout=WAIT_S, metadata=header(plant, "gateway"))),
        }.items():
            try:
                call()
            except grpc.RpcError as error:
                check(error.code() in too_large, f"{what} of 5 MiB is refused for its length: {error.code()} {error.details()}")
            else:
                raise AssertionError(f"does not hold: {what} of 5 MiB is refused")
    # A length of 4 GiB, and then nothing; and the same for each door.
    for path in [WRITE, EXECUTE]:
        with RawHttp2(plant.grpc, plant.ca) as raw:
            opened, number = raw.open(call_headers(path, plant.tokens["boss"]))
            raw.send(opened, *data_frames(number, b"\0\xff\xff\xff\xff" + b"x" * 100, ends_it=False))
            check(ends(raw, number), f"4 GiB announced to {path} end with an answer")
    status, told = post_http(plant, "/api/v2/write", b"m v=1 1\n" * (2 << 20), "gateway")
    check(status in (0, 413), f"a body of 16 MiB: {status} {told[:100]}")
    with connect_tls(plant.http, plant.ca, ["http/1.1"]) as stream:
        # It says 100 GB, and begins with them: after 8 MiB it is cut off.
        with contextlib.suppress(OSError):
            stream.sendall(f"POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {plant.tokens['gateway']}\r\nContent-Length: 99999999999\r\n\r\n".encode())
            for _ in range(64):
                stream.sendall(b"m v=1 1\n" * (128 << 10))
            raise AssertionError("does not hold: a body of 100 GB is cut off")
    with psycopg.connect(**plant.words("reader"), autocommit=True) as connection, contextlib.suppress(psycopg.Error):
        connection.execute("SELECT %s::text", ["x" * (5 << 20)])
        raise AssertionError("does not hold: a value of 5 MiB is refused")
    with psycopg.connect(**plant.words("reader"), autocommit=True) as connection:
        # Many portals and statements of one connection.
        for number in range(1_200):
            found = connection.pgconn.prepare(f"s{number}".encode(), b"SELECT $1::text")
            if found.error_message:
                break
        check(number <= 1_000 and b"prepared" in found.error_message, f"statements of a connection end at {number}: {found.error_message}")


def little_messages(plant):
    """What has two bytes on the wire and much more in memory, two million times, and by eight at once. What is said about it is not
    larger than the question."""
    column = flight_client.field(1, flight_client.field(1, "many/T") + flight_client.field(3, b"\x62\0" * 2_000_000))
    bodies = [
        (WRITE, flight_client.field(3, column)),
        ("/tagmill.v1.Ingest/DefineTags", flight_client.field(2, b"\x12\0" * 2_000_000)),
        ("/tagmill.v1.Admin/DeleteRange", b"\x0a\0" * 2_000_000),
        ("/tagmill.v1.Admin/EditTag", b"\x22\0" * 2_000_000),
        (EXECUTE, b"\x12\0" * 2_000_000),
        (EXECUTE, b"\x0a" + b"\xff" * 9 + b"\x01"),
        ("/arrow.flight.protocol.FlightService/GetFlightInfo", b"\x1a\0" * 2_000_000),
        (WRITE, flight_client.field(3, b"\x0a\0" * 2_000_000)),
    ]
    swollen, told = [], []

    def call(path, body):
        with channel_of(plant) as channel:
            try:
                for answer in channel.unary_stream(path, lambda sent: sent, lambda came: came)(body, timeout=WAIT_S, metadata=header(plant, "boss")):
                    told.append(f"{len(answer)} bytes")
            except grpc.RpcError as error:
                told.append(f"{error.code().name} {error.details()[:100]}")
                if "larger than max" in error.details():
                    swollen.append(f"{path} with {len(body)} bytes: {error.details()}")

    for path, body in bodies:
        threads = [threading.Thread(target=call, args=[path, body]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * WAIT_S)
        check(plant.process.poll() is None, f"the process survives {len(body)} bytes to {path}")
    check(len(told) >= 8 * len(bodies), f"each has an answer: {len(told)}")
    equal(swollen[:1], [], f"answers larger than what was sent, {len(swollen)} of them")
    return f"{len(bodies)} messages, eight at once each"


def floods(plant):
    """Frames that cost a client nothing."""
    end = {}
    with RawHttp2(plant.grpc, plant.ca) as raw:
        # A head that goes on in ever new frames.
        opened = frame(HEADERS, 0, 1, call_headers(WRITE))
        end["CONTINUATION"] = flood(raw, lambda: frame(CONTINUATION, 0, 1, literal("x-more", "y" * 4_000)), 20_000, opened)
    with RawHttp2(plant.grpc, plant.ca) as raw:
        opened = frame(HEADERS, 0, 1, call_headers(WRITE))
        end["empty CONTINUATION"] = flood(raw, lambda: frame(CONTINUATION, 0, 1), 100_000, opened)
    for name, one in [("PING", frame(PING, 0, 0, b"\0" * 8)), ("SETTINGS", frame(SETTINGS, 0, 0)), ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)))]:
        with RawHttp2(plant.grpc, plant.ca) as raw:
            end[name] = flood(raw, lambda one=one: one, 100_000)
    with RawHttp2(plant.grpc, plant.ca) as raw:
        opened, number = raw.open(call_headers(WRITE, plant.tokens["gateway"]))
        end["empty DATA"] = flood(raw, lambda: frame(DATA, 0, number), 100_000, opened)
    with RawHttp2(plant.grpc, plant.ca) as raw:
        opened, number = raw.open(call_headers(WRITE, plant.tokens["gateway"], x_long="y" * 60_000))
        raw.send(opened[:3], b"")  # a head that is longer than a frame may be
        check(ends_anyhow(raw, opened[3:]), "a head of 60 KB ends the connection")
    return ", ".join(f"{name}: {count} taken{'' if over else ', all'}" for name, (count, over) in end.items())


def flood(raw, make, most, first=b""):
    """Sends until the server ends it. How many went out, and whether it did."""
    with contextlib.suppress(OSError):
        raw.send(first)
        sent = 0
        while sent < most:
            raw.send(b"".join(make() for _ in range(100)))
            sent += 100
            if sent % 1_000 == 0:
                for _ in raw.frames(0.001):
                    pass
                if raw.goaway is not None:
                    return sent, True
        return sent, False
    return sent, True


def ends_anyhow(raw, bytes_sent):
    with contextlib.suppress(OSError):
        raw.send(bytes_sent)
        for kind, _, _, _ in raw.frames(WAIT_S):
            if kind in (GOAWAY, RST_STREAM, HEADERS):
                return True
    return True


# ---- streams and connections -----------------------------------------------------------------------------------------


def tiny_streams(plant):
    """100,000 streams: reset as soon as they are opened, held open beyond what one connection may have, and called to the end."""
    reset, connections = rapid_resets(plant, STREAMS // 4)
    held, refused = held_streams(plant, 2_000)
    called = tiny_calls(plant, STREAMS - reset - held)
    equal(reset + held + called >= STREAMS, True, f"streams: {reset} + {held} + {called}")
    return f"{reset} reset on {connections} connections, {held} held on one ({refused} refused), {called} called to their end"


def rapid_resets(plant, wanted):
    opened = connections = 0
    deadline = time.monotonic() + WAIT_S
    while opened < wanted and time.monotonic() < deadline:
        connections += 1
        with RawHttp2(plant.grpc, plant.ca) as raw, contextlib.suppress(OSError):
            while opened < wanted and raw.goaway is None:
                pieces = []
                for _ in range(50):
                    begin, number = raw.open(call_headers(EXECUTE, plant.tokens["reader"]))
                    pieces += [begin, frame(RST_STREAM, 0, number, struct.pack(">I", 8))]
                raw.send(*pieces)
                opened += 50
                for _ in raw.frames(0.001):
                    pass
    return opened, connections


def held_streams(plant, wanted):
    """Calls that say nothing after their head, all on one connection."""
    refused = opened = 0
    with RawHttp2(plant.grpc, plant.ca) as raw:
        # What it may have is told in the server's first settings; it goes on all the same.
        with contextlib.suppress(OSError):
            for _ in range(wanted):
                raw.send(raw.open(call_headers(WRITE, plant.tokens["gateway"]))[0])
                opened += 1
        for kind, _, _, payload in raw.frames(2):
            refused += kind == RST_STREAM and payload[3] == 7
        check(refused >= wanted - 100 or raw.goaway is not None, f"streams beyond those allowed are refused: {refused} of {opened}")
    return opened, refused


def tiny_calls(plant, wanted):
    """Calls without a token, to the end, thirty at once on each of four connections."""
    done = [0] * 4

    def call(place):
        share, headers = -(-wanted // len(done)), call_headers(EXECUTE)
        while done[place] < share:
            with RawHttp2(plant.grpc, plant.ca) as raw, contextlib.suppress(OSError):
                sent = over = 0
                while over < share - done[place] and raw.goaway is None:
                    pieces = []
                    while sent - over < 30 and sent < share - done[place]:
                        pieces.append(raw.open(headers, ends=True)[0])
                        sent += 1
                    raw.send(*pieces)
                    for kind, flags, stream, _ in raw.frames(WAIT_S):
                        over += stream != 0 and (kind == RST_STREAM or bool(flags & END_STREAM and kind in (HEADERS, DATA)))
                        if sent - over < 15:
                            break
                    else:
                        break
            done[place] += over
            if not over:
                return

    threads = [threading.Thread(target=call, args=[place]) for place in range(len(done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * WAIT_S)
    return sum(done)


def crowds(plant):
    """More connections than the door of gRPC serves. Whoever comes by another door is served meanwhile, by this one as soon as
    the crowd has gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * CROWD)), hard))
    before = open_files(plant)
    with contextlib.ExitStack() as crowd:
        for _ in range(CROWD - 100):
            crowd.enter_context(RawHttp2(plant.grpc, plant.ca))
        for _ in range(100):
            crowd.callback(socket.create_connection(("127.0.0.1", plant.grpc), 10).close)
        time.sleep(3)
        most = open_files(plant) - before
        check(most <= 530, f"connections taken at once: {most}")
    equal(by_grpc(plant, "SELECT 1", "reader"), [[1]], "gRPC after the crowd has gone")
    deadline = time.monotonic() + WAIT_S
    while open_files(plant) > before + 10:
        check(time.monotonic() < deadline, f"files are let go: {open_files(plant)} of {before}")
        time.sleep(0.2)
    return f"{CROWD} connections, {most} taken at once"


# ---- clients that stand still ----------------------------------------------------------------------------------------


class Still:
    """One client that stands still, and whether it was cut off."""

    def __init__(self, name, wait):
        self.name, self.cut_after_s = name, None
        self.thread = threading.Thread(target=self.run, args=[wait], daemon=True)
        self.error = None
        self.thread.start()

    def run(self, wait):
        began = time.monotonic()
        try:
            if wait():
                self.cut_after_s = time.monotonic() - began
        except Exception as error:
            self.error = error

    def said(self):
        return f"{self.name} {'kept' if self.cut_after_s is None else f'{self.cut_after_s:.0f} s'}"


def closes(stream, most=STILL_S, drip=None):
    """Whether the other end closes, while we send nothing or now and then a byte."""
    deadline = time.monotonic() + most
    stream.settimeout(1)
    while time.monotonic() < deadline:
        try:
            if drip:
                stream.sendall(drip())
            if not stream.recv(65_536):
                return True
        except (TimeoutError, ssl.SSLWantReadError):
            pass
        except OSError:
            return True
    return False


def in_tcp(port, first=b""):
    stream = socket.create_connection(("127.0.0.1", port), 10)
    stream.sendall(first)
    return stream


# A TLS hello that never gets to its end.
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
SSL_REQUEST = struct.pack(">ii", 8, 80_877_103)


def slow_hands(plant):
    """Those who do not come to the point: in the handshake, in the login, in the head of a request, in a body."""
    still = []
    for name, port, first in [("gRPC", plant.grpc, b""), ("HTTP", plant.http, b""), ("PostgreSQL", plant.port, b"")]:
        for _ in range(24):
            still.append(Still(f"silent to {name}", lambda port=port, first=first: closes(in_tcp(port, first), most=90)))
        still.append(Still(f"half a hello to {name}", lambda port=port: closes(in_tcp(port, (SSL_REQUEST if port == plant.port else b"") + HELLO), most=90)))
        still.append(Still(f"a hello by bytes to {name}", lambda port=port: closes(in_tcp(port, (SSL_REQUEST if port == plant.port else b"") + HELLO), most=90, drip=lambda: b"\0")))
    still.append(Still("half a startup", lambda: closes(in_tcp(plant.port, b"\0\0\0\x50\0\x03\0\0user"), most=90)))
    still.append(Still("TLS, then nothing, to gRPC", lambda: closes(connect_tls(plant.grpc, plant.ca), most=90)))
    still.append(Still("TLS, then nothing, to HTTP", lambda: closes(connect_tls(plant.http, plant.ca, ["http/1.1"]), most=90)))

    def http(first, drip=None):
        stream = connect_tls(plant.http, plant.ca, ["http/1.1"])
        stream.sendall(first)
        return closes(stream, drip=drip)

    still.append(Still("half a head", lambda: http(b"POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nX-")))
    still.append(Still("a head by lines", lambda: http(b"POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\n", lambda: b"X-More: y\r\n")))
    still.append(Still("a kept connection without a next request", lambda: http(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")))
    write = f"POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {plant.tokens['gateway']}\r\n".encode()
    still.append(Still("half a body", lambda: http(write + b"Content-Length: 1000\r\n\r\nm v=")))
    still.append(Still("a body by bytes", lambda: http(write + b"Content-Length: 100000\r\n\r\n", lambda: b"m")))
    still.append(Still("chunks without end", lambda: http(write + b"Transfer-Encoding: chunked\r\n\r\n", lambda: b"1\r\nm\r\n")))

    def half_a_call(path, answers_pings):
        raw = RawHttp2(plant.grpc, plant.ca)
        opened, number = raw.open(call_headers(path, plant.tokens["boss"]))
        raw.send(opened, *data_frames(number, message(b"x" * 1_000)[:500], ends_it=False))
        if not answers_pings:
            # Nothing is read at all until the time is over.
            time.sleep(60)
            with contextlib.suppress(OSError):
                raw.stream.settimeout(5)
                while raw.stream.recv(65_536):
                    pass
                return True
            return True
        deadline = time.monotonic() + STILL_S
        while time.monotonic() < deadline:
            for kind, flags, stream, _ in raw.frames(1):
                if kind == GOAWAY or (stream == number and (kind == RST_STREAM or flags & END_STREAM)):
                    return True
            if raw.goaway is not None:
                return True
        return False

    still.append(Still("half a message, pings unanswered", lambda: half_a_call(WRITE, False)))
    still.append(Still("half a message, pings answered", lambda: half_a_call(WRITE, True)))
    return settle(still)


def settle(still):
    for one in still:
        one.thread.join(STILL_S + WAIT_S)
    for one in still:
        check(one.error is None, f"{one.name} could be tried: {one.error!r}")
    kept = [one.name for one in still if one.cut_after_s is None]
    equal(kept, [], "clients that stand still and are not cut off")
    said = {one.name: one.said() for one in sorted(still, key=lambda one: one.cut_after_s or 0)}
    return f"{len(still)} of them, cut off after: {', '.join(said.values())}"


def slow_readers(plant):
    """Those who ask for much and take nothing: cut off, and their places free again."""
    many = "SELECT a.ts, a.tag, a.value, b.value AS other, '{0}' AS mark FROM samples a, samples b WHERE a.tag = 'plant/u1/T' AND b.tag = 'plant/u10/T' AND b.value < 10040"

    def postgres():
        connection = psycopg.connect(**plant.words("reader", options="-c statement_timeout=20s"), autocommit=True)
        connection.pgconn.send_query(many.format("slow-postgres").encode())
        return gone("slow-postgres")

    def http():
        stream = connect_tls(plant.http, plant.ca, ["http/1.1"])
        body = json.dumps({"sql": many.format("slow-http"), "settings": {"statement_timeout": "20s"}})
        stream.sendall(f"POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {plant.tokens['reader']}\r\n"
                       f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        return gone("slow-http", stream)

    def grpc_execute():
        raw = RawHttp2(plant.grpc, plant.ca)
        sql = many.format("slow-grpc")
        opened, number = raw.open(call_headers(EXECUTE, plant.tokens["reader"]))
        setting = flight_client.field(2, flight_client.field(1, "statement_timeout") + flight_client.field(2, "20s"))
        raw.send(opened, *data_frames(number, message(flight_client.field(1, sql) + setting)))
        # Pings are answered, windows never opened.
        threading.Thread(target=lambda: list(raw.frames(STILL_S)), daemon=True).start()
        return gone("slow-grpc", raw)

    def flight():
        # Another one: nobody has all the places.
        plain = flight_client.PlainFlight(plant, "boss")
        info = plain.info("CommandStatementQuery", flight_client.field(1, many.format("slow-flight")))
        reader = plain.client.do_get(info.endpoints[0].ticket, flight_client.pyarrow.flight.FlightCallOptions(headers=plain_headers(plant, "boss")))
        return gone("slow-flight", reader)

    def gone(mark, *held):
        """Whether the statement comes to run and then ends. What it would be read with is held meanwhile."""
        see = f"SELECT count(*) FROM system.queries WHERE sql LIKE '%{mark}%' AND sql NOT LIKE '%system.queries%'"
        seen, deadline = False, time.monotonic() + STILL_S
        while time.monotonic() < deadline:
            told = by_postgres(plant, see, "boss", timeout="30s")
            if told.rows and told.rows[0][0]:
                seen = True
            elif told.rows and seen:
                return bool(held or True)
            time.sleep(0.3)
        check(seen, f"{mark} ran")
        return False

    return settle([Still("PostgreSQL", postgres), Still("HTTP", http), Still("gRPC", grpc_execute), Still("Flight", flight)])


def plain_headers(plant, user):
    return [(b"authorization", f"Bearer {plant.tokens[user]}".encode())]


NETWORK_CASES = [bombs, large_messages, little_messages, floods, tiny_streams, crowds]
# These wait until others would have lost their patience.
PATIENT_CASES = [slow_readers, slow_hands]
