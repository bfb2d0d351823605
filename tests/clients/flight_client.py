#!/usr/bin/env python3
"""Clients of Arrow Flight SQL, against the real binary over TLS with tokens: ADBC, and pyarrow's plain Flight client.

    python flight_client.py PATH_TO_TAGMILL [CASE ...]

ADBC is asked as its users ask it; what it has no call for (CancelFlightInfo, GetSqlInfo, the list of actions) is sent by
pyarrow, with the messages of Flight SQL written by hand. What this machine lacks (openssl) it says SKIPPED for. It ends
only processes it started.
"""

import contextlib
import datetime
import math
import pathlib
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow
import pyarrow.flight
from adbc_driver_flightsql import DatabaseOptions

from plant import ODD, ROWS, START, Plant, check, equal, run, run_cases

UTC_NS = pyarrow.timestamp("ns", "UTC")
ENDLESS = "SELECT count(*) FROM samples a, samples b, samples c WHERE a.value + b.value + c.value > 1e9"
WAIT_S = 60


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    if not shutil.which("openssl"):
        print("flight_client: SKIPPED, there is no openssl to make a certificate with")
        return
    with tempfile.TemporaryDirectory(prefix="tagmill-flight-") as scratch:
        plant = Plant(binary, pathlib.Path(scratch))
        plant.token("loader", "--scope", "load", role="writer")
        plant.token("both", "--role", "reader", role="writer")
        with plant.serve():
            run_cases("flight_client", plant, [
                types, same_schemas, parameters, prepared, objects, schemas, large, cancels, errors, ingests, ingest_types,
                ingest_refusals, scopes, roles, handshakes, strangers, plain_flight, cancels_by_action, no_more_than_its_own,
            ])


@contextlib.contextmanager
def fails(*texts, kind=adbc_driver_manager.Error):
    """What is done within fails with a sentence that holds each text."""
    try:
        yield
    except kind as error:
        for text in texts:
            check(text in str(error), f"the error says {text!r}; it says {error}")
        check("DataFusion" not in str(error) and "panicked" not in str(error), f"a sentence for people: {error}")
    else:
        raise AssertionError(f"nothing failed; it should have said {texts!r}")


def connect(plant, user="reader", **options):
    """ADBC with a token in the header that every call carries."""
    words = {
        DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {plant.tokens[user]}",
        DatabaseOptions.TLS_ROOT_CERTS.value: plant.ca.read_text(),
    }
    words.update(options)
    words = {name: value for name, value in words.items() if value is not None}
    return adbc_driver_flightsql.dbapi.connect(f"grpc+tls://localhost:{plant.grpc}", db_kwargs=words, autocommit=True)


def ask(connection, sql, parameters=None):
    """The answer as a table."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def rows(connection, sql, parameters=None):
    """The answer as a list of tuples. Times are whole nanoseconds: Python's have microseconds only."""
    table = ask(connection, sql, parameters)
    columns = [column.cast(pyarrow.int64()) if pyarrow.types.is_timestamp(column.type) else column for column in table.columns]
    return list(zip(*(column.to_pylist() for column in columns)))


def bits(value):
    return struct.pack("<d", value)


def ns_of(at):
    return round(at.timestamp()) * 10**9


