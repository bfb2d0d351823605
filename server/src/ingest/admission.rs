//! One limit on the memory that samples take between the wire and the log, whoever sends them, and shares of it.
//!
//! A gateway may have [`CREDIT_BYTES`] of batches under way; it gets them back as batches are answered. Before a batch is
//! read, the memory it will take is acquired here. When there is none left, streams stop reading, credit stops
//! returning, and fast gateways wait: first come, first served, and acknowledgements go on meanwhile.
//!
//! A stream has a fourth of it at most, and a token three fourths: what a gateway does not let go of, because it reads no
//! answers, it takes from itself first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::access::Principal;

/// Bytes of encoded batches that one stream may have unanswered.
pub(super) const CREDIT_BYTES: u64 = 8 << 20;
/// Memory of one sample of a column while it is converted and waits: time, value, quality, text handle.
const SAMPLE_BYTES: u64 = 40;
/// Memory of a batch besides its samples.
const BATCH_BYTES: u64 = 1 << 10;
/// Memory of a part besides its samples while it is converted: on the wire it may have two bytes.
const PART_BYTES: u64 = 256;
/// A definition takes the memory of so many parts: two copies of its attributes, and an answer.
pub(super) const PARTS_PER_TAG: u64 = 4;
/// How long a call may wait for memory. A stream waits as long as it takes: its gateway has credit, and keeps what it sent.
pub(super) const CALL: Duration = Duration::from_secs(30);
/// Permits are counted in this unit, so that any memory fits into them.
const UNIT_BYTES: u64 = 1 << 10;

/// The limit.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    all: Share,
    /// What each token has, by its id: as many as there are tokens.
    of_tokens: Arc<Mutex<HashMap<Arc<str>, Share>>>,
}

/// So much memory.
#[derive(Clone, Debug)]
struct Share {
    memory: Arc<Semaphore>,
    units: u32,
}

/// Whose memory: shares, from the smallest to the one of all.
#[derive(Clone, Debug)]
pub(super) struct Account(Vec<Share>);

/// Memory of one batch, given back when dropped.
#[derive(Debug)]
pub(crate) struct Grant(Vec<OwnedSemaphorePermit>);

impl Share {
    fn new(units: u32) -> Self {
        let units = units.max(1);
        Self { memory: Arc::new(Semaphore::new(units as usize)), units }
    }
}

impl Admission {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { all: Share::new(units(limit_bytes)), of_tokens: Arc::default() }
    }

    /// Memory that batches have now.
    pub(super) fn taken_bytes(&self) -> u64 {
        (u64::from(self.all.units) - self.all.memory.available_permits() as u64) * UNIT_BYTES
    }

    /// The memory of a principal. Where nobody is told apart it is that of all.
    pub(super) fn of(&self, principal: &Principal) -> Account {
        let mut shares = Vec::with_capacity(2);
        if !principal.id.is_empty() {
            let mut of_tokens = self.of_tokens.lock().unwrap_or_else(PoisonError::into_inner);
            let three_fourths = || Share::new(self.all.units / 4 * 3);
            let own = of_tokens.entry(Arc::clone(&principal.id)).or_insert_with(three_fourths);
            shares.push(own.clone());
        }
        shares.push(self.all.clone());
        Account(shares)
    }

    /// The memory of a new stream of a principal.
    pub(super) fn of_stream(&self, principal: &Principal) -> Account {
        let mut account = self.of(principal);
        account.0.insert(0, Share::new(self.all.units / 4));
        account
    }
}

impl Account {
    /// Waits for the memory of a batch of `encoded` bytes that announces `samples` in columns and has `parts`. First for
    /// that of the smallest share, where nobody else waits for it.
    pub(super) async fn acquire(
        &self,
        encoded: usize,
        samples: u64,
        parts: u64,
    ) -> Result<Grant, Status> {
        let of_parts =
            parts.saturating_mul(PART_BYTES).saturating_add(BATCH_BYTES + encoded as u64 * 2);
        let bytes = samples.saturating_mul(SAMPLE_BYTES).saturating_add(of_parts);
        let most = self.0.iter().map(|share| share.units).min().unwrap_or(1);
        let units = units(bytes).clamp(1, most);
        let closed = |_| Status::unavailable("the server shuts down");
        let mut held = Vec::with_capacity(self.0.len());
        for share in &self.0 {
            let memory = Arc::clone(&share.memory);
            held.push(memory.acquire_many_owned(units).await.map_err(closed)?);
        }
        Ok(Grant(held))
    }

