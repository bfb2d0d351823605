//! The audit log: who did what, when, from where, and what came of it.
//!
//! # Contract
//! * One event is one line of JSON in [`FILE`], appended and never changed. Each line ends with a SHA-256 over itself and
//!   the one before it, so that a line that was changed, or taken out between others, is found ([`verify`]). Whoever may
//!   write the file can write a new chain: copy it to another machine if that matters.
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
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tagmill::Hosted;
use tagmill::arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampNanosecondArray};
use tagmill::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::access::token::hex;

/// Its name in the directory of the database.
pub const FILE: &str = "audit.jsonl";

/// Bytes of a file; a longer one is put aside under the time of its last event.
const FILE_BYTES_MAX: u64 = 64 << 20;
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
}

impl Writer {
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path)?;
        let mut bytes = file.seek(SeekFrom::End(0))?;
        let tail = last_bytes(&mut file, SHOWN_BYTES)?;
        // A line that a crash cut off is ended here; it is no event, and verify names it.
        if tail.last().is_some_and(|&last| last != b'\n') {
            file.write_all(b"\n")?;
            bytes += 1;
        }
        let chain = lines_of(&tail).next_back().map_or(NO_CHAIN.to_owned(), |line| line.chain);
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(Self { path, file, bytes, chain })
    }

    fn run(mut self, queue: &Receiver<Job>, left_out: &AtomicU64) {
        let mut is_dirty = false;
        loop {
            match queue.recv_timeout(SYNC_WITHIN) {
                Ok(Job { event, done }) => {
                    let mut written = self.write(event);
                    is_dirty = true;
                    if let Some(done) = done {
                        written = written.and_then(|()| self.file.sync_data());
                        is_dirty = false;
                        let result = written.as_ref().map_err(|error| self.sentence(error));
                        drop(done.send(result.copied()));
                    }
                    if let Err(error) = written {
                        tracing::error!("{}", self.sentence(&error));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let lost = left_out.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let event = Event::new("audit.left_out").result(format!("{lost} events"));
                if let Err(error) = self.write(event) {
                    tracing::error!("{}", self.sentence(&error));
                }
            }
            if std::mem::take(&mut is_dirty)
                && let Err(error) = self.file.sync_data()
            {
                tracing::error!("{}", self.sentence(&error));
            }
        }
        if let Err(error) = self.file.sync_data() {
            tracing::error!("{}", self.sentence(&error));
        }
    }

    fn sentence(&self, error: &io::Error) -> String {
        format!("the audit log {} cannot be written: {error}", self.path.display())
    }

    fn write(&mut self, event: Event) -> io::Result<()> {
        if self.bytes > FILE_BYTES_MAX {
            self.put_aside()?;
        }
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
        let event = Event { time, ..event }.bounded();
        let chain = chained(&self.chain, &event)?;
        let mut line = serde_json::to_vec(&Line { event, chain: chain.clone() })?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        self.chain = chain;
        Ok(())
    }

    /// Begins another file; the chain goes on.
    fn put_aside(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        let time = Utc::now().format("%Y%m%dT%H%M%S%.9fZ");
        std::fs::rename(&self.path, self.path.with_file_name(format!("audit-{time}.jsonl")))?;
        let chain = std::mem::take(&mut self.chain);
        *self = Self { chain, ..Self::open(self.path.clone())? };
        Ok(())
    }
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
}

/// Reads a file of the log and checks its chain. The first line of a file that follows another cannot be checked by
/// itself: give the other's last chain, or none.
///
/// # Errors
/// If it cannot be read.
pub fn verify(path: &Path) -> io::Result<Verified> {
    let mut verified = Verified::default();
    let mut before: Option<String> = None;
    for (number, line) in (1..).zip(BufReader::new(File::open(path)?).split(b'\n')) {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        let Ok(Line { event, chain }) = serde_json::from_slice::<Line>(&line) else {
            verified.broken.push(number);
            continue;
        };
        let follows = match &before {
            Some(before) => chained(before, &event)? == chain,
            // The first line of all, or one that follows the last of a file put aside.
            None => chained(NO_CHAIN, &event)? == chain || number == 1,
        };
        if follows {
            verified.events += 1;
        } else {
            verified.broken.push(number);
        }
        before = Some(chain);
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

    #[test]
    fn events_are_chained_over_restarts_and_a_changed_or_missing_line_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for run in 0..3 {
            let audit = Audit::open(directory.path()).unwrap();
            audit.note(Event::new("server.start"));
            audit.require(Event::new("tag.delete").on(format!("u{run}/T"))).unwrap();
        }
        assert_eq!(verify(&path).unwrap(), Verified { events: 6, broken: vec![] });
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let without = |at: usize| -> String {
            let mut rest = lines.clone();
            rest.remove(at);
            rest.join("\n") + "\n"
        };
        std::fs::write(&path, without(2)).unwrap();
        assert_eq!(verify(&path).unwrap().broken, [3]);
        std::fs::write(&path, text.replace("u1/T", "u9/T")).unwrap();
        assert_eq!(verify(&path).unwrap().broken, [4]);
        // What a crash cut off is named, and what comes after it goes on.
        std::fs::write(&path, &text[..text.len() - 20]).unwrap();
        let audit = Audit::open(directory.path()).unwrap();
        audit.require(Event::new("server.start")).unwrap();
        drop(audit);
        assert_eq!(verify(&path).unwrap(), Verified { events: 6, broken: vec![6] });
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