def types(plant):
    with connect(plant) as connection:
        table = ask(connection, "SELECT ts, value, tag FROM samples WHERE tag = 'plant/odd' ORDER BY ts")
        equal([bits(value) for value in table["value"].to_pylist()], [bits(value) for value in ODD], "floats, to the bit")
        equal(table.schema.field("ts").type, UTC_NS, "the type of ts")
        first = ns_of(datetime.datetime(2026, 3, 2, tzinfo=datetime.timezone.utc)) + 123_456_789
        equal(table["ts"].cast(pyarrow.int64()).to_pylist(), [first + second * 10**9 for second in range(len(ODD))], "nanoseconds")
        check(table.schema.field("tag").type in (pyarrow.string(), pyarrow.large_string()), f"text: {table.schema.field('tag').type}")
        equal(set(table["tag"].to_pylist()), {"plant/odd"}, "text")
        sql = "SELECT CAST('inf' AS DOUBLE) AS a, CAST('-inf' AS DOUBLE) AS b, CAST('nan' AS DOUBLE) AS c, -0.0 AS d"
        (up, down, none, zero), = rows(connection, sql)
        check(up == math.inf and down == -math.inf and math.isnan(none), f"infinities: {up} {down} {none}")
        equal(bits(zero), bits(-0.0), "a negative zero")
        sql = ("SELECT true AS a, CAST(7 AS SMALLINT) AS b, CAST(7 AS INTEGER) AS c, CAST(-7 AS BIGINT) AS d, CAST(0.5 AS REAL) AS e, "
               "'ü''\"' AS f, DATE '2026-03-01' AS g, CAST(1.25 AS DECIMAL(10, 2)) AS h, NULL AS i, CAST(NULL AS DOUBLE) AS j")
        row, = rows(connection, sql)
        equal((*row[:7], float(row[7]), *row[8:]),
              (True, 7, 7, -7, 0.5, "ü'\"", datetime.date(2026, 3, 1), 1.25, None, None), "a row of all types")
        # What is no value is NULL, and has its type.
        table = ask(connection, "SELECT value, value_text FROM samples WHERE tag = 'plant/odd'")
        equal(table["value_text"].null_count, len(ODD), "NULLs")
        equal(ask(connection, "SELECT ts, value FROM samples WHERE tag = 'nowhere'").num_rows, 0, "rows of a tag that is not there")
        equal(ask(connection, "SELECT ts, value FROM samples WHERE tag = 'nowhere'").schema.field("ts").type, UTC_NS, "types without rows")
        # The plain Python interface, which most begin with.
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*), max(value) FROM samples WHERE tag = 'plant/u1/T'")
            equal(cursor.fetchone(), (ROWS, 1000 + (ROWS - 1) / 8), "fetchone")
            cursor.execute("SELECT value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts LIMIT 3")
            frame = cursor.fetch_df()
        equal(list(frame.value), [1000.0, 1000.125, 1000.25], "a frame of pandas")
    return f"ADBC Flight SQL {adbc_driver_flightsql.__version__}, pyarrow {pyarrow.__version__}"


def same_schemas(plant):
    """What a statement is said to give is what it gives, whatever becomes of it when it is optimized: ADBC takes no other."""
    with connect(plant) as connection:
        for sql, parameters, wanted in [
            ("SELECT [1, 2] AS a", None, ([1, 2],)),
            ("SELECT named_struct('x', 1) AS a", None, ({"x": 1},)),
            ("SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS BOOLEAN)", ("a", 2**62, True), ("a", 2**62, True)),
            ("SELECT coalesce(NULL, 1) AS a", None, (1,)),
            ("SELECT CASE WHEN true THEN 1 END AS a", None, (1,)),
            ("SELECT max(value) AS a FROM samples WHERE tag = 'plant/u1/T'", None, (1000 + (ROWS - 1) / 8,)),
            ("SELECT round(1.5) + $1 AS a", (0.5,), (2.5,)),
            ("SELECT $1 AS a", ("a",), ("a",)),
            ("SELECT time_bucket('1 h', $1) AS a", (START,), (ns_of(START),)),
            ("SELECT upper($1) AS a", ("a",), ("A",)),
            ("SELECT a.tag, b.value FROM tags a LEFT JOIN latest b ON a.tag = b.tag AND b.value > 1 WHERE a.tag = 'plant/u1/T'", None,
             ("plant/u1/T", 1000 + (ROWS - 1) / 8)),
            ("SELECT tag FROM tags WHERE tag = 'plant/u1/T' UNION ALL SELECT NULL WHERE false", None, ("plant/u1/T",)),
        ]:
            try:
                equal(rows(connection, sql, parameters), [wanted], sql)
            except adbc_driver_manager.Error as error:
                raise AssertionError(f"{sql}: {error}") from error


def parameters(plant):
    with connect(plant) as connection:
        sql = "SELECT count(*), min(value) FROM samples WHERE tag = $1 AND ts >= $2 AND ts < $3 AND value > $4"
        values = ("plant/u1/T", START, START + datetime.timedelta(minutes=1), 1001.5)
        equal(rows(connection, sql, values), [(47, 1001.625)], "an answer to parameters")
        quotes = "it's ''two''"
        equal(rows(connection, "SELECT count(*) FROM samples WHERE tag <> $1 AND tag_id < $2 AND $3", (quotes, 2**62, True)),
              [(2 * ROWS + len(ODD),)], "values of all kinds")
        equal(rows(connection, "SELECT CAST($1 AS DOUBLE) IS NULL", (None,)), [(True,)], "NULL as a value")
        # Nanoseconds go in as they come out.
        at = ns_of(datetime.datetime(2026, 3, 2, tzinfo=datetime.timezone.utc)) + 123_456_789
        exact = pyarrow.record_batch([pyarrow.array([at], UTC_NS)], names=["$1"])
        equal(rows(connection, "SELECT value FROM samples WHERE tag = 'plant/odd' AND ts = $1", exact), [(ODD[0],)], "a nanosecond")
        two = pyarrow.record_batch([pyarrow.array(["a", "b"])], names=["$1"])
        with fails("one row"):
            rows(connection, "SELECT CAST($1 AS TEXT) AS a", two)
        # It is for updates, of which there are none.
        with connection.cursor() as cursor, fails(""):
            cursor.executemany("SELECT $1", [(1,), (2,)])
        with fails("2 parameters"):
            rows(connection, "SELECT CAST($1 AS TEXT), CAST($2 AS TEXT)", ("a",))


