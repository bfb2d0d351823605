//! Claim defended: durable ingest of 10,000-sample batches of 500 tags runs at 3 M samples/s and more embedded, and at
//! 1 M samples/s and more over gRPC with the client on the same cores.
//!
//! `cargo bench -p tagmill-benches --bench ingest` prints one line a case: the median rate of three runs, each on a new
//! database, and bytes per sample on disk after a seal. Every sample counted is on disk: a run ends with a sync.
//! `-- FILTER` runs the cases whose name holds the text.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use tagmill_client::{BatchBuilder, Gateway, GatewayOptions, TagDef};
use tagmill_server::lifecycle::{ServeOptions, Server};
use tagmill_storage::{
    Batch, Engine, Options, Qualities, TagColumn, TagDefinition, TagId, ValueType, Values,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TAGS: usize = 500;
const ROWS: usize = 20; // of each tag in a batch: 10,000 samples
const START_NS: i64 = 1_767_225_600_000_000_000; // 2026-01-01
const SECOND_NS: i64 = 1_000_000_000;
const RUNS: usize = 3;

/// How samples come to the engine.
#[derive(Clone, Copy)]
enum Door {
    /// `Engine::append` from this many threads: each waits for its batch.
    Append(usize),
    /// `Engine::submit` from this many threads, eight batches of each on their way.
    Submit(usize),
    /// A gateway over loopback gRPC, one column a tag.
    Columns,
    /// A gateway over loopback gRPC, scan cycles.
    Scans,
}

fn main() -> Outcome<()> {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let cases = [
        ("embedded, append, 1 thread", Door::Append(1), 300),
        ("embedded, append, 8 threads", Door::Append(8), 1_500),
        ("embedded, submit, 1 thread", Door::Submit(1), 2_000),
        ("embedded, submit, 2 threads", Door::Submit(2), 2_000),
        ("gRPC, columns", Door::Columns, 500),
        ("gRPC, scan cycles", Door::Scans, 500),
    ];
    println!("{TAGS} tags, {} samples a batch, every sample on disk", TAGS * ROWS);
    println!("{:<30} {:>12} {:>16} {:>10}", "case", "samples", "M samples/s", "B/sample");
    for (name, door, batches) in cases {
        if !name.contains(&filter) {
            continue;
        }
        let mut rates = Vec::new();
        let mut bytes_per_sample = 0.0;
        for _ in 0..RUNS {
            let folder = tempfile::tempdir()?;
            let (seconds, bytes) = run(folder.path(), door, batches)?;
            let samples = (batches * TAGS * ROWS) as f64;
            rates.push(samples / seconds / 1e6);
            bytes_per_sample = bytes as f64 / samples;
        }
        rates.sort_by(f64::total_cmp);
        let samples = batches * TAGS * ROWS;
        println!("{name:<30} {samples:>12} {:>16.2} {bytes_per_sample:>10.2}", rates[RUNS / 2]);
    }
    Ok(())
}

/// Seconds until every batch is on disk, and bytes of all segments after a seal.
fn run(folder: &Path, door: Door, batches: usize) -> Outcome<(f64, u64)> {
    let engine = Engine::open(folder, Options::default())?;
    match door {
        Door::Append(threads) | Door::Submit(threads) => {
            let names = (0..TAGS).map(|tag| TagDefinition::new(name(tag), ValueType::F64));
            let ids = engine.define(&names.collect::<Vec<_>>())?;
            let started = Instant::now();
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (engine, ids) = (&engine, &ids);
                    let waits = matches!(door, Door::Append(_));
                    let mine = (0..batches).skip(thread).step_by(threads);
                    scope.spawn(move || embedded(engine, ids, mine, waits));
                }
            });
            engine.sync()?;
            finish(&engine, batches, started.elapsed().as_secs_f64())
        }
        Door::Columns | Door::Scans => {
            let database = tagmill::Database::over(Arc::new(engine))?;
            let runtime = tokio::runtime::Runtime::new()?;
            let seconds = runtime.block_on(gateway(&database, door, batches))?;
            finish(database.engine(), batches, seconds)
        }
    }
}

