//! Which segments live, and what else must survive when the log before them is trimmed.
//!
//! # Contract
//! * An edit is atomic and durable when [`Manifest::commit`] returns; the commit point of seals and compactions.
//! * A failed write or sync has an unknown outcome: the manifest is then poisoned until reopened.
//! * Each open begins a new file with one edit that says everything, so a torn tail is never appended to.
//!
//! # What it does not know
//! What segments hold. It stores their [`SegmentMeta`] and hands them back.
//!
//! # Reading order
//! [`edit`] (one edit's bytes), [`version`] (the live segments), [`checkpoint`] (latest samples and newest sealed times). Bytes: `docs/format/manifest.md`.

pub(crate) mod checkpoint;
pub(crate) mod edit;
pub(crate) mod version;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::bytes::Reader;
use crate::checksum::crc32;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::fields::{Field, field, fill, is_clean};
use crate::ids::{SegmentId, Seq};
use crate::limits::NUMBER_MAX;
use crate::planted::{self, Bug};
use crate::segment::meta::SegmentMeta;
use edit::{Edit, State};

const MAGIC: [u8; 8] = *b"TMMAN\r\n\x1a";
const VERSION: u16 = 5;
const HEADER_BYTES: usize = 64;
const FRAME_HEADER_BYTES: usize = 16;

/// The file header, row for row as in the format page.
const HEADER: [Field; 7] = [
    field("magic", 0, 8),
    field("version", 8, 2),
    field("reserved", 10, 6),
    field("identity", 16, 8),
    field("number", 24, 8),
    field("incarnation", 32, 8),
    field("reserved", 40, 20),
];
const HEADER_CRC: Field = field("crc32", 60, 4);
/// The header of a frame, row for row as in the format page.
const FRAME: [Field; 3] = [field("crc32", 0, 4), field("bytes", 4, 4), field("number", 8, 8)];

const _: () = assert!(fill(&HEADER, HEADER_CRC.offset), "manifest header has a gap");
const _: () = assert!(HEADER_CRC.offset + HEADER_CRC.size == HEADER_BYTES);
const _: () = assert!(fill(&FRAME, FRAME_HEADER_BYTES), "frame header has a gap");

/// Above this length the next edit begins a new file.
const FILE_BYTES_MAX: u64 = 8 << 20;
const EDIT_BYTES_MAX: usize = 1 << 30;

/// The open manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    path: String,
    number: u64,
    incarnation: u64,
    identity: u64,
    offset: u64,
    edits: u64,
    is_poisoned: bool,
}

/// What the manifest of an existing database says.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) number: u64,
    pub(crate) incarnation: u64,
    pub(crate) segments: BTreeMap<SegmentId, SegmentMeta>,
    /// Segments that an edit of the newest file let go of: their files may still be there.
    pub(crate) removed: BTreeSet<SegmentId>,
    pub(crate) state: State,
    /// Every manifest file found; needless once a new one is durable.
    pub(crate) files: Vec<String>,
    /// The one of them that counts; empty for a database that is just being made.
    pub(crate) path: String,
    /// Bytes at its end that are no edit: a crash cut the last one short.
    pub(crate) torn_bytes: u64,
}

impl Manifest {
    /// Begins manifest file `number` with one edit that says everything, and makes it durable.
    pub(crate) fn create(
        disk: &Arc<dyn Disk>,
        number: u64,
        incarnation: u64,
        everything: &Edit,
    ) -> Result<Self> {
        let path = path(number);
        let first = First::of(everything, &path)?;
        let file = disk.create(&path, 0).map_err(|e| Error::io("create manifest", &path, e))?;
        Self::begin(disk, file, number, incarnation, first)
            .map_err(|error| Error::io("write manifest", &path, error))
    }