def prepared(plant):
    """Prepared once, run often: each time it sees the newest state."""
    with connect(plant) as connection, connection.cursor() as cursor:
        sql = "SELECT value FROM samples WHERE tag = $1 ORDER BY ts LIMIT 1 OFFSET $2"
        schema = cursor.adbc_prepare(sql)
        equal([field.name for field in schema], ["$1", "$2"], "parameters of a prepared statement")
        for number in range(10):
            cursor.execute(sql, ("plant/u10/T", number))
            equal(cursor.fetchall(), [(10_000 + number / 8,)], f"row {number}")
        with fails("no column named nothing"):
            cursor.adbc_prepare("SELECT nothing FROM samples")
        equal(connection.cursor().adbc_execute_schema("SELECT ts, value FROM samples"),
              pyarrow.schema([pyarrow.field("ts", UTC_NS), pyarrow.field("value", pyarrow.float64())]), "a schema without rows")


def named(objects, *path):
    """Names of what lies below each catalog, schema, relation on the way."""
    found = objects
    for level in path:
        found = [inner for outer in found for inner in outer[level] or []]
    return found


def objects(plant):
    with connect(plant) as connection:
        def objects_of(**words):
            return connection.adbc_get_objects(**words).read_all().to_pylist()

        equal([(one["catalog_name"], one["catalog_db_schemas"]) for one in objects_of(depth="catalogs")], [("tagmill", None)], "catalogs")
        schemas = named(objects_of(depth="db_schemas"), "catalog_db_schemas")
        check({"public", "system", "information_schema"} <= {one["db_schema_name"] for one in schemas}, f"schemas: {schemas}")
        tables = named(objects_of(depth="tables", db_schema_filter="public"), "catalog_db_schemas", "db_schema_tables")
        names = {one["table_name"] for one in tables}
        check({"samples", "tags", "latest", "rollup_1m", "rollup_1d"} <= names and "segments" not in names, f"relations: {names}")
        columns = named(objects_of(depth="columns", table_name_filter="samples"), "catalog_db_schemas", "db_schema_tables", "table_columns")
        check({"ts", "tag", "value", "quality"} <= {one["column_name"] for one in columns}, f"columns: {columns}")
        tables = named(objects_of(depth="all", table_name_filter="rollup_1%"), "catalog_db_schemas", "db_schema_tables")
        equal({one["table_name"] for one in tables}, {"rollup_1m", "rollup_15m", "rollup_1h", "rollup_1d"}, "a pattern")
        few = named(objects_of(depth="all", table_name_filter="samples", column_name_filter="v%"),
                    "catalog_db_schemas", "db_schema_tables", "table_columns")
        check(few and all(one["column_name"].startswith("v") for one in few), f"a pattern of columns: {few}")
        for words in [{"catalog_filter": "other"}, {"db_schema_filter": "other"}, {"table_name_filter": "other"}, {"table_types_filter": ["TABLE"]}]:
            tables = named(objects_of(depth="tables", **words), "catalog_db_schemas", "db_schema_tables")
            equal(tables, [], f"relations of {words}")
        equal(connection.adbc_get_table_types(), ["VIEW"], "types of relations")
        info = connection.adbc_get_info()
        equal(info["vendor_name"], "Tagmill", "the vendor")
        check(info["vendor_version"].count(".") == 2 and "Flight SQL" in info["driver_name"], f"info: {info}")


def schemas(plant):
    with connect(plant) as connection:
        schema = connection.adbc_get_table_schema("samples")
        equal((schema.field("ts").type, schema.field("value").type), (UTC_NS, pyarrow.float64()), "types of samples")
        again = connection.adbc_get_table_schema("samples", catalog_filter="tagmill", db_schema_filter="public")
        equal(again, schema, "the same by its full name")
        asked = ask(connection, "SELECT * FROM samples LIMIT 0").schema
        equal([(field.name, field.type) for field in schema], [(field.name, field.type) for field in asked], "what SELECT * gives")
        check(connection.adbc_get_table_schema("segments", db_schema_filter="system").names, "one of system")
        with fails("No table"):
            connection.adbc_get_table_schema("nowhere")


