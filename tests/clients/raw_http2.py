"""HTTP/2 by hand: what no library would send.

A connection over TLS that writes frames as it is told and reads those that come. It keeps no rules: streams are opened
beyond what the server allows, reset at once, left half said. It knows just enough of HPACK to send headers in clear, and
none to read them: of an answer it tells frames, not words.
"""

import contextlib
import socket
import ssl
import struct
import time

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES_MAX = 16_384


def connect_tls(port, ca, protocols=("h2",), timeout=30, certificate=None):
    """A TLS connection; a certificate is a pair of files, of the certificate and of its key."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(list(protocols))
    if certificate:
        context.load_cert_chain(*[str(path) for path in certificate])
    stream = socket.create_connection(("127.0.0.1", port), timeout)
    try:
        return context.wrap_socket(stream, server_hostname="localhost")
    except BaseException:
        stream.close()
        raise


def literal(name, value):
    """A header, spelled out and not to be remembered."""
    def text(value):
        value = value if isinstance(value, bytes) else value.encode()
        if len(value) < 127:
            return bytes([len(value)]) + value
        out, rest = bytearray([127]), len(value) - 127
        while rest > 127:
            out.append(rest & 127 | 128)
            rest >>= 7
        return bytes(out) + bytes([rest]) + value

    return b"\0" + text(name) + text(value)


def call_headers(path, token=None, **more):
    """Headers of a gRPC call."""
    headers = {":method": "POST", ":scheme": "https", ":path": path, ":authority": "localhost", "content-type": "application/grpc", "te": "trailers"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    headers.update({name.replace("_", "-"): value for name, value in more.items()})
    return b"".join(literal(name, value) for name, value in headers.items())


def message(body, compressed=False):
    """A gRPC message as it stands in DATA."""
    return struct.pack(">BI", compressed, len(body)) + body


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class RawHttp2:
    """One connection."""

    def __init__(self, port, ca, window=None, **words):
        self.stream = connect_tls(port, ca, **words)
        self.next, self.unread, self.goaway = 1, b"", None
        # SETTINGS_INITIAL_WINDOW_SIZE says how much of an answer may come unasked.
        settings = b"" if window is None else struct.pack(">HI", 4, window)
        self.stream.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.stream.close()

    def settled(self):
        """The same, once the server has said how much it takes unasked, and knows that we know."""
        for kind, flags, _, _ in self.frames(10):
            if kind == SETTINGS and flags & ACK:
                break
        return self

    def open(self, headers, ends=False):
        """The bytes that open a stream, and its number."""
        number = self.next
        self.next += 2
        return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), number, headers), number

    def send(self, *frames):
        self.stream.sendall(b"".join(frames))

    def frames(self, timeout):
        """Frames as they come, for so long: kind, flags, stream, payload. Ends with the connection. Settings and pings are
        answered."""
        until = time.monotonic() + timeout
        while True:
            while len(self.unread) >= 9 and len(self.unread) >= 9 + (length := int.from_bytes(self.unread[:3], "big")):
                kind, flags = self.unread[3], self.unread[4]
                number = struct.unpack(">I", self.unread[5:9])[0] & 0x7FFF_FFFF
                payload, self.unread = self.unread[9:9 + length], self.unread[9 + length:]
                if kind in (SETTINGS, PING) and not flags & ACK:
                    with contextlib.suppress(OSError):
                        self.send(frame(kind, ACK, 0, payload if kind == PING else b""))
                if kind == GOAWAY:
                    self.goaway = struct.unpack(">I", payload[4:8])[0]
                yield kind, flags, number, payload
            left = until - time.monotonic()
            if left <= 0:
                return
            try:
                self.stream.settimeout(left)
                came = self.stream.recv(65_536)
            except (TimeoutError, ssl.SSLWantReadError):
                return
            except OSError:
                came = b""
            if not came:
                self.goaway = -1 if self.goaway is None else self.goaway
                return
            self.unread += came
