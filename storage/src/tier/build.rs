//! [`TierBuilder`]: samples of tag after tag go in, blocks of rollups of every tier that pays come out.
//!
//! # Contract
//! * A tag's rollups of a tier come in runs. A run is complete: every sample between its first and its last one counts in
//!   it. Where a tag is not in a tier, only the next finer one, at last the samples, can say what it holds.
//! * A run is kept if its windows hold [`ROWS_MIN`] samples each on average, and if it has at most half as many rows as
//!   the next finer one that is kept. Or, where rollups are to outlive the samples, every run of the tiers that do so is kept
//!   ([`TierBuilder::outlive`]).
//! * A block holds runs of neighbouring tags of one type; a run lies in one block.
//! * Memory: [`SETTLE_ROWS`] rollups of a minute, and a block of each tier and type.
//!
//! # What it does not know
//! Files. Which of these samples others win over: rollups are of exactly what it is handed.

use super::Tier;
use super::fold::Fold;
use super::rollup::Rollup;
use super::rows::Rows;
use super::stored;
use crate::encoding::Effort;
use crate::tag::{TagId, ValueType};

/// Samples that a window must have on average for a tier to pay.
const ROWS_MIN: u64 = 8;
/// Samples below which a block is not worth its bytes: they are read as fast as it.
const BLOCK_SAMPLES_MIN: u64 = 512;
/// Rows at which a block is full; the run that reaches it still goes in.
const BLOCK_ROWS: usize = 512;
/// Minutes of one tag after which a run ends.
const SETTLE_ROWS: usize = 16_384;

/// Rows of one block at most.
pub(crate) const BLOCK_ROWS_MAX: usize = 4 * SETTLE_ROWS;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHead {
    /// Whose width.
    pub tier: Tier,
    /// Of all its tags.
    pub value_type: ValueType,
    /// Least tag.
    pub first_tag: TagId,
    /// Greatest tag.
    pub last_tag: TagId,
    /// First sample.
    pub first_ns: i64,
    /// Last sample.
    pub last_ns: i64,
    /// Runs.
    pub runs: u32,
    /// Rollups.
    pub rows: u32,
}

/// A block as it goes into a segment.
#[derive(Debug)]
pub(crate) struct TierBlock {
    /// What is in it.
    pub head: BlockHead,
    /// Samples that its rollups stand for.
    pub samples: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A block on its way.
#[derive(Debug)]
struct Open {
    head: BlockHead,
    runs: Vec<(TagId, usize)>,
    rows: Vec<Rollup>,
}

/// Blocks on their way and blocks that are full.
#[derive(Debug)]
struct Blocks {
    open: Vec<Open>,
    full: Vec<Open>,
}

/// Makes rollups of a segment's samples.
#[derive(Debug)]
pub(crate) struct TierBuilder {
    /// The tag that samples come of, and its minutes.
    current: Option<(TagId, Fold)>,
    /// Windows of the coarser tiers that the tag's last minutes began.
    begun: [Option<Rollup>; Tier::ALL.len()],
    /// Tiers that are kept whether they pay or not, and no others; `None` for those that pay.
    outlive: Option<[bool; Tier::ALL.len()]>,
    blocks: Blocks,
}

impl TierBuilder {
    /// Without samples.
    pub(crate) const fn new() -> Self {
        let begun = [const { None }; Tier::ALL.len()];
        let blocks = Blocks { open: Vec::new(), full: Vec::new() };
        Self { current: None, begun, outlive: None, blocks }
    }

    /// Of the tags to come these tiers are kept, as the only thing that is left of them.
    pub(crate) fn outlive(&mut self, tiers: [bool; Tier::ALL.len()]) {
        self.end_tag();
        self.outlive = Some(tiers);
    }

    /// Takes samples of a tag: of one greater than those before, or later ones of the last.
    pub(crate) fn add(&mut self, tag: TagId, rows: &Rows<'_>) {
        if self.current.as_ref().is_none_or(|(current, _)| *current != tag) {
            self.end_tag();
            self.current = Some((tag, Fold::to_store(Tier::Minute, rows.value_type)));
        }
        let mut from = 0;
        while from < rows.count {
            // In pieces, so that not more windows than a run takes are open.
            let to = (from + SETTLE_ROWS).min(rows.count);
            let Some((_, fold)) = &mut self.current else { return };
            fold.add(&rows.slice(from..to));
            from = to;
            if fold.done() >= SETTLE_ROWS {
                let minutes = fold.take_done();
                self.settle(tag, rows.value_type, minutes, false);
            }
        }
    }

