"""Attacks on who may do what: out of a scope, with a token that has ended, beyond a role, out of a folder, beyond a quota, with a
foreign certificate. Each over the real doors: gRPC, Flight SQL, HTTP, PostgreSQL.
"""

import contextlib
import datetime
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import threading
import time

import adbc_driver_manager
import grpc
import psycopg
import pyarrow.ipc

import flight_client
from attack_sql import by_http, by_postgres, listing
from grpc_client import channel_over_tls, generate, messages, new
from plant import NEW, ROWS, START, Authority, certify, check, equal, run
from witness import ask_http, post_http

WAIT_S = 60
START_NS = round(START.timestamp()) * 10**9


# ---- the doors -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def channel_of(plant, certificate=None):
    if not messages:
        generate(plant.scratch / "stubs")
    with channel_over_tls(plant, certificate=certificate) as channel:
        yield channel


def header(plant, user):
    return [("authorization", f"Bearer {plant.tokens[user]}")] if user else []


def by_grpc(plant, sql, user="reader", certificate=None):
    """Rows of a statement as lists, or the error as text."""
    try:
        with channel_of(plant, certificate) as channel:
            stub = messages["QueryStub"](channel)
            answer = stub.Execute(new("ExecuteRequest", sql=sql), timeout=WAIT_S, metadata=header(plant, user))
            parts = [piece.ipc for piece in answer if piece.WhichOneof("message") == "ipc"]
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    table = pyarrow.ipc.open_stream(b"".join(parts)).read_all()
    return [list(row.values()) for row in table.to_pylist()]


def by_flight(plant, sql, user="reader", **options):
    try:
        with flight_client.connect(plant, user, **options) as connection:
            return [list(row) for row in flight_client.rows(connection, sql)]
    except adbc_driver_manager.Error as error:
        return str(error)


def as_rows(told):
    if told.error is not None:
        return told.error
    return [list(row.values()) if isinstance(row, dict) else list(row) for row in told.rows]


DOORS = {
    "grpc": by_grpc,
    "flight": by_flight,
    "http": lambda plant, sql, user: as_rows(by_http(plant, sql, user, timeout="30s")),
    "postgres": lambda plant, sql, user: as_rows(by_postgres(plant, sql, user, timeout="30s")),
}


def at_each_door(plant, sql, user):
    return {name: ask(plant, sql, user) for name, ask in DOORS.items()}


# ---- out of a scope --------------------------------------------------------------------------------------------------

