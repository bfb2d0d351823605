//! Writes frames, syncs them, starts new files, and knows which files a seal has made needless.
//!
//! ```text
//!   open --write ok--> dirty --sync ok--> open
//!   any  --write or sync error--> poisoned            (final: the outcome of those bytes is unknown)
//!   new file refused (no space, no handle)            (nothing was written: stays as it was, tried again)
//! ```

use std::sync::Arc;

use super::file::{DIR, FRAME_HEADER_BYTES, FileHeader, Frame, HEADER_BYTES, Kind, frame_bytes};
use super::record::Payload;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::planted::{self, Bug};

/// Length of a log file that is begun on a full disk for a record that frees space.
const SMALL_BYTES: u64 = 16 << 10;

/// Length of a log file that holds the final mark and nothing else.
const CLOSED_BYTES: u64 = (HEADER_BYTES + FRAME_HEADER_BYTES) as u64;

/// A file that is complete: every record of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClosedFile {
    pub(crate) path: String,
    pub(crate) last_seq: Seq,
    pub(crate) bytes: u64,
}

/// The end of the log.
#[derive(Debug)]
pub(crate) struct WalWriter {
    disk: Arc<dyn Disk>,
    incarnation: u64,
    file_bytes: u64,
    current: Option<Current>,
    closed: Vec<ClosedFile>,
    written: Seq,
    synced: Seq,
    /// Segments hold every record up to here.
    sealed: Seq,
    poisoned: Option<Seq>,
    is_small_enough: bool,
}

#[derive(Debug)]
struct Current {
    file: Arc<dyn DiskFile>,
    header: FileHeader,
    offset: u64,
}

impl Current {
    /// Where records must end, so that a mark still fits.
    fn room(&self) -> u64 {
        self.header.length - FRAME_HEADER_BYTES as u64
    }
}

/// Length of a log file whose header and records take `used` bytes.
pub(crate) fn file_length(file_bytes: u64, used: u64) -> u64 {
    file_bytes.max(used + FRAME_HEADER_BYTES as u64)
}

