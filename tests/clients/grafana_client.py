#!/usr/bin/env python3
"""The dashboards of docs/grafana, against the real binary over TLS with a reader's token.

    python grafana_client.py PATH_TO_TAGMILL

Grafana is not there: every statement its PostgreSQL data source would send is made as it makes it (grafana.py) and sent
by psycopg in the simple protocol, as Grafana sends it. What this machine lacks (openssl) it says SKIPPED for. It ends only
processes it started.
"""

import csv
import datetime
import json
import pathlib
import re
import shutil
import sys
import tempfile
import time

import psycopg

from grafana import Asked, expand, with_variables
from plant import START, WAIT_S, Plant, check, equal

GRAFANA = pathlib.Path(__file__).resolve().parents[2] / "docs" / "grafana"
NAMES = ["overview", "tags", "ingest", "server"]
# Of PostgreSQL's types: what Grafana draws as a number, as a time, as a name.
NUMBERS, TIMES, WORDS = {20, 21, 23, 700, 701, 1700}, {1114, 1184, 701}, {25, 1043}
# Panels that have nothing to show in a plant that is well.
MAY_BE_EMPTY = {"server: Damage"}
# Functions that SQL would not have without Tagmill, of those that a dashboard may use.
OURS = {"time_bucket", "time_avg", "percent_good", "largest_gap", "transitions", "duration_in_state", "increase", "rate",
        "integral", "label", "severity", "quality_name", "value_at", "windows", "m4", "lttb", "history", "grid",
        "asof_join", "locf", "interpolate"}
# Statements that run at once and wait at once, whatever door they came through (docs/postgres.md).
PLACES = 4 + 16

# A triangle of 400 s between 50 and 100: a fifth of the time above 90.
MINUTES_50 = datetime.timedelta(minutes=50)
STEP_S = 10
ASKED = Asked(START, START + MINUTES_50)


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    if not shutil.which("openssl"):
        print("grafana_client: SKIPPED, there is no openssl to make a certificate with")
        return
    with tempfile.TemporaryDirectory(prefix="tagmill-grafana-") as scratch:
        plant = Plant(binary, pathlib.Path(scratch))
        fill(plant)
        cases = [macros, forms, provisioning, statements, other_ranges, answers, scopes, own_figures, catalog, breaks]
        for every, cases in [("off", cases), ("1s", [figures_of_a_server])]:
            with plant.serve(own_figures=every):
                for case in cases:
                    began = time.monotonic()
                    said = case(plant)
                    print(f"grafana_client: {case.__name__}: {said or 'ok'} ({time.monotonic() - began:.1f} s)", flush=True)
    print("grafana_client: everything as it should be")


def triangle(number):
    step = number % 40
    return 50 + 2.5 * min(step, 40 - step)


