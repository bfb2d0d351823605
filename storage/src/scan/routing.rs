//! Which stored rollups may answer for samples, and what is left for finer ones and for the samples themselves.
//!
//! # Contract
//! * A stored rollup stands for a tag's samples in one segment. It is used only where nothing else has a say: no other
//!   segment and no row of the head between its first and its last sample, no delete that may hide one, nothing that
//!   cannot be read, none outside the asked range, and all of it within one asked window.
//! * Where samples are few, or but a part of what a block is of, they are read instead of it: by cost, unless tiers are
//!   asked for wherever they are exact.
//! * Where it is not used the next finer tier is asked, at last the samples: each sample counts once.
//! * A block of rollups that cannot be read is passed over. The samples answer, and `verify` names the block.
//!
//! # What it does not know
//! How rows are folded.

use std::ops::Range;
use std::sync::Arc;

use super::TagSelection;
use super::rollups::RollupWindows;
use crate::planted::{self, Bug};
use crate::segment::tiers::{self, TierRows};
use crate::segment::{Directory, SegmentCursor};
use crate::tag::{TagId, ValueType};
use crate::tier::Tier;
use crate::tier::build::BlockHead;
use crate::tier::fold::Fold;
use crate::tier::rollup::{Needs, Rollup};
use crate::tier::rule::Rule;
use crate::tier::stored;

/// What to read next of a stretch, in the order of time.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Stored rollups of one tier, all of them as they are.
    Stored(Tier, Arc<TierRows>, Range<usize>),
    /// Samples, both ends included.
    Samples(i64, i64),
}

/// What a question asks of one tag.
pub(super) struct Question<'a> {
    pub(super) tag: TagId,
    pub(super) value_type: ValueType,
    pub(super) rule: &'a Rule,
    pub(super) needs: Needs,
    /// Tiers that may fit the windows, the coarsest first.
    pub(super) tiers: &'a [Tier],
    pub(super) windows: &'a RollupWindows,
    /// What the rows go into.
    pub(super) fold: &'a Fold,
}

impl Question<'_> {
    /// Whether one window holds all of a span; `None` if no window holds any of it.
    fn fits(&self, first_ns: i64, last_ns: i64) -> Option<bool> {
        if matches!(self.windows, RollupWindows::Even { .. }) {
            return Some(true); // whole windows of the tiers that were chosen
        }
        let is_asked = self.windows.touch(first_ns, last_ns);
        is_asked.then(|| self.fold.is_of_one(first_ns, last_ns))
    }
}

/// Where stored rollups come from.
pub(super) trait Source {
    /// The tag's rows of a tier in blocks that may overlap a span, both ends included, ascending by time. What cannot be
    /// read is left out.
    fn find(
        &mut self,
        question: &Question<'_>,
        tier: Tier,
        span: (i64, i64),
    ) -> Vec<(Arc<TierRows>, Range<usize>)>;
}

/// The rollups beside the samples of a segment.
pub(super) struct Beside<'a> {
    pub(super) directory: &'a Directory,
    pub(super) cursor: &'a mut SegmentCursor,
    /// If a block must pay: which tags are asked for, and samples of this one in a nanosecond.
    pub(super) asked: Option<(&'a TagSelection, f64)>,
}

/// Samples that are decoded and folded in the time of one rollup, and in that of reading a block: measured by
/// `benches/engine/rollups.rs`.
const SAMPLES_PER_ROLLUP: f64 = 20.0;
const SAMPLES_PER_BLOCK: f64 = 500.0;

impl Beside<'_> {
    /// Whether a block, shared with other tags that are asked for, is read faster than the samples of a span.
    fn pays(&self, position: usize, head: &BlockHead, (from_ns, to_ns): (i64, i64)) -> bool {
        let Some((tags, density)) = self.asked else { return true };
        if self.cursor.has_tier_rows(position) {
            return true;
        }
        let share = match tags {
            TagSelection::All => head.runs as usize,
            TagSelection::Only(tags) => {
                let from = tags.partition_point(|tag| *tag < head.first_tag);
                let to = tags.partition_point(|tag| *tag <= head.last_tag);
                (to - from).clamp(1, head.runs as usize)
            }
        };
        let cost = SAMPLES_PER_ROLLUP * f64::from(head.rows) + SAMPLES_PER_BLOCK;
        let span_ns = to_ns.min(head.last_ns).saturating_sub(from_ns.max(head.first_ns));
        span_ns as f64 * density * share as f64 >= cost
    }
}

