#!/usr/bin/env python3
"""Windowed queries of one plant: Tagmill beside ClickHouse, DuckDB, DataFusion over Parquet and VictoriaMetrics.

    python queries.py TAGMILL                             the 500-tag plant, a day at 1 Hz, and ten tags of a year
    python queries.py TAGMILL --tags 50 --hours 2         less of it, to try
    python queries.py TAGMILL FILE --only duckdb          a file of one's own, and one rival

TAGMILL is the program. It imports the file and exports it again; the export is what it is measured with, and its
samples are what the rivals get: numbered tags, doubles, rows sorted by (tag, time), as Parquet. The plant is written by
`cargo bench -p tagmill-engine-benches --bench plant`; a file of one's own is CSV or Parquet of columns tag, ts, value
and perhaps quality. What each engine gets is in `settings` of its class in engines.py, and printed.

A question is asked of all engines, once for the answer, which must equal Tagmill's before a time is printed (counts,
extremes and times exactly, averages to 1e-9, VictoriaMetrics to 1e-6), then in rounds for the time, with planning and
warm, until all of the answer is in the asker's hands. The median of all rounds counts.

Late data is Tagmill's alone: databases that were without some samples until they had all others, and got these through
the server: every other minute of 1 % of the tags (`tags`, the one asked about among them), or 1 % of all samples, any
(`samples`).

Needs `pip install -r requirements.txt`; VictoriaMetrics is Debian's `victoria-metrics`. Who is missing is left out with
a word. Servers run on loopback and are ended here.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import pyarrow
import pyarrow.parquet as parquet

import engines
import sizes
from engines import say

MINUTE_NS, HOUR_NS = 60 * 10**9, 3600 * 10**9
# The year begins so many days before 2026, its end.
YEAR_DAYS = 365
YEAR_END_MS = 1_767_225_600_000
LATE = {"tags": "every other minute of 1 % of the tags late", "samples": "1 % of all samples late"}
# Column of the average in an answer about windows; before it are tag and time.
AVERAGE_AT = 2


def main():
    arguments = read_arguments()
    rivals = [rival for rival in RIVALS if not arguments.only or rival.name in arguments.only]
    for rival in rivals:
        if rival.missing():
            say(f"SKIPPED {rival.name}: {rival.missing()}")
    rivals = [rival for rival in rivals if not rival.missing()]
    results = []
    with tempfile.TemporaryDirectory(prefix="tagmill-queries-", dir=arguments.scratch) as scratch:
        scratch = pathlib.Path(scratch)
        plant = arguments.file or write_plant(scratch / "plant.csv", arguments)
        results.append(measure("plant", plant, questions_of_plant, arguments.late, rivals, arguments, scratch))
        if arguments.year_tags:
            year = write_year(scratch / "year.parquet", arguments.year_tags)
            results.append(measure("year", year, questions_of_year, [], rivals, arguments, scratch))
    for result in results:
        print_loads(result)
        print_times(result)
        print_own_times(result)
    print(NOTES)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


RIVALS = [engines.ClickHouse, engines.DuckDb, engines.DataFusion, engines.VictoriaMetrics]
NOTES = """
Medians in ms, in brackets the rival's time over Tagmill's. Load: Tagmill durably from Parquet with names of tags, the
others from Parquet with numbers, VictoriaMetrics from JSON made before. Bytes are of all files but `ballast`."""


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tagmill", type=lambda text: pathlib.Path(text).resolve(), help="the program")
    parser.add_argument("file", nargs="?", type=pathlib.Path, help="samples, Parquet or CSV; by default the plant")
    parser.add_argument("--map", help="its columns, as tagmill import has it")
    parser.add_argument("--tags", type=int, default=500, help="tags of the plant")
    parser.add_argument("--hours", type=int, default=24, help="hours of the plant")
    parser.add_argument("--year-tags", type=int, default=10, help="tags with a year of minutes; 0 leaves it out")
    parser.add_argument("--late", type=words, default=list(LATE), help="tags, samples, both with a comma, or none")
    parser.add_argument("--rounds", type=int, default=7, help="how often each question is timed")
    parser.add_argument("--only", type=words, help="rivals by name, with commas between; none for Tagmill alone")
    parser.add_argument("--scratch", help="where databases are built; by default the system's temporary folder")
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args()
    for given, known in [(arguments.late, LATE), (arguments.only or [], [rival.name for rival in RIVALS])]:
        for word in given:
            if word not in known and word != "none":
                parser.error(f"{word} is none of {', '.join(known)}, none")
    arguments.late = [word for word in arguments.late if word != "none"]
    return arguments


def words(text):
    return text.split(",")


# ---- samples --------------------------------------------------------------------------------------------------------


def write_plant(path, arguments):
    size = ["--tags", str(arguments.tags), "--hours", str(arguments.hours), "--csv", path]
    bench = ["cargo", "bench", "-p", "tagmill-engine-benches", "--bench", "plant", "--locked", "--", *size]
    subprocess.run(bench, check=True, cwd=engines.ROOT, stdout=sys.stderr)
    return path


def write_year(path, tags):
    """A year of a sample a minute for each tag: a walk in steps of two decimals, by seed."""
    walk = numpy.random.default_rng(20_260_101)
    minutes = numpy.arange(YEAR_DAYS * 24 * 60) * 60_000 + YEAR_END_MS - YEAR_DAYS * 86_400_000
    steps = walk.integers(-9, 10, (tags, len(minutes)))
    names = pyarrow.array([f"year/{at:03}" for at in range(tags)])
    rows = pyarrow.table({
        "tag": names.take(pyarrow.array(numpy.repeat(numpy.arange(tags), len(minutes)))),
        "ts": pyarrow.array(numpy.tile(minutes, tags)).cast(pyarrow.timestamp("ms", "UTC")),
        "value": (steps.cumsum(axis=1) / 100).ravel(),
    })
    parquet.write_table(rows, path)
    return path


class Samples:
    """What every engine holds: numbers of tags, times in milliseconds, values as doubles; sorted by (tag, time)."""

    def __init__(self, export, staged):
        tables, self.tags = sizes.read_export(export)
        if "text" in tables:
            raise ValueError("texts have no averages: leave tags of texts out of the file")
        tables = list(tables.values())

        def column(name):
            return numpy.concatenate([table[name] for table in tables])

        self.ids, times = column("id"), column("ts")
        order = numpy.lexsort((times, self.ids))
        self.ids, times, qualities = self.ids[order], times[order], column("quality")[order]
        self.values = numpy.concatenate([table["value"].astype(numpy.float64) for table in tables])[order]
        # What SQL shows: nothing for a Bad sample or a value that is not finite.
        self.is_shown = (qualities >> 31 == 0) & numpy.isfinite(self.values)
        if (times % 10**6).any():
            raise ValueError("VictoriaMetrics has milliseconds only; the samples have finer times")
        self.times_ms = times // 10**6
        self.start_ns = int(times.min()) // HOUR_NS * HOUR_NS
        self.end_ns = (int(times.max()) // HOUR_NS + 1) * HOUR_NS
        # The file the rivals load.
        self.staged = staged
        parquet.write_table(pyarrow.table({
            "id": self.ids,
            "ts": pyarrow.array(self.times_ms).cast(pyarrow.timestamp("ms", "UTC")),
            "quality": qualities,
            "value": pyarrow.array(self.values, mask=~self.is_shown),
        }), staged, compression="none")

    def count(self):
        return len(self.ids)

    def shown(self):
        """Times and values of each tag that are shown."""
        ends = numpy.searchsorted(self.ids, numpy.arange(len(self.tags) + 1))
        for tag in range(len(self.tags)):
            rows = slice(ends[tag], ends[tag + 1])
            shown = self.is_shown[rows]
            yield tag, self.times_ms[rows][shown].tolist(), self.values[rows][shown].tolist()


def split_late(export, which, tags, folder):
    """Two exports of one: what came in time, and what is late."""
    chance = numpy.random.default_rng(20_260_101)
    # One in a hundred, and the one in the middle is among them.
    chosen = pyarrow.array(tags[len(tags) // 2 % 100 :: 100])
    parts = {"early": folder / f"{which}-early", "late": folder / f"{which}-late"}
    for part in parts.values():
        part.mkdir()
        shutil.copy(export / "_tags.json", part)
    for file in sorted(export.glob("*.parquet")):
        whole = parquet.ParquetFile(file)
        with contextlib.ExitStack() as stack:
            writers = {name: stack.enter_context(parquet.ParquetWriter(part / file.name, whole.schema_arrow))
                       for name, part in parts.items()}
            for group in range(whole.num_row_groups):
                rows = whole.read_row_group(group)
                if which == "tags":
                    is_late = pyarrow.compute.is_in(rows["tag"], chosen).to_numpy()
                    is_late &= rows["ts"].cast(pyarrow.int64()).to_numpy() // MINUTE_NS % 2 == 1
                else:
                    is_late = chance.random(len(rows)) < 0.01
                writers["early"].write_table(rows.filter(pyarrow.array(~is_late)))
                writers["late"].write_table(rows.filter(pyarrow.array(is_late)))
    return parts["early"], parts["late"]


# ---- questions ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Question:
    """Aggregates of every window of `by_ns`, samples (`raw`) or newest samples (`last`), of one tag or of all."""

    name: str
    kind: str
    start_ns: int
    end_ns: int
    by_ns: int | None = None
    tag: int | None = None


def questions_of_plant(samples):
    start, end = samples.start_ns, samples.end_ns
    one = len(samples.tags) // 2
    noon = start + (end - start) // 2 // HOUR_NS * HOUR_NS
    return [
        Question("all tags, all of it by 1 min", "windows", start, end, MINUTE_NS),
        Question("all tags, all of it by 1 h", "windows", start, end, HOUR_NS),
        Question("all tags, the last hour by 1 min", "windows", end - HOUR_NS, end, MINUTE_NS),
        Question("one tag, all of it by 1 min", "windows", start, end, MINUTE_NS, one),
        Question("one tag, an hour of samples", "raw", noon, noon + HOUR_NS, None, one),
        Question("all tags, newest sample", "last", start, end),
    ]


def questions_of_year(samples):
    one = len(samples.tags) // 2
    return [Question("one tag, a year by 1 h", "windows", samples.start_ns, samples.end_ns, HOUR_NS, one)]


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure(name, file, questions, late, rivals, arguments, scratch):
    folder = scratch / name
    folder.mkdir()
    mapping = arguments.map if arguments.map and file == arguments.file else sizes.mapping_of(file)
    read = [file, "--map", mapping] if mapping else [file]
    export = export_of(arguments.tagmill, read, folder)
    samples = Samples(export, folder / "staged.parquet")
    result = {"name": name, "samples": samples.count(), "tags": len(samples.tags), "engines": [], "own": []}
    with contextlib.ExitStack() as stack:
        own = {"clean": stack.enter_context(engines.Tagmill(arguments.tagmill, folder / "tagmill"))}
        # Who reads CSV is busy with that.
        note_load(result, own["clean"], own["clean"].load([export] if file.suffix == ".csv" else read, samples.tags))
        for which in late:
            own[which] = stack.enter_context(engines.Tagmill(arguments.tagmill, folder / which))
            early, behind = split_late(export, which, samples.tags, folder)
            own[which].load([early], samples.tags, [behind])
        result["files"] = {which: engine.files() for which, engine in own.items()}
        others = []
        for rival in rivals:
            others.append(stack.enter_context(rival(folder / rival.name)))
            note_load(result, others[-1], others[-1].load(samples))
        asked = questions(samples)
        result["questions"] = [ask_all(own, others, question, arguments.rounds) for question in asked]
    return result


def export_of(tagmill, read, folder):
    """All samples of a file as Tagmill has them: distinct (tag, time), the later row having won."""
    seed, out = folder / "seed", folder / "out"
    engines.run(tagmill, "import", *read, "--data", seed)
    engines.run(tagmill, "export", out, "--data", seed)
    shutil.rmtree(seed)
    return out


def note_load(result, engine, load_s):
    figures = {"name": engine.name, "version": engine.version(), "settings": engine.settings,
               "load_s": load_s, "bytes": engine.size()}
    result["engines"].append(figures)
    size = figures["bytes"] / result["samples"]
    say(f"{result['name']}: {engine.name} loaded in {load_s:.1f} s, {size:.2f} B a sample")


def ask_all(own, others, question, rounds):
    """Median times in ms by engine, after comparing all answers with the first."""
    result = {"question": question.name, "kind": question.kind, "own": {}, "rivals": {}}
    wanted = None
    both = ["auto", "raw"] if question.kind == "windows" else ["auto"]
    asks = [(("own", f"{which}, {tiers}"), engine, engine.prepare(question, tiers))
            for which, engine in own.items() for tiers in both]
    asks += [(("rivals", engine.name), engine, engine.prepare(question)) for engine in others]
    times = {}
    for (part, name), engine, ask in asks:
        result[part][name] = None
        if ask is None:
            continue
        times[part, name] = []
        answer = engine.normal(question, ask())
        if wanted is None:
            wanted, result["rows"] = answer, len(answer[0])
        compare(name, engine.is_lossy, question, answer, wanted)
    # Whatever else the machine does meanwhile meets all of them.
    for _ in range(rounds):
        for key, _, ask in asks:
            if ask is not None:
                started = time.perf_counter()
                ask()
                times[key].append((time.perf_counter() - started) * 1e3)
    for (part, name), taken in times.items():
        result[part][name] = statistics.median(taken)
        say(f"  {question.name}, {name}: {result[part][name]:.1f} ms, {min(taken):.1f} to {max(taken):.1f}")
    return result


def compare(name, is_lossy, question, found, wanted):
    """Each is (tag, time, columns..), sorted by tag and time."""
    if is_lossy:
        # It has no row where nothing is shown.
        there = ~numpy.isnan(wanted[-1]) if question.kind == "raw" else wanted[-1] != 0
        wanted = [column[there] for column in wanted]
    if len(found[0]) != len(wanted[0]):
        raise AssertionError(f"{name} has {len(found[0])} rows for {question.name}, Tagmill {len(wanted[0])}")
    for at, (have, want) in enumerate(zip(found, wanted, strict=True)):
        if at >= AVERAGE_AT and (is_lossy or question.kind == "windows" and at == AVERAGE_AT):
            same = numpy.isclose(have, want, rtol=1e-6 if is_lossy else 1e-9, atol=1e-9, equal_nan=True)
        else:
            same = (have == want) | ((have != have) & (want != want))
        if not same.all():
            row = int(numpy.flatnonzero(~same)[0])
            rows = [[column[row].item() for column in columns] for columns in (found, wanted)]
            raise AssertionError(f"{name} answers {question.name} otherwise in {int((~same).sum())} rows, column {at},"
                                 f" first {rows[0]} and not {rows[1]}")


# ---- printing -------------------------------------------------------------------------------------------------------


def print_loads(result):
    print(f"\n{result['name']}: {result['samples']:,} samples of {result['tags']:,} tags\n")
    print("| engine | load, M samples/s | bytes a sample | settings |\n|---|---|---|---|")
    for engine in result["engines"]:
        rate, size = result["samples"] / engine["load_s"] / 1e6, engine["bytes"] / result["samples"]
        print(f"| {engine['name']} | {rate:.2f} | {size:.2f} | {engine['version']}: {engine['settings']} |")


def print_times(result):
    names = list(result["questions"][0]["rivals"])
    heads = ["question", "rows", "Tagmill", "raw", *names]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for question in result["questions"]:
        own, raw = question["own"]["clean, auto"], question["own"].get("clean, raw")
        cells = [f"{own:.1f}", "" if raw is None else f"{raw:.1f}"]
        cells += [with_ratio(question["rivals"][name], own) for name in names]
        print(f"| {question['question']} | {question['rows']:,} | {' | '.join(cells)} |")


def print_own_times(result):
    """Tagmill with late samples, beside itself without."""
    late = [which for which in result["files"] if which != "clean"]
    if not late:
        return
    columns = [f"{which}, {tiers}" for tiers in ("auto", "raw") for which in ["clean", *late]]
    print(f"\n| Tagmill | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for question in result["questions"]:
        own = question["own"]
        cells = [with_ratio(own.get(name), own.get("clean, " + name.split(", ")[1])) for name in columns]
        print(f"| {question['question']} | {' | '.join(cells)} |")
    for which, files in result["files"].items():
        print(f"\n{which}: {LATE.get(which, 'nothing late')}; files: {files}")


def with_ratio(ms, own):
    return "" if ms is None else f"{ms:.1f} ({ms / own:.1f} x)"


if __name__ == "__main__":
    main()