# Of one who knows plant/u1 alone: what must show nothing of plant/u10 and plant/odd, whichever way it is asked for.
ESCAPES = [
    "SELECT * FROM samples WHERE tag LIKE 'plant/u10%'",
    "SELECT * FROM samples WHERE tag LIKE '%' ORDER BY value DESC LIMIT 5",
    "SELECT * FROM samples WHERE tag ~ 'u1.+/T'",
    "SELECT DISTINCT tag FROM samples WHERE tag >= 'plant/u1' AND tag < 'plant/u2'",
    "SELECT * FROM samples WHERE lower(tag) = 'plant/u10/t'",
    "SELECT * FROM samples WHERE tag || '' = 'plant/' || 'u10/T'",
    "SELECT * FROM samples WHERE NOT (tag = 'plant/u1/T')",
    "SELECT * FROM samples WHERE tag <> 'plant/u1/T' OR 1 = 1 ORDER BY value DESC LIMIT 3",
    "SELECT * FROM samples WHERE tag_id > 0 ORDER BY tag_id DESC LIMIT 3",
    "SELECT * FROM samples WHERE tag_id IN (0, 1, 2, 3, 4, 5) ORDER BY value DESC LIMIT 3",
    "SELECT s.* FROM samples s JOIN tags t ON s.tag_id = t.tag_id WHERE t.tag <> 'plant/u1/T'",
    "SELECT s.* FROM tags t LEFT JOIN samples s ON s.tag = replace(t.tag, 'u1', 'u10') WHERE s.tag IS NOT NULL",
    "SELECT s.* FROM (VALUES ('plant/u10/T'), ('plant/odd')) AS v(tag) JOIN samples s ON s.tag = v.tag",
    "SELECT * FROM samples WHERE tag IN (SELECT 'plant/u10/T' UNION SELECT 'plant/odd')",
    "SELECT * FROM samples WHERE tag = (SELECT max(tag) FROM tags) AND value > 5000",
    "SELECT * FROM samples s WHERE EXISTS (SELECT 1 FROM samples o WHERE o.value > 9999)",
    "SELECT tag FROM tags UNION SELECT tag FROM samples UNION ALL SELECT tag FROM latest",
    "SELECT tag FROM samples EXCEPT SELECT 'plant/u1/T'",
    "WITH everything AS (SELECT * FROM samples) SELECT max(value), count(DISTINCT tag) FROM everything",
    "SELECT max(value) OVER (), count(*) OVER (), lead(tag) OVER (ORDER BY ts, tag) FROM samples ORDER BY ts DESC LIMIT 3",
    "SELECT string_agg(DISTINCT tag, ','), max(value), min(value), count(*) FROM samples",
    "SELECT array_agg(DISTINCT tag) FROM latest",
    "SELECT count(*), max(tag_id) FROM tags",
    "SELECT * FROM latest", "SELECT * FROM latest WHERE value > 2000", "SELECT * FROM tags",
    "SELECT * FROM rollup_1m WHERE tag <> 'plant/u1/T'", "SELECT max(max) FROM rollup_1h", "SELECT DISTINCT tag FROM rollup_1d", "SELECT count(*) FROM rollup_15m WHERE tag LIKE '%odd'",
    "SELECT time_bucket('1 h', ts), tag, avg(value), count(*) FROM samples GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT value_at('plant/u10/T', TIMESTAMPTZ '2026-03-01 00:10:00')",
    "SELECT value_at(tag, TIMESTAMPTZ '2026-03-01 00:10:00') FROM (VALUES ('plant/u10/T'), ('plant/odd')) AS v(tag)",
    "SELECT * FROM history('plant/u10/T', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02')",
    "SELECT * FROM grid('plant/u10/T', TIMESTAMPTZ '2026-03-01', end => TIMESTAMPTZ '2026-03-01 00:01', step => '10 s')",
    "SELECT * FROM grid('plant/*', TIMESTAMPTZ '2026-03-01', end => TIMESTAMPTZ '2026-03-01 00:01', step => '10 s')",
    "SELECT * FROM windows('plant/u10/T', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02', '1 h')",
    "SELECT * FROM m4('plant/u10/T', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02', 10)",
    "SELECT * FROM lttb('plant/u10/T', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02', 10)",
    "SELECT * FROM asof_join('plant/u1/T', 'plant/u10/T', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02')",
    "SELECT label('plant/u10/T', 'unit')",
    "SELECT * FROM system.queries", "SELECT * FROM system.settings",
    "SELECT * FROM information_schema.tables", "SELECT * FROM information_schema.columns", "SELECT * FROM information_schema.schemata",
    "SELECT * FROM information_schema.views", "SELECT * FROM information_schema.routines", "SELECT * FROM information_schema.parameters", "SELECT * FROM information_schema.df_settings",
    "EXPLAIN SELECT * FROM samples WHERE tag LIKE 'plant/u%'", "EXPLAIN VERBOSE SELECT * FROM samples", "EXPLAIN ANALYZE SELECT max(value) FROM samples",
    "EXPLAIN ANALYZE SELECT * FROM samples WHERE tag <> 'plant/u1/T'", "EXPLAIN ANALYZE SELECT tag, max(value) FROM samples GROUP BY tag",
    "EXPLAIN ANALYZE VERBOSE SELECT time_bucket('1 h', ts), avg(value) FROM samples GROUP BY 1",
    "SHOW ALL", "SHOW TABLES", "SHOW COLUMNS FROM samples", "DESCRIBE samples",
    "SELECT CAST(max(tag) AS INT) FROM samples", "SELECT 1 / (SELECT count(*) - count(*) FROM samples WHERE tag = 'plant/u10/T')",
    "SELECT CAST(tag AS INT) FROM samples WHERE value > 9000", "SELECT (SELECT tag FROM tags ORDER BY tag DESC LIMIT 1) || 1",
]
# What belongs to tags outside: names, values and counts that one inside cannot come upon. A tag of 1000 + n / 8 never reaches 2000.
OUTSIDE = re.compile(r"plant/odd|1e\+?300|123456\.789|\b1[0-9]{4}\.[0-9]|\b10[0-3][0-9]{2}\b|\b6007\b|\b6000\b|\b3007\b")
HIDDEN = ["segments", "tiers", "damage", "retention", "gateways", "audit"]


