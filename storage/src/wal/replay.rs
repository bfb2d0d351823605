//! Reads the log back after a crash or a close.
//!
//! # Contract
//! * Records come once each, in seq order, without a hole, from the first the log holds.
//! * A bad record that any later frame or file header calls durable is rot: [`Error::Corrupt`] names the range.
//!   Otherwise it is where a crash tore the tail: the log ends before it.
//! * Nothing is written here; [`super::super::recovery`] makes the new file.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::file::{BadHeader, DIR, FRAME_HEADER_BYTES, FileHeader, Frame, HEADER_BYTES, Kind};
use super::record::Content;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::planted::{self, Bug};

/// One log file, read and checked.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) path: String,
    pub(crate) header: FileHeader,
    bytes: Vec<u8>,
    /// End of the last good frame.
    end: usize,
    pub(crate) last_seq: Seq,
    /// Whether it says that another file goes on.
    continues: bool,
    /// Whether it says that it is complete.
    is_marked: bool,
}

impl LogFile {
    /// Good frames with their payloads, in seq order.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (usize, Frame, &[u8])> {
        let mut at = HEADER_BYTES;
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..self.end)?;
            let (frame, payload) = Frame::read(rest, self.header.identity)?;
            let offset = at;
            at += frame.bytes();
            (frame.kind == Kind::Record).then_some((offset, frame, payload))
        })
    }

    /// What a frame's payload says.
    pub(crate) fn content(&self, offset: usize, frame: &Frame, payload: &[u8]) -> Result<Content> {
        Content::decode(frame.seq, payload, frame.raw_bytes as usize).map_err(|why| {
            let what = format!("log record {}", frame.seq);
            Error::corrupt(what, &self.path, offset as u64, why.0)
        })
    }

    /// Bytes of the file up to the end of its last good frame.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.end as u64
    }
}

/// Names of the log's files.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Ascending by first seq; files of one first seq are copies of which one is the fuller.
    groups: BTreeMap<Seq, Vec<(String, u64)>>,
}

impl Listing {
    pub(crate) fn read(disk: &Arc<dyn Disk>) -> Result<Self> {
        let names = disk.list(DIR).map_err(|e| Error::io("list", DIR, e))?;
        let mut groups: BTreeMap<Seq, Vec<(String, u64)>> = BTreeMap::new();
        for (name, _) in names {
            if let Some((first, identity)) = FileHeader::parse_name(&name) {
                groups.entry(first).or_default().push((format!("{DIR}/{name}"), identity));
            }
        }
        Ok(Self { groups })
    }

    /// First seq, path and identity of each file, ascending.
    pub(crate) fn files(&self) -> impl Iterator<Item = (Seq, String, u64)> {
        let each = self.groups.iter().flat_map(|(seq, copies)| copies.iter().map(|c| (*seq, c)));
        each.map(|(seq, (path, identity))| (seq, path.clone(), *identity))
    }

    /// Unlinks a first file without any record, of a creation that crashed before its manifest. Gives whether other files
    /// are left.
    pub(crate) fn discard_unused(self, disk: &Arc<dyn Disk>) -> Result<bool> {
        let mut others = false;
        for (first_seq, copies) in self.groups {
            for (path, identity) in copies {
                let is_used = first_seq > Seq(1)
                    || later_frame(&read_all(disk, &path)?, 0, identity).is_some();
                others |= is_used;
                if !is_used {
                    disk.remove(&path).map_err(|e| Error::io("remove unused log", &path, e))?;
                }
            }
        }
        Ok(others)
    }