    /// Fills a new manifest file. After an error its outcome is unknown.
    fn begin(
        disk: &Arc<dyn Disk>,
        file: Arc<dyn DiskFile>,
        number: u64,
        incarnation: u64,
        First { identity, frame: first }: First,
    ) -> std::io::Result<Self> {
        let mut bytes = header(identity, number, incarnation).to_vec();
        bytes.extend_from_slice(&first);
        file.write_at(0, &bytes)?;
        file.sync()?;
        disk.sync_dir("")?;
        let offset = bytes.len() as u64;
        let (disk, path) = (Arc::clone(disk), path(number));
        let (edits, is_poisoned) = (1, false);
        Ok(Self { disk, file, path, number, incarnation, identity, offset, edits, is_poisoned })
    }

    /// Makes `edit` durable. `everything` is asked for when a new file is due.
    ///
    /// # Errors
    /// [`Error::DiskFull`]: nothing has changed. [`Error::Poisoned`] when the outcome is unknown.
    pub(crate) fn commit(&mut self, edit: &Edit, everything: impl FnOnce() -> Edit) -> Result<()> {
        let poisoned = || Error::Poisoned { since: edit.state.floor };
        if self.is_poisoned {
            return Err(poisoned());
        }
        if self.offset > FILE_BYTES_MAX {
            let (number, incarnation) = (self.number + 1, self.incarnation);
            let path = path(number);
            let first = First::of(&everything(), &path)?;
            let file = self.disk.create(&path, 0);
            let file = file.map_err(|e| Error::io("create manifest", &path, e))?;
            let begun = Self::begin(&self.disk, file, number, incarnation, first);
            let Ok(next) = begun else {
                self.is_poisoned = true;
                return Err(poisoned());
            };
            let old = std::mem::replace(self, next);
            // Left behind if this fails; the next open prefers the newer file and unlinks this one.
            return match old.disk.remove(&old.path) {
                Ok(()) | Err(_) => Ok(()),
            };
        }
        let bytes = frame_of(self.identity, self.edits, edit, EDIT_BYTES_MAX)
            .map_err(|bytes| too_long(&self.path, bytes))?;
        match self.file.write_at(self.offset, &bytes) {
            Ok(()) => {}
            // How much of it was written is not known, and all of it would count: what is there goes.
            Err(full) if full.kind() == std::io::ErrorKind::StorageFull => {
                let cut = self.file.truncate(self.offset).and_then(|()| self.file.sync());
                if cut.is_err() {
                    self.is_poisoned = true;
                    return Err(poisoned());
                }
                return Err(Error::io("append to manifest", &self.path, full));
            }
            Err(_unknown) => {
                self.is_poisoned = true;
                return Err(poisoned());
            }
        }
        if self.file.sync().is_err() {
            self.is_poisoned = true;
            return Err(poisoned());
        }
        self.offset += bytes.len() as u64;
        self.edits += 1;
        Ok(())
    }

    /// Whether a file of this name is a manifest.
    pub(crate) fn is_name(name: &str) -> bool {
        parse_name(name).is_some()
    }

    /// The number in a manifest's file name.
    pub(crate) fn number_in(name: &str) -> Option<u64> {
        parse_name(name)
    }

    /// Reads the newest manifest of a database; `None` if there is none.
    pub(crate) fn load(disk: &Arc<dyn Disk>) -> Result<Option<Loaded>> {
        let names = disk.list("").map_err(|e| Error::io("list", disk.root(), e))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|(name, _)| parse_name(name)).collect();
        numbers.sort_unstable();
        let files: Vec<String> = numbers.iter().map(|number| path(*number)).collect();
        let mut first_error = None;
        let greatest = numbers.last().copied().unwrap_or(0);
        for number in numbers.into_iter().rev() {
            match read(disk, number, &files) {
                // The next file must not collide with one that a crash left half begun.
                Ok(loaded) => return Ok(Some(Loaded { number: greatest, ..loaded })),
                Err(error @ (Error::Io { .. } | Error::TooNew { .. })) => return Err(error),
                // A crash while a new file was begun: the one before it still says everything.
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(None), Err)
    }
}

