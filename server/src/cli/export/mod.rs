//! `tagmill export`: samples as Parquet, one file a UTC day, and what is known of their tags beside them.
//!
//! Contract: docs/export.md. One snapshot is written, sorted by tag name and time; `tagmill import` of the folder gives
//! the same tags and samples bit for bit. Memory is a row group a worker, whatever the range.
//!
//! Reading order: [`columns`] (what a row says), [`folder`] (whole files or none), [`definitions`] (the tags).

pub mod columns;
pub mod definitions;
pub mod folder;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};
use tagmill_storage::{
    DAY_NS, Rfc3339, ScanRequest, Snapshot, Tag, TagId, TagSelection, TimeRange,
};

use self::columns::RowBuilder;
use self::folder::Folder;
use super::delete;
use super::failure::{Failure, Result};
use super::import::report::grouped;
use super::target::{Door, TargetArgs};
use super::times::{self, Zone};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  Everything, one file a day:
    tagmill export plant-export --data plant
  Two days of one unit, into a folder that may hold other days already:
    tagmill export /mnt/share/unit3 --tags 'unit3/*' --from 2024-03-01T00:00:00Z --to 2024-03-03T00:00:00Z --data plant
  Tags by a label, yesterday as Berlin has it:
    tagmill export out --label area=U3 --from 2024-03-01 --to 2024-03-02 --time-zone Europe/Berlin --data plant
  Read it, or put it into another database:
    duckdb -c \"SELECT tag, avg(value) FROM 'out/*.parquet' GROUP BY tag\"
    tagmill import out --data copy

docs/export.md says what the columns hold.";

/// Days written at once: each holds a row group in memory.
const WORKERS_MAX: usize = 4;

/// Arguments of `tagmill export`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder to write; made if there is none.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Names of tags, separated by commas; * stands for any characters. By default every tag.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "*")]
    tags: Vec<String>,
    /// Only tags with this label; of several all must be there.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// First time exported: 2024-03-01T06:00:00Z, now, now-2h. By default the first there is.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// First time left out. By default none is.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Zone of times that name none.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<Zone>,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// What an export wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files with samples.
    pub files: u64,
    /// Samples.
    pub rows: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs the command.
///
/// # Errors
/// If no tag matches, the range is empty, the database cannot be read or the folder not be written.
pub fn run(args: &Args) -> Result<()> {
    let range = range_of(args)?;
    let mut door = args.target.open_existing()?;
    let names = delete::matching(&mut door, &args.tags)?;
    let Door::Local(local) = &door else {
        return Err(Failure::new(format!("{} is a server: an export reads a directory", door.name()))
            .next("stop the server and name its directory with --data DIR, or ask it for what you need with 'tagmill sql --format arrow'"));
    };
    let snapshot = local.engine().snapshot();
    let registry = snapshot.registry();
    let mut tags: Vec<Arc<Tag>> = Vec::new();
    for name in &names {
        let tag = registry.find(name).and_then(|id| registry.get(id));
        let has = |tag: &&Arc<Tag>| {
            args.label
                .iter()
                .all(|(key, value)| tag.attributes.labels.get(key) == Some(value.as_str()))
        };
        tags.extend(tag.filter(has).cloned());
    }
    if tags.is_empty() {
        return Err(Failure::new("no tag has these labels")
            .next("'tagmill tags show NAME' shows the labels of a tag"));
    }
    let folder = Folder::create(&args.folder, args.overwrite)?;
    let days = days(&snapshot, &tags, range)?;
    folder.check_free(&days)?;
    definitions::write(&folder, registry, &tags, args.overwrite)?;
    let summary = write_days(&snapshot, &tags, range, &days, &folder)?;
    writeln!(
        std::io::stdout(),
        "exported {} samples of {} tags to {} files in {} ({} bytes) in {:.1} s",
        grouped(summary.rows),
        grouped(tags.len() as u64),
        grouped(summary.files),
        folder.path().display(),
        grouped(summary.bytes),
        summary.elapsed.as_secs_f64(),
    )?;
    let others = (Folder::files(folder.path())?.len() as u64).saturating_sub(summary.files);
    if others > 0 {
        writeln!(std::io::stderr(), "the folder holds {others} files of other exports, too")?;
    }
    drop(snapshot);
    door.close()
}

/// UTC days, counted from 1970, on which these tags have samples in `range`. Reads every time once, which costs little
/// beside writing them, and spares the days of a gap.
///
/// # Errors
/// If the database cannot be read.
pub fn days(snapshot: &Snapshot, tags: &[Arc<Tag>], range: TimeRange) -> Result<Vec<i64>> {
    let mut days = BTreeSet::new();
    for tags in scans(tags) {
        let mut request = ScanRequest::new(TagSelection::Only(tags), range);
        (request.values, request.qualities) = (false, false);
        for batch in snapshot.scan(request) {
            let batch = batch?;
            let mut times = batch.times.as_slice();
            while let Some(day) = times.first().map(|time| time.div_euclid(DAY_NS)) {
                days.insert(day);
                let same = times.partition_point(|time| time.div_euclid(DAY_NS) == day);
                times = times.get(same..).unwrap_or_default();
            }
        }
    }
    Ok(days.into_iter().collect())
}