    /// Reads the files one after the other and hands each to `take`, then says which file is the last, if there is any,
    /// and which files are needless copies. `floor` is the greatest seq that segments hold: the log must reach back to it.
    pub(crate) fn replay(
        self,
        disk: &Arc<dyn Disk>,
        floor: Seq,
        mut take: impl FnMut(&LogFile) -> Result<()>,
    ) -> Result<Replayed> {
        let mut needless = Vec::new();
        let mut last: Option<LogFile> = None;
        let mut sealed: Option<(Seq, Vec<(String, u64)>)> = None;
        let paths = |copies: Vec<(String, u64)>| copies.into_iter().map(|(path, _)| path);
        let mut groups = self.groups.into_iter().peekable();
        while let Some((first_seq, copies)) = groups.next() {
            let next = groups.peek().map(|(seq, _)| *seq);
            if next.is_some_and(|next| next <= floor.next()) {
                // Segments hold all of it; a crash left it while its neighbours were unlinked.
                needless.extend(
                    sealed.replace((first_seq, copies)).into_iter().flat_map(|s| paths(s.1)),
                );
                continue;
            }
            let Some(file) = fullest(disk, &copies, first_seq, next, &mut needless)? else {
                continue;
            };
            let fits = match &last {
                None => first_seq <= floor.next(),
                Some(last) => first_seq == last.last_seq.next() || first_seq == floor.next(),
            };
            if !fits {
                let expected = last.as_ref().map_or(floor, |last| last.last_seq).next();
                let why = format!("starts at record {first_seq}, expected {expected}");
                return Err(Error::corrupt("log: records are missing", &file.path, 0, why));
            }
            take(&file)?;
            last = Some(file);
        }
        if let Some((first_seq, copies)) = sealed {
            if last.is_some() {
                needless.extend(paths(copies));
            } else if let Some(file) = fullest(disk, &copies, first_seq, None, &mut needless)? {
                // The file after it was being begun by an open that crashed.
                take(&file)?;
                last = Some(file);
            }
        }
        let missing = |path: &str, why: &str| Err(Error::corrupt("log", path, 0, why));
        match last {
            None => missing(
                DIR,
                "no log file that can be read is here, and there always is one: restore a backup, or 'tagmill salvage' goes on without",
            ),
            Some(last) if last.continues && !planted::is(Bug::MissingLogFileAccepted) => missing(
                &last.path,
                "the file that goes on after this one is missing or cut: restore a backup, or 'tagmill salvage' goes on without",
            ),
            Some(last) => Ok(Replayed { last, needless }),
        }
    }
}

/// What a replay leaves to do.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// The last file, whose records the next one takes over.
    pub(crate) last: LogFile,
    /// Files that hold nothing of their own.
    pub(crate) needless: Vec<String>,
}

/// Of files with one first seq (a crash between copying the last file and unlinking it leaves two) the one that reaches
/// furthest. `next` is the first seq of the file after them: up to there every record was durable.
fn fullest(
    disk: &Arc<dyn Disk>,
    copies: &[(String, u64)],
    first_seq: Seq,
    next: Option<Seq>,
    needless: &mut Vec<String>,
) -> Result<Option<LogFile>> {
    let mut best: Option<LogFile> = None;
    let mut failed = None;
    for (path, identity) in copies {
        match read(disk, path, *identity, first_seq) {
            Ok(Some(file)) => {
                // Of a file that a mark ended before its first record, and the one that goes on, it is the latter.
                let reach = |file: &LogFile| (file.last_seq, !file.continues);
                let is_fuller = best.as_ref().is_none_or(|best| reach(&file) > reach(best));
                let loser = if is_fuller { best.replace(file) } else { Some(file) };
                needless.extend(loser.map(|file| file.path));
            }
            Ok(None) => needless.push(path.clone()),
            Err(error) => failed = Some((path.clone(), error)),
        }
    }
    if best.is_some() {
        // Two copies stand side by side only while nothing was acknowledged from the newer one, which may be torn.
        needless.extend(failed.take().map(|(path, _)| path));
    }
    let durable = next.map(|seq| Seq(seq.0 - 1));
    match (best, durable, failed) {
        (Some(file), Some(durable), _) if file.last_seq >= durable => Ok(Some(file)),
        (_, _, Some((_, error))) => Err(error),
        (Some(file), Some(durable), None) => {
            let what = format!("log records {} to {durable}", file.last_seq.next());
            Err(Error::corrupt(what, &file.path, file.used_bytes(), rot()))
        }
        (best, None, None) => Ok(best),
        (None, Some(_), None) => Ok(None), // the gap shows at the next file
    }
}

