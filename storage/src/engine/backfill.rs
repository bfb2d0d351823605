//! Backfill as callers see it: push columns in any order, finish, done. See [`crate::maintenance::backfill`].

use std::mem;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use super::Engine;
use super::core::Core;
use super::prepare::{self, Checked};
use crate::error::{Error, Result};
use crate::head::run::Run;
use crate::ids::Seq;
use crate::limits;
use crate::maintenance::Request;
use crate::maintenance::backfill::spills::Spills;
use crate::maintenance::backfill::{self, Facts};
use crate::sample::{Batch, Origin, Reject, TagColumn};

/// A bulk load on its way: nothing of it is visible before [`Self::finish`], and nothing remains if it is dropped.
///
/// Samples are sorted by it, so they may come in any order; of equal keys the one pushed last stays. They overwrite what
/// was written before the finish, and are overwritten by what is written after it. Memory is bounded by
/// [`crate::Options::backfill_bytes`], one push, and the samples of one tag and day.
///
/// ```
/// use tagmill_storage::*;
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("plant");
/// let engine = Engine::open(&path, Options::default())?;
/// let tag = engine.define(&[TagDefinition::new("U1/TI-101.PV", ValueType::F64)])?[0];
/// let mut backfill = engine.backfill("history of 2019")?;
/// let times = (0..100_000).map(|n| 1_546_300_800_000_000_000 + n * SECOND_NS).collect();
/// let values = Values::F64((0..100_000).map(f64::from).collect());
/// backfill.push(vec![TagColumn { tag, times, values, qualities: Qualities::GOOD }])?;
/// let report = backfill.finish()?; // on disk, and visible
/// assert_eq!((report.rows, report.segments), (100_000, 2)); // two days
/// assert!(engine.backfill("history of 2019")?.is_done());
/// # Ok::<(), tagmill_storage::Error>(())
/// ```
#[derive(Debug)]
pub struct Backfill {
    core: Arc<Core>,
    requests: mpsc::SyncSender<Request>,
    facts: Facts,
    is_done: bool,
    /// Why it cannot be finished any more.
    failed: Option<Error>,
    runs: Vec<Run>,
    bytes: u64,
    spilling: Option<JoinHandle<Result<Spills>>>,
    spills: Spills,
}

/// What became of pushed samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Samples taken, repeated keys counted each.
    pub accepted: u64,
    /// What was left out, and why. The rest was taken.
    pub rejects: Vec<Reject>,
}

/// What a backfill has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackfillReport {
    /// Samples, each key once.
    pub rows: u64,
    /// Segments.
    pub segments: u64,
    /// Length of their files.
    pub bytes: u64,
    /// Its place in the order of writes.
    pub seq: Seq,
    /// Whether a backfill of this id was finished before, and nothing was written now.
    pub already_done: bool,
}

impl Engine {
    /// Begins a bulk load that bypasses the log. `import_id` names it: what is finished once is not written again. The
    /// engine remembers the newest [`limits::IMPORTS_MAX`] ids.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the id is empty, longer than [`limits::IMPORT_ID_BYTES_MAX`] or holds control characters.
    pub fn backfill(&self, import_id: &str) -> Result<Backfill> {
        let is_usable = !import_id.is_empty()
            && import_id.len() <= limits::IMPORT_ID_BYTES_MAX
            && !import_id.chars().any(char::is_control);
        if !is_usable {
            let most = limits::IMPORT_ID_BYTES_MAX;
            let why = format!("an import id has 1 to {most} bytes and no control characters");
            return Err(Error::Invalid(why));
        }
        let is_done = self.core.view().imports.iter().any(|(id, _)| id.as_ref() == import_id);
        Ok(Backfill {
            core: Arc::clone(&self.core),
            requests: self.requests.clone(),
            facts: Facts { id: Arc::from(import_id), ..Facts::default() },
            is_done,
            failed: None,
            runs: Vec::new(),
            bytes: 0,
            spilling: None,
            spills: Spills::default(),
        })
    }

