//! The stream of one gateway, as its program sees it.
//!
//! A [`Gateway`] needs a tokio runtime and keeps one task there. All calls may be made from several tasks at once.

use std::sync::Arc;

use tagmill_proto::v1::{DefineTags, Reject, RejectReason};
use tagmill_proto::view::client_message::Message;

use crate::batch::BatchBuilder;
use crate::definitions::{Refused, TagDef, TagSet, set_message, tag_messages};
use crate::error::{Error, Result};
use crate::options::{GatewayOptions, with_scheme};
use crate::session;
use crate::state::{Shared, State, encode};

/// Rejects that a summary lists; more are only counted.
pub const REJECTS_KEPT: usize = 10_000;

/// Number of a batch over the life of a [`Gateway`], from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Consecutive samples of one tag, or cycles of one scan block, that the server left out for good.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// The batch.
    pub ticket: Ticket,
    /// Position of the column in its batch, or of the scan block after all columns.
    pub part: u32,
    /// The tag; 0 for a whole scan block or batch.
    pub alias: u32,
    /// First position within the column, or first cycle of the scan block.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Why.
    pub reason: RejectReason,
    /// Why, for people.
    pub detail: String,
}

/// What the server has said since the last summary.
#[derive(Clone, Debug, PartialEq)]
pub struct AckSummary {
    /// Every batch up to this one is on disk. `Ticket(0)`: none was sent.
    pub acked: Ticket,
    /// Samples taken. Those of a batch whose acknowledgement was lost with a connection are not counted.
    pub accepted_samples: u64,
    /// Samples left out; scan blocks count by cycles.
    pub rejected_samples: u64,
    /// What was left out, and why: the first [`REJECTS_KEPT`].
    pub rejects: Vec<Rejected>,
}