def large(plant):
    """Rows are taken as they come; the server gathers none of them."""
    with connect(plant) as connection, connection.cursor() as cursor:
        before = plant.rss_mib()
        cursor.execute(f"SELECT a.ts, a.value + b.value AS total, a.tag FROM samples a, samples b WHERE a.tag = 'plant/u1/T' "
                       f"AND b.tag = 'plant/u10/T' AND b.value < {10_000 + 300 / 8}")
        count, most = 0, 0
        for batch in cursor.fetch_record_batch():
            count += batch.num_rows
            most = max(most, batch.num_rows)
        equal(count, ROWS * 300, "rows")
        check(most <= 65_536, f"they come in parts; the largest had {most}")
        # More than a session may have: an error behind the rows, not the end of a table that looks whole.
        with fails("tagmill.max_rows"):
            cursor.execute("SELECT a.ts FROM samples a, samples b")
            cursor.fetch_arrow_table()
        equal(rows(connection, "SELECT 1"), [(1,)], "after an answer that broke off")
        return f"{count} rows, the server grew by {plant.rss_mib() - before:.0f} MiB"


def running(plant, part, user="boss"):
    """Statements that run, of those whose text has a part."""
    with connect(plant, user) as connection:
        return [row for row in rows(connection, "SELECT id, principal, door, sql FROM system.queries") if part in row[3] and "system.queries" not in row[3]]


def until(holds, claim):
    deadline = time.monotonic() + WAIT_S
    while not holds():
        check(time.monotonic() < deadline, f"{claim}, within {WAIT_S} s")
        time.sleep(0.1)


def cancels(plant):
    """adbc_cancel from another thread ends what runs, at the client and at the server."""
    with connect(plant) as connection, connection.cursor() as cursor:
        ended = []

        def wait():
            try:
                cursor.execute(ENDLESS)
                cursor.fetchall()
                ended.append("it ended by itself")
            except adbc_driver_manager.Error as error:
                ended.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: running(plant, "1e9"), "it runs")
        (_, principal, door, _), = running(plant, "1e9")
        equal((principal, door), ("reader", "flight"), "whose statement runs")
        cursor.adbc_cancel()
        thread.join(WAIT_S)
        check(ended and "cancel" in ended[0].lower(), f"the client is told: {ended}")
        until(lambda: not running(plant, "1e9"), "the server ends it")
        equal(rows(connection, "SELECT 1"), [(1,)], "after a cancel")


def errors(plant):
    with connect(plant) as connection:
        for sql, texts, kind in [
            ("SELEC 1", ["syntax error"], adbc_driver_manager.ProgrammingError),
            ("SELECT * FROM sample", ["did you mean samples"], adbc_driver_manager.ProgrammingError),
            ("SELECT valu FROM samples", ["did you mean value"], adbc_driver_manager.ProgrammingError),
            ("DELETE FROM samples", ["only reads"], adbc_driver_manager.Error),
            ("CREATE TABLE t (a INT)", ["only reads"], adbc_driver_manager.Error),
            ("COPY samples TO '/tmp/tagmill-must-not-be'", ["only reads"], adbc_driver_manager.Error),
            ("SELECT 1; SELECT 2", ["one statement"], adbc_driver_manager.Error),
            ("SELECT 1 / 0", ["zero"], adbc_driver_manager.Error),
            ("SELECT '" + "x" * 70_000 + "'", ["at most 65536"], adbc_driver_manager.Error),
            ("SELECT 1" + " + 1" * 300, ["256 operators"], adbc_driver_manager.Error),
            ("SELECT repeat('x', 1000000000)", ["repeat", "bytes"], adbc_driver_manager.Error),
        ]:
            with fails(*texts, kind=kind):
                rows(connection, sql)
        equal(rows(connection, "SELECT 1"), [(1,)], "after errors")
        # There are no transactions; a client that wants one is told so, and none is pretended.
        with fails("", kind=adbc_driver_manager.Error):
            connection.adbc_connection.set_autocommit(False)
        with connection.cursor() as cursor, fails(""):
            cursor.executescript("SELECT 1; SELECT 2")


def samples(names, times, values, **more):
    columns = {"tag": names, "ts": times, "value": values, **more}
    return pyarrow.table(columns)


