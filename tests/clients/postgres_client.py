#!/usr/bin/env python3
"""Clients of PostgreSQL, against the real binary over TLS with tokens: psql, psycopg, SQLAlchemy with pandas.

    python postgres_client.py PATH_TO_TAGMILL

It makes a certificate, tokens and a small plant, asks as these clients ask, checks every answer, and then tries what must
not be let in. What this machine lacks (psql, openssl) it says SKIPPED for. It ends only processes it started.
"""

import base64
import contextlib
import csv
import datetime
import decimal
import hashlib
import hmac
import math
import os
import pathlib
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

import pandas
import psycopg
import sqlalchemy

from grafana import Asked, expand
from plant import ODD, ROWS, START, UTC, Plant, check, equal, run


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    if not shutil.which("openssl"):
        print("postgres_client: SKIPPED, there is no openssl to make a certificate with")
        return
    with tempfile.TemporaryDirectory(prefix="tagmill-postgres-") as scratch:
        plant = Plant(binary, pathlib.Path(scratch))
        with plant.serve():
            for case in [
                protocols, no_text, parameters, types, subqueries, transactions, settings, copies, cancels, portals, catalogs,
                macros, sqlalchemy_and_pandas, dbeaver, psql, by_command, scopes, strangers, hostile_bytes, revoked,
            ]:
                began = time.monotonic()
                said = case(plant)
                print(f"postgres_client: {case.__name__}: {said or 'ok'} ({time.monotonic() - began:.1f} s)", flush=True)
    print("postgres_client: everything as it should be")


@contextlib.contextmanager
def fails(text, kind=psycopg.Error):
    try:
        yield
    except kind as error:
        check(text in str(error), f"the error says {text!r}; it says {error}")
    else:
        raise AssertionError(f"nothing failed; it should have said {text!r}")


def connect(plant, user="reader", autocommit=True, **more):
    return psycopg.connect(**plant.words(user, **more), autocommit=autocommit)


def bits(value):
    return struct.pack("<d", value)


def protocols(plant):
    with connect(plant) as connection:
        for binary in [False, True]:
            cursor = connection.cursor(binary=binary)
            sql = "SELECT ts, value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts"
            rows = cursor.execute(sql).fetchall()
            equal(len(rows), ROWS, "rows")
            equal(rows[8], (START + datetime.timedelta(seconds=8), 1001.0), "a row")
            rows = cursor.execute("SELECT value FROM samples WHERE tag = 'plant/odd' ORDER BY ts").fetchall()
            equal([bits(value) for (value,) in rows], [bits(value) for value in ODD], "floats, to the bit")
            sql = "SELECT CAST('inf' AS DOUBLE) AS a, CAST('-inf' AS DOUBLE) AS b, CAST('nan' AS DOUBLE) AS c, CAST('-inf' AS REAL) AS d"
            up, down, none, real = cursor.execute(sql.replace("DOUBLE)", "DOUBLE PRECISION)")).fetchone()
            check(up == math.inf and down == real == -math.inf and math.isnan(none), f"infinities: {up} {down} {none}")
        # Several statements in one text, the simple protocol.
        cursor = psycopg.ClientCursor(connection)
        cursor.execute("SELECT 1; SELECT 'a;b'; ;")
        equal(cursor.fetchall(), [(1,)], "the first answer")
        check(cursor.nextset(), "there is a second answer")
        equal(cursor.fetchall(), [("a;b",)], "the second answer")
        cursor.execute("")
        with fails("did you mean samples"):
            connection.execute("SELECT * FROM sample")
        with fails("only reads"):
            connection.execute("DELETE FROM samples")
        with fails("by zero", psycopg.errors.DataException):
            connection.execute("SELECT 1 / 0")
        equal(connection.execute("SELECT 1").fetchone(), (1,), "after errors")


def no_text(plant):
    """A statement that is no UTF-8 is refused, and nothing else is lost with it."""
    with connect(plant) as connection:
        raw, wrong = connection.pgconn, b"SELECT 'a\xff'"
        for ask in [lambda: raw.exec_(wrong), lambda: raw.prepare(b"", wrong), lambda: raw.prepare(b"n\xff", b"SELECT 1")]:
            code = ask().error_field(psycopg.pq.DiagnosticField.SQLSTATE)
            equal(code, b"22021", "the code of what is no text")
            equal(connection.execute("SELECT 'ü', %s::text", ["ü"]).fetchone(), ("ü", "ü"), "after it")
        equal(connection.info.transaction_status, psycopg.pq.TransactionStatus.IDLE, "status")


