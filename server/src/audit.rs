//! The audit log: who did what, when, from where, and what came of it.
//!
//! # Contract
//! * One event is one line of JSON in [`FILE`], appended and never changed. Each line ends with a SHA-256 over itself and
//!   the one before it, so that a line that was changed, or taken out between others, is found ([`verify`]). Whoever may
//!   write the file can write a new chain: copy it to another machine if that matters.
//! * A long file is put aside, and the next one begins with [`CONTINUES`], which follows from the last line before it: the
//!   chain goes through all of them ([`files_of`]).
//! * What could be written of an event in part only is taken back, or ended, before the next one: it never swallows another.
//! * [`Audit::require`] returns when the event is on disk, and fails if it cannot be: what administrators do is not done
//!   without a trace. [`Audit::note`] never waits; what does not fit the queue is counted, and the count is an event.
//! * No token, password, value or SQL text is ever in it.
//!
//! # What it does not know
//! What the events mean: doors tell them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tagmill::Hosted;
use tagmill::arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampNanosecondArray};
use tagmill::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::access::token::hex;

/// Its name in the directory of the database.
pub const FILE: &str = "audit.jsonl";

/// The first event of a file that goes on with another; its object is the name of that one.
pub const CONTINUES: &str = "log.continues";

/// How names of files that were put aside begin; their time follows, so that they sort by it.
const ASIDE: &str = "audit-";
/// Bytes of a file; a longer one is put aside under the time of its last event.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// If it cannot be put aside, it goes on for so many bytes until that is tried again.
const AGAIN_BYTES: u64 = 1 << 20;
/// Events that wait to be written.
const QUEUE: usize = 1_024;
/// How long an event that nobody waits for may be without a sync.
const SYNC_WITHIN: Duration = Duration::from_secs(1);
/// Events that the relation shows: the last ones, from the last bytes of the file.
const SHOWN: usize = 10_000;
const SHOWN_BYTES: u64 = 4 << 20;
/// Bytes of one field of an event.
const FIELD_BYTES_MAX: usize = 512;
/// What the first line's chain begins with.
const NO_CHAIN: &str = "";

/// What happened. All but the action may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, RFC 3339 in UTC; given when it is written.
    #[serde(default)]
    pub time: String,
    /// What was done or tried: `login`, `tag.delete`, `server.start` ..
    pub action: String,
    /// How it ended: `ok`, `refused`, or why not.
    pub result: String,
    /// Who, by name.
    pub principal: String,
    /// The id of the token.
    pub token: String,
    /// Which way: `grpc`, `http`, `postgres`, `flight`.
    pub door: String,
    /// From where.
    pub peer: String,
    /// To what.
    pub object: String,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    event: Event,
    chain: String,
}

impl Event {
    /// An event that went well.
    pub fn new(action: &str) -> Self {
        Self { action: action.to_owned(), result: "ok".to_owned(), ..Self::default() }
    }

    /// With how it ended.
    #[must_use]
    pub fn result(self, result: impl Into<String>) -> Self {
        Self { result: result.into(), ..self }
    }

    /// By whom.
    #[must_use]
    pub fn by(self, principal: &crate::access::Principal) -> Self {
        Self { principal: principal.name.to_string(), token: principal.id.to_string(), ..self }
    }

    /// Through which door, and from where.
    #[must_use]
    pub fn from(self, door: &str, peer: Option<SocketAddr>) -> Self {
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        Self { door: door.to_owned(), peer, ..self }
    }

    /// To what.
    #[must_use]
    pub fn on(self, object: impl Into<String>) -> Self {
        Self { object: object.into(), ..self }
    }

    fn bounded(mut self) -> Self {
        for field in [&mut self.result, &mut self.principal, &mut self.object, &mut self.action] {
            if field.len() > FIELD_BYTES_MAX {
                field.truncate(field.floor_char_boundary(FIELD_BYTES_MAX));
                field.push_str("..");
            }
        }
        self
    }
}

/// Something for the thread that writes.
struct Job {
    event: Event,
    /// Who waits until it is on disk.
    done: Option<SyncSender<Result<(), String>>>,
}

