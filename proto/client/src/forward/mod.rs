//! Store and forward: a queue on disk between whoever measures and the servers that keep it.
//!
//! # Contract
//! * What [`Forwarder::append`] has answered is in the queue after any crash, and reaches every server in order.
//! * Each server stores each record exactly once, whoever dies meanwhile: docs/ingest.md names what no queue can know.
//! * The queue has a limit. Nothing is dropped but where [`Full::DropOldest`] says so, and then it is counted.
//! * A server that is away, or slow, delays no other. What it lacks is kept for it, within the limit.
//!
//! # What it does not know
//! How samples are read, and what the batches hold: a record is a batch as [`BatchBuilder`] has encoded it.
//!
//! # Reading order
//! `frames` (bytes of a file; pure), `disk` (calls to the system), `folder`, `log` (records in files), `known` (tags),
//! `position` (of a server), `store` (all of it, and room), `rate` (pure), `drain` (one server). The formats are in
//! `docs/format/forward-queue.md`.

mod checksum;
mod disk;
mod drain;
mod folder;
mod frames;
#[cfg(test)]
mod golden;
mod known;
mod log;
#[cfg(test)]
mod log_tests;
mod options;
mod position;
mod random;
mod rate;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod sim_tests;
mod status;
mod store;
#[cfg(test)]
mod store_tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tagmill_proto::view::client_message::Message;
use tokio::sync::{mpsc, oneshot};

pub use self::options::{CAPACITY_BYTES_MIN, Destination, ForwardOptions, Full};
pub use self::status::{ForwardStatus, ServerStatus, ServerSummary};

use self::drain::{Drain, feed};
use self::folder::{Folder, failure};
use self::frames::Kind;
use self::known::{Known, News};
use self::log::{Content, Log};
use self::position::{Position, Stored};
use self::store::{Job, Store};
use crate::batch::BatchBuilder;
use crate::definitions::{TagDef, TagSet};
use crate::error::{Error, Result};
use crate::gateway::{AckSummary, Ticket};
use crate::options::with_scheme;
use crate::session::{self, Course};
use crate::state::{Shared, encode};

/// Batches on their way to the disk; more wait in `append`.
const JOBS: usize = 64;
/// How long a connection may take to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A queue on disk that is delivered to servers.
///
/// Dropping it ends everything at once, as the death of the process would: what was stored stays in the queue, and the next
/// one that is opened on the folder goes on.
#[derive(Debug)]
pub struct Forwarder {
    store: Arc<Store>,
    lanes: Vec<Lane>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<std::thread::JoinHandle<()>>,
    batch_bytes_max: usize,
}

