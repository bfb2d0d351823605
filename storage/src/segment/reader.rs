//! [`Segment`]: one immutable file, opened and its directory loaded at first use.
//!
//! # Contract
//! * Nothing is handed out that did not match its checksum. A mismatch is read again once, in case the fault was on
//!   the way, and is then [`Error::Corrupt`] naming file, offset, tags and times.
//! * Shared between threads; no lock is held over IO.
//! * A file that the manifest no longer names is unlinked when the last reader lets go of it, so that a pinned View reads
//!   on even what it has not opened yet.
//!
//! # What it does not know
//! Other segments, deletes, the head.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::bytes::Malformed;
use crate::checksum::crc32;
use crate::chunk::reader::PackedRows;
use crate::chunk::{ChunkEntry, Extent};
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::planted::{self, Bug};
use crate::segment::damage::Damage;
use crate::segment::layout::{self, FOOTER_BYTES, HEADER_BYTES, Refusal};
use crate::segment::tiers::{TierEntry, TierRows};
use crate::segment::{ChunkIndex, Directory, SegmentCursor, SegmentMeta};
use crate::tag::TagId;
use crate::tier::build::TierBlock;
use crate::tier::rollup::Rollup;
use crate::time::Rfc3339;

/// An immutable file of chunks.
#[derive(Debug)]
pub(crate) struct Segment {
    disk: Arc<dyn Disk>,
    meta: SegmentMeta,
    opened: OnceLock<Opened>,
    /// Whether the manifest no longer names it.
    is_retired: AtomicBool,
    /// Rows of tags that have ended, as far as somebody has looked.
    ended_rows: AtomicU64,
    /// Whether others have ended and are still to be rolled up, as far as somebody has looked.
    is_outlived: AtomicBool,
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.is_retired.load(Ordering::Acquire) {
            // What stays is moved to the trash by the next open.
            match self.disk.remove(&self.meta.path()) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// What the first use leaves behind.
#[derive(Debug)]
struct Opened {
    file: Arc<dyn DiskFile>,
    directory: Arc<Directory>,
}

impl Segment {
    /// The segment the manifest describes so. Touches no file.
    pub(crate) fn new(disk: Arc<dyn Disk>, meta: SegmentMeta) -> Self {
        let (opened, is_retired) = (OnceLock::new(), AtomicBool::new(false));
        let (ended_rows, is_outlived) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { disk, meta, opened, is_retired, ended_rows, is_outlived }
    }

    /// The same segment, not opened yet.
    pub(crate) fn reopened(&self) -> Self {
        Self::new(Arc::clone(&self.disk), self.meta.clone())
    }

    /// The manifest durably no longer names it: the last reader to let go unlinks the file.
    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    /// Takes note of how many of its rows retention has ended, and whether rollups outlive others of them.
    pub(crate) fn note_ended(&self, rows: u64, is_outlived: bool) {
        self.ended_rows.store(rows, Ordering::Relaxed);
        self.is_outlived.store(is_outlived, Ordering::Relaxed);
    }

    /// Whether it holds samples that have ended and are still to be rolled up, as far as somebody has looked.
    pub(crate) fn is_outlived(&self) -> bool {
        self.is_outlived.load(Ordering::Relaxed)
    }

    /// Bytes of its file that hold rows which have ended, about and as far as somebody has looked.
    pub(crate) fn ended_bytes(&self) -> u64 {
        let rows = u128::from(self.ended_rows.load(Ordering::Relaxed));
        let bytes = u128::from(self.meta.file_bytes) * rows / u128::from(self.meta.rows.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// What the manifest knows of it.
    pub(crate) fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// The directory. The first use opens the file and checks header, footer and directory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the file is missing, damaged or another one; [`Error::TooNew`]; [`Error::Io`].
    pub(crate) fn directory(&self) -> Result<Arc<Directory>> {
        self.opened().map(|opened| Arc::clone(&opened.directory))
    }

    /// Whether it is known without a search that no chunk holds this tag.
    pub(crate) fn is_without(&self, tag: TagId) -> bool {
        // No Arc is taken: many threads ask for many tags, most often in vain.
        self.opened.get().is_some_and(|opened| !opened.directory.spans(tag))
    }

    /// A reader of its chunks.
    pub(crate) fn cursor(self: &Arc<Self>) -> SegmentCursor {
        SegmentCursor::new(Arc::clone(self))
    }

    /// Every tag, ascending: its first time, last time and number of rows.
    ///
    /// Decodes the times of packed chunks, and nothing else.
    ///
    /// # Errors
    /// As [`Self::directory`]; and if a packed chunk is damaged.
    pub(crate) fn for_each_tag(&self, f: &mut dyn FnMut(TagId, i64, i64, u64)) -> Result<()> {
        let directory = self.directory()?;
        let mut buffer = Vec::new();
        let mut plain = directory.plain();
        let mut packed = Vec::new();
        for section in directory.packed() {
            packed.extend(PackedWalk::begin(self, &directory, section, &mut buffer)?);
        }
        loop {
            let plain_tag = plain.clone().next().map(|i| directory.entry(index_of(i)).first_tag);
            let packed_tag = packed.iter().map(PackedWalk::tag).min();
            let Some(tag) = plain_tag.into_iter().chain(packed_tag).min() else {
                return Ok(());
            };
            if plain_tag == Some(tag) {
                let (mut span, mut rows) = (None, 0);
                while let Some(entry) = plain.clone().next().map(|i| directory.entry(index_of(i)))
                    && entry.first_tag == tag
                {
                    let (first_ns, _) = span.unwrap_or((entry.first_ns, entry.last_ns));
                    span = Some((first_ns, entry.last_ns));
                    rows += u64::from(entry.rows);
                    plain.next();
                }
                let (first_ns, last_ns) = span.expect("the tag has a chunk");
                f(tag, first_ns, last_ns, rows);
                continue;
            }
            let position =
                packed.iter().position(|walk| walk.tag() == tag).expect("it has the tag");
            let (first_ns, last_ns, rows) = packed[position].span();
            f(tag, first_ns, last_ns, rows as u64);
            if !packed[position].advance(self, &directory, &mut buffer)? {
                packed.swap_remove(position);
            }
        }
    }

    /// The bytes of a region of a chunk, verified.
    pub(crate) fn read<'a>(
        &self,
        entry: &ChunkEntry,
        extent: Extent,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let file = &self.opened()?.file;
        let identity = self.meta.identity;
        self.read_verified(file.as_ref(), extent, identity, buffer, &|| entry.to_string())?;
        Ok(buffer)
    }

    /// Rollups of a block, verified and decoded; without `usable`, that part of them stays empty.
    pub(crate) fn read_tier(
        &self,
        entry: &TierEntry,
        usable: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<TierRows> {
        let file = &self.opened()?.file;
        let identity = self.meta.identity;
        let what = || entry.to_string();
        self.read_verified(file.as_ref(), entry.extent, identity, buffer, &what)?;
        TierRows::decode(entry, usable, buffer)
            .map_err(|why| self.corrupt(what(), entry.extent.offset, why.0))
    }

    /// A block of rollups as it goes into another segment.
    pub(crate) fn read_block(&self, entry: &TierEntry) -> Result<TierBlock> {
        let mut bytes = Vec::new();
        let rows = self.read_tier(entry, false, &mut bytes)?;
        let samples = rows.rows().iter().map(Rollup::rows).sum();
        Ok(TierBlock { head: entry.head, samples, bytes })
    }

    /// Table and times of a packed chunk.
    pub(crate) fn read_packed(
        &self,
        entry: &ChunkEntry,
        buffer: &mut Vec<u8>,
    ) -> Result<PackedRows> {
        let bytes = self.read(entry, entry.times, buffer)?;
        PackedRows::decode(entry, bytes).map_err(|why| self.malformed(entry, entry.times, why))
    }

    /// The error of a region that matches its checksum and still makes no sense.
    pub(crate) fn malformed(&self, entry: &ChunkEntry, extent: Extent, why: Malformed) -> Error {
        self.corrupt(entry.to_string(), extent.offset, why.0)
    }

    /// The error of a place that is known to be damaged.
    pub(crate) fn damaged(&self, damage: &Damage) -> Error {
        let (first_ns, last_ns) = (Rfc3339(damage.first_ns), Rfc3339(damage.last_ns));
        let what = if damage.is_whole() {
            format!("segment in quarantine, {first_ns} .. {last_ns}")
        } else {
            format!("chunk in quarantine, {first_ns} .. {last_ns}")
        };
        self.corrupt(what, 0, damage.why.as_ref())
    }

    /// Damage of this file.
    pub(crate) fn corrupt(
        &self,
        what: impl Into<String>,
        offset: u64,
        why: impl Into<String>,
    ) -> Error {
        Error::corrupt(what, self.path(), offset, why)
    }

    /// The file, freshly opened, after its length, header and footer were checked.
    fn open_file(&self) -> Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(&self.meta.path()).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                return self.corrupt("segment", 0, "the file is missing");
            }
            Error::io("open segment", self.path(), source)
        })?;
        let length = file.len().map_err(|source| Error::io("open segment", self.path(), source))?;
        if length != self.meta.file_bytes {
            let why = format!("the file has {length} bytes, {} expected", self.meta.file_bytes);
            return Err(self.corrupt("segment", length.min(self.meta.file_bytes), why));
        }
        let mut header = [0; HEADER_BYTES];
        self.read_plain(file.as_ref(), 0, &mut header, "segment header")?;
        layout::check_header(&self.meta, &header)
            .map_err(|refusal| self.refused("segment header", 0, refusal))?;
        let mut footer = [0; FOOTER_BYTES];
        let offset = self.meta.file_bytes - FOOTER_BYTES as u64;
        self.read_plain(file.as_ref(), offset, &mut footer, "segment footer")?;
        layout::check_footer(&self.meta, &footer)
            .map_err(|refusal| self.refused("segment footer", offset, refusal))?;
        Ok(file)
    }

