#!/usr/bin/env python3
"""PostgreSQL's JDBC driver, against the real binary over TLS with SCRAM, called from Python through JPype.

    python jdbc_client.py PATH_TO_TAGMILL [CASE ...]

What this machine lacks (Java, the driver's jar, openssl) it says SKIPPED for. It ends only processes it started.
"""

import contextlib
import datetime
import math
import os
import pathlib
import shutil
import struct
import sys
import tempfile
import threading
import time

import jpype

from plant import ODD, ROWS, START, Plant, check, equal, run_cases

# Where Debian and its kin put it.
JAR = pathlib.Path(os.environ.get("PGJDBC_JAR", "/usr/share/java/postgresql.jar"))
ENDLESS = "SELECT count(*) FROM samples a, samples b, samples c WHERE a.value + b.value + c.value > 1e9"
WAIT_S = 60


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    missing = [name for name in ["java", "openssl"] if not shutil.which(name)] + [str(JAR)] * (not JAR.exists())
    if missing:
        print(f"jdbc_client: SKIPPED, there is no {' and no '.join(missing)}")
        return
    # The driver's own log would say on standard error what each case expects.
    jpype.startJVM("-Xmx256m", "-Djava.util.logging.config.file=/dev/null", classpath=[str(JAR)])
    with tempfile.TemporaryDirectory(prefix="tagmill-jdbc-") as scratch:
        plant = Plant(binary, pathlib.Path(scratch))
        with plant.serve():
            run_cases("jdbc_client", plant, [
                version, types, parameters, times, prepared, portals, parts, tables, columns, timeouts, cancels, errors,
                transactions, batches, pools, scopes, strangers,
            ])


@contextlib.contextmanager
def fails(*texts, state=None):
    """What is done within fails with a sentence that holds each text, and a state of SQL."""
    try:
        yield
    except jpype.JClass("java.sql.SQLException") as error:
        said = str(error.getMessage())
        for text in texts:
            check(text in said, f"the error says {text!r}; it says {said}")
        check(state in (None, str(error.getSQLState())), f"its state is {state}; it is {error.getSQLState()}: {said}")
    else:
        raise AssertionError(f"nothing failed; it should have said {texts!r}")


@contextlib.contextmanager
def connect(plant, user="reader", **more):
    words = {"user": user, "password": plant.tokens.get(user, "none"), "sslmode": "verify-full", "sslrootcert": str(plant.ca),
             "loginTimeout": "20", **more}
    properties = jpype.JClass("java.util.Properties")()
    for name, value in words.items():
        properties.setProperty(name, value)
    connection = jpype.JClass("org.postgresql.Driver")().connect(f"jdbc:postgresql://localhost:{plant.port}/tagmill", properties)
    try:
        yield connection
    finally:
        connection.close()


def value_of(found):
    """What Java gives, as Python has it."""
    return {"java.lang.String": str, "java.lang.Boolean": bool, "java.lang.Integer": int, "java.lang.Long": int,
            "java.lang.Double": float, "java.lang.Float": float}.get(type(found).__name__, lambda other: other)(found)


def rows_of(result):
    width = result.getMetaData().getColumnCount()
    rows = []
    while result.next():
        rows.append(tuple(value_of(result.getObject(at)) for at in range(1, width + 1)))
    return rows


def rows(connection, sql):
    with contextlib.closing(connection.createStatement()) as statement:
        return rows_of(statement.executeQuery(sql))


def bits(value):
    return struct.pack("<d", value)


def version(plant):
    with connect(plant) as connection:
        data = connection.getMetaData()
        equal(str(data.getDatabaseProductName()), "PostgreSQL", "what the driver takes it for")
        check(bool(connection.isValid(5)) and bool(connection.unwrap(jpype.JClass("org.postgresql.PGConnection"))), "it is valid")
        return f"{data.getDriverName()} {data.getDriverVersion()}, Java {jpype.JClass('java.lang.System').getProperty('java.version')}"


