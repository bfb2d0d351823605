//! Claims defended, with 100 tags of the plant at 1 Hz for a day, 8.64 M samples:
//! * a full head is sealed at 8 M samples a second or more;
//! * a day is compacted for good at 3 M samples a second or more;
//! * neither answers nor sizes suffer from samples that are late by minutes to a day, whatever their share.
//!
//! For each share of late samples: ingest rate (from the first batch handed over until all is acknowledged and sealed, seals
//! and merges beside it), bytes written for each sample over its life (log, seals, merges), bytes on disk, and how fast
//! windows of all tags and a scan are answered, before and after the day is ended. Every answer is compared with the
//! samples as they were made: the scan sample by sample, the windows with a recount.
//!
//! `cargo bench -p tagmill-engine-benches --bench compaction` prints the figures. `-- --tags 20 --hours 6` makes it smaller,
//! `-- --late 10` takes one share only.

use std::error::Error;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use tagmill_engine_benches::feed::feed;
use tagmill_engine_benches::plant::{Noise, Plant};
use tagmill_storage::{
    Engine, Options, Qualities, RollupRequest, ScanRequest, Severity, Snapshot, TagColumn, TagId,
    TagSelection, Tiers, TimeRange, Value, Values,
};

/// Seconds of each batch.
const BATCH_SECONDS: usize = 60;
/// The longest a piece is late, in batches: a day.
const DELAY_MAX: u64 = 1_440;
/// Memory of the head: a day makes several seals.
const HEAD_BYTES: u64 = 48 << 20;
const WINDOW_NS: i64 = 60_000_000_000;
const SEED: u64 = 20_260_101;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Size {
    tags: usize,
    seconds: usize,
    late_percents: Vec<u64>,
}

fn main() -> Outcome<()> {
    let size = size()?;
    let mut out = io::stdout().lock();
    let samples = size.tags * size.seconds;
    writeln!(out, "{} tags, {} s at 1 Hz: {samples} samples", size.tags, size.seconds)?;
    let ids: Vec<TagId> = (0..u32::try_from(size.tags)?).map(TagId).collect();
    // Whole columns: what is written is cut from them, and what is read is compared with them.
    let model = Plant::new(size.tags, SEED).next(&ids, size.seconds);
    let expected = recount(&model);
    writeln!(out, "seal of a full head        {:>8.2} M samples/s", seal_rate(&size, &model)?)?;
    writeln!(
        out,
        "late  ingest  compaction  written  segments      on disk       windows      scan"
    )?;
    writeln!(
        out,
        "   %     M/s         M/s  B/sample   of them     B/sample  M samples/s       M/s"
    )?;
    for &percent in &size.late_percents {
        measure(&size, &model, &expected, percent, &mut out)?;
    }
    Ok(())
}

fn size() -> Outcome<Size> {
    let mut size = Size { tags: 100, seconds: 86_400, late_percents: vec![0, 1, 10, 50] };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--tags" => size.tags = value()?.parse()?,
            "--hours" => size.seconds = value()?.parse::<usize>()? * 3_600,
            "--late" => size.late_percents = vec![value()?.parse()?],
            _ => {} // what cargo adds
        }
    }
    Ok(size)
}

fn open(path: &Path, head_bytes: u64, background_compaction: bool) -> Outcome<Engine> {
    let options =
        Options { head_bytes, background_compaction, scrub_period: None, ..Options::default() };
    Ok(Engine::open(path, options)?)
}

/// A day that fits the head, sealed at once.
fn seal_rate(size: &Size, model: &[TagColumn]) -> Outcome<f64> {
    let folder = tempfile::tempdir()?;
    let engine = open(&folder.path().join("data"), 4 << 30, false)?;
    engine.define(&Plant::new(size.tags, SEED).definitions())?;
    feed(&engine, batches(size, model, 0))?;
    let rows = engine.snapshot().head().rows;
    let start = Instant::now();
    engine.seal()?;
    Ok(rows as f64 / start.elapsed().as_secs_f64() / 1e6)
}

