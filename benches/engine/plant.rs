//! Claims defended, with a plant of 500 tags at 1 Hz for a day, 43.2 M samples:
//! * durable ingest of 6 M samples a second or more in batches of 10,000, every batch acknowledged after its `fdatasync`;
//! * sealing at 8 M samples a second or more, final compaction at 3 M or more;
//! * 0.95 bytes a sample or less on disk, every file counted.
//!
//! `cargo bench -p tagmill-engine-benches --bench plant` prints each figure. `-- --tags 100 --hours 2` makes it smaller,
//! `-- --csv FILE` writes the same samples as CSV for other databases, and ends.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tagmill_engine_benches::plant::Plant;
use tagmill_engine_benches::process;
use tagmill_storage::{
    Batch, Engine, Options, ScanRequest, TagColumn, TagId, TagSelection, TimeRange, Value, Values,
};

/// Seconds of each batch: with 500 tags 10,000 samples.
const BATCH_SECONDS: usize = 20;
/// Batches under way at a time.
const UNDER_WAY: usize = 8;
/// Batches made before the clock runs for them.
const AHEAD: usize = 90;
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
    let took = ingest(&engine, &size)?;
    writeln!(out, "ingest, durable            {:>8.2} M samples/s", rate(took))?;
    let start = Instant::now();
    engine.seal()?;
    let _sealed = start.elapsed();
    let segments = engine.snapshot().segments();
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    writeln!(
        out,
        "segments after seals       {:>8.3} B/sample, {} files",
        bytes as f64 / samples,
        segments.len()
    )?;
    scan(&engine, &mut out, "scan of everything")?;
    engine.close()?;
    report(&path, samples, &mut out)?;
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

/// Gives the time the engine took, without that of making the samples.
fn ingest(engine: &Engine, size: &Size) -> Result<Duration, Box<dyn Error>> {
    let mut plant = Plant::new(size.tags, SEED);
    let tags = engine.define(&plant.definitions())?;
    let mut took = Duration::ZERO;
    let mut left = size.seconds;
    while left > 0 {
        let mut batches = Vec::with_capacity(AHEAD);
        while left > 0 && batches.len() < AHEAD {
            let seconds = BATCH_SECONDS.min(left);
            batches.push(plant.next(&tags, seconds));
            left -= seconds;
        }
        took += submit(engine, batches)?;
    }
    Ok(took)
}

/// Two writers, each with some batches under way.
fn submit(engine: &Engine, batches: Vec<Vec<TagColumn>>) -> Result<Duration, Box<dyn Error>> {
    let (mut odd, mut even) = (Vec::new(), Vec::new());
    for (number, batch) in batches.into_iter().enumerate() {
        if number % 2 == 0 { even.push(batch) } else { odd.push(batch) }
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        let writers = [odd, even].map(|mine| scope.spawn(move || write(engine, mine)));
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| "a writer failed"))
    })?;
    Ok(start.elapsed())
}

fn write(engine: &Engine, batches: Vec<Vec<TagColumn>>) {
    let (taken, returned) = sync_channel(UNDER_WAY);
    let mut under_way = 0;
    for columns in batches {
        if under_way == UNDER_WAY {
            returned.recv().expect("every batch is answered");
            under_way -= 1;
        }
        let taken = taken.clone();
        let done = move |result: tagmill_storage::Result<_>| {
            result.expect("the engine takes the batch");
            taken.send(()).expect("the writer waits");
        };
        engine.submit(Batch { columns, ..Batch::default() }, Box::new(done));
        under_way += 1;
    }
    for _ in 0..under_way {
        returned.recv().expect("every batch is answered");
    }
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
fn report(path: &Path, samples: f64, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let kinds = process::bytes_by_kind(path)?;
    for (kind, bytes) in &kinds {
        writeln!(out, "  {kind:<24} {bytes:>12} B")?;
    }
    let total: u64 = kinds.values().sum();
    writeln!(out, "all files, closed          {:>8.3} B/sample", total as f64 / samples)?;
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
