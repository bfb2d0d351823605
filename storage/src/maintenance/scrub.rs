//! Reads every segment again now and then, slowly, so that damage is found while there is still a backup.
//!
//! # Contract
//! * The least recently verified segment comes first. When each was verified is remembered in memory only: after a restart
//!   all that is there counts as never verified, in an order of chance, so that frequent restarts starve no segment.
//! * Reads no faster than [`crate::Options::scrub_bytes_per_s`], and nothing in the first minutes after an open.
//! * When it has been round once and everything was whole, the trash is emptied.
//! * What it finds goes the way of what scans meet: maintenance looks again, and puts it into quarantine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::engine::core::Core;
use crate::ids::SegmentId;
use crate::metrics::count;
use crate::segment::Segment;

/// Peace after an open, unless the period is shorter.
const DELAY: Duration = Duration::from_mins(10);
/// How often it looks whether a segment is due.
const LOOK: Duration = Duration::from_secs(5);

/// Scrubs until the engine closes. Whoever closes it unparks this thread.
pub(crate) fn run(core: &Core) {
    let Some(period) = core.options.scrub_period else { return };
    let started = Instant::now();
    let mut book = Book { salt: crate::ids::random(), ..Book::default() };
    book.note(ids(core), Duration::ZERO, true);
    let mut is_round = false;
    while !core.is_closed() {
        let age = started.elapsed();
        let segments: Vec<_> = core.view().version.all().cloned().collect();
        book.note(segments.iter().map(|segment| segment.meta().id), age, false);
        let due = if age < DELAY.min(period) { None } else { book.due(age, period) };
        let Some(segment) = due.and_then(|id| segments.iter().find(|s| s.meta().id == id)) else {
            drop(segments); // files that are let go of meanwhile shall not wait for this thread
            std::thread::park_timeout(LOOK.min(period));
            continue;
        };
        if scrub(core, segment) {
            book.verified.insert(segment.meta().id, Some(started.elapsed()));
            if !is_round && book.is_round() && core.counters.read().scrubbed.damaged == 0 {
                is_round = true;
                super::trash::empty(core);
            }
        }
    }
}

fn ids(core: &Core) -> Vec<SegmentId> {
    core.view().version.all().map(|segment| segment.meta().id).collect()
}

/// Verifies one segment at the agreed pace. Gives whether it came to the end.
fn scrub(core: &Core, segment: &Segment) -> bool {
    let (begun, mut read) = (Instant::now(), 0_u64);
    let tally = &core.counters;
    let mut found = |_error, damage| {
        count(&tally.scrubbed_damaged, 1);
        if let Some(damage) = damage {
            core.view().reports.leave(damage);
        }
    };
    segment.verify_places(&mut found, &mut |bytes| {
        read += bytes;
        count(&tally.scrubbed_bytes, bytes);
        let due = read.saturating_mul(1_000) / core.options.scrub_bytes_per_s.max(1);
        let due = Duration::from_millis(due);
        while begun.elapsed() < due && !core.is_closed() {
            std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
        }
        !core.is_closed()
    });
    let is_through = !core.is_closed();
    count(&tally.scrubbed_segments, u64::from(is_through));
    is_through
}

/// When each segment was verified, as an age of the engine; `None` if never.
#[derive(Debug, Default)]
struct Book {
    verified: HashMap<SegmentId, Option<Duration>>,
    salt: u64,
}

impl Book {
    /// Takes new segments in and forgets those that are gone. What this engine has written itself counts as verified.
    fn note(&mut self, live: impl IntoIterator<Item = SegmentId>, age: Duration, is_open: bool) {
        let before = std::mem::take(&mut self.verified);
        let new = (!is_open).then_some(age);
        let known = |id: SegmentId| (id, before.get(&id).copied().unwrap_or(new));
        self.verified = live.into_iter().map(known).collect();
    }

    /// Whether each segment was verified, or written since the open.
    fn is_round(&self) -> bool {
        self.verified.values().all(Option::is_some)
    }

    /// The segment that waits longest, if it waits for a period.
    fn due(&self, age: Duration, period: Duration) -> Option<SegmentId> {
        let chance = |id: &SegmentId| (id.0 ^ self.salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let least = self.verified.iter().min_by_key(|(id, at)| (**at, chance(id)))?;
        let is_due = least.1.is_none_or(|at| age.saturating_sub(at) >= period);
        is_due.then_some(*least.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_is_verified_once_in_a_period() {
        let (minute, period) = (Duration::from_mins(1), Duration::from_hours(1));
        let mut book = Book::default();
        book.note([1, 2].map(SegmentId), Duration::ZERO, true);
        let mut seen = Vec::new();
        for step in 0..3 {
            book.note([1, 2, 3].map(SegmentId), minute * step, false);
            if let Some(id) = book.due(minute * step, period) {
                book.verified.insert(id, Some(minute * step));
                seen.push(id.0);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [1, 2], "what was there at the open, once each; 3 was written since");
        assert_eq!(book.due(minute * 59, period), None);
        assert!(book.due(period, period).is_some());
        book.note([3].map(SegmentId), period, false);
        assert_eq!(book.due(period, period), Some(SegmentId(3)));
    }
}
