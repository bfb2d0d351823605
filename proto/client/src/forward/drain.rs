//! One server of a queue: which number a record has there, where to go on after a welcome, and what is sent ahead.
//!
//! # Contract
//! * A record has one number in an epoch, over all deaths of either side. So the server's mark says which records it has,
//!   and what is sent again is recognised.
//! * Where the mark is behind what was acknowledged (the database was restored), sending goes back to it while the queue
//!   holds the records.
//! * Where a restored server knows nothing of the epoch, it gets all that is kept in a new one: what it has from before cannot
//!   be known.
//! * Where the next record is gone, a new epoch begins at the first that is there; what is between is counted as lost. It is
//!   on disk before the server hears of it, and its first records are in memory: however fast a full queue drops, each epoch
//!   delivers something.
//! * A full disk ends no delivery that can go on: what is delivered makes room.
//!
//! # What it does not know
//! How batches travel (`session`), how they are stored (`store`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tagmill_proto::v1::Welcome;
use tokio::sync::watch;

use super::log::{Cursor, Found, Record};
use super::position::{self, Position};
use super::rate::Bucket;
use super::store::Store;
use crate::error::{Error, Result};
use crate::gateway::Ticket;
use crate::session::{Course, End};
use crate::state::{Link, Shared, State};

/// Bytes of batches in memory for one server: what it lets be unacknowledged.
const WINDOW_BYTES: usize = 8 << 20;
/// Bytes read from disk at a time.
const READ_BYTES: usize = 1 << 20;
/// How long an acknowledgement may be known here and not on disk. The server's mark says it again.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Pause after the queue could not be read.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Epochs tried without a pause; doubling, fewer reach any number.
const EPOCHS_TRIED_MAX: u32 = 200;

/// One server of a queue.
#[derive(Debug)]
pub(super) struct Drain {
    store: Arc<Store>,
    gateway: String,
    server: String,
    /// Which of the store's servers it is.
    index: usize,
    /// Up to where the position on disk says that the server has everything.
    saved: AtomicU64,
    /// Samples that an epoch put into memory and that are not counted against the rate yet.
    ahead_samples: AtomicU64,
    place: Mutex<Place>,
}

#[derive(Debug)]
struct Place {
    position: Position,
    /// Whether the position is one: from disk, or begun with the server. Else the epoch is only tried.
    is_settled: bool,
    /// Whether the server has shown that it knew this gateway before.
    has_past: bool,
    /// Whether the server was heard since the queue was opened.
    is_first: bool,
    /// Epochs tried since the last that was taken, or the last pause.
    tried: u32,
}

/// What an epoch begins with.
#[derive(Debug)]
struct Ahead {
    /// The record before its first.
    base: u64,
    /// Its first records, as far as they were read.
    records: Vec<Record>,
}

impl Drain {
    /// A server and its position on disk, if it has one.
    pub(super) fn new(
        store: Arc<Store>,
        (gateway, server): (&str, &str),
        index: usize,
        stored: Option<Position>,
    ) -> Self {
        let next = store.log.oldest();
        let fresh = Position { epoch: 1, base: next - 1, acked: next - 1, incarnation: 0, lost: 0 };
        let position = stored.unwrap_or(fresh);
        store.set_acked(index, position.acked);
        let place = Place {
            position,
            is_settled: stored.is_some(),
            has_past: false,
            is_first: true,
            tried: 0,
        };
        let (gateway, server) = (gateway.to_owned(), server.to_owned());
        let saved = AtomicU64::new(position.acked);
        let (ahead_samples, place) = (AtomicU64::new(0), Mutex::new(place));
        Self { store, gateway, server, index, saved, ahead_samples, place }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch to say hello with.
    pub(super) fn epoch(&self) -> u64 {
        self.place().position.epoch
    }

    /// Puts the queue of a connection where the position is.
    pub(super) fn prepare(&self, shared: &Shared) {
        let position = self.place().position;
        let mut state = shared.lock();
        // Everything that is in the queue may have been sent by a life before.
        let sent = self.store.log.end().max(position.acked) - position.base;
        state.queue.restart(position.acked + 1, position.acked + 1 - position.base, sent);
    }

    /// Records that were given up for this server.
    pub(super) fn lost(&self) -> u64 {
        let Position { lost, .. } = self.place().position;
        // Dropped while the server was away: when it is back it says how many of them it has.
        lost + (self.store.log.oldest() - 1).saturating_sub(self.store.acked(self.index))
    }

    /// Brings to disk how far the server has come.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn save(&self) -> Result<()> {
        let mut place = self.place();
        place.position.acked = self.store.acked(self.index).max(place.position.base);
        if place.is_settled && self.is_unsaved() { self.write(&place) } else { Ok(()) }
    }