def types(plant):
    with connect(plant) as connection:
        found = rows(connection, "SELECT value FROM samples WHERE tag = 'plant/odd' ORDER BY ts")
        equal([bits(value) for (value,) in found], [bits(value) for value in ODD], "floats, to the bit")
        sql = "SELECT CAST('inf' AS DOUBLE PRECISION) AS a, CAST('-inf' AS DOUBLE PRECISION) AS b, CAST('nan' AS DOUBLE PRECISION) AS c"
        (up, down, none), = rows(connection, sql)
        check(up == math.inf and down == -math.inf and math.isnan(none), f"infinities: {up} {down} {none}")
        sql = ("SELECT true AS a, CAST(7 AS SMALLINT) AS b, CAST(7 AS INTEGER) AS c, CAST(7 AS BIGINT) AS d, CAST(0.5 AS REAL) AS e, 0.5 AS f, "
               "'ü' AS g, NULL AS h")
        equal(rows(connection, sql), [(True, 7, 7, 7, 0.5, 0.5, "ü", None)], "a row")
        with contextlib.closing(connection.createStatement()) as statement:
            result = statement.executeQuery("SELECT DATE '2026-03-01' AS a, CAST(1.25 AS DECIMAL(10, 2)) AS b, ARRAY[1, 2] AS c, tag, ts FROM tags, "
                                            "(SELECT max(ts) AS ts FROM samples) AS newest WHERE tag = 'plant/odd'")
            result.next()
            equal(str(result.getDate(1)), "2026-03-01", "a date")
            equal(float(result.getBigDecimal(2).doubleValue()), 1.25, "a decimal")
            equal([int(item) for item in result.getArray(3).getArray()], [1, 2], "an array")
            data = result.getMetaData()
            equal([str(data.getColumnTypeName(at)) for at in [1, 2, 4, 5]], ["date", "numeric", "text", "timestamptz"], "names of types")


def parameters(plant):
    with connect(plant) as connection:
        sql = "SELECT count(*), min(value) FROM samples WHERE tag = ? AND ts >= ? AND ts < ? AND value > ?"
        with contextlib.closing(connection.prepareStatement(sql)) as statement:
            statement.setString(1, "plant/u1/T")
            statement.setObject(2, moment(START))
            statement.setObject(3, moment(START + datetime.timedelta(minutes=1)))
            statement.setDouble(4, 1001.5)
            equal(rows_of(statement.executeQuery()), [(47, 1001.625)], "an answer to parameters")
        with contextlib.closing(connection.prepareStatement("SELECT CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS BOOLEAN), CAST(? AS TEXT)")) as statement:
            statement.setString(1, "it's ''two''")
            statement.setLong(2, 2**62)
            statement.setBoolean(3, True)
            statement.setNull(4, jpype.JClass("java.sql.Types").VARCHAR)
            equal(rows_of(statement.executeQuery()), [("it's ''two''", 2**62, True, None)], "values as they are")
        with contextlib.closing(connection.prepareStatement("SELECT count(*) FROM samples WHERE tag = ANY(?)")) as statement:
            names = connection.createArrayOf("text", jpype.JArray(jpype.JString)(["plant/u1/T", "plant/u10/T"]))
            statement.setArray(1, names)
            equal(rows_of(statement.executeQuery()), [(2 * ROWS,)], "an array as a value")
        with contextlib.closing(connection.prepareStatement("SELECT ?, ?")) as statement, fails("parameter"):
            statement.setString(1, "one of two")
            statement.executeQuery()


def moment(at):
    """A time with its zone, as programs of today hold it."""
    return jpype.JClass("java.time.OffsetDateTime").parse(at.isoformat())


