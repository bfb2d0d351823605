//! Claim defended: a backfill takes in 10 M samples a second or more, sorted, on disk and visible at its end, with the
//! plant of 500 tags at 1 Hz for a day, 43.2 M samples, pushed as they would come from a wide file.
//!
//! `cargo bench -p tagmill-engine-benches --bench backfill` prints the figures. `-- --tags 100 --hours 2` makes it smaller,
//! `-- --memory-mib 64` bounds what is sorted in memory: the rest goes to disk and is read again.

use std::error::Error;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use tagmill_engine_benches::plant::Plant;
use tagmill_engine_benches::process;
use tagmill_storage::{Engine, Options};

/// Seconds of each push: a window of rows of a file.
const PUSH_SECONDS: usize = 256;
/// Pushes made before the clock runs for them.
const AHEAD: usize = 64;
const SEED: u64 = 20_260_101;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut tags, mut seconds, mut options) = (500, 86_400, Options::default());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--tags" => tags = value()?.parse()?,
            "--hours" => seconds = value()?.parse::<usize>()? * 3_600,
            "--memory-mib" => options.backfill_bytes = value()?.parse::<u64>()? << 20,
            _ => {} // what cargo adds
        }
    }
    let folder = tempfile::tempdir()?;
    let mut out = io::stdout().lock();
    let memory = options.backfill_bytes >> 20;
    let engine = Engine::open(&folder.path().join("data"), options)?;
    let mut plant = Plant::new(tags, SEED);
    let ids = engine.define(&plant.definitions())?;
    let mut backfill = engine.backfill("a day of the plant")?;
    let (mut pushing, mut left) = (Duration::ZERO, seconds);
    while left > 0 {
        let mut pushes = Vec::with_capacity(AHEAD);
        while left > 0 && pushes.len() < AHEAD {
            let some = PUSH_SECONDS.min(left);
            pushes.push(plant.next(&ids, some));
            left -= some;
        }
        let start = Instant::now();
        for columns in pushes {
            backfill.push(columns)?;
        }
        pushing += start.elapsed();
    }
    let start = Instant::now();
    let report = backfill.finish()?;
    let finishing = start.elapsed();
    let rate = |took: Duration| report.rows as f64 / took.as_secs_f64() / 1e6;
    let size = report.bytes as f64 / report.rows as f64;
    writeln!(out, "{tags} tags, {seconds} s at 1 Hz, {memory} MiB: {} samples", report.rows)?;
    writeln!(out, "backfill                   {:>8.2} M samples/s", rate(pushing + finishing))?;
    writeln!(out, "  pushing                  {:>8.3} s", pushing.as_secs_f64())?;
    writeln!(out, "  finishing                {:>8.3} s", finishing.as_secs_f64())?;
    writeln!(out, "segments                   {:>8.3} B/sample, {} files", size, report.segments)?;
    let (_, most) = process::memory_bytes();
    writeln!(out, "most memory                {:>8} MiB", most >> 20)?;
    Ok(())
}