/// One share of late samples: a line as they came, and a line after the day was ended.
fn measure(
    size: &Size,
    model: &[TagColumn],
    expected: &[Window],
    percent: u64,
    out: &mut impl Write,
) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    let samples = (size.tags * size.seconds) as f64;
    let engine = open(&path, HEAD_BYTES, true)?;
    engine.define(&Plant::new(size.tags, SEED).definitions())?;
    let batches = batches(size, model, percent);
    let start = Instant::now();
    feed(&engine, batches)?;
    engine.seal()?;
    let ingest = samples / start.elapsed().as_secs_f64() / 1e6;
    let metrics = engine.metrics();
    let mut written = metrics.wal_bytes + metrics.seal_bytes + metrics.compaction_written_bytes;
    engine.close()?;
    let engine = open(&path, HEAD_BYTES, false)?;
    let line = |out: &mut dyn Write, rates: [f64; 2], written: u64| -> Outcome<()> {
        let snapshot = engine.snapshot();
        let (segments, read) = (snapshot.segments(), read(&snapshot, model, expected)?);
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let (size, written) = (bytes as f64 / samples, written as f64 / samples);
        let ([ingest, compaction], [windows, scan]) = (rates, read);
        write!(out, "{percent:>4} {ingest:>7.2} {compaction:>11.2} {written:>9.2}")?;
        writeln!(out, " {:>9} {size:>12.3} {windows:>12.0} {scan:>9.0}", segments.len())?;
        Ok(())
    };
    line(out, [ingest, 0.0], written)?;
    let start = Instant::now();
    engine.compact()?;
    let compaction = samples / start.elapsed().as_secs_f64() / 1e6;
    written += engine.metrics().compaction_written_bytes;
    line(out, [ingest, compaction], written)
}