def ingests(plant):
    """History goes in by adbc_ingest and comes out by SQL, to the bit."""
    start = ns_of(START) + 987_654_321
    # A mark of time for each value: the times are whole nanoseconds, none of them a whole microsecond.
    times = [start + number * 1_000_000_001 for number in range(len(ODD))]
    table = samples(["load/odd"] * len(ODD), pyarrow.array(times, UTC_NS), ODD)
    coded = samples(["load/coded"] * 3, pyarrow.array(times[:3], UTC_NS), [1.5, 2.5, 3.5],
                    quality=pyarrow.array([0, 0x4000_0000, 0x8000_0000], pyarrow.uint32()))
    many = 200_000
    wide = samples([f"load/wide{number % 5}" for number in range(many)],
                   pyarrow.array([start + number * 10**9 for number in range(many)], UTC_NS), [number / 8 for number in range(many)])
    with connect(plant, "both") as connection, connection.cursor() as cursor:
        equal(cursor.adbc_ingest("samples", table, mode="append"), len(ODD), "samples that are loaded")
        found = rows(connection, "SELECT ts, value FROM samples WHERE tag = 'load/odd' ORDER BY ts")
        equal([(at, bits(value)) for at, value in found], [(at, bits(value)) for at, value in zip(times, ODD)], "what was loaded")
        equal(cursor.adbc_ingest("samples", coded, mode="append"), 3, "samples with qualities")
        found = rows(connection, "SELECT quality, value_raw FROM samples WHERE tag = 'load/coded' ORDER BY ts")
        equal(found, [(0, 1.5), (0x4000_0000, 2.5), (0x8000_0000, 3.5)], "qualities")
        # Batches, a stream of them, by the full name, and twice: a sample is there once.
        reader = pyarrow.RecordBatchReader.from_batches(wide.schema, wide.to_batches(max_chunksize=10_000))
        equal(cursor.adbc_ingest("samples", reader, mode="append", catalog_name="tagmill", db_schema_name="public"), many, "a stream")
        reader = pyarrow.RecordBatchReader.from_batches(wide.schema, wide.to_batches(max_chunksize=50_000))
        equal(cursor.adbc_ingest("samples", reader, mode="append"), many, "the same again")
        # A batch is a message, and a message has an end. The driver does not cut batches.
        with fails("too large", "4194304"):
            cursor.adbc_ingest("samples", wide, mode="append")
        sql = "SELECT count(*), sum(value), count(DISTINCT tag) FROM samples WHERE tag LIKE 'load/wide%'"
        equal(rows(connection, sql), [(many, (many - 1) * many / 16, 5)], "what a stream left")
        # "create_append": it is there, so it is appended to.
        equal(cursor.adbc_ingest("samples", table, mode="create_append"), len(ODD), "create_append")
    with connect(plant, "loader") as connection, connection.cursor() as cursor:
        equal(cursor.adbc_ingest("samples", samples(["load/w"], pyarrow.array(times[:1], UTC_NS), [1.0]), mode="append"), 1, "a writer's sample")


def ingest_types(plant):
    at = [ns_of(START)]
    with connect(plant, "both") as connection, connection.cursor() as cursor:
        for name, values, column, wanted in [
            ("load/f32", pyarrow.array([0.5], pyarrow.float32()), "value", 0.5),
            ("load/i64", pyarrow.array([2**53 + 1], pyarrow.int64()), "value_int", 2**53 + 1),
            ("load/i16", pyarrow.array([-7], pyarrow.int16()), "value_int", -7),
            ("load/bool", pyarrow.array([True]), "value_int", 1),
            ("load/text", pyarrow.array(["Charge ü"]), "value_text", "Charge ü"),
            ("load/large", pyarrow.array(["x" * 500], pyarrow.large_string()), "value_text", "x" * 500),
        ]:
            equal(cursor.adbc_ingest("samples", samples([name], pyarrow.array(at, UTC_NS), values), mode="append"), 1, name)
            equal(rows(connection, f"SELECT {column} FROM samples WHERE tag = '{name}'"), [(wanted,)], name)
        # What pandas calls a category.
        words = samples(pyarrow.array(["load/words"] * 2).dictionary_encode(), pyarrow.array([at[0], at[0] + 1], UTC_NS), [1.0, 2.0])
        equal(cursor.adbc_ingest("samples", words, mode="append"), 2, "names in a dictionary")
        for number, times in enumerate([
            pyarrow.array(at, pyarrow.int64()), pyarrow.array(at, pyarrow.timestamp("ns")), pyarrow.array([START]),
            pyarrow.array([START], pyarrow.timestamp("us", "Europe/Berlin")), pyarrow.array([START], pyarrow.timestamp("s", "UTC")),
        ]):
            name = f"load/time{number}"
            equal(cursor.adbc_ingest("samples", samples([name], times, [1.0]), mode="append"), 1, f"{times.type}")
            equal(rows(connection, f"SELECT epoch_ns(ts) FROM samples WHERE tag = '{name}'"), [(at[0],)], f"a time of {times.type}")


