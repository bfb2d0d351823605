//! Takes a backup of what a [`Pinned`] holds.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::copy::{Brought, bring, copy_prefix, is_shared, put};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::maintenance::pin::Pinned;
use crate::manifest::{Loaded, Manifest, checkpoint};
use crate::recovery::{BACKUP_BEGUN, BACKUP_DONE};
use crate::registry::log::PATH as REGISTRY_PATH;
use crate::segment::Segment;
use crate::segment::damage::{Damage, Quarantine};
use crate::segment::name::SEGMENTS_DIR;

/// What a backup did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// The newest record in it.
    pub seq: Seq,
    /// Segments in it.
    pub segments: u64,
    /// Of these: linked, so that both folders share the file.
    pub linked: u64,
    /// Of these: copied.
    pub copied: u64,
    /// Of these: there before, and whole.
    pub kept: u64,
    /// Of these: there before and not whole any more, so that they were linked or copied again.
    pub mended: u64,
    /// Segments whose file is lost or unreadable as a whole: the backup cannot have them either.
    pub missing: u64,
    /// Bytes of all its segments.
    pub bytes: u64,
}

/// What of a database is backed up, and where to.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) source: &'a Arc<dyn Disk>,
    pub(crate) target: &'a Arc<dyn Disk>,
    pub(crate) incarnation: u64,
    pub(crate) may_link: bool,
    /// How fast that is read which is there already.
    pub(crate) verify_bytes_per_s: u64,
}

/// Writes the backup, then makes it count.
pub(crate) fn take(job: &Job<'_>, pin: impl FnOnce() -> Result<Pinned>) -> Result<BackupReport> {
    let Job { source, target, incarnation, .. } = *job;
    let _held = super::hold(target)?;
    let before = earlier(target, incarnation)?;
    let fail = |e| Error::io("make backup folder", target.root(), e);
    target.create_dir(SEGMENTS_DIR).map_err(fail)?;
    put(target, BACKUP_BEGUN, b"a backup is being made here, or was broken off: make it again\n")?;
    target.sync_dir("").map_err(fail)?;
    let pinned = pin()?;
    let state = &pinned.everything.state;
    let mut report = BackupReport { seq: state.floor, ..BackupReport::default() };
    let quarantine = Quarantine::new(state.quarantine.clone());
    for segment in pinned.version.all() {
        bring_segment(job, segment, quarantine.of(segment.meta().id), &mut report)?;
    }
    target.sync_dir(SEGMENTS_DIR).map_err(fail)?;
    copy_prefix(source, target, REGISTRY_PATH, state.registry_bytes)?;
    if let Some((number, bytes)) = &pinned.checkpoint {
        put(target, &checkpoint::path(*number), bytes)?;
    }
    target.sync_dir("").map_err(fail)?;
    let number = before.as_ref().map_or(1, |before| before.number + 1);
    Manifest::create(target, number, incarnation, &pinned.everything)?;
    let text = format!(
        "a backup of a tagmill database: 'tagmill restore' makes a database of it\n\
         up to record {}, {} segments\n",
        report.seq, report.segments,
    );
    put(target, BACKUP_DONE, text.as_bytes())?;
    let done = target.remove(BACKUP_BEGUN).and_then(|()| target.sync_dir(""));
    done.map_err(fail)?;
    clear_away(target, before.as_ref(), &pinned);
    Ok(report)
}

