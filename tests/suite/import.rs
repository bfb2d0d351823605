//! Imports of real plant data, compared with a second, plain reading of the same Parquet files.
//!
//! The data stands beside the repository in `../shared/data`; where it is absent the tests say so and pass, and a small
//! generated file with the same dirty cases goes through the same comparison either way. The plain reading shares no
//! code with the import: maps from time to value, filled row by row, the later row winning.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod plain;
mod remote;
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tagmill::Database;
use tagmill_server::cli::import::local::LocalSink;
use tagmill_server::cli::import::mapping::{parse_long, parse_wide};
use tagmill_server::cli::import::report::Report;
use tagmill_server::cli::import::{Import, run};
use tagmill_storage::{
    Engine, OnDamage, Options, Rfc3339, ScanRequest, TagSelection, TimeRange, ValueType,
};

use self::plain::{Held, History, cell, held, nanos, read_long, read_wide, rows};

fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

fn engine(dir: &Path) -> Arc<Engine> {
    Arc::new(Engine::open(dir, Options::default()).unwrap())
}

fn import_into(engine: &Arc<Engine>, import: &Import) -> Report {
    run(import, &mut LocalSink::new(Arc::clone(engine)), &|_, _, _| {}).unwrap()
}

/// Every sample of a tag, as the engine gives it back.
fn stored(engine: &Engine, name: &str) -> History {
    let snapshot = engine.snapshot();
    let tag = snapshot.registry().find(name).unwrap_or_else(|| panic!("no tag {name}"));
    let request = ScanRequest {
        tags: TagSelection::Only(Arc::from([tag])),
        range: TimeRange::ALL,
        descending: false,
        limit: None,
        values: true,
        qualities: true,
        damage: OnDamage::Fail,
    };
    let mut history = History::new();
    for batch in snapshot.scan(request) {
        let batch = batch.unwrap();
        for (at, time) in batch.times.iter().enumerate() {
            let held = held(batch.values.get(at).unwrap(), batch.qualities.at(at));
            assert_eq!(history.insert(*time, held), None, "{name} has {time} twice");
        }
    }
    history
}

/// Compares every tag's whole history.
fn compare(engine: &Engine, want: &BTreeMap<String, History>) {
    for (name, want) in want {
        let have = stored(engine, name);
        assert_eq!(have.len(), want.len(), "samples of {name}");
        if let Some((have, want)) = have.iter().zip(want).find(|(have, want)| have != want) {
            panic!("{name}: stored {have:?}, the file says {want:?}");
        }
    }
}

fn tag_names(report: &Report) -> BTreeSet<String> {
    report.tags.values().flatten().cloned().collect()
}

const NIST_MAP: &str = "tag=machine+tag,time=ts,value=value";

