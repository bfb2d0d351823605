#!/usr/bin/env python3
"""A gateway and an analyst that share no code with Tagmill, against the real binary.

    python grpc_client.py PATH_TO_TAGMILL

It generates its stubs from proto/tagmill/v1, starts `tagmill serve` on a free loopback port with a fresh directory,
streams batches in every form the wire has, repeats some, leaves gaps, kills the server and starts it again, and
compares what SQL says with what it sent. It writes once more knowing nothing but what the server tells of itself, and
does both over TLS with tokens. It ends only processes it started. Exit code 0: everything held.
"""

import contextlib
import csv
import importlib
import io
import math
import pathlib
import queue
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

import grpc
import pyarrow
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

import plant as guarded

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_NS = 1_767_225_600 * 10**9  # 2026-01-01
SECOND_NS = 10**9
WAIT_S = 60
BAD = 0x8000_0000
UNCERTAIN = 0x4000_0000

# Doubles that a careless format or database changes.
ODD = [0.0, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, math.nan, 1e22, -1.5]

messages = {}


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="tagmill-client-") as scratch:
        scratch = pathlib.Path(scratch)
        generate(scratch / "stubs")
        plant = Plant()
        with Server(binary, scratch / "data") as server:
            stream_everything(server, plant)
            resume_after_break(server, plant)
            compare(server, plant)
            server.kill()
            server.start()
            resume_after_kill(server, plant)
            write_by_name(server, plant)
            write_by_reflection(server, plant)
            compare(server, plant)
            compare_by_command(server, plant)
            ask_wrongly(server)
            seal_and_compare(server, plant)
            server.stop()
        print(f"grpc_client: {plant.count()} samples of {len(plant.samples)} tags, as sent")
        if not shutil.which("openssl"):
            print("grpc_client: over_tls: SKIPPED, there is no openssl to make a certificate with")
            return
        print(f"grpc_client: over_tls: {over_tls(binary, scratch / 'guarded')}")


def generate(folder):
    """Makes the stubs, and puts every message class into `messages`."""
    folder.mkdir()
    protos = sorted(str(path) for path in (ROOT / "proto/tagmill/v1").glob("*.proto"))
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    check(protoc.main(arguments + protos) == 0, "protoc accepts the .proto files")
    sys.path.insert(0, str(folder))
    for name in ["tag", "ingest", "admin", "query"]:
        for kind in ["pb2", "pb2_grpc"]:
            module = importlib.import_module(f"tagmill.v1.{name}_{kind}")
            messages.update({key: value for key, value in vars(module).items() if key[0].isupper()})


def new(kind, /, **fields):
    return messages[kind](**fields)


def check(holds, claim):
    if not holds:
        raise AssertionError(f"does not hold: {claim}")


def equal(found, wanted, what):
    check(found == wanted, f"{what} is {wanted!r}; found {found!r}")


def channel_over_tls(plant, token=None, certificate=None, ca=None):
    """A channel to a server of plant.py, whose calls carry a token; a certificate is a pair of files, of the certificate
    and of its key."""
    cert, key = [path.read_bytes() for path in certificate] if certificate else [None, None]
    credentials = grpc.ssl_channel_credentials((ca or plant.ca).read_bytes(), key, cert)
    if token:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    # Every channel has connections of its own.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    return grpc.secure_channel(f"localhost:{plant.grpc}", credentials, options)


class Caller:
    """Who calls by a channel."""

    def __init__(self, channel):
        self.channel = channel
        self.ingest, self.query, self.admin = [new(f"{name}Stub", channel=channel) for name in ("Ingest", "Query", "Admin")]

    def sql(self, statement):
        """Rows of the answer, as lists."""
        stream = self.query.Execute(new("ExecuteRequest", sql=statement), timeout=WAIT_S)
        parts, finished = [], None
        for response in stream:
            kind = response.WhichOneof("message")
            if kind == "ipc":
                parts.append(response.ipc)
            elif kind == "finished":
                finished = response.finished
        check(finished is not None, f"an answer ends with Finished: {statement}")
        table = pyarrow.ipc.open_stream(b"".join(parts)).read_all()
        equal(table.num_rows, finished.rows, "number of rows in Finished")
        # Timestamps as integers: Python's have microseconds only.
        columns = [
            column.cast(pyarrow.int64()) if pyarrow.types.is_timestamp(column.type) else column
            for column in table.columns
        ]
        return [list(row) for row in zip(*(column.to_pylist() for column in columns))]


