//! Reads every byte of a closed database, or of a backup, and says what is wrong where: [`verify`].
//!
//! # Contract
//! * Writes nothing. A database that is open elsewhere is refused: there the engine verifies ([`crate::Engine::verify`]).
//! * Each damaged place is a [`Finding`] with its file and, of samples, the tags' names and the times; what is merely odd
//!   (the rest of a crash, files of others) is a remark. One bad file does not end the search.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::disk::real::{LOCK_FILE, RealDisk};
use crate::disk::{Disk, read_all};
use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::{Loaded, Manifest, checkpoint};
use crate::recovery::{BACKUP_BEGUN, BACKUP_DONE, RESTORE_BEGUN, SALVAGE_BEGUN};
use crate::registry::Registry;
use crate::registry::log::{PATH as REGISTRY_PATH, RegistryLog};
use crate::segment::damage::Damage;
use crate::segment::name::{ASIDE_DIR, SEGMENTS_DIR, SegmentName, TRASH_DIR};
use crate::segment::{Segment, SegmentMeta};
use crate::time::TimeRange;
use crate::wal::file::{DIR as WAL_DIR, FileHeader};
use crate::wal::replay::Listing;
use crate::wal::survey::Survey;

/// Bytes of one read of files that nobody names.
const SLICE_BYTES: usize = 1 << 20;

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether stored data is damaged or lost; else it is a remark.
    pub is_damage: bool,
    /// The file, relative to the directory.
    pub file: String,
    /// Whose samples, by name.
    pub tags: Option<String>,
    /// Of which source times.
    pub range: Option<TimeRange>,
    /// What is wrong.
    pub why: String,
}

/// One line for people.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_damage { "damage: " } else { "remark: " })?;
        f.write_str(&self.file)?;
        if let Some(tags) = &self.tags {
            write!(f, ": {tags}")?;
        }
        if let Some(range) = self.range {
            write!(f, ", {range}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged places.
    pub damaged: u64,
    /// Remarks.
    pub remarks: u64,
}

/// Verifies the database or backup in `dir`; `found` hears of each thing as it comes.
///
/// # Errors
/// [`Error::Locked`] if it is open, [`Error::Invalid`] if there is none, [`Error::Io`] if it cannot be looked at.
pub fn verify(dir: &Path, found: &mut dyn FnMut(&Finding)) -> Result<VerifyReport> {
    let disk = RealDisk::open(dir, false).map_err(|e| Error::io("open directory", dir, e))?;
    verify_on(&(Arc::new(disk) as Arc<dyn Disk>), found)
}

/// The same on a disk of the caller's choice.
///
/// # Errors
/// As [`verify`].
pub fn verify_on(disk: &Arc<dyn Disk>, found: &mut dyn FnMut(&Finding)) -> Result<VerifyReport> {
    let root = disk.root();
    let names = disk.list("").map_err(|e| Error::io("list", &root, e))?;
    let has = |wanted: &str| names.iter().any(|(name, _)| name == wanted);
    // Without the file nobody has the lock, and a directory that cannot be written is not written by others either.
    let _held = if has(LOCK_FILE) || disk.as_real().is_none() {
        match disk.lock() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(Error::Locked { path: root });
            }
            held => held.ok(),
        }
    } else {
        None
    };
    let is_backup = has(BACKUP_DONE) || has(BACKUP_BEGUN);
    if !is_backup && !has(REGISTRY_PATH) && !names.iter().any(|(name, _)| Manifest::is_name(name)) {
        return Err(Error::Invalid(format!("{}: there is no database here", root.display())));
    }
    let mut verifier = Verifier { disk, found, report: VerifyReport::default() };
    verifier.marks(&names)?;
    let loaded = verifier.manifest()?;
    let registry = verifier.registry(loaded.as_ref())?;
    verifier.checkpoint(loaded.as_ref(), &names)?;
    verifier.segments(loaded.as_ref(), &registry);
    if !is_backup {
        verifier.log(loaded.as_ref())?;
    }
    verifier.others(loaded.as_ref(), &names)?;
    Ok(verifier.report)
}

struct Verifier<'a> {
    disk: &'a Arc<dyn Disk>,
    found: &'a mut dyn FnMut(&Finding),
    report: VerifyReport,
}