#[tokio::test(flavor = "multi_thread")]
async fn nist_is_read_as_a_plain_reader_reads_it() {
    let Some(path) = data("nist_sms_dev.long.parquet") else { return };
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let import = Import::new(&path, parse_long(NIST_MAP).unwrap());
    let report = import_into(&engine, &import);
    println!("{report}");
    assert_eq!((report.rows, report.taken, report.refused_count()), (1_949_198, 1_949_198, 0));
    assert_eq!(report.tag_count(), 184);
    assert_eq!(report.taken - report.merged, 1_851_005);
    let want = read_long(&path, "machine", "tag", "ts", "value");
    assert_eq!(want.keys().cloned().collect::<BTreeSet<_>>(), tag_names(&report));
    assert_eq!(want.values().map(BTreeMap::len).sum::<usize>(), 1_851_005);
    compare(&engine, &want);
    answers_agree(&Database::over(engine).unwrap(), &want, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_w_is_read_as_a_plain_reader_reads_it() {
    let Some(path) = data("3w_dev.parquet") else { return };
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let import = Import::new(&path, parse_wide("time=ts,tag=run").unwrap());
    let report = import_into(&engine, &import);
    println!("{report}");
    assert_eq!((report.rows, report.merged, report.refused_count()), (1_522_097, 0, 0));
    assert_eq!(report.taken, 9_271_972 + 1_522_097);
    assert!(report.remarks.iter().any(|remark| remark.contains("T-JUS-CKGL")));
    let database = Database::over(Arc::clone(&engine)).unwrap();
    let mut tags = BTreeSet::new();
    let mut counts = HashMap::new();
    for column in [
        "P-PDG",
        "P-TPT",
        "T-TPT",
        "P-MON-CKP",
        "T-JUS-CKP",
        "P-JUS-CKGL",
        "T-JUS-CKGL",
        "QGL",
        "class",
        "instance",
    ] {
        let want = read_wide(&path, Some("run"), "ts", column, None);
        counts.insert(column, want.values().map(BTreeMap::len).sum::<usize>());
        tags.extend(want.keys().cloned());
        compare(&engine, &want);
        if !want.is_empty() {
            answers_agree(&database, &want, 3).await;
        }
    }
    assert_eq!(tags, tag_names(&report));
    assert_eq!(counts.remove("instance"), Some(1_522_097));
    assert_eq!(counts.values().sum::<usize>(), 9_271_972);
}

/// Imports a wide file without runs and compares every column.
fn check_wide(name: &str, prefix: &str, run: Option<&str>, samples: u64) {
    let Some(path) = data(name) else { return };
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let layout = run.map_or("time=ts".to_owned(), |run| format!("time=ts,tag={run}"));
    let mut import = Import::new(&path, parse_wide(&layout).unwrap());
    prefix.clone_into(&mut import.prefix);
    let report = import_into(&engine, &import);
    println!("{name}: {report}");
    assert_eq!((report.taken, report.merged, report.refused_count()), (samples, 0, 0));
    let file = File::open(&path).unwrap();
    let schema = Arc::clone(ParquetRecordBatchReaderBuilder::try_new(file).unwrap().schema());
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut tags = BTreeSet::new();
    for column in
        columns.iter().filter(|c| **c != "ts" && Some(**c) != run && !c.ends_with("__status"))
    {
        let status = format!("{column}__status");
        let status = columns.contains(&status.as_str()).then_some(status.as_str());
        let want = read_wide(&path, run, "ts", column, status);
        let want: BTreeMap<String, History> =
            want.into_iter().map(|(name, history)| (format!("{prefix}/{name}"), history)).collect();
        tags.extend(want.keys().cloned());
        compare(&engine, &want);
    }
    assert_eq!(tags, tag_names(&report));
}

#[test]
fn the_other_wide_files_are_read_as_a_plain_reader_reads_them() {
    check_wide("steel.parquet", "steel", None, 350_400);
    check_wide("uci_hydraulic.parquet", "rig", None, 1_719_900);
    check_wide("wind_lahaute_dev.parquet", "wind", Some("run"), 4_927_976);
    check_wide("bibmon.parquet", "bibmon", None, 342_252);
}

#[test]
fn archived_points_keep_their_irregular_times() {
    let Some(path) = data("3w_archived_dev.long.parquet") else { return };
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let layout = parse_long("tag=run+tag,time=ts,value=value").unwrap();
    let report = import_into(&engine, &Import::new(&path, layout));
    assert_eq!((report.rows, report.refused_count()), (951_072, 0));
    let mut want: BTreeMap<String, History> = BTreeMap::new();
    let mut samples = 0;
    for columns in rows(&path, &["run", "tag", "ts", "value"]) {
        let (runs, tags) = (columns[0].as_string::<i32>(), columns[1].as_string::<i32>());
        for row in (0..runs.len()).filter(|row| columns[3].is_valid(*row)) {
            let name = format!("{}/{}", runs.value(row), tags.value(row));
            want.entry(name).or_default().insert(nanos(&columns[2], row), cell(&columns[3], row));
            samples += 1;
        }
    }
    assert_eq!(report.taken, samples);
    compare(&engine, &want);
}

/// Numbers of one tag, as SQL tells them.
#[derive(Debug, PartialEq)]
struct Told {
    samples: i64,
    first_ns: i64,
    last_ns: i64,
    values: i64,
    min: Option<f64>,
    max: Option<f64>,
    first: Option<f64>,
    last: Option<f64>,
}

/// The same numbers from the plain reading.
fn tell(history: &History, range: TimeRange) -> Option<Told> {
    let samples: Vec<(i64, Option<f64>)> = history
        .range(range.start_ns..range.end_ns)
        .map(|(time, held)| (*time, number(held)))
        .collect();
    let values: Vec<f64> = samples.iter().filter_map(|(_, value)| *value).collect();
    Some(Told {
        samples: i64::try_from(samples.len()).unwrap(),
        first_ns: samples.first()?.0,
        last_ns: samples.last()?.0,
        values: i64::try_from(values.len()).unwrap(),
        min: values.iter().copied().reduce(f64::min),
        max: values.iter().copied().reduce(f64::max),
        first: values.first().copied(),
        last: values.last().copied(),
    })
}

/// What the column `value` shows of a sample: numbers that are Good and finite.
fn number(held: &Held) -> Option<f64> {
    match held {
        Held::F64(bits) => Some(f64::from_bits(*bits)).filter(|value| value.is_finite()),
        Held::I64(value) => Some(*value as f64),
        Held::Text(_) | Held::BadText(_) | Held::Nothing => None,
    }
}

async fn ask(database: &Database, filter: &str) -> BTreeMap<String, Told> {
    let sql = format!(
        "SELECT tag, count(*), epoch_ns(min(ts)), epoch_ns(max(ts)), count(value), min(value), max(value), \
         first(value, ts), last(value, ts) FROM samples {filter} GROUP BY tag"
    );
    let mut told = BTreeMap::new();
    for batch in database.sql(&sql).await.unwrap() {
        let tags = cast(batch.column(0), &DataType::Utf8).unwrap();
        let whole = |column: usize, row: usize| {
            let column = cast(batch.column(column), &DataType::Int64).unwrap();
            column.as_primitive::<Int64Type>().value(row)
        };
        let float = |column: usize, row: usize| {
            let column = batch.column(column).as_primitive::<Float64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        for row in 0..batch.num_rows() {
            let numbers = Told {
                samples: whole(1, row),
                first_ns: whole(2, row),
                last_ns: whole(3, row),
                values: whole(4, row),
                min: float(5, row),
                max: float(6, row),
                first: float(7, row),
                last: float(8, row),
            };
            told.insert(tags.as_string::<i32>().value(row).to_owned(), numbers);
        }
    }
    told
}

/// SQL answers the whole history of every tag, and ten windows of some, as the plain reading does.
async fn answers_agree(database: &Database, want: &BTreeMap<String, History>, seed: u64) {
    let told = ask(database, "").await;
    for (name, history) in want {
        assert_eq!(told.get(name), tell(history, TimeRange::ALL).as_ref(), "{name}");
    }
    println!("windows with seed {seed}");
    let mut state = seed;
    let mut random = move |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let names: Vec<&String> = want.keys().collect();
    for _ in 0..10 {
        let name = names[random(names.len())];
        let times: Vec<i64> = want[name].keys().copied().collect();
        let (a, b) = (times[random(times.len())], times[random(times.len())]);
        let range = TimeRange::new(a.min(b), a.max(b) + 1);
        let filter = format!(
            "WHERE tag = '{name}' AND ts >= TIMESTAMP '{}' AND ts < TIMESTAMP '{}'",
            Rfc3339(range.start_ns),
            Rfc3339(range.end_ns)
        );
        let told = ask(database, &filter).await;
        assert_eq!(told.get(name), tell(&want[name], range).as_ref(), "{filter}");
    }
}

/// Machine, tag, seconds, value.
type DirtyRow = (Option<&'static str>, Option<&'static str>, Option<i64>, Option<&'static str>);

/// A small file in which every dirty case of the real ones happens.
fn write_dirty(path: &Path) {
    let rows: &[DirtyRow] = &[
        (Some("M1"), Some("load"), Some(10), Some("1.5")),
        (Some("M1"), Some("load"), Some(20), Some("UNAVAILABLE")),
        (Some("M1"), Some("load"), Some(30), Some("")),
        (Some("M1"), Some("load"), Some(30), Some("2.5")),
        (Some("M1"), Some("load"), Some(25), Some("1E-005")),
        (Some("M1"), Some("load"), Some(10), Some("1.75")),
        (Some("M1"), Some("load"), Some(40), None),
        (Some("M1"), Some("load"), Some(50), Some("-0.0000")),
        (Some("M2"), Some("load"), Some(10), Some("7")),
        (Some("M2"), Some("load"), Some(20), Some("-3")),
        (Some("M2"), Some("load"), Some(20), Some("UNAVAILABLE")),
        (Some("M1"), Some("mode"), Some(10), Some("MANUAL")),
        (Some("M1"), Some("mode"), Some(11), Some("42")),
        (Some("M1"), Some("mode"), Some(12), Some("UNAVAILABLE")),
        (Some("M1"), Some("mode"), Some(13), Some("")),
        (Some("M1"), Some("pos"), Some(10), Some("1.0 2.0 3.0")),
        (Some("M1"), Some("off"), Some(10), Some("UNAVAILABLE")),
        (Some("M1"), None, Some(60), Some("1")),
        (None, Some("load"), Some(60), Some("1")),
        (Some("M1"), Some("load"), None, Some("1")),
        (Some("M1"), Some("bad\u{7}name"), Some(10), Some("1")),
    ];
    let texts = |pick: fn(&DirtyRow) -> Option<&'static str>| -> ArrayRef {
        Arc::new(rows.iter().map(pick).collect::<StringArray>())
    };
    let times: TimestampMicrosecondArray =
        rows.iter().map(|row| row.2.map(|t| t * 1_000_000)).collect();
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("machine", texts(|row| row.0), true),
        ("tag", texts(|row| row.1), true),
        ("ts", Arc::new(times.with_timezone("UTC")) as ArrayRef, true),
        ("value", texts(|row| row.3), true),
    ])
    .unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dirty_case_becomes_what_the_docs_say() {
    const SECOND: i64 = 1_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dirty.parquet");
    write_dirty(&path);
    let engine = engine(&dir.path().join("db"));
    let report = import_into(&engine, &Import::new(&path, parse_long(NIST_MAP).unwrap()));
    println!("{report}");
    assert_eq!((report.rows, report.taken, report.merged, report.stepped_back), (21, 16, 3, 1));
    let refused: BTreeMap<&str, u64> =
        report.refused.iter().map(|(reason, refused)| (reason.as_str(), refused.count)).collect();
    assert_eq!(refused["the row names no tag"], 2);
    assert_eq!(refused["the row has no time"], 1);
    assert_eq!(refused.len(), 3, "{refused:?}");
    let types: BTreeMap<ValueType, Vec<&str>> = report
        .tags
        .iter()
        .map(|(kind, names)| (*kind, names.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(types[&ValueType::F64], ["M1/load"]);
    assert_eq!(types[&ValueType::I64], ["M2/load"]);
    assert_eq!(types[&ValueType::Text], ["M1/mode", "M1/off", "M1/pos"]);
    let load = stored(&engine, "M1/load");
    let want = [
        (10, Held::F64(1.75_f64.to_bits())),
        (20, Held::Nothing),
        (25, Held::F64(1e-5_f64.to_bits())),
        (30, Held::F64(2.5_f64.to_bits())),
        (50, Held::F64((-0.0_f64).to_bits())),
    ];
    assert_eq!(load, want.map(|(time, held)| (time * SECOND, held)).into());
    assert_eq!(stored(&engine, "M2/load")[&(20 * SECOND)], Held::Nothing);
    let mode = stored(&engine, "M1/mode");
    assert_eq!(mode[&(11 * SECOND)], Held::Text("42".into()));
    assert_eq!(mode[&(12 * SECOND)], Held::BadText("UNAVAILABLE".into()));
    assert_eq!(mode[&(13 * SECOND)], Held::Text("".into()));
    let mut want = read_long(&path, "machine", "tag", "ts", "value");
    want.retain(|name, _| !name.contains('\u{7}'));
    answers_agree(&Database::over(engine).unwrap(), &want, 1).await;
}