def parameters(plant):
    with connect(plant) as connection:
        cursor = connection.execute(
            "SELECT count(*), min(value) FROM samples WHERE tag = %s AND ts >= %s AND ts < %s AND value > %s",
            ["plant/u1/T", START, START + datetime.timedelta(minutes=1), 1001.5],
        )
        equal(cursor.fetchone(), (47, 1001.625), "an answer to parameters")
        cursor = connection.execute(
            "SELECT count(*) FROM grid('plant/u1/T', %s, end => %s, step => %s)",
            [START, START + datetime.timedelta(minutes=1), "10 s"],
        )
        equal(cursor.fetchone(), (6,), "a table function with parameters")
        # Prepared once, run often: each time it sees the newest state.
        for number in range(10):
            sql = "SELECT value FROM samples WHERE tag = %s ORDER BY ts LIMIT 1 OFFSET %s"
            row = connection.execute(sql, ["plant/u10/T", number], prepare=True).fetchone()
            equal(row, (10_000 + number / 8,), f"row {number}")
        quotes = "it's ''two''"
        equal(connection.execute("SELECT %s::text, %b::text", [quotes, quotes]).fetchone(), (quotes, quotes), "quotes")
        said = connection.pgconn.exec_params(b"SELECT $1::text", [b"a", b"b"]).error_message.decode()
        check("parameters" in said, f"too many values: {said}")
        with fails("out of range"):
            connection.execute("SELECT count(*) FROM samples WHERE ts < %s", [datetime.datetime.max.replace(tzinfo=UTC)])
        half = decimal.Decimal("1.5")
        with fails("a fraction is none", psycopg.errors.InvalidTextRepresentation):
            connection.execute("SELECT count(*) FROM samples WHERE tag_id = %s", [half])
        # The header of an array that speaks of more than there is.
        bomb = struct.pack(">iiiii", 1, 0, 25, 2**31 - 1, 1)
        said = connection.pgconn.exec_params(b"SELECT $1", [bomb], [1009], [1]).error_message.decode()
        check("no array" in said, f"an array of 2^31: {said}")
        row = connection.execute("SELECT CASE WHEN value > %s THEN 1 ELSE 0.5 END FROM samples LIMIT 1", [1e9], binary=True)
        equal(row.fetchone(), (0.5,), "a type that the analyzer finds")


def types(plant):
    with connect(plant) as connection:
        sql = ("SELECT true AS a, CAST(7 AS SMALLINT) AS b, 7 AS c, CAST(7 AS BIGINT) AS d, CAST(0.5 AS REAL) AS e, 0.5 AS f, "
               "'ü' AS g, DATE '2026-03-01' AS h, TIMESTAMPTZ '2026-03-01 06:00:00' AS i, INTERVAL '90 s' AS j, NULL AS k, "
               "CAST(1.25 AS DECIMAL(10, 2)) AS l, ARRAY[1, 2] AS m")
        wanted = (True, 7, 7, 7, 0.5, 0.5, "ü", datetime.date(2026, 3, 1), START + datetime.timedelta(hours=6),
                  datetime.timedelta(seconds=90), None)
        for binary in [False, True]:
            row = connection.cursor(binary=binary).execute(sql).fetchone()
            equal(row[:11], wanted, f"a row, binary={binary}")
            equal((float(row[11]), list(row[12])), (1.25, [1, 2]), f"decimal and list, binary={binary}")
        # Nanoseconds: rounded down, with one notice; epoch_ns has them all.
        notices = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        row = connection.execute("SELECT ts, epoch_ns(ts) FROM samples WHERE tag = 'plant/odd' ORDER BY ts").fetchone()
        equal(row[0].microsecond, 123_456, "microseconds")
        equal(row[1] % 10**9, 123_456_789, "nanoseconds")
        check(len(notices) == 1 and "epoch_ns" in notices[0], f"one notice: {notices}")
        row = connection.cursor(binary=True).execute("SELECT array_agg(ts) FROM samples WHERE tag = 'plant/odd'").fetchone()
        equal({ts.microsecond for ts in row[0]}, {123_456}, "microseconds in a list")
        equal(len(notices), 2, "notices with a list")
        for zone, minutes in [("Europe/Berlin", 60), ("Asia/Kolkata", 330), ("America/St_Johns", -210)]:
            connection.execute(f"SET timezone = '{zone}'")
            row = connection.execute("SELECT ts FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts LIMIT 1").fetchone()
            equal((row[0], row[0].utcoffset()), (START, datetime.timedelta(minutes=minutes)), f"a time in the session's zone, {zone}")
        sql = "SELECT ts AT TIME ZONE 'Europe/Berlin' AS there FROM samples WHERE tag = 'plant/u1/T' ORDER BY there LIMIT 1"
        with connection.cursor().copy(f"COPY ({sql}) TO STDOUT") as copy:
            equal(b"".join(copy), b"2026-03-01 01:00:00.000000+01\n", "a time in a zone of its own")