    /// The directory, freshly read and checked.
    fn load_directory(&self, file: &dyn DiskFile) -> Result<Directory> {
        let meta = &self.meta;
        let offset = meta.directory_offset;
        let bytes = u32::try_from(meta.directory_bytes())
            .map_err(|_| self.corrupt("segment directory", offset, "it exceeds 4 GiB"))?;
        let extent = Extent { offset, bytes, crc: meta.directory_crc };
        let mut buffer = Vec::new();
        self.read_verified(file, extent, meta.identity, &mut buffer, &|| {
            "segment directory".into()
        })?;
        let directory = Directory::decode(meta, buffer).map_err(|(index, why)| {
            let what = format!("segment directory, entry {}", index.0);
            self.corrupt(what, offset, why.0)
        })?;
        let padding_from = directory.chunks_end();
        let mut padding = vec![0; usize::try_from(offset - padding_from).unwrap_or(0)];
        self.read_plain(file, padding_from, &mut padding, "segment padding")?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(self.corrupt("segment padding", padding_from, "bytes are not zero"));
        }
        Ok(directory)
    }

    /// Where the file is, for messages.
    fn path(&self) -> PathBuf {
        self.disk.root().join(self.meta.path())
    }

    /// Two threads may both load; one result stays.
    fn opened(&self) -> Result<&Opened> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let file = self.open_file()?;
        let directory = Arc::new(self.load_directory(file.as_ref())?);
        Ok(self.opened.get_or_init(|| Opened { file, directory }))
    }

    fn refused(&self, what: &str, offset: u64, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Corrupt { offset: within, why } => {
                self.corrupt(what, offset + within as u64, why)
            }
            Refusal::TooNew(found) => {
                Error::TooNew { path: self.path(), found, supported: layout::VERSION }
            }
        }
    }

    fn read_verified(
        &self,
        file: &dyn DiskFile,
        extent: Extent,
        identity: u64,
        buffer: &mut Vec<u8>,
        what: &dyn Fn() -> String,
    ) -> Result<()> {
        buffer.clear();
        buffer.resize(extent.bytes as usize, 0);
        for _attempt in 0..2 {
            file.read_at(extent.offset, buffer)
                .map_err(|source| self.unreadable(&what(), extent.offset, source))?;
            if crc32(identity, buffer) == extent.crc || planted::is(Bug::ChunkChecksumIgnored) {
                return Ok(());
            }
        }
        Err(self.corrupt(what(), extent.offset, "the bytes do not match their checksum"))
    }

    fn read_plain(
        &self,
        file: &dyn DiskFile,
        offset: u64,
        buffer: &mut [u8],
        what: &str,
    ) -> Result<()> {
        file.read_at(offset, buffer).map_err(|source| self.unreadable(what, offset, source))
    }

    fn unreadable(&self, what: &str, offset: u64, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.corrupt(what, offset, "the file ends before");
        }
        Error::io("read segment", self.path(), source)
    }
}

