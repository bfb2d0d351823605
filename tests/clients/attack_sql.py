"""Attacks in SQL, each through PostgreSQL and HTTP: what would end, hang or fill a server, and what would leave the database.

Every statement must come to an end: with an error that says why, or with a bounded answer.
"""

import http.client
import json
import os
import threading
import time

import psycopg

from plant import check, equal
from witness import ANSWER_S, ask_http, post_http

TIMEOUT = "longer than 1000 ms"
# What ends a statement that asks for too much, in words: a limit, its time, its memory, or the text is none.
BOUNDED = ["at most", "more than", "deeper", "too deeply", "longer than", "memory", "Resources exhausted", "too large", "must be a constant", "exceed", "tagmill.max_rows",
           "tagmill.max_bytes", "yntax error", "broke off", "not supported", "verflow", "only reads", "nvalid function", "no setting", "expected max", "does not exist", "too long",
           "spill", "is no ", "nsupported", "no column named", "could come to"]
ERROR_BYTES_MAX = 16 << 10
ANSWER_BYTES_MAX = 1 << 20


class Told:
    """What came of a statement at one door."""

    def __init__(self, door, rows=None, error=None):
        self.door, self.rows, self.error = door, rows, error

    def __repr__(self):
        return f"{self.door}: {self.error or f'{len(self.rows)} rows'}"


def by_postgres(plant, sql, user="reader", timeout="1s", parameters=None):
    try:
        with psycopg.connect(**plant.words(user, options=f"-c statement_timeout={timeout}"), autocommit=True) as connection:
            # Without parameters the text goes in the simple protocol, as it is.
            cursor = connection.cursor() if parameters else psycopg.ClientCursor(connection)
            cursor.execute(sql, parameters)
            return Told("postgres", rows=cursor.fetchall() if cursor.description else [])
    except psycopg.Error as error:
        return Told("postgres", error=str(error).strip() or "broke off")


def by_http(plant, sql, user="reader", timeout="1s"):
    try:
        status, body = ask_http(plant, sql, user, {"statement_timeout": timeout})
    except (http.client.HTTPException, OSError) as error:
        return Told("http", error=f"broke off: {error!r}")
    if status == 0:
        return Told("http", error="broke off: it was refused while it was still being sent")
    if status == 200:
        return Told("http", rows=json.loads(body))
    try:
        return Told("http", error=json.loads(body)["error"])
    except (ValueError, KeyError):
        return Told("http", error=f"{status} {body[:200]!r}")


def everywhere(plant, sql, **words):
    """What came of it at each door."""
    for ask in [by_postgres, by_http]:
        told = ask(plant, sql, **words)
        check(plant.process.poll() is None, f"the process survives {sql[:200]!r} by {told.door}; it ended with {plant.process.returncode}")
        yield told


def refused(plant, statements, **words):
    """Each is refused, at each door."""
    return tried(plant, statements, False, **words)


def bounded(plant, statements, **words):
    """Each is refused or has a small answer, at each door."""
    return tried(plant, statements, True, **words)


def tried(plant, statements, may_answer, **words):
    """Tries every statement, whatever came of those before, and says what is wrong with any of them."""
    answers, wrong = 0, []
    for name, sql in statements:
        for told in everywhere(plant, sql, **words):
            answers += told.error is None
            wrong += [f"{name}, by {told}: {why}" for why in offences(told, may_answer)]
    check(not wrong, f"{len(wrong)} of {2 * len(statements)}: " + "; ".join(short(text) for text in wrong))
    return f"{len(statements)} statements, twice each: {answers} answered, the others refused"


def offences(told, may_answer):
    """What is wrong with the outcome of an attack."""
    if told.error is None:
        if not may_answer:
            yield "it is answered"
        elif sum(len(repr(row)) for row in told.rows) > ANSWER_BYTES_MAX:
            yield "its answer is large"
        return
    if not any(text in told.error for text in BOUNDED):
        yield "no reason is given"
    if "internal error" in told.error or "panicked" in told.error:
        yield "it met a bug"
    if len(told.error) > ERROR_BYTES_MAX:
        yield f"the error has {len(told.error)} bytes"


def short(text):
    return text if len(text) < 400 else f"{text[:250]} .. {text[-120:]}"


def chain(first, link, count):
    return first + link * count