def scope_escapes(plant):
    for sql in ESCAPES:
        for door, found in at_each_door(plant, sql, "unit1").items():
            text = repr(found).replace(sql, "")
            named = set(re.findall(r"plant/\w+(?:/T)?", text)) - {"plant/u1/T"}
            # A refusal may repeat what was asked for, which it has from the question.
            named -= set(re.findall(r"plant/\w+(?:/T)?", sql))
            check(not named, f"{sql} by {door} names nothing outside: {named}")
            # Plans and settings have numbers of their own.
            if isinstance(found, list) and not sql.startswith(("EXPLAIN", "SHOW")) and "information_schema" not in sql:
                check(not OUTSIDE.search(text), f"{sql} by {door} shows nothing outside: {OUTSIDE.search(text)}")
    for name in HIDDEN:
        for door, found in at_each_door(plant, f"SELECT * FROM system.{name}", "unit1").items():
            check(isinstance(found, str) and "no relation" in found, f"system.{name} by {door}: {found}")
    # Prepared, with values that come later, by each door that can.
    with psycopg.connect(**plant.words("unit1"), autocommit=True) as connection:
        for sql in ["SELECT count(*) FROM samples WHERE tag = %s", "SELECT count(*) FROM samples WHERE tag LIKE %s", "SELECT count(*) FROM latest WHERE tag = %s"]:
            for _ in range(7):
                equal(connection.execute(sql, ["plant/u10/T"], prepare=True).fetchone(), (0,), f"{sql}, prepared")
    with flight_client.connect(plant, "unit1") as connection:
        equal(flight_client.rows(connection, "SELECT count(*) FROM samples WHERE tag LIKE $1", ("%u10%",)), [(0,)], "prepared, by Flight")
    body = json.dumps({"sql": "SELECT count(*) AS n FROM samples WHERE tag = $1", "parameters": ["plant/u10/T"]}).encode()
    equal(post_http(plant, "/api/v1/sql", body, "unit1", headers={"Content-Type": "application/json"}), (200, b'[{"n":0}]\n'), "prepared, by HTTP")
    # The catalogs of PostgreSQL.
    for sql in ["SELECT relname FROM pg_catalog.pg_class", "SELECT * FROM pg_catalog.pg_attribute", "SELECT datname FROM pg_catalog.pg_database", "SELECT rolname FROM pg_catalog.pg_roles",
                "SELECT usename FROM pg_catalog.pg_user", "SELECT * FROM pg_catalog.pg_stat_activity", "SELECT * FROM pg_catalog.pg_settings"]:
        text = repr(as_rows(by_postgres(plant, sql, "unit1", timeout="30s")))
        check("plant/u10" not in text and "plant/odd" not in text, f"{sql} names no tag outside")
        for other in ["boss", "leaver"]:
            check(f"'{other}'" not in text, f"{sql} names no other token: {text[:300]}")
    return f"{len(ESCAPES) + len(HIDDEN)} statements by {len(DOORS)} doors"


def same_words(plant):
    """A tag outside and one that is not there give the same answer and the same error, but for the name that was asked for."""
    questions = [
        "SELECT count(*) FROM samples WHERE tag = '{0}'", "SELECT * FROM tags WHERE tag = '{0}'", "SELECT * FROM latest WHERE tag = '{0}'",
        "SELECT value_at('{0}', TIMESTAMPTZ '2026-03-01 00:10:00')", "SELECT label('{0}', 'unit')",
        "SELECT * FROM history('{0}', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02')",
        "SELECT * FROM grid('{0}', TIMESTAMPTZ '2026-03-01', end => TIMESTAMPTZ '2026-03-02', step => '1 h')",
        "SELECT * FROM windows('{0}', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02', '1 h')",
        "SELECT * FROM m4('{0}', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02', 10)", "SELECT * FROM lttb('{0}', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02', 10)",
        "SELECT * FROM asof_join('plant/u1/T', '{0}', TIMESTAMPTZ '2026-03-01', TIMESTAMPTZ '2026-03-02')",
        "SELECT avg(value) FROM rollup_1h WHERE tag = '{0}'", "SELECT time_avg(ts, value) FROM samples WHERE tag = '{0}'",
        "EXPLAIN SELECT * FROM samples WHERE tag = '{0}'",
    ]
    # As near to a name inside the one as the other.
    there, nowhere = "plant/u10/T", "plant/u19/T"
    for sql in questions:
        found = at_each_door(plant, sql.format(there), "unit1")
        wanted = at_each_door(plant, sql.format(nowhere), "unit1")
        for door in DOORS:
            equal(repr(found[door]).replace("u10", "u19"), repr(wanted[door]), f"{sql} by {door}, of a tag outside")
    # Whoever writes within a scope learns nothing either.
    for name in [there, nowhere]:
        told = write_by_grpc(plant, name, "line")
        check("outside of the scope" in told, f"a write of {name}: {told}")
    told = [post_http(plant, "/api/v1/write", f"{name},x=u v=1".encode(), "line") for name in ["plant/u10", "plant/u19"]]
    equal(told[0][0], told[1][0], "statuses of lines")
    equal(told[0][1].replace(b"u10", b"u19"), told[1][1], "words about lines")
    status, body = ask_http(plant, "SELECT 1", "unit1", path="/metrics")
    check(status in (403, 405), f"figures in a scope: {status} {body[:100]}")
    return f"{len(questions)} questions by {len(DOORS)} doors"


def timing(plant):
    """How long an answer takes for a tag outside and for one that is not there. Told, not judged: the machine is not alone."""
    times = {"plant/u10/T": [], "plant/u19/T": []}
    with psycopg.connect(**plant.words("unit1"), autocommit=True) as connection:
        for number in range(300):
            for name in sorted(times, reverse=number % 2 == 0):
                began = time.perf_counter()
                connection.execute("SELECT count(*) FROM samples WHERE tag = %s", [name]).fetchone()
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(all) * 1_000 for name, all in times.items()}
    return ", ".join(f"{name}: median {median:.2f} ms" for name, median in medians.items())