def times(plant):
    offset = jpype.JClass("java.time.OffsetDateTime")
    with connect(plant) as connection, contextlib.closing(connection.createStatement()) as statement:
        sql = "SELECT ts, epoch_ns(ts) FROM samples WHERE tag = 'plant/odd' ORDER BY ts LIMIT 1"
        result = statement.executeQuery(sql)
        result.next()
        equal(str(result.getObject(1, offset.class_).toInstant()), "2026-03-02T00:00:00.123456Z", "a time, in microseconds")
        equal(int(result.getLong(2)) % 10**9, 123_456_789, "all of its nanoseconds")
        equal(int(result.getTimestamp(1).getTime()) % 1_000, 123, "as a java.sql.Timestamp")
        warning = statement.getWarnings()
        check(warning is not None and "epoch_ns" in str(warning.getMessage()), f"the loss is told: {warning}")
        statement.execute("SET timezone = 'Europe/Berlin'")
        result = statement.executeQuery("SELECT ts FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts LIMIT 1")
        result.next()
        equal(str(result.getObject(1, offset.class_).toInstant()), "2026-03-01T00:00:00Z", "the same instant in another zone")
        text = str(result.getString(1))
        check(text.startswith("2026-03-01 01:00:00") and text.endswith("+01"), f"its text, in the session's zone: {text}")


def prepared(plant):
    """The driver names its statements after five uses, and then takes binary values: the answers stay the same."""
    with connect(plant) as connection:
        sql = "SELECT ts, value, tag FROM samples WHERE tag = ? ORDER BY ts LIMIT 1 OFFSET ?"
        with contextlib.closing(connection.prepareStatement(sql)) as statement:
            for number in range(20):
                statement.setString(1, "plant/u10/T")
                statement.setInt(2, number)
                result = statement.executeQuery()
                result.next()
                at = str(result.getObject(1, jpype.JClass("java.time.OffsetDateTime").class_).toInstant())
                equal((at[-4:], float(result.getDouble(2))), (f":{number:02}Z"[-4:], 10_000 + number / 8), f"row {number}")
            used = statement.unwrap(jpype.JClass("org.postgresql.PGStatement")).isUseServerPrepare()
            check(bool(used), "a statement of the server's")
            data = statement.getParameterMetaData()
            equal(int(data.getParameterCount()), 2, "parameters of it")


def in_parts(plant, sql, size):
    """Rows of a statement with a fetch size, and how many of them lay at the client after each portion was taken."""
    with connect(plant) as connection, contextlib.closing(connection.createStatement()) as statement:
        connection.setAutoCommit(False)
        statement.setFetchSize(size)
        result = statement.executeQuery(sql)
        held, found = [], []
        inside = result.getClass().getDeclaredField("rows")
        inside.setAccessible(True)
        while result.next():
            if (int(result.getRow()) - 1) % size == 0:
                held.append(int(inside.get(result).size()))
            found.append(value_of(result.getObject(1)))
        connection.commit()
        return found, held


def portals(plant):
    """An answer of five rows by two: Execute with a limit, and again, until it is complete: 2, 2 and 1."""
    sql = "SELECT value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts LIMIT 5"
    found, held = in_parts(plant, sql, 2)
    equal(found, [1000 + number / 8 for number in range(5)], "rows in parts")
    equal(held, [2, 2, 1], "rows of each part")


def parts(plant):
    found, held = in_parts(plant, "SELECT value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts", 700)
    equal(found, [1000 + number / 8 for number in range(ROWS)], "rows in parts")
    equal(held, [700, 700, 700, 700, 200], "rows of each part")
    # Other statements between two parts of one answer, on the same connection; and a portal that is left before its end.
    with connect(plant) as connection:
        connection.setAutoCommit(False)
        with contextlib.closing(connection.createStatement()) as first, contextlib.closing(connection.createStatement()) as second:
            first.setFetchSize(10)
            result = first.executeQuery("SELECT value FROM samples WHERE tag = 'plant/u1/T' ORDER BY ts LIMIT 30")
            found = []
            while result.next():
                found.append(float(result.getDouble(1)))
                if len(found) % 5 == 0:
                    equal(rows_of(second.executeQuery("SELECT 7")), [(7,)], "a statement between")
            equal(found, [1000 + number / 8 for number in range(30)], "rows in parts, with others between")
            result = first.executeQuery("SELECT value FROM samples WHERE tag = 'plant/u1/T'")
            result.next()
            result.close()
            connection.commit()
            equal(rows_of(second.executeQuery("SELECT 8")), [(8,)], "after a portal that was left")
        connection.rollback()


