#!/usr/bin/env python3
"""Bytes per sample of Tagmill, ClickHouse, DuckDB and Parquet for the same samples, on this machine.

    python sizes.py TAGMILL                          both data sets beside the repository
    python sizes.py TAGMILL --file FILE              a file of one's own, Parquet or CSV: see below
    python sizes.py TAGMILL --data DIR --only nist

TAGMILL is the program. It imports the file, which seals and closes; what it exports again is what the rivals get, so that
all hold the same samples: distinct (tag, time), the later row of a file having won. Tags are numbered for the rivals and
their names kept in a small table, rows are sorted by (tag, time), times have the coarsest unit that is exact, each type
has a table of its own without nulls, and of several codecs each column gets the one that is smallest. Counts and sums
must agree before a size is printed. A file of one's own is an export, or has columns tag, ts, value and perhaps quality,
as the 500-tag plant has that `cargo bench -p tagmill-engine-benches --bench plant -- --csv FILE` writes. Needs `pip install -r requirements.txt`.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
import pyarrow
import pyarrow.compute as compute
import pyarrow.dataset
import pyarrow.parquet as parquet

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETS = {
    "nist": ("nist_sms_dev.long.parquet", "tag=machine+tag,time=ts,value=value"),
    "3w archived": ("3w_archived_dev.long.parquet", "tag=run+tag,time=ts,value=value"),
}
# Digits of a second, and what each rival calls a time that has them.
UNITS = [(10**9, 0, "s"), (10**6, 3, "ms"), (10**3, 6, "us"), (1, 9, "ns")]
DUCKDB_TIMES = {"s": "TIMESTAMP_S", "ms": "TIMESTAMP_MS", "us": "TIMESTAMP", "ns": "TIMESTAMP_NS"}
# Type of a tag: the table of its samples.
KINDS = {"f64": "f64", "f32": "f32", "i64": "i64", "bool": "i64", "state": "i64", "text": "text"}
CLICKHOUSE_TYPES = {"f64": "Float64", "f32": "Float32", "i64": "Int64", "text": "String"}
DUCKDB_TYPES = {"f64": "DOUBLE", "f32": "FLOAT", "i64": "BIGINT", "text": "VARCHAR"}
CLICKHOUSE_CODECS = {
    "id": ["ZSTD(3)", "Delta, ZSTD(3)"],
    "ts": ["DoubleDelta, ZSTD(3)", "Delta, ZSTD(3)", "GCD, Delta, ZSTD(3)"],
    "quality": ["ZSTD(3)", "T64, ZSTD(3)"],
    "f64": ["ALP, ZSTD(3)", "ZSTD(3)", "Gorilla, ZSTD(3)"],
    "f32": ["ALP, ZSTD(3)", "ZSTD(3)", "Gorilla, ZSTD(3)"],
    "i64": ["ZSTD(3)", "Delta, ZSTD(3)", "T64, ZSTD(3)"],
    "text": ["ZSTD(3)"],
}


def main():
    arguments = read_arguments()
    results = []
    with tempfile.TemporaryDirectory(prefix="tagmill-sizes-", dir=arguments.scratch) as scratch:
        for name, path, mapping in inputs(arguments):
            folder = pathlib.Path(scratch) / name.replace(" ", "-")
            folder.mkdir()
            results.append(measure(arguments.tagmill, name, path, mapping, folder))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nClickHouse {clickhouse_version()}, DuckDB {duckdb_version()}, pyarrow {pyarrow.__version__}\n")
    print_table(results)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tagmill", type=lambda text: pathlib.Path(text).resolve(), help="the program")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "../shared/data", help="folder of the data sets")
    parser.add_argument("--only", choices=list(SETS), help="one of the data sets")
    parser.add_argument("--file", "--parquet", type=pathlib.Path, help="Parquet or CSV file instead of the data sets")
    parser.add_argument("--map", help="its columns, as tagmill import has it")
    parser.add_argument("--scratch", help="where databases are built; by default the system's folder for such things")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args()


def inputs(arguments):
    if arguments.file:
        yield arguments.file.stem, arguments.file, arguments.map or mapping_of(arguments.file)
        return
    for name, (file, mapping) in SETS.items():
        path = arguments.data / file
        if arguments.only in (None, name):
            if path.exists():
                yield name, path, mapping
            else:
                print(f"SKIPPED: {path} is not there; --data DIR names its folder")


def mapping_of(path):
    if path.suffix == ".csv":
        with open(path, encoding="utf-8") as file:
            names = file.readline().strip().split(",")
    else:
        names = parquet.read_schema(path).names
    if "stored_bits" in names:
        return None
    return "tag=tag,time=ts,value=value" + (",quality=quality" if "quality" in names else "")


def measure(tagmill, name, path, mapping, folder):
    say(f"{name}: {path.name}")
    started = time.monotonic()
    own = load_tagmill(tagmill, path, mapping, folder / "tagmill")
    say(f"  imported in {time.monotonic() - started:.1f} s")
    out = folder / "out"
    subprocess.run([tagmill, "export", out, "--data", folder / "tagmill"], check=True, stdout=sys.stderr)
    tables, tags = read_export(out)
    samples = sum(len(table["ts"]) for table in tables.values())
    wanted = {kind: facts_of(table) for kind, table in tables.items()}
    compare("Tagmill", tagmill_facts(tagmill, folder / "tagmill", wanted), wanted)
    result = {
        "name": name,
        "samples": samples,
        "tags": len(tags),
        "kinds": {kind: len(table["ts"]) for kind, table in tables.items()},
        "tagmill": own,
        "clickhouse": load_clickhouse(tables, tags, wanted, folder),
        "duckdb": load_duckdb(tables, tags, wanted, folder),
        "parquet": load_parquet(tables, tags, wanted, folder),
    }
    for engine in ["tagmill", "clickhouse", "duckdb", "parquet"]:
        parts = {part: f"{bytes_ / samples:.3f}" for part, bytes_ in result[engine].items() if isinstance(bytes_, int)}
        say(f"  {engine}: {parts} {result[engine].get('how', '')}")
    return result


def load_tagmill(tagmill, path, mapping, folder):
    mapped = ["--map", mapping] if mapping else []
    subprocess.run([tagmill, "import", path, *mapped, "--data", folder], check=True, stdout=sys.stderr)
    return load_sizes(tagmill, folder)


def load_sizes(tagmill, folder):
    """Bytes of a closed database by what they are for. Tiers lie in the segments; the database says how much of them."""
    ask = [tagmill, "sql", "--data", folder, "--format", "csv", "-c"]
    answer = subprocess.run([*ask, "SELECT sum(bytes) AS bytes FROM system.tiers"],
                            check=True, stdout=subprocess.PIPE, text=True)
    tiers = int((answer.stdout.split() + ["0", "0"])[1])
    sizes = {"total": 0, "segments": 0, "tiers": 0, "log": 0, "ballast": 0, "other": 0}
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        if file.parent.name == "segments":
            part = "segments"
        else:
            # Room set aside for a full disk is nobody's sample.
            part = "log" if file.parent.name == "wal" else "ballast" if file.name == "ballast" else "other"
        # What is allocated but never written counts, too.
        bytes_ = max(file.stat().st_size, file.stat().st_blocks * 512) if part == "log" else file.stat().st_size
        sizes[part] += bytes_
    sizes["tiers"] = tiers
    sizes["segments"] -= tiers
    sizes["total"] = sizes["segments"] + sizes["log"] + sizes["other"]
    return sizes


def read_export(folder):
    """The samples of an export by kind, each sorted by (tag, time), and the names of the tags that have some."""
    files = sorted(str(file) for file in folder.glob("*.parquet"))
    format_ = pyarrow.dataset.ParquetFileFormat(read_options={"dictionary_columns": ["tag", "type"]})
    rows = pyarrow.dataset.dataset(files, format=format_).to_table().unify_dictionaries()
    tag = rows["tag"].combine_chunks()
    names = sorted(tag.dictionary.to_pylist())
    number = {name: at for at, name in enumerate(names)}
    ids = numpy.array([number[name] for name in tag.dictionary.to_pylist()], dtype=numpy.uint32)
    ids = ids[tag.indices.to_numpy()]
    type_ = rows["type"].combine_chunks()
    kinds = numpy.array([KINDS[name] for name in type_.dictionary.to_pylist()])[type_.indices.to_numpy()]
    times = rows["ts"].cast(pyarrow.int64()).to_numpy()
    qualities = rows["quality"].to_numpy()
    tables = {}
    for kind in sorted(set(kinds.tolist())):
        at = numpy.flatnonzero(kinds == kind)
        at = at[numpy.lexsort((times[at], ids[at]))]
        tables[kind] = {"id": ids[at], "ts": times[at], "quality": qualities[at], "value": values(rows, kind, at)}
    return tables, names


def values(rows, kind, at):
    """What was stored, to the bit, in the order of `at`."""
    def column(name):
        return rows[name].combine_chunks().take(pyarrow.array(at))

    if kind == "text":
        return compute.coalesce(column("value_text"), column("stored_text"))
    stored = column("stored_bits")
    is_stored = compute.is_valid(stored).to_numpy(zero_copy_only=False)
    bits = stored.fill_null(0).to_numpy()
    if kind == "i64":
        return numpy.where(is_stored, bits, column("value_int").fill_null(0).to_numpy())
    shown = column("value").fill_null(0).to_numpy()
    if kind == "f32":
        return numpy.where(is_stored, bits.astype(numpy.uint32), shown.astype(numpy.float32).view(numpy.uint32)).view(
            numpy.float32)
    return numpy.where(is_stored, bits, shown.view(numpy.int64)).view(numpy.float64)


def facts_of(table):
    """What every engine must say of a table: rows, sums of tag, time and quality, sum of what its values show."""
    value = table["value"]
    if isinstance(value, (pyarrow.Array, pyarrow.ChunkedArray)):
        shown = int(compute.sum(compute.binary_length(value)).as_py())
    elif value.dtype == numpy.int64:
        shown = sum_of(value)
    else:
        shown = math.fsum(value[numpy.isfinite(value)])
    return [len(table["ts"]), int(table["id"].sum()), sum_of(table["ts"]), sum_of(table["quality"]), shown]


def sum_of(numbers):
    """Exact, past 64 bits."""
    wide = numbers.astype(numpy.int64)
    return (int((wide >> 32).sum()) << 32) + int((wide & 0xFFFF_FFFF).sum())


def compare(engine, found, wanted):
    for kind, facts in wanted.items():
        for have, want in zip(found[kind], facts):
            is_same = have is None or (
                math.isclose(have, want, rel_tol=1e-9, abs_tol=1e-6) if isinstance(want, float) else int(have) == want
            )
            if not is_same:
                raise AssertionError(f"{engine} holds other {kind} samples: {found[kind]} instead of {facts}")


def tagmill_facts(tagmill, folder, wanted):
    """Counts and sums by SQL; the numbers of tags are the rivals' own, so not asked."""
    facts = {}
    for kind in wanted:
        types = ", ".join(f"'{name}'" for name, of in KINDS.items() if of == kind)
        shown = {"text": "NULL", "i64": "NULL"}.get(kind, "sum(CASE WHEN abs(value_raw) < 1e309 THEN value_raw END)")
        sql = (
            f"SELECT count(*) AS a, NULL AS b, sum(CAST(epoch_ns(ts) AS DECIMAL(38, 0))) AS c,"
            f" sum(CAST(quality AS BIGINT)) AS d, {shown} AS e FROM samples WHERE tag_id IN (SELECT tag_id FROM tags WHERE type IN ({types}))"
        )
        answer = subprocess.run([tagmill, "sql", "--data", folder, "--format", "csv", "-c", sql], check=True,
                                stdout=subprocess.PIPE, text=True).stdout.splitlines()[1]
        cells = [cell or None for cell in answer.split(",")]
        facts[kind] = [None if cell is None else float(cell) if at == 4 else int(cell) for at, cell in enumerate(cells)]
    return facts


