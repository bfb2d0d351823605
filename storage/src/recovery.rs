//! From whatever a crash or a close left to an open engine: `docs/recovery.md`.
//!
//! # Contract
//! * Every crash state opens without a manual step. What is damaged beyond that is named, and nothing is changed then.
//! * Memory stays below the running limits: the head is sealed while the log is replayed, when it must be.
//! * Nothing is shown or acknowledged before the records it rests on are durable in files of this open.
//! * Old log and manifest files are never appended to: their content is taken over by new ones first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::disk::Disk;
use crate::disk::ballast::Ballast;
use crate::engine::core::{Core, Start, lock};
use crate::error::{Error, Result};
use crate::head::tombstone::Tombstones;
use crate::ids::{SegmentId, Seq};
use crate::limits::{FOLD_ROWS, FOLD_RUNS};
use crate::maintenance::seal::{self, Ledger, snapshot_edit};
use crate::maintenance::{fold, quarantine};
use crate::manifest::checkpoint::{self, SealedUntil, raise};
use crate::manifest::edit::State;
use crate::manifest::version::Version;
use crate::manifest::{Loaded, Manifest};
use crate::options::Options;
use crate::planted::{self, Bug};
use crate::registry::log::{HEADER_BYTES as REGISTRY_HEADER_BYTES, RegistryLog};
use crate::retention::Horizons;
use crate::scan::snapshot::View;
use crate::segment::Segment;
use crate::segment::damage::{Damage, Quarantine, damage_in};
use crate::segment::name::{ASIDE_DIR, SEGMENTS_DIR, SegmentName, TRASH_DIR};
use crate::time::Clock;
use crate::wal::file::FileHeader;
use crate::wal::record::Content;
use crate::wal::replay::{Listing, LogFile};
use crate::wal::writer::{self, ClosedFile, WalWriter};

/// Names that say that a folder is a backup, or is becoming one: no database is opened there.
pub(crate) const BACKUP_DONE: &str = "BACKUP";
pub(crate) const BACKUP_BEGUN: &str = "BACKUP.incomplete";
/// Name that says that a backup is being restored here. With a manifest beside it the restore was done.
pub(crate) const RESTORE_BEGUN: &str = "RESTORE.incomplete";
/// Name that says that a salvage has begun to change things and has not ended.
pub(crate) const SALVAGE_BEGUN: &str = "SALVAGE.incomplete";

/// Opens a database directory and brings its log into memory.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: Options,
) -> Result<(Core, Ledger)> {
    let ballast = Ballast::over(disk, options.ballast_bytes);
    let disk: Arc<dyn Disk> = Arc::new(ballast.clone());
    let directory_lock = disk.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked { path: disk.root() },
        _ => Error::io("lock database directory", disk.root(), error),
    })?;
    let is_restored = check_marks(&disk)?;
    let mut loaded = match Manifest::load(&disk) {
        Ok(Some(loaded)) => loaded,
        _ if is_restored => {
            let why = "a restore was broken off here: empty the directory and restore again";
            return Err(Error::Invalid(format!("{}: {why}", disk.root().display())));
        }
        Ok(None) => begin(&disk, &options)?,
        // The first manifest was torn by a crash while the database was made, if nothing else is here.
        Err(error @ Error::Corrupt { .. }) => begin(&disk, &options).map_err(|_| error)?,
        Err(error) => return Err(error),
    };
    let (needless, missing) = check_files(&disk, &loaded)?;
    loaded.state.quarantine = look_again(&disk, &loaded, missing);
    let (mut view, registry_log) = read_state(&disk, &loaded, &options)?;
    let sealed_until = read_checkpoint(&disk, &loaded, &mut view)?;
    // The whole log is read once before anything is changed: a database that is refused for a file that is missing, cut
    // or rotten stays as it is. What records say is decoded once, below: a record that matches its checksum and still
    // makes no sense is no damage of a disk, and what was changed by then is a new manifest and a seal, both right.
    Listing::read(&disk)?.replay(&disk, loaded.floor(), |_| Ok(()))?;
    needless.put_back(&disk)?;
    if is_restored {
        remove_all(&disk, [RESTORE_BEGUN.to_owned()].iter());
    }
    let (number, incarnation) = (loaded.number + 1, loaded.incarnation);
    if planted::is(Bug::ManifestRemovedEarly) {
        remove_all(&disk, loaded.files.iter());
    }
    if planted::is(Bug::FilesLetGoEarly) {
        remove_all(&disk, needless.removed.iter());
    }
    let everything = snapshot_edit(&view.version, &loaded.state);
    let manifest = Manifest::create(&disk, number, incarnation, &everything)?;
    remove_all(&disk, loaded.files.iter());
    // Not before: the last edits of the manifest that was read may never have been synced, and without them it names files
    // that these edits let go of.
    needless.clear_away(&disk)?;
    let ledger = Ledger { manifest, registry_log, sealed_until, state: loaded.state };

    let listing = Listing::read(&disk)?;
    let (file_bytes, last) = (options.wal_file_bytes(), view.durable_seq);
    let wal = WalWriter::new(Arc::clone(&disk), incarnation, file_bytes, last, Vec::new());
    let next_segment = ledger.state.next_segment;
    let start = Start { incarnation, view, next_segment, directory_lock, ballast };
    let core = Core::new(disk, clock, options, wal, start);
    let mut replay = Replay { core, ledger, closed: Vec::new() };
    replay.run(listing)?;
    replay.core.ballast.opened();
    Ok((replay.core, replay.ledger))
}