class Server(Caller):
    """`tagmill serve`, one process at a time, and who calls it."""

    def __init__(self, binary, data):
        self.binary, self.data, self.process = binary, data, None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def start(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        command = [self.binary, "serve", "--data", self.data, "--listen", self.address, "--postgres", "off", "--http", "off",
                   "--own-figures", "off"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        super().__init__(grpc.insecure_channel(self.address))
        ready = grpc.channel_ready_future(self.channel)
        deadline = time.monotonic() + WAIT_S
        while not ready.done():
            check(self.process.poll() is None, f"{command} keeps running (exit code {self.process.returncode})")
            check(time.monotonic() < deadline, f"{self.address} answers within {WAIT_S} s")
            with contextlib.suppress(grpc.FutureTimeoutError):
                ready.result(timeout=0.2)

    def kill(self):
        """As a power cut looks to a client: no farewell."""
        self.process.kill()
        self.process.wait()
        self.channel.close()

    def stop(self):
        self.channel.close()
        self.process.terminate()
        equal(self.process.wait(timeout=WAIT_S), 0, "exit code after SIGTERM")


class Gateway:
    """One stream of one gateway."""

    def __init__(self, server, epoch=1):
        self.out = queue.SimpleQueue()
        self.answers = server.ingest.Stream(iter(self.out.get, None), timeout=WAIT_S)
        self.accepted, self.rejects, self.durable = 0, [], 0
        self.send(hello=new("Hello", gateway="python", epoch=epoch, agent="grpc_client.py"))
        self.welcome = self.receive("welcome")

    def send(self, **message):
        self.out.put(new("ClientMessage", **message))

    def receive(self, wanted):
        """The next message of this kind; acknowledgements and credits on the way are taken in."""
        for answer in self.answers:
            kind = answer.WhichOneof("message")
            if kind == "ack":
                self.accepted += answer.ack.accepted_samples
                self.rejects.extend(answer.ack.rejects)
                check(answer.ack.durable_seq >= self.durable, "acknowledgements never go back")
                self.durable = answer.ack.durable_seq
            if kind == wanted:
                return getattr(answer, kind)
            check(kind in ("ack", "credit"), f"no {kind} while waiting for {wanted}: {answer}")
        raise AssertionError(f"the stream ended before {wanted}")

    def wait_durable(self, seq):
        while self.durable < seq:
            self.receive("ack")

    def close(self):
        self.out.put(None)
        for _ in self.answers:
            pass


class Plant:
    """What was sent, the last word on each (tag, time)."""

    TAGS = {
        "PY/TI-1.PV": (1, "VALUE_TYPE_F64"),
        "PY/FQ-1": (2, "VALUE_TYPE_I64"),
        "PY/XV-1.OPEN": (3, "VALUE_TYPE_BOOL"),
        "PY/BATCH": (4, "VALUE_TYPE_TEXT"),
        "PY/TI-2.PV": (5, "VALUE_TYPE_F32"),
        "PY/M-1.STATE": (6, "VALUE_TYPE_STATE"),
    }

    def __init__(self):
        self.samples = {}
        self.seq = 0

    def put(self, tag, time_ns, value, quality=0):
        self.samples.setdefault(tag, {})[time_ns] = (value, quality)

    def count(self):
        return sum(len(samples) for samples in self.samples.values())

    def next_seq(self):
        self.seq += 1
        return self.seq

    def definitions(self):
        types = messages["ValueType"]
        return [
            new("TagDefinition", alias=alias, name=name, type=types.Value(kind))
            for name, (alias, kind) in self.TAGS.items()
        ]

    def column_step(self, offset_s):
        """An f64 column on a grid, with every odd double and three qualities in runs."""
        step_ns, start_ns = SECOND_NS // 4, START_NS + offset_s * SECOND_NS
        for index, value in enumerate(ODD):
            quality = 0 if index < 4 else UNCERTAIN if index < 7 else BAD
            self.put("PY/TI-1.PV", start_ns + index * step_ns, value, quality)
        runs = dict(quality_codes=[0, UNCERTAIN, BAD], quality_counts=[4, 3, len(ODD) - 7])
        return new("TagColumn", alias=1, count=len(ODD), base_ns=start_ns, step_ns=step_ns, f64=ODD, **runs)

    def column_deltas(self, offset_s):
        """An i64 column with jittered times, and numbers that no double holds."""
        start_ns = START_NS + offset_s * SECOND_NS
        deltas = [SECOND_NS + jitter for jitter in (0, 1, -1, 999_999_999)]
        values = [2**53 + 1, -(2**63), 2**63 - 1, 0, 7]
        time_ns = start_ns
        for value, delta in zip(values, deltas + [0]):
            self.put("PY/FQ-1", time_ns, value)
            time_ns += delta
        return new("TagColumn", alias=2, count=5, base_ns=start_ns, time_deltas_ns=deltas, i64=values)

    def columns_times(self, offset_s):
        """Columns whose times stand one by one, not in order, one of them twice."""
        times = [START_NS + (offset_s + second) * SECOND_NS for second in (2, 0, 1, 2)]
        bools, texts, floats, labels = (
            [True, False, True, False],
            ["Ansatz 7", "", "µ\n\"quoted\"", "last wins"],
            [1.5, -0.25, 3.0, 2.5],
            ["RUN", "STOP", "RUN", "FAULT"],
        )
        sent = {"PY/XV-1.OPEN": bools, "PY/BATCH": texts, "PY/TI-2.PV": floats, "PY/M-1.STATE": labels}
        for tag, values in sent.items():
            for time_ns, value in zip(times, values):
                self.put(tag, time_ns, value)
        fields = [(3, dict(bools=bools)), (4, dict(texts=texts)), (5, dict(f32=floats)), (6, dict(texts=labels))]
        return [new("TagColumn", alias=alias, count=4, times_ns=times, **field) for alias, field in fields]

    def scan(self, offset_s):
        """100 cycles over two tags, one cell in ten missing."""
        times = [START_NS + (offset_s + cycle) * SECOND_NS for cycle in range(100)]
        values, missing = [], 0
        for cycle, time_ns in enumerate(times):
            for place, tag in enumerate(("PY/TI-1.PV", "PY/FQ-1")):
                values.append(float(cycle * (place + 1)))
                if cycle % 10 == 3:
                    missing |= 1 << (2 * cycle + place)
                else:
                    self.put(tag, time_ns, values[-1] if place == 0 else int(values[-1]))
        flags = missing.to_bytes(25, "little")
        return new("ScanBlock", set=1, version=1, cycles=100, times_ns=times, values=values, missing=flags)


def stream_everything(server, plant):
    gateway = Gateway(server)
    equal(gateway.welcome.mark, 0, "mark of a new gateway")
    gateway.send(define_tags=new("DefineTags", id=7, tags=plant.definitions()))
    defined = gateway.receive("defined")
    equal((defined.id, list(defined.rejects)), (7, []), "answer to DefineTags")
    gateway.send(define_tag_set=new("DefineTagSet", id=8, set=1, version=1, aliases=[1, 2]))
    equal(list(gateway.receive("defined").rejects), [], "refused tag sets")

    columns = [plant.column_step(0), plant.column_deltas(0), *plant.columns_times(0)]
    gateway.send(batch=new("Batch", seq=plant.next_seq(), columns=columns))
    gateway.send(batch=new("Batch", seq=plant.next_seq(), scans=[plant.scan(1_000)]))
    # Overwrites part of the scan above, and has one column that cannot be taken: the rest is.
    stray = new("TagColumn", alias=99, count=2, base_ns=START_NS, step_ns=1, f64=[1.0, 2.0])
    gateway.send(batch=new("Batch", seq=plant.next_seq(), columns=[plant.column_step(1_010), stray]))
    gateway.wait_durable(3)
    rejects = [(reject.seq, reject.alias, reject.first, reject.count) for reject in gateway.rejects]
    equal(rejects, [(3, 99, 0, 2)], "what was refused")

    for minute in range(100):
        gateway.send(batch=new("Batch", seq=plant.next_seq(), scans=[plant.scan(10_000 + 100 * minute)]))
    gateway.send(flush=new("Flush", id=9))
    equal(gateway.receive("flushed").id, 9, "answer to Flush")
    equal(gateway.durable, plant.seq, "what is on disk after a flush")
    gateway.close()


def resume_after_break(server, plant):
    gateway = Gateway(server)
    equal(gateway.welcome.mark, plant.seq, "mark after a break")
    # The last batch again, with other content: it must not be applied.
    forged = new("TagColumn", alias=1, count=1, base_ns=START_NS, step_ns=1, f64=[12345.0])
    gateway.send(batch=new("Batch", seq=plant.seq, columns=[forged]))
    gateway.send(batch=new("Batch", seq=plant.next_seq(), columns=[plant.column_step(2_000)]))
    gateway.wait_durable(plant.seq)
    equal(gateway.accepted, len(ODD), "samples taken, the repeated batch aside")
    gateway.send(batch=new("Batch", seq=plant.seq + 5, columns=[forged]))
    equal(gateway.receive("gap").expected, plant.seq + 1, "the seq expected after a gap")

    # A newer stream of the same gateway ends the older one.
    newer = Gateway(server)
    farewell = gateway.receive("go_away")
    equal(farewell.reason, messages["GoAwayReason"].Value("GO_AWAY_REASON_FENCED"), "why the older stream ends")
    gateway.close()
    newer.close()


def resume_after_kill(server, plant):
    gateway = Gateway(server)
    equal(gateway.welcome.mark, plant.seq, "mark after kill -9")
    check(gateway.welcome.aliases >= len(plant.TAGS), "aliases survive kill -9")
    gateway.send(batch=new("Batch", seq=plant.next_seq(), scans=[plant.scan(30_000)]))
    gateway.wait_durable(plant.seq)
    equal(list(gateway.rejects), [], "what was refused after kill -9")
    gateway.close()


def write_by_name(server, plant):
    column = new("TagColumn", count=3, base_ns=START_NS, step_ns=SECOND_NS, f64=[1.0, 2.0, 3.0])
    batch = new("NamedBatch", columns=[new("NamedColumn", name="PY/WRITTEN", column=column)])
    request = new("WriteRequest", key="once", batch=batch)
    first = server.ingest.Write(request, timeout=WAIT_S)
    equal((first.accepted_samples, first.repeated, first.durable), (3, False, True), "answer to Write")
    check(server.ingest.Write(request, timeout=WAIT_S).repeated, "the same key again is a repetition")
    for index in range(3):
        plant.put("PY/WRITTEN", START_NS + index * SECOND_NS, index + 1.0)


def services(caller):
    """Names of services, by reflection."""
    return set(ProtoReflectionDescriptorDatabase(caller.channel).get_services())


def write_by_reflection(server, plant):
    """Whoever knows nothing but the address: which services there are, what their messages are made of, and a write with
    messages that are made of that alone."""
    ours = {f"tagmill.v1.{name}" for name in ("Ingest", "Query", "Admin")}
    check(ours <= services(server), f"services by reflection: {services(server)}")
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(server.channel))
    for name in sorted(ours):
        check(pool.FindServiceByName(name).methods, f"{name} has methods")
    method = pool.FindServiceByName("tagmill.v1.Ingest").FindMethodByName("Write")
    check(method.input_type.file.pool is pool, "a message of the description, not of the generated code")
    request = message_factory.GetMessageClass(method.input_type)()
    column = request.batch.columns.add(name="PY/REFLECTED").column
    column.count, column.base_ns, column.step_ns = 3, START_NS, SECOND_NS
    column.f64.extend([0.1, -0.0, 5e-324])
    write = server.channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    answer = write(request, timeout=WAIT_S)
    equal((answer.accepted_samples, answer.durable), (3, True), "answer to a Write by reflection")
    for index, value in enumerate([0.1, -0.0, 5e-324]):
        plant.put("PY/REFLECTED", START_NS + index * SECOND_NS, value)
    for symbol in ("tagmill.v1.Nothing", "nothing", ""):
        try:
            pool.FindMessageTypeByName(symbol)
        except KeyError:
            continue
        except grpc.RpcError as error:
            equal(error.code(), grpc.StatusCode.NOT_FOUND, f"answer about {symbol!r}")
            continue
        raise AssertionError(f"does not hold: there is no {symbol!r}")


def compare(server, plant):
    """Every sample of every tag, by SQL, against what was sent."""
    found = {}
    columns = "tag, ts, value_raw, value_int, value_text, quality, value IS NULL"
    for tag, ts, raw, integer, text, quality, is_null in server.sql(
        f"SELECT {columns} FROM samples WHERE tag LIKE 'PY/%' ORDER BY tag, ts"
    ):
        kind = plant.TAGS.get(tag, (0, "VALUE_TYPE_F64"))[1]
        value = {
            "VALUE_TYPE_I64": integer,
            "VALUE_TYPE_BOOL": None if integer is None else bool(integer),
            "VALUE_TYPE_TEXT": text,
            "VALUE_TYPE_STATE": text,
        }.get(kind, raw)
        found.setdefault(tag, {})[ts] = (bits(value), quality)
        if kind in ("VALUE_TYPE_F64", "VALUE_TYPE_F32"):
            equal(is_null, quality == BAD or not math.isfinite(raw), f"null of {tag} at {ts}")
    for tag, samples in plant.samples.items():
        wanted = {time_ns: (bits(value), quality) for time_ns, (value, quality) in samples.items()}
        have = found.get(tag, {})
        odd = sorted(set(wanted.items()) ^ set(have.items()), key=repr)
        check(not odd, f"{tag} has {len(wanted)} samples as sent; found {len(have)}, first differences {odd[:4]}")
    equal(sorted(found), sorted(plant.samples), "tags with samples")


def bits(value):
    """Floats by their bits, so that -0.0 and NaN compare as what they are."""
    return struct.pack("<d", value).hex() if isinstance(value, float) else value


def compare_by_command(server, plant):
    statement = "SELECT tag, count(*) AS n FROM samples GROUP BY tag ORDER BY tag"
    command = [server.binary, "sql", "--connect", server.address, "--format", "csv", "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, stdin=subprocess.DEVNULL)
    equal(done.returncode, 0, f"exit code of tagmill sql ({done.stderr.strip()})")
    rows = list(csv.reader(io.StringIO(done.stdout)))[1:]
    wanted = [[tag, str(len(samples))] for tag, samples in sorted(plant.samples.items())]
    equal(rows, wanted, "counts by tagmill sql")


def ask_wrongly(server):
    for statement in ["SELEC 1", "CREATE TABLE t (a INT)", "COPY samples TO '/tmp/x.csv'", "SELECT nothing FROM samples"]:
        try:
            server.sql(statement)
        except grpc.RpcError as error:
            check(error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"{statement!r} is refused, not {error.code()}")
            check(len(error.details()) > 10, f"{statement!r} is refused with a reason")
        else:
            raise AssertionError(f"does not hold: {statement!r} is refused")
    equal(server.sql("SELECT 1"), [[1]], "the answer after wrong questions")


def seal_and_compare(server, plant):
    server.admin.Seal(new("SealRequest"), timeout=WAIT_S)
    check(server.sql("SELECT count(*) FROM system.segments")[0][0] > 0, "a seal makes segments")
    compare(server, plant)


def over_tls(binary, scratch):
    """A stream and a write by reflection with a writer's token, compared with a reader's. Whoever has no token, a wrong one
    or a reader's is refused; so is who speaks in clear, and by us a server that another authority vouches for."""
    scratch.mkdir()
    house, plant = guarded.Plant(binary, scratch), Plant()
    foreign = guarded.Authority(scratch / "foreign")
    with house.serve(), contextlib.ExitStack() as held:
        def caller(channel):
            return Caller(held.enter_context(channel))

        writer, reader = [caller(channel_over_tls(house, house.tokens[name])) for name in ("gateway", "reader")]
        stream_everything(writer, plant)
        write_by_reflection(writer, plant)
        compare(reader, plant)
        for who, token in {"nobody": None, "a wrong token": "tgm_00000000_x"}.items():
            stranger = caller(channel_over_tls(house, token))
            for what in (Gateway, by_name, services):
                refused(grpc.StatusCode.UNAUTHENTICATED, f"{what.__name__} of {who}", lambda: what(stranger))
        # What the services are is told to every token.
        equal(services(reader), services(writer), "services by reflection to a reader")
        for what in (Gateway, by_name, lambda reader: write_by_reflection(reader, plant)):
            refused(grpc.StatusCode.PERMISSION_DENIED, f"{what.__name__} of a reader", lambda: what(reader))
        clear = grpc.insecure_channel(f"localhost:{house.grpc}")
        mistaken = channel_over_tls(house, house.tokens["gateway"], ca=foreign.ca)
        for who, channel in {"in clear": clear, "of who trusts another authority": mistaken}.items():
            refused(grpc.StatusCode.UNAVAILABLE, f"a stream {who}", lambda: Gateway(caller(channel)))
        compare(reader, plant)
    return f"{plant.count()} samples, as sent by who may"


def by_name(caller):
    column = new("TagColumn", count=1, base_ns=START_NS, f64=[666.0])
    batch = new("NamedBatch", columns=[new("NamedColumn", name="PY/REFUSED", column=column)])
    caller.ingest.Write(new("WriteRequest", batch=batch), timeout=WAIT_S)


def refused(code, what, call):
    try:
        call()
    except grpc.RpcError as error:
        equal(error.code(), code, f"status of {what} ({error.details()})")
        return
    raise AssertionError(f"does not hold: {what} is refused")


if __name__ == "__main__":
    main()
