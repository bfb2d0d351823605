//! Claim defended: an archive of many years is loaded, read, opened and let go of in time proportional to its days. Every
//! day is a file of its own, so what looks at all files for each of them shows here.
//!
//! `cargo bench -p tagmill-engine-benches --bench years` prints seconds of each step for 2, 5, 10 and 20 years of 10 tags with
//! a sample every ten minutes; `-- --years 3` that length alone, `-- --tags 100` more of them.

use std::error::Error;
use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tagmill_engine_benches::process;
use tagmill_storage::{
    DAY_NS, Engine, Options, Qualities, RetentionClass, RollupRequest, SECOND_NS, TagColumn,
    TagDefinition, TagId, TagSelection, Tier, TimeRange, ValueType, Values,
};

const STEP_NS: i64 = 600 * SECOND_NS;
const DAYS_A_YEAR: i64 = 365;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut years, mut tags) = (vec![2, 5, 10, 20], 10);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--years" => years = vec![value()?.parse()?],
            "--tags" => tags = value()?.parse()?,
            _ => {} // what cargo adds
        }
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{tags} tags, a sample every ten minutes; seconds of each step")?;
    for count in years {
        live(count, tags, &mut out)?;
    }
    Ok(())
}

fn live(years: i64, tags: usize, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data");
    let now_ns = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let start_ns = (now_ns / DAY_NS - years * DAYS_A_YEAR) * DAY_NS;
    let engine = Engine::open(&path, Options::default())?;
    let names = (0..tags).map(|at| TagDefinition::new(format!("tag {at}"), ValueType::F64));
    let ids = engine.define(&names.collect::<Vec<_>>())?;
    let mut step = Steps { out, years, since: Instant::now() };
    let mut backfill = engine.backfill("the archive")?;
    for year in 0..years {
        let from_ns = start_ns + year * DAYS_A_YEAR * DAY_NS;
        backfill.push(ids.iter().map(|tag| column(*tag, from_ns)).collect())?;
    }
    let report = backfill.finish()?;
    step.done("loaded")?;
    engine.compact()?;
    step.done("compacted")?;
    ask(&engine, &TagSelection::All, DAY_NS)?;
    step.done("all by day")?;
    let one = TagSelection::Only(ids[..1].into());
    for what in ["one by hour", "again"] {
        ask(&engine, &one, DAY_NS / 24)?;
        step.done(what)?;
    }
    engine.close()?;
    step.done("closed")?;
    let engine = Engine::open(&path, Options { create: false, ..Options::default() })?;
    step.done("opened")?;
    engine.close()?;
    let class = RetentionClass {
        tiers: vec![(Tier::Minute, Some(Duration::from_hours(400 * 24))), (Tier::Hour, None)],
        ..RetentionClass::of_raw("", Some(Duration::from_hours(90 * 24)))
    };
    let retention = vec![class];
    let engine = Engine::open(&path, Options { create: false, retention, ..Options::default() })?;
    engine.confirm_clock()?;
    step.done("ended")?;
    engine.compact()?;
    step.done("rolled up")?;
    ask(&engine, &TagSelection::All, DAY_NS)?;
    step.done("all by day")?;
    for what in ["one by hour", "again"] {
        ask(&engine, &one, DAY_NS / 24)?;
        step.done(what)?;
    }
    let files = engine.snapshot().segments().len();
    engine.close()?;
    let (_, most) = process::memory_bytes();
    let (rows, most_mib) = (report.rows, most >> 20);
    writeln!(step.out, "{years:>2} years: {rows} samples, {files} files at last, {most_mib} MiB")?;
    Ok(())
}

struct Steps<'a, W> {
    out: &'a mut W,
    years: i64,
    since: Instant,
}

impl<W: Write> Steps<'_, W> {
    fn done(&mut self, what: &str) -> io::Result<()> {
        let (years, seconds) = (self.years, self.since.elapsed().as_secs_f64());
        writeln!(self.out, "{years:>2} years {what:<12} {seconds:>8.3}")?;
        self.since = Instant::now();
        Ok(())
    }
}

fn column(tag: TagId, from_ns: i64) -> TagColumn {
    let count = DAYS_A_YEAR * DAY_NS / STEP_NS;
    let times: Vec<i64> = (0..count).map(|at| from_ns + at * STEP_NS).collect();
    let values = (0..count).map(|at| (at * 7 % 1_000) as f64 / 10.0).collect();
    TagColumn { tag, times, values: Values::F64(values), qualities: Qualities::GOOD }
}

/// Windows of all the time there is.
fn ask(engine: &Engine, tags: &TagSelection, width_ns: i64) -> Result<(), Box<dyn Error>> {
    let request = RollupRequest::new(tags.clone(), TimeRange::ALL, width_ns);
    for part in engine.snapshot().rollups(request) {
        part?;
    }
    Ok(())
}