def ingest_refusals(plant):
    at = pyarrow.array([ns_of(START)], UTC_NS)
    good = samples(["load/refused"], at, [1.0])
    with connect(plant, "both") as connection:
        def ingest(*words, **more):
            # A cursor keeps what it was told of the relation before.
            with connection.cursor() as cursor:
                return cursor.adbc_ingest(*words, **more)

        for mode in ["create", "replace"]:
            with fails("append to it"):
                ingest("samples", good, mode=mode)
        for table in ["tags", "latest", "load/refused", "other"]:
            with fails("into the relation \"samples\""):
                ingest(table, good, mode="append")
        with fails("tagmill.public.samples"):
            ingest("samples", good, mode="append", db_schema_name="system")
        with fails("tagmill.public.samples"):
            ingest("samples", good, mode="append", catalog_name="other")
        with fails(""):
            ingest("samples", good, mode="append", temporary=True)
        for table, text in [
            (good.append_column("unit", [["bar"]]), "no column \"unit\""),
            (good.drop_columns(["ts"]), "\"ts\" is missing"),
            (good.drop_columns(["tag"]), "\"tag\" is missing"),
            (good.drop_columns(["value"]), "\"value\" is missing"),
            (samples(["load/refused"], at, pyarrow.array([None], pyarrow.float64())), "null"),
            (samples(pyarrow.array([None], pyarrow.string()), at, [1.0]), "null"),
            (samples(["load/refused"], pyarrow.array(["2026-03-01"]), [1.0]), "no timestamp"),
            (samples(["load/refused"], at, pyarrow.array([[1.0]])), "\"value\""),
            (samples(["load/refused"], at, [1.0], quality=pyarrow.array([-1], pyarrow.int64())), "quality"),
            (samples([""], at, [1.0]), ""),
            (samples(["a//b"], at, [1.0]), ""),
            (samples(["x" * 5_000], at, [1.0]), ""),
            # A tag has one type: what its type does not hold is refused, not changed.
            (samples(["plant/u1/T"], at, pyarrow.array(["text"])), ""),
        ]:
            with fails(text):
                ingest("samples", table, mode="append")
        # Without a mode it is "create", which is refused as well.
        with fails("append to it"):
            ingest("samples", good)
        equal(rows(connection, "SELECT count(*) FROM tags WHERE tag = 'load/refused'"), [(0,)], "what was refused left nothing")
        # What stood before the one that is refused is on disk, and the error says how much.
        first = samples(["load/first"] * 2, pyarrow.array([1, 2], UTC_NS), [1.0, 2.0])
        second = samples(pyarrow.array([None], pyarrow.string()), pyarrow.array([3], UTC_NS), [3.0])
        reader = pyarrow.RecordBatchReader.from_batches(first.schema, first.to_batches() + second.cast(first.schema).to_batches())
        with fails("2 samples before are on disk"):
            ingest("samples", reader, mode="append")
        equal(rows(connection, "SELECT count(*) FROM samples WHERE tag = 'load/first'"), [(2,)], "what came before")


def scopes(plant):
    with connect(plant, "unit1") as connection:
        equal(rows(connection, "SELECT DISTINCT tag FROM samples"), [("plant/u1/T",)], "samples of a scope")
        equal(rows(connection, "SELECT tag FROM tags"), [("plant/u1/T",)], "tags of a scope")
        equal(rows(connection, "SELECT count(*) FROM samples WHERE tag = $1", ("plant/u10/T",)), [(0,)], "prepared")
        names = [one["table_name"] for one in named(connection.adbc_get_objects(depth="tables", db_schema_filter="system").read_all().to_pylist(),
                                                    "catalog_db_schemas", "db_schema_tables")]
        check("segments" not in names and "audit" not in names, f"what system shows: {names}")
        for name in ["segments", "tiers", "damage", "retention", "audit", "gateways"]:
            with fails("no relation"):
                rows(connection, f"SELECT * FROM system.{name}")
    at = pyarrow.array([ns_of(START)], UTC_NS)
    with connect(plant, "loader") as connection, connection.cursor() as cursor:
        for name in ["plant/u1/T", "loader/x", "loa"]:
            with fails("outside of the scope"):
                cursor.adbc_ingest("samples", samples([name], at, [-666.0]), mode="append")
    with connect(plant) as connection:
        equal(rows(connection, "SELECT count(*) FROM samples WHERE value = -666"), [(0,)], "what was written outside")


def roles(plant):
    at = pyarrow.array([ns_of(START)], UTC_NS)
    for user in ["gateway", "loader"]:
        with connect(plant, user) as connection:
            with fails("lacks the role reader"):
                rows(connection, "SELECT 1")
            with fails("lacks the role reader"):
                connection.adbc_get_objects(depth="tables").read_all()
    for user in ["reader", "unit1"]:
        with connect(plant, user) as connection, connection.cursor() as cursor, fails("lacks the role writer"):
            cursor.adbc_ingest("samples", samples(["plant/u1/T"], at, [1.0]), mode="append")


