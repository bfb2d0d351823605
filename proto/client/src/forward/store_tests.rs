//! The store on a disk that is full, and where a server moves back while room is made.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tagmill_proto::v1::Welcome;
use tokio::sync::{mpsc, oneshot};

use super::drain::{Drain, feed};
use super::folder::Folder;
use super::frames::Kind;
use super::known::Known;
use super::log::{Content, Log};
use super::options::{Destination, ForwardOptions, Full};
use super::position::{self, Position, Stored};
use super::random::Random;
use super::sim::SimDisk;
use super::store::{Job, Store};
use crate::error::{Error, Result};
use crate::session::{Course as _, End};
use crate::state::{Link, Shared};

const CAPACITY_BYTES: u64 = 256 << 10;

fn options(when_full: Full) -> ForwardOptions {
    let to = vec![Destination::new("s")];
    ForwardOptions { capacity_bytes: CAPACITY_BYTES, when_full, ..ForwardOptions::new("g", to) }
}

/// A store for one server, on a disk in memory.
fn store(when_full: Full) -> (Arc<Store>, SimDisk) {
    let disk = SimDisk::new(Random::seeded());
    let scratch = tempfile::tempdir().unwrap();
    let folder = Folder::open_on(Arc::new(disk.clone()), scratch.path()).map(Arc::new).unwrap();
    let options = options(when_full);
    let (log, aliases) =
        Log::open(Arc::clone(&folder), Kind::Batches, options.segment_bytes()).unwrap();
    let known = Known::open(Arc::clone(&folder), aliases).unwrap();
    (Arc::new(Store::new(log, known, folder, &options)), disk)
}