def subqueries(plant):
    """What a subquery answers is asked, whatever it hangs on; one with too many rows is an error."""
    last = 1000 + (ROWS - 1) / 8
    with connect(plant) as connection:
        for sql, wanted in {
            "SELECT (SELECT max(samples.value) FROM samples WHERE samples.tag = 'plant/u1/T')": [(last,)],
            "SELECT t.tag, (SELECT max(s.value) FROM samples s WHERE s.tag = t.tag) AS most FROM tags t WHERE tag = 'plant/u1/T'": [("plant/u1/T", last)],
            "SELECT (SELECT n.nspname FROM pg_namespace n WHERE n.oid = c.relnamespace) FROM pg_class c WHERE relname = 'samples'": [("public",)],
            "SELECT count(*) FROM tags WHERE tag LIKE 'plant!/u1/_' ESCAPE '!'": [(1,)],
            "SELECT count(*) FROM samples WHERE tag = ANY ('{plant/u1/T,\"no, tag\"}')": [(ROWS,)],
            "SELECT count(*) FROM samples WHERE value <> ALL (ARRAY[1.0, NULL])": [(0,)],
        }.items():
            equal(connection.execute(sql).fetchall(), wanted, sql)
        sql = "SELECT (SELECT max(value) FROM samples s WHERE s.tag = t.tag AND value < %s) FROM tags t WHERE tag = %s"
        equal(connection.execute(sql, [1001, "plant/u1/T"]).fetchall(), [(1000.875,)], "parameters within")
        for sql, text in {
            "SELECT (SELECT tag FROM samples) AS one": "more than one row",
            "SELECT (SELECT s.tag FROM samples s WHERE s.tag = t.tag) AS one FROM tags t": "at most one row",
            "SELECT tag FROM tags ORDER BY tag COLLATE \"de_DE\"": "compared by its bytes",
        }.items():
            with fails(text):
                connection.execute(sql).fetchall()


def transactions(plant):
    with connect(plant, autocommit=False) as connection:
        equal(connection.execute("SELECT 1").fetchone(), (1,), "in a transaction")
        equal(connection.info.transaction_status, psycopg.pq.TransactionStatus.INTRANS, "status")
        with fails("no relation named nowhere"):
            connection.execute("SELECT * FROM nowhere")
        with fails("ROLLBACK"):
            connection.execute("SELECT 1")
        connection.rollback()
        connection.execute("SET LOCAL tagmill.max_rows = 5")
        equal(connection.execute("SHOW tagmill.max_rows").fetchone(), ("5",), "SET LOCAL")
        connection.commit()
        equal(connection.execute("SHOW tagmill.max_rows").fetchone(), ("1000000",), "after COMMIT")
        connection.execute("SET tagmill.max_rows = 7")
        connection.rollback()
        equal(connection.execute("SHOW tagmill.max_rows").fetchone(), ("1000000",), "after ROLLBACK")
        with connection.transaction(), contextlib.suppress(psycopg.Error), connection.transaction():
            connection.execute("SELECT * FROM nowhere")
        equal(connection.execute("SELECT 2").fetchone(), (2,), "after a savepoint")


def settings(plant):
    with connect(plant, options="-c tagmill.tiers=off -c statement_timeout=5s", application_name="test") as connection:
        for name, value in [("tagmill.tiers", "off"), ("statement_timeout", "5000ms"), ("application_name", "test"),
                            ("server_version", "16.6"), ("transaction_isolation", "read committed"),
                            ("client_encoding", "UTF8"), ("DateStyle", "ISO, MDY")]:
            equal(connection.execute(f"SHOW {name}").fetchone(), (value,), name)
        for good in ["SET extra_float_digits = 3", "SET DateStyle = ISO", "SET NAMES 'UTF8'", "SET search_path TO public",
                     "SET client_min_messages = warning", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"]:
            connection.execute(good)
        for wrong, says in [("SET client_encoding = 'latin1'", "UTF8"), ("SET DateStyle = 'German'", "ISO"),
                            ("SET datafusion.execution.batch_size = 1", "no setting"), ("SET server_version = 1", "cannot be"),
                            ("SHOW nothing", "no setting"), ("SET tagmill.tiers = maybe", "'auto'")]:
            with fails(says):
                connection.execute(wrong)
        equal(connection.info.parameter_status("TimeZone"), "UTC", "TimeZone")
        connection.execute("SET timezone = 'Europe/Berlin'")
        equal(connection.info.parameter_status("TimeZone"), "Europe/Berlin", "TimeZone after SET")
        connection.execute("DISCARD ALL")
        equal(connection.execute("SHOW tagmill.tiers").fetchone(), ("off",), "what the start asked for, after DISCARD ALL")
        equal(connection.info.parameter_status("TimeZone"), "UTC", "TimeZone after DISCARD ALL")
        connection.execute("SELECT pg_advisory_unlock_all()")
        # What Npgsql's pool sends before a connection is used again.
        psycopg.ClientCursor(connection).execute("SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;"
                                                 "SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP")
        connection.execute("SET statement_timeout = '200ms'")
        with fails("longer than 200 ms"):
            connection.execute("SELECT count(*) FROM samples a, samples b, samples c WHERE a.value + b.value + c.value > 1e9")
    with connect(plant, application_name="n" * 100) as connection:
        equal(connection.execute("SHOW application_name").fetchone(), ("n" * 63,), "a long name of a program")
    with fails("no setting"):
        connect(plant, options="-c nothing=1")


def copies(plant):
    with connect(plant) as connection:
        query = "SELECT tag, ts, value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts LIMIT 3"
        with connection.cursor().copy(f"COPY ({query}) TO STDOUT WITH (FORMAT csv, HEADER)") as copy:
            text = b"".join(copy).decode()
        rows = list(csv.reader(text.splitlines()))
        equal(rows[0], ["tag", "ts", "value"], "the header")
        equal((len(rows), rows[1][0], float(rows[2][2])), (4, "plant/u1/T", 1000.125), "rows")
        with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["text", "timestamptz", "float8"])
            rows = list(copy.rows())
        equal(rows[1], ("plant/u1/T", START + datetime.timedelta(seconds=1), 1000.125), "a binary row")
        with connection.cursor().copy("COPY (SELECT tag FROM tags WHERE tag = 'x') TO STDOUT (FORMAT binary)") as copy:
            equal(list(copy.rows()), [], "no binary row")
        with connection.cursor().copy("COPY (SELECT NULL, '', 'a,\"b') TO STDOUT (FORMAT csv)") as copy:
            equal(b"".join(copy), b',"","a,""b"\n', "null and empty text")
        with fails("STDOUT"), connection.cursor().copy("COPY samples FROM STDIN") as copy:
            pass
        with fails("STDOUT"):
            connection.execute("COPY (SELECT 1) TO '/tmp/tagmill-must-not-be'")
        equal(connection.execute("SELECT 1").fetchone(), (1,), "after COPY")