    /// Ids of the backfills that are done, ascending, and their place in the order of writes.
    pub fn imports(&self) -> Vec<(Arc<str>, Seq)> {
        self.core.view().imports.to_vec()
    }
}

impl Backfill {
    /// Whether a backfill of this id was finished before: pushes are then thrown away.
    pub const fn is_done(&self) -> bool {
        self.is_done
    }

    /// Lets the finish move a gateway's mark too, at the same instant: for imports that were begun through the log.
    pub fn set_origin(&mut self, origin: Origin) {
        self.facts.origin = Some(origin);
    }

    /// Takes samples, checked like those of [`Engine::append`]. Tags may be reserved only.
    ///
    /// # Errors
    /// If the disk refuses what memory has no room for; the backfill can then only be dropped.
    pub fn push(&mut self, columns: Vec<TagColumn>) -> Result<Pushed> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.is_done {
            return Ok(Pushed { accepted: 0, rejects: Vec::new() });
        }
        let batch = Batch { columns, ..Batch::default() };
        let Checked { block, defines } = prepare::check(&self.core, &batch);
        drop(batch);
        let pushed = Pushed { accepted: block.accepted, rejects: block.rejects };
        if block.run.times.is_empty() {
            return Ok(pushed);
        }
        self.facts.defines.extend(defines.into_iter().map(|tag| (tag.id, tag)));
        self.facts.observe(&block.run);
        self.bytes += backfill::bytes_of(&block.run);
        self.runs.push(block.run);
        // Half is filled while the other half is on its way to the disk.
        if self.bytes >= self.core.options.backfill_bytes / 2
            && let Err(error) = self.spill()
        {
            self.failed = Some(error.clone());
            return Err(error);
        }
        Ok(pushed)
    }

    /// Writes everything and makes it visible, at once. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`]: nothing of it was taken in. [`Error::Fenced`]: a newer session of the gateway
    /// has taken over. [`Error::Poisoned`], [`Error::Closed`]: reopen to find out.
    pub fn finish(mut self) -> Result<BackfillReport> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.is_done {
            let done = self.core.view();
            let place = done.imports.iter().find(|(id, _)| *id == self.facts.id);
            let seq = place.map_or(Seq(0), |(_, seq)| *seq);
            return Ok(BackfillReport { seq, already_done: true, ..BackfillReport::default() });
        }
        self.join_spill()?;
        let (facts, runs) = (mem::take(&mut self.facts), mem::take(&mut self.runs));
        if facts.firsts.is_empty() {
            return Ok(BackfillReport::default()); // no sample was taken: there is nothing to remember
        }
        let spills = mem::take(&mut self.spills);
        let prepared = backfill::write(&self.core, facts, runs, spills)?;
        let (rows, bytes, segments) = prepared.figures();
        let (reply, answer) = mpsc::sync_channel(1);
        let asked = self.requests.send(Request::Backfill(Box::new(prepared), reply));
        asked.map_err(|_| Error::Closed)?;
        let installed = answer.recv().map_err(|_| Error::Closed)??;
        let seq = installed.seq;
        if installed.is_repeated {
            return Ok(BackfillReport { seq, already_done: true, ..BackfillReport::default() });
        }
        Ok(BackfillReport { rows, segments, bytes, seq, already_done: false })
    }

    fn spill(&mut self) -> Result<()> {
        self.join_spill()?;
        let (disk, runs) = (Arc::clone(&self.core.disk), mem::take(&mut self.runs));
        self.bytes = 0;
        let mut spills = mem::take(&mut self.spills);
        self.spilling = Some(super::spawn("tagmill-spill", move || {
            spills.push(&disk, &runs)?;
            Ok(spills)
        })?);
        Ok(())
    }

    fn join_spill(&mut self) -> Result<()> {
        let Some(spilling) = self.spilling.take() else { return Ok(()) };
        self.spills = spilling.join().unwrap_or(Err(Error::Closed))?;
        Ok(())
    }
}

impl Drop for Backfill {
    fn drop(&mut self) {
        // Nothing is left running, and spills unlink themselves.
        let _dropped = self.join_spill();
    }
}
