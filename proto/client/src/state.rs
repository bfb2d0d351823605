//! What the caller's side and the connection's side of a gateway share.
//!
//! One mutex, held for moments and never over an await; `work` wakes the connection, `progress` wakes callers that wait
//! for room, acknowledgements or definitions.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tagmill_proto::v1::{Ack, DefineReject, Flush, Nack, Reject, Welcome};
use tagmill_proto::view::client_message::Message;
use tokio::sync::{Notify, watch};

use crate::definitions::{Definitions, Refused};
use crate::error::{Error, Result};
use crate::gateway::{REJECTS_KEPT, Rejected, Ticket};
use crate::options::GatewayOptions;
use crate::queue::{OutOfReach, Queue};
use crate::session::Course;

/// Length of a message besides its batch.
const ENVELOPE_BYTES: usize = 32;
/// What the server reads unless it says otherwise.
const BATCH_BYTES_DEFAULT: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: GatewayOptions,
    pub(crate) uri: String,
    /// Who decides after a welcome, where the queue is on disk.
    pub(crate) course: Option<Arc<dyn Course>>,
    /// The connection has something to do.
    pub(crate) work: Notify,
    progress: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) queue: Queue,
    pub(crate) definitions: Definitions,
    pub(crate) epoch: u64,
    pub(crate) incarnation: Option<u64>,
    pub(crate) link: Link,
    /// Why the last connection ended, until there is another.
    pub(crate) last_error: Option<Error>,
    /// Why it ended for good.
    pub(crate) failure: Option<Error>,
    /// Whether the caller wants no more.
    pub(crate) closing: bool,
    /// Nothing is sent before, after a refusal.
    pub(crate) paused_until: Option<Instant>,
    pub(crate) batch_bytes_max: usize,
    pub(crate) totals: Totals,
    pub(crate) counted: Counted,
    /// Definitions that the server has not answered, by id.
    pending: BTreeMap<u64, Message>,
    /// Definitions to send on this connection, in order.
    outbox: VecDeque<Message>,
    answers: HashMap<u64, Vec<DefineReject>>,
    last_id: u64,
    flush_wanted: bool,
}

/// Whether there is a connection on which `Welcome` was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// There was none yet.
    Never,
    /// There was.
    Broken,
    /// There is.
    Stands,
    /// There is, and it shall be made again at once, since the queue has no batch that can follow.
    Stale,
}

/// What acknowledgements said since the last summary.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) accepted_samples: u64,
    pub(crate) rejected_samples: u64,
    pub(crate) rejects: Vec<Rejected>,
    /// Definitions that the server refused when they were said again.
    pub(crate) refused: Vec<Refused>,
}

/// What acknowledgements have said since the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) accepted_samples: u64,
    pub(crate) rejected_samples: u64,
    /// Batches in whose place an empty one was sent.
    pub(crate) emptied_batches: u64,
}

impl Shared {
    pub(crate) fn new(
        uri: String,
        options: GatewayOptions,
        course: Option<Arc<dyn Course>>,
    ) -> Self {
        let state = State {
            queue: Queue::new(),
            definitions: Definitions::default(),
            epoch: options.epoch,
            incarnation: None,
            link: Link::Never,
            last_error: None,
            failure: None,
            closing: false,
            paused_until: None,
            batch_bytes_max: BATCH_BYTES_DEFAULT,
            totals: Totals::default(),
            counted: Counted::default(),
            pending: BTreeMap::new(),
            outbox: VecDeque::new(),
            answers: HashMap::new(),
            last_id: 0,
            flush_wanted: false,
        };
        let (progress, _) = watch::channel(0);
        Self { options, uri, course, work: Notify::new(), progress, state: Mutex::new(state) }
    }

    /// Wakes whoever holds it when anything may have changed.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A caller that panicked cannot leave the state half changed: nothing in here panics between two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells waiting callers to look again.
    pub(crate) fn advance(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    /// Waits until `look` finds something, or the gateway has ended.
    pub(crate) async fn wait_for<T>(
        &self,
        mut look: impl FnMut(&mut State) -> Option<Result<T>>,
    ) -> Result<T> {
        let mut progress = self.progress.subscribe();
        loop {
            progress.borrow_and_update();
            {
                let mut state = self.lock();
                if let Some(found) = look(&mut state) {
                    return found;
                }
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
            }
            progress.changed().await.map_err(|_| Error::Closed)?;
        }
    }
}

impl State {
    /// Whether `Welcome` was ever received.
    pub(crate) fn was_connected(&self) -> bool {
        self.link != Link::Never
    }