/// Refuses backups and half-done salvages. Gives whether a backup was being restored here.
fn check_marks(disk: &Arc<dyn Disk>) -> Result<bool> {
    let names = disk.list("").map_err(|e| Error::io("list", disk.root(), e))?;
    let has = |mark| names.iter().any(|(name, _)| name == mark);
    if has(BACKUP_DONE) || has(BACKUP_BEGUN) {
        let why = "this is a backup: 'tagmill restore' makes a database of it";
        return Err(Error::Invalid(format!("{}: {why}", disk.root().display())));
    }
    if has(SALVAGE_BEGUN) {
        let why = "a salvage was cut short here: run 'tagmill salvage' again";
        return Err(Error::Invalid(format!("{}: {why}", disk.root().display())));
    }
    Ok(has(RESTORE_BEGUN))
}

/// What the manifest and the registry file say.
fn read_state(
    disk: &Arc<dyn Disk>,
    loaded: &Loaded,
    options: &Options,
) -> Result<(View, RegistryLog)> {
    let mut view = View::default();
    let registry_log = RegistryLog::load(disk, loaded.state.registry_bytes, |mut change| {
        view.registry.share_change(&mut change);
        view.apply_change(&change);
    })?;
    let open = |meta: &_| Arc::new(Segment::new(Arc::clone(disk), Clone::clone(meta)));
    view.version = Version::new(loaded.segments.values().map(open).collect());
    view.quarantine = Quarantine::new(loaded.state.quarantine.clone());
    view.durable_seq = loaded.floor();
    view.imports = Arc::new(loaded.state.imports.clone());
    view.horizons = Arc::new(Horizons::new(&options.retention, &loaded.state.horizons));
    view.tombstones = Tombstones::new(loaded.state.tombstones.clone());
    let marks = Arc::make_mut(&mut view.gateways);
    for (gateway, epoch, seq) in &loaded.state.marks {
        marks.restore(gateway, *epoch, *seq);
    }
    Ok((view, registry_log))
}