/// The log of a running server. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    jobs: Mutex<Option<SyncSender<Job>>>,
    left_out: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens the log in a directory, or begins one, and goes on with its chain.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(directory: &Path) -> Result<Arc<Self>, String> {
        let path = directory.join(FILE);
        let writer = Writer::open(path.clone());
        let writer = writer.map_err(|error| format!("{}: {error}", path.display()))?;
        let (jobs, queue) = sync_channel(QUEUE);
        let left_out = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&left_out);
        let thread = std::thread::Builder::new()
            .name("tagmill-audit".to_owned())
            .spawn(move || writer.run(&queue, &counted))
            .map_err(|error| format!("no thread for the audit log: {error}"))?;
        let (jobs, thread) = (Mutex::new(Some(jobs)), Mutex::new(Some(thread)));
        Ok(Arc::new(Self { path, jobs, left_out, thread }))
    }

    /// Tells an event, without waiting.
    pub fn note(&self, event: Event) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(jobs) = jobs.as_ref() else { return };
        if let Err(TrySendError::Full(_)) = jobs.try_send(Job { event, done: None }) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells an event and returns when it is on disk. Blocks.
    ///
    /// # Errors
    /// A sentence for whoever wanted to do it: it must not be done.
    pub fn require(&self, event: Event) -> Result<(), String> {
        let (done, written) = sync_channel(1);
        let gone = || "the audit log has ended: nothing is administered without it".to_owned();
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let jobs = jobs.ok_or_else(gone)?;
        jobs.send(Job { event, done: Some(done) }).map_err(|_| gone())?;
        written.recv().map_err(|_| gone())?
    }

    /// The relation `system.audit`.
    pub fn relation(&self) -> Arc<dyn Hosted> {
        Arc::new(AuditRelation { path: self.path.clone() })
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

/// The thread's side.
struct Writer {
    path: PathBuf,
    file: File,
    bytes: u64,
    chain: String,
    /// Beyond so many bytes another file begins.
    most: u64,
    /// The begin of a line that could not be written stands at the end of the file.
    is_torn: bool,
    /// Since when there are events that are not synced.
    unsynced: Option<Instant>,
}

impl Writer {
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path)?;
        let bytes = file.seek(SeekFrom::End(0))?;
        let tail = last_bytes(&mut file, SHOWN_BYTES)?;
        // A line that a crash cut off is ended by the next one; it is no event, and verify names it.
        let is_torn = tail.last().is_some_and(|&last| last != b'\n');
        let chain = last_chain(&tail);
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        let (most, unsynced) = (FILE_BYTES_MAX, None);
        let mut writer = Self { path, file, bytes, chain, most, is_torn, unsynced };
        if bytes == 0 {
            writer.go_on()?;
        }
        Ok(writer)
    }

    /// Goes on with the chain of the file that was put aside last, if there is any.
    fn go_on(&mut self) -> io::Result<()> {
        let Some(directory) = self.path.parent() else { return Ok(()) };
        let Some(before) = files_aside(directory)?.pop() else { return Ok(()) };
        let tail = last_bytes(&mut File::open(&before)?, SHOWN_BYTES)?;
        self.chain = last_chain(&tail);
        let name = before.file_name().unwrap_or_default().to_string_lossy();
        self.append(Event::new(CONTINUES).on(name))
    }

    fn run(mut self, queue: &Receiver<Job>, left_out: &AtomicU64) {
        while self.step(queue, left_out) {}
        self.sync_told();
    }

    /// Writes the next event, or waits for it as long as what was written may wait for its sync. False when none comes.
    fn step(&mut self, queue: &Receiver<Job>, left_out: &AtomicU64) -> bool {
        let waited = self.unsynced.map_or(Duration::ZERO, |since| since.elapsed());
        match queue.recv_timeout(SYNC_WITHIN.saturating_sub(waited)) {
            Ok(Job { event, done }) => {
                let mut written = self.write(event);
                if let Some(done) = done {
                    written = written.and_then(|()| self.sync());
                    let result = written.as_ref().map_err(|error| self.sentence(error));
                    drop(done.send(result.copied()));
                }
                if let Err(error) = written {
                    tracing::error!("{}", self.sentence(&error));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.tell_left_out(left_out);
        if self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_WITHIN) {
            self.sync_told();
        }
        true
    }

    /// Writes how many events found no room, and forgets the number once it is written.
    fn tell_left_out(&mut self, left_out: &AtomicU64) {
        let lost = left_out.load(Ordering::Relaxed);
        if lost == 0 {
            return;
        }
        let event = Event::new("audit.left_out").result(format!("{lost} events"));
        if let Err(error) = self.write(event) {
            tracing::error!("{}", self.sentence(&error));
            return;
        }
        left_out.fetch_sub(lost, Ordering::Relaxed);
    }

    fn sync(&mut self) -> io::Result<()> {
        self.unsynced = None;
        self.file.sync_data()
    }

    /// Brings to disk what is not, and tells those who run the server if that fails.
    fn sync_told(&mut self) {
        if let Err(error) = self.sync() {
            tracing::error!("{}", self.sentence(&error));
        }
    }

    fn sentence(&self, error: &io::Error) -> String {
        format!("the audit log {} cannot be written: {error}", self.path.display())
    }

    fn write(&mut self, event: Event) -> io::Result<()> {
        if self.bytes > self.most
            && let Err(error) = self.put_aside()
        {
            self.most = self.bytes + AGAIN_BYTES;
            tracing::error!("{} goes on, though it is long: {error}", self.path.display());
        }
        self.append(event)
    }

    fn append(&mut self, event: Event) -> io::Result<()> {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
        let event = Event { time, ..event }.bounded();
        let chain = chained(&self.chain, &event)?;
        let mut line = if self.is_torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, &Line { event, chain: chain.clone() })?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            self.take_back();
            return Err(error);
        }
        self.is_torn = false;
        self.bytes += line.len() as u64;
        self.chain = chain;
        self.unsynced = self.unsynced.or_else(|| Some(Instant::now()));
        Ok(())
    }

    /// Takes back what was written of a line in part.
    fn take_back(&mut self) {
        if self.file.set_len(self.bytes).is_ok() {
            return;
        }
        self.bytes = self.file.metadata().map_or(self.bytes, |meta| meta.len());
        self.is_torn = true;
    }

    /// Begins another file; the chain goes on. If there can be none, this one stays as it is.
    fn put_aside(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        let time = Utc::now().format("%Y%m%dT%H%M%S%.9fZ");
        let aside = self.path.with_file_name(format!("{ASIDE}{time}.jsonl"));
        std::fs::rename(&self.path, &aside)?;
        match Self::open(self.path.clone()) {
            Ok(next) => {
                *self = Self { most: self.most, ..next };
                Ok(())
            }
            Err(error) => {
                std::fs::rename(&aside, &self.path)?;
                Err(error)
            }
        }
    }
}

