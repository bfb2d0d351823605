"""What `queries.py` asks: Tagmill behind its gRPC door, and its rivals, each with its best sensible settings.

An engine loads samples, says what they take on disk, and answers questions; `normal` brings an answer into the shape in
which answers are compared: columns of numbers, sorted by the first two, times in nanoseconds. What it does not know:
which questions there are beyond their `kind`, and what is printed.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy
import pyarrow
import pyarrow.compute as compute
import pyarrow.parquet as parquet

import sizes

ROOT = pathlib.Path(__file__).resolve().parents[2]
WAIT_S = 120
# What SQL calls the aggregates of a window, and their columns in an answer.
AGGREGATES = {"avg": "a", "min": "lo", "max": "hi", "count": "n"}
UNITS_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class Engine:
    """What all have in common: most of the SQL, and the shape of answers in Arrow."""

    # Whether it keeps fewer digits than it is given.
    is_lossy = False
    # What is installed by pip, if anything is.
    package = None
    table, tag = "samples", "id"

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @classmethod
    def missing(cls):
        """Why it cannot take part, if so."""
        return None if importlib.util.find_spec(cls.package) else f"the package {cls.package} is not installed"

    def version(self):
        return f"{self.package} {importlib.metadata.version(self.package)}"

    def size(self):
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def normal(self, _question, answer):
        return normal_of(answer)

    def sql_of(self, question):
        bounds = f"ts >= {self.instant(question.start_ns)} AND ts < {self.instant(question.end_ns)}"
        if question.tag is not None:
            bounds += f" AND {self.of_tag(question.tag)}"
        if question.kind == "windows":
            cells = ", ".join(f"{self.aggregate(function)} AS {name}" for function, name in AGGREGATES.items())
            return (f"SELECT {self.tag} AS id, {self.bucket(question.by_ns)} AS bucket, {cells} FROM {self.table}"
                    f" WHERE {bounds} GROUP BY {self.tag}, bucket")
        if question.kind == "raw":
            return f"SELECT {self.tag} AS id, ts, value FROM {self.table} WHERE {bounds} ORDER BY ts"
        return self.last()

    def of_tag(self, tag):
        return f"id = {tag}"

    @staticmethod
    def aggregate(function):
        return f"{function}(value)"

    @staticmethod
    def bucket(ns):
        return f"date_trunc('{unit_of(ns)}', ts)"


def unit_of(ns):
    return {60 * 10**9: "minute", 3600 * 10**9: "hour"}[ns]


def normal_of(table):
    """Columns of an Arrow table as numpy."""
    columns = []
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pyarrow.types.is_timestamp(column.type):
            column = compute.multiply(column.cast(pyarrow.int64()), UNITS_NS[column.type.unit])
        if pyarrow.types.is_floating(column.type):
            columns.append(column.fill_null(math.nan).to_numpy(zero_copy_only=False).astype(numpy.float64))
        else:
            columns.append(column.to_numpy(zero_copy_only=False).astype(numpy.int64))
    return sorted_by_key(columns)


def sorted_by_key(columns):
    order = numpy.lexsort((columns[1], columns[0]))
    return [column[order] for column in columns]


class Tagmill(Engine):
    """A server on loopback, asked over gRPC. What is `late` is sent to it when it has the rest, and sealed."""

    name = "tagmill"
    settings = "defaults; a server, asked over gRPC on loopback"
    tag = "tag_id"

    def __init__(self, binary, folder):
        super().__init__(folder)
        self.binary, self.data, self.process, self.channel = binary, folder / "data", None, None

    def load(self, source, names, late=None):
        """The time it took, without what is late. Both are what `tagmill import` is told to read; the rivals number
        tags by their place in `names`."""
        started = time.monotonic()
        run(self.binary, "import", *source, "--data", self.data)
        load_s = time.monotonic() - started
        self.sizes = sizes.load_sizes(self.binary, self.data)
        self.serve()
        rows = self.ask_sql("SELECT tag_id, tag FROM tags")
        ids = dict(zip(rows["tag"].to_pylist(), rows["tag_id"].to_pylist()))
        self.tag_ids = numpy.array([ids[name] for name in names])
        self.numbers = numpy.full(max(ids.values()) + 1, -1)
        self.numbers[self.tag_ids] = numpy.arange(len(names))
        if late:
            run(self.binary, "import", *late, "--connect", f"127.0.0.1:{self.port}")
            self.seal()
        settle(self.process)
        return load_s

    def version(self):
        return subprocess.run([self.binary, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def size(self):
        return self.sizes["total"] + self.sizes["tiers"]

    def serve(self):
        self.port = free_port()
        command = [self.binary, "serve", "--data", self.data, "--listen", f"127.0.0.1:{self.port}", "--postgres", "off", "--http", "off"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connect()

    def connect(self):
        import grpc
        query, queries = stubs(self.folder.parent, "query")
        admin, admins = stubs(self.folder.parent, "admin")
        options = [("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options)
        grpc.channel_ready_future(self.channel).result(WAIT_S)
        execute, request = queries.QueryStub(self.channel).Execute, query.ExecuteRequest
        self.execute = lambda sql, settings: execute(request(sql=sql, settings=settings))
        self.seal = lambda: admins.AdminStub(self.channel).Seal(admin.SealRequest())

    def close(self):
        if self.channel:
            self.channel.close()
        if self.process:
            end(self.process)

    def ask_sql(self, sql, settings=None):
        parts = []
        for part in self.execute(sql, settings or {}):
            kind = part.WhichOneof("message")
            if kind == "ipc":
                parts.append(part.ipc)
            elif kind == "notice":
                say(f"  tagmill remarks: {part.notice}")
        return pyarrow.ipc.open_stream(pyarrow.py_buffer(b"".join(parts))).read_all()

    def prepare(self, question, tiers="auto"):
        sql = self.sql_of(question)
        return lambda: self.ask_sql(sql, {"tagmill.tiers": tiers})

    def normal(self, _question, answer):
        columns = normal_of(answer)
        columns[0] = self.numbers[columns[0]]
        return sorted_by_key(columns)

    def of_tag(self, tag):
        return f"tag_id = {self.tag_ids[tag]}"

    def files(self):
        """How many there are of each kind, of raw samples and of tiers."""
        sql = "SELECT kind, tier, count(*) AS n FROM system.segments GROUP BY kind, tier ORDER BY kind, tier"
        return ", ".join(f"{row['n']} {row['kind']} {row['tier']}" for row in self.ask_sql(sql).to_pylist())

    @staticmethod
    def instant(ns):
        return f"to_timestamp_nanos({ns})"

    @staticmethod
    def bucket(ns):
        return f"time_bucket('1 {unit_of(ns)}', ts)"

    def last(self):
        return "SELECT tag_id AS id, ts, value FROM latest"


def stubs(folder, service):
    """Messages and client of a service, made of the .proto files."""
    from grpc_tools import protoc
    target = folder / "stubs"
    if not target.exists():
        target.mkdir()
        files = sorted(str(path) for path in (ROOT / "proto/tagmill/v1").glob("*.proto"))
        words = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={target}", f"--grpc_python_out={target}"]
        if protoc.main(words + files) != 0:
            raise RuntimeError("protoc refuses the .proto files")
        sys.path.insert(0, str(target))
    return [importlib.import_module(f"tagmill.v1.{service}_{kind}") for kind in ("pb2", "pb2_grpc")]


class ClickHouse(Engine):
    """In this process, as chdb."""

    name, package = "clickhouse", "chdb"
    settings = ("in the asker's process; MergeTree ordered by (id, ts), one part, aggregation in that order; ts"
                " DateTime64(3) DoubleDelta, value Float64 ALP, each with ZSTD(1); NaN instead of null")
    table = "d.samples"

    def load(self, samples):
        from chdb import session
        self.database = session.Session(str(self.folder / "data"))
        ask = self.database.query
        for setting in ["enable_alp_codec", "allow_suspicious_codecs", "optimize_aggregation_in_order"]:
            ask(f"SET {setting} = 1")
        started = time.monotonic()
        ask("CREATE DATABASE d ENGINE = Atomic")
        ask("CREATE TABLE d.samples (id UInt32 CODEC(ZSTD(1)), ts DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),"
            " quality UInt32 CODEC(ZSTD(1)), value Float64 CODEC(ALP, ZSTD(1))) ENGINE = MergeTree ORDER BY (id, ts)")
        ask(f"INSERT INTO d.samples SELECT id, ts, quality, ifNull(value, nan) FROM file('{samples.staged}')")
        ask("OPTIMIZE TABLE d.samples FINAL")
        return time.monotonic() - started

    def size(self):
        parts = "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'd'"
        return int(str(self.database.query(parts, "CSV")))

    def close(self):
        self.database.close()

    def prepare(self, question):
        sql = self.sql_of(question)
        return lambda: self.database.query(sql, "ArrowStream").bytes()

    def normal(self, question, answer):
        table = pyarrow.ipc.open_stream(answer).read_all()
        if question.kind == "windows":
            # A DateTime comes as a number of seconds.
            seconds = table["bucket"].cast(pyarrow.int64()).cast(pyarrow.timestamp("s"))
            table = table.set_column(1, "bucket", seconds)
            # Nor has it nulls: extremes of nothing are 0.
            is_empty = compute.equal(table["n"], 0)
            for at, name in [(3, "lo"), (4, "hi")]:
                table = table.set_column(at, name, compute.if_else(is_empty, math.nan, table[name]))
        return normal_of(table)

    @staticmethod
    def instant(ns):
        return f"fromUnixTimestamp64Milli({ns // 10**6}, 'UTC')"

    @staticmethod
    def aggregate(function):
        return "countIf(NOT isNaN(value))" if function == "count" else f"{function}If(value, NOT isNaN(value))"

    @staticmethod
    def bucket(ns):
        return f"toStartOf{unit_of(ns).capitalize()}(ts)"

    def last(self):
        return "SELECT id, max(ts) AS newest, argMax(value, ts) AS shown FROM d.samples GROUP BY id"


class DuckDb(Engine):
    """In this process."""

    name = package = "duckdb"
    settings = "in the asker's process; newest storage version, rows in order of (id, ts), ts TIMESTAMP, all cores"

    def load(self, samples):
        import duckdb
        self.database = duckdb.connect()
        self.database.execute("SET TimeZone = 'UTC'")
        started = time.monotonic()
        self.database.execute(f"ATTACH '{self.folder / 'd.duckdb'}' AS d (STORAGE_VERSION 'latest')")
        self.database.execute("USE d")
        self.database.execute("CREATE TABLE samples AS SELECT id, ts::TIMESTAMP AS ts, quality, value"
                              f" FROM '{samples.staged}' ORDER BY id, ts")
        self.database.execute("CHECKPOINT d")
        return time.monotonic() - started

    def close(self):
        self.database.close()

    def prepare(self, question):
        sql = self.sql_of(question)
        return lambda: self.database.sql(sql).to_arrow_table()

    @staticmethod
    def instant(ns):
        return f"make_timestamp({ns // 10**3})"

    def last(self):
        return "SELECT id, max(ts) AS newest, arg_max_null(value, ts) AS shown FROM samples GROUP BY id"


class DataFusion(Engine):
    """In this process, over one Parquet file."""

    name = package = "datafusion"
    settings = ("in the asker's process; Parquet in order of (id, ts) and declared so, zstd, row groups of 131,072"
                " rows, ts delta-packed, page index, filters pushed down, all cores")

    def load(self, samples):
        import datafusion
        path = self.folder / "samples.parquet"
        started = time.monotonic()
        parquet.write_table(parquet.read_table(samples.staged), path, compression="zstd", row_group_size=131_072,
                            column_encoding={"ts": "DELTA_BINARY_PACKED"}, use_dictionary=["id", "quality", "value"],
                            write_page_index=True)
        load_s = time.monotonic() - started
        self.context = datafusion.SessionContext(datafusion.SessionConfig({
            "datafusion.execution.parquet.pushdown_filters": "true",
            "datafusion.execution.target_partitions": str(os.cpu_count()),
        }))
        order = [[datafusion.col(name).sort(nulls_first=False) for name in ("id", "ts")]]
        self.context.register_parquet("samples", str(path), file_sort_order=order)
        return load_s

    def close(self):
        self.context = None

    def prepare(self, question):
        sql = self.sql_of(question)
        return lambda: self.context.sql(sql).to_arrow_table()

    @staticmethod
    def instant(ns):
        return f"to_timestamp_millis({ns // 10**6})"

    @staticmethod
    def bucket(ns):
        # Its date_trunc takes four times as long for hours.
        return f"date_bin(INTERVAL '{ns // 10**9} seconds', ts)"

    def last(self):
        return "SELECT id, max(ts) AS newest, last_value(value ORDER BY ts) AS shown FROM samples GROUP BY id"


class VictoriaMetrics(Engine):
    """A server on loopback, asked over HTTP in JSON."""

    name = "victoriametrics"
    settings = ("a server asked over HTTP on loopback, answers in JSON; one aggr_over_time for all"
                " aggregates, no cache of answers; some 15 digits, milliseconds, only what is shown, no quality")
    is_lossy = True

    @staticmethod
    def missing():
        return None if shutil.which("victoria-metrics") else "no program victoria-metrics: apt-get install it"

    def version(self):
        """It does not tell by itself."""
        ask = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}", "victoria-metrics"]
        return subprocess.run(ask, stdout=subprocess.PIPE, text=True).stdout if shutil.which(ask[0]) else "unknown"

    def load(self, samples):
        """The time of its requests, without the making of their JSON."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {"storageDataPath": self.folder / "data", "httpListenAddr": f"127.0.0.1:{port}",
                    "retentionPeriod": "100y", "search.maxPointsPerTimeseries": 1_000_000,
                    "search.latencyOffset": "0s", "search.disableCache": "true"}
        command = ["victoria-metrics", *(f"-{name}={value}" for name, value in settings.items())]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: self.is_up())
        took_s = 0
        for tag, times, values in samples.shown():
            line = {"metric": {"__name__": "s", "id": str(tag)}, "values": values, "timestamps": times}
            body = json.dumps(line).encode()
            started = time.monotonic()
            urllib.request.urlopen(urllib.request.Request(self.url + "/api/v1/import", body, method="POST")).close()
            took_s += time.monotonic() - started
        started = time.monotonic()
        self.get("/internal/force_flush")
        self.get("/internal/force_merge")
        took_s += time.monotonic() - started
        settle(self.process)
        return took_s

    def close(self):
        end(self.process)

    def is_up(self):
        try:
            return bool(self.get("/health"))
        except urllib.error.URLError:
            return False

    def get(self, path, **query):
        with urllib.request.urlopen(self.url + path + "?" + urllib.parse.urlencode(query)) as answer:
            return answer.read()

    def prepare(self, question):
        one = "" if question.tag is None else f'{{id="{question.tag}"}}'
        # A range of it holds the instant at which it ends and not the one at which it begins: a millisecond earlier.
        end_s = question.end_ns / 1e9 - 0.001
        if question.kind == "raw":
            range_s = (question.end_ns - question.start_ns) // 10**9
            return lambda: self.get("/api/v1/query", query=f"s{one}[{range_s}s]", time=end_s)
        if question.kind == "last":
            return None  # The newest sample that is shown is another one.
        by_s = question.by_ns // 10**9
        functions = ", ".join(f'"{function}_over_time"' for function in AGGREGATES)
        asked = f"aggr_over_time(({functions}), s{one}[{by_s}s])"
        span = {"start": (question.start_ns + question.by_ns) / 1e9 - 0.001, "end": end_s, "step": f"{by_s}s"}
        return lambda: self.get("/api/v1/query_range", query=asked, nocache=1, **span)

    def normal(self, question, answer):
        """Windows and samples of which nothing is shown are not in its answers."""
        series = json.loads(answer)["data"]["result"]
        if question.kind == "raw":
            rows = [(int(part["metric"]["id"]), stamp_ns(at), float(value))
                    for part in series for at, value in part["values"]]
            return [numpy.array(column) for column in zip(*rows)]
        columns = {f"{function}_over_time": ([], [], []) for function in AGGREGATES}
        for part in series:
            ids, times, values = columns[part["metric"]["rollup"]]
            ids += [int(part["metric"]["id"])] * len(part["values"])
            times += [stamp_ns(at) + 10**6 - question.by_ns for at, _ in part["values"]]
            values += [float(value) for _, value in part["values"]]
        found = [sorted_by_key([numpy.array(column) for column in part]) for part in columns.values()]
        return [found[0][0], found[0][1], *(part[2] for part in found)]


def stamp_ns(seconds):
    return round(seconds * 1e3) * 10**6


def run(*command):
    """Quiet, unless it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(word) for word in command)} fails:\n{done.stdout}")


def end(process):
    process.send_signal(signal.SIGTERM)
    process.wait(WAIT_S)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(holds, interval_s=0.1):
    ends = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError("a server does not answer, or never rests")
        time.sleep(interval_s)


def settle(process):
    """Waits until a server has merged what it wants to merge: it hardly takes processor time (Linux tells)."""
    stat, used = pathlib.Path(f"/proc/{process.pid}/stat"), [math.inf]

    def rests():
        if not stat.exists():
            return True
        used.append(sum(int(ticks) for ticks in stat.read_text().rpartition(")")[2].split()[11:13]))
        return used[-1] - used[-2] in (0, 1)

    wait_for(rests, 1)


def say(text):
    print(text, file=sys.stderr, flush=True)