def others_statements(plant):
    """Nobody sees or ends the statement of another, but an operator."""
    secret = "SELECT count(*) FROM samples a, samples b, samples c WHERE a.value + b.value + c.value < -1e9 AND 'secret' <> ''"
    ended = []
    thread = threading.Thread(target=lambda: ended.append(by_postgres(plant, secret, timeout="60s")))
    thread.start()
    see = "SELECT id FROM system.queries WHERE sql LIKE '%''secret%' AND sql NOT LIKE '%system.queries%'"
    number = None
    deadline = time.monotonic() + WAIT_S
    while number is None:
        check(time.monotonic() < deadline and not ended, f"it runs: {ended}")
        found = by_grpc(plant, see, "boss")
        number = found[0][0] if found and isinstance(found, list) else None
    for user in ["unit1", "witness"]:
        for door, found in at_each_door(plant, see, user).items():
            equal(found, [], f"the statement of another, as {user} sees it by {door}")
    for user in ["unit1", "witness", "gateway", "operator_of_u1", None]:
        told = end(plant, number, user)
        check(told != "ended", f"{user} ends the statement of another: {told}")
    equal(ended, [], "it still runs")
    # The words do not say whether there is one.
    equal(end(plant, number, "unit1").replace(str(number), "it"), end(plant, 987_654, "unit1").replace("987654", "it"), "of another's and of none")
    equal(end(plant, number, "boss"), "ended", "an operator ends it")
    thread.join(WAIT_S)
    check(ended and ended[0].error and "ended on request" in ended[0].error, f"its owner is told: {ended}")


def end(plant, number, user):
    with channel_of(plant) as channel:
        try:
            messages["QueryStub"](channel).End(new("EndRequest", id=number), timeout=WAIT_S, metadata=header(plant, user))
            return "ended"
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"


# ---- tokens and roles ------------------------------------------------------------------------------------------------

REFUSED = ["UNAUTHENTICATED", "Unauthenticated", "not valid", "authentication failed", "too many failed logins"]


def expire(plant, name):
    """A token that ended yesterday: the command makes none, so its line in the file is changed."""
    path = plant.data / "access.toml"
    head, *entries = path.read_text().split("[[token]]")
    at = next(at for at, entry in enumerate(entries) if f'name = "{name}"' in entry)
    yesterday = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    entries[at], changed = re.subn(r'expires = "[^"]*"', f'expires = "{yesterday}"', entries[at])
    equal(changed, 1, f"ends in the file of {name}")
    part = path.with_suffix(".part")
    part.write_text("[[token]]".join([head, *entries]))
    part.chmod(0o600)
    os.replace(part, path)


def ended_tokens(plant):
    """Expired and revoked, at each door; a connection that was there before ends with its next statement."""
    for name in ["expired", "revoked"]:
        plant.token(name)
    time.sleep(1.5)
    for name in ["expired", "revoked"]:
        for door, found in at_each_door(plant, "SELECT 1", name).items():
            equal(found, [[1]], f"{name} before, by {door}")
    with psycopg.connect(**plant.words("expired"), autocommit=True) as old, psycopg.connect(**plant.words("revoked"), autocommit=True) as gone, channel_of(plant) as channel:
        stub = messages["QueryStub"](channel)
        expire(plant, "expired")
        plant.tagmill("token", "revoke", "revoked", "--data", plant.data)
        time.sleep(1.5)
        for name in ["expired", "revoked"]:
            for door, found in at_each_door(plant, "SELECT 1", name).items():
                check(isinstance(found, str) and any(text in found for text in REFUSED), f"{name} after, by {door}: {found}")
            told = by_flight(plant, "SELECT 1", name, **{flight_client.DatabaseOptions.AUTHORIZATION_HEADER.value: None}, username=name, password=plant.tokens[name])
            check(isinstance(told, str) and any(text in told for text in REFUSED), f"{name} by a handshake: {told}")
            status, _ = post_http(plant, "/api/v1/write", b"m v=1", name)
            equal(status, 401, f"{name} writes a line")
        for connection in [old, gone]:
            with contextlib.suppress(psycopg.Error):
                raise AssertionError(f"does not hold: it ends with its next statement: {connection.execute('SELECT 1').fetchall()}")
        try:
            list(stub.Execute(new("ExecuteRequest", sql="SELECT 1"), timeout=WAIT_S, metadata=header(plant, "revoked")))
            raise AssertionError("does not hold: an old channel ends")
        except grpc.RpcError as error:
            equal(error.code(), grpc.StatusCode.UNAUTHENTICATED, "on a channel that was there")


