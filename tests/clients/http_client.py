#!/usr/bin/env python3
"""Clients of HTTP, against the real binary over TLS with tokens: curl for every route, and a library for line protocol.

    python http_client.py PATH_TO_TAGMILL

What this machine lacks (curl, openssl) it says SKIPPED for. It ends only processes it started.
"""

import csv
import gzip
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings

import pyarrow.ipc

from plant import ODD, ROWS, WAIT_S, Plant, check, equal, run

warnings.filterwarnings("ignore")
import influxdb_client  # noqa: E402
from influxdb_client.client.write_api import SYNCHRONOUS  # noqa: E402


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    missing = [name for name in ["openssl", "curl"] if not shutil.which(name)]
    if missing:
        print(f"http_client: SKIPPED, there is no {' and no '.join(missing)}")
        return
    with tempfile.TemporaryDirectory(prefix="tagmill-http-") as scratch:
        plant = Plant(binary, pathlib.Path(scratch))
        cases = [anybody, statements, forms, latest, lines, packed, refusals, scopes, figures, library, strangers]
        for every, cases in [("off", cases), ("1s", [own_figures])]:
            with plant.serve(own_figures=every):
                for case in cases:
                    began = time.monotonic()
                    said = case(plant)
                    print(f"http_client: {case.__name__}: {said or 'ok'} ({time.monotonic() - began:.1f} s)", flush=True)
    print("http_client: everything as it should be")


def curl(plant, path, *arguments, user="reader", data=None):
    """Status, headers and body of what curl gets."""
    head = plant.scratch / "head"
    command = ["curl", "-sS", "--cacert", plant.ca, "-D", head, "-w", "%{http_code}", "-o", plant.scratch / "body"]
    if user:
        command += ["-H", f"Authorization: Bearer {plant.tokens[user]}"]
    if data is not None:
        command += ["--data-binary", "@-"]
    command += [*arguments, f"https://localhost:{plant.http}{path}"]
    body = plant.scratch / "body"
    body.unlink(missing_ok=True)
    done = subprocess.run([str(word) for word in command], input=data, capture_output=True, timeout=120)
    check(done.returncode == 0, f"curl ends well: {done.stderr.decode()}")
    return int(done.stdout), head.read_text().lower(), body.read_bytes() if body.exists() else b""


def sql(plant, text, *arguments, user="reader"):
    status, _, body = curl(plant, "/api/v1/sql", *arguments, user=user, data=text.encode())
    equal(status, 200, f"the status of {text!r} ({body[:200]!r})")
    return body


def rows(plant, text, user="reader"):
    return json.loads(sql(plant, text, user=user))


def anybody(plant):
    for path, wanted in [("/health", b"ok\n"), ("/ready", b"ready\n")]:
        status, _, body = curl(plant, path, user=None)
        equal((status, body), (200, wanted), path)
    status, _, body = curl(plant, "/api/v1/openapi.json", user=None)
    described = json.loads(body)
    equal((status, described["openapi"]), (200, "3.1.0"), "the OpenAPI document")
    routes = {"/api/v1/sql", "/api/v1/latest", "/api/v1/write", "/api/v2/write", "/metrics", "/health", "/ready"}
    equal(set(described["paths"]), routes, "its routes")
    for path in described["paths"]:
        status, _, _ = curl(plant, path, user=None)
        check(status != 404, f"{path} of the document is there")


def statements(plant):
    equal(rows(plant, "SELECT count(*) AS n FROM samples WHERE tag = 'plant/u1/T'"), [{"n": ROWS}], "a count")
    body = {"sql": "SELECT value FROM samples WHERE tag = $1 AND value >= $2 ORDER BY ts LIMIT 2",
            "parameters": ["plant/u1/T", 1001.5], "settings": {"tagmill.tiers": "off"}}
    status, _, answer = curl(plant, "/api/v1/sql", "-H", "Content-Type: application/json", data=json.dumps(body).encode())
    equal((status, json.loads(answer)), (200, [{"value": 1001.5}, {"value": 1001.625}]), "parameters")
    for text, code, says in [
        ("SELECT * FROM nowhere", 400, "no relation"),
        ("DELETE FROM samples", 400, "only reads"),
        ("SELECT 1 / 0", None, "zero"),
        ("SELECT '" + "x" * 70_000 + "'", 413, "at most"),
    ]:
        done = None
        try:
            done = curl(plant, "/api/v1/sql", data=text.encode())
        except AssertionError:
            check(code is None, f"{text[:40]} breaks off")
        if done:
            status, _, answer = done
            equal(status, code or 400, f"the status of {text[:40]}")
            check(says in json.loads(answer)["error"], f"{says!r} in {answer}")
    body = {"sql": "SELECT 1", "nonsense": 1}
    status, _, _ = curl(plant, "/api/v1/sql", "-H", "Content-Type: application/json", data=json.dumps(body).encode())
    equal(status, 400, "an unknown key")


