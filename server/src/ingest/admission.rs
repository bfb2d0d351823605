//! One limit on the memory that samples take between the wire and the log, whoever sends them.
//!
//! A gateway may have [`CREDIT_BYTES`] of batches under way; it gets them back as batches are answered. Before a batch is
//! read, the memory it will take is acquired here. When there is none left, streams stop reading, credit stops
//! returning, and fast gateways wait: first come, first served, and acknowledgements go on meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Bytes of encoded batches that one stream may have unanswered.
pub(super) const CREDIT_BYTES: u64 = 8 << 20;
/// Memory of one sample of a column while it is converted and waits: time, value, quality, text handle.
const SAMPLE_BYTES: u64 = 40;
/// Memory of a batch besides its samples.
const BATCH_BYTES: u64 = 1 << 10;
/// Memory of a part besides its samples, taken or rejected: on the wire it may have two bytes.
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
    memory: Arc<Semaphore>,
    units: u32,
}

/// Memory of one batch, given back when dropped.
pub(crate) type Grant = OwnedSemaphorePermit;

impl Admission {
    pub(super) fn new(limit_bytes: u64) -> Self {
        let units = u32::try_from(limit_bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self { memory: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits for the memory of a batch of `encoded` bytes that announces `samples` in columns and has `parts`.
    pub(super) async fn acquire(
        &self,
        encoded: usize,
        samples: u64,
        parts: u64,
    ) -> Result<Grant, Status> {
        let of_parts =
            parts.saturating_mul(PART_BYTES).saturating_add(BATCH_BYTES + encoded as u64 * 2);
        let bytes = samples.saturating_mul(SAMPLE_BYTES).saturating_add(of_parts);
        let units = units(bytes).clamp(1, self.units);
        let memory = Arc::clone(&self.memory);
        let closed = |_| Status::unavailable("the server shuts down");
        memory.acquire_many_owned(units).await.map_err(closed)
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

    /// Memory that batches have now.
    pub(super) fn taken_bytes(&self) -> u64 {
        (u64::from(self.units) - self.memory.available_permits() as u64) * UNIT_BYTES
    }
}

/// Gives back what the samples of a batch took that the engine has answered. What is still to be told of it, so many parts
/// and so many refused ranges of samples, keeps its memory.
pub(super) fn shrink(grant: &mut Grant, parts: u64, ranges: usize) {
    let kept = parts.saturating_mul(PART_BYTES).saturating_add(ranges as u64 * SAMPLE_BYTES);
    let kept = units(kept).max(1) as usize;
    drop(grant.split(grant.num_permits().saturating_sub(kept)));
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_beyond_the_limit_waits_for_those_before_it() {
        let admission = Admission::new(100 << 10);
        let first = admission.acquire(40 << 10, 0, 0).await.unwrap();
        let mut second = Box::pin(admission.acquire(40 << 10, 0, 0));
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), &mut second).await;
        assert!(waiting.is_err());
        drop(first);
        let second = second.await.unwrap();
        drop(second);
        // What announces more than there is gets everything, not nothing.
        let all = admission.acquire(0, u64::MAX, u64::MAX).await.unwrap();
        assert_eq!((all.num_permits(), admission.taken_bytes()), (100, 100 << 10));
    }

    #[tokio::test]
    async fn a_call_waits_for_memory_so_long_and_no_longer() {
        let admission = Admission::new(100 << 10);
        let all = admission.acquire(0, u64::MAX, 0).await.unwrap();
        let most = Duration::from_millis(5);
        let refused = admission.acquire_within(most, 1, 0, 0).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(all);
        assert_eq!(admission.acquire_within(most, 1, 0, 0).await.unwrap().num_permits(), 1);
    }

    #[tokio::test]
    async fn what_is_left_to_tell_of_a_batch_keeps_its_memory() {
        let admission = Admission::new(1 << 20);
        let mut grant = admission.acquire(0, 1_000, 40).await.unwrap();
        assert_eq!(grant.num_permits(), (40_000 + 40 * 256 + 1_024) / 1_024);
        shrink(&mut grant, 40, 0);
        assert_eq!(grant.num_permits(), 10);
        shrink(&mut grant, u64::MAX, 0);
        assert_eq!((grant.num_permits(), admission.memory.available_permits()), (10, 1_014));
    }
}
