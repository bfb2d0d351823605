"""Attacks by gateways: each has a writer's token, and does its worst on a stream of the ingest API.

An honest gateway with a token of its own is served meanwhile (witness.py).
"""

import contextlib
import struct
import time

from attack_access import START_NS, by_grpc
from grpc_client import messages, new
from plant import check, equal
from raw_http2 import DATA, WINDOW_UPDATE, RawHttp2, call_headers, frame, message

# What the server takes of a stream before it has read it.
WINDOW_BYTES = 6 << 20
# Streams of one token, each on a connection of its own.
MANY = 30


class Gateway:
    """A stream by hand. It answers pings, and has no room for any answer."""

    def __init__(self, plant, name):
        self.raw = RawHttp2(plant.grpc, plant.ca, window=0).settled()
        opened, self.number = self.raw.open(call_headers("/tagmill.v1.Ingest/Stream", plant.tokens["gateway"]))
        self.raw.send(opened)
        self.room = WINDOW_BYTES
        self.say(hello=new("Hello", gateway=name, epoch=1))
        tag = new("TagDefinition", alias=1, name=f"{name}/T", type=messages["ValueType"].Value("VALUE_TYPE_F64"))
        self.say(define_tags=new("DefineTags", id=1, tags=[tag]))

    def say(self, length=None, **words):
        """Sends a message, or so many bytes of it. False if the server makes no room for it."""
        body = message(new("ClientMessage", **words).SerializeToString())[:length]
        for piece in [body[at:at + 16_384] for at in range(0, len(body), 16_384)]:
            deadline = time.monotonic() + 1
            while self.room < len(piece):
                self.listen(0.1)
                if time.monotonic() > deadline:
                    return False
            self.raw.send(frame(DATA, 0, self.number, piece))
            self.room -= len(piece)
        return True

    def send(self, seq, samples, length=None):
        column = new("TagColumn", alias=1, count=samples, base_ns=START_NS, step_ns=1, f64=[1.0] * samples)
        return self.say(length, batch=new("Batch", seq=seq, columns=[column]))

    def listen(self, seconds):
        for kind, _, stream, payload in self.raw.frames(seconds):
            if kind == WINDOW_UPDATE and stream == self.number:
                self.room += int.from_bytes(payload, "big")
                return


@contextlib.contextmanager
def gateways(plant, name, count):
    with contextlib.ExitStack() as held:
        made = [Gateway(plant, f"{name}/{number}") for number in range(count)]
        for gateway in made:
            held.enter_context(gateway.raw)
        yield made


def connected(plant, name):
    sql = f"SELECT count(*) FROM system.gateways WHERE connected AND gateway LIKE '{name}/%'"
    return by_grpc(plant, sql, "boss")[0][0]


def gone(plant, name, made, least_s, most_s):
    """After how many seconds the server has ended all of them."""
    began = time.monotonic()
    while left := connected(plant, name):
        for gateway in made:
            gateway.listen(0.01)
        check(time.monotonic() - began < most_s, f"all of {name} are ended within {most_s} s; {left} are not")
    took = time.monotonic() - began
    check(took >= least_s, f"{name} are not ended before {least_s} s; they were after {took:.1f} s")
    return f"{len(made)} gateways, ended after {took:.1f} s"


def beyond_credit(plant):
    """They send as fast as they can, and wait for no credit: no more is taken of them, and they hear of their end as soon
    as they listen."""
    with gateways(plant, "greedy", 8) as made:
        for gateway in made:
            # Answers that nobody takes, so that no credit comes back.
            for number in range(20):
                gateway.say(flush=new("Flush", id=number))
            refused = next((seq for seq in range(1, 60) if not gateway.send(seq, 100_000)), 60)
            check(10 < refused < 30, f"the batch of 800 KB for which 8 MiB of credit and a window have no room: {refused}")
            gateway.raw.send(frame(WINDOW_UPDATE, 0, gateway.number, struct.pack(">I", 1 << 20)))
        return gone(plant, "greedy", made, 0, 10)


def deaf(plant):
    """They send within their credit, and read no acknowledgement: ended when an answer has waited for thirty seconds."""
    with gateways(plant, "deaf", MANY) as made:
        for gateway in made:
            for seq in range(1, 30):
                gateway.send(seq, 1_000)
                gateway.say(flush=new("Flush", id=seq))
        equal(connected(plant, "deaf"), MANY, "gateways that read nothing, at first")
        return gone(plant, "deaf", made, 20, 60)


def deaf_to_rejects(plant):
    """As deaf, with batches of as many parts as may be, all of them empty: to be read each takes 25 MiB for 200 KB, and of what
    is to be told of it the token has a share."""
    with gateways(plant, "rejected", MANY) as made:
        for gateway in made:
            for seq in range(1, 4):
                gateway.say(batch=new("Batch", seq=seq, columns=[new("TagColumn")] * 99_999))
        check(connected(plant, "rejected") > 0, "gateways that read nothing are connected, at first")
        return gone(plant, "rejected", made, 20, 60)


def half_a_batch(plant):
    """They stop in the middle of a batch: what is beyond the 64 MiB of a token is refused, the rest ends after a minute."""
    with gateways(plant, "half", MANY) as made:
        for gateway in made:
            gateway.send(1, 500_000, 4_000_000)
        kept = connected(plant, "half")
        check(10 <= kept <= 16, f"gateways whose 4 MB fit into 64 MiB: {kept}")
        return f"{kept} of {gone(plant, 'half', made, 40, 90)}"


GATEWAY_CASES = [beyond_credit]
PATIENT_GATEWAYS = [deaf, deaf_to_rejects, half_a_batch]