/// Reads one file; `None` if a crash left it without a header, so that nothing in it was ever acknowledged.
///
/// Where the file does not end with a mark it is read again: bytes that were only misread must not pass for a torn tail.
fn read(
    disk: &Arc<dyn Disk>,
    path: &str,
    identity: u64,
    first_seq: Seq,
) -> Result<Option<LogFile>> {
    let bytes = read_all(disk, path)?;
    let first = check(bytes, path, identity, first_seq);
    if matches!(&first, Ok(Some(file)) if file.is_marked) {
        return first;
    }
    let again = read_all(disk, path)?;
    if matches!(&first, Ok(Some(file)) if file.bytes == again) {
        return first;
    }
    let second = check(again, path, identity, first_seq);
    let reach = |read: &Result<Option<LogFile>>| match read {
        Ok(Some(file)) => file.last_seq,
        Ok(None) | Err(_) => Seq(0),
    };
    Ok(if reach(&second) >= reach(&first) { second? } else { first? })
}

/// What the bytes of one file say.
fn check(bytes: Vec<u8>, path: &str, identity: u64, first_seq: Seq) -> Result<Option<LogFile>> {
    let header = match FileHeader::decode(&bytes, identity) {
        Ok(header) => header,
        Err(BadHeader::TooNew(found)) => {
            let supported = super::file::VERSION;
            return Err(Error::TooNew { path: path.into(), found, supported });
        }
        Err(BadHeader::Corrupt(_)) if later_frame(&bytes, 0, identity).is_none() => {
            return Ok(None);
        }
        Err(BadHeader::Corrupt(why)) => {
            return Err(Error::corrupt("log file header", path, 0, why));
        }
    };
    if header.first_seq != first_seq || header.identity != identity {
        return Err(Error::corrupt("log file header", path, 0, "the file has another's name"));
    }
    if (bytes.len() as u64) < header.length && !planted::is(Bug::CutLogAccepted) {
        if later_frame(&bytes, HEADER_BYTES, identity).is_none() {
            return Ok(None); // begun, and never used: its length was not durable yet
        }
        let why = format!("the file was made with {} bytes: it was cut", header.length);
        return Err(Error::corrupt("log file", path, bytes.len() as u64, why));
    }
    let (mut at, mut expected, mut mark) = (HEADER_BYTES, first_seq, None);
    while let Some((frame, _)) = Frame::read(&bytes[at..], identity) {
        let follows = frame.kind == Kind::Record && frame.seq == expected;
        if !follows {
            mark = (frame.seq.next() == expected).then_some(frame.kind);
            break;
        }
        at += frame.bytes();
        expected = expected.next();
    }
    if let Some(frame) = later_frame(&bytes, at, identity)
        && frame.synced_seq >= expected
        && !planted::is(Bug::RotTakenForTear)
    {
        let what = format!("log records {expected} to {}", frame.synced_seq);
        return Err(Error::corrupt(what, path, at as u64, rot()));
    }
    let last_seq = Seq(expected.0 - 1);
    let continues = mark == Some(Kind::Continue);
    let is_marked = mark.is_some_and(|kind| kind != Kind::Record);
    Ok(Some(LogFile { path: path.into(), header, bytes, end: at, last_seq, continues, is_marked }))
}

fn rot() -> &'static str {
    "these records were durable and now do not verify: the disk has changed them; restore a backup, or 'tagmill salvage' keeps the others"
}

/// The good frame from `start` on that calls the most durable.
fn later_frame(bytes: &[u8], start: usize, identity: u64) -> Option<Frame> {
    let starts = (start..bytes.len().saturating_sub(FRAME_HEADER_BYTES - 1)).step_by(8);
    // Most of a file is zeros, and every open looks through it.
    let likely = starts.filter(|at| Frame::may_begin(&bytes[*at..]));
    let frames = likely.filter_map(|at| Frame::read(&bytes[at..], identity));
    frames.map(|(frame, _)| frame).max_by_key(|frame| frame.synced_seq)
}

fn read_all(disk: &Arc<dyn Disk>, path: &str) -> Result<Vec<u8>> {
    crate::disk::read_all(disk.as_ref(), path).map_err(|e| Error::io("read log file", path, e))
}