def unit_of(table):
    """The coarsest unit in which every time is whole: nanoseconds of it, digits of a second, name."""
    return next(unit for unit in UNITS if not (table["ts"] % unit[0]).any())


def stage(table, path):
    """Writes a table for others to load, times as integers of its unit."""
    value = table["value"]
    value = value if isinstance(value, (pyarrow.Array, pyarrow.ChunkedArray)) else pyarrow.array(value)
    ts = pyarrow.array(table["ts"] // unit_of(table)[0])
    rows = pyarrow.table({"id": table["id"], "ts": ts, "quality": table["quality"], "value": value})
    parquet.write_table(rows, path, compression="none")
    return rows


def clickhouse_version():
    import chdb
    return str(chdb.query("SELECT version()")).strip().strip('"')


def duckdb_version():
    import duckdb
    return duckdb.__version__


def load_clickhouse(tables, tags, wanted, folder):
    from chdb import session
    database = session.Session(str(folder / "clickhouse"))
    ask = lambda sql: str(database.query(sql, "CSV")).strip()
    ask("SET enable_alp_codec = 1")
    ask("SET allow_suspicious_codecs = 1")
    ask("CREATE DATABASE d ENGINE = Atomic")
    names = folder / "tags.parquet"
    parquet.write_table(pyarrow.table({"id": numpy.arange(len(tags), dtype=numpy.uint32), "name": tags}), names)
    ask("CREATE TABLE d.tags (id UInt32, name String CODEC(ZSTD(3))) ENGINE = MergeTree ORDER BY id")
    ask(f"INSERT INTO d.tags SELECT * FROM file('{names}')")
    chosen, found = {}, {}
    for kind, table in tables.items():
        file = folder / f"{kind}.parquet"
        stage(table, file)
        digits = unit_of(table)[1]
        types = {"id": "UInt32", "ts": f"DateTime64({digits}, 'UTC')", "quality": "UInt32",
                 "value": CLICKHOUSE_TYPES[kind]}
        codecs = best_codecs(ask, kind, types, file)
        if kind == "text":
            types["value"] = "LowCardinality(String)" if codecs.pop("low") else "String"
        create(ask, kind, [f"{name} {types[name]} CODEC({codecs[name]})" for name in types])
        ask(f"INSERT INTO d.{kind} SELECT id, {instant(digits)}, quality, value FROM file('{file}') ORDER BY id, ts")
        ask(f"OPTIMIZE TABLE d.{kind} FINAL")
        chosen[kind] = {name: f"{types[name]} {codec}" for name, codec in codecs.items() if name in ("ts", "value")}
        shown = {"text": "sum(length(value))", "i64": "sum(toInt128(value))"}.get(kind, "sumKahanIf(value, isFinite(value))")
        scale = 10 ** (9 - digits)
        ticks = f"sum(toInt128(reinterpretAsInt64(ts))) * {scale}"
        row = ask(f"SELECT count(), sum(toUInt64(id)), {ticks}, sum(toUInt64(quality)), {shown} FROM d.{kind}").split(",")
        cells = [cell.strip('"') for cell in row]
        found[kind] = [int(cell) for cell in cells[:4]] + [float(cells[4]) if kind[0] == "f" else int(cells[4])]
    compare("ClickHouse", found, wanted)
    parts = ask("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'd'")
    columns = ask("SELECT column, sum(column_data_compressed_bytes) FROM system.parts_columns WHERE active AND"
                  " database = 'd' GROUP BY column ORDER BY column")
    sizes = {name.strip('"'): int(bytes_) for name, bytes_ in (line.split(",") for line in columns.splitlines())}
    database.close()
    return {"total": int(parts), **{name: sizes[name] for name in ("ts", "value", "quality")}, "how": chosen}


def create(ask, name, columns):
    # Wide parts: in compact ones the sizes of columns are not told apart.
    ask(f"CREATE TABLE d.{name} ({', '.join(columns)}) ENGINE = MergeTree ORDER BY (id, ts)"
        " SETTINGS min_bytes_for_wide_part = 0")


def instant(digits):
    return f"reinterpret(ts, 'DateTime64({digits}, ''UTC'')')"


def best_codecs(ask, kind, types, file):
    """Loads every candidate as a column of its own and asks which is smallest."""
    columns, candidates = ["id UInt32", f"ts {types['ts']}"], {}
    for name in types:
        for at, codec in enumerate(CLICKHOUSE_CODECS[kind if name == "value" else name]):
            candidates[f"{name}_{at}"] = (name, codec, types[name])
    if kind == "text":
        candidates["value_low"] = ("value", "ZSTD(3)", "LowCardinality(String)")
    columns += [f"{column} {type_} CODEC({codec})" for column, (_, codec, type_) in candidates.items()]
    create(ask, "trial", columns)
    instants = instant(int(types["ts"].split("(")[1].split(",")[0]))
    cells = [instants if name == "ts" else name for name, _, _ in candidates.values()]
    ask(f"INSERT INTO d.trial SELECT id, {instants}, {', '.join(cells)} FROM file('{file}') ORDER BY id, ts")
    ask("OPTIMIZE TABLE d.trial FINAL")
    answer = ask("SELECT column, sum(column_data_compressed_bytes) AS bytes FROM system.parts_columns WHERE active AND"
                 " table = 'trial' GROUP BY column ORDER BY bytes")
    ask("DROP TABLE d.trial SYNC")
    best = {"low": False}
    for line in answer.splitlines():
        column = line.split(",")[0].strip('"')
        if column in candidates and candidates[column][0] not in best:
            best[candidates[column][0]] = candidates[column][1]
            best["low"] |= column == "value_low"
    return best if kind == "text" else {name: codec for name, codec in best.items() if name != "low"}


def load_duckdb(tables, tags, wanted, folder):
    import duckdb
    sizes = {}
    for block in [16_384, 262_144]:
        path = folder / f"{block}.duckdb"
        database = duckdb.connect()
        database.execute(f"ATTACH '{path}' AS d (STORAGE_VERSION 'latest', BLOCK_SIZE {block})")
        names = pyarrow.table({"id": numpy.arange(len(tags), dtype=numpy.uint32), "name": tags})
        database.execute("CREATE TABLE d.tags AS SELECT id::UINTEGER AS id, name FROM names ORDER BY id")
        found = {}
        for kind, table in tables.items():
            scale, _, unit = unit_of(table)
            nanos = f"make_timestamp_ns(ts * {scale})" + ('' if unit == 'ns' else f'::TIMESTAMP::{DUCKDB_TIMES[unit]}')
            database.execute(
                f"CREATE TABLE d.{kind} AS SELECT id::UINTEGER AS id, {nanos} AS ts, quality::UINTEGER AS quality,"
                f" value::{DUCKDB_TYPES[kind]} AS value FROM '{folder / f'{kind}.parquet'}' ORDER BY id, ts")
            shown = {"text": "sum(strlen(value))", "i64": "sum(value)"}.get(
                kind, "fsum(value::DOUBLE) FILTER (isfinite(value))")
            ticks = "sum(epoch_ns(ts)::HUGEINT)"
            sql = f"SELECT count(*), sum(id), {ticks}, sum(quality), {shown} FROM d.{kind}"
            found[kind] = list(database.execute(sql).fetchone())
        compare("DuckDB", found, wanted)
        database.execute("CHECKPOINT d")
        database.execute("DETACH d")
        database.close()
        sizes[path.stat().st_size] = f"blocks of {block} bytes"
    total = min(sizes)
    return {"total": total, "how": sizes[total]}


def load_parquet(tables, tags, wanted, folder):
    total, how = 0, {}
    for kind, table in tables.items():
        # Parquet has no seconds.
        scale, _, unit = max(unit_of(table), UNITS[1], key=lambda unit: unit[1])
        value = table["value"]
        names = pyarrow.DictionaryArray.from_arrays(pyarrow.array(table["id"].astype(numpy.int32)), tags)
        rows = pyarrow.table({
            "tag": names,
            "ts": pyarrow.array(table["ts"] // scale).cast(pyarrow.timestamp(unit, "UTC")),
            "quality": table["quality"],
            "value": value,
        })
        sizes = {}
        encodings = [None] if kind == "text" else [None, "BYTE_STREAM_SPLIT"]
        for times in ["DELTA_BINARY_PACKED", None]:
            for encoding in encodings:
                path = folder / f"rival-{kind}.parquet"
                columns = {name: to for name, to in [("ts", times), ("value", encoding)] if to}
                dictionary = ["tag", "quality"] + (["value"] if not encoding else []) + (["ts"] if not times else [])
                parquet.write_table(rows, path, compression="zstd", compression_level=3, use_dictionary=dictionary,
                                    column_encoding=columns or None)
                sizes[path.stat().st_size] = f"{times or 'dictionary'}, {encoding or 'dictionary'}"
        back = parquet.read_table(path)
        found = {
            "id": names.indices.to_numpy().astype(numpy.uint32),
            "ts": back["ts"].cast(pyarrow.int64()).to_numpy() * scale,
            "quality": back["quality"].to_numpy(),
            "value": back["value"].combine_chunks() if kind == "text" else back["value"].to_numpy(),
        }
        compare("Parquet", {kind: facts_of(found)}, {kind: wanted[kind]})
        total += min(sizes)
        how[kind] = sizes[min(sizes)]
    return {"total": total, "how": how}


def print_table(results):
    print("| data | samples | tags | Tagmill | its log apart | ClickHouse | DuckDB | Parquet zstd |")
    print("|---|---|---|---|---|---|---|---|")
    for result in results:
        samples, own = result["samples"], result["tagmill"]["total"]
        without_log = own - result["tagmill"]["log"]
        cells = [f"{own / samples:.3f}", f"{without_log / samples:.3f}"]
        for rival in ["clickhouse", "duckdb", "parquet"]:
            total = result[rival]["total"]
            cells.append(f"{total / samples:.3f} ({total / without_log:.2f} x)")
        print(f"| {result['name']} | {samples:,} | {result['tags']:,} | {' | '.join(cells)} |")
    print("\nBytes per sample, every file counted but Tagmill's tiers; in brackets the rival's size over Tagmill's without its log.")


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