/// Name of manifest file `number`.
pub(crate) fn path(number: u64) -> String {
    format!("manifest-{number:016x}.log")
}

fn parse_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix("manifest-")?.strip_suffix(".log")?;
    let number = u64::from_str_radix(number, 16).ok().filter(|_| number.len() == 16)?;
    (number <= NUMBER_MAX).then_some(number)
}

fn header(identity: u64, number: u64, incarnation: u64) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    let [magic, version, _, its_identity, its_number, its_incarnation, _] = HEADER;
    magic.put_bytes(&mut out, &MAGIC);
    version.put(&mut out, VERSION.into());
    its_identity.put(&mut out, identity);
    its_number.put(&mut out, number);
    its_incarnation.put(&mut out, incarnation);
    let crc = crc32(0, &out[..HEADER_CRC.offset]);
    HEADER_CRC.put(&mut out, crc.into());
    out
}

/// The frame of the edit that a file begins with, and the file's identity.
struct First {
    identity: u64,
    frame: Vec<u8>,
}

impl First {
    fn of(everything: &Edit, path: &str) -> Result<Self> {
        let identity = crate::ids::random();
        let frame = frame_of(identity, 0, everything, EDIT_BYTES_MAX);
        Ok(Self { identity, frame: frame.map_err(|bytes| too_long(path, bytes))? })
    }
}

/// The frame of an edit; how many bytes it has if these are more than a reader takes. Nothing is written then: it would be
/// read as the rest of a crash, and whatever it says would be gone.
fn frame_of(identity: u64, number: u64, edit: &Edit, bytes_max: usize) -> Result<Vec<u8>, usize> {
    let mut out = vec![0; FRAME_HEADER_BYTES];
    edit.encode(&mut out);
    let length = out.len() - FRAME_HEADER_BYTES;
    let [crc, bytes, its_number] = FRAME;
    let stored = u64::try_from(length).ok().filter(|_| length <= bytes_max).ok_or(length)?;
    bytes.put(&mut out, stored);
    its_number.put(&mut out, number);
    let found = crc32(identity, &out[crc.size..]);
    crc.put(&mut out, found.into());
    out.resize(out.len().next_multiple_of(8), 0);
    Ok(out)
}

fn too_long(path: &str, bytes: usize) -> Error {
    let why = format!(
        "an edit of {bytes} bytes is more than {path} may hold ({EDIT_BYTES_MAX}): it lists too many segments, deletes \
         or damaged places; compact, or give damaged segments up"
    );
    Error::Invalid(why)
}

/// Reads a manifest file, until two readings agree: bytes that were only misread must not pass for an edit that a crash cut
/// short.
fn read(disk: &Arc<dyn Disk>, number: u64, files: &[String]) -> Result<Loaded> {
    let path = path(number);
    let io = |e| Error::io("read manifest", &path, e);
    let file = disk.open(&path).map_err(io)?;
    let length = usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX);
    let (mut bytes, mut again) = (vec![0; length], vec![0; length]);
    file.read_at(0, &mut bytes).map_err(io)?;
    file.read_at(0, &mut again).map_err(io)?;
    if bytes != again {
        file.read_at(0, &mut bytes).map_err(io)?;
        if bytes != again {
            return Err(Error::corrupt("manifest", path, 0, "each reading gives other bytes"));
        }
    }
    decode(&bytes, number, files)
}