fn finish(engine: &Engine, batches: usize, seconds: f64) -> Outcome<(f64, u64)> {
    engine.seal()?;
    let segments = engine.snapshot().segments();
    let rows: u64 = segments.iter().map(|segment| segment.rows).sum();
    assert_eq!(rows, (batches * TAGS * ROWS) as u64, "samples went missing");
    Ok((seconds, segments.iter().map(|segment| segment.bytes).sum()))
}

fn embedded(engine: &Engine, ids: &[TagId], batches: impl Iterator<Item = usize>, waits: bool) {
    let (done, finished) = mpsc::sync_channel(8);
    for _ in 0..8 {
        done.send(()).expect("the channel has room for eight");
    }
    for number in batches {
        let times = times(number);
        let column = |(at, tag): (usize, &TagId)| TagColumn {
            tag: *tag,
            times: times.clone(),
            values: Values::F64((0..ROWS).map(|row| value(at, number * ROWS + row)).collect()),
            qualities: Qualities::GOOD,
        };
        let columns = ids.iter().enumerate().map(column).collect();
        let batch = Batch { columns, ..Batch::default() };
        if waits {
            engine.append(batch).expect("the disk takes it");
            continue;
        }
        finished.recv().expect("a batch was on its way");
        let done = done.clone();
        let answer = move |result: tagmill_storage::Result<_>| {
            result.expect("the disk takes it");
            done.send(()).ok(); // the last ones find nobody waiting
        };
        engine.submit(batch, Box::new(answer));
    }
}

async fn gateway(database: &tagmill::Database, door: Door, batches: usize) -> Outcome<f64> {
    let options = ServeOptions { listen: "127.0.0.1:0".parse()?, ..ServeOptions::default() };
    let server = Server::start(database.clone(), options).await?;
    let address = server.address().to_string();
    let gateway = Gateway::connect(&address, GatewayOptions::new("bench")).await?;
    let tags: Vec<TagDef> = (0..TAGS).map(|tag| TagDef::new(name(tag), tag_type())).collect();
    let aliases = gateway.define(&tags).await?;
    let set = gateway.define_set(&aliases).await?;
    let started = Instant::now();
    for number in 0..batches {
        let times = times(number);
        let mut batch = BatchBuilder::new();
        if matches!(door, Door::Scans) {
            let cells = (0..ROWS * TAGS).map(|at| value(at % TAGS, number * ROWS + at / TAGS));
            let cells: Vec<f64> = cells.collect();
            batch.scan(&set, &times, cells.as_slice().into(), tagmill_client::Qualities::Good)?;
        } else {
            for (at, alias) in aliases.iter().enumerate() {
                let values: Vec<f64> =
                    (0..ROWS).map(|row| value(at, number * ROWS + row)).collect();
                batch.f64(*alias, &times, &values)?;
            }
        }
        gateway.send(batch).await?;
    }
    let summary = gateway.flush().await?;
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(summary.rejects.len(), 0, "samples were refused");
    gateway.close().await?;
    server.shutdown().await?;
    Ok(seconds)
}

fn tag_type() -> tagmill_client::ValueType {
    tagmill_client::ValueType::F64
}

fn name(tag: usize) -> String {
    format!("U{}/TI-{tag:03}.PV", tag % 5)
}

fn times(batch: usize) -> Vec<i64> {
    (0..ROWS).map(|row| START_NS + (batch * ROWS + row) as i64 * SECOND_NS).collect()
}

/// Two decimals, a slow wave and a little noise: what most transmitters send.
fn value(tag: usize, second: usize) -> f64 {
    let mut noise = (second as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ tag as u64;
    noise = (noise ^ (noise >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let wave = ((second as f64 + 37.0 * tag as f64) / 300.0).sin() * 20.0;
    ((60.0 + wave) * 100.0 + (noise >> 60) as f64).round() / 100.0
}
