//! Makes a database open again that recovery refuses, at the price of what cannot be read: [`salvage`].
//!
//! # Contract
//! * A log with a bad middle: every record that can be read stays, before and after the damage, under its number. Lost
//!   records are named, and their numbers are filled with empty records.
//! * A lost manifest is rebuilt only where that is provably right: when the log reaches back to the first record.
//! * Damaged files are copied to `quarantine/` before anything is changed. The database gets a new incarnation.
//! * Without `apply` nothing is written. While it works, `SALVAGE.incomplete` keeps the database from being opened: after
//!   a crash the salvage is run again. The old log goes only when the new one is durable.
//!
//! Damaged segments need none of this: the database opens, and [`crate::Engine::forget_damage`] gives them up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::backup::copy::put;
use crate::disk::real::RealDisk;
use crate::disk::{Disk, read_all};
use crate::error::{Error, Result};
use crate::ids::{SegmentId, Seq};
use crate::manifest::edit::{Edit, State};
use crate::manifest::{Loaded, Manifest};
use crate::options::Options;
use crate::recovery::{BACKUP_BEGUN, BACKUP_DONE, SALVAGE_BEGUN};
use crate::registry::log::{HEADER_BYTES as REGISTRY_HEADER_BYTES, RegistryLog};
use crate::registry::{Change, Registry};
use crate::segment::name::{ASIDE_DIR, SEGMENTS_DIR, SegmentName};
use crate::tag::{Tag, TagAttributes, TagId, ValueType};
use crate::time::Rfc3339;
use crate::wal::file::{DIR as WAL_DIR, FileHeader};
use crate::wal::record::{Content, Payload};
use crate::wal::replay::Listing;
use crate::wal::survey::Survey;
use crate::wal::writer::{self, WalWriter};

/// What a salvage found, and did or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalvageReport {
    /// What is wrong.
    pub findings: Vec<String>,
    /// What is lost, as far as that can be known.
    pub losses: Vec<String>,
    /// What is done about it; nothing if the database opens as it is.
    pub steps: Vec<String>,
    /// Records of the log that are kept.
    pub kept_records: u64,
    /// Whether it was done.
    pub is_done: bool,
}

/// Salvages the database in `dir`, or with `apply` false says what that would do.
///
/// # Errors
/// [`Error::Locked`] if it is open; [`Error::Invalid`] if it cannot be salvaged, with what to do instead; [`Error::Io`],
/// [`Error::Corrupt`] for what cannot be read at all.
pub fn salvage(dir: &Path, apply: bool) -> Result<SalvageReport> {
    let disk = RealDisk::open(dir, false).map_err(|e| Error::io("open directory", dir, e))?;
    salvage_on(&(Arc::new(disk) as Arc<dyn Disk>), apply)
}

/// The same on a disk of the caller's choice.
///
/// # Errors
/// As [`salvage`].
pub fn salvage_on(disk: &Arc<dyn Disk>, apply: bool) -> Result<SalvageReport> {
    let root = disk.root();
    let _held = disk.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked { path: root.clone() },
        _ => Error::io("lock database directory", &root, error),
    })?;
    let names = disk.list("").map_err(|e| Error::io("list", &root, e))?;
    if names.iter().any(|(name, _)| name == BACKUP_DONE || name == BACKUP_BEGUN) {
        let why = "this is a backup: salvage the database itself, or restore another backup";
        return Err(Error::Invalid(format!("{}: {why}", root.display())));
    }
    let mut report = SalvageReport::default();
    let (loaded, is_rebuilt) = match Manifest::load(disk) {
        Ok(Some(loaded)) => (loaded, false),
        Ok(None) => (rebuild(disk, &names, "there is no manifest", &mut report)?, true),
        Err(Error::Corrupt { path, why, offset, .. }) => {
            let what = format!("{} at byte {offset}: {why}", path.display());
            (rebuild(disk, &names, &what, &mut report)?, true)
        }
        Err(error) => return Err(error),
    };
    let floor = loaded.floor();
    let check = |disk: &Arc<dyn Disk>| {
        Listing::read(disk)?.replay(disk, floor, |file| {
            file.frames()
                .try_for_each(|(at, frame, payload)| file.content(at, &frame, payload).map(drop))
        })
    };
    let is_begun = names.iter().any(|(name, _)| name == SALVAGE_BEGUN);
    if is_begun {
        report.findings.push("a salvage was cut short".into());
    }
    let log = match check(disk) {
        Ok(_) if !is_begun => None,
        // What the other one had begun to write reads well and may not be all.
        Ok(_) => Some(plan_log(disk, &loaded, &mut report)?),
        Err(error @ Error::Corrupt { .. }) => {
            report.findings.push(error.to_string());
            Some(plan_log(disk, &loaded, &mut report)?)
        }
        Err(error) => return Err(error),
    };
    if report.steps.is_empty() || !apply {
        return Ok(report);
    }
    carry_out(disk, &loaded, is_rebuilt, log.as_ref())?;
    check(disk)?;
    report.is_done = true;
    Ok(report)
}

