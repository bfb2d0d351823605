//! `tagmill delete`: samples of some tags in a time range.
//!
//! Contract: says how many tags and samples before it deletes them, and asks nothing: a range has to be given at both
//! ends, and `--dry-run` stops after the count. The delete is on disk when the command ends.

use std::io::Write;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use tagmill_proto::v1;
use tagmill_storage::{TagId, TimeRange};

use super::failure::{Failure, Result};
use super::import::report::{grouped, some_of};
use super::target::{Door, Local, Remote, TargetArgs, quoted};
use super::times::{self, Zone};
use crate::globs::glob_to_like;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  See what would go:
    tagmill delete --tags 'unit3/*' --from 2024-03-01T00:00:00Z --to 2024-03-02T00:00:00Z --dry-run
  Delete the last hour of two tags:
    tagmill delete --tags unit3/FT-101,unit3/FT-102 --from now-1h --to now --data plant

The range holds --from and ends before --to. Samples written later, at the same times too, are not touched.";

/// Names in one count.
const NAMES_PER_COUNT: usize = 500;

/// Arguments of `tagmill delete`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names of tags, separated by commas; * stands for any characters. May be given several times.
    #[arg(long, required = true, value_name = "NAMES", value_delimiter = ',')]
    tags: Vec<String>,
    /// First time deleted: 2024-03-01T06:00:00Z, now, now-2h.
    #[arg(long, value_name = "TIME")]
    from: String,
    /// First time kept again.
    #[arg(long, value_name = "TIME")]
    to: String,
    /// Zone of times that name none.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<Zone>,
    /// Count, delete nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Runs the command.
///
/// # Errors
/// If no tag matches, the range is empty, or the database cannot be reached.
pub fn run(args: &Args) -> Result<()> {
    let now = times::now_ns();
    let time = |text: &str| times::parse_argument(text, args.time_zone, now).map_err(Failure::new);
    let range = TimeRange::new(time(&args.from)?, time(&args.to)?);
    if range.is_empty() {
        return Err(Failure::new("the range is empty: --to is not after --from"));
    }
    let mut door = args.target.open_existing()?;
    let tags = matching(&mut door, &args.tags)?;
    let samples = count(&mut door, &tags, range)?;
    let zone = args.time_zone.unwrap_or(Zone::UTC);
    let would = if args.dry_run { "would delete" } else { "deleting" };
    writeln!(
        std::io::stdout(),
        "{would} {} samples of {} tags ({}) from {} to {}",
        grouped(samples),
        grouped(tags.len() as u64),
        some_of(tags.iter().map(String::as_str)),
        zone.show(range.start_ns),
        zone.show(range.end_ns),
    )?;
    if !args.dry_run && samples > 0 {
        match &door {
            Door::Local(local) => delete_local(local, &tags, range)?,
            Door::Remote(remote) => delete_remote(remote, &tags, range)?,
        }
    }
    door.close()
}

/// Names of the tags that the words select, ascending.
///
/// # Errors
/// If one selects none, or the database cannot be asked.
pub(super) fn matching(door: &mut Door, words: &[String]) -> Result<Vec<String>> {
    let mut found = std::collections::BTreeSet::new();
    for word in words.iter().map(|word| word.trim()).filter(|word| !word.is_empty()) {
        let sql = format!("SELECT tag FROM tags WHERE tag LIKE {}", quoted(&glob_to_like(word)));
        let names = door.texts(&sql)?;
        if names.is_empty() {
            return Err(Failure::new(format!("no tag matches '{word}'"))
                .next("'tagmill tags list' shows the names"));
        }
        found.extend(names);
    }
    if found.is_empty() {
        return Err(Failure::new("no tags are named").next("name them with --tags"));
    }
    Ok(found.into_iter().collect())
}

fn count(door: &mut Door, tags: &[String], range: TimeRange) -> Result<u64> {
    let mut total = 0;
    for tags in tags.chunks(NAMES_PER_COUNT) {
        let names: Vec<String> = tags.iter().map(|tag| quoted(tag)).collect();
        let sql = format!(
            "SELECT count(*) FROM samples WHERE tag IN ({}) AND ts >= TIMESTAMP '{}' AND ts < TIMESTAMP '{}'",
            names.join(", "),
            Zone::UTC.show(range.start_ns),
            Zone::UTC.show(range.end_ns),
        );
        door.rows(&sql, |batch| {
            let counts = cast(batch.column(0), &DataType::Int64)?;
            total +=
                counts.as_primitive::<Int64Type>().iter().flatten().sum::<i64>().unsigned_abs();
            Ok(())
        })?;
    }
    Ok(total)
}

fn delete_local(local: &Local, tags: &[String], range: TimeRange) -> Result<()> {
    let engine = local.engine();
    let snapshot = engine.snapshot();
    let mut ids: Vec<TagId> = tags.iter().filter_map(|tag| snapshot.registry().find(tag)).collect();
    ids.sort_unstable();
    engine.delete(&ids, range, "tagmill delete")?;
    Ok(())
}

fn delete_remote(remote: &Remote, tags: &[String], range: TimeRange) -> Result<()> {
    // The server reads a star as a pattern: a name that holds one could select more than was counted.
    if let Some(tag) = tags.iter().find(|tag| tag.contains('*')) {
        return Err(Failure::new(format!("tag '{tag}' has a star in its name"))
            .next("rename it, or delete its samples with --data while no server runs"));
    }
    let request = v1::DeleteRangeRequest {
        tags: tags.to_vec(),
        from_ns: Some(range.start_ns),
        to_ns: Some(range.end_ns),
        dry_run: false,
    };
    remote.block_on(async {
        let mut admin = v1::admin_client::AdminClient::new(remote.channel().await?);
        admin.delete_range(request).await.map_err(|status| remote.failure(&status))
    })?;
    Ok(())
}
