//! The files of one day that a compaction writes.
//!
//! A file is made when its first row comes. Files that the manifest does not name in the end are unlinked.

use crate::chunk::builder::piece_rows;
use crate::chunk::{ChunkEntry, Series};
use crate::engine::core::Core;
use crate::error::Error;
use crate::ids::Seq;
use crate::segment::name::SegmentName;
use crate::segment::writer::{SegmentPlan, SegmentWriter};
use crate::segment::{SegmentKind, SegmentMeta, SegmentStage};

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
    done: Vec<SegmentMeta>,
    paths: Vec<String>,
}

impl<'a> Output<'a> {
    pub(super) fn new(core: &'a Core, style: Style) -> Self {
        Self { core, style, first_ns: 0, writer: None, done: Vec::new(), paths: Vec::new() }
    }

    /// Rows from `first_ns` on go into a new file.
    pub(super) fn begin(&mut self, first_ns: i64, seqs: (Seq, Seq)) -> Result<(), Failed> {
        self.end()?;
        (self.first_ns, self.style.seqs) = (first_ns, seqs);
        Ok(())
    }

    /// Ends the file, if there is one.
    fn end(&mut self) -> Result<(), Failed> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        self.done.push(writer.finish().map_err(Failed::Disk)?);
        Ok(())
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
        for path in self.paths.drain(..) {
            match self.core.disk.remove(&path) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn writer(&mut self) -> Result<&mut SegmentWriter, Failed> {
        if self.writer.is_none() {
            let Style { kind, stage, seqs } = self.style;
            let (id, first_ns) = (self.core.take_segment_id(), self.first_ns);
            let (identity, effort) = (crate::ids::random(), stage.effort());
            let plan = SegmentPlan { id, kind, stage, identity, seqs, first_ns, effort };
            self.paths.push(SegmentName::new(0, first_ns, id).path());
            let made = SegmentWriter::create(self.core.disk.as_ref(), plan);
            self.writer = Some(made.map_err(Failed::Disk)?);
        }
        Ok(self.writer.as_mut().expect("it was put there above"))
    }

    /// Takes the only rows of a tag.
    pub(super) fn push(&mut self, series: Series<'_>) -> Result<(), Failed> {
        if series.is_empty() {
            return Ok(());
        }
        self.writer()?.push(series).map_err(Failed::Disk)
    }

    /// Takes rows of a tag as chunks of its own.
    pub(super) fn extend(&mut self, series: Series<'_>) -> Result<(), Failed> {
        if series.is_empty() {
            return Ok(());
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
        stage.effort() == self.style.stage.effort() || stage == SegmentStage::Final
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