def tables(plant):
    with connect(plant) as connection:
        data = connection.getMetaData()
        names = {(str(row[1]), str(row[2]), str(row[3])) for row in rows_of(data.getTables(None, "public", "%", None))}
        check({"samples", "tags", "latest", "rollup_1m", "rollup_1d"} <= {name for _, name, _ in names}, f"relations: {names}")
        found = rows_of(data.getTables(None, "public", "rollup\\_1%", jpype.JArray(jpype.JString)(["TABLE", "VIEW"])))
        equal({str(row[2]) for row in found}, {"rollup_1m", "rollup_15m", "rollup_1h", "rollup_1d"}, "a pattern")
        schemas = {str(row[0]) for row in rows_of(data.getSchemas())}
        check("public" in schemas, f"schemas: {schemas}")
        equal([str(row[0]) for row in rows_of(data.getCatalogs())], ["tagmill"], "catalogs")
        check({"TABLE", "VIEW"} <= {str(row[0]) for row in rows_of(data.getTableTypes())}, "types of relations")


def columns(plant):
    with connect(plant) as connection:
        data = connection.getMetaData()
        found = {str(row[3]): str(row[5]) for row in rows_of(data.getColumns(None, "public", "samples", "%"))}
        equal({name: found.get(name) for name in ["ts", "tag", "value"]}, {"ts": "timestamptz", "tag": "text", "value": "float8"}, "columns")
        equal({str(row[3]) for row in rows_of(data.getColumns(None, "public", "samples", "value"))}, {"value"}, "one column")
        # There are neither keys nor indexes, nor rights to be told of.
        for what, asked in {
            "primary keys": lambda: data.getPrimaryKeys(None, "public", "samples"),
            "indexes": lambda: data.getIndexInfo(None, "public", "samples", False, True),
            "imported keys": lambda: data.getImportedKeys(None, "public", "samples"),
            "exported keys": lambda: data.getExportedKeys(None, "public", "samples"),
            "what tells a row": lambda: data.getBestRowIdentifier(None, "public", "samples", 2, True),
            "types of users": lambda: data.getUDTs(None, "public", "%", None),
        }.items():
            equal(rows_of(asked()), [], what)
        equal(rows(connection, "SELECT 1"), [(1,)], "after what is not there")


def timeouts(plant):
    with connect(plant) as connection, contextlib.closing(connection.createStatement()) as statement:
        # The driver's own clock, which sends a cancel.
        statement.setQueryTimeout(1)
        with fails("cancel", state="57014"):
            statement.executeQuery(ENDLESS)
        statement.setQueryTimeout(0)
        # The server's.
        statement.execute("SET statement_timeout = '300ms'")
        with fails("longer than 300 ms", state="57014"):
            statement.executeQuery(ENDLESS)
        equal(rows(connection, "SELECT 1"), [(1,)], "after a timeout")
    with connect(plant, options="-c statement_timeout=250ms") as connection, fails("longer than 250 ms"):
        rows(connection, ENDLESS)


def cancels(plant):
    with connect(plant) as connection, contextlib.closing(connection.createStatement()) as statement:
        timer = threading.Timer(0.5, statement.cancel)
        timer.start()
        with fails("cancel", state="57014"):
            statement.executeQuery(ENDLESS)
        timer.join()
        equal(rows(connection, "SELECT 1"), [(1,)], "after a cancel")
    with connect(plant, "boss") as connection:
        deadline = time.monotonic() + WAIT_S
        while rows(connection, "SELECT 1 FROM system.queries WHERE sql LIKE '%c.value > 1e9' AND sql NOT LIKE '%system.queries%'"):
            check(time.monotonic() < deadline, f"the server ends it within {WAIT_S} s")
            time.sleep(0.1)