/// What the bytes of a manifest file say.
fn decode(bytes: &[u8], number: u64, files: &[String]) -> Result<Loaded> {
    let path = path(number);
    let bad = |offset: usize, why: &str| Error::corrupt("manifest", &path, offset as u64, why);
    let header = bytes.get(..HEADER_BYTES).ok_or_else(|| bad(0, "too short"))?;
    let [magic, version, _, identity, said_number, incarnation, _] = HEADER;
    if magic.of(header) != MAGIC {
        return Err(bad(0, "magic does not match"));
    }
    if HEADER_CRC.get_u32(header) != crc32(0, &header[..HEADER_CRC.offset]) {
        return Err(bad(0, "checksum of the header does not match"));
    }
    let version = u16::try_from(version.get(header)).unwrap_or(u16::MAX);
    let (identity, incarnation) = (identity.get(header), incarnation.get(header));
    if version > VERSION {
        return Err(Error::TooNew { path: path.into(), found: version, supported: VERSION });
    }
    if version < VERSION {
        let why = "its format version was never released: make the database anew";
        return Err(Error::corrupt("manifest", path, 8, why));
    }
    if !is_clean(&HEADER, header) {
        return Err(bad(0, "reserved bytes are not zero"));
    }
    if said_number.get(header) != number {
        return Err(bad(0, "the file has another's name"));
    }
    let mut loaded = Loaded {
        number,
        incarnation,
        segments: BTreeMap::new(),
        removed: BTreeSet::new(),
        state: State::default(),
        files: files.to_vec(),
        path: path.clone(),
        torn_bytes: 0,
    };
    let (mut at, mut edits) = (HEADER_BYTES, 0u64);
    while let Some((found, payload, end)) = frame(bytes, at, identity).filter(|f| f.0 == edits) {
        let edit = Edit::decode(&mut Reader::new(payload)).map_err(|why| bad(at, why.0))?;
        loaded.apply(edit).map_err(|why| bad(at, why))?;
        (at, edits) = (end, found + 1);
    }
    if edits == 0 {
        return Err(bad(at, "the first edit does not verify"));
    }
    let rest = (at..bytes.len()).step_by(8);
    if rest.filter_map(|at| frame(bytes, at, identity)).any(|(found, ..)| found > edits) {
        return Err(bad(
            at,
            "an edit in the middle does not verify: 'tagmill salvage' says what can be done",
        ));
    }
    loaded.torn_bytes = (bytes.len() - at.min(bytes.len())) as u64;
    Ok(loaded)
}

impl Loaded {
    fn apply(&mut self, edit: Edit) -> Result<(), &'static str> {
        for id in &edit.remove {
            self.segments.remove(id).ok_or("an edit removes a segment that is not there")?;
            self.removed.insert(*id);
        }
        for meta in edit.add {
            if self.segments.insert(meta.id, meta).is_some() {
                return Err("an edit adds a segment twice");
            }
        }
        if edit.state.floor < self.state.floor {
            return Err("an edit lowers the floor");
        }
        if edit.state.tombstones.last().is_some_and(|last| last.seq > edit.state.floor) {
            return Err("an edit holds a delete that only the log can hold yet");
        }
        self.state = edit.state;
        Ok(())
    }

    /// Greatest seq that segments hold.
    pub(crate) fn floor(&self) -> Seq {
        self.state.floor
    }
}

/// The good frame at `at`: its number, its payload, and where the next begins.
fn frame(bytes: &[u8], at: usize, identity: u64) -> Option<(u64, &[u8], usize)> {
    let header = bytes.get(at..at.checked_add(FRAME_HEADER_BYTES)?)?;
    let [crc, length, number] = FRAME;
    let (crc, number) = (crc.get_u32(header), number.get(header));
    let length = length.get_u32(header) as usize;
    if length == 0 || length > EDIT_BYTES_MAX {
        return None;
    }
    let end = at + FRAME_HEADER_BYTES + length;
    let covered = bytes.get(at + 4..end)?;
    let padding = bytes.get(end..end.next_multiple_of(8))?;
    let matches = crc32(identity, covered) == crc || planted::is(Bug::ManifestChecksumIgnored);
    let holds = matches && padding.iter().all(|byte| *byte == 0);
    holds.then(|| (number, &bytes[at + FRAME_HEADER_BYTES..end], end.next_multiple_of(8)))
}
