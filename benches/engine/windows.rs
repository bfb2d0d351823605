//! Part of the benchmark `encoding`: whole scans and windows over sealed segments, on one core.
//!
//! Claim defended: windows of a minute over packed encodings are folded at 0.8 G samples a second, decoding included.
//! What is not measured here: the disk (files are in the page cache) and merging (nothing overlaps).

use std::hint::black_box;
use std::io::{self, Write};

use tagmill_storage::{
    Batch, Engine, Options, Qualities, RollupRequest, SECOND_NS, ScanRequest, TagColumn,
    TagDefinition, TagId, TagSelection, Tiers, TimeRange, Value, ValueType, Values,
};

use tagmill_engine_benches::plant::Noise;

use super::{process, rate, widened};

const TAGS: usize = 48;
const ROWS: usize = 8 * 8_192;
/// Samples of a window: those of a minute at 1 Hz.
const ROWS_A_MINUTE: i64 = 60;

/// A database of tags that are alike.
struct Case {
    name: &'static str,
    value_type: ValueType,
    times: fn(&mut Noise) -> Vec<i64>,
    value: fn(f64) -> Value,
    step_ns: i64,
}

fn grid(step_ns: i64) -> Vec<i64> {
    (0..ROWS as i64).map(|i| 1_700_000_000 * SECOND_NS + i * step_ns).collect()
}

fn jittered(noise: &mut Noise) -> Vec<i64> {
    grid(SECOND_NS).into_iter().map(|t| t + noise.below(11).cast_signed() * 1_000_000).collect()
}

fn two_decimals(value: f64) -> Value {
    Value::F64((value * 100.0).round() / 100.0)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to a converter's count is meant")]
fn count(value: f64) -> Value {
    Value::I64((value * 25.0) as i64)
}

fn cases() -> [Case; 5] {
    let second: fn(&mut Noise) -> Vec<i64> = |_| grid(SECOND_NS);
    [
        Case {
            name: "decimals, grid",
            value_type: ValueType::F64,
            times: second,
            value: two_decimals,
            step_ns: SECOND_NS,
        },
        Case {
            name: "decimals, shared jitter",
            value_type: ValueType::F64,
            times: jittered,
            value: two_decimals,
            step_ns: SECOND_NS,
        },
        Case {
            name: "12-bit ADC, grid",
            value_type: ValueType::F64,
            times: second,
            value: |value| Value::F64(widened((value * 27.3).round() / 4_095.0 * 150.0 - 20.0)),
            step_ns: SECOND_NS,
        },
        Case {
            name: "counts as i64, grid",
            value_type: ValueType::I64,
            times: second,
            value: count,
            step_ns: SECOND_NS,
        },
        Case {
            name: "decimals, 100 Hz",
            value_type: ValueType::F64,
            times: |_| grid(SECOND_NS / 100),
            value: two_decimals,
            step_ns: SECOND_NS / 100,
        },
    ]
}

/// Prints a line a case: bytes a sample, and millions of samples a second scanned and folded.
pub(super) fn run(only: Option<&str>, out: &mut impl Write) -> io::Result<()> {
    let title = "sealed, 48 tags";
    writeln!(out, "\n{title:<26} bytes/sample     scan M/s  windows M/s   one window M/s")?;
    for case in cases() {
        let name = format!("window: {}", case.name);
        if only.is_none_or(|only| name.contains(only)) {
            writeln!(out, "{name:<34} {}", measure(&case))?;
        }
    }
    Ok(())
}

fn measure(case: &Case) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = Engine::open(folder.path(), Options::default()).expect("an empty folder opens");
    fill(&engine, case);
    engine.seal().expect("the head is sealed");
    let snapshot = engine.snapshot();
    let bytes: u64 = snapshot.segments().iter().map(|segment| segment.bytes).sum();
    let rows = TAGS * ROWS;
    let scan = rate(rows, || {
        for batch in snapshot.scan(ScanRequest::new(TagSelection::All, TimeRange::ALL)) {
            black_box(batch.expect("the segment is whole"));
        }
    });
    let windows = |width_ns| {
        rate(rows, || {
            let request = RollupRequest::new(TagSelection::All, TimeRange::ALL, width_ns);
            let request = RollupRequest { tiers: Tiers::Off, ..request };
            for part in snapshot.rollups(request) {
                black_box(part.expect("the segment is whole"));
            }
        })
    };
    let minutes = windows(ROWS_A_MINUTE * case.step_ns);
    let whole = windows(i64::MAX / 2);
    let size = bytes as f64 / rows as f64;
    format!("{size:>4.3} {scan:>12.0} {minutes:>12.0} {whole:>16.0}")
}

fn fill(engine: &Engine, case: &Case) {
    let definition = |i| TagDefinition::new(format!("bench/{i}"), case.value_type);
    let tags: Vec<TagId> =
        engine.define(&(0..TAGS).map(definition).collect::<Vec<_>>()).expect("tags are defined");
    let mut noise = Noise(7);
    let times = (case.times)(&mut noise);
    for tag in tags {
        let values = process(&mut noise, ROWS, 78.5, 0.02, 0.05);
        let mut column = Values::empty(case.value_type);
        for value in values {
            column.push((case.value)(value));
        }
        let (times, qualities) = (times.clone(), Qualities::GOOD);
        let columns = vec![TagColumn { tag, times, values: column, qualities }];
        engine.append(Batch { columns, ..Batch::default() }).expect("samples are taken");
    }
}
