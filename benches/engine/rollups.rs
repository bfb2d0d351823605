//! Claims defended, with a plant of 500 tags at 1 Hz for a day, 43.2 M samples, in sealed and compacted segments:
//! * counts, sums, extremes and ends of every tag by minute in 60 ms or less from tiers and 150 ms from raw samples, by hour
//!   in 10 ms, on one core;
//! * the same of one tag by minute in 2 ms or less;
//! * tiers take at most 0.35 B a sample.
//!
//! Files are in the page cache. Each figure is the median of [`ROUNDS`] rounds, after one that does not count.
//!
//! `cargo bench -p tagmill-engine-benches --bench rollups` takes some 2 GB of memory; `-- --tags 100 --hours 2` less.

use std::error::Error;
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use tagmill_engine_benches::feed::feed;
use tagmill_engine_benches::plant::Plant;
use tagmill_storage::{
    DAY_NS, Engine, Needs, OnDamage, Options, RollupRequest, Rule, SECOND_NS, Snapshot, TagId,
    TagSelection, Tier, Tiers, TimeRange,
};

/// Seconds of each batch.
const BATCH_SECONDS: usize = 20;
const SEED: u64 = 20_260_101;
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let (tags, seconds) = size()?;
    let folder = tempfile::tempdir()?;
    let engine = Engine::open(&folder.path().join("data"), Options::default())?;
    let mut plant = Plant::new(tags, SEED);
    let ids = engine.define(&plant.definitions())?;
    let starts = (0..seconds).step_by(BATCH_SECONDS);
    let batches =
        starts.map(|start| plant.next(&ids, BATCH_SECONDS.min(seconds - start))).collect();
    feed(&engine, batches)?;
    engine.seal()?;
    let mut out = io::stdout().lock();
    writeln!(out, "{tags} tags, {seconds} s at 1 Hz: {} samples", tags * seconds)?;
    measure(&engine.snapshot(), &ids, &mut out, "sealed")?;
    engine.compact()?;
    measure(&engine.snapshot(), &ids, &mut out, "compacted")?;
    Ok(())
}

fn size() -> Result<(usize, usize), Box<dyn Error>> {
    let (mut tags, mut seconds) = (500, 86_400_usize);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--tags" => tags = value()?.parse()?,
            "--hours" => seconds = value()?.parse::<usize>()? * 3_600,
            _ => {} // what cargo adds
        }
    }
    Ok((tags, seconds))
}

fn measure(
    snapshot: &Snapshot,
    ids: &[TagId],
    out: &mut impl Write,
    state: &str,
) -> Result<(), Box<dyn Error>> {
    let segments = snapshot.segments();
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let rows: u64 = segments.iter().map(|segment| segment.rows).sum();
    writeln!(
        out,
        "\n{state}: {} segments, {:.3} B/sample",
        segments.len(),
        bytes as f64 / rows as f64
    )?;
    for tier in Tier::ALL {
        let of_tier = snapshot.tiers().into_iter().filter(|summary| summary.tier == tier);
        let (rollups, bytes) = of_tier.fold((0, 0), |(rollups, bytes), summary| {
            (rollups + summary.rollups, bytes + summary.bytes)
        });
        let share = bytes as f64 / rows as f64;
        writeln!(out, "tier {tier}: {rollups} rollups, {share:.3} B/sample")?;
    }
    let one = || TagSelection::Only(Arc::from([ids[ids.len() / 2]]));
    let last_ns = segments.iter().map(|segment| segment.last_ns).max().unwrap_or(0);
    let (all, hour) = (TimeRange::ALL, TimeRange::new(last_ns - DAY_NS / 24, i64::MAX));
    let questions = [
        ("every tag by 1 min", TagSelection::All, all, 60_i64),
        ("every tag by 1 h", TagSelection::All, all, 3_600),
        ("one tag by 1 min", one(), all, 60),
        ("one tag by 1 h", one(), all, 3_600),
        ("every tag, an hour", TagSelection::All, hour, 60),
        ("one tag, an hour", one(), hour, 60),
    ];
    let modes = [("auto", Tiers::Auto), ("always", Tiers::Always), ("raw", Tiers::Off)];
    for ((name, tags, range, width_s), (mode, tiers)) in
        questions.into_iter().flat_map(|question| modes.map(|mode| (question.clone(), mode)))
    {
        let needs = [
            ("sql", Needs::Sql),
            ("moments", Needs::SqlMoments),
            ("weighted", Needs::Weighted),
            ("changes", Needs::Changes),
            ("interval", Needs::Interval),
        ];
        write!(out, "{name:<20} {mode:<6}")?;
        for (what, needs) in needs {
            let width_ns = width_s * SECOND_NS;
            let request = RollupRequest::new(tags.clone(), range, width_ns);
            let request = RollupRequest { needs, tiers, ..request };
            let took_ms = median(|| {
                for part in snapshot.rollups(request.clone()) {
                    black_box(part.expect("the segments are whole"));
                }
            });
            write!(out, " {what} {took_ms:>8.2} ms")?;
        }
        writeln!(out)?;
    }
    let at_ns = last_ns - DAY_NS / 48;
    let took_ms = median(|| {
        let mut neighbours = snapshot.neighbours(OnDamage::Fail);
        for tag in ids {
            let rule = Rule::of(snapshot.registry().get(*tag).expect("the tag is defined"));
            black_box(neighbours.before(*tag, at_ns, &rule).expect("the segments are whole"));
        }
    });
    writeln!(out, "what lies before an instant, every tag {took_ms:>8.2} ms")?;
    Ok(())
}

/// Milliseconds that it takes.
fn median(mut work: impl FnMut()) -> f64 {
    work();
    let mut took: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[ROUNDS / 2]
}