    /// Whether it was received on the connection that stands now.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.link, Link::Stands | Link::Stale)
    }

    /// Refuses work for a gateway that has ended.
    pub(crate) fn check_open(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None if self.closing => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Longest encoded batch that fits a message.
    pub(crate) fn body_bytes_max(&self) -> usize {
        self.batch_bytes_max.saturating_sub(ENVELOPE_BYTES)
    }

    /// Queues a definition for sending; its answer comes under the id.
    pub(crate) fn post(&mut self, make: impl FnOnce(u64) -> Message) -> u64 {
        self.last_id += 1;
        let message = make(self.last_id);
        self.pending.insert(self.last_id, message.clone());
        self.outbox.push_back(message);
        self.last_id
    }

    /// The answer to a definition, once.
    pub(crate) fn answer(&mut self, id: u64) -> Option<Vec<DefineReject>> {
        self.answers.remove(&id)
    }

    pub(crate) fn defined(&mut self, id: u64, rejects: Vec<DefineReject>) {
        if self.pending.remove(&id).is_some() {
            self.answers.insert(id, rejects);
            return;
        }
        for reject in rejects {
            tracing::warn!(tag = reject.name, "not accepted by the server: {}", reject.detail);
            let refused = Refused { name: reject.name, detail: reject.detail };
            let known = &mut self.totals.refused;
            if known.len() < REJECTS_KEPT && !known.contains(&refused) {
                known.push(refused);
            }
        }
    }

    /// Says something on this connection, if there is one; its answer is only noted.
    pub(crate) fn say(&mut self, message: Message) {
        if self.is_connected() {
            self.outbox.push_back(message);
        }
    }

    /// Begins a connection: everything that was defined is said again, before any batch.
    pub(crate) fn begin(&mut self, welcome: &Welcome) {
        // A server that does not say reads what all read.
        self.batch_bytes_max = match usize::try_from(welcome.max_batch_bytes) {
            Ok(0) => BATCH_BYTES_DEFAULT,
            said => said.unwrap_or(usize::MAX),
        };
        self.link = Link::Stands;
        self.last_error = None;
        let (tags, sets) = self.definitions.messages();
        let tags = tags.into_iter().map(|message| Message::DefineTags(encode(&message)));
        let sets = sets.into_iter().map(|message| Message::DefineTagSet(encode(&message)));
        self.outbox = tags.chain(sets).chain(self.pending.values().cloned()).collect();
        self.flush_wanted |= !self.queue.is_empty();
        self.paused_until = None;
    }

    pub(crate) fn want_flush(&mut self) {
        self.flush_wanted = true;
    }

    /// Until when no batch is sent, if a pause goes on.
    pub(crate) fn pause_end(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| now < *until)
    }

    pub(crate) fn has_outgoing(&self, now: Instant) -> bool {
        if !self.outbox.is_empty() {
            return true;
        }
        self.pause_end(now).is_none()
            && (self.queue.has_next() || self.flush_wanted && self.queue.is_sent())
    }

    pub(crate) fn take_outgoing(&mut self, now: Instant) -> Option<Message> {
        if !self.has_outgoing(now) {
            return None;
        }
        // A definition is no batch: a pause goes on behind it.
        if let Some(message) = self.outbox.pop_front() {
            return Some(message);
        }
        self.paused_until = None;
        if let Some(bytes) = self.queue.take_next() {
            return Some(Message::Batch(bytes));
        }
        self.flush_wanted = false;
        Some(Message::Flush(Flush { id: 0 }))
    }

    pub(crate) fn acked(&mut self, ack: Ack) -> Result<(), OutOfReach> {
        for count in [&mut self.totals.accepted_samples, &mut self.counted.accepted_samples] {
            *count = count.saturating_add(ack.accepted_samples);
        }
        for reject in ack.rejects {
            self.rejected(reject);
        }
        self.queue.ack(ack.durable_seq)
    }