    fn write(&self, place: &Place) -> Result<()> {
        position::save(&self.store.folder, &place.position, &self.gateway, &self.server)?;
        self.saved.store(place.position.acked, Ordering::SeqCst);
        Ok(())
    }

    /// As `write`; where the disk is full, with the next save. Who dies before finds what was there: no position, and the
    /// server gets again what is kept; or one from before a restore, which is heard of again.
    fn write_if_room(&self, place: &Place) -> Result<()> {
        match self.write(place) {
            Err(error) if error.is_disk_full() => {
                self.saved.store(u64::MAX, Ordering::SeqCst);
                self.store.note(format!("{error}: delivery to {} goes on without it", self.server));
                Ok(())
            }
            done => done,
        }
    }

    /// Begins an epoch behind `base`, and has the connection made again in it.
    fn begin_epoch(&self, shared: &Shared, place: &mut Place, base: u64, lost: u64) -> End {
        place.tried += 1;
        let old = place.position;
        let Some(epoch) = old.epoch.checked_add(1).filter(|_| place.tried < EPOCHS_TRIED_MAX)
        else {
            return no_epoch(shared, place);
        };
        let ahead = self.read_ahead(base);
        let (base, lost) = (ahead.base, old.lost + lost + (ahead.base - base));
        place.position = Position { epoch, base, acked: base, lost, ..old };
        if let Err(error) = self.write(place) {
            (place.position, place.tried) = (old, place.tried - 1);
            return End::Broken(error);
        }
        let mut state = shared.lock();
        state.epoch = epoch;
        self.restart(&mut state, ahead);
        End::Again
    }

    /// What comes first in an epoch behind `base`. It is in memory before the server hears of the epoch: a full queue may drop
    /// it from disk sooner than a connection is made, and the next, and so for ever.
    fn read_ahead(&self, base: u64) -> Ahead {
        let mut ahead = Ahead { base, records: Vec::new() };
        let (mut cursor, mut bytes) = (Cursor::default(), 0);
        // Each turn is behind the one before; to make a file takes longer than to look for it.
        while bytes < READ_BYTES as u64 {
            let next = ahead.base + 1 + ahead.records.len() as u64;
            match self.store.log.read(&mut cursor, next, READ_BYTES) {
                Ok(Found::Records(records)) => {
                    bytes +=
                        records.iter().map(|record| record.content.stored_bytes()).sum::<u64>();
                    ahead.records.extend(records);
                }
                Ok(Found::Gap(behind)) if ahead.records.is_empty() => {
                    let (server, last) = (&self.server, behind - 1);
                    self.store.note(format!(
                        "{server} lacks records {next} to {last}, which are no longer in the queue"
                    ));
                    ahead.base = last;
                }
                // Whoever reads on meets the gap, and tells of an error.
                Ok(Found::Gap(_) | Found::End) | Err(_) => break,
            }
        }
        ahead
    }

    /// Goes on with what was read ahead, under the first numbers of an epoch.
    fn restart(&self, state: &mut State, ahead: Ahead) {
        state.queue.restart(ahead.base + 1, 1, 0);
        for Record { content, .. } in ahead.records {
            state.queue.push(&content.payload);
            self.ahead_samples.fetch_add(u64::from(content.samples), Ordering::SeqCst);
        }
        self.store.set_acked(self.index, ahead.base);
    }

    /// Samples that went into memory since the last call, past the rate.
    pub(super) fn take_ahead_samples(&self) -> u32 {
        u32::try_from(self.ahead_samples.swap(0, Ordering::SeqCst)).unwrap_or(u32::MAX)
    }