/// Files of the log in a directory that were put aside, oldest first.
fn files_aside(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(ASIDE) && name.ends_with(".jsonl") {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// All files of the log in a directory, oldest first.
///
/// # Errors
/// If the directory cannot be read.
pub fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = files_aside(directory)?;
    files.push(directory.join(FILE));
    Ok(files)
}

fn chained(before: &str, event: &Event) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    context.update(before.as_bytes());
    context.update(&serde_json::to_vec(event)?);
    Ok(hex(context.finish().as_ref()))
}

/// The last bytes of a file, from the begin of a line on.
fn last_bytes(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(most);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    if start > 0 {
        let line = bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| at + 1);
        bytes.drain(..line);
    }
    Ok(bytes)
}

/// What the next line after these follows from.
fn last_chain(tail: &[u8]) -> String {
    lines_of(tail).next_back().map_or_else(|| NO_CHAIN.to_owned(), |line| line.chain)
}

/// The lines that are whole.
fn lines_of(bytes: &[u8]) -> impl DoubleEndedIterator<Item = Line> {
    bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Events whose chain is right.
    pub events: u64,
    /// Lines, from 1, that are no events, or whose chain does not follow from the one before.
    pub broken: Vec<u64>,
    /// The file that this one goes on with, if none was read before it: whether it does is not known.
    pub continues: Option<String>,
}

/// Reads a file of the log and checks its chain, from the last one of the file before it if that was read. Leaves the
/// file's own last one there.
///
/// # Errors
/// If it cannot be read.
pub fn verify(path: &Path, before: &mut Option<String>) -> io::Result<Verified> {
    let mut verified = Verified::default();
    for (number, line) in (1..).zip(BufReader::new(File::open(path)?).split(b'\n')) {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        let Ok(Line { event, chain }) = serde_json::from_slice::<Line>(&line) else {
            verified.broken.push(number);
            continue;
        };
        let is_alone = number == 1 && before.is_none() && event.action == CONTINUES;
        if is_alone {
            verified.continues = Some(event.object.clone());
        }
        let from = before.as_deref().unwrap_or(NO_CHAIN);
        if is_alone || chained(from, &event)? == chain {
            verified.events += 1;
        } else {
            verified.broken.push(number);
        }
        *before = Some(chain);
    }
    Ok(verified)
}