def handshakes(plant):
    """By user and token. The user may be anything, of any length: the token says who it is."""
    for user in ["reader", "a", "ab", "abc", "somebody else", "ü"]:
        words = {DatabaseOptions.AUTHORIZATION_HEADER.value: None, "username": user, "password": plant.tokens["reader"]}
        try:
            with connect(plant, **words) as connection:
                equal(rows(connection, "SELECT count(*) FROM samples WHERE tag = 'plant/u1/T'"), [(ROWS,)], f"after a handshake of {user!r}")
        except adbc_driver_manager.Error as error:
            raise AssertionError(f"a handshake of {user!r} with a good token: {error}") from error


def strangers(plant):
    for words, text in [
        ({DatabaseOptions.AUTHORIZATION_HEADER.value: None}, "who calls"),
        ({DatabaseOptions.AUTHORIZATION_HEADER.value: "Bearer tgm_00000000_x"}, "not valid"),
        ({DatabaseOptions.AUTHORIZATION_HEADER.value: plant.tokens["reader"]}, "who calls"),
        ({DatabaseOptions.AUTHORIZATION_HEADER.value: None, "username": "reader", "password": "wrong"}, "UNAUTHENTICATED"),
        ({DatabaseOptions.AUTHORIZATION_HEADER.value: None, "username": "reader", "password": ""}, "UNAUTHENTICATED"),
        ({DatabaseOptions.TLS_ROOT_CERTS.value: other_authority(plant)}, "certificate"),
    ]:
        with fails(text):
            with connect(plant, **words) as connection:
                rows(connection, "SELECT 1")
    with fails(""):
        plain = adbc_driver_flightsql.dbapi.connect(
            f"grpc://localhost:{plant.grpc}", autocommit=True, db_kwargs={DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {plant.tokens['reader']}"})
        with plain as connection:
            rows(connection, "SELECT 1")


def other_authority(plant):
    path = plant.scratch / "other.pem"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
         plant.scratch / "other.key", "-out", path, "-days", "2", "-subj", "/CN=localhost"])
    return path.read_text()


# ---- Flight without ADBC ---------------------------------------------------------------------------------------------


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """One field of a protobuf message: text, bytes or a whole number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def command(kind, *fields):
    """A command of Flight SQL, packed as it travels."""
    return field(1, f"type.googleapis.com/arrow.flight.protocol.sql.{kind}") + field(2, b"".join(fields))


class PlainFlight:
    """pyarrow's client, and the header its calls need."""

    def __init__(self, plant, user="reader"):
        self.client = pyarrow.flight.connect(f"grpc+tls://localhost:{plant.grpc}", tls_root_certs=plant.ca.read_bytes())
        token = plant.tokens.get(user)
        self.options = pyarrow.flight.FlightCallOptions(
            headers=[(b"authorization", f"Bearer {token}".encode())] if token else [], timeout=WAIT_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def info(self, kind, *fields):
        return self.client.get_flight_info(pyarrow.flight.FlightDescriptor.for_command(command(kind, *fields)), self.options)

    def table(self, kind, *fields):
        return self.client.do_get(self.info(kind, *fields).endpoints[0].ticket, self.options).read_all()

    def act(self, kind, body):
        return [result.body.to_pybytes() for result in self.client.do_action(pyarrow.flight.Action(kind, body), self.options)]


def plain_flight(plant):
    with PlainFlight(plant) as flight:
        equal(flight.table("CommandStatementQuery", field(1, "SELECT 1 AS one")).to_pydict(), {"one": [1]}, "a statement")
        info = flight.info("CommandStatementQuery", field(1, "SELECT ts, value FROM samples"))
        equal(info.schema.names, ["ts", "value"], "the schema before the rows")
        actions = {action.type for action in flight.client.list_actions(flight.options)}
        check({"CancelFlightInfo", "CancelQuery", "CreatePreparedStatement", "ClosePreparedStatement"} <= actions, f"actions: {actions}")
        # FLIGHT_SQL_SERVER_NAME, _READ_ONLY, _SQL, _CANCEL, _BULK_INGESTION, _TRANSACTION
        numbers = b"".join(varint(number) for number in [0, 3, 4, 9, 10, 8])
        told = {row["info_name"]: row["value"] for row in flight.table("CommandGetSqlInfo", field(1, numbers)).to_pylist()}
        equal(told, {0: "Tagmill", 3: True, 4: True, 8: 0, 9: True, 10: True}, "what the server says of itself")
        check(flight.table("CommandGetSqlInfo").num_rows >= 15, "all that it says")
        types = flight.table("CommandGetXdbcTypeInfo").to_pydict()["type_name"]
        check({"BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR", "TIMESTAMP"} <= set(types), f"types: {types}")
        equal(flight.table("CommandGetCatalogs").to_pydict(), {"catalog_name": ["tagmill"]}, "catalogs")
        for kind in ["CommandGetPrimaryKeys", "CommandGetExportedKeys", "CommandGetImportedKeys"]:
            equal(flight.table(kind, field(3, "samples")).num_rows, 0, kind)
        # The columns of relations come as schemas.
        with_schemas = flight.table("CommandGetTables", field(2, "public"), field(3, "samples"), field(5, 1)).to_pylist()
        schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(with_schemas[0]["table_schema"]))
        check({"ts", "tag", "value"} <= set(schema.names), f"columns: {schema.names}")
        for kind, *fields in [("CommandStatementUpdate", field(1, "DELETE FROM samples")), ("CommandStatementSubstraitPlan", b""), ("Nonsense", b"")]:
            with fails("", kind=(pyarrow.ArrowException, pyarrow.flight.FlightError)):
                flight.table(kind, *fields)
        wrong = (pyarrow.ArrowException, pyarrow.flight.FlightError, OSError)
        for bytes_sent in [b"", b"\xff" * 20, b"no command", field(1, "x" * 1_000)]:
            with fails("", kind=wrong):
                flight.client.do_get(pyarrow.flight.Ticket(bytes_sent), flight.options).read_all()
            with fails("", kind=wrong):
                flight.client.get_flight_info(pyarrow.flight.FlightDescriptor.for_command(bytes_sent), flight.options)
        with fails("", kind=wrong):
            flight.act("Nonsense", b"")
        with fails("transactions", kind=wrong):
            flight.info("CommandStatementQuery", field(1, "SELECT 1"), field(2, b"tx"))
        with fails("", kind=wrong):
            list(flight.client.list_flights(b"", flight.options))