    /// The same, but waits no longer than `most`.
    pub(super) async fn acquire_within(
        &self,
        most: Duration,
        encoded: usize,
        samples: u64,
        parts: u64,
    ) -> Result<Grant, Status> {
        let acquired = tokio::time::timeout(most, self.acquire(encoded, samples, parts));
        acquired.await.unwrap_or_else(|_| {
            Err(Status::resource_exhausted(format!(
                "there was no memory for this within {most:?}: other batches are on their way; try again"
            )))
        })
    }
}

impl Grant {
    /// Gives back all but so many bytes: what is still to be told of a batch that the engine has answered.
    pub(super) fn shrink(&mut self, kept: usize) {
        let kept = units(kept as u64).max(1) as usize;
        for permit in &mut self.0 {
            drop(permit.split(permit.num_permits().saturating_sub(kept)));
        }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: &str) -> Principal {
        let mut principal = Principal::anyone();
        principal.id = Arc::from(id);
        principal
    }

    fn units_of(grant: &Grant) -> Vec<usize> {
        grant.0.iter().map(OwnedSemaphorePermit::num_permits).collect()
    }

    async fn waits(account: &Account, encoded: usize) -> bool {
        let soon = Duration::from_millis(5);
        tokio::time::timeout(soon, account.acquire(encoded, 0, 0)).await.is_err()
    }

    #[tokio::test]
    async fn a_batch_beyond_the_limit_waits_for_those_before_it() {
        let admission = Admission::new(100 << 10);
        let anyone = admission.of(&Principal::anyone());
        let first = anyone.acquire(40 << 10, 0, 0).await.unwrap();
        let mut second = Box::pin(anyone.acquire(40 << 10, 0, 0));
        let waiting = tokio::time::timeout(Duration::from_millis(5), &mut second).await;
        assert!(waiting.is_err());
        drop(first);
        let second = second.await.unwrap();
        drop(second);
        // What announces more than there is gets everything, not nothing.
        let all = anyone.acquire(0, u64::MAX, u64::MAX).await.unwrap();
        assert_eq!((units_of(&all), admission.taken_bytes()), (vec![100], 100 << 10));
    }

    #[tokio::test]
    async fn a_call_waits_for_memory_so_long_and_no_longer() {
        let anyone = Admission::new(100 << 10).of(&Principal::anyone());
        let all = anyone.acquire(0, u64::MAX, 0).await.unwrap();
        let most = Duration::from_millis(5);
        let refused = anyone.acquire_within(most, 1, 0, 0).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(all);
        assert_eq!(units_of(&anyone.acquire_within(most, 1, 0, 0).await.unwrap()), [1]);
    }

    #[tokio::test]
    async fn a_stream_and_a_token_leave_memory_to_others() {
        let admission = Admission::new(100 << 10);
        let (one, other) = (named("one"), named("other"));
        let streams: Vec<Account> = (0..4).map(|_| admission.of_stream(&one)).collect();
        let mut held = Vec::new();
        for stream in &streams[..3] {
            held.push(stream.acquire(0, u64::MAX, 0).await.unwrap());
            assert!(waits(stream, 1).await);
        }
        assert_eq!(admission.taken_bytes(), 75 << 10);
        // The token has had its share, whatever the stream.
        assert!(waits(&streams[3], 1).await && waits(&admission.of(&one), 1).await);
        held.push(admission.of_stream(&other).acquire(0, u64::MAX, 0).await.unwrap());
        assert_eq!(admission.taken_bytes(), 100 << 10);
        drop(held);
        assert!(!waits(&streams[3], 10 << 10).await);
        assert_eq!(admission.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_left_to_tell_of_a_batch_keeps_its_memory() {
        let admission = Admission::new(1 << 20);
        let stream = admission.of_stream(&named("one"));
        let mut grant = stream.acquire(0, 1_000, 40).await.unwrap();
        assert_eq!(units_of(&grant), [(40_000 + 40 * 256 + 1_024) / 1_024; 3]);
        grant.shrink(10 << 10);
        assert_eq!(units_of(&grant), [10; 3]);
        grant.shrink(usize::MAX);
        assert_eq!((units_of(&grant), admission.taken_bytes()), (vec![10; 3], 10 << 10));
    }
}
