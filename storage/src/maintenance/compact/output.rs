//! The files of one day that a compaction writes.
//!
//! A file is made when its first row comes. Files that the manifest does not name in the end are unlinked.
//! Rows that are to be rolled up go into a segment of each tier that outlives them, and into no other.

use crate::chunk::builder::piece_rows;
use crate::chunk::{ChunkEntry, Series};
use crate::engine::core::Core;
use crate::error::Error;
use crate::ids::Seq;
use crate::segment::writer::{SegmentPlan, SegmentWriter};
use crate::segment::{SegmentKind, SegmentMeta, SegmentStage};
use crate::tier::Tier;
use crate::tier::build::TierBuilder;
use crate::tier::rows::Rows;

use super::Failed;

/// What the files of a task have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) kind: SegmentKind,
    pub(super) stage: SegmentStage,
    pub(super) seqs: (Seq, Seq),
}

/// The files of a task.
pub(super) struct Output<'a> {
    core: &'a Core,
    style: Style,
    first_ns: i64,
    writer: Option<SegmentWriter>,
    /// Rolls up what comes, while it is wanted.
    rolls_up: bool,
    builder: TierBuilder,
    /// One of each tier.
    tiers: [Option<SegmentWriter>; Tier::ALL.len()],
    done: Vec<SegmentMeta>,
    paths: Vec<String>,
}

impl<'a> Output<'a> {
    pub(super) fn new(core: &'a Core, style: Style) -> Self {
        let (builder, tiers) = (TierBuilder::new(), [const { None }; Tier::ALL.len()]);
        let (writer, done, paths) = (None, Vec::new(), Vec::new());
        Self { core, style, first_ns: 0, writer, rolls_up: false, builder, tiers, done, paths }
    }

    /// Rows from `first_ns` on go into a new file.
    pub(super) fn begin(&mut self, first_ns: i64, seqs: (Seq, Seq)) -> Result<(), Failed> {
        self.end()?;
        (self.first_ns, self.style.seqs) = (first_ns, seqs);
        Ok(())
    }

    /// Rows to come are of another tag: to be written, or to be rolled up to these tiers.
    pub(super) fn roll_up(&mut self, tiers: Option<[bool; Tier::ALL.len()]>) {
        self.rolls_up = tiers.is_some();
        if let Some(tiers) = tiers {
            self.builder.outlive(tiers);
        }
    }

    /// Ends the files that were begun.
    fn end(&mut self) -> Result<(), Failed> {
        self.builder.finish();
        self.put_blocks()?;
        let tiers = std::mem::take(&mut self.tiers);
        for writer in self.writer.take().into_iter().chain(tiers.into_iter().flatten()) {
            self.done.push(writer.finish().map_err(Failed::Disk)?);
        }
        Ok(())
    }

    /// Writes the blocks of rollups that are full.
    fn put_blocks(&mut self) -> Result<(), Failed> {
        while let Some(block) = self.builder.next_block() {
            let tier = block.head.tier;
            let mut writer = match self.tiers[tier.index()].take() {
                Some(writer) => writer,
                None => self.create(tier.code())?,
            };
            writer.put_block(&block).map_err(Failed::Disk)?;
            self.tiers[tier.index()] = Some(writer);
        }
        Ok(())
    }

    fn take_to_roll_up(&mut self, series: Series<'_>) -> Result<(), Failed> {
        self.builder.add(series.tag, &Rows::of(series));
        self.put_blocks()
    }

    /// All files, their names durable.
    pub(super) fn finish(&mut self) -> Result<Vec<SegmentMeta>, Failed> {
        self.end()?;
        if !self.done.is_empty() {
            let synced = self.core.disk.sync_dir("segments");
            synced.map_err(|e| Failed::Disk(Error::io("sync folder", "segments", e)))?;
        }
        Ok(std::mem::take(&mut self.done))
    }

    /// Unlinks every file; what stays is moved to the trash by the next open.
    pub(super) fn discard(&mut self) {
        self.writer = None;
        self.tiers = [const { None }; Tier::ALL.len()];
        for path in self.paths.drain(..) {
            match self.core.disk.remove(&path) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn writer(&mut self) -> Result<&mut SegmentWriter, Failed> {
        if self.writer.is_none() {
            self.writer = Some(self.create(0)?);
        }
        Ok(self.writer.as_mut().expect("it was put there above"))
    }

    fn create(&mut self, tier: u8) -> Result<SegmentWriter, Failed> {
        let Style { kind, stage, seqs } = self.style;
        let (id, first_ns) = (self.core.take_segment_id(), self.first_ns);
        let (identity, effort) = (crate::ids::random(), stage.effort());
        let plan = SegmentPlan { id, kind, tier, stage, identity, seqs, first_ns, effort };
        self.paths.push(plan.path());
        SegmentWriter::create(self.core.disk.as_ref(), plan).map_err(Failed::Disk)
    }

    /// Takes the only rows of a tag.
    pub(super) fn push(&mut self, series: Series<'_>) -> Result<(), Failed> {
        if series.is_empty() {
            return Ok(());
        }
        if self.rolls_up {
            return self.take_to_roll_up(series);
        }
        self.writer()?.push(series).map_err(Failed::Disk)
    }

    /// Takes rows of a tag as chunks of its own.
    pub(super) fn extend(&mut self, series: Series<'_>) -> Result<(), Failed> {
        if series.is_empty() {
            return Ok(());
        }
        if self.rolls_up {
            return self.take_to_roll_up(series);
        }
        self.writer()?.extend(series).map_err(Failed::Disk)
    }

    /// Takes the first rows of `series` as one chunk. Gives their number.
    pub(super) fn write_one(&mut self, series: Series<'_>) -> Result<usize, Failed> {
        let rows = piece_rows(series);
        self.extend(series.slice(0..rows))?;
        Ok(rows)
    }

    /// Whether a chunk of an input of this stage is as well encoded as the outputs shall be.
    pub(super) fn takes_as_is(&self, stage: SegmentStage) -> bool {
        !self.rolls_up
            && (stage.effort() == self.style.stage.effort() || stage == SegmentStage::Final)
    }

    /// Takes a chunk as it is.
    pub(super) fn copy(
        &mut self,
        entry: &ChunkEntry,
        times: &[u8],
        body: &[u8],
    ) -> Result<(), Failed> {
        self.writer()?.copy(entry, times, body).map_err(Failed::Disk)
    }
}
