#!/usr/bin/env python3
"""Readers of other makers on the files of `tagmill export`, against the real binary.

    python parquet_client.py PATH_TO_TAGMILL

It makes a database with every type, with odd values and Bad samples, exports it, and compares what pyarrow, pandas, DuckDB
and (where pyspark and Java are there) Spark read with what it has written and with what SQL says. Then it imports a copy
that another program has rewritten, and asks SQL again. Exit code 0: everything held.
"""

import io
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

import duckdb
import numpy
import pandas
import pyarrow
import pyarrow.dataset
import pyarrow.parquet as parquet

START_NS = 1_767_225_600 * 10**9 - 600 * 10**9  # ten minutes before 2026-01-01
STEP_NS = 7_000_000_001
ROWS = 400
BAD = 0x8000_0000
UNCERTAIN = 0x4000_0000
COLUMNS = ["tag", "ts", "type", "quality", "value", "value_int", "value_text", "stored_bits", "stored_text"]
ODD = [0.0, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1e22, -1.5]
NANS = [0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0BAD, 0xFFF8_0000_0000_1234]
TAGS = {
    "u1/f64": {"type": "f64", "unit": "bar", "range_low": 0.1, "labels": {"area": "Ü1"}},
    "u1/f32": {"type": "f32"},
    "u1/i64": {"type": "i64", "max_gap": "90s"},
    "u2/bool": {"type": "bool", "description": "a \"switch\""},
    "u2/state": {"type": "state", "state_set": "motor", "states": {"0": "STOP", "1": "RUN"}},
    "u2/text": {"type": "text"},
    "u2/spare": {"type": "f64", "stepped": True},
}


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="tagmill-parquet-") as scratch:
        scratch = pathlib.Path(scratch)
        rows = write(binary, scratch)
        out = scratch / "out"
        said = run(binary, "export", out, "--data", scratch / "data")
        check(f"exported {len(rows):,} samples of {len(TAGS)} tags to 2 files" in said, said)
        by_pyarrow(out, rows)
        by_sql(binary, scratch / "data", out)
        by_pandas(out, rows)
        by_duckdb(out, rows)
        by_spark(out, rows)
        back(binary, scratch, out)
    print(f"parquet_client: {len(rows)} samples of {len(TAGS)} tags, as written")


def check(holds, claim):
    if not holds:
        raise AssertionError(f"does not hold: {claim}")


def equal(found, wanted, what):
    check(found == wanted, f"{what} is {wanted!r}; found {found!r}")