def deep_sql(plant):
    deep = [
        ("parentheses", "SELECT " + "(" * 1_000 + "1" + ")" * 1_000),
        ("calls", "SELECT " + "abs(" * 1_000 + "1" + ")" * 1_000),
        ("lists", "SELECT " + "[" * 1_000 + "1" + "]" * 1_000),
        ("subqueries", "SELECT * FROM " + "(SELECT * FROM " * 500 + "tags" + ") a" * 500),
        ("scalar subqueries", "SELECT " + "(SELECT " * 500 + "1" + ")" * 500),
        ("EXISTS", "SELECT 1 WHERE " + "EXISTS (SELECT 1 WHERE " * 500 + "true" + ")" * 500),
        ("CASE", "SELECT " + "CASE WHEN true THEN " * 2_000 + "1" + " END" * 2_000),
        ("NOT", "SELECT " + "NOT " * 4_000 + "true"),
        ("minus", "SELECT " + "- " * 4_000 + "1"),
        ("casts", "SELECT 1" + "::int" * 2_000),
        ("joins", "SELECT 1 FROM " + "(" * 500 + "tags a" + " CROSS JOIN tags b)" * 500),
        ("types", "SELECT CAST(NULL AS " + "ARRAY<" * 1_000 + "INT" + ">" * 1_000 + ")"),
        ("types of few signs", "SELECT CAST(NULL AS " + "STRUCT<a INT, b " * 570 + "INT" + ">" * 570 + ")"),
        ("maps", "SELECT CAST(NULL AS " + "MAP<INT, " * 790 + "INT" + ">" * 790 + ")"),
        ("typed texts", "SELECT " + "DATE " * 4_000 + "'2026-01-01'"),
        ("casts of casts", "SELECT " + "CAST(" * 1_000 + "1" + " AS INT)" * 1_000),
        ("lambdas", "SELECT f(" + "x -> " * 250 + "x)"),
        ("ON after ON", "SELECT 1 FROM tags t0 " + " ".join(f"JOIN tags t{n}" for n in range(1, 700)) + " ON true" * 699),
        ("ELSE CASE", "SELECT " + "CASE WHEN true THEN 1 ELSE " * 600 + "1" + " END" * 600),
        ("IN after IN", "SELECT 1 IN " + "(SELECT 1 WHERE 1 IN " * 500 + "(1)" + ")" * 500),
        ("LATERAL", "SELECT * FROM tags" + ", LATERAL (SELECT * FROM tags" * 200 + ")" * 200),
        ("GROUPING SETS", "SELECT 1 FROM tags GROUP BY " + "GROUPING SETS (" * 500 + "tag" + ")" * 500),
        ("a cube of 30", "SELECT count(*) FROM samples GROUP BY CUBE (" + ", ".join(f"value + {n}" for n in range(30)) + ")"),
        ("sets of sets", "SELECT count(*) FROM samples GROUP BY " + ", ".join("ROLLUP (" + ", ".join(f"value + {m * 10 + n}" for n in range(9)) + ")" for m in range(8))),
        ("WINDOW", "SELECT sum(value) OVER w499 FROM samples WHERE tag = 'plant/odd' WINDOW w0 AS (ORDER BY ts), " + ", ".join(f"w{n} AS (w{n - 1})" for n in range(1, 500))),
        ("CASE, as many as fit", "SELECT " + "CASE WHEN true THEN " * 800 + "1" + " END" * 800),
        ("intervals", "SELECT " + "INTERVAL " * 4_000 + "'1 s'"),
        ("EXPLAIN", "EXPLAIN " * 4_000 + "SELECT 1"),
        ("open ends", "SELECT " + "(" * 4_000),
        ("comments", "SELECT 1 " + "/*" * 20_000),
        ("WITH in WITH", "WITH a AS (" * 500 + "SELECT 1" + ") SELECT * FROM a" * 500),
    ]
    return bounded(plant, deep)