/// The samples in the order in which they come: each batch has what its minute brought, and what is late since before.
fn batches(size: &Size, model: &[TagColumn], late_percent: u64) -> Vec<Vec<TagColumn>> {
    let minutes = size.seconds.div_ceil(BATCH_SECONDS);
    let mut batches = vec![Vec::new(); minutes + usize::try_from(DELAY_MAX).unwrap_or(0) + 1];
    let mut noise = Noise(SEED ^ late_percent);
    for minute in 0..minutes {
        let rows = minute * BATCH_SECONDS..size.seconds.min((minute + 1) * BATCH_SECONDS);
        for column in model {
            let is_late = noise.below(100) < late_percent;
            // As likely to be late by two minutes to four as by half a day to a day.
            let reach = DELAY_MAX >> noise.below(10);
            let delay = if is_late { 1 + noise.below(reach) } else { 0 };
            batches[minute + usize::try_from(delay).unwrap_or(0)].push(cut(column, rows.clone()));
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

fn cut(column: &TagColumn, rows: Range<usize>) -> TagColumn {
    let values = match &column.values {
        Values::F64(values) => Values::F64(values[rows.clone()].to_vec()),
        Values::F32(values) => Values::F32(values[rows.clone()].to_vec()),
        Values::I64(values) => Values::I64(values[rows.clone()].to_vec()),
        Values::Bool(values) => Values::Bool(values[rows.clone()].to_vec()),
        Values::State(values) => Values::State(values[rows.clone()].to_vec()),
        Values::Text(values) => Values::Text(values[rows.clone()].to_vec()),
    };
    let qualities = match &column.qualities {
        Qualities::Uniform(quality) => Qualities::Uniform(*quality),
        Qualities::Each(each) => Qualities::Each(each[rows.clone()].to_vec()),
    };
    TagColumn { tag: column.tag, times: column.times[rows].to_vec(), values, qualities }
}

/// How fast windows and a scan are answered, in million samples a second, after both were compared with the model.
fn read(snapshot: &Snapshot, model: &[TagColumn], expected: &[Window]) -> Outcome<[f64; 2]> {
    let samples: usize = model.iter().map(|column| column.times.len()).sum();
    let rate = |start: Instant| samples as f64 / start.elapsed().as_secs_f64() / 1e6;
    let scan = || snapshot.scan(ScanRequest::new(TagSelection::All, TimeRange::ALL));
    compare(scan(), model)?;
    let request = || {
        let request = RollupRequest::new(TagSelection::All, TimeRange::ALL, WINDOW_NS);
        RollupRequest { tiers: Tiers::Off, ..request }
    };
    let mut found = Vec::with_capacity(expected.len());
    for part in snapshot.rollups(request()) {
        let part = part?;
        found.extend(part.rollups.iter().map(|window| Window {
            tag: part.tag,
            start_ns: window.start_ns,
            counts: [window.good, window.uncertain, window.bad],
            sum: window.sum.to_bits(),
        }));
    }
    if let Some(at) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
        return Err(format!("window {:?}, {:?} expected", found[at], expected[at]).into());
    }
    if found.len() != expected.len() {
        return Err(format!("{} windows, {} expected", found.len(), expected.len()).into());
    }
    let (start, mut windows) = (Instant::now(), 0);
    for part in snapshot.rollups(request()) {
        windows += part?.rollups.len();
    }
    let window_rate = rate(start);
    let (start, mut rows) = (Instant::now(), 0);
    for batch in scan() {
        rows += batch?.times.len();
    }
    assert_eq!((windows, rows), (expected.len(), samples), "answers of one snapshot differ");
    Ok([window_rate, rate(start)])
}

/// The scan, sample by sample.
fn compare(scan: tagmill_storage::Scan, model: &[TagColumn]) -> Outcome<()> {
    let mut columns = model.iter();
    let (mut column, mut next) = (columns.next(), 0);
    for batch in scan {
        let batch = batch?;
        for row in 0..batch.times.len() {
            while column.is_some_and(|column| column.times.len() == next) {
                (column, next) = (columns.next(), 0);
            }
            let expected = column.ok_or("more samples than were written")?;
            let is_same = batch.tag == expected.tag
                && batch.times[row] == expected.times[next]
                && word(&batch.values, row) == word(&expected.values, next)
                && batch.qualities.at(row) == expected.qualities.at(next);
            if !is_same {
                return Err(format!("sample {next} of tag {} differs", expected.tag).into());
            }
            next += 1;
        }
    }
    let is_over = column.is_none_or(|column| column.times.len() == next) && columns.len() == 0;
    if is_over { Ok(()) } else { Err("fewer samples than were written".into()) }
}

fn word(values: &Values, row: usize) -> Option<u64> {
    values.get(row).as_ref().map(Value::to_word)
}

/// What is compared of a window.
#[derive(Debug, PartialEq)]
struct Window {
    tag: TagId,
    start_ns: i64,
    counts: [u64; 3],
    sum: u64,
}

/// The windows of the model, sums as [`tagmill_storage::Rollup::sum`] says.
fn recount(model: &[TagColumn]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for column in model {
        let start = |row: usize| column.times[row] - column.times[row].rem_euclid(WINDOW_NS);
        let mut from = 0;
        while from < column.times.len() {
            let rows = column.times[from..].partition_point(|t| *t < start(from) + WINDOW_NS);
            let rows = from..from + rows;
            let mut counts = [0; 3];
            let (mut lanes, mut finite, mut whole) = ([0.0; 8], 0, 0_i128);
            for row in rows.clone() {
                let severity = column.qualities.at(row).severity();
                counts[severity as usize] += 1;
                let value = column.values.get(row).filter(|_| severity != Severity::Bad);
                match value {
                    Some(Value::F64(value)) if value.is_finite() => {
                        lanes[finite % 8] += value;
                        finite += 1;
                    }
                    Some(Value::I64(value)) => whole += i128::from(value),
                    Some(Value::State(code)) => whole += i128::from(code),
                    _ => {}
                }
            }
            let [even, odd] =
                [0, 1].map(|at| (lanes[at] + lanes[at + 4]) + (lanes[at + 2] + lanes[at + 6]));
            let floats = even + odd;
            let is_float = matches!(column.values, Values::F64(_));
            let sum = if is_float { floats } else { whole as f64 };
            let (tag, start_ns) = (column.tag, start(from));
            windows.push(Window { tag, start_ns, counts, sum: sum.to_bits() });
            from = rows.end;
        }
    }
    windows
}
