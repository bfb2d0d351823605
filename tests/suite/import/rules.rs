//! What an import promises beyond reading right: it goes on after a break, and never bends a value to fit a tag.

use std::fmt::Write as _;
use std::sync::Arc;

use tagmill_server::cli::failure::{Failure, Result};
use tagmill_server::cli::import::local::LocalSink;
use tagmill_server::cli::import::mapping::{parse_long, parse_wide};
use tagmill_server::cli::import::sink::{Column, DryRun, Sink, SinkReject};
use tagmill_server::cli::import::{Import, run};
use tagmill_storage::{TagDefinition, ValueType};

use super::plain::{Held, History};
use super::{engine, import_into, stored};

/// Fails after some batches, as a full disk or a lost server would.
#[derive(Debug)]
pub(crate) struct Breaks<S> {
    inner: S,
    after: u64,
}

impl<S> Breaks<S> {
    pub(crate) fn new(inner: S, after: u64) -> Self {
        Self { inner, after }
    }
}

impl<S: Sink> Sink for Breaks<S> {
    fn begin(&mut self, id: &str) -> Result<u64> {
        self.inner.begin(id)
    }

    fn type_of(&self, name: &str) -> Option<ValueType> {
        self.inner.type_of(name)
    }

    fn define(&mut self, tags: &[TagDefinition]) -> Result<Vec<Result<u32, String>>> {
        self.inner.define(tags)
    }

    fn send(&mut self, seq: u64, columns: Vec<Column>) -> Result<()> {
        if seq > self.after {
            // What was handed over before is written, as when a process is stopped between two batches.
            self.inner.finish()?;
            return Err(Failure::new("broken on purpose"));
        }
        self.inner.send(seq, columns)
    }

    fn finish(&mut self) -> Result<Vec<SinkReject>> {
        self.inner.finish()
    }
}

#[test]
fn a_broken_import_goes_on_where_it_stopped_and_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wide.csv");
    let rows = 60_000;
    let mut text = String::from("t,a,b,c,d,e,mode\n");
    for row in 0..rows {
        let mode = if row % 7 == 0 { "RUN" } else { "STOP" };
        writeln!(text, "{row},{row},{}.5,,{},1e3,{mode}", row % 100, row * 3).unwrap();
    }
    std::fs::write(&path, text).unwrap();
    let mut import = Import::new(&path, parse_wide("time=t").unwrap());
    import.times.format = Some("s".parse().unwrap());
    "csv".clone_into(&mut import.prefix);

    let engine = engine(&dir.path().join("db"));
    let inner = LocalSink::new(Arc::clone(&engine));
    let failed = run(&import, &mut Breaks::new(inner, 2), &|_, _, _| {}).unwrap_err();
    assert!(failed.to_string().contains("broken on purpose"), "{failed}");

    let second = import_into(&engine, &import);
    assert_eq!((second.taken, second.batches, second.batches_before), (5 * rows, 3, 2));
    assert!(second.remarks.iter().any(|remark| remark.contains("'c'")), "{second}");
    let seq = engine.snapshot().seq();
    let third = import_into(&engine, &import);
    assert_eq!((third.batches, third.batches_before), (3, 3));
    assert_eq!(engine.snapshot().seq(), seq, "the third run wrote something");

    let want = |value: &dyn Fn(i64) -> Held| -> History {
        (0..i64::try_from(rows).unwrap()).map(|row| (row * 1_000_000_000, value(row))).collect()
    };
    assert_eq!(stored(&engine, "csv/a"), want(&Held::I64));
    let half = |row: i64| Held::F64(((row % 100) as f64 + 0.5).to_bits());
    assert_eq!(stored(&engine, "csv/b"), want(&half));
    assert_eq!(stored(&engine, "csv/e"), want(&|_| Held::F64(1e3_f64.to_bits())));
    let mode = |row: i64| if row % 7 == 0 { "RUN" } else { "STOP" };
    assert_eq!(stored(&engine, "csv/mode"), want(&|row| Held::Text(mode(row).into())));
}

#[test]
fn a_known_tag_keeps_its_type_and_what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&dir.path().join("db"));
    let definitions = [("x", ValueType::I64), ("note", ValueType::Text), ("on", ValueType::Bool)];
    engine.define(&definitions.map(|(name, kind)| TagDefinition::new(name, kind))).unwrap();
    let path = dir.path().join("long.csv");
    let text = "when;tag;value;q\n\
        2024-01-01 00:00:00;x;1,5;Good\n2024-01-01 00:00:01;x;2;192\n\
        2024-01-01 00:00:02;note;3,5;Good\n2024-01-01 00:00:03;on;1;Good\n\
        2024-01-01 00:00:04;on;2;Good\n2024-01-01 00:00:05;x;3;Bad_CommFailure\n\
        2024-01-01 00:00:06;x\nnever;x;5;Good\n";
    std::fs::write(&path, text).unwrap();
    let mapping = "tag=tag,time=when,value=value,quality=q";
    let mut import = Import::new(&path, parse_long(mapping).unwrap());
    import.decimal = ',';
    let refused = run(&import, &mut DryRun::default(), &|_, _, _| {}).unwrap_err().to_string();
    assert!(refused.contains("--time-zone"), "{refused}");
    import.times.zone = Some("Europe/Berlin".parse().unwrap());
    let report = import_into(&engine, &import);
    println!("{report}");
    assert_eq!((report.rows, report.taken, report.bad, report.refused_count()), (8, 4, 1, 4));
    for part in ["fraction", "not as wide", "cannot be read", "0 and 1"] {
        assert!(report.refused.keys().any(|reason| reason.contains(part)), "{part}: {report}");
    }
    let second = |n: i64| 1_704_063_600_000_000_000 + n * 1_000_000_000;
    let want = [(second(1), Held::I64(2)), (second(5), Held::Nothing)];
    assert_eq!(stored(&engine, "x"), want.into());
    assert_eq!(stored(&engine, "note"), [(second(2), Held::Text("3,5".into()))].into());
}