def write_by_grpc(plant, tag, user, key="", count=1, certificate=None):
    column = new("TagColumn", count=count, base_ns=START_NS, step_ns=10**9, f64=[666.5] * count)
    request = new("WriteRequest", key=key, batch=new("NamedBatch", columns=[new("NamedColumn", name=tag, column=column)]))
    with channel_of(plant, certificate) as channel:
        try:
            answer = messages["IngestStub"](channel).Write(request, timeout=WAIT_S, metadata=header(plant, user))
            return f"accepted {answer.accepted_samples}, rejected {[reject.detail for reject in answer.rejects]}"
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"


def readers_who_write(plant):
    tag = "plant/u1/T"
    for user in ["reader", "unit1"]:
        check("PERMISSION_DENIED" in write_by_grpc(plant, tag, user), f"{user} writes by gRPC")
        with channel_of(plant) as channel:
            ingest, admin = messages["IngestStub"](channel), messages["AdminStub"](channel)
            hello = new("ClientMessage", hello=new("Hello", gateway=user, epoch=1))
            for what, call in {
                "Stream": lambda: list(ingest.Stream(iter([hello]), timeout=WAIT_S, metadata=header(plant, user))),
                "DefineTags": lambda: ingest.DefineTags(new("DefineTagsRequest", define=new("DefineTags", tags=[new("TagDefinition", name="plant/u1/new", type=1)])), metadata=header(plant, user)),
                "DeleteTag": lambda: admin.DeleteTag(new("DeleteTagRequest", name=tag), metadata=header(plant, user)),
                "DeleteRange": lambda: admin.DeleteRange(new("DeleteRangeRequest", tags=["*"]), metadata=header(plant, user)),
                "RenameTag": lambda: admin.RenameTag(new("RenameTagRequest", name=tag, new_name="plant/u1/U"), metadata=header(plant, user)),
                "EditTag": lambda: admin.EditTag(new("EditTagRequest", name=tag, clear=["unit"]), metadata=header(plant, user)),
                "SetStates": lambda: admin.SetStates(new("SetStatesRequest", set="s"), metadata=header(plant, user)),
                "Seal": lambda: admin.Seal(new("SealRequest"), metadata=header(plant, user)),
                "Backup": lambda: admin.Backup(new("BackupRequest", name="b"), metadata=header(plant, user)),
                "Verify": lambda: admin.Verify(new("VerifyRequest"), metadata=header(plant, user)),
            }.items():
                try:
                    found = call()
                except grpc.RpcError as error:
                    equal(error.code(), grpc.StatusCode.PERMISSION_DENIED, f"{what} by {user}")
                else:
                    raise AssertionError(f"does not hold: {user} may not {what}: {found}")
        for path in ["/api/v1/write", "/api/v2/write"]:
            equal(post_http(plant, path, b"plant/u1,x=T v=666.5", user)[0], 403, f"{user} writes by {path}")
        with flight_client.connect(plant, user) as connection, connection.cursor() as cursor, flight_client.fails("lacks the role writer"):
            cursor.adbc_ingest("samples", flight_client.samples([tag], [START_NS], [666.5]), mode="append")
        for sql in [f"INSERT INTO samples (tag, ts, value) VALUES ('{tag}', now(), 666.5)", "DELETE FROM samples", "COPY samples FROM STDIN"]:
            check(by_postgres(plant, sql, user).error, f"{user} may not {sql}")
        status, _ = ask_http(plant, "SELECT count(*) FROM system.audit", user)
        equal(status, 400, f"{user} reads the audit log")
    equal(by_grpc(plant, "SELECT count(*) FROM samples WHERE value = 666.5", "boss"), [[0]], "what they have written: the honest gateway writes whole numbers")


# ---- out of a folder -------------------------------------------------------------------------------------------------

PATHS = ["..", "../x", "../../x", "/etc/tagmill-x", "//x", "a/../b", "a/./b", "a/..", "./a", "a//b", "a/", "/a", "a\0b", "a\nb", "\u202eb", "a\u200bb", " a", "a ",
         "x" * 5_000, "/".join("a" * 100), "CON", "NUL", "%2e%2e/x", "..\\x", "a\\..\\b", "~/x", "$(id)", "`id`", "a;b", "'; DROP TABLE samples; --", "access.toml", "LOCK",
         "manifest-0.log", "wal/0.wal"]
# What a database is made of (ARCHITECTURE.md). Names are numbers, days and ids.
OURS = re.compile(r"(LOCK|ballast|registry\.log|access\.toml(\.lock)?|audit(-[0-9TZ.]+)?\.jsonl|manifest-[0-9a-f]+\.log|latest-[0-9a-f]+\.ckpt"
                  r"|wal/[0-9a-f-]+\.wal|segments/[a-z0-9-]+\.seg)")


