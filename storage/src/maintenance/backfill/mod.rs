//! Backfill: a bulk load that bypasses the log and ends in one manifest edit.
//!
//! # Order
//! The segments are written first, by the caller's threads ([`write()`]), while everything else goes on. Then, in one step
//! of the maintenance thread ([`install`]): a small record takes a place in the order of writes; the head is sealed up
//! to it; the segments get that place, as base where they are newer than everything sealed of their tags, else late;
//! checkpoint; then the manifest edit with the segments and the import id, which is the commit point; then the View.
//! A crash before the edit leaves files that the next open moves to `trash/`, and nothing else.
//!
//! # Reading order
//! [`spill`] (sorted runs on disk), [`spills`] (all of them), [`merge`] (all rows in order), [`write`](mod@write), then this file.

pub(crate) mod merge;
pub(crate) mod spill;
pub(crate) mod spills;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::draft::{Draft, unlink};
use super::seal::{self, Ledger, commit};
use crate::engine::core::{Core, lock};
use crate::error::{Error, Result};
use crate::head::latest::{Entry, LatestTable};
use crate::head::run::Run;
use crate::ids::Seq;
use crate::limits::{IMPORTS_MAX, PAGE_TAGS};
use crate::manifest::checkpoint::{self, SealedUntil, raise};
use crate::manifest::edit::{Edit, State};
use crate::metrics::count;
use crate::planted::{self, Bug};
use crate::registry::Change;
use crate::sample::Origin;
use crate::scan::snapshot::View;
use crate::segment::Segment;
use crate::segment::meta::{SegmentKind, SegmentMeta};
use crate::tag::{Tag, TagId};
use crate::wal::record::Content;
use merge::{Piece, Rows};
use spills::Spills;

/// What is known of a backfill besides its rows.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) id: Arc<str>,
    /// The gateway's mark that moves with it.
    pub(crate) origin: Option<Origin>,
    /// Newest sample of each tag.
    pub(crate) newest: LatestTable,
    /// First time of each tag by its id; `i64::MAX` where there is none.
    pub(crate) firsts: Vec<i64>,
    /// Tags that were not durable when their samples came.
    pub(crate) defines: BTreeMap<TagId, Arc<Tag>>,
}

impl Facts {
    /// Takes note of a run that is newer than all before.
    pub(crate) fn observe(&mut self, run: &Run) {
        self.newest.observe(run);
        for span in &run.spans {
            let at = span.tag.index();
            if self.firsts.len() <= at {
                self.firsts.resize((at + 1).next_multiple_of(PAGE_TAGS), i64::MAX);
            }
            self.firsts[at] = self.firsts[at].min(run.times[span.start]);
        }
    }
}

/// A backfill whose segments are written.
#[derive(Debug)]
pub(crate) struct Prepared {
    facts: Facts,
    metas: Vec<SegmentMeta>,
    draft: Draft,
}

/// What became of a backfill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Installed {
    pub(crate) seq: Seq,
    pub(crate) is_repeated: bool,
}

/// Memory that a run takes until it is written.
pub(crate) fn bytes_of(run: &Run) -> u64 {
    run.bytes() + run.spans.len() as u64 * Piece::BYTES
}

/// Writes the segments of a backfill: rows of `runs` and of `spills`, all of which are older.
pub(crate) fn write(
    core: &Core,
    facts: Facts,
    runs: Vec<Run>,
    mut spills: Spills,
) -> Result<Prepared> {
    let rows = if spills.is_empty() {
        let pieces = Piece::all_of(&runs);
        Rows::Memory(runs, pieces)
    } else {
        if !runs.is_empty() {
            spills.push(&core.disk, &runs)?;
        }
        drop(runs);
        Rows::Spilled(spills.finish(&core.disk)?)
    };
    let write::Written { metas, draft } = write::write(core, &rows)?;
    Ok(Prepared { facts, metas, draft })
}

impl Prepared {
    /// Rows and bytes of the segments, and how many there are.
    pub(crate) fn figures(&self) -> (u64, u64, u64) {
        let rows = self.metas.iter().map(|meta| meta.rows).sum();
        let bytes = self.metas.iter().map(|meta| meta.file_bytes).sum();
        (rows, bytes, self.metas.len() as u64)
    }
}