/// The backup that the folder has already.
fn earlier(target: &Arc<dyn Disk>, incarnation: u64) -> Result<Option<Loaded>> {
    let root = target.root();
    let names = target.list("").map_err(|e| Error::io("list", &root, e))?;
    // The mark of the unfinished may itself be unfinished.
    let is_ours = names.iter().any(|(name, _)| name.starts_with(BACKUP_DONE));
    if !is_ours && names.iter().any(|(name, _)| name != crate::disk::real::LOCK_FILE) {
        let why = format!("{}: the folder holds something else: name an empty one", root.display());
        return Err(Error::Invalid(why));
    }
    match Manifest::load(target) {
        Ok(Some(loaded)) if loaded.incarnation != incarnation => {
            let why = format!(
                "{}: the backup of another database is here: name another folder",
                root.display()
            );
            Err(Error::Invalid(why))
        }
        Ok(loaded) => Ok(loaded),
        // A manifest that a crash has torn: the folder holds no backup yet.
        Err(Error::Corrupt { .. }) if names.iter().all(|(name, _)| name != BACKUP_DONE) => {
            let torn = names.iter().map(|(name, _)| name).filter(|name| Manifest::is_name(name));
            for name in torn {
                target.remove(name).map_err(|e| Error::io("remove", name, e))?;
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn bring_segment(
    job: &Job<'_>,
    segment: &Arc<Segment>,
    known: &[Arc<Damage>],
    report: &mut BackupReport,
) -> Result<()> {
    let meta = segment.meta();
    report.segments += 1;
    if known.iter().any(|damage| damage.is_whole()) {
        report.missing += 1;
        return Ok(());
    }
    report.bytes += meta.file_bytes;
    let path = meta.path();
    // A file that both share is looked after by the database; if copies are asked for, it is none.
    let is_shared = is_shared(job.source, job.target, &path);
    let there = if is_shared { Kept::Whole } else { look_at(job, segment, known) };
    match there {
        Kept::Whole if job.may_link || !is_shared => {
            report.kept += 1;
            return Ok(());
        }
        Kept::Damaged => report.mended += 1,
        Kept::Whole | Kept::Missing => {}
    }
    if job.may_link {
        drop(job.target.remove(&path)); // a link takes no other file's place
    }
    match bring(job.source, job.target, &path, job.may_link)? {
        Brought::Linked => report.linked += 1,
        Brought::Copied => report.copied += 1,
    }
    Ok(())
}

/// What a backup has of a segment.
enum Kept {
    Missing,
    Damaged,
    Whole,
}

/// Reads what the backup has of a segment, to the end: what is kept unread for years rots unseen. Places that the database
/// cannot read either are as good as they can be.
fn look_at(job: &Job<'_>, segment: &Segment, known: &[Arc<Damage>]) -> Kept {
    let kept = Segment::new(Arc::clone(job.target), segment.meta().clone());
    if !job
        .target
        .open(&kept.meta().path())
        .is_ok_and(|file| file.len().is_ok_and(|bytes| bytes > 0))
    {
        return Kept::Missing;
    }
    let (begun, mut read, is_whole) = (Instant::now(), 0_u64, Cell::new(true));
    let mut found = |_error, damage: Option<Damage>| {
        let is_known = |damage: &Damage| known.iter().any(|other| other.is_same_place(damage));
        is_whole.set(is_whole.get() && damage.as_ref().is_some_and(is_known));
    };
    kept.verify_places(&mut found, &mut |bytes| {
        read += bytes;
        let due_ms = read.saturating_mul(1_000) / job.verify_bytes_per_s.max(1);
        std::thread::sleep(Duration::from_millis(due_ms).saturating_sub(begun.elapsed()));
        is_whole.get()
    });
    if is_whole.get() { Kept::Whole } else { Kept::Damaged }
}

/// Best effort: what an earlier backup had and this one has not.
fn clear_away(target: &Arc<dyn Disk>, before: Option<&Loaded>, pinned: &Pinned) {
    let Some(before) = before else { return };
    for file in &before.files {
        drop(target.remove(file));
    }
    let now = pinned.checkpoint.as_ref().map(|(number, _)| *number);
    let old = before.state.latest_file;
    if old > 0 && now != Some(old) {
        drop(target.remove(&checkpoint::path(old)));
    }
    let lives = |id| pinned.version.find(id).is_some();
    for meta in before.segments.values().filter(|meta| !lives(meta.id)) {
        drop(target.remove(&meta.path()));
    }
}
