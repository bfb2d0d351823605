//! Claims defended, with a plant of 500 tags at 1 Hz for a day, 43.2 M samples:
//! * durable ingest of 6 M samples a second or more in batches of 10,000, every batch acknowledged after its `fdatasync`;
//! * sealing at 8 M samples a second or more, final compaction at 3 M or more;
//! * 0.95 bytes a sample or less on disk, every file counted but tiers and the room that is set aside for a full
//!   disk (`ballast`).
//!
//! All samples are made before the clock runs. It then runs without a break: the first figure until every batch is
//! acknowledged, the second until all is in segments too; what is still in the head when the first ends is the last seal.
//!
//! `cargo bench -p tagmill-engine-benches --bench plant` prints each figure and takes some 2 GB of memory.
//! `-- --tags 100 --hours 2` makes it smaller, `-- --csv FILE` writes the same samples as CSV for other databases, and ends.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use tagmill_engine_benches::feed::feed;
use tagmill_engine_benches::plant::Plant;
use tagmill_engine_benches::process;
use tagmill_storage::{
    Engine, Options, ScanRequest, TagColumn, TagId, TagSelection, TimeRange, Value, Values,
};

/// Seconds of each batch: with 500 tags 10,000 samples.
const BATCH_SECONDS: usize = 20;
const SEED: u64 = 20_260_101;

struct Size {
    tags: usize,
    seconds: usize,
    csv: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let size = size()?;
    if let Some(path) = &size.csv {
        return write_csv(&size, Path::new(path));
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    let mut out = io::stdout().lock();
    let samples = (size.tags * size.seconds) as f64;
    let rate = |took: Duration| samples / took.as_secs_f64() / 1e6;
    writeln!(out, "{} tags, {} s at 1 Hz: {samples} samples", size.tags, size.seconds)?;

    let engine = Engine::open(&path, Options::default())?;
    let tags = engine.define(&Plant::new(size.tags, SEED).definitions())?;
    let batches = batches(&size, &tags);
    let start = Instant::now();
    feed(&engine, batches)?;
    writeln!(out, "ingest, durable            {:>8.2} M samples/s", rate(start.elapsed()))?;
    let (rows, last) = (engine.snapshot().head().rows, Instant::now());
    engine.seal()?;
    let sealing = rows as f64 / last.elapsed().as_secs_f64() / 1e6;
    writeln!(out, "ingest until all is sealed {:>8.2} M samples/s", rate(start.elapsed()))?;
    writeln!(out, "last seal, {rows:>9} rows {sealing:>8.2} M samples/s")?;
    sizes(&engine, samples, &mut out, "segments after seals")?;
    scan(&engine, &mut out, "scan of everything")?;
    let start = Instant::now();
    engine.compact()?;
    writeln!(out, "final compaction           {:>8.2} M samples/s", rate(start.elapsed()))?;
    sizes(&engine, samples, &mut out, "segments after compaction")?;
    scan(&engine, &mut out, "scan of everything")?;
    let tiers = tier_bytes(&engine);
    engine.close()?;
    report(&path, samples, tiers, &mut out)?;
    let start = Instant::now();
    let engine = Engine::open(&path, Options::default())?;
    writeln!(out, "open again                 {:>8.3} s", start.elapsed().as_secs_f64())?;
    drop(engine);
    Ok(())
}

fn size() -> Result<Size, Box<dyn Error>> {
    let mut size = Size { tags: 500, seconds: 86_400, csv: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--tags" => size.tags = value()?.parse()?,
            "--hours" => size.seconds = value()?.parse::<usize>()? * 3_600,
            "--csv" => size.csv = Some(value()?),
            _ => {} // what cargo adds
        }
    }
    Ok(size)
}

/// All samples in the batches in which they come.
fn batches(size: &Size, tags: &[TagId]) -> Vec<Vec<TagColumn>> {
    let mut plant = Plant::new(size.tags, SEED);
    let starts = (0..size.seconds).step_by(BATCH_SECONDS);
    starts.map(|start| plant.next(tags, BATCH_SECONDS.min(size.seconds - start))).collect()
}

fn sizes(engine: &Engine, samples: f64, out: &mut impl Write, what: &str) -> io::Result<()> {
    let segments = engine.snapshot().segments();
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let tiers = tier_bytes(engine);
    let [size, tiers] = [bytes - tiers, tiers].map(|bytes| bytes as f64 / samples);
    let files = segments.len();
    writeln!(out, "{what:<26} {size:>8.3} B/sample, tiers {tiers:.3} B/sample, {files} files")
}

fn tier_bytes(engine: &Engine) -> u64 {
    engine.snapshot().tiers().iter().map(|summary| summary.bytes).sum()
}

fn scan(engine: &Engine, out: &mut impl Write, what: &str) -> Result<(), Box<dyn Error>> {
    let (start, mut rows, mut sum) = (Instant::now(), 0_u64, 0.0);
    for batch in engine.snapshot().scan(ScanRequest::new(TagSelection::All, TimeRange::ALL)) {
        let batch = batch?;
        rows += batch.times.len() as u64;
        if let Values::F64(values) = &batch.values {
            sum += values.iter().sum::<f64>();
        }
    }
    let rate = rows as f64 / start.elapsed().as_secs_f64() / 1e6;
    writeln!(out, "{what:<26} {rate:>8.0} M samples/s ({rows} rows, sum {sum:.3})")?;
    Ok(())
}

/// Every file of a closed database.
fn report(
    path: &Path,
    samples: f64,
    tiers: u64,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let kinds = process::bytes_by_kind(path)?;
    for (kind, bytes) in &kinds {
        writeln!(out, "  {kind:<24} {bytes:>12} B")?;
    }
    let set_aside = kinds.get("ballast").copied().unwrap_or(0);
    let held = kinds.values().sum::<u64>() - set_aside - tiers;
    writeln!(out, "all but tiers, closed      {:>8.3} B/sample", held as f64 / samples)?;
    writeln!(out, "tiers                      {:>8.3} B/sample", tiers as f64 / samples)?;
    writeln!(out, "room set aside             {:>8.3} B/sample", set_aside as f64 / samples)?;
    Ok(())
}

/// `tag,ts,value,quality`, times as RFC 3339, ordered by time.
fn write_csv(size: &Size, path: &Path) -> Result<(), Box<dyn Error>> {
    let mut plant = Plant::new(size.tags, SEED);
    let names: Vec<String> = plant.definitions().into_iter().map(|tag| tag.name).collect();
    let ids: Vec<TagId> = (0..u32::try_from(size.tags)?).map(TagId).collect();
    let mut out = io::BufWriter::new(std::fs::File::create(path)?);
    writeln!(out, "tag,ts,value,quality")?;
    for _ in 0..size.seconds {
        for (name, column) in names.iter().zip(plant.next(&ids, 1)) {
            let value = match column.values.get(0) {
                Some(Value::F64(value)) => value.to_string(),
                Some(Value::I64(value)) => value.to_string(),
                Some(Value::State(code)) => code.to_string(),
                _ => return Err("the plant has other types".into()),
            };
            let ts = tagmill_storage::Rfc3339(column.times[0]);
            writeln!(out, "{name},{ts},{value},{}", column.qualities.at(0).0)?;
        }
    }
    out.flush()?;
    Ok(())
}