/// `system.audit`: the last events.
#[derive(Debug)]
struct AuditRelation {
    path: PathBuf,
}

const COLUMNS: [&str; 7] = ["action", "result", "principal", "token", "door", "peer", "object"];

impl Hosted for AuditRelation {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn schema(&self) -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("UTC")));
        let texts = COLUMNS.map(|name| Field::new(name, DataType::Utf8, false));
        let fields = std::iter::once(Field::new("time", time, true)).chain(texts);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn for_operators(&self) -> bool {
        true
    }

    fn rows(&self) -> Result<RecordBatch, String> {
        let read = File::open(&self.path).and_then(|mut file| last_bytes(&mut file, SHOWN_BYTES));
        let bytes = read.map_err(|error| format!("the audit log cannot be read: {error}"))?;
        let mut events: VecDeque<Event> = VecDeque::new();
        for line in lines_of(&bytes) {
            if events.len() == SHOWN {
                events.pop_front();
            }
            events.push_back(line.event);
        }
        let time = |event: &Event| {
            let time = chrono::DateTime::parse_from_rfc3339(&event.time).ok()?;
            time.timestamp_nanos_opt()
        };
        let times: TimestampNanosecondArray = events.iter().map(time).collect();
        let text = |get: fn(&Event) -> &String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(events.iter().map(get)))
        };
        let columns = vec![
            Arc::new(times.with_timezone("UTC")),
            text(|event| &event.action),
            text(|event| &event.result),
            text(|event| &event.principal),
            text(|event| &event.token),
            text(|event| &event.door),
            text(|event| &event.peer),
            text(|event| &event.object),
        ];
        RecordBatch::try_new(self.schema(), columns).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(path: &Path) -> (u64, Vec<u64>) {
        let Verified { events, broken, continues } = verify(path, &mut None).unwrap();
        assert_eq!(continues, None);
        (events, broken)
    }

    #[test]
    fn events_are_chained_over_restarts_and_a_changed_or_missing_line_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for run in 0..3 {
            let audit = Audit::open(directory.path()).unwrap();
            audit.note(Event::new("server.start"));
            audit.require(Event::new("tag.delete").on(format!("u{run}/T"))).unwrap();
        }
        assert_eq!(verified(&path), (6, vec![]));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let without = |at: usize| -> String {
            let mut rest = lines.clone();
            rest.remove(at);
            rest.join("\n") + "\n"
        };
        for (removed, named) in [(0, 1), (2, 3)] {
            std::fs::write(&path, without(removed)).unwrap();
            assert_eq!(verified(&path).1, [named]);
        }
        std::fs::write(&path, text.replace("u1/T", "u9/T")).unwrap();
        assert_eq!(verified(&path).1, [4]);
        // What a crash cut off is named, and what comes after it goes on.
        std::fs::write(&path, &text[..text.len() - 20]).unwrap();
        let audit = Audit::open(directory.path()).unwrap();
        audit.require(Event::new("server.start")).unwrap();
        drop(audit);
        assert_eq!(verified(&path), (6, vec![6]));
    }

    #[test]
    fn what_was_written_in_part_is_no_begin_of_the_next_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut writer = Writer::open(path.clone()).unwrap();
        writer.write(Event::new("server.start")).unwrap();
        // As a full disk leaves it.
        writer.file.write_all(b"{\"time\":\"20").unwrap();
        writer.take_back();
        writer.write(Event::new("seal")).unwrap();
        assert_eq!(verified(&path), (2, vec![]));
        // And where it cannot be taken back: the file is open for reading alone.
        writer.file.write_all(b"{\"time\":\"20").unwrap();
        let mut appended = std::mem::replace(&mut writer.file, File::open(&path).unwrap());
        assert!(writer.write(Event::new("backup")).is_err());
        assert!(writer.is_torn);
        std::mem::swap(&mut writer.file, &mut appended);
        writer.write(Event::new("verify")).unwrap();
        assert_eq!(verified(&path), (3, vec![3]));
    }

    #[test]
    fn the_chain_goes_through_all_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(directory.path().join(FILE)).unwrap();
        writer.most = 300;
        for at in 0..6 {
            writer.write(Event::new("seal").on(at.to_string())).unwrap();
        }
        drop(writer);
        let files = files_of(directory.path()).unwrap();
        assert!(files.len() >= 3 && files.last().unwrap().ends_with(FILE), "{files:?}");
        let all = |files: &[PathBuf]| {
            let mut before = None;
            let mut one = |path: &PathBuf| verify(path, &mut before).unwrap();
            files.iter().map(&mut one).collect::<Vec<_>>()
        };
        let found = all(&files);
        assert!(found.iter().all(|one| one.broken.is_empty() && one.continues.is_none()));
        let events: u64 = found.iter().map(|one| one.events).sum();
        assert_eq!(events, 6 + files.len() as u64 - 1);
        // A file that is missing in between is named by the next; before the first that is there, it is said.
        let (first, rest) = files.split_first().unwrap();
        let missing = all(&[std::slice::from_ref(first), &rest[1..]].concat());
        assert_eq!(missing[1].broken, [1]);
        assert_eq!(all(rest)[0].continues.as_deref(), first.file_name().unwrap().to_str());
        // A file that was put aside, and nothing after it: the next run goes on with it.
        std::fs::remove_file(files.last().unwrap()).unwrap();
        Audit::open(directory.path()).unwrap().require(Event::new("server.start")).unwrap();
        assert!(all(&files).iter().all(|one| one.broken.is_empty()));
    }

    #[test]
    fn a_file_that_cannot_be_put_aside_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut writer = Writer::open(path.clone()).unwrap();
        writer.write(Event::new("server.start")).unwrap();
        writer.most = 1;
        // Somebody has taken it away.
        std::fs::rename(&path, directory.path().join("other")).unwrap();
        writer.write(Event::new("seal")).unwrap();
        assert!(writer.most > AGAIN_BYTES);
        assert_eq!(verified(&directory.path().join("other")), (2, vec![]));
    }

    #[test]
    fn events_that_nobody_waits_for_are_synced_together() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(directory.path().join(FILE)).unwrap();
        let (jobs, queue) = sync_channel(QUEUE);
        let left_out = AtomicU64::new(0);
        let mut syncs = 0;
        for _ in 0..50 {
            jobs.send(Job { event: Event::new("login"), done: None }).unwrap();
            assert!(writer.step(&queue, &left_out));
            syncs += u32::from(writer.unsynced.is_none());
        }
        assert!(syncs < 10, "{syncs} syncs of 50 events at once");
        // Somebody waits for one: with it all before it are on disk.
        let (done, told) = sync_channel(1);
        jobs.send(Job { event: Event::new("seal"), done: Some(done) }).unwrap();
        assert!(writer.step(&queue, &left_out));
        told.recv().unwrap().unwrap();
        assert!(writer.unsynced.is_none());
        // Nobody does, and nothing comes after it: it is synced in time.
        jobs.send(Job { event: Event::new("login"), done: None }).unwrap();
        let begun = Instant::now();
        assert!(writer.step(&queue, &left_out) && writer.step(&queue, &left_out));
        assert!(writer.unsynced.is_none() && begun.elapsed() < 5 * SYNC_WITHIN);
        drop(jobs);
        assert!(!writer.step(&queue, &left_out));
    }

    #[test]
    fn the_number_of_events_without_room_stays_until_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut writer = Writer::open(path.clone()).unwrap();
        // Open for reading alone, as with a full disk.
        let mut appended = std::mem::replace(&mut writer.file, File::open(&path).unwrap());
        let left_out = AtomicU64::new(7);
        writer.tell_left_out(&left_out);
        assert_eq!(left_out.load(Ordering::Relaxed), 7);
        std::mem::swap(&mut writer.file, &mut appended);
        writer.tell_left_out(&left_out);
        assert_eq!(left_out.load(Ordering::Relaxed), 0);
        assert!(std::fs::read_to_string(&path).unwrap().contains("7 events"));
    }

    #[test]
    fn the_relation_shows_the_last_events() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::open(directory.path()).unwrap();
        for at in 0..20 {
            audit.note(Event::new("login").result("refused").on("x".repeat(at * 100)));
        }
        audit.require(Event::new("server.stop")).unwrap();
        let rows = audit.relation().rows().unwrap();
        assert_eq!(rows.num_rows(), 21);
        assert_eq!(rows.schema(), audit.relation().schema());
    }
}