/// Makes an empty database, or says why not.
fn begin(disk: &Arc<dyn Disk>, options: &Options) -> Result<Loaded> {
    let root = disk.root();
    let refuse = |why: &str| Err(Error::Invalid(format!("{}: {why}", root.display())));
    if !options.create {
        return refuse("there is no database here, and none was asked to be made");
    }
    let io = |e| Error::io("make folders", root.clone(), e);
    for folder in [crate::wal::file::DIR, "segments", "trash"] {
        disk.create_dir(folder).map_err(io)?;
    }
    let names = disk.list("").map_err(io)?;
    let has_segments = !disk.list("segments").map_err(io)?.is_empty()
        || names.iter().any(|(name, _)| checkpoint::parse_name(name).is_some());
    if has_segments || Listing::read(disk)?.discard_unused(disk)? {
        return refuse(
            "segments or logs are here, but no manifest names them: restore a backup, or see what 'tagmill salvage' can do",
        );
    }
    let torn: Vec<String> =
        names.into_iter().map(|(name, _)| name).filter(|name| Manifest::is_name(name)).collect();
    for name in &torn {
        disk.remove(name).map_err(io)?;
    }
    RegistryLog::create(disk, crate::ids::random())?;
    let incarnation = crate::ids::random();
    let header = FileHeader {
        identity: crate::ids::random(),
        first_seq: Seq(1),
        synced_seq: Seq(0),
        incarnation,
        length: options.wal_file_bytes(),
    };
    // Before the manifest: from its first moment on a database has a log file.
    writer::create(disk, &header)?;
    let state = State {
        next_segment: SegmentId(1),
        registry_bytes: REGISTRY_HEADER_BYTES,
        ..State::default()
    };
    disk.sync_dir("").map_err(io)?;
    let (segments, files) = (BTreeMap::new(), Vec::new());
    let (path, torn_bytes, removed) = (String::new(), 0, BTreeSet::new());
    Ok(Loaded { number: 0, incarnation, segments, removed, state, files, path, torn_bytes })
}

/// Files that a crash left and no manifest names.
struct Needless {
    /// Names of segments that no edit ever named, as far as is known.
    segments: Vec<String>,
    /// Names of segments that were set aside for an edit which was not made.
    aside: Vec<String>,
    /// Names of segments that an edit let go of.
    removed: Vec<String>,
    checkpoints: Vec<String>,
}

impl Needless {
    /// Puts back what was set aside and is named after all.
    fn put_back(&self, disk: &Arc<dyn Disk>) -> Result<()> {
        for name in &self.aside {
            quarantine::take_back(disk, name).map_err(|e| Error::io("put back", name, e))?;
        }
        Ok(())
    }

    /// Unlinks what an edit let go of, moves other segments to the trash and unlinks checkpoints.
    fn clear_away(self, disk: &Arc<dyn Disk>) -> Result<()> {
        for name in &self.segments {
            let moved =
                disk.rename(&format!("{SEGMENTS_DIR}/{name}"), &format!("{TRASH_DIR}/{name}"));
            moved.map_err(|e| Error::io("move to trash", name, e))?;
        }
        remove_all(disk, self.removed.iter());
        crate::maintenance::backfill::spill::clear(disk);
        remove_all(disk, self.checkpoints.iter());
        Ok(())
    }
}

/// Compares the segments there are with those that the manifest names: what it does not name, and what is missing or of
/// another length.
fn check_files(disk: &Arc<dyn Disk>, loaded: &Loaded) -> Result<(Needless, Vec<Damage>)> {
    let present = disk.list("segments").map_err(|e| Error::io("list", "segments", e))?;
    let mut present: BTreeMap<String, u64> = present.into_iter().collect();
    let kept: BTreeMap<String, u64> =
        disk.list(ASIDE_DIR).unwrap_or_default().into_iter().collect();
    let (mut missing, mut aside) = (Vec::new(), Vec::new());
    for meta in loaded.segments.values() {
        let path = meta.path();
        let name = SegmentName::in_path(&path);
        let bytes = present.remove(name).or_else(|| {
            let bytes = kept.get(name).copied();
            aside.extend(bytes.map(|_| name.to_owned()));
            bytes
        });
        if bytes != Some(meta.file_bytes) {
            let found = bytes.map_or("is missing".into(), |bytes| format!("has {bytes} bytes"));
            let why = format!("the file {found}, the manifest says {}", meta.file_bytes);
            missing.push(Damage::whole(meta, why));
        }
    }
    // A file of another name is none of ours: it stays where it is.
    let (mut segments, mut removed) = (Vec::new(), Vec::new());
    for name in present.into_keys() {
        match SegmentName::parse(&name) {
            Some(parsed) if loaded.removed.contains(&parsed.id) => {
                removed.push(format!("segments/{name}"));
            }
            Some(_) => segments.push(name),
            None => {}
        }
    }
    let root = disk.list("").map_err(|e| Error::io("list", disk.root(), e))?;
    let numbers = root.iter().filter_map(|(name, _)| checkpoint::parse_name(name));
    let needless = numbers.filter(|number| *number != loaded.state.latest_file);
    let checkpoints = needless.map(checkpoint::path).collect();
    Ok((Needless { segments, aside, removed, checkpoints }, missing))
}

