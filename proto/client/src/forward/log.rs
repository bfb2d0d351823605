//! Records in order, in files of a folder: appended durably, read by number, removed from the front.
//!
//! # Contract
//! * What [`Log::append`] has stored is there after any crash, in its order; what it has not reported is there as a
//!   beginning of what was asked, or not at all.
//! * What opening finds is durable, before anybody learns of it.
//! * Opening looks at the newest file alone, and where that has no record for aliases at the last that has: its torn end is
//!   cut off. Damage in older files is found when they are read.
//! * More than one write can tear is not cut off: it stays as it is, and its numbers are not given again.
//! * Damage costs the records it is in. They are named in [`Log::take_damage`], and reading goes on behind them. So do
//!   sectors that the system cannot read, after a few tries.
//! * After a failed sync nobody knows what is on disk: the log takes nothing more until it is opened again.
//!
//! # What it does not know
//! What a record means, who has read it, and when it may go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::disk::{DiskFile, read_around, read_up_to};
use super::folder::{Folder, failure, io_failure};
use super::frames::{
    self, FRAME_BYTES, HEADER_BYTES, Header, Hole, Kind, NUMBER_MAX, Name, NewFrame, Survey, frame,
    frame_len, header, next_frame, survey, whole_frame,
};
use super::random;
use crate::error::{Error, Result};

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// More bytes at the end of a file than one write can tear: a group of batches and the longest batch.
const TORN_BYTES_MAX: usize = 8 << 20;
/// Damaged places that are remembered; more are only logged.
const DAMAGE_KEPT: usize = 100;
/// Reads of a record that fail before what the system cannot read is passed over: the disk may only be away.
const FAILURES_MAX: u32 = 3;
/// Records whose reads failed that are remembered.
const FAILING_KEPT: usize = 1_000;

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Samples in it.
    pub(super) samples: u32,
    /// Its bytes.
    pub(super) payload: Bytes,
}

impl Content {
    /// Bytes it takes in a file.
    pub(super) fn stored_bytes(&self) -> u64 {
        frame_len(self.payload.len()) as u64
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) content: Content,
}

/// What is found at a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// This record and some of those behind it, without a gap.
    Records(Vec<Record>),
    /// Nothing yet: it is the number of the next record, or a later one.
    End,
    /// It is gone, or damaged. This is the next that may be there.
    Gap(u64),
}

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    name: Name,
    /// Its last record; one before its first while it has none.
    pub(super) last: u64,
    /// Durable bytes.
    bytes: u64,
}

impl Segment {
    /// Whether it has no record.
    pub(super) fn is_empty(&self) -> bool {
        self.last < self.name.first
    }
}

#[derive(Debug, Default)]
struct Index {
    segments: VecDeque<Segment>,
    /// The last record.
    end: u64,
}

/// Where appends go.
#[derive(Debug, Default)]
struct Tail {
    /// None: the next append begins a file.
    file: Option<Box<dyn DiskFile>>,
    /// Why nothing more is taken.
    poison: Option<Error>,
}

/// The records of one kind in a folder.
#[derive(Debug)]
pub(super) struct Log {
    folder: Arc<Folder>,
    kind: Kind,
    /// Length at which a file is closed.
    segment_bytes: u64,
    index: Mutex<Index>,
    tail: Mutex<Tail>,
    damage: Mutex<Vec<String>>,
    /// Records that reads began with which the system refused, and how many did.
    failing: Mutex<BTreeMap<u64, u32>>,
}

/// A reader's place. The next read is cheap where it goes on after the last one.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    open: Option<(Name, Box<dyn DiskFile>)>,
    /// Where the frame of `next` begins, or one before it.
    at: u64,
    next: u64,
}