def forms(plant):
    text = "SELECT tag, ts, value FROM samples WHERE tag = 'plant/odd' ORDER BY ts"
    table = list(csv.reader(io.StringIO(sql(plant, text, "-H", "Accept: text/csv").decode())))
    equal((table[0], len(table)), (["tag", "ts", "value"], len(ODD) + 1), "CSV")
    equal(table[1][1], "2026-03-02T00:00:00.123456789Z", "nanoseconds in CSV")
    body = sql(plant, text, "-H", "Accept: application/vnd.apache.arrow.stream")
    arrow = pyarrow.ipc.open_stream(body).read_all()
    equal([value.hex() for value in arrow["value"].to_pylist()], [value.hex() for value in ODD], "floats in Arrow")
    status, _, _ = curl(plant, "/api/v1/sql", "-H", "Accept: image/png", data=b"SELECT 1")
    equal(status, 406, "a form that there is not")
    twins = b"SELECT a.tag, b.tag FROM tags a JOIN tags b ON a.tag = b.tag"
    status, _, body = curl(plant, "/api/v1/sql", data=twins)
    check(status == 400 and b"AS" in body, f"two columns of one name in JSON: {status} {body}")
    equal(sql(plant, twins.decode(), "-H", "Accept: text/csv").splitlines()[0], b"tag,tag", "both of them in CSV")
    for path, data in [("/api/v1/sql", b"SELECT 1"), ("/api/v1/latest", None)]:
        status, _, body = curl(plant, path, "--http1.0", "--no-alpn", data=data)
        equal(status, 505, f"an answer whose end nobody can see ({body})")
    many = "SELECT a.ts, b.value FROM samples a, samples b WHERE a.tag = 'plant/odd' AND b.tag = 'plant/u1/T'"
    equal(len(json.loads(sql(plant, many))), len(ODD) * ROWS, "rows that are streamed")


def latest(plant):
    status, _, body = curl(plant, "/api/v1/latest?tag=plant/u*")
    equal((status, [row["tag"] for row in json.loads(body)]), (200, ["plant/u1/T", "plant/u10/T"]), "latest")


def lines(plant):
    text = (b"boiler,unit=U1 temp=80.5,on=true,count=3i,state=\"run\" 1772323200\n"
            b"boiler,unit=U1 temp=81 1772323201\n\n# a comment\nboiler,unit=U2 temp=-0.0 1772323200\n")
    for path in ["/api/v1/write?precision=s", "/api/v2/write?precision=s&org=o&bucket=b"]:
        status, _, body = curl(plant, path, user="gateway", data=text)
        equal((status, body), (204, b""), path)
    equal(rows(plant, "SELECT tag, count(*) AS n FROM samples WHERE tag LIKE 'boiler/%' GROUP BY tag ORDER BY tag"),
          [{"tag": f"boiler/{name}", "n": count} for name, count in
           [("U1/count", 1), ("U1/on", 1), ("U1/state", 1), ("U1/temp", 2), ("U2/temp", 1)]], "lines, twice and once there")
    text = b"boiler,unit=U1 temp=1 5\nnonsense\nboiler,unit=U1 temp=\"x\" 1772323299000000000\nboiler,unit=.. temp=2 6\n"
    status, _, body = curl(plant, "/api/v1/write", user="gateway", data=text)
    told = json.loads(body)
    equal((status, [line["line"] for line in told["lines"]]), (400, [2, 3, 4]), f"lines refused: {told}")
    equal(rows(plant, "SELECT count(*) AS n FROM samples WHERE tag = 'boiler/U1/temp'"), [{"n": 3}], "the good line")


def packed(plant):
    text = "".join(f"packed v={number} {number}\n" for number in range(10_000)).encode()
    status, _, body = curl(plant, "/api/v2/write?precision=s", "-H", "Content-Encoding: gzip", user="gateway", data=gzip.compress(text))
    equal((status, body), (204, b""), "a packed body")
    equal(rows(plant, "SELECT count(*) AS n, max(value) AS high FROM samples WHERE tag = 'packed/v'"), [{"n": 10_000, "high": 9_999.0}], "its samples")
    bomb = gzip.compress(b"x" * (64 << 20))
    status, _, _ = curl(plant, "/api/v2/write", "-H", "Content-Encoding: gzip", user="gateway", data=bomb)
    equal(status, 413, "a bomb")
    status, _, _ = curl(plant, "/api/v2/write", "-H", "Content-Encoding: gzip", user="gateway", data=b"no gzip")
    equal(status, 400, "what cannot be unpacked")
    status, _, _ = curl(plant, "/api/v2/write", user="gateway", data=b"x" * (9 << 20))
    equal(status, 413, "a body that is too long")


def refusals(plant):
    status, _, _ = curl(plant, "/api/v1/nothing")
    equal(status, 404, "an unknown path")
    status, _, _ = curl(plant, "/api/v1/write?precision=fortnight", user="gateway", data=b"m v=1")
    equal(status, 400, "an unknown precision")
    status, _, body = curl(plant, "/api/v1/write", user="reader", data=b"m v=1")
    equal(status, 403, f"a reader writes ({body})")
    status, _, body = curl(plant, "/api/v1/sql", user="gateway", data=b"SELECT 1")
    equal(status, 403, f"a writer reads ({body})")