def fill(plant):
    """A kiln and a pump: a curve, a tag with a gap and all severities, a state, one never written; two of a server's own tags."""
    rows = []
    for number in range(300):
        at = (START + datetime.timedelta(seconds=STEP_S * number)).isoformat()
        rows.append(["mill/kiln/TI-1.PV", at, triangle(number), "Good"])
        if not 100 <= number < 130:
            quality = "Bad" if number < 30 else "Uncertain" if number < 60 else "Good"
            rows.append(["mill/kiln/FI-2.PV", at, 120 if number == 299 else number % 7, quality])
        rows.append(["mill/pump/P-1.STATE", at, 2 if number // 60 % 2 else 0, "Good"])
        rows.append(["tagmill/samples_total", at, number * 100, "Good"])
        rows.append(["tagmill/resident_bytes", at, 2**30, "Good"])
    # It was never Good.
    rows.append(["mill/kiln/O'Brien_5%", START.isoformat(), 1, "Bad"])
    path = plant.scratch / "mill.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["tag", "ts", "value", "quality"], *rows])
    attributes = {
        "mill/kiln/TI-1.PV": {"type": "f64", "unit": "°C", "description": "kiln", "range_low": 0, "range_high": 200,
                              "labels": {"area": "kiln", "kind": "temperature"}},
        "mill/kiln/FI-2.PV": {"type": "f64", "unit": "m³/h", "range_low": 0, "range_high": 100, "max_gap": "1m",
                              "labels": {"area": "kiln"}},
        "mill/pump/P-1.STATE": {"type": "state", "states": {"0": "STOP", "2": "RUN"}, "labels": {"area": "pump"}},
        "mill/kiln/O'Brien_5%": {"type": "f64"},
        "mill/never": {"type": "f64"},
        "tagmill/samples_total": {"type": "f64"},
        "tagmill/resident_bytes": {"type": "f64"},
    }
    known = plant.scratch / "mill.json"
    known.write_text(json.dumps({"tags": attributes}))
    plant.tagmill("tags", "import", known, "--data", plant.data)
    plant.tagmill("import", path, "--map", "tag=tag,time=ts,value=value,quality=quality", "--data", plant.data)


def dashboards():
    """Names and contents."""
    found = sorted(path.stem for path in (GRAFANA / "dashboards").glob("*.json"))
    equal(found, sorted(NAMES), "the dashboards")
    return {name: json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text()) for name in NAMES}


def targets(name, dashboard):
    """Every statement of a dashboard, with what an error calls it."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield f"{name}: {panel['title']}", panel, target


def macros(_plant):
    """What becomes of macros and variables, letter by letter."""
    asked = Asked(START, START + datetime.timedelta(minutes=5, milliseconds=250), 90)
    for text, wanted in [
        ("$__timeFilter(ts)", "ts BETWEEN '2026-03-01T00:00:00Z' AND '2026-03-01T00:05:00.25Z'"),
        ("SELECT $__timeGroup(ts, '5m'), x", "SELECT time_bucket('300.000s',ts) AS \"time\", x"),
        ("GROUP BY $__timeGroup(ts , 30d)", "GROUP BY time_bucket('2592000.000s',ts)"),
        ("'$__interval' $__interval_ms", "'1m' 90000"),
        ("tag IN ($tag) AND f = '$box' AND g = '${box}' AND $__timeFrom() < ${box:raw}",
         "tag IN ('a''b','c') AND f = 'd''e' AND g = 'd''e' AND '2026-03-01T00:00:00Z' < d'e"),
    ]:
        variables = [{"name": "tag", "multi": True}, {"name": "box"}]
        equal(expand(text, asked, variables, {"tag": ["a'b", "c"], "box": "d'e"}), wanted, text)
    asked.timescaledb = False
    for width, number in [("5m", "300"), ("500ms", "0.5"), ("30d", "2592000")]:
        equal(expand(f"$__timeGroup(ts,{width})", asked), f"floor(extract(epoch from ts)/{number})*{number}", width)


def forms(_plant):
    """What Grafana needs of the JSON, and what a reader of a dashboard needs of it."""
    all_of_them = dashboards()
    uids = [dashboard["uid"] for dashboard in all_of_them.values()]
    equal(len(set(uids)), len(NAMES), "different uids")
    equal(len({dashboard["title"] for dashboard in all_of_them.values()}), len(NAMES), "different titles")
    for name, dashboard in all_of_them.items():
        check(dashboard["schemaVersion"] >= 39 and dashboard["id"] is None, f"{name}: a version that Grafana 11 reads, and no id")
        check(dashboard["description"] and dashboard["panels"], f"{name}: says what it is, and has panels")
        numbers = [panel["id"] for panel in dashboard["panels"]]
        equal(len(set(numbers)), len(numbers), f"{name}: different ids")
        check(sum(1 for _ in targets(name, dashboard)) <= PLACES, f"{name}: no more statements than there are places")
        taken = set()
        for panel in dashboard["panels"]:
            title, place = f"{name}: {panel['title']}", panel["gridPos"]
            right, below = place["x"] + place["w"], place["y"] + place["h"]
            cells = {(x, y) for x in range(place["x"], right) for y in range(place["y"], below)}
            check(cells and place["x"] >= 0 and right <= 24, f"{title}: within 24 columns")
            check(not cells & taken, f"{title}: on no other panel")
            taken |= cells
            defaults = panel["fieldConfig"]["defaults"]
            check(panel["description"] and defaults["unit"], f"{title}: has a description and a unit")
            equal(defaults["thresholds"]["steps"][0]["value"], None, f"{title}: where its thresholds begin")
            references = [target["refId"] for target in panel["targets"]]
            equal(len(set(references)), len(references), f"{title}: different refIds")
            for one in [panel, *panel["targets"]]:
                equal(one["datasource"]["uid"], "tagmill", f"{title}: its data source")
            for target in panel["targets"]:
                check(target["rawQuery"] and target["editorMode"] == "code", f"{title}: SQL as text")
                wanted = "time_series" if panel["type"] == "timeseries" else "table"
                equal(target["format"], wanted, f"{title}: the format of a {panel['type']}")
        for variable in dashboard["templating"]["list"]:
            what = f"{name}: variable {variable['name']}"
            check(variable["type"] in ["query", "textbox"] and variable["label"], f"{what}: is of a kind that is tried here")
            if variable["type"] == "query":
                equal((variable["datasource"]["uid"], variable["definition"]), ("tagmill", variable["query"]), what)
    return f"{len(uids)} dashboards"


def provisioning(_plant):
    source = (GRAFANA / "provisioning" / "datasources" / "tagmill.yaml").read_text()
    lines = [line.split(" #")[0].strip() for line in source.splitlines()]
    for wanted in ["apiVersion: 1", "uid: tagmill", "timescaledb: true", "sslmode: verify-full", "password: ${TAGMILL_TOKEN}"]:
        check(wanted in lines or f"- {wanted}" in lines, f"the data source says {wanted!r}")
    open_most = int(re.search(r"maxOpenConns: (\d+)", source)[1])
    check(0 < open_most <= PLACES, f"connections that the server has places for: {open_most}")
    check("tgm_" not in source, "no token stands in the file")
    folder = (GRAFANA / "provisioning" / "dashboards" / "tagmill.yaml").read_text()
    check("type: file" in folder and "path: /var/lib/grafana/dashboards/tagmill" in folder, "where the dashboards lie")


class Session:
    """A connection as Grafana holds one, and the values that its user has chosen."""

    def __init__(self, plant, user="reader"):
        self.connection = psycopg.connect(**plant.words(user), autocommit=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def ask(self, sql, what):
        """Columns as (name, type), and rows."""
        cursor = psycopg.ClientCursor(self.connection)
        try:
            cursor.execute(sql)
        except psycopg.Error as error:
            raise AssertionError(f"{what}: {error}\n{sql}") from error
        return [(column.name, column.type_code) for column in cursor.description], cursor.fetchall()

    def choose(self, name, dashboard, asked, every=True):
        """Values of all variables: those that a user could choose, all of them or the first; what a box holds."""
        variables, values = dashboard["templating"]["list"], {}
        for variable in variables:
            if variable["type"] == "textbox":
                values[variable["name"]] = variable["query"]
                continue
            what = f"{name}: variable {variable['name']}"
            columns, rows = self.ask(expand(variable["query"], asked, variables, values), what)
            equal(len(columns), 1, f"{what}: columns")
            found = [row[0] for row in rows]
            check(found and all(isinstance(value, str) for value in found), f"{what}: texts in {found}")
            equal(len(set(found)), len(found), f"{what}: values once each")
            current = variable["current"].get("value")
            if variable["multi"]:
                values[variable["name"]] = found if every else found[:1]
            else:
                check(current in found, f"{what}: begins with {current!r}, which is among {found}")
                values[variable["name"]] = current
        return values

    def draw(self, name, dashboard, asked, values):
        """Sends every statement and checks what comes. Gives how many rows each panel has."""
        rows_of = {}
        for what, panel, target in targets(name, dashboard):
            chosen = [values]
            if panel.get("repeat"):
                chosen = [{**values, panel["repeat"]: [value]} for value in values[panel["repeat"]]]
            for one in chosen:
                columns, rows = self.ask(expand(target["rawSql"], asked, dashboard["templating"]["list"], one), what)
                names = [column for column, _ in columns]
                equal(len(set(names)), len(names), f"{what}: different columns")
                if target["format"] == "time_series":
                    check_series(what, columns, rows)
                elif panel["type"] in ["stat", "bargauge"]:
                    check(panel["type"] == "bargauge" or len(rows) == 1, f"{what}: one row")
                    is_number = any(kind in NUMBERS for _, kind in columns)
                    check(is_number or panel["fieldConfig"]["defaults"]["unit"] == "none", f"{what}: a number in {columns}")
                if target["refId"] == "A":
                    rows_of[what] = rows_of.get(what, 0) + len(rows)
        return rows_of


def check_series(what, columns, rows):
    """A time column called `time`, ascending; names; at least one number."""
    kinds = dict(columns)
    check(kinds.get("time") in TIMES, f"{what}: a time column in {columns}")
    others = {name: kind for name, kind in columns if name != "time"}
    check(all(kind in NUMBERS | WORDS for kind in others.values()), f"{what}: numbers and names in {columns}")
    check(any(kind in NUMBERS for kind in others.values()), f"{what}: a number in {columns}")
    at = [name for name, _ in columns].index("time")
    times = [row[at] for row in rows]
    check(None not in times and times == sorted(times), f"{what}: times ascend")
    # Two rows of one time and name would be two values of one point.
    keys = [tuple(value for (name, kind), value in zip(columns, row) if name == "time" or kind in WORDS) for row in rows]
    equal(len(set(keys)), len(keys), f"{what}: one row for a time and a name")


def statements(plant):
    """Every statement of every dashboard, all tags chosen, TimescaleDB switched on and off."""
    count = 0
    with Session(plant) as session:
        for name, dashboard in dashboards().items():
            for timescaledb in [True, False]:
                asked = Asked(ASKED.since, ASKED.until, timescaledb=timescaledb)
                values = session.choose(name, dashboard, asked)
                if "tag" in values:
                    # A text column among numbers is no tag of a curve; a quote in a name is.
                    check("mill/kiln/O'Brien_5%" in values["tag"], f"{name}: tags to choose from: {values['tag']}")
                rows_of = session.draw(name, dashboard, asked, values)
                empty = {what for what, rows in rows_of.items() if not rows}
                check(empty <= MAY_BE_EMPTY, f"{name}: panels without rows are among {MAY_BE_EMPTY}; found {empty}")
                count += len(rows_of)
    return f"{count} panels with rows"


def other_ranges(plant):
    """From seconds to years, one tag chosen: the first look at a dashboard."""
    with Session(plant) as session:
        for name, dashboard in dashboards().items():
            for length, interval_s in [(datetime.timedelta(seconds=30), 0.5), (datetime.timedelta(days=7), 600),
                                       (datetime.timedelta(days=90), 7_200), (datetime.timedelta(days=1_500), 86_400 * 7)]:
                asked = Asked(START + MINUTES_50 - length, START + MINUTES_50, interval_s)
                session.draw(name, dashboard, asked, session.choose(name, dashboard, asked, every=False))
            # Before there was anything.
            asked = Asked(START - datetime.timedelta(days=9), START - datetime.timedelta(days=8), 300)
            session.draw(name, dashboard, asked, session.choose(name, dashboard, asked, every=False))


def rows_by(plant, name, title, values, asked=ASKED, ref="A"):
    """Rows of one panel, as dicts."""
    dashboard = dashboards()[name]
    with Session(plant) as session:
        values = {**session.choose(name, dashboard, asked), **values}
        for what, panel, target in targets(name, dashboard):
            if panel["title"] == title and target["refId"] == ref:
                columns, rows = session.ask(expand(target["rawSql"], asked, dashboard["templating"]["list"], values), what)
                return [dict(zip([column for column, _ in columns], row)) for row in rows]
    raise AssertionError(f"no panel {title!r} in {name}")


def answers(plant):
    """Figures that can be told from how the samples were made."""
    curve = {"tag": ["mill/kiln/TI-1.PV"]}
    hours = rows_by(plant, "overview", "Hours with the condition", curve)
    # Seven whole triangles of 80 s above 90, and 40 s of the half one at the end.
    equal([(row["tag"], round(row["hours"] * 3600, 3)) for row in hours], [("mill/kiln/TI-1.PV", 600.0)], "seconds above 90")
    equal(len(rows_by(plant, "overview", "When the condition held", curve)), 8, "windows above 90")
    equal(rows_by(plant, "overview", "Tags", {"area": ["mill"]}), [{"tags": 5}], "tags of an area")
    outside = rows_by(plant, "overview", "Outside of range now", {"area": ["mill"]})
    equal([row["tag"] for row in outside], ["mill/kiln/FI-2.PV"], "tags outside of their range")
    bad = rows_by(plant, "overview", "Most Bad samples", {"area": ["mill"]})
    equal([(row["tag"], row["bad"]) for row in bad], [("mill/kiln/O'Brien_5%", 1), ("mill/kiln/FI-2.PV", 30)], "Bad samples")
    states = rows_by(plant, "overview", "Hours in each state", {"state": ["mill/pump/P-1.STATE"]})
    states = [(row["state"], round(row["hours"] * 3600), row["times"]) for row in states]
    equal(states, [("STOP", 1_800, 3), ("RUN", 1_200, 2)], "seconds in each state")
    # Any 600 s of whole half triangles have their middle as the mean; the last value is held for the last 10 s,
    # and into the interval that begins with the end, since Grafana's ranges hold their end.
    means = rows_by(plant, "tags", "Average over time", curve, Asked(START, START + MINUTES_50, 600))
    equal([round(row["value"], 9) for row in means], [75.0] * 4 + [round(75 - 12.5 / 600, 9), 97.5], "means over time")
    whole = rows_by(plant, "tags", "In the range", curve, Asked(START, START + datetime.timedelta(seconds=2_800)))[0]
    equal((whole["samples"], round(whole["mean_over_time"], 6), whole["least"], whole["greatest"], round(whole["known"], 6)),
          (281, 75.0, 50.0, 100.0, 100.0), "seven triangles")
    gaps = rows_by(plant, "tags", "Gaps", {"tag": ["mill/kiln/FI-2.PV"]})
    equal([(row["from"], row["lasted"]) for row in gaps], [(START + datetime.timedelta(seconds=990), 310.0)], "the gap")
    marked = rows_by(plant, "tags", "Trend", {"tag": ["mill/kiln/FI-2.PV"]}, ref="B")
    counts = [sum(row["metric"].endswith(end) for row in marked) for end in ["Bad", "Uncertain", "Good"]]
    equal(counts, [30, 30, 0], "points that are not Good")
    drawn = rows_by(plant, "tags", "Trend", curve)
    equal([row["value"] for row in drawn], [triangle(number) for number in range(300)], "a trend of few samples")
    [rate] = rows_by(plant, "ingest", "Rate", {})
    samples = 2 * 3_000 + 4 * 300 + 270 + 1
    check(abs(rate["rate"] - samples / 3_000) < 1e-9, f"samples a second: {rate}")
    minutes = rows_by(plant, "ingest", "Samples a second", {})
    equal((len(minutes), round(sum(row["samples"] for row in minutes) * 60, 6)), (50, samples), "samples of all minutes")
    equal(rows_by(plant, "ingest", "Tags without samples", {}), [{"empty": 1}], "tags without samples")
    equal(rows_by(plant, "server", "Damaged places", {}), [{"damaged": 0}], "damage")
    # Tags by label, with TimescaleDB's interval and a label that only one has.
    dashboard = dashboards()["tags"]
    variables = dashboard["templating"]["list"]
    [tag] = [variable for variable in variables if variable["name"] == "tag"]
    with Session(plant) as session:
        values = session.choose("tags", dashboard, ASKED)
        for label, wanted in [("kind=temperature", ["mill/kiln/TI-1.PV"]),
                              ("area=kiln", ["mill/kiln/FI-2.PV", "mill/kiln/TI-1.PV"])]:
            _, rows = session.ask(with_variables(tag["query"], variables, {**values, "label": label}), "tags by label")
            equal([row[0] for row in rows], wanted, f"tags with the label {label}")
        _, rows = session.ask(with_variables(tag["query"], variables, {**values, "folder": ["mill/pump/"]}), "tags by folder")
        equal([row[0] for row in rows], ["mill/pump/P-1.STATE"], "tags of a folder")


def scopes(plant):
    """A token with a scope draws the plant within it; the two dashboards of the whole database say that it may not."""
    with Session(plant, "unit1") as session:
        for name in ["overview", "tags"]:
            dashboard = dashboards()[name]
            values = session.choose(name, dashboard, ASKED)
            equal(values["tag"], ["plant/u1/T"], f"{name}: tags in the scope")
            session.draw(name, dashboard, ASKED, values)
        for name in ["ingest", "server"]:
            dashboard = dashboards()[name]
            try:
                session.draw(name, dashboard, ASKED, session.choose(name, dashboard, ASKED))
            except AssertionError as error:
                check("no relation" in str(error), f"{name}: why it is not drawn: {error}")
            else:
                raise AssertionError(f"{name} shows the whole database to a token with a scope")


def own_figures(plant):
    """The server's own tags: those that are there, and one name that stands for none."""
    for user, wanted in [("reader", ["tagmill/samples_total"]), ("unit1", ["none yet"])]:
        with Session(plant, user) as session:
            equal(session.choose("ingest", dashboards()["ingest"], ASKED)["own"], wanted, f"own tags of {user}")


def figures_of_a_server(plant):
    """What a server itself writes below tagmill/: one dashboard chooses and draws each, and no word of a choice stands for nothing."""
    recent = "SELECT DISTINCT tag FROM samples WHERE tag LIKE 'tagmill/%' AND ts > now() - INTERVAL '5 minutes' ORDER BY tag"
    deadline, chosen = time.monotonic() + WAIT_S, []
    with Session(plant) as session:
        while not (written := [tag for (tag,) in session.ask(recent, "figures")[1]]):
            check(time.monotonic() < deadline, "figures are written")
            time.sleep(0.2)
        now = datetime.datetime.now(datetime.timezone.utc)
        asked = Asked(now - datetime.timedelta(minutes=5), now + datetime.timedelta(minutes=1), 1)
        for name in ["ingest", "server"]:
            dashboard = dashboards()[name]
            values = session.choose(name, dashboard, asked)
            check(session.draw(name, dashboard, asked, values)[f"{name}: $own"] >= len(values["own"]), f"{name}: rows of {values['own']}")
            chosen += values["own"]
            [own] = [variable["query"] for variable in dashboard["templating"]["list"] if variable["name"] == "own"]
            for word in re.search(r"tag ~ '\((.+)\)'", own)[1].split("|"):
                check(any(word in tag for tag in written), f"{name}: {word!r} is in a name of {written}")
    equal(sorted(chosen), written, "tags in the dashboards, of those that a server writes,")
    return f"{len(chosen)} tags"


def catalog(plant):
    """The table of the README names what is there, and all that the dashboards read."""
    text = (GRAFANA / "README.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| \[\w+\]\(dashboards/", line)]
    equal(len(rows), len(NAMES), "dashboards in the table of the README")
    with Session(plant) as session:
        _, found = session.ask("SELECT table_schema, table_name, column_name FROM information_schema.columns "
                               "WHERE table_schema IN ('public', 'system')", "columns")
        columns = {}
        for schema, relation, column in found:
            columns.setdefault(relation if schema == "public" else f"{schema}.{relation}", set()).add(column)
        _, found = session.ask("SELECT DISTINCT routine_name FROM information_schema.routines", "functions")
        functions = {name for (name,) in found}
        check(not is_table_function(session, "m5"), "what is no table function is told")
        for row in rows:
            name = re.search(r"dashboards/(\w+)\.json", row)[1]
            _, _, relations, called = row.strip("|").split("|")
            named = set()
            for relation, of_it in re.findall(r"`([\w.]+)` \(([^)]*)\)", relations):
                named.add(relation)
                missing = set(re.findall(r"\w+", of_it)) - columns.get(relation, set())
                check(relation in columns and not missing, f"{name}: {relation} is in the catalog, with {missing}")
            calls = set(re.findall(r"`(\w+)`", called))
            for function in calls:
                is_there = function in functions or is_table_function(session, function)
                check(is_there, f"{name}: the function {function} is in the catalog")
            read, used = what_it_uses(name)
            equal(named, read & set(columns), f"{name}: relations in the README")
            equal(calls, used & OURS, f"{name}: functions in the README")