/// One server.
#[derive(Debug)]
struct Lane {
    name: String,
    drain: Arc<Drain>,
    shared: Arc<Shared>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Forwarder {
    /// Opens the queue in a folder, making it if there is none, and begins to deliver. No server need be there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for options that cannot work; [`Error::Queue`] if the folder cannot be used, another program has
    /// it, it belongs to another gateway, or a later version wrote it.
    pub async fn open(folder: impl Into<PathBuf>, options: ForwardOptions) -> Result<Self> {
        options.check()?;
        let path = folder.into();
        let opening = tokio::task::spawn_blocking(move || {
            let opened = open_store(&path, &options)?;
            Ok::<_, Error>((opened, options))
        });
        let ((store, positions), options) = opening.await.map_err(|_| Error::Closed)??;
        let store = Arc::new(store);
        let lanes: Vec<Lane> = (0..)
            .zip(options.to.iter().zip(positions))
            .map(|(index, (to, position))| Lane::begin(&store, &options, index, to, position))
            .collect();
        let (jobs, waiting) = mpsc::channel(JOBS);
        let (save, of_writer) = (saving(&lanes), Arc::clone(&store));
        let write = move || of_writer.write(waiting, &save);
        let writer = std::thread::Builder::new().name("tagmill-forward".into()).spawn(write);
        let writer =
            writer.map_err(|error| failure("start a thread for", store.folder.path(), &error))?;
        let batch_bytes_max = options.batch_bytes_max;
        Ok(Self { store, lanes, jobs: Some(jobs), writer: Some(writer), batch_bytes_max })
    }

    /// Gives tags their aliases, in their order; the definitions are in the queue when it returns. A tag that is known keeps
    /// its alias, over restarts too. No server is asked: what one refuses is told by [`Forwarder::summaries`].
    ///
    /// # Errors
    /// [`Error::Queue`], [`Error::Full`] if the disk has no room; then none was defined.
    pub async fn define(&self, tags: &[TagDef]) -> Result<Vec<u32>> {
        let tags = tags.to_vec();
        self.defined(move |known| known.define(&tags)).await
    }

    /// The tag that has this name in the queue, and its alias.
    pub fn find(&self, name: &str) -> Option<(u32, TagDef)> {
        let known = lock(&self.store);
        known.definitions().find(name).map(|(alias, tag)| (alias, tag.clone()))
    }

    /// The tag of an alias.
    pub fn definition(&self, alias: u32) -> Option<TagDef> {
        lock(&self.store).definitions().get(alias).cloned()
    }

    /// Defines a list of tags that are read together, for [`BatchBuilder::scan`]; it is in the queue when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an alias that was not defined, [`Error::Queue`], [`Error::Full`] if the disk has no room.
    pub async fn define_set(&self, aliases: &[u32]) -> Result<TagSet> {
        let aliases = aliases.to_vec();
        self.defined(move |known| known.define_set(&aliases)).await
    }

    async fn defined<T: Send + 'static>(
        &self,
        define: impl Fn(&mut Known) -> Result<(T, News)> + Send + 'static,
    ) -> Result<T> {
        let (save, store) = (saving(&self.lanes), Arc::clone(&self.store));
        let lanes: Vec<_> = self.lanes.iter().map(|lane| Arc::clone(&lane.shared)).collect();
        let once = move || {
            // Held until all servers have it, so that all hear definitions in one order.
            let mut known = lock(&store);
            let (given, news) = define(&mut known)?;
            store.set_aliases(known.last_alias());
            for shared in &lanes {
                tell(shared, &news);
            }
            Ok::<_, Error>(given)
        };
        let store = Arc::clone(&self.store);
        let defining = tokio::task::spawn_blocking(move || store.with_room(&save, once));
        defining.await.map_err(|_| Error::Closed)?
    }

    /// Stores a batch; it is in the queue when this returns. Its ticket is its number over the life of the queue.
    ///
    /// If the call is dropped before it returns, the batch may or may not be stored.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Unfit`]; [`Error::Full`] unless it may wait; [`Error::Queue`] if the disk refuses.
    pub async fn append(&self, batch: BatchBuilder) -> Result<Ticket> {
        let samples = u32::try_from(batch.samples()).unwrap_or(u32::MAX);
        let payload = batch.into_body();
        let (bytes, limit_bytes) = (payload.len(), self.batch_bytes_max);
        if bytes > limit_bytes {
            return Err(Error::TooLarge { bytes, limit_bytes });
        }
        self.store.check_fits(bytes)?;
        let (done, stored) = oneshot::channel();
        let job = Job { content: Content { samples, payload }, done };
        let jobs = self.jobs.as_ref().ok_or(Error::Closed)?;
        jobs.send(job).await.map_err(|_| Error::Closed)?;
        stored.await.map_err(|_| Error::Closed)?.map(Ticket)
    }