IMPORT_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def import_as(plant, name, *target):
    """Imports a file under an id, which no command line takes with a NUL in it."""
    file = plant.scratch / "one.csv"
    file.write_text("tag,ts,value\npaths/imported,2026-03-01T00:00:00Z,1\n")
    words = [plant.binary, "import", file, "--map", "tag=tag,time=ts,value=value", f"--id={name}", *target]
    secrets = {"TAGMILL_TOKEN": plant.tokens["boss"], "TAGMILL_CA": str(plant.ca)}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=WAIT_S, env={**os.environ, **secrets})
    is_right = done.returncode == 0 if IMPORT_ID.fullmatch(name) else done.returncode == 2 and "an id has 1 to 64" in done.stderr
    check(is_right, f"an import with the id {name!r} into {target}: {done.returncode} {done.stdout} {done.stderr}")


def paths(plant):
    """Names that are ways out of a folder: of tags, of backups, of idempotency keys, of gateways, of lines, of imports."""
    imported = plant.scratch / "imported"
    import_as(plant, "first", "--data", imported)
    before = listing(plant)
    with channel_of(plant) as channel:
        admin, ingest = messages["AdminStub"](channel), messages["IngestStub"](channel)
        for name in PATHS:
            for told in [write_by_grpc(plant, name, "boss"), write_by_grpc(plant, "paths/T", "boss", key=name)]:
                check("INTERNAL" not in told and "UNKNOWN:" not in told, f"{name!r} is no bug: {told}")
            measurement = name.replace("\\", "\\\\").replace(" ", "\\ ").replace(",", "\\,").replace("=", "\\=")
            status, body = post_http(plant, "/api/v1/write", f"{measurement},k={measurement} {measurement}=1 1\n".encode(), "boss")
            check(status in (204, 400), f"a line of {name!r}: {status} {body[:200]}")
            with flight_client.connect(plant, "boss") as connection, connection.cursor() as cursor, contextlib.suppress(adbc_driver_manager.Error):
                cursor.adbc_ingest("samples", flight_client.samples([name], [START_NS], [1.0]), mode="append")
            with contextlib.suppress(grpc.RpcError):
                hello = new("ClientMessage", hello=new("Hello", gateway=name, epoch=1))
                list(ingest.Stream(iter([hello, new("ClientMessage", flush=new("Flush", id=1))]), timeout=10, metadata=header(plant, "boss")))
            with contextlib.suppress(grpc.RpcError):
                admin.SetStates(new("SetStatesRequest", set=name, labels={0: name[:100]}), timeout=WAIT_S, metadata=header(plant, "boss"))
            if "\0" not in name:
                import_as(plant, name, "--connect", f"https://localhost:{plant.grpc}")
                import_as(plant, name, "--data", imported)
            is_plain = re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}", name)
            try:
                answer = admin.Backup(new("BackupRequest", name=name), timeout=WAIT_S, metadata=header(plant, "boss"))
                check(is_plain and pathlib.Path(answer.folder).parent == plant.scratch / "backups", f"a backup of {name!r} went to {answer.folder}")
            except grpc.RpcError as error:
                check(not is_plain and error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"a backup of {name!r}: {error.code()} {error.details()}")
    after = [path for path in listing(plant) if path not in before]
    outside = [path for path in after if not path.startswith((f"{plant.scratch / 'backups'}{os.sep}", f"{imported}{os.sep}"))]
    equal(outside, [], "files outside of the folders")
    inside = [str(path.relative_to(data)) for data in [plant.data, imported] for path in data.rglob("*") if path.is_file()]
    equal([name for name in inside if not OURS.fullmatch(name)], [], "files of the database with names that are not its own")
    for path in ["/etc/tagmill-x", "/x", plant.scratch.parent / "x"]:
        check(not pathlib.Path(path).exists(), f"{path} is not there")
    # What is an id of an import is text in the name of its gateway.
    wanted = {f"import/{name}" for name in PATHS if IMPORT_ID.fullmatch(name)}
    found = {name for (name,) in by_grpc(plant, "SELECT gateway FROM system.gateways WHERE gateway LIKE 'import/%'", "boss")}
    equal(found, wanted, "ids of imports")
    # Names that are tags are told from each other, whatever they look like on the way.
    found = {name for (name,) in by_grpc(plant, "SELECT tag FROM tags", "boss")}
    for name in [".", "..", "../x", "a/../b", "a//b", "/a", "a/", " a", "a "]:
        check(name not in found, f"{name!r} is no tag")
    return f"{len(PATHS)} names by seven ways"


# ---- quotas and logins -----------------------------------------------------------------------------------------------