impl WalWriter {
    /// A log that goes on after `last`, in a new file made at the first write. `closed` are the older files.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        incarnation: u64,
        file_bytes: u64,
        last: Seq,
        closed: Vec<ClosedFile>,
    ) -> Self {
        let (current, poisoned) = (None, None);
        Self {
            disk,
            incarnation,
            file_bytes,
            current,
            closed,
            written: last,
            synced: last,
            sealed: Seq(0),
            poisoned,
            is_small_enough: false,
        }
    }

    /// Greatest seq written.
    pub(crate) fn written(&self) -> Seq {
        self.written
    }

    /// Bytes of log, those that a seal would free included.
    pub(crate) fn bytes(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|file| file.bytes).sum();
        closed + self.current.as_ref().map_or(0, |current| current.offset)
    }

    /// Whether the next new file may be a small one where the disk has no room for a whole one.
    pub(crate) fn may_be_small(&mut self, is_small_enough: bool) {
        self.is_small_enough = is_small_enough;
    }

    /// Why nothing can be written any more, if so.
    pub(crate) fn check(&self) -> Result<()> {
        self.poisoned.map_or(Ok(()), |since| Err(Error::Poisoned { since }))
    }

    /// Writes records under the seqs that follow; durable after [`Self::sync`]. Gives the first seq.
    ///
    /// # Errors
    /// [`Error::DiskFull`] and [`Error::Io`]: nothing was written. [`Error::Poisoned`]: unknown, and for ever.
    pub(crate) fn write<'a>(
        &mut self,
        payloads: impl Iterator<Item = &'a Payload> + Clone,
    ) -> Result<Seq> {
        self.check()?;
        let frames = payloads.clone().map(|payload| frame_bytes(payload.bytes.len()) as u64);
        self.make_room(frames.sum())?;
        let Some(current) = &mut self.current else { return Err(Error::Closed) };
        let first = self.written.next();
        let mut seq = self.written;
        let mut buffer = Vec::new();
        for payload in payloads {
            seq = seq.next();
            let narrow = |n: usize| u32::try_from(n).map_err(|_| too_large());
            let frame = Frame {
                kind: Kind::Record,
                seq,
                synced_seq: self.synced,
                stored_bytes: narrow(payload.bytes.len())?,
                raw_bytes: narrow(payload.raw_bytes)?,
                payload_crc: payload.crc,
            };
            frame.put(current.header.identity, &payload.bytes, &mut buffer);
        }
        if let Err(unknown) = current.file.write_at(current.offset, &buffer) {
            if planted::is(Bug::WriteErrorForgotten) {
                return Err(Error::io("write log", current.header.path(), unknown));
            }
            return Err(self.poison());
        }
        current.offset += buffer.len() as u64;
        self.written = seq;
        Ok(first)
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// [`Error::Poisoned`]: what was written since the last sync may or may not be on disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.check()?;
        if self.synced == self.written || planted::is(Bug::AckBeforeSync) {
            self.synced = self.written;
            return Ok(());
        }
        let Some(current) = &self.current else { return Err(Error::Closed) };
        let mut synced = current.file.sync();
        if planted::is(Bug::SyncRetried) && synced.is_err() {
            synced = current.file.sync();
        }
        if let Err(_unknown) = synced {
            return Err(self.poison());
        }
        self.synced = self.written;
        Ok(())
    }

    /// Writes the final mark: a bad byte before it is rot, not a tear.
    ///
    /// Where segments hold all records, a file with nothing but the mark takes the place of the last one: a closed
    /// database keeps no room for records it does not have. That file goes on from the last one as any other would.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.sync()?;
        let is_needless = self.sealed >= self.written
            && self.current.as_ref().is_some_and(|current| current.header.length > CLOSED_BYTES);
        if is_needless {
            match self.begin(CLOSED_BYTES) {
                // Refused: the last file stays, as long as it was made.
                Ok(()) | Err(Error::DiskFull { .. } | Error::Io { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.mark(Kind::Close)?;
        for file in if is_needless { self.take_trimmed(self.sealed) } else { Vec::new() } {
            match self.disk.remove(&file.path) {
                Ok(()) | Err(_) => {} // the next open does it
            }
        }
        Ok(())
    }

    /// Notes that segments hold every record up to `floor`.
    pub(crate) fn sealed_to(&mut self, floor: Seq) {
        self.sealed = self.sealed.max(floor);
    }

    /// Ends the current file with a mark, for which room was kept.
    fn mark(&mut self, kind: Kind) -> Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let mark = Frame {
            kind,
            seq: self.written,
            synced_seq: self.synced,
            stored_bytes: 0,
            raw_bytes: 0,
            payload_crc: crate::checksum::crc32(0, &[]),
        };
        let mut buffer = Vec::new();
        mark.put(current.header.identity, &[], &mut buffer);
        let written = current.file.write_at(current.offset, &buffer);
        if written.and_then(|()| current.file.sync()).is_err() {
            return Err(self.poison());
        }
        Ok(())
    }

    /// Takes out the files whose every record is at or below `floor`: the caller unlinks them.
    pub(crate) fn take_trimmed(&mut self, floor: Seq) -> Vec<ClosedFile> {
        let (trimmed, kept) =
            std::mem::take(&mut self.closed).into_iter().partition(|file| file.last_seq <= floor);
        self.closed = kept;
        trimmed
    }

    /// Takes back a file that could not be unlinked.
    pub(crate) fn give_back(&mut self, file: ClosedFile) {
        self.closed.push(file);
    }

    fn make_room(&mut self, bytes: u64) -> Result<()> {
        if self.current.as_ref().is_some_and(|current| current.offset + bytes <= current.room()) {
            return Ok(());
        }
        self.sync()?; // a new file starts only after the old one is durable
        let used = HEADER_BYTES as u64 + bytes;
        match self.begin(file_length(self.file_bytes, used)) {
            Err(Error::DiskFull { .. }) if self.is_small_enough => {
                self.begin(file_length(SMALL_BYTES, used))
            }
            begun => begun,
        }
    }

    /// Goes on in a new file of that length. Everything written is durable.
    fn begin(&mut self, length: u64) -> Result<()> {
        let header = FileHeader {
            identity: crate::ids::random(),
            first_seq: self.written.next(),
            synced_seq: self.synced,
            incarnation: self.incarnation,
            length,
        };
        let file = create(&self.disk, &header).map_err(|error| match error {
            Error::Poisoned { .. } => self.poison(),
            refused => refused,
        })?;
        self.mark(Kind::Continue)?; // from here on the new file must be there
        let offset = HEADER_BYTES as u64;
        if let Some(old) = self.current.replace(Current { file, header, offset }) {
            let (path, last_seq) = (old.header.path(), self.written);
            self.closed.push(ClosedFile { path, last_seq, bytes: old.offset });
        }
        Ok(())
    }

    /// Goes on in `file`, whose first `offset` bytes hold durable records up to the last seq.
    pub(crate) fn adopt(&mut self, header: FileHeader, file: Arc<dyn DiskFile>, offset: u64) {
        self.current = Some(Current { file, header, offset });
    }

    /// Refuses every further write: the outcome of an earlier one is unknown.
    pub(crate) fn poison(&mut self) -> Error {
        let since = *self.poisoned.get_or_insert(self.synced.next());
        Error::Poisoned { since }
    }
}

/// Makes a log file: allocated, header durable, name durable.
///
/// # Errors
/// [`Error::Poisoned`] when a write or sync failed; else the file could not be made and there is none.
pub(crate) fn create(disk: &Arc<dyn Disk>, header: &FileHeader) -> Result<Arc<dyn DiskFile>> {
    let path = header.path();
    let file =
        disk.create(&path, header.length).map_err(|e| Error::io("create log file", &path, e))?;
    let made = file.write_at(0, &header.encode());
    let name = || if planted::is(Bug::LogFolderNotSynced) { Ok(()) } else { disk.sync_dir(DIR) };
    let made = made.and_then(|()| file.sync()).and_then(|()| name());
    made.map_err(|_| Error::Poisoned { since: header.first_seq })?;
    Ok(file)
}

fn too_large() -> Error {
    Error::Invalid("a record is larger than 4 GiB: send smaller batches".into())
}