/// Writes the samples of these tags, ascending by name, in `range`: a file for each of `days` that has any.
///
/// # Errors
/// If the database cannot be read or the folder not be written. Days that were finished stay.
pub fn write_days(
    snapshot: &Snapshot,
    tags: &[Arc<Tag>],
    range: TimeRange,
    days: &[i64],
    folder: &Folder,
) -> Result<Summary> {
    let started = Instant::now();
    let bar = ProgressBar::with_draw_target(Some(days.len() as u64), draw_target());
    let scans = scans(tags);
    let next = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    let total = Mutex::new(Ok(Summary::default()));
    let work = || {
        while let Some(day) = days.get(next.fetch_add(1, Ordering::Relaxed)) {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let start_ns = day.saturating_mul(DAY_NS);
            let range = range.intersect(&TimeRange::new(start_ns, start_ns.saturating_add(DAY_NS)));
            let written = write_day(snapshot, &scans, range, *day, folder);
            bar.inc(1);
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            match (written, &mut *total) {
                (Ok(None), _) | (_, Err(_)) => {}
                (Ok(Some((rows, bytes))), Ok(sum)) => {
                    *sum = Summary {
                        files: sum.files + 1,
                        rows: sum.rows + rows,
                        bytes: sum.bytes + bytes,
                        ..*sum
                    };
                }
                (Err(failure), total) => {
                    is_over.store(true, Ordering::Relaxed);
                    *total = Err(failure);
                }
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(WORKERS_MAX).min(days.len()) {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    let mut summary = total.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    folder.sync()?;
    summary.elapsed = started.elapsed();
    Ok(summary)
}

/// Writes one day; `None` if it has no samples. Otherwise its rows and bytes.
fn write_day(
    snapshot: &Snapshot,
    scans: &[Arc<[TagId]>],
    range: TimeRange,
    day: i64,
    folder: &Folder,
) -> Result<Option<(u64, u64)>> {
    let within = |failure: Failure| failure.within(Rfc3339(range.start_ns));
    let registry = snapshot.registry();
    let mut rows = RowBuilder::new();
    let mut file = None;
    for tags in scans {
        let request = ScanRequest::new(TagSelection::Only(Arc::clone(tags)), range);
        for batch in snapshot.scan(request) {
            let batch = batch.map_err(|error| within(error.into()))?;
            let Some(tag) = registry.get(batch.tag) else { continue };
            let file = match &mut file {
                Some(file) => file,
                None => file.insert(folder.begin_day(day)?),
            };
            rows.push(tag, registry.states(tag.state_set()), &batch);
            if rows.is_full() {
                file.write(&rows.finish()?)?;
            }
        }
    }
    let Some(mut file) = file else { return Ok(None) };
    file.write(&rows.finish()?)?;
    file.finish().map(Some)
}

/// Tags, ascending by name, cut into runs whose ids ascend: a scan reads its tags in the order of their ids, and shares
/// what it has decoded among neighbours.
fn scans(tags: &[Arc<Tag>]) -> Vec<Arc<[TagId]>> {
    let ids: Vec<TagId> = tags.iter().map(|tag| tag.id).collect();
    ids.chunk_by(|a, b| a < b).map(Arc::from).collect()
}

fn range_of(args: &Args) -> Result<TimeRange> {
    let now = times::now_ns();
    let time = |text: &Option<String>, default| match text {
        Some(text) => times::parse_argument(text, args.time_zone, now).map_err(Failure::new),
        None => Ok(default),
    };
    let all = TimeRange::ALL;
    let range = TimeRange::new(time(&args.from, all.start_ns)?, time(&args.to, all.end_ns)?);
    if range.is_empty() {
        return Err(Failure::new("the range is empty: --to is not after --from"));
    }
    Ok(range)
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("'{text}' is not of the form KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn draw_target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_ascend() {
        let tag = |id| {
            Arc::new(Tag {
                id: TagId(id),
                name: "t".into(),
                value_type: tagmill_storage::ValueType::F64,
                attributes: tagmill_storage::TagAttributes::default(),
                created_ns: 0,
            })
        };
        let found = scans(&[3, 5, 9, 1, 2, 0].map(tag));
        let ids: Vec<Vec<u32>> =
            found.iter().map(|run| run.iter().map(|id| id.0).collect()).collect();
        assert_eq!(ids, [vec![3, 5, 9], vec![1, 2], vec![0]]);
        assert!(scans(&[]).is_empty());
        assert!(label("area").is_err());
    }
}