def errors(plant):
    with connect(plant) as connection, contextlib.closing(connection.createStatement()) as statement:
        for sql, text, state in [("SELECT * FROM sample", "did you mean samples", "42P01"), ("SELECT valu FROM samples", "did you mean value", "42703"),
                                 ("SELEC 1", "syntax error", "42601"), ("SELECT 1 / 0", "zero", None), ("DELETE FROM samples", "only reads", None),
                                 ("CREATE TABLE t (a INT)", "only reads", None)]:
            with fails(text, state=state):
                statement.execute(sql)
        equal(rows(connection, "SELECT 1"), [(1,)], "after errors")


def transactions(plant):
    with connect(plant) as connection, contextlib.closing(connection.createStatement()) as statement:
        for level in ["TRANSACTION_READ_COMMITTED", "TRANSACTION_REPEATABLE_READ", "TRANSACTION_SERIALIZABLE"]:
            connection.setTransactionIsolation(getattr(jpype.JClass("java.sql.Connection"), level))
        connection.setReadOnly(True)
        connection.setAutoCommit(False)
        equal(rows(connection, "SELECT 1"), [(1,)], "in a transaction")
        with fails("no relation"):
            statement.executeQuery("SELECT * FROM nowhere")
        with fails("ROLLBACK", state="25P02"):
            statement.executeQuery("SELECT 1")
        connection.rollback()
        before = connection.setSavepoint("before")
        with fails("no relation"):
            statement.executeQuery("SELECT * FROM nowhere")
        connection.rollback(before)
        equal(rows(connection, "SELECT 2"), [(2,)], "after a savepoint")
        connection.commit()


def batches(plant):
    """Several statements in one text, and results one after the other."""
    with connect(plant) as connection, contextlib.closing(connection.createStatement()) as statement:
        check(bool(statement.execute("SELECT 1; SELECT 'a;b'")), "there is a first answer")
        equal(rows_of(statement.getResultSet()), [(1,)], "the first answer")
        check(bool(statement.getMoreResults()), "there is a second answer")
        equal(rows_of(statement.getResultSet()), [("a;b",)], "the second answer")
        statement.setMaxRows(3)
        equal(len(rows_of(statement.executeQuery("SELECT value FROM samples"))), 3, "setMaxRows")


def pools(plant):
    """What pools of connections ask before and after they lend one."""
    with connect(plant, ApplicationName="pool") as connection:
        equal(rows(connection, "SHOW application_name"), [("pool",)], "the name of the program")
        connection.setSchema("public")
        connection.setClientInfo("ApplicationName", "other")
        equal(rows(connection, "SHOW application_name"), [("other",)], "its name, changed")
        rows(connection, "SELECT 1")
        check(bool(connection.isValid(5)), "it is valid")
        with contextlib.closing(connection.createStatement()) as statement:
            statement.execute("DISCARD ALL")
    # By simple queries alone, as poolers in between want it.
    with connect(plant, preferQueryMode="simple") as connection, contextlib.closing(connection.prepareStatement("SELECT count(*) FROM samples WHERE tag = ?")) as statement:
        statement.setString(1, "plant/u1/T")
        equal(rows_of(statement.executeQuery()), [(ROWS,)], "by simple queries")


def scopes(plant):
    with connect(plant, "unit1") as connection:
        equal(rows(connection, "SELECT DISTINCT tag FROM samples"), [("plant/u1/T",)], "samples of a scope")
        with contextlib.closing(connection.prepareStatement("SELECT count(*) FROM samples WHERE tag = ?")) as statement:
            for _ in range(7):
                statement.setString(1, "plant/u10/T")
                equal(rows_of(statement.executeQuery()), [(0,)], "prepared")
        # The catalogs of PostgreSQL are the same for all, and name what some may not select from.
        for name in ["segments", "tiers", "damage", "retention", "audit", "gateways"]:
            with fails("no relation"):
                rows(connection, f"SELECT * FROM system.{name}")


def strangers(plant):
    for user, password, text in [("reader", "wrong", "authentication failed"), ("nobody", plant.tokens["reader"], "authentication failed"),
                                 ("gateway", plant.tokens["gateway"], "lacks the role reader")]:
        with fails(text):
            with connect(plant, user, password=password):
                pass
    with fails("TLS alone"):
        with connect(plant, sslmode="disable"):
            pass


if __name__ == "__main__":
    main()