    /// Ends the last tag and all blocks: what is left comes out by [`Self::next_block`].
    pub(crate) fn finish(&mut self) {
        self.end_tag();
        let is_needed = self.outlive.is_some();
        let pays = |open: &Open| is_needed || samples_of(&open.rows) >= BLOCK_SAMPLES_MIN;
        self.blocks.full.extend(self.blocks.open.drain(..).filter(pays));
    }

    /// The next full block. Never with [`Effort::Final`]: a tenth of a tier is not worth that a plant is decoded half as fast.
    pub(crate) fn next_block(&mut self) -> Option<TierBlock> {
        let effort = Effort::Light;
        let Open { head, runs, rows } = self.blocks.full.pop()?;
        let mut bytes = Vec::new();
        stored::encode_runs(&runs, effort, &mut bytes);
        stored::encode(&rows, head.tier, head.value_type, effort, &mut bytes);
        let head = BlockHead { runs: count(&runs), rows: count(&rows), ..head };
        Some(TierBlock { head, samples: samples_of(&rows), bytes })
    }

    fn end_tag(&mut self) {
        if let Some((tag, mut fold)) = self.current.take() {
            let minutes = fold.finish();
            self.settle(tag, fold.value_type(), minutes, true);
        }
    }

    /// Makes runs of a tag's next minutes, and of what they are in the coarser tiers.
    fn settle(&mut self, tag: TagId, value_type: ValueType, minutes: Vec<Rollup>, is_last: bool) {
        let mut rows = minutes;
        let mut finer = None;
        for tier in Tier::ALL {
            if tier > Tier::Minute {
                rows = coarser(&rows, tier, value_type, &mut self.begun[tier.index()], is_last);
            }
            let windows = rows.len() as u64;
            let is_kept = match self.outlive {
                Some(tiers) => tiers[tier.index()],
                None => {
                    samples_of(&rows) >= ROWS_MIN * windows
                        && finer.is_none_or(|finer: u64| finer >= 2 * windows)
                }
            };
            if windows > 0 && is_kept {
                finer = Some(windows);
                self.blocks.put(tag, tier, value_type, &rows);
            }
        }
    }
}

/// Rows of a tier from those of the next finer one, after the window that earlier ones began.
fn coarser(
    finer: &[Rollup],
    tier: Tier,
    value_type: ValueType,
    begun: &mut Option<Rollup>,
    is_last: bool,
) -> Vec<Rollup> {
    let mut rows = Vec::new();
    for row in finer {
        let start_ns = row.start_ns - row.start_ns.rem_euclid(tier.width_ns());
        if let Some(done) = begun.take_if(|window| window.start_ns != start_ns) {
            rows.push(done);
        }
        let window = begun.get_or_insert_with(|| Rollup::empty(start_ns));
        window.merge(row, &stored::neutral(), value_type);
    }
    if is_last {
        rows.extend(begun.take());
    }
    rows
}

impl Blocks {
    fn put(&mut self, tag: TagId, tier: Tier, value_type: ValueType, rows: &[Rollup]) {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
        let (first_ns, last_ns) = (first.first_ns, last.last_ns);
        let is_ours = |open: &Open| (open.head.tier, open.head.value_type) == (tier, value_type);
        let mut at = self.open.iter().position(is_ours);
        if let Some(number) = at
            && self.open[number].rows.len() + rows.len() > BLOCK_ROWS
        {
            self.full.push(self.open.swap_remove(number));
            at = None;
        }
        let at = at.unwrap_or_else(|| {
            let (first_tag, last_tag, runs, rows) = (tag, tag, 0, 0);
            let head =
                BlockHead { tier, value_type, first_tag, last_tag, first_ns, last_ns, runs, rows };
            self.open.push(Open { head, runs: Vec::new(), rows: Vec::new() });
            self.open.len() - 1
        });
        let Open { head, runs, rows: all } = &mut self.open[at];
        head.last_tag = tag;
        head.first_ns = head.first_ns.min(first_ns);
        head.last_ns = head.last_ns.max(last_ns);
        runs.push((tag, rows.len()));
        all.extend_from_slice(rows);
    }
}

fn samples_of(rows: &[Rollup]) -> u64 {
    rows.iter().map(Rollup::rows).sum()
}

fn count<T>(of: &[T]) -> u32 {
    u32::try_from(of.len()).expect("a block is small")
}