/// Its writer.
struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(store: &Arc<Store>, before_removal: impl Fn() + Send + 'static) -> Self {
        let (jobs, waiting) = mpsc::channel(8);
        let store = Arc::clone(store);
        let thread = std::thread::spawn(move || store.write(waiting, &before_removal));
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    fn begin(&self) -> oneshot::Receiver<Result<u64>> {
        let (done, stored) = oneshot::channel();
        let content = Content { samples: 1, payload: Bytes::from(vec![3; 1_000]) };
        self.jobs.as_ref().unwrap().blocking_send(Job { content, done }).unwrap();
        stored
    }

    fn append(&self) -> Result<u64> {
        self.begin().blocking_recv().unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The first server of a store, and its connection.
fn drain(store: &Arc<Store>, position: Option<Position>) -> (Drain, Shared) {
    let drain = Drain::new(Arc::clone(store), ("g", "s"), 0, position);
    let link = options(Full::Block).link(&Destination::new("s"), drain.epoch());
    let shared = Shared::new("s".into(), link, None);
    drain.prepare(&shared);
    (drain, shared)
}

fn welcome(mark: u64) -> Welcome {
    let (incarnation, max_batch_bytes, credit_bytes) = (5, 1 << 20, 1 << 20);
    Welcome { mark, incarnation, max_batch_bytes, credit_bytes, ..Welcome::default() }
}

#[test]
fn on_a_full_disk_delivered_records_make_room() {
    for when_full in [Full::Block, Full::Refuse, Full::DropOldest] {
        let (store, disk) = store(when_full);
        // A fifth of what the queue may take.
        disk.set_capacity(50 << 10);
        let writer = Writer::start(&store, || {});
        for number in 1..=500 {
            assert_eq!(writer.append().unwrap(), number, "{when_full:?}");
            store.set_acked(0, number);
        }
        assert!(store.log.oldest() > 400 && disk.used_bytes() <= 50 << 10);
        assert_eq!(store.take_notices(), Vec::<String>::new(), "{when_full:?}");
    }
}

#[test]
fn a_full_disk_without_delivered_records_is_a_full_queue() {
    let (store, disk) = store(Full::Refuse);
    disk.set_capacity(50 << 10);
    let writer = Writer::start(&store, || {});
    let mut stored = 0;
    let refused = loop {
        match writer.append() {
            Ok(number) => stored = number,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { capacity_bytes: None, .. }), "{refused}");
    assert!(refused.to_string().contains("used up the room on its disk"), "{refused}");
    assert!(stored > 30 && store.log.oldest() == 1);
    store.set_acked(0, stored);
    assert_eq!(writer.append().unwrap(), stored + 1);
    drop(writer);

    let (store, disk) = self::store(Full::DropOldest);
    disk.set_capacity(50 << 10);
    let writer = Writer::start(&store, || {});
    for number in 1..=200 {
        assert_eq!(writer.append().unwrap(), number);
    }
    assert!(store.take_notices().join("\n").contains("were dropped"));
    drop(writer);

    let (store, disk) = self::store(Full::Block);
    disk.set_capacity(50 << 10);
    let writer = Writer::start(&store, || {});
    let mut last = 0;
    let waiting = 'full: loop {
        let mut stored = writer.begin();
        loop {
            if let Ok(done) = stored.try_recv() {
                last = done.unwrap();
                break;
            }
            if store.take_notices().join("\n").contains("no room on the disk") {
                break 'full stored;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    assert_eq!(last, stored);
    // Whoever else filled the disk went away: that is found without a sign.
    disk.set_capacity(1 << 20);
    assert_eq!(waiting.blocking_recv().unwrap().unwrap(), last + 1);
}

/// No server is to blame for a small queue.
#[test]
fn a_batch_that_no_queue_of_this_size_takes_is_told_by_its_own_words() {
    let (store, _) = store(Full::Block);
    let refused = store.check_fits(1 << 20).unwrap_err();
    let Error::Unfit { limit_bytes, .. } = refused else { panic!("{refused}") };
    assert!(refused.to_string().contains("the queue has room for"), "{refused}");
    store.check_fits(limit_bytes).unwrap();
    assert!(store.check_fits(limit_bytes + 8).is_err());
}

/// What came together is not one file: a queue that drops its oldest drops little at a time.
#[test]
fn a_burst_is_in_many_files() {
    let (store, _) = store(Full::DropOldest);
    let (jobs, waiting) = mpsc::channel(200);
    for _ in 0..200 {
        let content = Content { samples: 1, payload: Bytes::from(vec![3; 1_000]) };
        jobs.try_send(Job { content, done: oneshot::channel().0 }).unwrap();
    }
    drop(jobs);
    store.write(waiting, &|| {});
    assert_eq!(store.log.end(), 200);
    let (oldest, _) = store.log.front().unwrap();
    assert!((10..=16).contains(&oldest.last), "{oldest:?}");
}

#[test]
fn what_a_restored_server_needs_is_not_removed_behind_its_back() {
    let (store, _) = store(Full::Refuse);
    let restored = Arc::clone(&store);
    // The server comes back as it was, while its position is saved.
    let writer = Writer::start(&store, move || restored.set_acked(0, 2));
    let refused = loop {
        match writer.append() {
            Ok(number) => store.set_acked(0, number),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { capacity_bytes: Some(_), .. }), "{refused}");
    assert_eq!(store.log.oldest(), 1);
}

#[test]
fn delivery_begins_on_a_full_disk_and_its_position_is_saved_later() {
    let (store, disk) = store(Full::Block);
    let (drain, shared) = drain(&store, None);
    disk.set_capacity(disk.used_bytes());
    assert!(drain.welcomed(&shared, &welcome(0)).is_ok());
    assert!(drain.save().is_err() && store.take_notices().join("\n").contains("goes on without"));
    let load = || position::load(&store.folder, "g", "s").unwrap();
    assert_eq!(load(), Stored::None);
    disk.set_capacity(usize::MAX);
    drain.save().unwrap();
    let position = Position { epoch: 1, base: 0, acked: 0, incarnation: 5, lost: 0 };
    assert_eq!(load(), Stored::Position(position));
}

/// Whoever fills the queue is faster than any connection is made: what an epoch begins with is there all the same.
#[test]
fn an_epoch_delivers_what_it_began_with_also_where_that_is_dropped_meanwhile() {
    let (store, _) = store(Full::DropOldest);
    let writer = Writer::start(&store, || {});
    let fill = || {
        for _ in 0..600 {
            writer.append().unwrap();
        }
    };
    let (drain, shared) = drain(&store, None);
    // Sends and acknowledges what is in memory.
    let deliver = || {
        let mut state = shared.lock();
        let next = state.queue.acked_ticket() + 1;
        assert!(next < store.log.oldest(), "it is no longer on disk");
        let sent = std::iter::from_fn(|| state.queue.take_next()).count() as u64;
        assert!(sent > 50, "only {sent} were in memory");
        state.queue.ack(sent).unwrap();
        sent
    };
    fill();
    assert!(drain.welcomed(&shared, &welcome(0)).is_ok());
    let mut mark = 0;
    for epoch in [2, 3] {
        fill();
        assert!(matches!(drain.welcomed(&shared, &welcome(mark)), Err(End::Again)));
        assert_eq!(shared.lock().epoch, epoch);
        fill();
        assert!(drain.welcomed(&shared, &welcome(0)).is_ok(), "it goes on with what it has");
        mark = deliver();
        assert_eq!(shared.lock().epoch, epoch);
        assert!(drain.take_ahead_samples() > 50, "the rate knows of them");
    }
}

/// Epochs that are refused end in a pause, not for good.
#[test]
fn after_a_pause_epochs_are_tried_again() {
    let known = Position { epoch: 1, base: 0, acked: 0, incarnation: 5, lost: 0 };
    for position in [None, Some(known)] {
        let (store, _) = store(Full::Block);
        let (drain, shared) = drain(&store, position);
        for _ in 0..3 {
            let is_tried =
                |_: &u32| matches!(drain.welcomed(&shared, &welcome(1_000)), Err(End::Again));
            assert_eq!((0..1_000).take_while(is_tried).count(), 199, "{position:?}");
        }
    }
}

/// Whatever else happens: a disk that gives an error is left alone for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_read_is_not_asked_all_the_time() {
    let (store, disk) = store(Full::Block);
    let (drain, shared) = drain(&store, None);
    drain.welcomed(&shared, &welcome(0)).unwrap();
    store.log.append(&[Content { samples: 1, payload: Bytes::new() }], 1).unwrap();
    disk.set_unreadable(0..usize::MAX);
    let (drain, shared) = (Arc::new(drain), Arc::new(shared));
    let feeding = tokio::spawn(feed(Arc::clone(&drain), Arc::clone(&shared), None));
    for _ in 0..50 {
        shared.advance();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    {
        let state = shared.lock();
        assert!(state.last_error.as_ref().is_some_and(|error| error.to_string().contains("read")));
        assert_eq!(state.link, Link::Stands, "nothing is given up so soon");
    }
    feeding.abort();
}

/// A queue that is read without an end is no reason to forget how far the server is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_saved_while_reading_goes_on() {
    const RECORDS: usize = 300_000;
    let (store, _) = store(Full::Block);
    let (drain, shared) = drain(&store, None);
    drain.welcomed(&shared, &welcome(0)).unwrap();
    let contents = vec![Content { samples: 1, payload: Bytes::from_static(b"x") }; RECORDS];
    store.log.append(&contents, 1).unwrap();
    let (drain, shared) = (Arc::new(drain), Arc::new(shared));
    // With a rate one record is read at a time, and this one is never reached.
    let feeding = tokio::spawn(feed(Arc::clone(&drain), Arc::clone(&shared), Some(1 << 40)));
    loop {
        let read = {
            let mut state = shared.lock();
            while state.queue.take_next().is_some() {}
            let sent = state.queue.sent_seq();
            state.queue.ack(sent).unwrap();
            state.queue.grant(1 << 20);
            state.queue.last_ticket()
        };
        assert!(read < RECORDS as u64, "it was read to its end before anything was saved");
        let stored = position::load(&store.folder, "g", "s").unwrap();
        if matches!(stored, Stored::Position(Position { acked: 1.., .. })) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    feeding.abort();
}