impl Verifier<'_> {
    fn tell(&mut self, is_damage: bool, file: &str, why: impl Into<String>) {
        let (tags, range, why) = (None, None, why.into());
        self.tell_of(&Finding { is_damage, file: file.to_owned(), tags, range, why });
    }

    fn tell_of(&mut self, finding: &Finding) {
        let count =
            if finding.is_damage { &mut self.report.damaged } else { &mut self.report.remarks };
        *count += 1;
        (self.found)(finding);
    }

    /// An error of reading: damage if it says so; else the search ends.
    fn tell_error(&mut self, file: &str, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { what, why, offset, .. } => {
                self.tell(true, file, format!("{what} at byte {offset}: {why}"));
                Ok(())
            }
            error @ (Error::Io { .. } | Error::TooNew { .. }) => {
                self.tell(true, file, error.to_string());
                Ok(())
            }
            error => Err(error),
        }
    }

    fn count(&mut self, bytes: u64) {
        self.report.files += 1;
        self.report.bytes += bytes;
    }

    fn marks(&mut self, names: &[(String, u64)]) -> Result<()> {
        for (name, bytes) in names {
            let why = match name.as_str() {
                BACKUP_BEGUN => "a backup is unfinished here: make it again",
                RESTORE_BEGUN => {
                    "a restore ended here; the next open removes this file if it was complete"
                }
                BACKUP_DONE => "",
                SALVAGE_BEGUN => {
                    self.tell(true, name, "a salvage was cut short: run it again");
                    ""
                }
                _ => continue,
            };
            if !why.is_empty() {
                self.tell(false, name, why);
            }
            self.read_through(name, *bytes)?;
        }
        Ok(())
    }

    fn manifest(&mut self) -> Result<Option<Loaded>> {
        let loaded = match Manifest::load(self.disk) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => {
                self.tell(
                    true,
                    "manifest",
                    "there is none: 'tagmill salvage', or restore a backup",
                );
                return Ok(None);
            }
            Err(error) => {
                let file = match &error {
                    Error::Corrupt { path, .. } => path.display().to_string(),
                    _ => "manifest".to_owned(),
                };
                self.tell_error(&file, error)?;
                return Ok(None);
            }
        };
        for file in &loaded.files {
            let bytes = read_all(self.disk.as_ref(), file);
            let bytes = bytes.map_err(|e| Error::io("read", file, e))?.len() as u64;
            self.count(bytes);
            if *file != loaded.path {
                self.tell(false, file, "another manifest counts: a crash left this one");
            }
        }
        if loaded.torn_bytes > 0 {
            let why = format!("{} bytes at its end are no edit: a crash", loaded.torn_bytes);
            self.tell(false, &loaded.path.clone(), why);
        }
        Ok(Some(loaded))
    }

    fn registry(&mut self, loaded: Option<&Loaded>) -> Result<Registry> {
        let mut registry = Registry::default();
        let Some(loaded) = loaded else { return Ok(registry) };
        let valid = loaded.state.registry_bytes;
        match RegistryLog::load(self.disk, valid, |change| registry.apply(&change)) {
            Ok(_) => self.count(valid),
            Err(error) => self.tell_error(REGISTRY_PATH, error)?,
        }
        Ok(registry)
    }

    fn checkpoint(&mut self, loaded: Option<&Loaded>, names: &[(String, u64)]) -> Result<()> {
        let number = loaded.map_or(0, |loaded| loaded.state.latest_file);
        if number == 0 {
            return Ok(());
        }
        let path = checkpoint::path(number);
        // The registry may be damaged too: any tag may be meant.
        match checkpoint::read(self.disk, number, limits::TAGS_MAX) {
            Ok(_) => {
                let bytes = names.iter().find(|(name, _)| *name == path).map_or(0, |n| n.1);
                self.count(bytes);
                Ok(())
            }
            Err(error) => {
                self.tell(false, &path, "the next open computes it anew from the segments");
                self.tell_error(&path, error)
            }
        }
    }

    fn segments(&mut self, loaded: Option<&Loaded>, registry: &Registry) {
        let Some(loaded) = loaded else { return };
        for meta in loaded.segments.values() {
            self.count(meta.file_bytes);
            let path = meta.path();
            let mut findings = Vec::new();
            let segment = Segment::new(Arc::clone(self.disk), meta.clone());
            segment.verify_places(
                &mut |error, place| findings.push(finding(&path, &error, place.as_ref(), registry)),
                &mut |_| true,
            );
            for finding in &findings {
                self.tell_of(finding);
            }
        }
        for damage in &loaded.state.quarantine {
            let path = loaded.segments.get(&damage.segment).map(SegmentMeta::path);
            let why = format!("in quarantine: {}", damage.why);
            let (tags, range) = (Some(names_of(damage, registry)), Some(damage.range()));
            let file = path.unwrap_or_else(|| format!("segment {}", damage.segment));
            self.tell_of(&Finding { is_damage: false, file, tags, range, why });
        }
    }

    fn log(&mut self, loaded: Option<&Loaded>) -> Result<()> {
        let floor = loaded.map(Loaded::floor).unwrap_or_default();
        let survey = match Survey::read(self.disk, floor) {
            Ok(survey) => survey,
            Err(error) => return self.tell_error(WAL_DIR, error),
        };
        let sizes = self.disk.list(WAL_DIR).map_err(|e| Error::io("list", WAL_DIR, e))?;
        for (_, bytes) in sizes.iter().filter(|(name, _)| FileHeader::parse_name(name).is_some()) {
            self.count(*bytes);
        }
        let read = Listing::read(self.disk)?.replay(self.disk, floor, |file| {
            file.frames()
                .try_for_each(|(at, frame, payload)| file.content(at, &frame, payload).map(drop))
        });
        let Err(error) = read else { return Ok(()) };
        for file in survey.flawed() {
            if let Some(flaw) = &file.flaw {
                self.tell(true, &file.path, flaw.clone());
            }
            for (from, to) in &file.holes {
                let why = format!("bytes {from} to {to} do not verify, good records follow");
                self.tell(true, &file.path, why);
            }
        }
        for (first, last) in &survey.lost {
            let why = format!("records {first} to {last} were durable and are lost");
            self.tell(true, WAL_DIR, why);
        }
        if survey.has_lost_end {
            self.tell(true, WAL_DIR, "the file that goes on after the last record is missing");
        }
        self.tell_error(WAL_DIR, error)
    }

    /// Files that nothing names: read, so that the disk's own complaints are heard.
    fn others(&mut self, loaded: Option<&Loaded>, names: &[(String, u64)]) -> Result<()> {
        let checkpoint = loaded.map_or(0, |loaded| loaded.state.latest_file);
        let is_known = |name: &str| {
            [LOCK_FILE, REGISTRY_PATH, BACKUP_BEGUN, BACKUP_DONE, RESTORE_BEGUN, SALVAGE_BEGUN]
                .contains(&name)
                || Manifest::is_name(name)
                || checkpoint::parse_name(name) == Some(checkpoint)
                || is_of_host(name)
        };
        let mut others: Vec<(String, u64, &str)> = Vec::new();
        for (name, bytes) in names.iter().filter(|(name, _)| !is_known(name)) {
            others.push((name.clone(), *bytes, "nothing names it"));
        }
        let list = |dir: &str| self.disk.list(dir).unwrap_or_default();
        let is_live = |name: &str| {
            let id = SegmentName::parse(name).map(|name| name.id);
            let meta = id.and_then(|id| loaded?.segments.get(&id));
            meta.is_some_and(|meta| SegmentName::in_path(&meta.path()) == name)
        };
        for (name, bytes) in list(SEGMENTS_DIR).into_iter().filter(|(name, _)| !is_live(name)) {
            let is_segment = SegmentName::parse(&name).is_some();
            let why = if is_segment { "the manifest does not name it" } else { "no segment" };
            others.push((format!("{SEGMENTS_DIR}/{name}"), bytes, why));
        }
        for (name, bytes) in list(WAL_DIR) {
            if FileHeader::parse_name(&name).is_none() {
                others.push((format!("{WAL_DIR}/{name}"), bytes, "no log file"));
            }
        }
        let left = "left by a crash: it goes when the engine has verified everything else";
        let kept = "kept aside: delete it when nobody needs it";
        for (dir, kept) in [(TRASH_DIR, left), (ASIDE_DIR, kept)] {
            let paths = list(dir).into_iter();
            others.extend(paths.map(|(name, bytes)| (format!("{dir}/{name}"), bytes, kept)));
        }
        for (path, bytes, why) in others {
            self.tell(false, &path, why);
            self.read_through(&path, bytes)?;
        }
        Ok(())
    }

    fn read_through(&mut self, path: &str, length: u64) -> Result<()> {
        let read = || -> std::io::Result<()> {
            let file = self.disk.open(path)?;
            let mut buffer = vec![0; SLICE_BYTES];
            let mut offset = 0;
            while offset < length {
                let left = usize::try_from(length - offset).unwrap_or(SLICE_BYTES);
                let slice = &mut buffer[..left.min(SLICE_BYTES)];
                file.read_at(offset, slice)?;
                offset += slice.len() as u64;
            }
            Ok(())
        };
        match read() {
            Ok(()) => {
                self.count(length);
                Ok(())
            }
            Err(error) => self.tell_error(path, Error::io("read", path, error)),
        }
    }
}