    /// A batch that will never be taken gives way to an empty one; any other is sent again by the caller's clock.
    pub(crate) fn nacked(&mut self, nack: Nack, resend_at: Instant) -> Result<(), OutOfReach> {
        if nack.retriable {
            self.paused_until = Some(resend_at);
            return self.queue.rewind(nack.seq);
        }
        let ticket = Ticket(self.queue.ticket_of(nack.seq));
        self.queue.empty(nack.seq)?;
        self.emptied(ticket, nack.detail);
        Ok(())
    }

    /// An empty batch goes in the place of one that the server never takes.
    pub(crate) fn emptied(&mut self, ticket: Ticket, why: String) {
        self.counted.emptied_batches += 1;
        self.keep(Rejected::whole_batch(ticket, why));
    }

    /// Counts samples that the server does not take.
    fn keep(&mut self, rejected: Rejected) {
        let rejected_samples = &mut self.counted.rejected_samples;
        *rejected_samples = rejected_samples.saturating_add(u64::from(rejected.count));
        self.totals.keep(rejected);
    }

    fn rejected(&mut self, reject: Reject) {
        let ticket = Ticket(self.queue.ticket_of(reject.seq));
        self.keep(Rejected::from_wire(ticket, reject));
    }
}

impl Totals {
    fn keep(&mut self, rejected: Rejected) {
        self.rejected_samples = self.rejected_samples.saturating_add(u64::from(rejected.count));
        if self.rejects.len() < REJECTS_KEPT {
            self.rejects.push(rejected);
        }
    }
}

pub(crate) fn encode(message: &impl tagmill_proto::Message) -> bytes::Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shared() -> Shared {
        Shared::new("s".into(), GatewayOptions::new("g"), None)
    }

    fn welcome(credit_bytes: u64) -> Welcome {
        Welcome { credit_bytes, max_batch_bytes: 1 << 20, ..Welcome::default() }
    }

    /// Connected, with a batch that was refused at this time for a second.
    fn paused(shared: &Shared, now: Instant) {
        let mut state = shared.lock();
        state.queue.push(&[0; 100]);
        // As much as one batch takes: then there is none left.
        assert_eq!(state.queue.welcome(0, 1), crate::queue::Resume::Here);
        state.begin(&welcome(1));
        assert!(matches!(state.take_outgoing(now), Some(Message::Batch(_))));
        let nack = Nack { seq: 1, retriable: true, ..Nack::default() };
        state.nacked(nack, now + Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn any_numbers_of_a_server_are_taken() {
        let shared = shared();
        let mut state = shared.lock();
        state.begin(&Welcome::default());
        assert_eq!(state.body_bytes_max(), BATCH_BYTES_DEFAULT - ENVELOPE_BYTES);
        let reject = Reject { seq: u64::MAX, count: u32::MAX, ..Reject::default() };
        for _ in 0..2 {
            let rejects = vec![reject.clone()];
            let ack = Ack { accepted_samples: u64::MAX, rejects, ..Ack::default() };
            state.acked(ack).unwrap();
        }
        assert_eq!(state.totals.accepted_samples, u64::MAX);
        assert_eq!(state.counted.accepted_samples, u64::MAX);
        assert_eq!(state.counted.rejected_samples, 2 * u64::from(u32::MAX));
    }

    #[test]
    fn a_definition_does_not_end_a_pause() {
        let (shared, now) = (shared(), Instant::now());
        paused(&shared, now);
        let mut state = shared.lock();
        state.queue.grant(1_000);
        state.say(Message::Flush(Flush { id: 7 }));
        assert!(matches!(state.take_outgoing(now), Some(Message::Flush(Flush { id: 7 }))));
        assert!(!state.has_outgoing(now) && state.pause_end(now).is_some());
        let later = now + Duration::from_secs(1);
        assert!(matches!(state.take_outgoing(later), Some(Message::Batch(_))));
    }

    /// Without credit nothing may go when a pause is over: whoever waits, waits for the server.
    #[test]
    fn a_pause_that_is_over_is_not_waited_for() {
        let (shared, now) = (shared(), Instant::now());
        paused(&shared, now);
        let state = shared.lock();
        assert!(state.pause_end(now).is_some());
        let later = now + Duration::from_secs(1);
        assert!(!state.has_outgoing(later));
        assert_eq!(state.pause_end(later), None);
    }
}