/// What a log without its manifest says: everything, if it begins with the first record.
fn rebuild(
    disk: &Arc<dyn Disk>,
    names: &[(String, u64)],
    what: &str,
    report: &mut SalvageReport,
) -> Result<Loaded> {
    report.findings.push(what.to_owned());
    let survey = Survey::read(disk, Seq(0))?;
    let refuse = |why: &str| {
        let next = "restore a backup: which samples were deleted, and which segments count, only the manifest says";
        Err(Error::Invalid(format!("{what}; {why}: {next}")))
    };
    if survey.records.is_empty() || !survey.lost.is_empty() || survey.has_lost_end {
        return refuse("the log does not reach back to the first record without a gap");
    }
    let mut is_bulk = false;
    survey.for_each(disk, |seq, payload| {
        let content = decode(seq, &payload)?;
        let says_something = content.run.is_some()
            || content.delete.as_ref().is_some_and(|delete| !delete.tags.is_empty())
            || content.origin.is_some()
            || !content.changes.is_empty();
        is_bulk |= !says_something;
        Ok(())
    })?;
    if is_bulk {
        return refuse("samples were loaded past the log");
    }
    let segments = disk.list(SEGMENTS_DIR).map_err(|e| Error::io("list", SEGMENTS_DIR, e))?;
    let ids = segments.iter().filter_map(|(name, _)| SegmentName::parse(name));
    let next = ids.map(|name| name.id.0 + 1).max().unwrap_or(1);
    let files: Vec<String> =
        names.iter().map(|(name, _)| name.clone()).filter(|name| Manifest::is_name(name)).collect();
    let number = files.iter().filter_map(|name| Manifest::number_in(name)).max().unwrap_or(0);
    let state = State {
        next_segment: SegmentId(next),
        registry_bytes: REGISTRY_HEADER_BYTES,
        ..State::default()
    };
    report.steps.push(format!(
        "write a new manifest without segments: all {} records are in the log, and are replayed from there",
        survey.records.len()
    ));
    report.kept_records = survey.records.len() as u64;
    Ok(Loaded {
        number,
        incarnation: 0,
        segments: BTreeMap::new(),
        removed: BTreeSet::new(),
        state,
        files,
        path: String::new(),
        torn_bytes: 0,
    })
}

/// What becomes of a log that does not read from front to back.
#[derive(Debug)]
struct LogPlan {
    survey: Survey,
    /// Definitions of tags whose own are lost.
    placeholders: Vec<Change>,
}

fn plan_log(disk: &Arc<dyn Disk>, loaded: &Loaded, report: &mut SalvageReport) -> Result<LogPlan> {
    let survey = Survey::read(disk, loaded.floor())?;
    for file in survey.flawed() {
        report.findings.extend(file.flaw.iter().map(|flaw| format!("{}: {flaw}", file.path)));
        let holes = file.holes.iter();
        let hole = |(from, to): &(usize, usize)| {
            format!("{}: bytes {from} to {to} do not verify", file.path)
        };
        report.findings.extend(holes.map(hole));
    }
    let mut registry = Registry::default();
    RegistryLog::load(disk, loaded.state.registry_bytes, |change| registry.apply(&change))?;
    let mut used: BTreeMap<TagId, Option<ValueType>> = BTreeMap::new();
    let mut times: BTreeMap<Seq, (i64, i64)> = BTreeMap::new();
    survey.for_each(disk, |seq, payload| {
        let content = decode(seq, &payload)?;
        for change in &content.changes {
            registry.apply(change);
            let tags: Vec<TagId> = match change {
                Change::Aliases { pairs, .. } => pairs.iter().map(|(_, tag)| *tag).collect(),
                Change::TagSet { tags, .. } => tags.to_vec(),
                _ => Vec::new(),
            };
            for tag in tags {
                used.entry(tag).or_default();
            }
        }
        if let Some(run) = &content.run {
            for span in &run.spans {
                used.insert(span.tag, Some(span.value_type));
            }
            let (first, last) = (run.times.iter().min(), run.times.iter().max());
            times.extend(first.zip(last).map(|(first, last)| (seq, (*first, *last))));
        }
        Ok(())
    })?;
    let unknown = used.iter().filter(|(tag, _)| registry.get(**tag).is_none());
    let placeholders: Vec<Change> =
        unknown.map(|(tag, value_type)| placeholder(&registry, *tag, *value_type)).collect();
    tell_losses(&survey, &times, &placeholders, report);
    report.kept_records = survey.records.len() as u64;
    report.steps.push(format!(
        "copy the damaged log files to {ASIDE_DIR}/, write a new log of the {} records that can be read, give the database a new incarnation",
        survey.records.len()
    ));
    Ok(LogPlan { survey, placeholders })
}