    /// What a server without a position says of an epoch that is tried.
    fn settle(&self, shared: &Shared, place: &mut Place, welcome: &Welcome) -> Result<(), End> {
        if welcome.mark > 0 {
            return Err(try_epoch(shared, place, place.position.epoch.checked_add(1)));
        }
        let base = self.store.log.oldest() - 1;
        let lost = base.saturating_sub(place.position.acked);
        let before = place.position;
        let Welcome { incarnation, .. } = *welcome;
        place.position = Position { base, acked: base, incarnation, lost, ..before };
        if let Err(error) = self.write_if_room(place) {
            place.position = before;
            return Err(End::Broken(error));
        }
        place.is_settled = true;
        if place.has_past {
            let (server, gateway, next) = (&self.server, &self.gateway, base + 1);
            let epoch = before.epoch;
            self.store.note(format!(
                "{server} knows gateway {gateway} from before, and there is no position for it here: it gets every record \
                 from {next} on in epoch {epoch}, also those that it may have"
            ));
        }
        let mut state = shared.lock();
        state.queue.restart(base + 1, 1, 0);
        self.store.set_acked(self.index, base);
        Ok(())
    }

    /// Goes on at the server's mark, or begins an epoch.
    fn resume(&self, shared: &Shared, place: &mut Place, welcome: &Welcome) -> Result<(), End> {
        let before = place.position;
        let is_other = before.incarnation != welcome.incarnation;
        if is_other {
            let server = &self.server;
            self.store.note(format!("{server} is another database now, restored or replaced"));
            place.position.incarnation = welcome.incarnation;
        }
        let resumed = match self.start_over(shared, place, is_other && welcome.mark == 0) {
            Some(end) => Err(end),
            None => self.go_on(shared, place, welcome, is_other),
        };
        if matches!(resumed, Err(End::Broken(_))) {
            // The next welcome is weighed against what was known before this one.
            place.position = before;
        }
        resumed
    }

    /// A database that knows nothing of this epoch may be from before it: what it has of the epochs before then, nobody can
    /// say. It gets all of them that is kept, in a new one. What is not kept counts as lost, and so do gaps that are met
    /// again.
    fn start_over(&self, shared: &Shared, place: &mut Place, is_blank: bool) -> Option<End> {
        let Position { epoch, base, .. } = place.position;
        if !is_blank || epoch == 1 || base == 0 {
            return None;
        }
        // From here on nothing is removed that it lacks; then it is looked for.
        self.store.set_acked(self.index, self.store.log.oldest() - 1);
        let oldest = self.store.log.oldest();
        let gone = base.min(oldest - 1);
        place.position.lost = gone;
        let server = &self.server;
        let rest = if oldest <= base {
            format!(
                "it gets every record from {oldest} on, also those that it may have, in a new epoch"
            )
        } else {
            format!("it gets every record from {} on", base + 1)
        };
        self.store.note(format!(
            "{server} knows nothing of epoch {epoch}, and what it has from before is not known: {rest}; up to {gone} before \
             are lost"
        ));
        (oldest <= base).then(|| self.begin_epoch(shared, place, oldest - 1, 0))
    }

    /// Goes on at the server's mark, or begins an epoch behind what is missing there or here.
    fn go_on(
        &self,
        shared: &Shared,
        place: &mut Place,
        welcome: &Welcome,
        is_other: bool,
    ) -> Result<(), End> {
        let Position { base, .. } = place.position;
        let sent = shared.lock().queue.sent_seq();
        let server = &self.server;
        if welcome.mark > sent {
            if !place.is_first && !is_other {
                let detail = "the server has batches that were not sent from here".into();
                return Err(End::Fatal(Error::Fenced { gateway: self.gateway.clone(), detail }));
            }
            // Another database: nothing is known of it. The same one: what was sent from here is there.
            let known = if is_other { self.store.log.oldest() - 1 } else { base + sent };
            let mark = base.saturating_add(welcome.mark);
            self.store.note(format!(
                "{server} has records up to {mark} that this queue has not: new epoch from {} on",
                known + 1
            ));
            return Err(self.begin_epoch(shared, place, known, 0));
        }
        let next = base + welcome.mark + 1;
        let (was_acked, is_in_memory) = {
            let mut state = shared.lock();
            let was_acked = state.queue.acked_ticket();
            if next <= was_acked {
                state.queue.restart(next, welcome.mark + 1, sent);
            } else {
                state.queue.resume(welcome.mark, 0);
                // Nothing of it may be in memory: then it goes on at the mark all the same.
                if state.queue.acked_ticket() + 1 < next {
                    state.queue.restart(next, welcome.mark + 1, sent);
                }
            }
            // From here on nothing is removed that it lacks; then it is looked for.
            self.store.set_acked(self.index, next - 1);
            (was_acked, !state.queue.is_empty())
        };
        if next <= was_acked {
            self.store.note(format!(
                "{server} has records up to {} and had acknowledged them up to {was_acked}: going back",
                next - 1
            ));
        }
        // What is in memory can go, whatever has become of it on disk: the gap behind it is met when it is delivered.
        if !is_in_memory
            && let Found::Gap(behind) =
                self.store.log.read(&mut Cursor::default(), next, 1).map_err(End::Broken)?
        {
            let lost = behind - next;
            self.store.note(format!(
                "{server} lacks {lost} records from {next} on that are no longer in the queue: new epoch"
            ));
            return Err(self.begin_epoch(shared, place, behind - 1, lost));
        }
        place.position.acked = next - 1;
        if is_other || next <= was_acked {
            self.write_if_room(place).map_err(End::Broken)?;
        }
        Ok(())
    }
}