/// Takes a backfill in, whole or not at all.
pub(crate) fn install(core: &Core, ledger: &mut Ledger, prepared: Prepared) -> Result<Installed> {
    let Prepared { facts, mut metas, mut draft } = prepared;
    if let Some(seq) = repeated(core, &facts)? {
        return Ok(Installed { seq, is_repeated: true });
    }
    let seq = take_seq(core, &facts)?;
    // The gateway may have come that far through the log while the place was taken.
    if repeated(core, &facts)?.is_some() {
        return Ok(Installed { seq, is_repeated: true });
    }
    // All that came before gets a lesser place; the record that took this one says nothing more.
    let before = Seq(seq.0 - 1);
    if ledger.state.floor < before {
        seal::seal_view(core, ledger, &core.view().cut(before))?;
    }
    let bar_ns = bar(&ledger.sealed_until, &facts.firsts);
    for meta in &mut metas {
        let is_newer = meta.first_ns > bar_ns;
        meta.kind = if is_newer { SegmentKind::Base } else { SegmentKind::Late };
        (meta.min_seq, meta.max_seq) = (seq, seq);
    }
    let taken = put(core, ledger, &facts, &metas, (seq, &mut draft));
    draft.decide(taken)?;
    Ok(Installed { seq, is_repeated: false })
}

/// The place of this backfill if it was taken in before.
fn repeated(core: &Core, facts: &Facts) -> Result<Option<Seq>> {
    let view = core.view();
    if let Some((_, seq)) = view.imports.iter().find(|(id, _)| *id == facts.id) {
        return Ok(Some(*seq));
    }
    let Some(origin) = &facts.origin else { return Ok(None) };
    let gateway = || origin.gateway.to_string();
    if lock(&core.sessions).is_fenced(&origin.gateway, origin.session) {
        return Err(Error::Fenced { gateway: gateway() });
    }
    let known = view.gateways.get(&origin.gateway).map_or((0, 0), |known| (known.epoch, known.seq));
    if known.0 > origin.epoch {
        return Err(Error::Fenced { gateway: gateway() });
    }
    Ok((known >= (origin.epoch, origin.seq)).then_some(view.durable_seq))
}

/// Makes the backfill's tags durable and takes its place: later writes win over it, earlier ones lose.
fn take_seq(core: &Core, facts: &Facts) -> Result<Seq> {
    const DEFINITIONS: usize = 1_000;
    let known = core.view();
    let defines = facts.defines.values().filter(|tag| known.registry.get(tag.id).is_none());
    let defines: Vec<Change> = defines.map(|tag| Change::Define(Arc::clone(tag))).collect();
    for changes in defines.chunks(DEFINITIONS) {
        core.write(Content { changes: changes.to_vec(), ..Content::default() })?;
    }
    core.write(Content::place(&format!("backfill {}", facts.id)))
}

/// A segment whose every row is newer than this is newer than everything sealed of its tags.
fn bar(sealed_until: &SealedUntil, firsts: &[i64]) -> i64 {
    let both = sealed_until.iter().zip(firsts);
    both.filter(|(until, first)| first <= until).map(|(until, _)| *until).max().unwrap_or(i64::MIN)
}

/// Commits, and shows it.
fn put(
    core: &Core,
    ledger: &mut Ledger,
    facts: &Facts,
    metas: &[SegmentMeta],
    (seq, draft): (Seq, &mut Draft),
) -> Result<()> {
    let disk = &core.disk;
    let open = |meta: &SegmentMeta| Arc::new(Segment::new(Arc::clone(disk), meta.clone()));
    let segments: Vec<Arc<Segment>> = metas.iter().map(open).collect();
    let mut change = |view: &mut View| {
        view.version = view.version.with(segments.clone());
        if let Some(origin) = &facts.origin {
            Arc::make_mut(&mut view.gateways).advance(origin);
        }
        view.observe_backfill(&facts.newest, seq)
    };
    let ahead = core.look_ahead(&mut change);
    let view = ahead.view();
    let mut sealed_until = ledger.sealed_until.clone();
    for (tag, entry) in facts.newest.iter() {
        raise(&mut sealed_until, tag, entry.time_ns);
    }
    let old_checkpoint = ledger.state.latest_file;
    let latest_file = old_checkpoint + 1;
    draft.add(checkpoint::path(latest_file));
    checkpoint::write(disk, latest_file, &view.latest, &view.stale, &sealed_until)?;
    disk.sync_dir("").map_err(|e| Error::io("sync database folder", disk.root(), e))?;
    let state = State {
        floor: seq,
        next_segment: core.next_segment(),
        latest_file,
        imports: if planted::is(Bug::ImportForgotten) {
            Vec::new()
        } else {
            imports(&ledger.state.imports, &facts.id, seq)
        },
        marks: marks(&ledger.state.marks, facts.origin.as_ref()),
        ..ledger.state.clone()
    };
    let imports = Arc::new(state.imports.clone());
    let edit = Edit { remove: Vec::new(), add: metas.to_vec(), state };
    commit(core, ledger, edit, &view.version)?;
    // No log tells of a backfill: with an edit behind it, a bad byte in its own is told from a torn end. It is done all the
    // same if this fails, and the next writer is told.
    let mark = Edit { state: ledger.state.clone(), ..Edit::default() };
    match commit(core, ledger, mark, &view.version) {
        Ok(()) | Err(_) => {}
    }
    count(&core.counters.backfill_samples, metas.iter().map(|meta| meta.rows).sum());
    count(&core.counters.backfill_bytes, metas.iter().map(|meta| meta.file_bytes).sum());
    ledger.sealed_until = sealed_until;
    core.show(ahead, &mut |view| {
        view.imports = Arc::clone(&imports);
        change(view)
    });
    if old_checkpoint > 0 {
        unlink(disk, &[checkpoint::path(old_checkpoint)]);
    }
    Ok(())
}