def huge_sql(plant):
    huge = [
        ("a text of 100 KB", "SELECT '" + "x" * 100_000 + "'"),
        ("a text of 3 MB", "SELECT '" + "x" * 3_000_000 + "'"),
        ("a text of 8 MB", "SELECT '" + "x" * 8_000_000 + "'"),
        ("a list of 30,000", "SELECT 1 WHERE 1 IN (" + ",".join(["1"] * 30_000) + ")"),
        ("columns", "SELECT " + ",".join(["1"] * 30_000)),
        ("a long name", "SELECT 1 AS " + "a" * 70_000),
        ("blanks", "SELECT" + " " * 70_000 + "1"),
        ("a comment", "SELECT 1 -- " + "x" * 70_000),
        ("many statements", "SELECT 1;" * 8_000),
        ("semicolons", ";" * 4_000_000),
        ("dollars", "SELECT " + "".join(f"$q{n}$" for n in range(8_000))),
        ("quotes", "SELECT " + "'" * 60_001),
        ("values", "SELECT * FROM (VALUES " + ",".join(["(1)"] * 10_000) + ") AS v(n)"),
        ("nothing", "\0" * 1_000),
        ("no text", "\x01\x02\uffff" * 1_000),
    ]
    return bounded(plant, huge)


def long_chains(plant):
    """10,000 operators in a row, each kind of them, and as many as fit into a text."""
    links = [("1", " + 1"), ("'a'", " || 'a'"), ("true", " OR true"), ("1 = 1", " AND 1 = 1"), ("1", " = 1"), ("1", "::int"), ("1", " IS NULL"),
             ("'a'", " LIKE 'a'"), ("1", " BETWEEN 1 AND 1"), ("1", " IN (1)"), ("'2026-01-01'::timestamptz", " AT TIME ZONE 'UTC'"),
             ("make_array(1)", "[1]"), ("1", " % 1"), ("1", " & 1")]
    chains = [(link, "SELECT " + chain(first, link, 10_000)) for first, link in links]
    chains += [(f"{link}, as many as fit", "SELECT " + chain(first, link, (65_000 - len(first)) // len(link))) for first, link in links]
    chains += [(word, "SELECT 1" + f" {word} SELECT 1" * 10_000) for word in ["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]]
    chains += [(f"{count} joins", "SELECT 1 FROM tags t0" + "".join(f" JOIN tags t{n} ON t{n}.tag = t{n - 1}.tag" for n in range(1, count)))
               for count in [30, 500]]
    return refused(plant, chains)


def doubling(plant):
    """A few dozen lines, each of which names the one before twice."""
    doubles = [
        "SELECT a.x FROM {0} a, {0} b",
        "SELECT a.x FROM {0} a JOIN {0} b ON a.x = b.x",
        "SELECT x FROM {0} UNION ALL SELECT x FROM {0}",
        "SELECT (SELECT max(x) FROM {0}) + (SELECT min(x) FROM {0}) AS x",
        "SELECT x FROM {0} WHERE x IN (SELECT x FROM {0})",
        "SELECT x FROM {0} c WHERE EXISTS (SELECT 1 FROM {0} d WHERE c.x = d.x)",
    ]
    statements = []
    for double in doubles:
        for first, levels in [("SELECT 1 AS x", 20), ("SELECT 1 AS x", 60), ("SELECT value AS x FROM latest", 30), ("VALUES (1)", 60)]:
            first = first.replace("VALUES (1)", "SELECT column1 AS x FROM (VALUES (1)) AS v")
            lines = "".join(f", l{level} AS ({double.format(f'l{level - 1}')})" for level in range(1, levels))
            statements.append((f"{double} of {first}, {levels} times", f"WITH l0 AS ({first}){lines} SELECT count(*) FROM l{levels - 1}"))
    return refused(plant, statements)


def write_many(plant):
    """So many samples that no machine is through with all their pairs within seconds."""
    lines = "".join(f"many v={number}i {1_772_323_200 + number}\n" for number in range(200_000))
    status, body = post_http(plant, "/api/v1/write?precision=s", lines.encode(), "boss")
    equal(status, 204, f"samples are written ({body[:100]})")


def products(plant):
    """Joins without end whose condition is never true: nothing comes out, and the clock must be heard all the same.
    Several at once, more than there are places."""
    write_many(plant)
    conditions = [
        "SELECT count(*) FROM samples a, samples b, samples c WHERE a.value + b.value + c.value < -1e9",
        "SELECT a.ts FROM samples a JOIN samples b ON a.value + b.value > -1e9 JOIN samples c ON b.value + c.value < -1e9 + a.value",
        "SELECT count(*) FROM samples a CROSS JOIN samples b CROSS JOIN samples c CROSS JOIN samples d",
        "SELECT a.ts FROM samples a LEFT JOIN samples b ON a.value < b.value - 1e9 LEFT JOIN samples c ON b.value IS NULL AND c.value < a.value - 1e9 "
        "LEFT JOIN samples d ON d.value < c.value ORDER BY 1",
        "SELECT max(a.value) FROM samples a WHERE a.value NOT IN (SELECT b.value + c.value + 1e9 FROM samples b, samples c)",
        "SELECT count(*) FROM samples a FULL JOIN samples b ON a.value + 1e9 < b.value FULL JOIN samples c ON a.value + 1e9 < c.value",
        "SELECT a.tag || b.tag || c.tag FROM samples a, samples b, samples c WHERE (a.tag || b.tag || c.tag) LIKE '%nothing%'",
    ]
    def is_late(told):
        # By HTTP an answer that began breaks off.
        return told.error is not None and any(text in told.error for text in [TIMEOUT, "broke off"])

    for sql in conditions:
        for told in everywhere(plant, sql, timeout="1s"):
            check(is_late(told), f"{sql} ends with its time: {told}")
    outcomes, threads = [], []
    for number in range(24):
        door = by_postgres if number % 2 else by_http
        sql = conditions[number % 3]
        thread = threading.Thread(target=lambda door=door, sql=sql: outcomes.append(door(plant, sql, timeout="1s")))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(4 * ANSWER_S)
    equal(len(outcomes), 24, "statements that came to an end")
    ended = [told for told in outcomes if is_late(told)]
    full = [told for told in outcomes if told.error and "too many statements" in told.error]
    equal(len(ended) + len(full), 24, f"those that ended with their time or found no place: {outcomes[:3]}")
    check(len(ended) >= 4, f"those that had a place ended with their time: {outcomes}")
    until_quiet(plant)
    return f"{len(conditions)} alone; of 24 at once {len(ended)} ended with their time, {len(full)} found no place"


def stubborn(plant):
    """Joins of much with much, whose condition is never true, one for each core and more: a small question is answered while they
    run, not when they have ended."""
    import attack_access

    write_many(plant)
    sql = "SELECT count(*) FROM samples a, samples b, samples c WHERE a.value + b.value + c.value < -1e9 AND 'stubborn' <> ''"
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(by_postgres(plant, sql, timeout="40s"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    began = time.monotonic()
    told = by_postgres(plant, "SELECT count(*) FROM samples WHERE tag = 'plant/u1/T'", timeout="30s")
    waited = time.monotonic() - began
    still = len(threads) - len(ended)
    for number in [row[0] for row in attack_access.by_grpc(plant, "SELECT id FROM system.queries WHERE sql LIKE '%''stubborn%' AND sql NOT LIKE '%system.queries%'", "boss")]:
        attack_access.end(plant, number, "boss")
    for thread in threads:
        thread.join(4 * ANSWER_S)
    check(told.rows == [(3000,)] and still == len(threads), f"a small question is answered meanwhile; after {waited:.1f} s: {told}, {still} of {len(threads)} still ran")
    return f"a small question was answered after {waited:.1f} s"


def until_quiet(plant):
    """Waits until none but the asking statement and the witness runs: whatever was told to end has ended."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        told = by_postgres(plant, "SELECT sql FROM system.queries WHERE principal <> 'witness' AND sql NOT LIKE '%system.queries%'", user="boss", timeout="30s")
        if told.error is None and not told.rows:
            return
        check(time.monotonic() < deadline, f"statements that were ended stop: {told} {told.rows}")
        time.sleep(0.1)


def patterns(plant):
    """Regular expressions that are large, and those that take long in engines that go back."""
    answered = [
        ("backtracking", f"SELECT '{'a' * 5_000}!' ~ '^(a+)+$'"),
        ("alternatives", f"SELECT '{'a' * 5_000}!' ~ '^(a|aa)+$'"),
        ("on rows", "SELECT count(*) FROM samples WHERE tag ~ '^(([a-z/])+.)+[A-Z]([a-z])+$'"),
        ("LIKE", f"SELECT '{'a' * 5_000}' LIKE '{'%a' * 500}%b'"),
        ("ILIKE", f"SELECT '{'a' * 5_000}' ILIKE '{'%a' * 500}%b'"),
        ("LIKE on rows", f"SELECT count(*) FROM samples WHERE tag LIKE '{'%a' * 300}%b'"),
    ]
    bounded(plant, answered, timeout="10s")
    return refused(plant, [
        ("repetitions", "SELECT 'a' ~ '((a{1,1000}){1,1000}){1,1000}'"),
        ("unicode classes", "SELECT 'a' ~ '(\\pL{1,500}){1,500}'"),
        ("a long one", f"SELECT 'a' ~ '{'a' * 10_000}'"),
        ("of a row", "SELECT count(*) FROM samples WHERE 'a' ~ tag"),
        ("of rows, by a function", "SELECT count(*) FROM samples WHERE regexp_like(tag, tag || '+')"),
        ("by a function", "SELECT regexp_replace('a', '((a{1,1000}){1,1000}){1,1000}', 'b')"),
        ("matches", "SELECT regexp_match('a', '((a{1,1000}){1,1000}){1,1000}')"),
        ("counts", "SELECT regexp_count('a', '((a{1,1000}){1,1000}){1,1000}')"),
        ("a replacement that grows", f"SELECT length(regexp_replace(repeat('a', 1000000), 'a', repeat('b', 1000), 'g'))"),
    ])


def much_of_little(plant):
    """Functions that make much of little, in one call or in a few steps that double."""
    def steps(form, first, count):
        return f"WITH s0 AS (SELECT {first} AS x)" + "".join(f", s{n} AS (SELECT {form} AS x FROM s{n - 1})" for n in range(1, count)) + f" SELECT length(CAST(x AS TEXT)) FROM s{count - 1}"

    return bounded(plant, [
        ("repeat", "SELECT repeat('x', 1000000000)"),
        ("repeat of repeat", "SELECT length(repeat(repeat('x', 10000), 100000))"),
        ("repeat on rows", "SELECT sum(length(repeat(tag, 100000))) FROM samples"),
        ("repeat by a row", "SELECT length(repeat('x', CAST(value AS BIGINT) * 1000000)) FROM samples WHERE tag = 'plant/u1/T'"),
        ("lpad", "SELECT length(lpad('x', 2000000000, 'y'))"),
        ("rpad", "SELECT length(rpad('x', 2147483647, 'yz'))"),
        ("space by replace", "SELECT length(replace(repeat('x', 1000000), 'x', repeat('y', 10000)))"),
        ("translate", "SELECT length(translate(repeat('x', 60000000), 'x', 'ü'))"),
        ("generate_series", "SELECT count(*) FROM (SELECT unnest(generate_series(1, 1000000000000)))"),
        ("generate_series of rows", "SELECT count(*) FROM generate_series(1, 1000000000000) AS g(n)"),
        ("range", "SELECT array_length(range(1, 1000000000000))"),
        ("series of times", "SELECT count(*) FROM generate_series(TIMESTAMP '0001-01-01', TIMESTAMP '9999-01-01', INTERVAL '1 microsecond')"),
        ("array_repeat", "SELECT array_repeat(array_repeat('x', 100000), 100000)"),
        ("array_resize", "SELECT array_length(array_resize([1], 1000000000, 1))"),
        ("array_agg of doubles", "SELECT array_length(array_agg(a.value)) FROM samples a, samples b, samples c"),
        ("doubling by ||", steps("x || x", "repeat('x', 1000000)", 15)),
        ("doubling by concat", steps("concat(x, x, x, x, x, x, x, x)", "'x'", 12)),
        ("doubling by concat_ws", steps("concat_ws(x, x, x, x)", "'x'", 15)),
        ("doubling by lists", steps("array_concat(x, x, x, x, x, x, x, x)", "[1]", 12)),
        ("doubling by structures", steps("named_struct('a', x, 'b', x)", "1", 25)),
        ("more of them", steps("named_struct('a', x, 'b', x)", "1", 60)),
        ("doubling by arrays of arrays", steps("make_array(x, x)", "1", 25)),
        ("doubling by sums", steps("x + x", "1", 60)),
        ("doubling by overlay", steps("overlay(x placing x from 1 for 0)", "repeat('x', 1000)", 20)),
        ("doubling by encode", steps("encode(CAST(x AS BYTEA), 'hex')", "repeat('x', 1000)", 20)),
        ("doubling by to_hex", steps("concat(md5(x), x, x, upper(x))", "'x'", 20)),
        ("doubling on rows", "SELECT max(length(a || a || a || a)) FROM (SELECT b || b || b || b || b || b || b || b AS a FROM (SELECT repeat(tag, 500) AS b FROM samples))"),
        ("split", "SELECT array_length(string_to_array(repeat(',', 60000000), ','))"),
        ("levenshtein", "SELECT levenshtein(repeat('x', 1000000), repeat('y', 1000000))"),
        ("percentiles", "SELECT approx_percentile_cont(value, 0.5, 1000000000) FROM samples"),
        ("power", "SELECT CAST(10 AS DECIMAL(38, 0)) * 1e38"),
        ("factorial", "SELECT factorial(1000000)"),
        ("to_char", "SELECT sum(length(to_char(ts, repeat('%Y', 500)))) FROM samples"),
        ("a grid of everything", "SELECT count(*) FROM grid('plant/*', TIMESTAMPTZ '0001-01-01', end => TIMESTAMPTZ '9999-01-01', step => '1 ns')"),
        ("windows without end", "SELECT count(*) FROM windows('plant/u1/T', TIMESTAMPTZ '1970-01-01', TIMESTAMPTZ '2200-01-01', '1 us')"),
        ("buckets of a nanosecond", "SELECT time_bucket_gapfill('1 ns', ts) AS b, avg(value) FROM samples WHERE ts >= TIMESTAMPTZ '1970-01-01' AND ts < TIMESTAMPTZ '2200-01-01' GROUP BY b"),
        ("charts", "SELECT count(*) FROM lttb('plant/u1/T', TIMESTAMPTZ '1970-01-01', TIMESTAMPTZ '2200-01-01', 2000000000)"),
    ], timeout="10s")


def beyond_memory(plant):
    """More than memory has: it spills and is ended by its time, or ends for want of memory. Others are served."""
    many = "FROM samples a, samples b WHERE a.tag LIKE 'plant/u%' AND b.tag LIKE 'plant/u%'"
    return refused(plant, [
        ("array_agg", f"SELECT array_agg(a.tag || b.tag || a.value) {many}"),
        ("array_agg of groups", f"SELECT a.ts, b.ts AS other, array_agg(a.tag || b.tag) {many} GROUP BY 1, 2 ORDER BY 1"),
        ("string_agg", f"SELECT length(string_agg(a.tag || b.tag, ',')) {many}"),
        ("a sort", f"SELECT a.tag || b.tag || a.value AS x, a.ts, b.ts AS other {many} ORDER BY x, a.value * b.value"),
        ("distinct", f"SELECT count(*) FROM (SELECT DISTINCT a.value * b.value, a.ts, b.ts {many})"),
        ("distinct counts", f"SELECT count(DISTINCT a.value * b.value + random()) {many}"),
        ("ranks", f"SELECT max(n) FROM (SELECT row_number() OVER (ORDER BY a.value * b.value, a.ts) AS n {many})"),
        ("medians", f"SELECT median(a.value * b.value), percentile_cont(0.3) WITHIN GROUP (ORDER BY a.value * b.value) {many}"),
        ("a hash join of all", f"SELECT count(*) FROM (SELECT a.value + b.value * 1e4 AS x {many}) c JOIN (SELECT a.value + b.value * 1e4 AS x {many}) d ON c.x = d.x"),
    ], timeout="5s")


def recursion(plant):
    without_end = [
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT t.n FROM t, (VALUES (1), (2), (3)) AS v(x)) SELECT count(*) FROM t",
        "WITH RECURSIVE t AS (SELECT repeat('x', 1000) AS s UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t",
        "WITH RECURSIVE t AS (SELECT value AS n FROM samples UNION ALL SELECT t.n + s.value FROM t, samples s) SELECT count(*) FROM t",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n FROM t) SELECT * FROM t",
    ]
    return refused(plant, [(sql, sql) for sql in without_end], timeout="2s")


def outside(plant):
    """Files, the network, other programs, settings of the machinery: there is no way."""
    target = plant.scratch / "must-not-be"
    passwd = "/etc/passwd"
    statements = [
        f"COPY (SELECT 1) TO '{target}'", f"COPY samples TO '{target}' (FORMAT csv)", f"COPY samples TO '{target}.parquet' STORED AS PARQUET",
        f"COPY samples FROM '{passwd}'", "COPY (SELECT 1) TO PROGRAM 'id'", "COPY samples FROM PROGRAM 'id'", "COPY samples FROM STDIN", f"EXPLAIN COPY samples TO '{target}'",
        f"EXPLAIN ANALYZE COPY samples TO '{target}'",
        f"CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{passwd}'", f"CREATE EXTERNAL TABLE t (a TEXT) STORED AS CSV LOCATION 'file://{passwd}'",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'http://127.0.0.1:1/x.parquet'",
        f"CREATE UNBOUNDED EXTERNAL TABLE t (a TEXT) STORED AS CSV LOCATION '{target}'",
        "CREATE TABLE t AS SELECT * FROM samples", "CREATE TEMP TABLE t (a INT)", "CREATE VIEW v AS SELECT 1", "CREATE SCHEMA s", "CREATE DATABASE d", "CREATE CATALOG c",
        "CREATE FUNCTION f() RETURNS INT RETURN 1", "CREATE EXTENSION dblink", "CREATE ROLE eve", "CREATE INDEX i ON samples (ts)",
        "DROP TABLE samples", "DROP SCHEMA public CASCADE", "ALTER TABLE samples ADD COLUMN a INT", "TRUNCATE samples", "INSERT INTO samples (tag) VALUES ('x')",
        "UPDATE samples SET value = 0", "DELETE FROM samples", "MERGE INTO samples USING tags ON false WHEN MATCHED THEN DELETE", "GRANT ALL ON samples TO public",
        "WITH gone AS (DELETE FROM samples RETURNING *) SELECT * FROM gone", "SELECT * INTO t FROM samples", "LOCK TABLE samples", "VACUUM", "ANALYZE TABLE samples", "CHECKPOINT",
        "LOAD 'x.so'", "DO 'BEGIN END'", "CALL f()", "LISTEN x", "NOTIFY x", "KILL 1", "DECLARE c CURSOR FOR SELECT 1", "PREPARE p AS SELECT 1", "EXECUTE p", "USE other",
        f"SELECT * FROM '{passwd}'", f"SELECT * FROM \"{passwd}\"", f"SELECT * FROM 'file://{passwd}'", "SELECT * FROM 's3://bucket/x.parquet'", "SELECT * FROM 'http://127.0.0.1:1/x.csv'",
        f"SELECT * FROM read_csv('{passwd}')", f"SELECT * FROM read_parquet('{passwd}')", f"SELECT * FROM parquet_metadata('{passwd}')", f"SELECT pg_read_file('{passwd}')",
        f"SELECT pg_read_binary_file('{passwd}')", "SELECT pg_ls_dir('/')", f"SELECT lo_import('{passwd}')", f"SELECT lo_export(1, '{target}')", "SELECT dblink('host=127.0.0.1', 'SELECT 1')",
        "SELECT pg_terminate_backend(1)", "SELECT pg_reload_conf()", "SELECT set_config('x', 'y', false)", "SELECT getenv('HOME')", "SELECT input_file_name()", "SELECT pg_stat_file('/')",
        "SET nothing = 1", "SET datafusion.execution.batch_size = 1", "SET datafusion.catalog.location = '/'", "SET datafusion.runtime.memory_limit = '100G'", "SET datafusion.runtime.temp_directory = '/'",
        "SET role = boss", "SET session_authorization = boss", "SET SESSION AUTHORIZATION boss", "SET allow_system_table_mods = on", "SHOW nothing", "RESET nothing",
        "SET log_statement = 'all'", "SET tagmill.partitions = 1000000000", "SET tagmill.partitions = -1", "SET statement_timeout = 'never'", "SET tagmill.max_rows = -1",
    ]
    before = listing(plant)
    for sql in statements:
        for told in everywhere(plant, sql, timeout="5s"):
            check(told.error is not None, f"{sql} is refused: {told} {told.rows}")
            check("root:" not in told.error and "internal error" not in told.error, f"{sql} tells nothing: {told}")
    equal(listing(plant), before, "files around the database")
    return f"{len(statements)} statements refused, twice each"


def listing(plant):
    """All that lies around the database, and the names of what lies in it without those that come and go by themselves."""
    found = []
    for folder, _, names in os.walk(plant.scratch):
        found += [os.path.join(folder, name) for name in names if not folder.startswith(str(plant.data))]
    return sorted(found)


SQL_CASES = [deep_sql, huge_sql, long_chains, doubling, products, stubborn, patterns, much_of_little, recursion, outside]
# These take all the memory there is. They are counted alone: an allocator keeps what others took before.
HUNGRY_CASES = [beyond_memory]