fn tell_losses(
    survey: &Survey,
    times: &BTreeMap<Seq, (i64, i64)>,
    placeholders: &[Change],
    report: &mut SalvageReport,
) {
    for (first, last) in &survey.lost {
        let before = times.range(..*first).next_back().map(|(_, (_, last_ns))| *last_ns);
        let after = times.range(*last..).next().map(|(_, (first_ns, _))| *first_ns);
        let before = before.map(|ns| format!("; the samples before them end at {}", Rfc3339(ns)));
        let after = after.map(|ns| format!("; those after them begin at {}", Rfc3339(ns)));
        let text = format!(
            "records {first} to {last}: samples, deletes and changes of tags{}{}",
            before.unwrap_or_default(),
            after.unwrap_or_default(),
        );
        report.losses.push(text);
    }
    if survey.has_lost_end {
        report.losses.push("the end of the log: how many records it held is not known".into());
    }
    for change in placeholders {
        if let Change::Define(tag) = change {
            let text = format!(
                "the definition of tag {}: it is called {:?} from now on, and its samples are kept",
                tag.id, tag.name
            );
            report.losses.push(text);
        }
    }
}

/// A definition for a tag whose own is lost, so that its id is never given to another.
fn placeholder(registry: &Registry, id: TagId, value_type: Option<ValueType>) -> Change {
    let mut name = format!("salvaged/{id}");
    while registry.find(&name).is_some() {
        name.push('\'');
    }
    Change::Define(Arc::new(Tag {
        id,
        name: Arc::from(name),
        value_type: value_type.unwrap_or(ValueType::F64),
        attributes: TagAttributes::default(),
        created_ns: 0,
    }))
}

fn decode(seq: Seq, payload: &Payload) -> Result<Content> {
    Content::decode(seq, &payload.bytes, payload.raw_bytes)
        .map_err(|why| Error::corrupt(format!("log record {seq}"), WAL_DIR, 0, why.0))
}

/// Keeps the damaged files, then writes manifest and log anew, then unlinks the old ones.
fn carry_out(
    disk: &Arc<dyn Disk>,
    loaded: &Loaded,
    is_rebuilt: bool,
    log: Option<&LogPlan>,
) -> Result<()> {
    let io = |e| Error::io("salvage", disk.root(), e);
    disk.create_dir(ASIDE_DIR).map_err(io)?;
    let flawed = log.iter().flat_map(|plan| plan.survey.flawed().map(|file| file.path.clone()));
    let bad_manifests = loaded.files.iter().filter(|_| is_rebuilt).cloned();
    let keep: BTreeSet<String> = flawed.chain(bad_manifests).collect();
    for path in keep {
        let bytes = read_all(disk.as_ref(), &path).map_err(io)?;
        let name = path.rsplit('/').next().unwrap_or(&path);
        put(disk, &format!("{ASIDE_DIR}/{name}"), &bytes)?;
    }
    let mark = b"a salvage is at work here, or was cut short: run it again\n";
    put(disk, SALVAGE_BEGUN, mark)?;
    disk.sync_dir(ASIDE_DIR).and_then(|()| disk.sync_dir("")).map_err(io)?;
    if is_rebuilt && RegistryLog::load(disk, REGISTRY_HEADER_BYTES, |_| ()).is_err() {
        RegistryLog::create(disk, crate::ids::random())?;
    }
    let incarnation = crate::ids::random();
    let add = loaded.segments.values().cloned().collect();
    let everything = Edit { remove: Vec::new(), add, state: loaded.state.clone() };
    Manifest::create(disk, loaded.number + 1, incarnation, &everything)?;
    if let Some(plan) = log {
        write_log(disk, loaded.floor(), incarnation, plan)?;
        for file in &plan.survey.files {
            disk.remove(&file.path).map_err(io)?;
        }
        disk.sync_dir(WAL_DIR).map_err(io)?;
    }
    for path in &loaded.files {
        disk.remove(path).map_err(io)?;
    }
    disk.sync_dir("").map_err(io)?;
    disk.remove(SALVAGE_BEGUN).and_then(|()| disk.sync_dir("")).map_err(io)
}

/// Writes what can be read as a log of its own; lost records become empty ones.
fn write_log(disk: &Arc<dyn Disk>, floor: Seq, incarnation: u64, plan: &LogPlan) -> Result<()> {
    let length = Options::default().wal_file_bytes();
    let mut wal = WalWriter::new(Arc::clone(disk), incarnation, length, floor, Vec::new());
    let mut lost = plan.survey.lost.iter().flat_map(|(first, last)| first.0..=last.0).peekable();
    let mut changes = plan.placeholders.clone();
    let mut fill = |wal: &mut WalWriter, before: u64| -> Result<()> {
        while lost.next_if(|seq| *seq < before).is_some() {
            let changes = std::mem::take(&mut changes);
            wal.write([Content { changes, ..Content::default() }.encode()].iter())?;
        }
        Ok(())
    };
    plan.survey.for_each(disk, |seq, payload| {
        fill(&mut wal, seq.0)?;
        let written = wal.write([payload].iter())?;
        assert_eq!(written, seq, "a salvaged record keeps its number");
        Ok(())
    })?;
    fill(&mut wal, u64::MAX)?;
    if wal.written() == floor {
        let (first_seq, identity) = (floor.next(), crate::ids::random());
        writer::create(
            disk,
            &FileHeader { identity, first_seq, synced_seq: floor, incarnation, length },
        )?;
    }
    wal.close()
}