def run(binary, *words):
    done = subprocess.run([binary, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    check(done.returncode == 0, f"{words}: {done.stderr}")
    return done.stdout


def write(binary, scratch):
    """Fills a database; gives (tag, time) -> (what was stored, quality)."""
    (scratch / "tags.json").write_text(json.dumps({"tags": TAGS}))
    run(binary, "tags", "import", scratch / "tags.json", "--data", scratch / "data")
    draw = random.Random(7)
    qualities = [0, 0, 0, 0, 0x0096_0000, UNCERTAIN, BAD, 0x8074_0000]
    makers = {
        "u1/f64": (pyarrow.float64(), lambda at: draw.choice(ODD + [round(draw.gauss(50, 9), 2)] * 9)),
        "u1/f32": (pyarrow.float32(), lambda at: float(numpy.float32(draw.choice([-0.0, math.inf, draw.random()])))),
        "u1/i64": (pyarrow.int64(), lambda at: draw.choice([-2**63, 2**63 - 1, 2**53 + 1, at])),
        "u2/bool": (pyarrow.bool_(), lambda at: draw.random() < 0.5),
        "u2/state": (pyarrow.int64(), lambda at: draw.choice([0, 0, 1, 65_535])),
        "u2/text": (pyarrow.string(), lambda at: draw.choice(["", "B-17", "é\n\"", "x" * 3_000])),
    }
    rows = {}
    for tag, (type_, make) in makers.items():
        times = [START_NS + at * STEP_NS for at in range(ROWS)]
        values = [make(at) for at in range(ROWS)]
        quality = [draw.choice(qualities) for _ in range(ROWS)]
        if tag == "u1/f64":
            # A NaN is Bad unless something better known is said of it, and keeps its bits.
            for at, bits in enumerate(NANS):
                values[at], quality[at] = of_bits(bits), BAD
        path = scratch / f"{tag.replace('/', '-')}.parquet"
        parquet.write_table(pyarrow.table({
            "tag": [tag] * ROWS,
            "ts": pyarrow.array(times, pyarrow.timestamp("ns", "UTC")),
            "value": pyarrow.array(numpy.array(values) if type_ == pyarrow.float64() else values, type_),
            "quality": pyarrow.array(quality, pyarrow.int64()),
        }), path)
        run(binary, "import", path, "--map", "tag=tag,time=ts,value=value,quality=quality", "--data", scratch / "data")
        rows.update({(tag, time): (value, q) for time, value, q in zip(times, values, quality)})
    return rows


def of_bits(bits):
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def bits_of(number):
    return struct.unpack("<Q", struct.pack("<d", number))[0]


def stored(row):
    """What a row of an export says was stored, with a float as its bits."""
    bits, type_ = row["stored_bits"], row["type"]
    if type_ == "f64":
        return bits_of(row["value"]) if bits is None else bits & (2**64 - 1)
    if type_ == "f32":
        return struct.unpack("<I", struct.pack("<f", row["value"]))[0] if bits is None else bits
    if type_ == "text":
        return row["value_text"] if row["stored_text"] is None else row["stored_text"]
    whole = row["value_int"] if bits is None else bits
    return bool(whole) if type_ == "bool" else whole


def held(tag, value):
    if tag == "u1/f64":
        return bits_of(value)
    return struct.unpack("<I", struct.pack("<f", value))[0] if tag == "u1/f32" else value


def is_shown(value, quality):
    return quality < BAD and not (isinstance(value, float) and not math.isfinite(value))


def by_pyarrow(out, rows):
    files = sorted(out.glob("*.parquet"))
    equal([file.name for file in files], ["2025-12-31.parquet", "2026-01-01.parquet"], "one file a day")
    found, last = {}, None
    for file in files:
        opened = parquet.ParquetFile(file)
        equal(opened.schema_arrow.names, COLUMNS, "columns")
        equal(opened.schema_arrow.field("ts").type, pyarrow.timestamp("ns", "UTC"), "type of ts")
        equal(opened.metadata.metadata[b"tagmill.export"], b"1", "mark")
        kind = json.loads(opened.schema.column(1).logical_type.to_json())
        equal((kind["isAdjustedToUTC"], kind["timeUnit"]), (True, "nanoseconds"), "logical type of ts")
        for group in range(opened.num_row_groups):
            described = opened.metadata.row_group(group)
            equal([by.column_index for by in described.sorting_columns], [0, 1], "sorted by")
            equal({described.column(at).compression for at in range(9)}, {"ZSTD"}, "compression")
            check(all(described.column(at).is_stats_set for at in range(9)), "every column has statistics")
        table = opened.read()
        times = table["ts"].cast(pyarrow.int64()).to_pylist()
        for row, time in zip(table.drop_columns(["ts"]).to_pylist(), times):
            key = (row["tag"], time)
            check(file is not files[0] or time < START_NS + 600 * 10**9, f"{key} is of the day of {file.name}")
            check(last is None or last[0] != file or last[1] < key, f"{key} comes after {last}")
            last = (file, key)
            found[key] = (stored(row), row["quality"])
            value, quality = rows[key]
            equal(row["value"] is None, not is_shown(value, quality) or key[0] == "u2/text", f"null of {key}")
    equal(found, {(tag, time): (held(tag, value), quality) for (tag, time), (value, quality) in rows.items()}, "rows")


def by_sql(binary, data, out):
    """The columns mean what they mean in SQL."""
    words = [binary, "sql", "--data", data, "--format", "arrow", "-c",
             "SELECT tag, ts, quality, value, value_int, value_text FROM samples ORDER BY tag, ts"]
    answer = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    told = pyarrow.ipc.open_stream(io.BytesIO(answer)).read_all()
    read = pyarrow.dataset.dataset(sorted(out.glob("*.parquet"))).to_table().sort_by([("tag", "ascending"), ("ts", "ascending")])
    for name in told.column_names:
        equal(read[name].to_numpy().astype(str).tolist(), told[name].to_numpy().astype(str).tolist(), f"column {name}")


def expected(rows):
    """Per tag: samples, those with a value, the sum of all values that leave others a digit in it."""
    sums = {}
    for (tag, _), (value, quality) in rows.items():
        count, numbers = sums.setdefault(tag, (0, []))
        shown = [float(value)] if tag != "u2/text" and is_shown(value, quality) else []
        sums[tag] = (count + 1, numbers + shown)
    return {tag: (count, len(numbers), total_of(numbers)) for tag, (count, numbers) in sums.items()}


def total_of(numbers):
    return math.fsum(number for number in numbers if abs(number) < 1e6)


def compare_sums(found, rows, reader):
    wanted = expected(rows)
    equal(set(found), set(wanted), f"tags by {reader}")
    for tag, (count, shown, total) in wanted.items():
        equal(found[tag][:2], (count, shown), f"counts of {tag} by {reader}")
        if tag != "u2/text":
            check(math.isclose(found[tag][2], total, rel_tol=1e-12), f"sum of {tag} by {reader} is {total}: {found[tag]}")


def by_pandas(out, rows):
    frame = pandas.read_parquet(out)
    equal(str(frame["ts"].dtype), "datetime64[ns, UTC]", "pandas' ts")
    equal(sorted(zip(frame["tag"], frame["ts"].astype("int64"))), sorted(rows), "keys by pandas")
    groups = frame.groupby("tag")["value"]
    found = {tag: (len(group), int(group.count()), total_of(group.dropna())) for tag, group in groups}
    compare_sums(found, rows, "pandas")


def by_duckdb(out, rows):
    sql = f"SELECT tag, count(*), count(value), fsum(value) FILTER (abs(value) < 1e6) FROM '{out}/*.parquet' GROUP BY tag"
    compare_sums({tag: tuple(rest) for tag, *rest in duckdb.sql(sql).fetchall()}, rows, "DuckDB")
    keys = duckdb.sql(f"SELECT tag, epoch_ns(ts) FROM '{out}/*.parquet' ORDER BY ALL").fetchall()
    told = duckdb.sql(f"DESCRIBE SELECT ts FROM '{out}/*.parquet'").fetchall()[0][1]
    # Where DuckDB's type for UTC holds microseconds it cuts the rest off; nothing else may differ.
    grain = 1 if told.endswith("_NS") else 1_000
    equal(keys, sorted((tag, time // grain * grain) for tag, time in rows), f"keys by DuckDB ({told})")
    odd = duckdb.sql(f"SELECT stored_bits FROM '{out}/*.parquet' WHERE tag = 'u1/f64' ORDER BY ts LIMIT 3").fetchall()
    equal([bits & (2**64 - 1) for (bits,) in odd], NANS, "NaN bits by DuckDB")


def by_spark(out, rows):
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        print("SKIPPED: Spark does not read the export here: pip install pyspark to have it try")
        return
    if not shutil.which("java") and "JAVA_HOME" not in os.environ:
        print("SKIPPED: Spark does not read the export here: there is no Java")
        return
    settings = {"spark.sql.legacy.parquet.nanosAsLong": "true", "spark.ui.enabled": "false"}
    builder = SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        read = spark.read.parquet(str(out))
        read.createOrReplaceTempView("samples")
        total = "sum(value) FILTER (WHERE abs(value) < 1e6)"
        answer = spark.sql(f"SELECT tag, count(*) n, count(value) shown, {total} total FROM samples GROUP BY tag").collect()
        compare_sums({row.tag: (row.n, row.shown, row.total) for row in answer}, rows, "Spark")
        equal(sorted((row.tag, row.ts) for row in read.select("tag", "ts").collect()), sorted(rows), "keys by Spark")
        late = spark.sql("SELECT max(timestamp_micros(ts div 1000)) AS t, max(ts) AS ns FROM samples").collect()[0]
        equal(int(late.t.timestamp() * 10**6), late.ns // 1_000, "a time as Spark's timestamp")
    finally:
        spark.stop()


def back(binary, scratch, out):
    """Another program mixes the rows and writes one file of its own: the same samples still."""
    table = pyarrow.dataset.dataset(sorted(out.glob("*.parquet"))).to_table()
    mixed = table.take(pyarrow.array(numpy.random.default_rng(7).permutation(len(table))))
    (scratch / "mixed").mkdir()
    parquet.write_table(mixed.select(COLUMNS[::-1]), scratch / "mixed" / "all.parquet", compression="snappy")
    shutil.copy(out / "_tags.json", scratch / "mixed")
    run(binary, "import", scratch / "mixed", "--data", scratch / "copy")
    run(binary, "export", scratch / "again", "--data", scratch / "copy")
    equal((scratch / "again/_tags.json").read_text(), (out / "_tags.json").read_text(), "_tags.json of the copy")
    for file in sorted(out.glob("*.parquet")):
        check(parquet.read_table(file).equals(parquet.read_table(scratch / "again" / file.name)), f"{file.name} of the copy")


if __name__ == "__main__":
    main()