    /// Waits until every server has everything that was stored before, and was heard or found away: one that was put back to
    /// an earlier state says so with its welcome.
    ///
    /// # Errors
    /// [`Error::Undelivered`] when the time is over, or a server has ended for good; what it lacks stays in the queue.
    pub async fn flush(&self, timeout: Duration) -> Result<()> {
        let last = self.store.log.end();
        let waiting = async {
            for (index, lane) in self.lanes.iter().enumerate() {
                let mut progress = lane.shared.watch();
                loop {
                    {
                        let state = lane.shared.lock();
                        let why = state.failure.as_ref().or(state.last_error.as_ref());
                        let was_tried = state.is_connected() || why.is_some();
                        if was_tried && self.store.acked(index) >= last {
                            break;
                        }
                        if let Some(failure) = &state.failure {
                            return Err(Error::Undelivered(format!("{}: {failure}", lane.name)));
                        }
                    }
                    // The acknowledgement is noted by the task that this wakes, too: so not for long.
                    let changed =
                        tokio::time::timeout(Duration::from_millis(50), progress.changed());
                    drop(changed.await);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(timeout, waiting).await {
            Ok(ended) => ended,
            Err(_) => Err(Error::Undelivered(self.undelivered())),
        }
    }

    fn undelivered(&self) -> String {
        let lacking = self.status().servers.into_iter().filter(|server| !server.is_delivered());
        let texts: Vec<String> = lacking
            .map(|server| {
                if server.waiting_records == 0 {
                    return format!("{} was not heard yet", server.name);
                }
                let why = server.last_error.map(|error| format!(" ({error})")).unwrap_or_default();
                format!("{} lacks {} records{why}", server.name, server.waiting_records)
            })
            .collect();
        texts.join("; ")
    }

    /// How the queue stands.
    pub fn status(&self) -> ForwardStatus {
        let (last, oldest) = (self.store.log.end(), self.store.log.oldest());
        let server = |(index, lane): (usize, &Lane)| {
            let acked = self.store.acked(index);
            let lost_records = lane.drain.lost();
            let state = lane.shared.lock();
            let ended = state.failure.as_ref();
            ServerStatus {
                name: lane.name.clone(),
                connected: state.is_connected(),
                ended: ended.is_some(),
                epoch: state.epoch,
                acked: Ticket(acked),
                waiting_records: last - acked.max(oldest - 1).min(last),
                waiting_bytes: self.store.log.bytes_behind(acked),
                lost_records,
                accepted_samples: state.counted.accepted_samples,
                rejected_samples: state.counted.rejected_samples,
                emptied_batches: state.counted.emptied_batches,
                last_error: ended.or(state.last_error.as_ref()).map(ToString::to_string),
            }
        };
        ForwardStatus {
            last: Ticket(last),
            oldest: Ticket(oldest),
            bytes: self.store.log.bytes(),
            servers: self.lanes.iter().enumerate().map(server).collect(),
        }
    }

    /// What each server has said since the last call: what it took, and what it left out and why.
    pub fn summaries(&self) -> Vec<ServerSummary> {
        let summary = |(index, lane): (usize, &Lane)| {
            let totals = std::mem::take(&mut lane.shared.lock().totals);
            let acks = AckSummary {
                acked: Ticket(self.store.acked(index)),
                accepted_samples: totals.accepted_samples,
                rejected_samples: totals.rejected_samples,
                rejects: totals.rejects,
            };
            ServerSummary { name: lane.name.clone(), acks, refused: totals.refused }
        };
        self.lanes.iter().enumerate().map(summary).collect()
    }

    /// What people should know and was not told yet: damage that was found, records that were dropped, epochs that began.
    pub fn take_notices(&self) -> Vec<String> {
        self.store.take_notices()
    }

    /// Ends delivery and lets go of the folder. What is not delivered stays in the queue; [`Forwarder::flush`] waits for it.
    ///
    /// # Errors
    /// [`Error::Queue`] if the positions cannot be written. Nothing is lost then: the servers know them.
    pub async fn close(mut self) -> Result<()> {
        self.end_writer().await;
        for lane in &mut self.lanes {
            lane.shared.lock().closing = true;
            lane.shared.work.notify_one();
            lane.shared.advance();
            for task in &mut lane.tasks {
                if tokio::time::timeout(CLOSE_WITHIN, &mut *task).await.is_err() {
                    task.abort();
                }
            }
        }
        let drains: Vec<_> = self.lanes.iter().map(|lane| Arc::clone(&lane.drain)).collect();
        let saving = tokio::task::spawn_blocking(move || drains.iter().try_for_each(|d| d.save()));
        saving.await.map_err(|_| Error::Closed)?
    }

    async fn end_writer(&mut self) {
        self.jobs = None;
        self.store.close();
        if let Some(writer) = self.writer.take() {
            let joined = tokio::task::spawn_blocking(move || writer.join().is_ok()).await;
            if joined.ok() != Some(true) {
                tracing::error!("the thread that writes the queue stopped early");
            }
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.jobs = None;
        self.store.close();
        self.lanes.iter().flat_map(|lane| &lane.tasks).for_each(tokio::task::JoinHandle::abort);
        // Waits for one write at most. After that nothing is written any more, and the folder may be opened again.
        if let Some(writer) = self.writer.take() {
            writer.join().ok();
        }
        self.store.folder.release();
    }
}

impl Lane {
    fn begin(
        store: &Arc<Store>,
        options: &ForwardOptions,
        index: usize,
        to: &Destination,
        position: Option<Position>,
    ) -> Self {
        let names = (options.gateway.as_str(), to.name.as_str());
        let drain = Arc::new(Drain::new(Arc::clone(store), names, index, position));
        let link = options.link(to, drain.epoch());
        let course: Arc<dyn Course> = Arc::clone(&drain) as Arc<dyn Course>;
        let shared = Arc::new(Shared::new(with_scheme(&to.address), link, Some(course)));
        shared.lock().definitions = lock(store).definitions().clone();
        drain.prepare(&shared);
        let tasks = [
            tokio::spawn(session::run(Arc::clone(&shared))),
            tokio::spawn(feed(Arc::clone(&drain), Arc::clone(&shared), options.rate)),
        ];
        Self { name: to.name.clone(), drain, shared, tasks }
    }
}

/// Brings to disk how far the servers have come.
fn saving(lanes: &[Lane]) -> impl Fn() + Send + use<> {
    let drains: Vec<_> = lanes.iter().map(|lane| Arc::clone(&lane.drain)).collect();
    move || {
        for drain in &drains {
            // What is not saved the server's mark will say.
            if let Err(error) = drain.save() {
                tracing::warn!("{error}");
            }
        }
    }
}

fn lock(store: &Store) -> MutexGuard<'_, Known> {
    store.known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells a server what was defined.
fn tell(shared: &Shared, news: &News) {
    let (tags, set) = known::messages(news);
    let mut state = shared.lock();
    for (alias, tag) in &news.tags {
        state.definitions.put(*alias, tag);
    }
    if let Some((set, aliases)) = &news.set {
        state.definitions.put_set(*set, aliases.clone());
    }
    for message in &tags {
        state.say(Message::DefineTags(encode(message)));
    }
    if let Some(message) = &set {
        state.say(Message::DefineTagSet(encode(message)));
    }
    drop(state);
    shared.work.notify_one();
}

/// Opens what is in a folder: the queue, and where each server stands.
fn open_store(path: &Path, options: &ForwardOptions) -> Result<(Store, Vec<Option<Position>>)> {
    let folder = Arc::new(Folder::open(path)?);
    let (log, aliases) = Log::open(Arc::clone(&folder), Kind::Batches, options.segment_bytes())?;
    let mut positions = Vec::with_capacity(options.to.len());
    let mut notices = Vec::new();
    for to in &options.to {
        positions.push(match position::load(&folder, &options.gateway, &to.name)? {
            Stored::Position(position) => Some(position),
            Stored::None => None,
            Stored::Damaged => {
                notices.push(format!("the position of {} is damaged: it begins anew", to.name));
                None
            }
            Stored::Foreign(gateway, server) => {
                let why = format!(
                    "it belongs to gateway {gateway} and server {server}: give each gateway its own folder"
                );
                return Err(failure("use the queue in", path, &why));
            }
        });
    }
    let known_acked = positions.iter().flatten().map(|position| position.acked).max();
    let (end, acked) = (log.end(), known_acked.unwrap_or_default());
    if acked > end {
        notices.push(format!("records {} to {acked} are no longer in the queue", end + 1));
        log.skip_to(acked);
    }
    let known = Known::open(Arc::clone(&folder), aliases)?;
    let store = Store::new(log, known, folder, options);
    for notice in notices {
        store.note(notice);
    }
    Ok((store, positions))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A position on disk says what a server had; whether it still has it, nobody knows before it was heard.
    #[tokio::test]
    async fn an_unheard_server_has_nothing_for_certain() {
        // It takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let folder = tempfile::tempdir().unwrap();
        let options = ForwardOptions::new("g", vec![Destination::new(address)]);
        let forwarder = Forwarder::open(folder.path(), options.clone()).await.unwrap();
        let status = forwarder.status().servers.remove(0);
        assert!(status.waiting_records == 0 && !status.is_delivered(), "{status:?}");
        let unheard = forwarder.flush(Duration::from_millis(200)).await.unwrap_err().to_string();
        assert!(unheard.contains("was not heard yet"), "{unheard}");
        drop(forwarder);
        drop(silent);
        // One that is away was tried.
        let forwarder = Forwarder::open(folder.path(), options).await.unwrap();
        forwarder.flush(Duration::from_mins(1)).await.unwrap();
        assert!(forwarder.status().servers[0].last_error.is_some());
    }
}