/// The quarantine of this open: segments that are missing, and known places that still do not verify.
fn look_again(disk: &Arc<dyn Disk>, loaded: &Loaded, missing: Vec<Damage>) -> Vec<Arc<Damage>> {
    let mut places: Vec<Arc<Damage>> = missing.into_iter().map(Arc::new).collect();
    let meta_of = |id| loaded.segments.get(&id);
    let known = Quarantine::new(loaded.state.quarantine.clone());
    for same in known.places().chunk_by(|a, b| a.segment == b.segment) {
        let Some(meta) = meta_of(same[0].segment) else { continue };
        let verified = Segment::new(Arc::clone(disk), meta.clone()).verify_again(same);
        let still = same.iter().zip(verified).filter(|(_, verified)| verified.is_err());
        places.extend(still.map(|(damage, _)| Arc::clone(damage)));
    }
    Quarantine::bounded(places, meta_of).places().to_vec()
}

/// Latest samples and newest sealed times, from the checkpoint or, where that does not verify, from the segments.
fn read_checkpoint(disk: &Arc<dyn Disk>, loaded: &Loaded, view: &mut View) -> Result<SealedUntil> {
    if loaded.state.latest_file == 0 {
        return Ok(SealedUntil::new());
    }
    match checkpoint::read(disk, loaded.state.latest_file, view.registry.len()) {
        Ok(checkpoint) => {
            view.latest = checkpoint.latest;
            view.renew_latest(checkpoint.stale);
            Ok(checkpoint.sealed_until)
        }
        Err(Error::Corrupt { .. }) => {
            let mut sealed_until = SealedUntil::new();
            let tags: BTreeSet<_> = view.registry.iter().map(|tag| tag.id).collect();
            for segment in view.version.segments() {
                let read = segment.for_each_tag(&mut |tag, _, last_ns, _| {
                    raise(&mut sealed_until, tag, last_ns);
                });
                match read {
                    // It may hold any tag: what is not newer than all of it counts as late, which is always right.
                    Err(error) if damage_in(&error).is_some() => tags.iter().for_each(|tag| {
                        raise(&mut sealed_until, *tag, segment.meta().last_ns);
                    }),
                    read => read?,
                }
            }
            view.renew_latest(tags);
            Ok(sealed_until)
        }
        Err(error) => Err(error),
    }
}

/// Best effort: what stays is needless, and the next open tries again.
fn remove_all<'a>(disk: &Arc<dyn Disk>, paths: impl Iterator<Item = &'a String>) {
    for path in paths {
        match disk.remove(path) {
            Ok(()) | Err(_) => {}
        }
    }
}

/// The log on its way into memory.
struct Replay {
    core: Core,
    ledger: Ledger,
    closed: Vec<ClosedFile>,
}

impl Replay {
    fn run(&mut self, listing: Listing) -> Result<()> {
        let disk = Arc::clone(&self.core.disk);
        let floor = self.ledger.state.floor;
        let replayed = listing.replay(&disk, floor, |file| self.take(file))?;
        let last = replayed.last;
        let last_seq = last.last_seq.max(self.ledger.state.floor);
        self.closed.pop(); // the last file is taken over below
        let reused = u64::from(planted::is(Bug::SeqReused)).min(last_seq.0);
        let mut wal = WalWriter::new(
            Arc::clone(&disk),
            self.core.incarnation,
            self.core.options.wal_file_bytes(),
            Seq(last_seq.0 - reused),
            std::mem::take(&mut self.closed),
        );
        let identity = crate::ids::random();
        let length = self.core.options.wal_file_bytes();
        let mut header = FileHeader { identity, length, ..last.header };
        let taken = (last.last_seq > self.ledger.state.floor).then_some(&last);
        if taken.is_none() {
            (header.first_seq, header.synced_seq) = (last_seq.next(), last_seq);
        }
        wal.sealed_to(self.ledger.state.floor);
        begin_file(&disk, header, taken, &mut wal)?;
        for path in replayed.needless.iter().chain([&last.path]) {
            disk.remove(path).map_err(|e| Error::io("remove old log file", path, e))?;
        }
        let dir = crate::wal::file::DIR;
        disk.sync_dir(dir).map_err(|e| Error::io("sync folder", dir, e))?;
        *lock(&self.core.wal) = wal;
        let known = self.core.view().registry.len();
        lock(&self.core.pending).next_id = u32::try_from(known).unwrap_or(u32::MAX);
        Ok(())
    }