impl Source for Beside<'_> {
    fn find(
        &mut self,
        question: &Question<'_>,
        tier: Tier,
        (from_ns, to_ns): (i64, i64),
    ) -> Vec<(Arc<TierRows>, Range<usize>)> {
        let &Question { tag, value_type, needs, .. } = question;
        let mut found = Vec::new();
        for position in tiers::find(self.directory.tiers(), tier, value_type, tag) {
            let head = self.directory.tiers()[position].head;
            if head.last_ns < from_ns || to_ns < head.first_ns {
                continue;
            }
            if !self.pays(position, &head, (from_ns, to_ns)) {
                continue;
            }
            if let Ok(block) = self.cursor.tier_rows(position, needs >= Needs::Weighted) {
                let run = block.run(tag);
                found.push((block, run));
            }
        }
        found
    }
}

/// Plans the reading of a span, both ends included.
pub(super) fn route(
    question: &Question<'_>,
    source: &mut dyn Source,
    (from_ns, to_ns): (i64, i64),
) -> Vec<Job> {
    let mut route = Route { question, source, jobs: Vec::new() };
    route.fill(from_ns, to_ns, question.tiers);
    route.jobs
}

struct Route<'a> {
    question: &'a Question<'a>,
    source: &'a mut dyn Source,
    jobs: Vec<Job>,
}

impl Route<'_> {
    /// Plans what lies between two instants, both included.
    fn fill(&mut self, from_ns: i64, to_ns: i64, tiers: &[Tier]) {
        let Some((tier, finer)) = tiers.split_first() else {
            return self.jobs.push(Job::Samples(from_ns, to_ns));
        };
        let mut next_ns = from_ns;
        for (block, run) in self.source.find(self.question, *tier, (from_ns, to_ns)) {
            let rows = &block.rows()[run.clone()];
            let Some((first, last)) = rows.first().zip(rows.last()) else { continue };
            if last.last_ns < next_ns || to_ns < first.first_ns {
                continue;
            }
            // A run says nothing of what lies before it.
            if next_ns < first.first_ns {
                self.fill(next_ns, first.first_ns - 1, finer);
                next_ns = first.first_ns;
            }
            next_ns = self.take_run(*tier, &block, run, (next_ns, to_ns), finer);
        }
        if next_ns <= to_ns {
            self.fill(next_ns, to_ns, finer);
        }
    }

    /// Takes the rows of a run that can be used, and plans what is between them. Gives where the rest begins.
    fn take_run(
        &mut self,
        tier: Tier,
        block: &Arc<TierRows>,
        run: Range<usize>,
        (from_ns, to_ns): (i64, i64),
        finer: &[Tier],
    ) -> i64 {
        let rows = &block.rows()[run.clone()];
        let before = rows.partition_point(|row| row.last_ns < from_ns);
        let through = rows.partition_point(|row| row.first_ns <= to_ns);
        let mut next_ns = from_ns;
        // Whether rows that were not used have samples from `next_ns` on.
        let mut is_owed = false;
        for (at, row) in rows.iter().enumerate().take(through).skip(before) {
            let fits = self.question.fits(row.first_ns, row.last_ns);
            let is_inside = next_ns <= row.first_ns && row.last_ns <= to_ns;
            let is_used = fits == Some(true)
                && (is_inside || planted::is(Bug::OverlappingRollupsTaken))
                && self.can_serve(tier, row);
            if !is_used && fits.is_some() {
                is_owed = true;
                continue;
            }
            if is_owed {
                self.fill(next_ns, row.first_ns - 1, finer);
                is_owed = false;
            }
            next_ns = row.last_ns.saturating_add(1);
            if !is_used {
                continue; // nobody asks
            }
            let at = run.start + at;
            match self.jobs.last_mut() {
                Some(Job::Stored(_, rows, range))
                    if Arc::ptr_eq(rows, block) && range.end == at =>
                {
                    range.end += 1;
                }
                _ => self.jobs.push(Job::Stored(tier, Arc::clone(block), at..at + 1)),
            }
        }
        let end_ns = rows.last().map_or(to_ns, |last| last.last_ns).min(to_ns);
        if is_owed && next_ns <= end_ns && !planted::is(Bug::EdgeForgotten) {
            self.fill(next_ns, end_ns, finer);
        }
        end_ns.saturating_add(1)
    }

    fn can_serve(&self, tier: Tier, row: &Rollup) -> bool {
        let &Question { rule, needs, value_type, .. } = self.question;
        stored::can_serve(row, rule, needs, tier, value_type)
    }
}
