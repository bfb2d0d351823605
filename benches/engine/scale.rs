//! Claims defended, with a million tags:
//! * registry and idle memory of 0.6 GiB or less, after defining them and after opening the database again;
//! * one sample a second of every tag, durable, sustained, with 3 GiB or less;
//! * a log of 128 M samples read back within 12 s, with no more memory than running took.
//!
//! `cargo bench -p tagmill-engine-benches --bench scale` prints each figure. `-- --tags 100000` makes it smaller; a word selects cases:
//! `idle`, `hertz`, `recover`. Each case runs in a process of its own, so that its memory is its own.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tagmill_engine_benches::plant::START_NS;
use tagmill_engine_benches::process::{memory_bytes, processor_seconds};
use tagmill_storage::{
    Batch, Engine, Options, Qualities, SECOND_NS, ScanRequest, TagAttributes, TagColumn,
    TagDefinition, TagId, TagSelection, TimeRange, ValueType, Values,
};

/// Tags of each batch.
const BATCH_TAGS: usize = 10_000;
/// Seconds of data of the case `hertz`.
const HERTZ_SECONDS: usize = 120;
/// Samples of the log of the case `recover`.
const LOG_SAMPLES: usize = 128_000_000;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let mut words = std::env::args().skip(1).peekable();
    let (mut tags, mut only, mut child) = (1_000_000, Vec::new(), None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--tags" => tags = words.next().ok_or("--tags needs a number")?.parse()?,
            "--child" => child = words.next().zip(words.next()),
            word if !word.starts_with('-') => only.push(word.to_owned()),
            _ => {} // what cargo adds
        }
    }
    if let Some((step, folder)) = child {
        return run(&step, Path::new(&folder), tags);
    }
    let is_asked = |case: &str| only.is_empty() || only.iter().any(|word| case.contains(word));
    for (case, steps) in CASES {
        if is_asked(case) {
            let folder = tempfile::tempdir()?;
            for step in steps {
                spawn(step, folder.path(), tags)?;
            }
        }
    }
    Ok(())
}

/// Cases, and their steps: each a process on the same directory.
const CASES: [(&str, &[&str]); 3] = [
    ("idle", &["define", "replay-tags", "idle"]),
    ("hertz", &["hertz"]),
    ("recover", &["log", "replay"]),
];

fn spawn(step: &str, folder: &Path, tags: usize) -> Outcome {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--child").arg(step).arg(folder).arg("--tags").arg(tags.to_string());
    let status = command.status()?;
    // The log must be left as a crash leaves it, so that step ends by aborting.
    if status.success() || step == "log" { Ok(()) } else { Err(format!("{step}: {status}").into()) }
}

fn run(step: &str, folder: &Path, tags: usize) -> Outcome {
    let path = folder.join("data");
    match step {
        "define" => define(&path, tags).map(|(engine, _)| drop(engine)),
        "replay-tags" => reopen(&path, "open with all tags in the log"),
        "idle" => reopen(&path, "open with all tags in the registry file"),
        "hertz" => hertz(&path, tags),
        "log" => log(&path),
        "replay" => replay(&path),
        other => Err(format!("no step {other}").into()),
    }
}

