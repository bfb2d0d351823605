//! The head: recent samples in memory, already durable in the log, readable at once.
//!
//! # Contract
//! * A [`Head`] is an immutable list of [`run::Run`]s in seq order; publishing a batch makes the next list.
//! * Runs are sorted by (tag, time) with distinct keys. Small runs fold into larger ones in the background.
//! * A run's greatest seq decides which tombstones hide its rows; folding applies those that lie between its inputs.
//!
//! # Reading order
//! [`run`] (sorted columns, and folding), [`block`] (a batch becomes a run), [`latest`] (current values).

pub(crate) mod block;
pub(crate) mod latest;
pub(crate) mod run;
pub(crate) mod tombstone;

use std::sync::Arc;

use crate::ids::Seq;
use crate::time::TimeRange;
use run::Run;

/// Runs in seq order. Those before `folded` were folded, the rest are one batch each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) runs: Vec<Arc<Run>>,
    pub(crate) folded: usize,
    pub(crate) bytes: u64,
}

impl Head {
    /// Adds the newest batch.
    pub(crate) fn push(&mut self, run: Arc<Run>) {
        assert!(
            self.runs.last().is_none_or(|last| last.max_seq < run.min_seq),
            "runs out of order"
        );
        self.bytes += run.bytes();
        self.runs.push(run);
    }

    /// Puts `folded` in the place of the runs it was made of, `count` runs from `first` on.
    pub(crate) fn replace(&mut self, first: usize, count: usize, folded: Option<&Arc<Run>>) {
        let removed = self.runs.splice(first..first + count, folded.cloned());
        let removed_bytes: u64 = removed.map(|run| run.bytes()).sum();
        self.bytes = self.bytes - removed_bytes + folded.map_or(0, |run| run.bytes());
        if first + count >= self.folded {
            self.folded = first + usize::from(folded.is_some());
        } else {
            self.folded -= count - usize::from(folded.is_some());
        }
    }

    /// Drops what a seal has moved into segments: every run up to `seq`.
    pub(crate) fn drop_through(&mut self, seq: Seq) {
        let count = self.runs.iter().take_while(|run| run.max_seq <= seq).count();
        assert!(self.runs.get(count).is_none_or(|run| run.min_seq > seq), "a seal cut a run");
        self.replace(0, count, None);
    }

    /// Drops what came after `seq`: the part of the head that a seal up to there moves.
    pub(crate) fn keep_through(&mut self, seq: Seq) {
        let count = self.runs.iter().take_while(|run| run.max_seq <= seq).count();
        assert!(
            self.runs.get(count).is_none_or(|run| run.min_seq > seq),
            "a run lies across {seq}"
        );
        let dropped: u64 = self.runs.drain(count..).map(|run| run.bytes()).sum();
        self.bytes -= dropped;
        self.folded = self.folded.min(count);
    }

    /// Rows held.
    pub(crate) fn rows(&self) -> u64 {
        self.runs.iter().map(|run| run.times.len() as u64).sum()
    }

    /// Time of the oldest row.
    pub(crate) fn first_ns(&self) -> Option<i64> {
        let first_of = |run: &Arc<Run>| run.spans.iter().map(|span| run.times[span.start]).min();
        self.runs.iter().filter_map(first_of).min()
    }

    /// Whether any tag has rows in a range.
    pub(crate) fn has_rows_in(&self, range: TimeRange) -> bool {
        let has_rows =
            |run: &Run| run.spans.iter().any(|span| !run.rows_in(span, range).is_empty());
        self.runs.iter().any(|run| has_rows(run))
    }

    /// Rows in runs that were not folded yet.
    pub(crate) fn unfolded_rows(&self) -> usize {
        self.runs[self.folded..].iter().map(|run| run.times.len()).sum()
    }
}
