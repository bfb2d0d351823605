//! `tagmill export` and `tagmill import` of what it wrote, through the real program: the same tags and samples to the bit,
//! whole days, whole files or none.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit, TimestampNanosecondType, UInt32Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_engine_tests::workload::{self, Style, Timeline};
use tagmill_server::cli::export::columns::{RowBuilder, schema};
use tagmill_storage::disk::sim::Random;
use tagmill_storage::{
    Batch, DAY_NS, Engine, Options, Qualities, Quality, SECOND_NS, ScanBatch, ScanRequest,
    StateSet, Tag, TagAttributes, TagColumn, TagDefinition, TagEdit, TagId, TagSelection,
    TimeRange, ValueType, Values,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tagmill-under-test");
/// 2024-03-01T00:00:00Z.
const DAY: i64 = 1_709_251_200 * SECOND_NS;

/// Type, attributes and state labels of a tag, and its samples as text that differs where a bit does.
#[derive(Debug, PartialEq)]
struct Held {
    value_type: ValueType,
    attributes: TagAttributes,
    states: Vec<(u16, String)>,
    rows: BTreeMap<i64, (String, Quality)>,
}

fn open(dir: &Path) -> Engine {
    Engine::open(dir, Options::default()).unwrap()
}

/// Everything a database holds of live tags, by name.
fn held(engine: &Engine, range: TimeRange) -> BTreeMap<String, Held> {
    let snapshot = engine.snapshot();
    let registry = snapshot.registry();
    let mut all = BTreeMap::new();
    for tag in registry.iter() {
        let states = registry.states(tag.state_set()).into_iter().flat_map(StateSet::iter);
        let held = Held {
            value_type: tag.value_type,
            attributes: tag.attributes.clone(),
            states: states.map(|(code, label)| (code, label.to_string())).collect(),
            rows: BTreeMap::new(),
        };
        all.insert(tag.name.to_string(), held);
    }
    for batch in snapshot.scan(ScanRequest::new(TagSelection::All, range)) {
        let batch = batch.unwrap();
        let name = registry.get(batch.tag).unwrap().name.to_string();
        let rows = &mut all.get_mut(&name).unwrap().rows;
        for (at, time) in batch.times.iter().enumerate() {
            let value = batch.values.get(at).unwrap();
            let shown = format!("{value:?} {:x}", value.to_word());
            assert_eq!(rows.insert(*time, (shown, batch.qualities.at(at))), None);
        }
    }
    all
}

/// Runs the program; what it wrote to standard output, or to standard error if it failed.
fn tagmill(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// All rows of an exported file.
fn rows(path: &Path) -> Vec<RecordBatch> {
    let file = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    file.build().unwrap().map(Result::unwrap).collect()
}

/// A database with every type, every class of value, late samples, deletes, edits, and tags without samples.
fn random_database(random: &mut Random, dir: &Path) -> Engine {
    let engine = open(dir);
    let definitions: Vec<TagDefinition> =
        (0..40).map(|number| workload::definition(random, number)).collect();
    let ids = engine.define(&definitions).unwrap();
    for set in workload::STATE_SETS {
        engine.grow_states(set, &["STOP".into(), "RUN \"1\"".into(), "Stör".into()]).unwrap();
    }
    for (tag, definition) in ids.iter().zip(&definitions) {
        if definition.value_type == ValueType::State && random.once_in(2) {
            engine
                .set_states(&definition.name, &[(3, "DREI".into()), (65_535, "MAX".into())])
                .unwrap();
        }
        // Every class of value of the type, whatever style the tag has.
        let mut values = Values::empty(definition.value_type);
        let count = 30 + random.index(200);
        for _ in 0..count {
            values.push(workload::value(random, definition.value_type, Style::Nasty));
        }
        if random.once_in(4) {
            continue;
        }
        let qualities = (0..count).map(|_| workload::quality(random)).collect();
        let mut timeline = timeline(random);
        let times = timeline.times(random, count);
        let column = TagColumn { tag: *tag, times, values, qualities: Qualities::Each(qualities) };
        let batch = Batch { columns: vec![column], ..Batch::default() };
        assert_eq!(engine.append(batch).unwrap().rejects, []);
    }
    let typed: Vec<(TagId, ValueType)> =
        ids.iter().zip(&definitions).map(|(id, of)| (*id, of.value_type)).collect();
    for step in 0..30 {
        let mut timeline = timeline(random);
        let batch = workload::batch(random, &mut timeline, &typed[5..], 300);
        engine.append(batch).unwrap();
        match random.below(10) {
            0 => drop(engine.seal().unwrap()),
            1 => {
                let from =
                    DAY + random.below(10 * DAY_NS.unsigned_abs()).cast_signed() - 5 * DAY_NS;
                let range = TimeRange::new(from, from + random.below(1 << 46).cast_signed());
                engine.delete(&ids[10..20], range, "test").unwrap();
            }
            2 => {
                let edit = TagEdit { name: Some(format!("renamed {step}")), attributes: None };
                engine.edit_tag(ids[random.index(ids.len() - 1)], edit).unwrap();
            }
            _ => {}
        }
    }
    engine.delete_tag(ids[ids.len() - 1], "test").unwrap();
    engine
}

fn timeline(random: &mut Random) -> Timeline {
    let step_ns = [1, 1_000_003, SECOND_NS, 600 * SECOND_NS][random.index(4)];
    let midnight = DAY + (random.below(10).cast_signed() - 5) * DAY_NS;
    Timeline {
        at_ns: midnight - step_ns * random.below(200).cast_signed(),
        reach_ns: 200 * step_ns,
        step_ns,
        is_late: None,
    }
}

#[test]
fn an_export_comes_back_bit_for_bit() {
    for seed in seeds(4) {
        let _case =
            Case::of(env!("CARGO_PKG_NAME"), "export::an_export_comes_back_bit_for_bit", seed);
        let mut random = Random::new(seed);
        let scratch = tempfile::tempdir().unwrap();
        let [from, out, to] = ["from", "out", "to"].map(|name| scratch.path().join(name));
        let engine = random_database(&mut random, &from);
        let want = held(&engine, TimeRange::ALL);
        engine.close().unwrap();
        let said = tagmill(&["export", str(&out), "--data", str(&from)]).unwrap();
        check_files(&out, &want, &said);
        tagmill(&["import", str(&out), "--data", str(&to)]).unwrap();
        let engine = open(&to);
        let have = held(&engine, TimeRange::ALL);
        assert_eq!(have.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
        for (name, want) in &want {
            assert_eq!(&have[name], want, "{name}");
        }
        engine.close().unwrap();
        // Once more changes nothing, nor does it under other names what stands under these.
        let said = tagmill(&["import", str(&out), "--data", str(&to)]).unwrap();
        assert!(said.contains("nothing was written again"), "{said}");
        tagmill(&["import", str(&out), "--data", str(&to), "--prefix", "again"]).unwrap();
        let twice = held(&open(&to), TimeRange::ALL);
        assert_eq!(twice.len(), 2 * want.len());
        for (name, want) in &want {
            assert_eq!(&twice[name], want, "{name}");
            assert_eq!(&twice[&format!("again/{name}")].rows, &want.rows, "again/{name}");
            assert_eq!(&twice[&format!("again/{name}")].states, &want.states, "again/{name}");
        }
    }
}

/// One file a day, sorted by tag and time, said to be so, with plain types.
fn check_files(out: &Path, want: &BTreeMap<String, Held>, said: &str) {
    let mut files = names(out);
    assert_eq!(files.pop().as_deref(), Some("_tags.json"));
    let count: usize = want.values().map(|held| held.rows.len()).sum();
    assert!(said.contains(&format!("{} files", files.len())), "{said}");
    let mut found = 0;
    for name in &files {
        let path = out.join(name);
        let file = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        assert_eq!(file.schema().fields(), schema().fields());
        assert_eq!(file.schema().metadata()["tagmill.export"], "1");
        let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        assert_eq!(file.schema().field(1).data_type(), &utc);
        for group in file.metadata().row_groups() {
            let sorted = group.sorting_columns().unwrap();
            assert_eq!(sorted.iter().map(|by| by.column_idx).collect::<Vec<_>>(), [0, 1]);
            let statistics = group.column(1).statistics().unwrap();
            assert!(statistics.min_bytes_opt().is_some() && statistics.max_bytes_opt().is_some());
        }
        let mut last: Option<(String, i64)> = None;
        for batch in rows(&path) {
            found += batch.num_rows();
            let tags = batch.column(0).as_string::<i32>();
            let times = batch.column(1).as_primitive::<TimestampNanosecondType>();
            let qualities = batch.column(3).as_primitive::<UInt32Type>();
            for row in 0..batch.num_rows() {
                let key = (tags.value(row).to_owned(), times.value(row));
                assert!(last.as_ref().is_none_or(|last| *last < key), "{last:?} before {key:?}");
                let day = tagmill_storage::Rfc3339(key.1.div_euclid(DAY_NS) * DAY_NS).to_string();
                assert_eq!(name, &format!("{}.parquet", &day[..10]));
                // What SQL would not show is not shown here either.
                if Quality(qualities.value(row)).is_bad() {
                    assert!((4..7).all(|column| batch.column(column).is_null(row)), "{key:?}");
                }
                last = Some(key);
            }
        }
    }
    assert_eq!(found, count);
}

/// A database of one tag with a sample, the nanoseconds after [`DAY`], at each of these times.
fn one_tag(dir: &Path, name: &str, offsets: &[i64]) {
    let engine = open(dir);
    let tag = engine.define(&[TagDefinition::new(name, ValueType::I64)]).unwrap()[0];
    let times = offsets.iter().map(|offset| DAY + offset).collect();
    let values = Values::I64(offsets.to_vec());
    let column = TagColumn { tag, times, values, qualities: Qualities::GOOD };
    engine.append(Batch { columns: vec![column], ..Batch::default() }).unwrap();
    engine.close().unwrap();
}

/// Names of days, and the offsets of the samples in their files.
type Days<'a> = &'a [(&'a str, &'a [i64])];

fn exported_offsets(out: &Path) -> BTreeMap<String, Vec<i64>> {
    let files = names(out).into_iter().filter(|name| name != "_tags.json");
    let offsets = |path: PathBuf| {
        let batches = rows(&path);
        let times = batches.iter().map(|b| b.column(1).as_primitive::<TimestampNanosecondType>());
        times.flat_map(|times| times.values().iter().map(|time| time - DAY)).collect()
    };
    files.map(|name| (name.clone(), offsets(out.join(&name)))).collect()
}

#[test]
fn ranges_and_days_are_half_open() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let noon = DAY_NS / 2;
    one_tag(&data, "a", &[-1, 0, 1, noon, DAY_NS - 1, DAY_NS, 3 * DAY_NS]);
    let cases: [(&[&str], Days<'_>); 5] = [
        (
            &[],
            &[
                ("2024-02-29", &[-1]),
                ("2024-03-01", &[0, 1, noon, DAY_NS - 1]),
                ("2024-03-02", &[DAY_NS]),
                ("2024-03-04", &[3 * DAY_NS]),
            ],
        ),
        (
            &["--from", "2024-03-01T00:00:00Z", "--to", "2024-03-02T00:00:00Z"],
            &[("2024-03-01", &[0, 1, noon, DAY_NS - 1])],
        ),
        (
            &["--from", "2024-03-01T00:00:00.000000001Z", "--to", "2024-03-01T12:00:00Z"],
            &[("2024-03-01", &[1])],
        ),
        (
            &[
                "--from",
                "2024-03-01",
                "--to",
                "2024-03-02 00:00:00.000000001",
                "--time-zone",
                "UTC",
            ],
            &[("2024-03-01", &[0, 1, noon, DAY_NS - 1]), ("2024-03-02", &[DAY_NS])],
        ),
        (&["--from", "2024-03-02T00:00:00.000000001Z", "--to", "2024-03-04T00:00:00Z"], &[]),
    ];
    for (number, (range, want)) in cases.iter().enumerate() {
        let out = scratch.path().join(format!("out{number}"));
        let arguments = [&["export", str(&out), "--data", str(&data)], *range].concat();
        let said = tagmill(&arguments).unwrap();
        let want: BTreeMap<String, Vec<i64>> = want
            .iter()
            .map(|(day, offsets)| (format!("{day}.parquet"), offsets.to_vec()))
            .collect();
        assert_eq!(exported_offsets(&out), want, "{range:?}: {said}");
        // Without a single sample the tag is known all the same.
        let copy = scratch.path().join(format!("copy{number}"));
        tagmill(&["import", str(&out), "--data", str(&copy)]).unwrap();
        let have = held(&open(&copy), TimeRange::ALL);
        assert_eq!(have["a"].value_type, ValueType::I64);
        assert_eq!(have["a"].rows.len(), want.values().map(Vec::len).sum::<usize>());
    }
}

#[test]
fn tags_are_chosen_by_name_and_label() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    one_tag(&data, "u1/a", &[0]);
    one_tag(&data, "u1/b", &[1]);
    one_tag(&data, "u2/a", &[2]);
    tagmill(&["tags", "set", "u1/b", "label:area=north", "unit=bar", "--data", str(&data)])
        .unwrap();
    tagmill(&["tags", "set", "u2/a", "label:area=north", "--data", str(&data)]).unwrap();
    let exported = |arguments: &[&str]| {
        let out =
            scratch.path().join(format!("out{}", arguments.concat().replace(['/', '*'], "-")));
        let arguments = [&["export", str(&out), "--data", str(&data)], arguments].concat();
        tagmill(&arguments).map(|_| exported_offsets(&out).into_values().flatten().collect())
    };
    assert_eq!(exported(&["--tags", "u1/*"]), Ok(vec![0, 1]));
    assert_eq!(exported(&["--tags", "u1/a,u2/a"]), Ok(vec![0, 2]));
    assert_eq!(exported(&["--label", "area=north"]), Ok(vec![1, 2]));
    assert_eq!(exported(&["--label", "area=north", "--tags", "u1/*"]), Ok(vec![1]));
    for wrong in [&["--tags", "u3/*"], &["--label", "area=south"]] {
        let said = exported(wrong).unwrap_err();
        assert!(said.contains("no tag"), "{said}");
    }
    let never = scratch.path().join("never");
    tagmill(&["export", str(&never), "--connect", "127.0.0.1:1"]).unwrap_err();
    assert!(!never.exists());
}

#[test]
fn nothing_is_replaced_unasked() {
    let scratch = tempfile::tempdir().unwrap();
    let [data, out] = ["data", "out"].map(|name| scratch.path().join(name));
    one_tag(&data, "a", &[0]);
    one_tag(&data, "b", &[DAY_NS]);
    let day = |tag: &str, from: &str, to: &str, more: &[&str]| {
        let data = ["--data", str(&data)];
        let range = ["--tags", tag, "--from", from, "--to", to];
        tagmill(&[&["export", str(&out)], &range[..], &data[..], more].concat())
    };
    let (first, second, third) =
        ("2024-03-01T00:00:00Z", "2024-03-02T00:00:00Z", "2024-03-03T00:00:00Z");
    day("a", first, second, &[]).unwrap();
    let said = day("a", first, third, &[]).unwrap_err();
    assert!(said.contains("2024-03-01.parquet exists") && said.contains("--overwrite"), "{said}");
    // Another day goes into the same folder, and the folder still knows the first one's tags.
    day("b", second, third, &[]).unwrap();
    let copy = scratch.path().join("copy");
    tagmill(&["import", str(&out), "--data", str(&copy)]).unwrap();
    assert_eq!(held(&open(&copy), TimeRange::ALL).keys().collect::<Vec<_>>(), ["a", "b"]);
    one_tag(&data, "a", &[0, 5]);
    day("a", first, second, &["--overwrite"]).unwrap();
    let offsets = exported_offsets(&out);
    assert_eq!(offsets["2024-03-01.parquet"], [0, 5]);
    assert_eq!(offsets["2024-03-02.parquet"], [DAY_NS]);
    // A file of this name that somebody else has written stays.
    fs::write(out.join("_tags.json"), "{\"mine\": 1}").unwrap();
    fs::remove_file(out.join("2024-03-01.parquet")).unwrap();
    let said = day("a", first, second, &[]).unwrap_err();
    assert!(said.contains("_tags.json exists"), "{said}");
    assert_eq!(fs::read(out.join("_tags.json")).unwrap(), b"{\"mine\": 1}");
}

#[test]
fn a_target_that_cannot_be_written_leaves_no_half_file() {
    let scratch = tempfile::tempdir().unwrap();
    let [data, out] = ["data", "out"].map(|name| scratch.path().join(name));
    one_tag(&data, "a", &[0, DAY_NS]);
    fs::write(scratch.path().join("file"), "").unwrap();
    let below = scratch.path().join("file/out");
    let said = tagmill(&["export", str(&below), "--data", str(&data)]).unwrap_err();
    assert!(said.contains("file/out") && said.contains("next:"), "{said}");
    if !Path::new("/dev/full").exists() {
        println!("SKIPPED: no /dev/full to stand for a full disk");
        return;
    }
    // What is written to the second day's file meets a full disk.
    fs::create_dir(&out).unwrap();
    let part = out.join("_2024-03-02.parquet.part");
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let said = tagmill(&["export", str(&out), "--data", str(&data)]).unwrap_err();
    assert!(said.contains("No space left") && said.contains("2024-03-02.parquet"), "{said}");
    let left = names(&out);
    assert!(!left.iter().any(|name| name.contains("03-02") || name.contains(".part")), "{left:?}");
    // What is there is whole.
    for (name, offsets) in exported_offsets(&out) {
        assert_eq!((name.as_str(), offsets.as_slice()), ("2024-03-01.parquet", &[0_i64][..]));
    }
    tagmill(&["export", str(&out), "--data", str(&data), "--overwrite"]).unwrap();
    assert_eq!(exported_offsets(&out).len(), 2);
}

#[test]
fn a_file_that_lies_is_refused_row_by_row() {
    let scratch = tempfile::tempdir().unwrap();
    let [file, data] = ["2024-03-01.parquet", "data"].map(|name| scratch.path().join(name));
    let tag = |name: &str, value_type| Tag {
        id: TagId(0),
        name: Arc::from(name),
        value_type,
        attributes: TagAttributes::default(),
        created_ns: 0,
    };
    let mut builder = RowBuilder::new();
    let mut push = |tag: &Tag, offset, values| {
        let (times, qualities) = (vec![DAY + offset], Qualities::GOOD);
        builder.push(tag, None, &ScanBatch { tag: tag.id, times, values, qualities });
    };
    push(&tag("good", ValueType::F64), 0, Values::F64(vec![0.1]));
    // A type that the cells do not fit, a tag of two types, a name no tag can have, a time out of range.
    push(&tag("wide", ValueType::F32), 0, Values::F64(vec![0.1]));
    push(&tag("empty", ValueType::Text), 0, Values::I64(vec![1]));
    push(&tag("good", ValueType::I64), 1, Values::I64(vec![1]));
    push(&tag("a//b", ValueType::I64), 0, Values::I64(vec![1]));
    push(&tag("good", ValueType::F64), -DAY - 1, Values::F64(vec![1.0]));
    let batch = builder.finish().unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&file).unwrap(), schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let said = tagmill(&["import", str(&file), "--data", str(&data)]).unwrap();
    for part in
        ["took 1 samples", "1: the tag has several types", "2: the row holds no value", "1970"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(held(&open(&data), TimeRange::ALL).keys().collect::<Vec<_>>(), ["good"]);
    // A file cut short is refused as a whole; a folder without an export says what to do.
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        tagmill(&["import", str(&file), "--data", str(&data)]).unwrap_err().contains("cut off")
    );
    let said = tagmill(&["import", str(&data), "--data", str(&data)]).unwrap_err();
    assert!(said.contains("no export"), "{said}");
}