def what_it_uses(name):
    """Words that stand where a relation and where a function stands, in all SQL of a dashboard."""
    dashboard = dashboards()[name]
    texts = [target["rawSql"] for _, _, target in targets(name, dashboard)]
    text = " ".join(texts + [variable["query"] for variable in dashboard["templating"]["list"]])
    text = text.replace("$__timeGroupAlias(", "time_bucket(")
    return set(re.findall(r"(?:FROM|JOIN) ([a-z_0-9.]+)\b(?!\()", text)), set(re.findall(r"(\w+)\(", text))


def is_table_function(session, name):
    """Those that stand in FROM are in no catalog: one that is there asks for its arguments."""
    try:
        session.ask(f"SELECT * FROM {name}()", name)
    except AssertionError as error:
        return "write " + name in str(error)
    return False


def breaks(plant):
    """What these checks are worth: a misspelt column, an unsorted and a nameless time are found."""
    dashboard = dashboards()["tags"]
    for old, new, says in [
        ("value\nFROM m4", "valeu\nFROM m4", "valeu"),
        ("ORDER BY ts", "ORDER BY ts DESC", "ascend"),
        ('AS "time"', 'AS "at"', "a time column"),
        ("$tag", "$tags", "no variable"),
        ("$__timeTo()", "$__timeUntil()", "no macro"),
        ("tag AS metric, value", "tag AS metric, CAST(value AS TEXT) AS value", "a number"),
    ]:
        with Session(plant) as session:
            values = session.choose("tags", dashboard, ASKED)
            broken = json.loads(json.dumps(dashboard))
            target = broken["panels"][0]["targets"][0]
            check(old in target["rawSql"], f"there is {old!r} to break")
            target["rawSql"] = target["rawSql"].replace(old, new)
            try:
                session.draw("tags", broken, ASKED, values)
            except AssertionError as error:
                check(says in str(error), f"{new!r} is found: {error}")
            else:
                raise AssertionError(f"{new!r} was not found")


if __name__ == "__main__":
    main()