impl Course for Drain {
    fn welcomed(&self, shared: &Shared, welcome: &Welcome) -> Result<(), End> {
        let mut place = self.place();
        if place.is_settled {
            self.resume(shared, &mut place, welcome)?;
        } else {
            self.settle(shared, &mut place, welcome)?;
        }
        (place.is_first, place.tried) = (false, 0);
        let mut state = shared.lock();
        state.begin(welcome);
        let (mark, most_bytes) = (state.queue.first_seq() - 1, state.body_bytes_max());
        for ticket in state.queue.empty_longer(most_bytes) {
            state.emptied(Ticket(ticket), too_long(most_bytes));
        }
        state.queue.resume(mark, welcome.credit_bytes);
        Ok(())
    }

    fn failed(&self, shared: &Shared, end: End) -> End {
        let error = match end {
            End::Fatal(error @ (Error::Server { .. } | Error::Protocol { .. })) => error,
            end => return end,
        };
        let Error::Server { code: tonic::Code::FailedPrecondition, message } = &error else {
            return End::Broken(error);
        };
        let mut place = self.place();
        if place.is_settled {
            let gateway = self.gateway.clone();
            let detail = format!(
                "{message}; its epoch there is later than that of this queue, which is a copy, or another program uses the name"
            );
            return End::Fatal(Error::Fenced { gateway, detail });
        }
        let epoch = place.position.epoch.checked_mul(2);
        try_epoch(shared, &mut place, epoch)
    }
}

/// Says hello with another epoch, which nothing was sent in.
fn try_epoch(shared: &Shared, place: &mut Place, epoch: Option<u64>) -> End {
    place.tried += 1;
    place.has_past = true;
    let Some(epoch) = epoch.filter(|_| place.tried < EPOCHS_TRIED_MAX) else {
        return no_epoch(shared, place);
    };
    place.position.epoch = epoch;
    shared.lock().epoch = epoch;
    End::Again
}

/// Enough for now: after a pause the next may be taken.
fn no_epoch(shared: &Shared, place: &mut Place) -> End {
    place.tried = 0;
    let why = "it takes no epoch of this gateway".into();
    End::Broken(Error::Protocol { uri: shared.uri.clone(), why })
}

fn too_long(most_bytes: usize) -> String {
    format!("the batch is longer than the {most_bytes} bytes that the server reads")
}

/// What a connection needs.
#[derive(Clone, Copy, Debug)]
enum Look {
    /// Nothing any more.
    Ended,
    /// Nothing now.
    Idle,
    /// Records.
    Wanted(Wanted),
}

/// What to read for a connection.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    record: u64,
    bytes: usize,
}