/// The stream of one gateway. Dropping it ends the stream; what is not on disk then is lost: call [`Gateway::close`].
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// Connects to a server, such as `127.0.0.1:7410`, and waits for its welcome. Later breaks heal by themselves.
    ///
    /// # Errors
    /// [`Error::Unreachable`], or what the server answers.
    pub async fn connect(address: &str, options: GatewayOptions) -> Result<Self> {
        let shared = Arc::new(Shared::new(with_scheme(address), options, None));
        let task = tokio::spawn(session::run(Arc::clone(&shared)));
        let gateway = Self { shared, task };
        gateway.shared.wait_for(|state| state.was_connected().then_some(Ok(()))).await?;
        Ok(gateway)
    }

    /// Defines tags and gives their aliases, in their order. A tag defined before keeps its alias.
    ///
    /// # Errors
    /// [`Error::Definition`] lists the tags that the server refused; the others are defined.
    pub async fn define(&self, tags: &[TagDef]) -> Result<Vec<u32>> {
        let mut aliases = Vec::with_capacity(tags.len());
        let mut refused = Vec::new();
        for answer in self.try_define(tags).await? {
            match answer {
                Ok(alias) => aliases.push(alias),
                Err(why) => refused.push(why),
            }
        }
        if refused.is_empty() { Ok(aliases) } else { Err(Error::Definition(refused)) }
    }

    /// Defines tags; each has its own answer.
    ///
    /// # Errors
    /// Only if the gateway has ended.
    pub async fn try_define(&self, tags: &[TagDef]) -> Result<Vec<Result<u32, Refused>>> {
        let (aliases, ids) = {
            let mut state = self.shared.lock();
            state.check_open()?;
            let aliases: Vec<u32> = tags.iter().map(|tag| state.definitions.add(tag)).collect();
            let messages = tag_messages(aliases.iter().copied().zip(tags));
            let post = |message| {
                state.post(|id| Message::DefineTags(encode(&DefineTags { id, ..message })))
            };
            let ids: Vec<u64> = messages.into_iter().map(post).collect();
            (aliases, ids)
        };
        self.shared.work.notify_one();
        let mut rejects = std::collections::HashMap::new();
        for id in ids {
            let answer = self.shared.wait_for(|state| state.answer(id).map(Ok)).await?;
            rejects.extend(answer.into_iter().map(|reject| (reject.alias, reject)));
        }
        let mut state = self.shared.lock();
        let answers = aliases.into_iter().map(|alias| match rejects.get(&alias) {
            None => Ok(alias),
            Some(reject) => {
                state.definitions.remove(alias);
                Err(Refused { name: reject.name.clone(), detail: reject.detail.clone() })
            }
        });
        Ok(answers.collect())
    }

    /// Defines a list of tags that are read together, for [`BatchBuilder::scan`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for an alias that was not defined, [`Error::Definition`] if the server refuses.
    pub async fn define_set(&self, aliases: &[u32]) -> Result<TagSet> {
        let (set, id) = {
            let mut state = self.shared.lock();
            state.check_open()?;
            if let Some(unknown) = aliases.iter().find(|alias| !state.definitions.knows(**alias)) {
                return Err(Error::Invalid(format!("alias {unknown} is not defined")));
            }
            let set = state.definitions.add_set(aliases);
            let make = |id| Message::DefineTagSet(encode(&set_message(id, set.set, aliases)));
            (set, state.post(make))
        };
        self.shared.work.notify_one();
        let rejects = self.shared.wait_for(|state| state.answer(id).map(Ok)).await?;
        if rejects.is_empty() {
            return Ok(set);
        }
        self.shared.lock().definitions.remove_set(set.set);
        let refused =
            |r: tagmill_proto::v1::DefineReject| Refused { name: r.name, detail: r.detail };
        Err(Error::Definition(rejects.into_iter().map(refused).collect()))
    }

    /// Queues a batch. Waits while the queue is full: that is how a slow server is felt.
    ///
    /// The batch is safe when [`Gateway::acked`] has reached its ticket; [`Gateway::flush`] waits for that.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or why the gateway has ended.
    pub async fn send(&self, batch: BatchBuilder) -> Result<Ticket> {
        let body = batch.into_body();
        let room = self.shared.options.queue_bytes;
        let ticket = self
            .shared
            .wait_for(|state| {
                if let Err(why) = check_body(state, body.len()) {
                    return Some(Err(why));
                }
                let fits = state.queue.is_empty() || state.queue.bytes() + body.len() <= room;
                fits.then(|| Ok(Ticket(state.queue.push(&body))))
            })
            .await?;
        self.shared.work.notify_one();
        Ok(ticket)
    }

    /// Every batch up to this one is on disk. `Ticket(0)`: none yet.
    pub fn acked(&self) -> Ticket {
        Ticket(self.shared.lock().queue.acked_ticket())
    }

    /// Bytes of batches that are not on disk yet.
    pub fn queued_bytes(&self) -> usize {
        self.shared.lock().queue.bytes()
    }

    /// Waits until this batch, and all before it, are on disk.
    ///
    /// # Errors
    /// Why the gateway has ended.
    pub async fn wait_acked(&self, ticket: Ticket) -> Result<()> {
        let reached =
            |state: &mut State| (state.queue.acked_ticket() >= ticket.0).then_some(Ok(()));
        self.shared.wait_for(reached).await
    }

    /// Waits until every batch sent before is on disk, and says what became of them. While the server is away, this waits
    /// for it.
    ///
    /// # Errors
    /// Why the gateway has ended.
    pub async fn flush(&self) -> Result<AckSummary> {
        let last = {
            let mut state = self.shared.lock();
            state.want_flush();
            Ticket(state.queue.last_ticket())
        };
        self.shared.work.notify_one();
        self.wait_acked(last).await?;
        Ok(self.summary())
    }

    /// What the server has said since the last summary, without waiting.
    pub fn summary(&self) -> AckSummary {
        let mut state = self.shared.lock();
        let totals = std::mem::take(&mut state.totals);
        AckSummary {
            acked: Ticket(state.queue.acked_ticket()),
            accepted_samples: totals.accepted_samples,
            rejected_samples: totals.rejected_samples,
            rejects: totals.rejects,
        }
    }

    /// The epoch now. Another than asked for if the database was restored meanwhile.
    pub fn epoch(&self) -> u64 {
        self.shared.lock().epoch
    }

    /// Flushes and ends the stream.
    ///
    /// # Errors
    /// Why the gateway has ended.
    pub async fn close(mut self) -> Result<AckSummary> {
        let summary = self.flush().await?;
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        if (&mut self.task).await.is_err() {
            tracing::debug!("the gateway's task was stopped");
        }
        Ok(summary)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn check_body(state: &State, bytes: usize) -> Result<()> {
    state.check_open()?;
    let limit_bytes = state.body_bytes_max();
    if bytes > limit_bytes { Err(Error::TooLarge { bytes, limit_bytes }) } else { Ok(()) }
}

impl Rejected {
    pub(crate) fn from_wire(ticket: Ticket, reject: Reject) -> Self {
        Self {
            ticket,
            part: reject.part,
            alias: reject.alias,
            first: reject.first,
            count: reject.count,
            reason: reject.reason(),
            detail: reject.detail,
        }
    }

    pub(crate) fn whole_batch(ticket: Ticket, detail: String) -> Self {
        let reason = RejectReason::Unspecified;
        Self { ticket, part: 0, alias: 0, first: 0, count: 0, reason, detail }
    }
}