/// The directory's positions are `u32`.
pub(crate) fn index_of(position: usize) -> ChunkIndex {
    ChunkIndex(u32::try_from(position).expect("the number of chunks is a u32"))
}

/// Goes through the tags of the packed chunks of one type.
struct PackedWalk {
    /// Chunks not begun.
    rest: std::ops::Range<usize>,
    rows: PackedRows,
    /// Within the tags of `rows`.
    position: usize,
}

impl PackedWalk {
    /// At the first tag of `section`, if it has any.
    fn begin(
        segment: &Segment,
        directory: &Directory,
        mut section: std::ops::Range<usize>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Self>> {
        let Some(first) = section.next() else { return Ok(None) };
        let rows = segment.read_packed(&directory.entry(index_of(first)), buffer)?;
        Ok(Some(Self { rest: section, rows, position: 0 }))
    }

    fn tag(&self) -> TagId {
        TagId(self.rows.tags()[self.position])
    }

    fn span(&self) -> (i64, i64, usize) {
        self.rows.span(self.rows.rows_at(self.position))
    }

    /// Goes to the next tag; false after the last.
    fn advance(
        &mut self,
        segment: &Segment,
        directory: &Directory,
        buffer: &mut Vec<u8>,
    ) -> Result<bool> {
        self.position += 1;
        if self.position < self.rows.tags().len() {
            return Ok(true);
        }
        let Some(next) = self.rest.next() else { return Ok(false) };
        self.rows = segment.read_packed(&directory.entry(index_of(next)), buffer)?;
        self.position = 0;
        Ok(true)
    }
}