def new_tags(plant):
    """A token that may make five tags known in a day, by each door that writes; what there is goes on."""
    made = []
    for number in range(3):
        told = write_by_grpc(plant, f"quota/grpc{number}", "few")
        check("accepted 1" in told, f"one of five: {told}")
        made.append(f"quota/grpc{number}")
    status, body = post_http(plant, "/api/v1/write", b"quota a=1,b=2,c=3,d=4 1", "few")
    check(status == 400 and b"as many tags" in body, f"beyond five, by lines: {status} {body}")
    known = [name for (name,) in by_grpc(plant, "SELECT tag FROM tags WHERE tag LIKE 'quota/%' ORDER BY tag", "boss")]
    equal(len(known), 5, f"tags made known, {known}")
    told = write_by_grpc(plant, "quota/more", "few")
    check("RESOURCE_EXHAUSTED" in told and "--new-tags" in told, f"one more: {told}")
    with flight_client.connect(plant, "few") as connection, connection.cursor() as cursor, flight_client.fails("as many tags"):
        cursor.adbc_ingest("samples", flight_client.samples(["quota/flight"], [START_NS], [1.0]), mode="append")
    with channel_of(plant) as channel:
        ingest = messages["IngestStub"](channel)
        tags = [new("TagDefinition", alias=number + 1, name=f"quota/defined{number}", type=1) for number in range(50)]
        answer = ingest.DefineTags(new("DefineTagsRequest", define=new("DefineTags", id=1, tags=tags)), timeout=WAIT_S, metadata=header(plant, "few"))
        equal((answer.defined, len(answer.rejects)), (0, 50), "definitions beyond five")
    # From many at once, too.
    outcomes = []
    threads = [threading.Thread(target=lambda number=number: outcomes.append(write_by_grpc(plant, f"quota/many{number}", "few_more"))) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    equal(sum("accepted 1" in told for told in outcomes), 5, f"of twenty at once: {outcomes[:2]}")
    for name in made:
        check("accepted 1" in write_by_grpc(plant, name, "few"), f"{name} goes on")
    check("accepted 1" in write_by_grpc(plant, "quota/of_another", "gateway"), "another token goes on")


def failed_logins(plant):
    """Ten failures are answered at once; then an address waits for its refusals, and whoever has a token does not."""
    def refused():
        began = time.monotonic()
        try:
            psycopg.connect(**plant.words("reader", password="tgm_00000000_x")).close()
        except psycopg.Error as error:
            check("authentication failed" in str(error), f"a wrong token: {error}")
            return time.monotonic() - began
        raise AssertionError("does not hold: a wrong token is refused")

    # Those of cases before count as well: this many are enough in any case.
    for _ in range(11):
        refused()
    slow = refused()
    check(slow > 2.5, f"the next refusal is heard late: after {slow:.1f} s")
    # Each six seconds one is answered at once: of two that follow each other one waits.
    waited = []
    for _ in range(2):
        asked = time.monotonic()
        status, body = post_http(plant, "/api/v1/sql", b"SELECT 1", None, headers={"Authorization": "Bearer tgm_00000000_x"})
        waited.append(time.monotonic() - asked)
        equal(status, 401, f"by HTTP ({body})")
    check(max(waited) > 2.5, f"refusals by HTTP are heard late, too: after {waited}")
    began = time.monotonic()
    with psycopg.connect(**plant.words("reader")) as connection:
        equal(connection.execute("SELECT 1").fetchone(), (1,), "whoever has a token")
    for door, found in at_each_door(plant, "SELECT 1", "reader").items():
        equal(found, [[1]], f"whoever has a token, by {door}")
    log = [json.loads(line) for line in (plant.data / "audit.jsonl").read_text().splitlines()]
    check([event for event in log if event["action"] == "login" and event["result"] == "refused"], "refused logins are in the audit log")
    plant.tagmill("audit", "verify", "--data", plant.data)
    return f"the twelfth after {slow:.1f} s; with a token, five doors within {time.monotonic() - began:.1f} s"


# ---- certificates ----------------------------------------------------------------------------------------------------


GATEWAY = "urn:tagmill:gateway:g1"
# The server looks at its files every five seconds.
NEW_FILES_S = 20


def certificates(plant):
    """Against a server that asks gateways for certificates. Names stand for tokens; what is revoked, foreign or missing is refused."""
    authority = Authority(plant.scratch / "authority")
    good, revoked, late = [authority.issue(name, GATEWAY) for name in ["good", "revoked", "late"]]
    nameless = authority.issue("nameless", "urn:tagmill:gateway:nobody")
    foreign = Authority(plant.scratch / "foreign").issue("foreign", GATEWAY)
    itself = foreign[0].parent / "itself.pem", foreign[0].parent / "itself.key"
    run(["openssl", "req", "-x509", *NEW, "-keyout", itself[1], "-out", itself[0], "-days", "2", "-subj", "/CN=itself", "-addext", f"subjectAltName=URI:{GATEWAY}"])
    authority.list_revoked(revoked)
    with plant.serve("--tls-client-ca", authority.ca, "--tls-client-crl", authority.crl):
        check("accepted 1" in write_by_grpc(plant, "gw/T", None, certificate=good), "a certificate stands for its token")
        told = write_by_grpc(plant, "else/T", None, certificate=good)
        check("PERMISSION_DENIED" in told and "outside of the scope" in told, f"beyond its scope: {told}")
        told = by_grpc(plant, "SELECT 1", None, certificate=good)
        check("lacks the role reader" in told, f"beyond its role: {told}")
        told = by_grpc(plant, "SELECT 1", None, certificate=nameless)
        check("UNAUTHENTICATED" in told, f"a name that stands for nobody: {told}")
        equal(by_grpc(plant, "SELECT 1", "reader", certificate=nameless), [[1]], "the same with a token")
        for name, pair in [("revoked", revoked), ("of another authority", foreign), ("of itself", itself), ("none", None)]:
            for user in [None, "boss"]:
                told = by_grpc(plant, "SELECT 1", user, certificate=pair)
                check("UNAVAILABLE" in told, f"a certificate {name} ends in the handshake, whatever token comes with it: {told}")
        # What is revoked later is refused from the next connection on.
        check("accepted 1" in write_by_grpc(plant, "gw/T", None, certificate=late), "before it is revoked")
        authority.list_revoked(late)
        deadline = time.monotonic() + WAIT_S
        while "UNAVAILABLE" not in (told := write_by_grpc(plant, "gw/T", None, certificate=late)):
            check(time.monotonic() < deadline, f"a new list is read: {told}")
            time.sleep(0.5)
        check("accepted 1" in write_by_grpc(plant, "gw/T", None, certificate=good), "others go on")
        # A list that cannot be read changes nothing.
        authority.crl.write_text("no list")
        time.sleep(7)
        check("UNAVAILABLE" in write_by_grpc(plant, "gw/T", None, certificate=late), "after a broken list")
        check("accepted 1" in write_by_grpc(plant, "gw/T", None, certificate=good), "others, after a broken list")
        equal(by_postgres(plant, "SELECT count(*) FROM samples WHERE tag = 'plant/u1/T'").rows, [(ROWS,)], "other doors ask for tokens alone")


def new_certificate(plant):
    """Of the server itself: whoever signed it, new connections see it at each door; a bad one is told, and the one in use stays.
    Connections that are there go on."""
    said, bad, other, before = plant.scratch / "said", plant.scratch / "bad.pem", plant.scratch / "other", (plant.ca, plant.cert, plant.key)
    other.mkdir()
    certify(other)
    bad.write_text("no certificate")
    plant.cert, plant.key = plant.scratch / "used.pem", plant.scratch / "used.key"

    def put(cert, key):
        for source, target in [(cert, plant.cert), (key, plant.key)]:
            part = target.with_suffix(".part")
            shutil.copyfile(source, part)
            os.replace(part, target)

    def until(holds, what):
        deadline = time.monotonic() + NEW_FILES_S
        while not holds():
            check(time.monotonic() < deadline, f"{what}, within {NEW_FILES_S} s: {said.read_text()}")
            time.sleep(1)

    def seen_by(ca):
        plant.ca = ca
        return [door for door, found in at_each_door(plant, "SELECT 1", "reader").items() if found == [[1]]]

    put(*before[1:])
    with said.open("w") as file, plant.serve(stderr=file), psycopg.connect(**plant.words(), autocommit=True) as old, channel_of(plant) as channel:
        stub = messages["QueryStub"](channel)

        def old_ones_go_on():
            equal(old.execute("SELECT 1").fetchone(), (1,), "a connection that was there")
            list(stub.Execute(new("ExecuteRequest", sql="SELECT 1"), timeout=WAIT_S, metadata=header(plant, "reader")))

        old_ones_go_on()
        put(other / "server.pem", other / "server.key")
        until(lambda: seen_by(other / "ca.pem") == list(DOORS), "a new certificate is seen at all doors")
        equal(seen_by(before[0]), [], "doors that show the old one")
        old_ones_go_on()
        for cert, why in [(bad, "there is no certificate in it"), (before[1], "the key is not that of")]:
            known = len(said.read_text())
            put(cert, other / "server.key")
            until(lambda: re.search(f"ERROR.* the old certificate stays in use: .*{why}", said.read_text()[known:]), f"a bad one is told: {why}")
            equal(seen_by(other / "ca.pem"), list(DOORS), f"doors that show the one before: {why}")
            old_ones_go_on()
        put(*before[1:])
        until(lambda: seen_by(before[0]) == list(DOORS), "a good one after bad ones is seen at all doors")
        old_ones_go_on()
    plant.ca, plant.cert, plant.key = before


APART_CASES = [certificates, new_certificate]
ACCESS_CASES = [scope_escapes, same_words, timing, others_statements, ended_tokens, readers_who_write, paths, new_tags]