def cancels(plant):
    with connect(plant) as connection:
        timer = threading.Timer(0.5, connection.cancel_safe)
        timer.start()
        began = time.monotonic()
        with fails("cancel", psycopg.errors.QueryCanceled):
            connection.execute("SELECT count(*) FROM samples a, samples b, samples c WHERE a.value + b.value + c.value > 1e9")
        check(time.monotonic() - began < 20, "cancelled in time")
        timer.join()
        equal(connection.execute("SELECT 1").fetchone(), (1,), "after a cancel")


class Raw:
    """A connection by messages, for what libpq has no call for: portals with names, and their rows in parts."""

    def __init__(self, plant, user="reader"):
        plain = socket.create_connection(("127.0.0.1", plant.port), 30)
        plain.sendall(struct.pack(">ii", 8, 80_877_103))
        equal(plain.recv(1), b"S", "the answer to a wish for TLS")
        self.stream = ssl.create_default_context(cafile=str(plant.ca)).wrap_socket(plain, server_hostname="localhost")
        named = f"user\0{user}\0database\0tagmill\0\0".encode()
        self.stream.sendall(struct.pack(">ii", 8 + len(named), 196_608) + named)
        self.next()
        bare = "n=,r=" + base64.b64encode(os.urandom(18)).decode()
        self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack(">i", 3 + len(bare)) + b"n,," + bare.encode())
        challenge = self.next()[1][4:].decode()
        said = dict(part.split("=", 1) for part in challenge.split(","))
        salted = hashlib.pbkdf2_hmac("sha256", plant.tokens[user].encode(), base64.b64decode(said["s"]), int(said["i"]))
        key, last = hmac.digest(salted, b"Client Key", "sha256"), f"c=biws,r={said['r']}"
        sign = hmac.digest(hashlib.sha256(key).digest(), f"{bare},{challenge},{last}".encode(), "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, sign, strict=True))).decode()
        self.send(b"p", f"{last},p={proof}".encode())
        self.answers()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def send(self, letter, body=b""):
        self.stream.sendall(letter + struct.pack(">i", 4 + len(body)) + body)

    def take(self, count):
        taken = b""
        while len(taken) < count:
            more = self.stream.recv(count - len(taken))
            check(more, "the connection is still there")
            taken += more
        return taken

    def next(self):
        letter, length = struct.unpack(">ci", self.take(5))
        return letter, self.take(length - 4)

    def answers(self):
        """Letters of all answers until the server is ready, an error's with its code."""
        said = []
        while not said or said[-1] != "Z":
            letter, body = self.next()
            fields = {field[:1]: field[1:].decode() for field in body.split(b"\0")} if letter == b"E" else {}
            said.append(letter.decode() + fields.get(b"C", ""))
        return said

    def simple(self, sql):
        self.send(b"Q", sql.encode() + b"\0")
        return self.answers()

    def execute(self, portal, rows=0):
        self.send(b"E", portal + b"\0" + struct.pack(">i", rows))
        self.send(b"S")
        return self.answers()


def portals(plant):
    """An answer in parts, as JDBC's fetch size asks for it: by messages, since libpq has no call for it."""
    with connect(plant) as connection:
        cursor = connection.cursor()
        rows = list(cursor.stream("SELECT value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts"))
        equal((len(rows), rows[-1]), (ROWS, (1000 + (ROWS - 1) / 8,)), "rows one by one")
    with Raw(plant) as raw:
        def bind(portal, sql):
            raw.send(b"P", b"\0" + sql.encode() + b"\0\0\0")
            raw.send(b"B", portal + b"\0\0" + bytes(6))

        raw.simple("BEGIN")
        raw.simple("SAVEPOINT s")
        bind(b"p", "SELECT value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts LIMIT 3")
        equal(raw.execute(b"p", 2), ["1", "2", "D", "D", "s", "Z"], "two of three rows")
        equal(raw.execute(b"p", 2), ["D", "C", "Z"], "the third")
        equal(raw.execute(b"p", 2), ["C", "Z"], "no more of them")
        # One that has failed must not look like one whose rows have all been given.
        bind(b"q", "SELECT 1 / CAST(value - value AS BIGINT) FROM samples WHERE tag = 'plant/u1/T'")
        equal(raw.execute(b"q", 2), ["1", "2", "E22000", "Z"], "a division by zero")
        equal(raw.execute(b"q", 2), ["E25P02", "Z"], "nothing runs before ROLLBACK")
        raw.simple("ROLLBACK TO SAVEPOINT s")
        equal(raw.execute(b"q", 2), ["E55000", "Z"], "a portal that has failed")


def catalogs(plant):
    with connect(plant) as connection:
        sql = ("SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
               "WHERE n.nspname = 'public' ORDER BY 1")
        names = [name for (name,) in connection.execute(sql)]
        check({"samples", "tags", "latest", "rollup_1m"} <= set(names), f"relations: {names}")
        sql = ("SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' "
               "AND table_name = 'samples' ORDER BY ordinal_position")
        columns = [name for name, _ in connection.execute(sql)]
        check({"ts", "tag", "value"} <= set(columns), f"columns: {columns}")
        who = connection.execute("SELECT current_database(), current_schema(), version()").fetchone()
        check(who[0] == "tagmill" and who[1] == "public" and who[2].startswith("PostgreSQL 16"), f"who: {who}")
        equal(connection.execute("SELECT session_user").fetchone(), ("reader",), "the user")


def macros(plant):
    """What Grafana's PostgreSQL data source makes of its macros, with TimescaleDB switched on and off. Dashboards: grafana_client.py."""
    with connect(plant) as connection:
        for timescaledb in [True, False]:
            asked = Asked(START, START + datetime.timedelta(minutes=50), timescaledb=timescaledb)
            sql = ("SELECT $__timeGroupAlias(ts, 5m), tag AS metric, avg(value) AS \"value\" FROM samples "
                   "WHERE $__timeFilter(ts) AND tag IN ('plant/u1/T', 'plant/u10/T') GROUP BY 1, 2 ORDER BY 1, 2")
            rows = psycopg.ClientCursor(connection).execute(expand(sql, asked)).fetchall()
            equal((len(rows), rows[0][1], rows[0][2]), (20, "plant/u1/T", 1000 + 299 / 16), f"with TimescaleDB: {timescaledb}")
        sql = "SELECT $__timeEpoch(ts), value FROM samples WHERE tag = 'plant/u1/T' AND $__timeFilter(ts) LIMIT 1"
        check(connection.execute(expand(sql, asked)).fetchone(), "a row by epoch")
        # Its query builder and its test of the connection.
        for sql in [
            "SELECT 1",
            "SHOW SERVER_VERSION",
            "SELECT current_setting('server_version_num')::int/100 as version",
            "SELECT quote_ident(table_name) FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN "
            "('information_schema', 'pg_catalog', '_timescaledb_cache', '_timescaledb_catalog', '_timescaledb_internal', "
            "'_timescaledb_config', 'timescaledb_information', 'timescaledb_experimental') ORDER BY "
            "CASE WHEN quote_ident(table_schema) IN (SELECT CASE WHEN trim(s[i]) = '\"$user\"' THEN user ELSE trim(s[i]) END "
            "FROM generate_series(array_lower(string_to_array(current_setting('search_path'),','),1), "
            "array_upper(string_to_array(current_setting('search_path'),','),1)) as i, "
            "string_to_array(current_setting('search_path'),',') s) THEN 0 ELSE 1 END, 1",
            "SELECT quote_ident(column_name) AS \"column\", data_type AS \"type\" FROM information_schema.columns "
            "WHERE table_name = 'samples'",
        ]:
            try:
                check(psycopg.ClientCursor(connection).execute(sql).fetchall(), f"rows of {sql[:60]}")
            except psycopg.Error as error:
                raise AssertionError(f"{sql[:80]}: {error}") from error


def sqlalchemy_and_pandas(plant):
    words = plant.words()
    url = sqlalchemy.URL.create("postgresql+psycopg", username=words["user"], password=words["password"], host=words["host"],
                                port=words["port"], database="tagmill",
                                query={"sslmode": "verify-full", "sslrootcert": words["sslrootcert"]})
    engine = sqlalchemy.create_engine(url)
    try:
        sql = sqlalchemy.text("SELECT ts, value FROM samples WHERE tag = :tag AND ts >= :since ORDER BY ts")
        frame = pandas.read_sql(sql, engine, params={"tag": "plant/u1/T", "since": START + datetime.timedelta(seconds=8)})
        equal((len(frame), frame.value.iloc[0]), (ROWS - 8, 1001.0), "a frame")
        inspector = sqlalchemy.inspect(engine)
        equal({"public", "system"} & set(inspector.get_schema_names()), {"public", "system"}, "schemas")
        check("samples" in inspector.get_table_names(), "SQLAlchemy finds the relations")
        check(inspector.has_table("samples") and not inspector.has_table("sample"), "and knows them by name")
        columns = {column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns("samples")}
        equal([columns[name] for name in ["ts", "value"]], [("TIMESTAMP", False), ("DOUBLE PRECISION", True)], "columns")
        # What there is none of.
        equal(inspector.get_pk_constraint("samples")["constrained_columns"], [], "the primary key")
        for asked in ["get_foreign_keys", "get_indexes", "get_unique_constraints", "get_check_constraints"]:
            equal(getattr(inspector, asked)("samples"), [], asked)
        equal((inspector.get_enums(), inspector.get_view_names(), inspector.get_sequence_names()), ([], [], []), "enums, views, sequences")
        # Tables made of what the inspector tells, and asked by them.
        table = sqlalchemy.Table("samples", sqlalchemy.MetaData(), autoload_with=engine)
        with engine.connect() as connection:
            query = sqlalchemy.select(sqlalchemy.func.max(table.c.value)).where(table.c.tag == "plant/u1/T")
            equal(connection.execute(query).scalar(), 1000 + (ROWS - 1) / 8, "by a table")
        frame = pandas.read_sql_table("tags", engine)
        check("plant/u1/T" in set(frame.tag), f"a table as a frame: {frame}")
    finally:
        engine.dispose()
    return f"SQLAlchemy {sqlalchemy.__version__}, pandas {pandas.__version__}"


def dbeaver(plant):
    """What DBeaver's tree asks for as it is opened: catalogs, schemas, types, relations, columns. What there is none of is empty."""
    described = "LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid = {0}.oid AND d.objsubid = 0 AND d.classoid = '{1}'::regclass"
    of_samples = "(SELECT oid FROM pg_catalog.pg_class WHERE relname = 'samples')"
    asked = {
        "databases": ("SELECT db.oid, db.* FROM pg_catalog.pg_database db WHERE 1 = 1 AND datallowconn AND NOT datistemplate ORDER BY db.datname", "tagmill"),
        "schemas": (f"SELECT n.oid, n.*, d.description FROM pg_catalog.pg_namespace n {described.format('n', 'pg_namespace')} ORDER BY nspname", "public"),
        "types": ("SELECT t.oid, t.*, c.relkind, format_type(nullif(t.typbasetype, 0), t.typtypmod) AS base_type_name, d.description "
                  "FROM pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid = t.typelem LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid = t.typrelid "
                  "LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid = d.objoid WHERE t.typname IS NOT NULL AND (c.relkind IS NULL OR c.relkind = 'c') "
                  "AND (et.typcategory IS NULL OR et.typcategory <> 'C')", "float8"),
        "relations": ("SELECT c.oid, c.*, d.description, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS partition_expr, pg_catalog.pg_get_partkeydef(c.oid) AS partition_key "
                      f"FROM pg_catalog.pg_class c {described.format('c', 'pg_class')} "
                      "WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public') AND c.relkind NOT IN ('i', 'I', 'c')", "samples"),
        "columns": ("SELECT c.relname, a.*, pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) AS def_value, dsc.description, dep.objid FROM pg_catalog.pg_attribute a "
                    "INNER JOIN pg_catalog.pg_class c ON (a.attrelid = c.oid) LEFT OUTER JOIN pg_catalog.pg_attrdef ad ON (a.attrelid = ad.adrelid AND a.attnum = ad.adnum) "
                    "LEFT OUTER JOIN pg_catalog.pg_description dsc ON (c.oid = dsc.objoid AND a.attnum = dsc.objsubid) LEFT OUTER JOIN pg_depend dep ON "
                    "dep.refobjid = a.attrelid AND dep.deptype = 'i' AND dep.refobjsubid = a.attnum AND dep.classid = dep.refclassid "
                    f"WHERE NOT a.attisdropped AND c.relkind NOT IN ('i', 'I', 'c') AND c.oid = {of_samples} ORDER BY a.attnum", "quality"),
        "constraints": (f"SELECT c.oid, c.*, t.relname AS tabrelname, d.description FROM pg_catalog.pg_constraint c INNER JOIN pg_catalog.pg_class t ON t.oid = c.conrelid "
                        f"{described.format('c', 'pg_constraint')} WHERE c.conrelid = {of_samples} ORDER BY c.oid", None),
        "indexes": ("SELECT i.*, i.indkey AS keys, c.relname, pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS pred_expr, pg_catalog.pg_relation_size(i.indexrelid) AS index_rel_size "
                    "FROM pg_catalog.pg_index i INNER JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid INNER JOIN pg_catalog.pg_class tc ON tc.oid = i.indrelid "
                    f"WHERE i.indrelid = {of_samples} ORDER BY c.relname", None),
        "roles": ("SELECT a.oid, a.*, pd.description FROM pg_catalog.pg_roles a LEFT JOIN pg_catalog.pg_shdescription pd ON a.oid = pd.objoid ORDER BY a.rolname", None),
        "functions": ("SELECT p.oid AS poid, p.* FROM pg_catalog.pg_proc p LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid = p.oid WHERE p.pronamespace = 2200 ORDER BY p.proname", None),
        "triggers": (f"SELECT x.oid, x.* FROM pg_catalog.pg_trigger x WHERE x.tgrelid = {of_samples} AND NOT x.tgisinternal", None),
        "words": ("SELECT string_agg(word, ',') FROM pg_catalog.pg_get_keywords()", "abort"),
    }
    with connect(plant, autocommit=True) as connection:
        for what, (sql, wanted) in asked.items():
            rows = connection.execute(sql).fetchall()
            check(wanted is None or wanted in str(rows), f"{what} have {wanted}: {rows[:3]}")
            check(wanted is not None or not rows, f"there are no {what}: {rows[:3]}")
    return f"{len(asked)} of its statements"


def psql(plant):
    if not shutil.which("psql"):
        return "SKIPPED, there is no psql"
    words = plant.words()
    target = " ".join(f"{key}={words[key]}" for key in ["host", "port", "dbname", "user", "sslmode", "sslrootcert"])
    environment = {**os.environ, "PGPASSWORD": words["password"]}

    def ask(*commands):
        arguments = [word for command in commands for word in ["-c", command]]
        return run(["psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", target, *arguments], env=environment)

    check("3000" in ask("SELECT count(*) FROM samples WHERE tag = 'plant/u1/T'"), "psql counts")
    check("samples" in ask("\\d"), "\\d lists relations")
    check("timestamp with time zone" in ask("\\d samples"), "\\d describes one")
    for command in ["\\d+", "\\d+ samples", "\\dS", "\\dt", "\\dt+", "\\dt system.*", "\\dv", "\\dv+", "\\dm", "\\di", "\\ds", "\\dE",
                    "\\dn", "\\dn+", "\\l", "\\l+", "\\db", "\\dx", "\\du", "\\dg", "\\drds", "\\dp", "\\z", "\\dT", "\\dT+", "\\dD", "\\dO",
                    "\\df", "\\df+", "\\dconfig", "\\da", "\\do", "\\dC", "\\dF", "\\dy", "\\dRp", "\\conninfo", "\\encoding"]:
        ask(command)
    out = plant.scratch / "out.csv"
    ask(f"\\copy (SELECT tag, value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts LIMIT 2) TO '{out}' WITH (FORMAT csv)")
    equal(out.read_text(), '"plant/u1/T",1000\n"plant/u1/T",1000.125\n', "\\copy")
    return run(["psql", "--version"]).strip()


def by_command(plant):
    """Tagmill's own commands, over TLS with a token."""
    ask = ["sql", "--connect", f"https://localhost:{plant.grpc}", "--ca", plant.ca, "-c"]
    said = plant.tagmill(*ask, "SELECT count(*) AS n FROM samples", TAGMILL_TOKEN=plant.tokens["reader"])
    check(str(2 * ROWS + len(ODD)) in said.replace(",", ""), f"tagmill sql counts: {said}")
    for token, text in [("", "who calls"), ("tgm_00000000_x", "not valid"), (plant.tokens["gateway"], "lacks the role reader")]:
        done = subprocess.run([plant.binary, *[str(word) for word in ask], "SELECT 1"], capture_output=True, text=True,
                              timeout=60, env={**os.environ, "TAGMILL_TOKEN": token})
        check(done.returncode == 1 and text in done.stderr, f"refused with {text!r}: {done.stderr}")
    for words in [["write", "plant/u1/T", "1"], ["delete", "plant/u1/T", "--yes"]]:
        done = subprocess.run([plant.binary, *words, "--connect", f"https://localhost:{plant.grpc}", "--ca", str(plant.ca)],
                              capture_output=True, text=True, timeout=60,
                              env={**os.environ, "TAGMILL_TOKEN": plant.tokens["reader"]}, stdin=subprocess.DEVNULL)
        check(done.returncode != 0, f"a reader cannot {words[0]}: {done.stdout}")


def scopes(plant):
    """Whoever has a scope finds nothing outside of it, whichever way they look."""
    with connect(plant, "unit1") as connection:
        equal(connection.execute("SELECT tag FROM tags").fetchall(), [("plant/u1/T",)], "tags")
        equal(connection.execute("SELECT tag FROM latest").fetchall(), [("plant/u1/T",)], "latest")
        equal(connection.execute("SELECT DISTINCT tag FROM samples").fetchall(), [("plant/u1/T",)], "samples")
        equal(connection.execute("SELECT count(*) FROM samples").fetchone(), (ROWS,), "a count of all")
        for sql in [
            "SELECT count(*) FROM samples WHERE tag LIKE 'plant/u10%'",
            "SELECT count(*) FROM samples WHERE tag = 'plant/u10/T'",
            "SELECT count(*) FROM samples s JOIN tags t ON s.tag = t.tag WHERE t.tag <> 'plant/u1/T'",
            "SELECT count(*) FROM samples WHERE tag IN (SELECT 'plant/u10/T')",
            "SELECT count(*) FROM rollup_1h WHERE tag <> 'plant/u1/T'",
        ]:
            equal(connection.execute(sql).fetchone(), (0,), sql)
        equal(connection.execute("SELECT count(*) FROM samples WHERE tag = %s", ["plant/u10/T"]).fetchone(), (0,), "prepared")
        equal(connection.execute("SELECT value_at('plant/odd', TIMESTAMPTZ '2026-03-02 00:00:05')").fetchone(), (None,), "value_at")
        for sql in ["SELECT * FROM grid('plant/u10/T', TIMESTAMPTZ '2026-03-01', end => TIMESTAMPTZ '2026-03-02', step => '1 h')",
                    "SELECT * FROM history('plant/u10/T', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02')"]:
            there = outcome(connection, sql)
            nowhere = outcome(connection, sql.replace("plant/u10/T", "plant/u99/T"))
            equal(there.replace("u10", "u99"), nowhere, "a tag outside and one that is not")
        for name in ["segments", "tiers", "damage", "retention"]:
            with fails("no relation"):
                connection.execute(f"SELECT * FROM system.{name}")
        check(connection.execute("SELECT count(*) FROM system.settings").fetchone()[0] > 3, "its own settings")


def outcome(connection, sql):
    try:
        return repr(connection.execute(sql).fetchall())
    except psycopg.Error as error:
        return str(error)


def strangers(plant):
    for user, password, text in [
        ("reader", "wrong", "authentication failed"),
        ("reader", plant.tokens["boss"], "authentication failed"),
        ("nobody", plant.tokens["reader"], "authentication failed"),
        ("gateway", plant.tokens["gateway"], "lacks the role reader"),
    ]:
        with fails(text):
            connect(plant, user, password=password)
    with fails("TLS alone"):
        connect(plant, sslmode="disable")
    with fails("certificate verify failed"):
        connect(plant, sslrootcert=str(other_authority(plant)))


def other_authority(plant):
    path = plant.scratch / "other.pem"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
         plant.scratch / "other.key", "-out", path, "-days", "2", "-subj", "/CN=localhost"])
    return path