#[expect(clippy::print_stdout, reason = "figures are what a benchmark prints")]
fn say(what: &str, figure: &str) {
    println!("{what:<44} {figure}");
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Tags as plants have them: a name of some levels, a description, a unit, a range, two labels.
fn definition(number: usize) -> TagDefinition {
    let (unit, area) = (number / 2_000, number / 100 % 20);
    let labels = [("area", format!("A{area:02}")), ("line", format!("L{}", number % 7))];
    let attributes = TagAttributes {
        description: Some(format!(
            "Temperature of bearing {} of pump P-{area:02}{:02}",
            number % 4,
            number % 100
        )),
        unit: Some("°C".to_owned()),
        range_low: Some(0.0),
        range_high: Some(150.0),
        labels: labels.into_iter().collect(),
        ..TagAttributes::default()
    };
    let name = format!("SITE/U{unit:03}/A{area:02}/TT-{number:07}.PV");
    TagDefinition { name, value_type: ValueType::F64, attributes }
}

fn define(path: &Path, tags: usize) -> Result<(Engine, Vec<TagId>), Box<dyn Error>> {
    let (before, _) = memory_bytes();
    let start = Instant::now();
    let engine = Engine::open(path, Options::default())?;
    let mut ids = Vec::with_capacity(tags);
    for first in (0..tags).step_by(BATCH_TAGS) {
        let last = tags.min(first + BATCH_TAGS);
        let definitions: Vec<_> = (first..last).map(definition).collect();
        ids.extend(engine.define(&definitions)?);
    }
    let rate = tags as f64 / start.elapsed().as_secs_f64();
    say(&format!("define {tags} tags"), &format!("{rate:.0} tags/s"));
    let (now, most) = memory_bytes();
    say("memory after defining, and at most", &format!("{} {}", gib(now - before), gib(most)));
    Ok((engine, ids))
}

fn reopen(path: &Path, what: &str) -> Outcome {
    let start = Instant::now();
    let engine = Engine::open(path, Options::default())?;
    say(what, &format!("{:.2} s", start.elapsed().as_secs_f64()));
    let (now, most) = memory_bytes();
    say("memory then, and at most", &format!("{} {}", gib(now), gib(most)));
    engine.seal()?;
    engine.close()?;
    Ok(())
}

/// The samples of one second of some tags.
fn second(tags: &[TagId], second: usize) -> Batch {
    let time = START_NS + i64::try_from(second).unwrap_or(0) * SECOND_NS;
    let column = |tag: &TagId| {
        let wave = f64::from(tag.0 % 977) + (second as f64 / 40.0).sin() * 10.0;
        let value = (wave * 100.0).round() / 100.0;
        TagColumn {
            tag: *tag,
            times: vec![time],
            values: Values::F64(vec![value]),
            qualities: Qualities::GOOD,
        }
    };
    Batch { columns: tags.iter().map(column).collect(), ..Batch::default() }
}

/// Every tag once a second, as fast as it goes: above one million samples a second it would keep up for ever.
fn hertz(path: &Path, tags: usize) -> Outcome {
    let (engine, ids) = define(path, tags)?;
    let mut waits = Vec::new();
    let start = Instant::now();
    for at in 0..HERTZ_SECONDS {
        std::thread::scope(|scope| -> Outcome {
            let writers: Vec<_> = ids
                .chunks(ids.len().div_ceil(2))
                .map(|half| {
                    let engine = &engine;
                    scope.spawn(move || write_second(engine, half, at))
                })
                .collect();
            for writer in writers {
                waits.extend(writer.join().map_err(|_| "a writer failed")??);
            }
            Ok(())
        })?;
    }
    let samples = (tags * HERTZ_SECONDS) as f64;
    let rate = samples / start.elapsed().as_secs_f64();
    say(
        &format!("1 Hz of {tags} tags, {HERTZ_SECONDS} s"),
        &format!("{:.2} M samples/s", rate / 1e6),
    );
    waits.sort_unstable();
    let at = |percent: usize| waits[waits.len() * percent / 100].as_secs_f64() * 1e3;
    say("ack of a batch, p50 and p99", &format!("{:.1} ms {:.1} ms", at(50), at(99)));
    let (now, most) = memory_bytes();
    say("memory running, and at most", &format!("{} {}", gib(now), gib(most)));
    let start = Instant::now();
    engine.seal()?;
    say("seal of what is left", &format!("{:.2} s", start.elapsed().as_secs_f64()));
    Ok(())
}

fn write_second(
    engine: &Engine,
    tags: &[TagId],
    at: usize,
) -> Result<Vec<Duration>, tagmill_storage::Error> {
    let mut waits = Vec::new();
    for some in tags.chunks(BATCH_TAGS) {
        let start = Instant::now();
        loop {
            // A refusal as busy wrote nothing: what a gateway does then is to send again.
            match engine.append(second(some, at)) {
                Err(tagmill_storage::Error::Busy { .. }) => {}
                answer => break answer.map(drop)?,
            }
        }
        waits.push(start.elapsed());
    }
    Ok(waits)
}

/// Limits with which the whole log stays in the head.
fn roomy() -> Options {
    Options { head_bytes: 12 << 30, wal_bytes: 8 << 30, ..Options::default() }
}

/// Fills the log and dies.
fn log(path: &Path) -> Outcome {
    const TAGS: usize = 500;
    const SECONDS: usize = 20;
    let engine = Engine::open(path, roomy())?;
    let ids = engine.define(&(0..TAGS).map(definition).collect::<Vec<_>>())?;
    let mut at = 0;
    while at * TAGS < LOG_SAMPLES {
        let times: Vec<i64> = (at..at + SECONDS)
            .map(|second| START_NS + i64::try_from(second).unwrap_or(0) * SECOND_NS)
            .collect();
        let column = |tag: &TagId| {
            let value = |second: usize| {
                let wave =
                    f64::from(tag.0) + (second as f64 / 40.0 + f64::from(tag.0)).sin() * 10.0;
                (wave * 100.0).round() / 100.0
            };
            let values = Values::F64((at..at + SECONDS).map(value).collect());
            TagColumn { tag: *tag, times: times.clone(), values, qualities: Qualities::GOOD }
        };
        let columns = ids.iter().map(column).collect();
        engine.append(Batch { columns, ..Batch::default() })?;
        at += SECONDS;
    }
    let (_, most) = memory_bytes();
    say("memory with 128 M samples in the head, at most", &gib(most));
    std::process::abort()
}

fn replay(path: &Path) -> Outcome {
    let start = Instant::now();
    let engine = Engine::open(path, roomy())?;
    say("recovery of 128 M samples", &format!("{:.2} s", start.elapsed().as_secs_f64()));
    say("processor time of it", &format!("{:.2} s", processor_seconds()));
    let (_, most) = memory_bytes();
    say("memory of recovery, at most", &gib(most));
    let snapshot = engine.snapshot();
    let rows = snapshot.estimate_rows(&ScanRequest::new(TagSelection::All, TimeRange::ALL));
    if rows == LOG_SAMPLES as u64 {
        Ok(())
    } else {
        Err(format!("{rows} samples came back").into())
    }
}