    fn take(&mut self, file: &LogFile) -> Result<()> {
        let mut records = Vec::new();
        let mut rows = 0;
        for (offset, frame, payload) in file.frames() {
            if frame.seq <= self.ledger.state.floor {
                continue; // in segments, and its changes in the registry file
            }
            let content = file.content(offset, &frame, payload)?;
            rows += content.run.as_ref().map_or(0, |run| run.times.len());
            records.push((frame.seq, content));
            if records.len() >= FOLD_RUNS / 2 || rows >= FOLD_ROWS {
                self.publish(std::mem::take(&mut records))?;
                rows = 0;
            }
        }
        self.publish(records)?;
        let (path, last_seq) = (file.path.clone(), file.last_seq);
        self.closed.push(ClosedFile { path, last_seq, bytes: file.used_bytes() });
        Ok(())
    }

    /// Makes records visible, and keeps the head as small as it would be while running.
    fn publish(&mut self, records: Vec<(Seq, Content)>) -> Result<()> {
        self.core.publish(records);
        let view = self.core.view();
        let unfolded_runs = view.head.runs.len() - view.head.folded;
        if view.head.bytes >= self.core.options.head_bytes / 2 {
            match seal::seal(&self.core, &mut self.ledger) {
                // No room: the head grows, by what the log holds at most, and is sealed when there is some.
                Ok(_) | Err(Error::DiskFull { .. }) => {}
                Err(error) => return Err(error),
            }
        } else if unfolded_runs >= FOLD_RUNS / 2 || view.head.unfolded_rows() >= FOLD_ROWS {
            fold::fold(&self.core);
        }
        Ok(())
    }
}

/// Makes the log file that the writer goes on with, and copies the records of `taken` into it.
fn begin_file(
    disk: &Arc<dyn Disk>,
    mut header: FileHeader,
    taken: Option<&LogFile>,
    wal: &mut WalWriter,
) -> Result<()> {
    let mut bytes = Vec::new();
    for (_, frame, payload) in taken.iter().flat_map(|file| file.frames()) {
        frame.put(header.identity, payload, &mut bytes);
    }
    let offset = crate::wal::file::HEADER_BYTES as u64;
    let end = offset + bytes.len() as u64;
    header.length = writer::file_length(header.length, end);
    let path = header.path();
    let refused = |error| match error {
        Error::Poisoned { .. } => {
            let other = std::io::Error::other("a write or sync of the new log file failed");
            Error::io("take over the log", path.clone(), other)
        }
        error => error,
    };
    let mut file = writer::create(disk, &header);
    let smaller = writer::file_length(0, end);
    if matches!(file, Err(Error::DiskFull { .. })) && smaller < header.length {
        header.length = smaller; // a full disk: enough to open, and the next file is a whole one again
        file = writer::create(disk, &header);
    }
    let file = file.map_err(refused)?;
    let sync = || if planted::is(Bug::TakenOverWithoutSync) { Ok(()) } else { file.sync() };
    let copied = file.write_at(offset, &bytes).and_then(|()| sync());
    copied.map_err(|e| Error::io("take over the log", header.path(), e))?;
    wal.adopt(header, file, end);
    Ok(())
}

const _: () = assert!(Seq(0).0 == 0, "record numbers begin at 1: 0 means none");