def scopes(plant):
    equal(rows(plant, "SELECT DISTINCT tag FROM samples", user="unit1"), [{"tag": "plant/u1/T"}], "what a scope shows")
    status, _, body = curl(plant, "/api/v1/latest", user="unit1")
    equal([row["tag"] for row in json.loads(body)], ["plant/u1/T"], "latest in a scope")
    status, _, _ = curl(plant, "/metrics", user="unit1")
    equal(status, 403, "figures in a scope")


def figures(plant):
    status, head, body = curl(plant, "/metrics")
    equal(status, 200, "the status")
    check("text/plain; version=0.0.4" in head, f"its type: {head}")
    values = dict(line.split(" ") for line in body.decode().splitlines() if not line.startswith("#"))
    check(float(values["tagmill_samples_total"]) > 10_000 and float(values["tagmill_tags"]) > 5, f"figures: {values}")


def own_figures(plant):
    """The figures of /metrics as tags: what is written here counts in them, and so do their own samples."""
    written = 100
    data = b"".join(b"own v=1 %d\n" % number for number in range(written))
    status, _, body = curl(plant, "/api/v1/write", user="gateway", data=data)
    equal((status, body), (204, b""), "lines")
    text = "SELECT extract(epoch FROM ts) AS at, value FROM samples WHERE tag = 'tagmill/samples_total' ORDER BY ts"
    deadline = time.monotonic() + WAIT_S
    while len(found := rows(plant, text)) < 4 or found[-1]["value"] < written:
        check(time.monotonic() < deadline, f"figures are written: {found}")
        time.sleep(0.5)
    names = {row["tag"] for row in rows(plant, "SELECT tag FROM tags WHERE tag LIKE 'tagmill/%'")}
    _, _, body = curl(plant, "/metrics")
    equal({name.replace("/", "_") for name in names}, set(re.findall(r"^tagmill_\w+", body.decode(), re.M)), "names of tags and figures")
    beside = [row["value"] - number * len(names) for number, row in enumerate(found)]
    is_right = beside == sorted(beside) and set(beside) <= {0, written} and beside[-1] == written
    check(is_right, f"counts without the server's own samples: {beside}")
    since, until = found[0]["at"], found[-1]["at"]
    check(abs(time.time() - until) < 10 and until - since > (len(found) - 1) / 2, f"no more than one a second, until now: {found}")
    [tags] = rows(plant, "SELECT value, (SELECT count(*) FROM tags) AS wanted FROM latest WHERE tag = 'tagmill/tags'")
    equal(tags["value"], tags["wanted"], "tagmill/tags")
    for relation in ["tags", "latest", "samples"]:
        equal(rows(plant, f"SELECT tag FROM {relation} WHERE tag LIKE 'tagmill/%'", user="unit1"), [], f"{relation} of a scope elsewhere")
    return f"{len(names)} tags"


def library(plant):
    """InfluxDB's own client, which thinks that this is InfluxDB 2."""
    url = f"https://localhost:{plant.http}"
    with influxdb_client.InfluxDBClient(url=url, token=plant.tokens["gateway"], org="o", ssl_ca_cert=str(plant.ca)) as client:
        with client.write_api(write_options=SYNCHRONOUS) as api:
            for number in range(100):
                point = influxdb_client.Point("pump").tag("unit", "U7").field("flow", number / 8).time(1_772_323_200 + number, "s")
                api.write(bucket="b", record=point, write_precision="s")
    equal(rows(plant, "SELECT count(*) AS n, sum(value) AS all FROM samples WHERE tag = 'pump/U7/flow'".replace("AS all", "AS total")),
          [{"n": 100, "total": 99 * 100 / 2 / 8}], "its points")
    return f"influxdb-client {influxdb_client.__version__}"


def strangers(plant):
    for path in ["/api/v1/sql", "/api/v1/latest", "/api/v1/write", "/api/v2/write", "/metrics"]:
        status, head, body = curl(plant, path, user=None, data=b"SELECT 1")
        check(status in [401, 405] or b"who calls" in body, f"{path} without a token: {status}")
    status, _, body = curl(plant, "/api/v1/sql", "-H", "Authorization: Bearer tgm_00000000_x", user=None, data=b"SELECT 1")
    equal(status, 401, "a wrong token")
    basic = run(["curl", "-sS", "--cacert", plant.ca, "-u", f"any:{plant.tokens['reader']}", "--data-binary", "SELECT 1 AS one",
                 f"https://localhost:{plant.http}/api/v1/sql"])
    equal(json.loads(basic), [{"one": 1}], "a token as a password")
    done = subprocess.run(["curl", "-sS", f"http://localhost:{plant.http}/health"], capture_output=True, timeout=60)
    check(done.returncode != 0, "nobody is served in clear")


if __name__ == "__main__":
    main()