def hostile_bytes(plant):
    """Bytes that no client sends: the connection ends, the server goes on."""
    startup = struct.pack(">ii", 8, 196_608)
    for bytes_sent in [b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, struct.pack(">i", 2**31 - 1) + b"\0" * 64,
                       struct.pack(">ii", 8, 80_877_103) + b"\x16\x03\x01", startup + b"Q" + struct.pack(">i", 2**30) + b"a" * 100,
                       struct.pack(">iiii", 16, 80_877_102, 1, 2), startup + b"p" + struct.pack(">i", 0), startup + b"p\0\0\0\3",
                       startup + b"B" + struct.pack(">i", 6) + b"\0\0", startup + b"P" + struct.pack(">i", 5) + b"x", os.urandom(4_096)]:
        with socket.create_connection(("127.0.0.1", plant.port), 10) as stream:
            stream.settimeout(15)
            with contextlib.suppress(OSError):
                stream.sendall(bytes_sent)
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(4_096):
                    pass
    with connect(plant) as connection:
        for sql in ["SELECT " + "+".join(["1"] * 4_000), "SELECT " + "(" * 200 + "1" + ")" * 200,
                    "SELECT 1 WHERE " + " OR ".join(["1 = 2"] * 2_000), "SELECT '" + "x" * 100_000 + "'"]:
            with contextlib.suppress(psycopg.Error):
                connection.execute(sql)
        equal(connection.execute("SELECT 1").fetchone(), (1,), "after hostile statements")


def revoked(plant):
    with connect(plant, "leaver") as connection:
        equal(connection.execute("SELECT 1").fetchone(), (1,), "before")
        plant.tagmill("token", "revoke", "leaver", "--data", plant.data)
        time.sleep(1.5)
        with fails("revoked"):
            connection.execute("SELECT 1")
    with fails("authentication failed"):
        connect(plant, "leaver")
    listed = plant.tagmill("token", "list", "--data", plant.data)
    check("leaver" not in listed and "unit1" in listed and plant.tokens["unit1"] not in listed, f"the list: {listed}")


if __name__ == "__main__":
    main()