fn finding(path: &str, error: &Error, place: Option<&Damage>, registry: &Registry) -> Finding {
    let why = match error {
        Error::Corrupt { what, why, offset, .. } => format!("{what} at byte {offset}: {why}"),
        other => other.to_string(),
    };
    let (file, range) = (path.to_owned(), place.map(Damage::range));
    let tags = place.map(|damage| names_of(damage, registry));
    Finding { is_damage: true, file, tags, range, why }
}

/// The tags of a place by name.
fn names_of(damage: &Damage, registry: &Registry) -> String {
    let name = |tag| {
        let known = registry.get(tag);
        known.map_or_else(|| format!("tag {tag}"), |tag| format!("tag {:?}", tag.name))
    };
    if damage.is_whole() {
        "any tag".to_owned()
    } else if damage.first_tag == damage.last_tag {
        name(damage.first_tag)
    } else {
        format!("tags {} to {}", name(damage.first_tag), name(damage.last_tag))
    }
}
/// Whether a file is the server's own, kept beside the database: its tokens and its audit log. They are read like the others
/// by whoever copies a directory, and no part of the database.
fn is_of_host(name: &str) -> bool {
    matches!(name, "access.toml" | "access.toml.lock" | "audit.jsonl")
        || name.strip_prefix("audit-").is_some_and(|rest| rest.strip_suffix(".jsonl").is_some())
}