/// The imports that are done, with one more; the oldest are forgotten when there are too many.
fn imports(known: &[(Arc<str>, Seq)], id: &Arc<str>, seq: Seq) -> Vec<(Arc<str>, Seq)> {
    let mut imports = known.to_vec();
    imports.push((Arc::clone(id), seq));
    if imports.len() > IMPORTS_MAX
        && let Some(oldest) = (0..imports.len()).min_by_key(|at| imports[*at].1)
    {
        imports.remove(oldest);
    }
    imports.sort();
    imports
}

/// The gateways' marks with that of the backfill, which moves none back: what the log brought meanwhile is behind the
/// floor, and nothing else would say that it was taken.
fn marks(known: &[(Arc<str>, u64, u64)], origin: Option<&Origin>) -> Vec<(Arc<str>, u64, u64)> {
    let mut marks = known.to_vec();
    let Some(origin) = origin else { return marks };
    let own = (Arc::clone(&origin.gateway), origin.epoch, origin.seq);
    match marks.iter_mut().find(|(gateway, ..)| *gateway == origin.gateway) {
        Some(mark) => *mark = own.max(mark.clone()),
        None => marks.push(own),
    }
    marks.sort();
    marks
}

impl View {
    /// What is visible up to `through`, for a seal of that much of the head.
    fn cut(&self, through: Seq) -> Self {
        let mut view = self.clone();
        view.head.keep_through(through);
        let older = self.tombstones.iter().filter(|tombstone| tombstone.seq <= through);
        view.tombstones = crate::head::tombstone::Tombstones::new(older.cloned().collect());
        view.durable_seq = through;
        view
    }

    /// Takes the newest samples of a backfill whose segments are in the version and whose place is `seq`. Gives the tags
    /// of which only the rows say what is newest.
    fn observe_backfill(&mut self, newest: &LatestTable, seq: Seq) -> BTreeSet<TagId> {
        let mut unclear = BTreeSet::new();
        for (tag, entry) in newest.iter() {
            let have = self.latest.get(tag);
            if have.is_some_and(|have| have.time_ns > entry.time_ns || have == entry) {
                continue;
            }
            let is_hidden = self.tombstones.any_after(seq)
                && self.tombstones.hiding(tag, seq).iter().any(|r| r.contains(entry.time_ns));
            // A delete came later, or a write at the same instant earlier or later: the rows say which.
            if is_hidden || have.is_some_and(|have| have.time_ns == entry.time_ns) {
                unclear.insert(tag);
            } else {
                self.latest.set(tag, Some(Entry::clone(entry)));
            }
        }
        unclear
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mark_moves_back() {
        let origin = |epoch, seq| Origin { gateway: Arc::from("gw"), epoch, seq, session: 1 };
        let mark = |gateway: &str, epoch, seq| (Arc::from(gateway), epoch, seq);
        let known = [mark("a", 1, 1), mark("gw", 2, 9)];
        for (epoch, seq, want) in
            [(2, 5, (2, 9)), (1, 20, (2, 9)), (2, 10, (2, 10)), (3, 1, (3, 1))]
        {
            let want = [mark("a", 1, 1), mark("gw", want.0, want.1)];
            assert_eq!(marks(&known, Some(&origin(epoch, seq))), want);
        }
        assert_eq!(marks(&known[..1], Some(&origin(1, 1))), [mark("a", 1, 1), mark("gw", 1, 1)]);
        assert_eq!(marks(&known, None), known);
    }
}