impl Log {
    /// Opens the log and cuts off what a crash tore. Also gives the greatest alias that it knows of.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn open(folder: Arc<Folder>, kind: Kind, segment_bytes: u64) -> Result<(Self, u32)> {
        let mut log = Self {
            folder,
            kind,
            segment_bytes,
            index: Mutex::default(),
            tail: Mutex::default(),
            damage: Mutex::default(),
            failing: Mutex::default(),
        };
        let names = log.folder.names()?;
        let mut names: Vec<Name> =
            names.iter().filter_map(|name| Name::parse(name, kind)).collect();
        names.sort_unstable();
        // A file was made when all numbers before its own had been given, whatever has become of it.
        let given = names.last().map_or(0, |name| name.first - 1);
        let mut names = log.without_empty(names)?;
        let mut aliases = 0;
        while let Some(newest) = names.last() {
            let (segment, known) = log.open_newest(*newest)?;
            aliases = aliases.max(known);
            if let Some(segment) = segment {
                let before = names.iter().rev().nth(1).filter(|_| segment.is_empty());
                let is_covered = match before {
                    Some(before) => log.last_in(*before)? > segment.last,
                    None => false,
                };
                if !is_covered {
                    aliases = aliases.max(log.aliases_before(&names, &segment));
                    log.index_of(&names, segment)?;
                    break;
                }
                // As those that `without_empty` leaves out.
                log.tail().file = None;
                log.folder.remove(&newest.file(kind))?;
            }
            names.pop();
        }
        if given > log.end() {
            log.skip_to(given);
            let begun = log.begin_segment(&mut log.tail());
            if let Err(error) = begun
                && !error.is_disk_full()
            {
                return Err(error);
            }
        }
        Ok((log, aliases))
    }

    /// Leaves out files without a record, but for the newest. Whoever made one could not make it durable and went on in
    /// another; after a loss of power it may be there again, and cover records of the one before.
    fn without_empty(&self, names: Vec<Name>) -> Result<Vec<Name>> {
        let newest = names.last().copied();
        let mut kept = Vec::with_capacity(names.len());
        for name in names {
            let file_name = name.file(self.kind);
            let length = self.folder.open_to_read(&file_name)?.map_or(Ok(0), |file| file.length());
            let path = self.folder.path().join(&file_name);
            let length = length.map_err(|error| io_failure("look at", &path, &error))?;
            if Some(name) == newest || length > HEADER_BYTES as u64 {
                kept.push(name);
            } else {
                // Also refuses what a later program wrote.
                self.last_in(name)?;
                self.folder.remove(&file_name)?;
            }
        }
        Ok(kept)
    }

    /// The last record in a file; one before its first if there is none.
    fn last_in(&self, name: Name) -> Result<u64> {
        self.survey_of(name).map(|survey| survey.last)
    }

    fn survey_of(&self, name: Name) -> Result<Survey> {
        let file_name = name.file(self.kind);
        let bytes = self.folder.read(&file_name)?.unwrap_or_default();
        match frames::check_header(&bytes, name, self.kind) {
            Header::TooNew(version) => Err(self.too_new(&file_name, version)),
            Header::Good | Header::Bad => Ok(survey(&bytes, name)),
        }
    }

    /// The greatest alias that files before the newest know of, where that one has no record to say it.
    fn aliases_before(&self, names: &[Name], newest: &Segment) -> u32 {
        let older = names.iter().rev().skip(1).filter(|_| newest.is_empty());
        for name in older {
            // Each record says the greatest of its time, so the last that can be read is enough.
            // One that cannot be read keeps nobody from opening; its reader will tell.
            if let Ok(survey) = self.survey_of(*name)
                && survey.last >= name.first
            {
                return survey.aliases;
            }
        }
        0
    }

    /// Takes a file out of the log, and keeps it for people.
    fn put_aside(&self, file_name: &str, why: &str) -> Result<()> {
        self.note(format!("{file_name}: {why}; it is kept as {file_name}.damaged"));
        self.folder.rename(file_name, &format!("{file_name}.damaged"))
    }

    /// Finds the end of the newest file; `None` if there is nothing in it: then it is out of the way.
    fn open_newest(&mut self, name: Name) -> Result<(Option<Segment>, u32)> {
        let file_name = name.file(self.kind);
        let bytes = self.folder.read(&file_name)?.unwrap_or_default();
        let checked = frames::check_header(&bytes, name, self.kind);
        if let Header::TooNew(version) = checked {
            return Err(self.too_new(&file_name, version));
        }
        let survey = survey(&bytes, name);
        survey.holes.iter().for_each(|hole| self.note_hole(name, *hole));
        let torn_bytes = bytes.len().saturating_sub(survey.end);
        if torn_bytes > TORN_BYTES_MAX {
            let segment = self.left_as_it_is(name, &bytes, &survey);
            return Ok((Some(segment), survey.aliases));
        }
        let is_empty = survey.last < name.first;
        if is_empty && bytes.len() > HEADER_BYTES {
            self.put_aside(&file_name, "nothing in it can be read")?;
            return Ok((None, survey.aliases));
        }
        if is_empty && checked == Header::Bad {
            // The process died while it made the file: nothing was stored in it.
            self.folder.remove(&file_name)?;
            return Ok((None, survey.aliases));
        }
        let path = self.folder.path().join(&file_name);
        let file = self.folder.open_file(&file_name)?;
        if torn_bytes > 0 && checked == Header::Good {
            let last = survey.last;
            self.note(format!(
                "{file_name}: the last {torn_bytes} bytes, behind record {last}, are no whole record, as when a process \
                 dies while it writes: cut off"
            ));
            let cut = file.set_length(survey.end as u64);
            cut.map_err(|error| io_failure("cut the torn end of", &path, &error))?;
        }
        // Whoever wrote the end may have died before it was durable. It is read from here on, so it must not go any more.
        file.sync().map_err(|error| io_failure("sync", &path, &error))?;
        if checked == Header::Bad {
            self.note(format!("{file_name}: its header is damaged; its records are not"));
        } else {
            self.tail = Mutex::new(Tail { file: Some(file), poison: None });
        }
        let segment = Segment { name, last: survey.last, bytes: survey.end as u64 };
        Ok((Some(segment), survey.aliases))
    }

    /// A file whose end is damaged, not torn: nothing in it changes, and nothing is appended to it. Numbers that may have
    /// been given in what cannot be read count as given.
    fn left_as_it_is(&self, name: Name, bytes: &[u8], survey: &Survey) -> Segment {
        let file_name = name.file(self.kind);
        let (last, lost_bytes) = (survey.last, bytes.len() - survey.end);
        let copy = format!("{file_name}.damaged");
        let has_copy = matches!(self.folder.open_to_read(&copy), Ok(Some(_)))
            || self.folder.create(&copy, bytes).is_ok();
        let kept = if has_copy { "a copy is kept as" } else { "there was no room for a copy," };
        self.note(format!(
            "{file_name}: the last {lost_bytes} bytes, behind record {last}, cannot be read, and are more than a crash \
             leaves: their records are lost; {kept} {copy}"
        ));
        let most = (lost_bytes / FRAME_BYTES) as u64;
        Segment { name, last: (last + most).min(NUMBER_MAX), bytes: bytes.len() as u64 }
    }

    fn index_of(&self, names: &[Name], newest: Segment) -> Result<()> {
        let mut index = self.index();
        for pair in names.windows(2) {
            let file_name = pair[0].file(self.kind);
            let path = self.folder.path().join(&file_name);
            let failed = |error: &std::io::Error| io_failure("look at", &path, error);
            let file = self.folder.open_file(&file_name)?;
            let bytes = file.length().map_err(|error| failed(&error))?;
            let head = read_up_to(&*file, 0, HEADER_BYTES).map_err(|error| failed(&error))?;
            match frames::check_header(&head, pair[0], self.kind) {
                Header::TooNew(version) => return Err(self.too_new(&file_name, version)),
                Header::Bad => self.note(format!("{file_name}: its header is damaged")),
                Header::Good => {}
            }
            index.segments.push_back(Segment { name: pair[0], last: pair[1].first - 1, bytes });
        }
        index.segments.push_back(newest);
        index.end = newest.last;
        Ok(())
    }

    fn too_new(&self, file_name: &str, version: u16) -> Error {
        let why = format!(
            "it has format {version}, which a later version of this program wrote: upgrade"
        );
        failure("read", &self.folder.path().join(file_name), &why)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that fit a file of their own.
    pub(super) fn group_bytes_max(&self) -> u64 {
        self.segment_bytes.saturating_sub(HEADER_BYTES as u64)
    }

    /// The last record; 0: there was none yet.
    pub(super) fn end(&self) -> u64 {
        self.index().end
    }

    /// The first record that is kept, or the number of the next one.
    pub(super) fn oldest(&self) -> u64 {
        let index = self.index();
        index.segments.front().map_or(index.end + 1, |segment| segment.name.first)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.index().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of files that hold records behind this one.
    pub(super) fn bytes_behind(&self, record: u64) -> u64 {
        let index = self.index();
        let behind = index.segments.iter().filter(|segment| segment.last > record);
        behind.map(|segment| segment.bytes).sum()
    }

    /// The oldest file, and whether it is the one that appends go to.
    pub(super) fn front(&self) -> Option<(Segment, bool)> {
        let index = self.index();
        index.segments.front().map(|segment| (*segment, index.segments.len() == 1))
    }

    /// Begins behind this record, whose like was seen elsewhere although it is not here.
    pub(super) fn skip_to(&self, record: u64) {
        let mut index = self.index();
        if record > index.end {
            index.end = record;
            drop(index);
            self.tail().file = None;
        }
    }

    /// Stores records; they are durable when it returns. Gives the number of the last.
    ///
    /// # Errors
    /// [`Error::Queue`]: of these records none is stored; or, after a failed sync, nobody knows.
    pub(super) fn append(&self, contents: &[Content], aliases: u32) -> Result<u64> {
        let _held = self.folder.held()?;
        let mut tail = self.tail();
        if let Some(poison) = &tail.poison {
            return Err(poison.clone());
        }
        let synced = self.end();
        if synced + contents.len() as u64 > NUMBER_MAX {
            let why = "its numbers are used up: begin a new folder";
            return Err(failure("append to", self.folder.path(), &why));
        }
        let bytes: u64 = contents.iter().map(Content::stored_bytes).sum();
        let segment = self.tail_segment(&mut tail, bytes)?;
        let mut out = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        for (record, content) in (synced + 1..).zip(contents) {
            let Content { samples, payload } = content;
            let frame = NewFrame { record, synced, samples: *samples, aliases, payload };
            frames::put_frame(&mut out, segment.name.identity, &frame);
        }
        let Tail { file: Some(file), poison } = &mut *tail else { return Err(Error::Closed) };
        let path = self.folder.path().join(segment.name.file(self.kind));
        if let Err(error) = file.write_at(&out, segment.bytes) {
            let failed = io_failure("write to", &path, &error);
            // A full disk is no damage: what was written of it goes, and the next append finds the end where it was.
            if file.set_length(segment.bytes).is_err() {
                *poison = Some(failed.clone());
            }
            return Err(failed);
        }
        if let Err(error) = file.sync() {
            let why =
                format!("{error}; what it holds is not known: close the queue and open it again");
            let failed = failure("sync", &path, &why);
            *poison = Some(failed.clone());
            return Err(failed);
        }
        let mut index = self.index();
        index.end = synced + contents.len() as u64;
        let end = index.end;
        if let Some(last) = index.segments.back_mut() {
            (last.last, last.bytes) = (end, segment.bytes + out.len() as u64);
        }
        Ok(end)
    }

    /// The file that this many bytes are appended to: a new one if the last is long enough.
    fn tail_segment(&self, tail: &mut Tail, bytes: u64) -> Result<Segment> {
        let last = self.index().segments.back().copied();
        match last.filter(|_| tail.file.is_some()) {
            Some(last) if last.is_empty() => Ok(last),
            Some(last) if last.bytes + bytes <= self.segment_bytes => Ok(last),
            _ => self.begin_segment(tail),
        }
    }

    fn begin_segment(&self, tail: &mut Tail) -> Result<Segment> {
        if let Some(poison) = &tail.poison {
            return Err(poison.clone());
        }
        let end = self.end();
        let name = Name { first: end + 1, identity: random::identity() };
        let head = header(name, self.kind);
        let made = self.folder.create(&name.file(self.kind), &head);
        tail.file = Some(made.map_err(|unmade| {
            if unmade.may_be_there {
                // Another file that begins at the same record would stand beside it.
                tail.poison = Some(unmade.error.clone());
            }
            unmade.error
        })?);
        let segment = Segment { name, last: end, bytes: head.len() as u64 };
        self.index().segments.push_back(segment);
        Ok(segment)
    }

    /// Closes the file that appends go to, so that it can be removed.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn seal(&self) -> Result<()> {
        let _held = self.folder.held()?;
        let mut tail = self.tail();
        let is_new = self.index().segments.back().is_some_and(Segment::is_empty);
        if is_new { Ok(()) } else { self.begin_segment(&mut tail).map(|_| ()) }
    }

    /// Takes a file out of the log if it is the oldest and appends do not go to it. Its bytes stay until it is removed.
    pub(super) fn pop_front(&self, segment: &Segment) -> bool {
        let mut index = self.index();
        let is_front = index.segments.len() > 1 && index.segments.front() == Some(segment);
        is_front && index.segments.pop_front().is_some()
    }

    /// Removes a file that was taken out of the log.
    ///
    /// # Errors
    /// [`Error::Queue`]; then it is there again when the log is opened.
    pub(super) fn remove(&self, segment: &Segment) -> Result<()> {
        let _held = self.folder.held()?;
        self.folder.remove(&segment.name.file(self.kind))
    }

    /// Reads from a record on: at least one, and about as many bytes as are asked for.
    ///
    /// # Errors
    /// [`Error::Queue`] if the system cannot read the file. The next reads from this record on may do without what it cannot
    /// read.
    pub(super) fn read(&self, cursor: &mut Cursor, from: u64, most_bytes: usize) -> Result<Found> {
        let segment = {
            let index = self.index();
            if from > index.end {
                return Ok(Found::End);
            }
            let behind = index.segments.iter().find(|segment| segment.last >= from).copied();
            match behind {
                Some(segment) if segment.name.first <= from => segment,
                Some(segment) => return Ok(Found::Gap(segment.name.first)),
                None => return Ok(Found::Gap(index.end + 1)),
            }
        };
        let file_name = segment.name.file(self.kind);
        if cursor.open.as_ref().is_none_or(|(name, _)| *name != segment.name) || cursor.next > from
        {
            // Without one it was removed a moment ago.
            let Some(file) = self.folder.open_to_read(&file_name)? else {
                return Ok(Found::Gap(segment.last + 1));
            };
            cursor.open = Some((segment.name, file));
            (cursor.at, cursor.next) = (HEADER_BYTES as u64, segment.name.first);
        }
        let Some((_, file)) = &cursor.open else { return Ok(Found::Gap(segment.last + 1)) };
        let is_given_up = self.failing().get(&from).is_some_and(|times| *times >= FAILURES_MAX);
        let place = Place { file: &**file, segment, at: cursor.at, is_given_up };
        let failed = |error: std::io::Error| {
            self.count_failure(from);
            io_failure("read", &self.folder.path().join(file_name), &error)
        };
        let taken = place.read(from, most_bytes).map_err(failed)?;
        cursor.at = taken.at;
        cursor.next = taken.records.last().map_or(cursor.next, |record| record.number + 1);
        if !taken.records.is_empty() {
            return Ok(Found::Records(taken.records));
        }
        let next = taken.next.unwrap_or(segment.last + 1);
        cursor.next = next;
        let at = usize::try_from(place.at).unwrap_or(usize::MAX);
        self.note_hole(segment.name, Hole { at, first: from, last: next - 1 });
        Ok(Found::Gap(next))
    }

    fn failing(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a read that failed. What was counted stays: whoever comes back to the record finds the same.
    fn count_failure(&self, from: u64) {
        let mut failing = self.failing();
        *failing.entry(from).or_default() += 1;
        if failing.len() > FAILING_KEPT {
            failing.pop_first();
        }
    }

    fn note_hole(&self, name: Name, hole: Hole) {
        let Hole { at, first, last } = hole;
        let file = name.file(self.kind);
        self.note(format!(
            "{file}: records {first} to {last} are damaged or missing, from byte {at} on"
        ));
    }

    fn note(&self, what: String) {
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if damage.len() < DAMAGE_KEPT && !damage.contains(&what) {
            tracing::error!(queue = %self.folder.path().display(), "{what}");
            damage.push(what);
        }
    }

    /// What was found damaged since the log was opened, and was not told yet.
    pub(super) fn take_damage(&self) -> Vec<String> {
        std::mem::take(&mut self.damage.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where in a file to read on.
struct Place<'a> {
    file: &'a dyn DiskFile,
    segment: Segment,
    at: u64,
    /// Whether what the system cannot read counts as damaged.
    is_given_up: bool,
}

/// What was read there.
struct Taken {
    records: Vec<Record>,
    /// Where to read on.
    at: u64,
    /// Without a record: the next number in the file, if there is one.
    next: Option<u64>,
}

impl Place<'_> {
    /// Reads whole frames from record `from` on.
    fn read(&self, from: u64, most_bytes: usize) -> std::io::Result<Taken> {
        let identity = self.segment.name.identity;
        let mut taken = Taken { records: Vec::new(), at: self.at, next: None };
        let (mut wanted, mut bytes) = (from, 0);
        let mut chunk = Bytes::new();
        // Each turn passes a frame, or reads a longer piece of a file that has an end.
        loop {
            let (rest, is_last) = match whole_frame(&chunk, identity) {
                Some((frame, _)) if frame.record < wanted => (frame.len(), false),
                Some((frame, payload)) if frame.record == wanted => {
                    let payload = chunk.slice_ref(payload);
                    bytes += payload.len();
                    let content = Content { samples: frame.samples, payload };
                    taken.records.push(Record { number: wanted, content });
                    wanted += 1;
                    (frame.len(), bytes >= most_bytes || wanted > self.segment.last)
                }
                found => {
                    let needed = frame(&chunk, identity).map_or(FRAME_BYTES, |frame| frame.len());
                    let longer =
                        if found.is_none() { self.piece(taken.at, needed) } else { Ok(None) };
                    if longer.is_err() && !taken.records.is_empty() {
                        return Ok(taken);
                    }
                    let longer = longer?;
                    if let Some(longer) = longer.filter(|longer| longer.len() > chunk.len()) {
                        chunk = longer;
                        continue;
                    }
                    if !taken.records.is_empty() {
                        return Ok(taken);
                    }
                    (taken.at, taken.next) = self.behind_damage(taken.at, wanted)?;
                    if taken.next != Some(wanted) {
                        return Ok(taken);
                    }
                    // The damage was before it.
                    chunk = Bytes::new();
                    continue;
                }
            };
            taken.at += rest as u64;
            chunk = chunk.slice(rest..);
            if is_last {
                return Ok(taken);
            }
        }
    }

    /// The next bytes of the file: a good piece, and at least as many as are needed if there are so many.
    fn piece(&self, at: u64, needed: usize) -> std::io::Result<Option<Bytes>> {
        let left = usize::try_from(self.segment.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        if needed > left {
            return Ok(None);
        }
        // What lies far ahead may be unreadable where what is needed is not.
        let read = self.bytes(at, needed.max(READ_BYTES).min(left));
        read.or_else(|_| self.bytes(at, needed)).map(Some)
    }

    fn bytes(&self, at: u64, length: usize) -> std::io::Result<Bytes> {
        // Fewer if somebody cut the file.
        match read_up_to(self.file, at, length) {
            Err(_) if self.is_given_up => Ok(read_around(self.file, at, length).into()),
            read => read.map(Bytes::from),
        }
    }

    /// The next good frame behind damage: where it begins, and its record if there is one.
    fn behind_damage(&self, at: u64, wanted: u64) -> std::io::Result<(u64, Option<u64>)> {
        let left = usize::try_from(self.segment.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let bytes = self.bytes(at, left)?;
        let found = next_frame(&bytes, self.segment.name.identity, 0, wanted);
        let (start, next) = found.map_or((left, None), |(at, frame)| (at, Some(frame.record)));
        Ok((at + start as u64, next))
    }
}