def cancel_request(info):
    """CancelFlightInfoRequest and ActionCancelQueryRequest."""
    return field(1, info.serialize()), command("ActionCancelQueryRequest", field(1, info.serialize()))


# CancelStatus of Flight: how it stands in the answer to CancelFlightInfo.
CANCELLED, NOT_CANCELLABLE = field(1, 1), field(1, 3)


@contextlib.contextmanager
def without_interrupts():
    """pyarrow takes what a server has cancelled for Ctrl-C, and interrupts the main thread."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@without_interrupts()
def cancels_by_action(plant):
    """Both actions end a statement of one's own, and nobody else's."""
    for action in ["CancelFlightInfo", "CancelQuery"]:
        with PlainFlight(plant) as flight, PlainFlight(plant, "unit1") as stranger:
            info = flight.info("CommandStatementQuery", field(1, ENDLESS))
            body = dict(zip(["CancelFlightInfo", "CancelQuery"], cancel_request(info)))[action]
            check(NOT_CANCELLABLE in flight.act(action, body)[0], "what does not run cannot be cancelled")
            ended = []

            def wait():
                try:
                    flight.client.do_get(info.endpoints[0].ticket, flight.options).read_all()
                    ended.append("it ended by itself")
                except (pyarrow.ArrowException, pyarrow.flight.FlightError) as error:
                    ended.append(str(error))

            thread = threading.Thread(target=wait)
            thread.start()
            until(lambda: running(plant, "1e9"), "it runs")
            check(NOT_CANCELLABLE in stranger.act(action, body)[0], "a stranger's request")
            check(running(plant, "1e9"), "it runs on after a stranger's request")
            until(lambda: CANCELLED in flight.act(action, body)[0] or ended, f"{action} is heard")
            thread.join(WAIT_S)
            check(ended and "ended on request" in ended[0], f"the client is told: {ended}")
            until(lambda: not running(plant, "1e9"), "the server ends it")


def no_more_than_its_own(plant):
    """A handle is its owner's alone: a ticket of another token gives nothing."""
    with PlainFlight(plant) as flight, PlainFlight(plant, "unit1") as stranger, PlainFlight(plant, "nobody") as nobody:
        ticket = flight.info("CommandStatementQuery", field(1, "SELECT tag FROM tags")).endpoints[0].ticket
        wrong = (pyarrow.ArrowException, pyarrow.flight.FlightError)
        with fails("no such statement", kind=wrong):
            stranger.client.do_get(ticket, stranger.options).read_all()
        with fails("who calls", kind=wrong):
            nobody.client.do_get(ticket, nobody.options).read_all()
        with fails("who calls", kind=wrong):
            nobody.table("CommandGetCatalogs")
        with fails("who calls", kind=wrong):
            list(nobody.client.list_actions(nobody.options))
        check(flight.client.do_get(ticket, flight.options).read_all().num_rows >= 3, "its owner gets it")
        check(set(flight.table("CommandStatementQuery", field(1, "SELECT id, sql FROM system.queries")).column("sql").to_pylist()), "one's own statements")


if __name__ == "__main__":
    main()
