//! Claims defended, with a plant of 500 tags at 1 Hz for a day, 43.2 M samples in segments, in SQL with its planning:
//! * every tag by 1 minute (avg, min, max) in 60 ms from tiers, by 1 hour in 10 ms;
//! * one tag by 1 minute in 2 ms; the last value of every tag in 2 ms.
//!
//! `cargo bench -p tagmill-benches --bench windows_sql` prints the median of several warm runs of each statement, with
//! tiers and without, and checks that both give as many rows and the same counts. `-- --tags 100 --hours 2` makes it
//! smaller, `-- --explain` shows the plans with what they did.

use std::error::Error;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tagmill::arrow::array::{AsArray, RecordBatch};
use tagmill::arrow::datatypes::Int64Type;
use tagmill::{Database, Engine, Session};
use tagmill_engine_benches::feed::feed;
use tagmill_engine_benches::plant::Plant;
use tagmill_storage::Options;

/// Seconds of each batch: with 500 tags 10,000 samples.
const BATCH_SECONDS: usize = 20;
/// Seconds made at a time.
const STRETCH_SECONDS: usize = 3_600;
const SEED: u64 = 20_260_101;
const RUNS: usize = 9;

/// What is asked: a name, the statement, and how many runs without tiers are worth waiting for.
const CASES: [(&str, &str, usize); 8] = [
    (
        "every tag by 1 min, avg min max",
        "SELECT tag_id, time_bucket('1 min', ts) AS time, avg(value), min(value), max(value), count(*) AS n \
         FROM samples GROUP BY tag_id, time",
        1,
    ),
    (
        "the same by name",
        "SELECT tag, time_bucket('1 min', ts) AS time, avg(value), min(value), max(value), count(*) AS n \
         FROM samples GROUP BY tag, time",
        1,
    ),
    (
        "the same by 1 h",
        "SELECT tag, time_bucket('1 h', ts) AS time, avg(value), min(value), max(value), count(*) AS n \
         FROM samples GROUP BY tag, time",
        1,
    ),
    (
        "plant by 1 h, one row an hour",
        "SELECT time_bucket('1 h', ts) AS time, avg(value), stddev(value), count(*) AS n \
         FROM samples GROUP BY time",
        1,
    ),
    (
        "every tag, the day in Berlin",
        "SELECT tag, time_bucket('1 day', ts, 'Europe/Berlin') AS day, avg(value), count(*) AS n \
         FROM samples WHERE ts >= '2026-01-01' AND ts < '2026-01-02' GROUP BY tag, day",
        1,
    ),
    (
        "one tag by 1 min",
        "SELECT time_bucket('1 min', ts) AS time, avg(value), min(value), max(value), count(*) AS n \
         FROM samples WHERE tag_id = 7 GROUP BY time",
        RUNS,
    ),
    (
        "one tag, one hour by 1 min",
        "SELECT time_bucket('1 min', ts) AS time, avg(value), count(*) AS n FROM samples \
         WHERE tag_id = 7 AND ts >= '2026-01-01T01:00:00Z' AND ts < '2026-01-01T02:00:00Z' GROUP BY time",
        RUNS,
    ),
    ("last value of every tag", "SELECT tag, ts, value, 1 AS n FROM latest", RUNS),
];

fn main() -> Result<(), Box<dyn Error>> {
    let (mut tags, mut seconds, mut explains) = (500, 86_400, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().unwrap_or_default().parse::<usize>();
        match word.as_str() {
            "--tags" => tags = number()?,
            "--hours" => seconds = number()? * 3_600,
            "--explain" => explains = true,
            _ => {} // what cargo adds
        }
    }
    let mut out = io::stdout().lock();
    let folder = tempfile::tempdir()?;
    let started = Instant::now();
    let engine = Engine::open(folder.path(), Options::default())?;
    fill(&engine, tags, seconds)?;
    let filled = started.elapsed().as_secs_f64();
    writeln!(out, "{tags} tags, {seconds} s at 1 Hz, written and compacted in {filled:.1} s")?;
    writeln!(
        out,
        "{:<34} {:>12} {:>12} {:>12} {:>10}",
        "statement", "tiers", "raw", "row by row", "rows"
    )?;
    let database = Database::over(Arc::new(engine))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut session = database.session();
    for (name, sql, patience) in CASES {
        let (with, rows, count) = runtime.block_on(measure(&mut session, sql, "auto", RUNS))?;
        let raw = runtime.block_on(measure(&mut session, sql, "raw", RUNS))?;
        let without = runtime.block_on(measure(&mut session, sql, "off", patience))?;
        assert_eq!((rows, count), (without.1, without.2), "{name} differs without tiers");
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        writeln!(
            out,
            "{name:<34} {:>9.2} ms {:>9.2} ms {:>9.2} ms {rows:>10}",
            ms(with),
            ms(raw.0),
            ms(without.0)
        )?;
        if explains {
            session.settings_mut().set("tagmill.tiers", "auto")?;
            let plan = runtime.block_on(run(&mut session, &format!("EXPLAIN ANALYZE {sql}")))?;
            writeln!(out, "{}", tagmill::arrow::util::pretty::pretty_format_batches(&plan)?)?;
        }
    }
    Ok(())
}

fn fill(engine: &Engine, tags: usize, seconds: usize) -> Result<(), Box<dyn Error>> {
    let mut plant = Plant::new(tags, SEED);
    let ids = engine.define(&plant.definitions())?;
    let mut left = seconds;
    while left > 0 {
        let stretch = left.min(STRETCH_SECONDS);
        let starts = (0..stretch).step_by(BATCH_SECONDS);
        let batches = starts.map(|at| plant.next(&ids, BATCH_SECONDS.min(stretch - at))).collect();
        feed(engine, batches)?;
        left -= stretch;
    }
    engine.seal()?;
    engine.compact()?;
    Ok(())
}

/// Median time of some runs after a first one, rows of the answer, and the sum of its column `n`.
async fn measure(
    session: &mut Session,
    sql: &str,
    tiers: &str,
    runs: usize,
) -> tagmill::Result<(Duration, usize, i64)> {
    session.settings_mut().set("tagmill.tiers", tiers)?;
    let answer = run(session, sql).await?;
    let rows = answer.iter().map(RecordBatch::num_rows).sum();
    let counts = answer.iter().filter_map(|batch| batch.column_by_name("n"));
    let count = counts.map(|n| n.as_primitive::<Int64Type>().values().iter().sum::<i64>()).sum();
    drop(answer);
    let mut times = Vec::new();
    for _ in 0..runs {
        let started = Instant::now();
        drop(run(session, sql).await?);
        times.push(started.elapsed());
    }
    times.sort();
    Ok((times[times.len() / 2], rows, count))
}

async fn run(session: &mut Session, sql: &str) -> tagmill::Result<Vec<RecordBatch>> {
    session.execute(sql).await?.collect().await
}