/// Keeps a connection supplied with what comes next in the queue, until the connection has ended for good.
pub(super) async fn feed(drain: Arc<Drain>, shared: Arc<Shared>, rate: Option<u64>) {
    let mut progress = shared.watch();
    let mut appended = drain.store.appended.subscribe();
    let started = Instant::now();
    let mut bucket = Bucket::new(rate);
    let mut cursor = Cursor::default();
    let (mut saved_at, mut read_at) = (started, started);
    loop {
        progress.borrow_and_update();
        appended.borrow_and_update();
        let look = drain.look(&shared);
        if let Look::Ended = look {
            return;
        }
        // Also where reading never stops.
        if drain.is_unsaved() && saved_at.elapsed() >= SAVE_EVERY {
            saved_at = Instant::now();
            drain.save_apart().await;
        }
        let mut pause = None;
        if let Look::Wanted(wanted) = look {
            bucket.take(drain.take_ahead_samples());
            // After an error the disk rests, whatever else happens meanwhile.
            let rest = read_at.checked_duration_since(Instant::now());
            pause = rest.or_else(|| bucket.wait(started.elapsed()));
            if pause.is_none() {
                let bytes = if bucket.is_open() { wanted.bytes.min(READ_BYTES) } else { 1 };
                let Some((found, back)) = drain.read(cursor, wanted.record, bytes).await else {
                    return;
                };
                cursor = back;
                match found {
                    Ok(Found::Records(records)) => {
                        push(&shared, records, &mut bucket);
                        continue;
                    }
                    Ok(Found::Gap(_)) => at_gap(&shared, wanted.record),
                    Ok(Found::End) => {}
                    Err(error) => {
                        shared.lock().last_error = Some(error);
                        read_at = Instant::now() + READ_AGAIN;
                        pause = Some(READ_AGAIN);
                    }
                }
            }
        }
        let unsaved = drain.is_unsaved().then(|| SAVE_EVERY.saturating_sub(saved_at.elapsed()));
        let pause = [pause, unsaved].into_iter().flatten().min();
        wait(&mut progress, &mut appended, pause).await;
    }
}

/// Waits until anything may have changed, or the pause is over.
async fn wait(
    progress: &mut watch::Receiver<u64>,
    appended: &mut watch::Receiver<u64>,
    pause: Option<Duration>,
) {
    let sleep = async {
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // An end of either is seen at the next look.
        _ = progress.changed() => {}
        _ = appended.changed() => {}
        () = sleep => {}
    }
}

impl Drain {
    /// Notes how far the server has come, and finds out what it could get next.
    fn look(&self, shared: &Shared) -> Look {
        let state = shared.lock();
        if state.failure.is_some() || state.closing {
            return Look::Ended;
        }
        if !state.is_connected() {
            return Look::Idle;
        }
        self.store.set_acked(self.index, state.queue.acked_ticket());
        let left = WINDOW_BYTES.saturating_sub(state.queue.bytes());
        if left == 0 {
            return Look::Idle;
        }
        Look::Wanted(Wanted { record: state.queue.last_ticket() + 1, bytes: left })
    }

    /// Saves how far the server has come where waiting for a disk holds up nobody.
    async fn save_apart(self: &Arc<Self>) {
        let saving = Arc::clone(self);
        let saved = tokio::task::spawn_blocking(move || saving.save()).await;
        if let Ok(Err(error)) = saved {
            // The next time may go better, and until then the server's mark knows.
            tracing::warn!(server = self.server, "{error}");
        }
    }

    fn is_unsaved(&self) -> bool {
        self.saved.load(Ordering::SeqCst) != self.store.acked(self.index)
    }

    async fn read(
        &self,
        mut cursor: Cursor,
        record: u64,
        bytes: usize,
    ) -> Option<(Result<Found>, Cursor)> {
        let store = Arc::clone(&self.store);
        let reading = tokio::task::spawn_blocking(move || {
            let found = store.log.read(&mut cursor, record, bytes);
            (found, cursor)
        });
        // It ends early only where the runtime does.
        reading.await.ok()
    }
}

/// Hands records to the connection, unless it has gone elsewhere meanwhile.
fn push(shared: &Shared, records: Vec<Record>, bucket: &mut Bucket) {
    let mut state = shared.lock();
    let most_bytes = state.body_bytes_max();
    for record in records {
        if !state.is_connected() || state.queue.last_ticket() + 1 != record.number {
            break;
        }
        let payload = &record.content.payload;
        if payload.len() > most_bytes {
            state.queue.push(&[]);
            state.emptied(Ticket(record.number), too_long(most_bytes));
        } else {
            state.queue.push(payload);
            bucket.take(record.content.samples);
        }
    }
    drop(state);
    shared.work.notify_one();
}

/// The next record is gone: when all before it are acknowledged, the server's welcome decides how to go on.
fn at_gap(shared: &Shared, record: u64) {
    let mut state = shared.lock();
    if state.is_connected() && state.queue.is_empty() && state.queue.last_ticket() + 1 == record {
        state.link = Link::Stale;
        drop(state);
        shared.work.notify_one();
    }
}
