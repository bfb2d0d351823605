//! Makes a database of a backup.

use std::path::Path;
use std::sync::Arc;

use super::copy::{bring, copy_prefix, put};
use crate::disk::Disk;
use crate::disk::real::LOCK_FILE;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::manifest::edit::Edit;
use crate::manifest::{Loaded, Manifest, checkpoint};
use crate::options::Options;
use crate::recovery::{BACKUP_BEGUN, BACKUP_DONE, RESTORE_BEGUN};
use crate::registry::log::{PATH as REGISTRY_PATH, RegistryLog};
use crate::segment::Segment;
use crate::segment::damage::{Damage, Quarantine};
use crate::segment::name::SEGMENTS_DIR;
use crate::wal::file::{DIR as WAL_DIR, FileHeader};
use crate::wal::writer;

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The newest record in the database.
    pub seq: Seq,
    /// Its segments.
    pub segments: u64,
    /// Their bytes, every one verified.
    pub bytes: u64,
    /// Places that cannot be read; the database has them in quarantine.
    pub damaged: u64,
    /// The database's new incarnation.
    pub incarnation: u64,
}

/// Makes a database in the empty or missing directory `target` of the backup in `folder`, after every byte was verified.
///
/// With `accept_damage` a backup with unreadable places is restored, too: they go into quarantine.
///
/// # Errors
/// [`Error::Invalid`] if `folder` holds no complete backup, or `target` holds anything; [`Error::Corrupt`] for the first
/// damaged place; [`Error::Io`]. What was written then has no manifest and is never taken for a database.
pub fn restore(folder: &Path, target: &Path, accept_damage: bool) -> Result<RestoreReport> {
    restore_on(
        &super::open_folder(folder, false)?,
        &super::open_folder(target, true)?,
        accept_damage,
    )
}

/// The same on disks of the caller's choice.
///
/// # Errors
/// As [`restore`].
pub fn restore_on(
    folder: &Arc<dyn Disk>,
    target: &Arc<dyn Disk>,
    accept_damage: bool,
) -> Result<RestoreReport> {
    // A backup may lie where nothing can be written: then nobody writes there now.
    let _held = match super::hold(folder) {
        Err(error @ Error::Locked { .. }) => return Err(error),
        held => held.ok(),
    };
    let loaded = load(folder)?;
    check_empty(target)?;
    let _target_held = super::hold(target)?;
    let fail = |e| Error::io("make database folder", target.root(), e);
    put(target, RESTORE_BEGUN, b"a backup is being restored here, or was broken off: empty it\n")?;
    for dir in [WAL_DIR, SEGMENTS_DIR, "trash"] {
        target.create_dir(dir).map_err(fail)?;
    }
    target.sync_dir("").map_err(fail)?;
    let mut state = loaded.state.clone();
    RegistryLog::load(folder, state.registry_bytes, |_| ())?;
    copy_prefix(folder, target, REGISTRY_PATH, state.registry_bytes)?;
    if state.latest_file > 0 {
        // One that does not verify is computed anew by the first open.
        bring(folder, target, &checkpoint::path(state.latest_file), false)?;
    }
    let damage = bring_segments(folder, target, &loaded, accept_damage)?;
    state.quarantine = Quarantine::bounded(damage, |id| loaded.segments.get(&id)).places().to_vec();
    target.sync_dir(SEGMENTS_DIR).map_err(fail)?;
    let incarnation = crate::ids::random();
    let header = FileHeader {
        identity: crate::ids::random(),
        first_seq: state.floor.next(),
        synced_seq: state.floor,
        incarnation,
        length: Options::default().wal_file_bytes(),
    };
    writer::create(target, &header)?;
    target.sync_dir("").map_err(fail)?;
    let (seq, damaged) = (state.floor, state.quarantine.len() as u64);
    let everything = Edit { remove: Vec::new(), add: metas(&loaded), state };
    Manifest::create(target, 1, incarnation, &everything)?;
    drop(target.remove(RESTORE_BEGUN)); // the first open knows that it is done
    let segments = loaded.segments.len() as u64;
    let bytes = loaded.segments.values().map(|meta| meta.file_bytes).sum();
    Ok(RestoreReport { seq, segments, bytes, damaged, incarnation })
}

fn metas(loaded: &Loaded) -> Vec<crate::segment::SegmentMeta> {
    loaded.segments.values().cloned().collect()
}

/// The manifest of a complete backup.
fn load(folder: &Arc<dyn Disk>) -> Result<Loaded> {
    let root = folder.root();
    let names = folder.list("").map_err(|e| Error::io("list", &root, e))?;
    let has = |mark| names.iter().any(|(name, _)| name == mark);
    let refuse = |why: &str| Err(Error::Invalid(format!("{}: {why}", root.display())));
    if !has(BACKUP_DONE) && has(BACKUP_BEGUN) {
        return refuse("this backup was never finished: make it again");
    }
    if !has(BACKUP_DONE) {
        return refuse("this is no backup made by 'tagmill backup'");
    }
    Manifest::load(folder)?.map_or_else(|| refuse("the backup has lost its manifest"), Ok)
}

fn check_empty(target: &Arc<dyn Disk>) -> Result<()> {
    let root = target.root();
    let mut names = target.list("").map_err(|e| Error::io("list", &root, e))?;
    names.retain(|(name, _)| name != LOCK_FILE);
    for dir in [WAL_DIR, SEGMENTS_DIR] {
        names.extend(target.list(dir).unwrap_or_default());
    }
    if names.is_empty() {
        return Ok(());
    }
    let why = format!("{} is not empty: name a new directory", root.display());
    Err(Error::Invalid(why))
}

/// Copies every segment and verifies each byte of the copies. Gives the places that cannot be read.
fn bring_segments(
    folder: &Arc<dyn Disk>,
    target: &Arc<dyn Disk>,
    loaded: &Loaded,
    accept_damage: bool,
) -> Result<Vec<Arc<Damage>>> {
    let known = Quarantine::new(loaded.state.quarantine.clone());
    let mut damaged: Vec<Arc<Damage>> = Vec::new();
    for meta in loaded.segments.values() {
        let places = known.of(meta.id);
        if let Some(whole) = places.iter().find(|damage| damage.is_whole()) {
            damaged.push(Arc::clone(whole));
            continue;
        }
        let lost = |error: &Error| {
            crate::segment::damage::damage_in(error).map(|why| Damage::whole(meta, why))
        };
        let on_folder = Segment::new(Arc::clone(folder), meta.clone());
        if let Err(error) = on_folder.directory() {
            let Some(damage) = lost(&error).filter(|_| accept_damage) else { return Err(error) };
            damaged.push(Arc::new(damage));
            continue;
        }
        bring(folder, target, &meta.path(), false)?;
        let mut refused = None;
        let mut found = |error: Error, damage: Option<Damage>| match damage {
            Some(damage) if accept_damage || places.iter().any(|p| p.is_same_place(&damage)) => {
                damaged.push(Arc::new(damage));
            }
            _ => drop(refused.get_or_insert(error)),
        };
        Segment::new(Arc::clone(target), meta.clone()).verify_places(&mut found, &mut |_| true);
        if let Some(error) = refused {
            return Err(error);
        }
    }
    Ok(damaged)
}
