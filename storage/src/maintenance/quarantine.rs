//! Keeps the list of places that cannot be read: who comes onto it, and who leaves it.
//!
//! # Contract
//! * A place comes onto the list after it failed twice: once for whoever met it, once here, through a file opened anew.
//! * It leaves when it verifies again (the file was put back), when its segment is gone, or when it is forgotten:
//!   [`forget`] writes the readable rest of the segment as a new one, and the loss is then final.
//!   The damaged file goes to the folder [`ASIDE_DIR`], durably, before an edit lets go of it.
//! * The list is durable before a View shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

use super::draft::Draft;
use super::seal::{Ledger, commit};
use crate::chunk::SeriesBuf;
use crate::disk::Disk;
use crate::engine::core::{Core, lock};
use crate::error::{Error, Result};
use crate::ids::SegmentId;
use crate::manifest::edit::{Edit, State};
use crate::manifest::version::Version;
use crate::scan::snapshot::View;
use crate::segment::damage::{Damage, Quarantine, damage_in};
use crate::segment::name::{ASIDE_DIR, SEGMENTS_DIR, SegmentName};
use crate::segment::writer::SegmentPlan;
use crate::segment::{ChunkIndex, Segment, SegmentMeta};
use crate::tag::{TagId, ValueType};
use crate::tier::build::BlockHead;
use crate::time::TimeRange;

/// Looks after what scans have reported, and forgets places of segments that are gone.
pub(super) fn tend(core: &Core, ledger: &mut Ledger) {
    let view = core.view();
    let reported = view.reports.take();
    let lives = |damage: &Arc<Damage>| find(&view.version, damage.segment).is_some();
    if reported.is_empty() && view.quarantine.places().iter().all(lives) {
        return;
    }
    // A manifest that refuses is met by the next seal, too, and says so there.
    drop(judge(core, ledger, reported, false));
}

/// Places of one segment.
#[derive(Default)]
struct Group {
    known: Vec<Arc<Damage>>,
    new: Vec<Arc<Damage>>,
}

/// Puts those of `suspects` on the list that still do not verify; with `again`, those that verify leave it.
pub(super) fn judge(
    core: &Core,
    ledger: &mut Ledger,
    suspects: Vec<Damage>,
    again: bool,
) -> Result<()> {
    let view = core.view();
    let old = view.quarantine.places();
    let mut groups: BTreeMap<SegmentId, Group> = BTreeMap::new();
    for damage in old {
        groups.entry(damage.segment).or_default().known.push(Arc::clone(damage));
    }
    for damage in suspects {
        groups.entry(damage.segment).or_default().new.push(Arc::new(damage));
    }
    let mut stand = Vec::new();
    for (segment, Group { known, new }) in groups {
        let Some(segment) = find(&view.version, segment) else { continue };
        if again {
            let verified = segment.verify_again(&known).into_iter();
            stand.extend(known.into_iter().zip(verified).filter(|(_, v)| v.is_err()).map(|d| d.0));
        } else {
            stand.extend(known);
        }
        if !new.is_empty() {
            let is_bad = |v: &Result<()>| v.as_ref().is_err_and(|e| damage_in(e).is_some());
            let verified = segment.verify_again(&new).into_iter();
            stand.extend(new.into_iter().zip(verified).filter(|(_, v)| is_bad(v)).map(|d| d.0));
        }
    }
    let meta_of = |id| find(&view.version, id).map(|segment| segment.meta());
    let quarantine = Quarantine::bounded(stand, meta_of);
    if quarantine.places() == old {
        return Ok(());
    }
    let healed = old.iter().map(|damage| damage.segment);
    let healed: Vec<SegmentId> = healed.filter(|id| quarantine.of(*id).is_empty()).collect();
    let state = State { quarantine: quarantine.places().to_vec(), ..ledger.state.clone() };
    commit(core, ledger, Edit { state, ..Edit::default() }, &view.version)?;
    // A file that was put back has another inode than the one that is open.
    let anew = |segment: &Arc<Segment>| {
        let is_healed = healed.contains(&segment.meta().id);
        if is_healed { Arc::new(segment.reopened()) } else { Arc::clone(segment) }
    };
    let _install = lock(&core.install);
    let mut next = View::clone(&core.view());
    next.version = Version::new(next.version.all().map(anew).collect());
    next.quarantine = quarantine;
    core.swap(next);
    Ok(())
}

/// Gives up what the damaged places of a segment held. Gives the segment that holds the rest, if there is any.
pub(super) fn forget(
    core: &Core,
    ledger: &mut Ledger,
    segment: SegmentId,
) -> Result<Option<SegmentId>> {
    let view = core.view();
    let places = view.quarantine.of(segment);
    let is_damaged = view.quarantine.touches(segment, TagId(0), TagId(u32::MAX));
    let damaged = find(&view.version, segment).filter(|_| is_damaged);
    let Some(damaged) = damaged else {
        let why = format!("segment {segment} has no damaged place: nothing is to be forgotten");
        return Err(Error::Invalid(why));
    };
    let mut draft = Draft::new(&core.disk);
    let rest = write_rest(core, damaged, places, &mut draft)?;
    let open = |meta: &SegmentMeta| Arc::new(Segment::new(Arc::clone(&core.disk), meta.clone()));
    let version = view.version.without(&[segment]).with(rest.iter().map(open).collect());
    let others = view.quarantine.places().iter().filter(|damage| damage.segment != segment);
    let quarantine = Quarantine::new(others.cloned().collect());
    let state = State { quarantine: quarantine.places().to_vec(), ..ledger.state.clone() };
    let id = rest.as_ref().map(|meta| meta.id);
    let edit = Edit { remove: vec![segment], add: rest.into_iter().collect(), state };
    let aside = Aside::put(&core.disk, damaged.meta())?;
    let edited = draft.decide(commit(core, ledger, edit, &version));
    aside.decide(edited)?;
    let mut change = |view: &mut View| {
        (view.version, view.quarantine) = (version.clone(), quarantine.clone());
        touched(view, places)
    };
    core.show(core.look_ahead(&mut change), &mut change);
    Ok(id)
}

/// A damaged file that is no longer a segment. It is kept where no open takes it for the rest of a crash, for someone with
/// better tools.
struct Aside<'a> {
    disk: &'a Arc<dyn Disk>,
    name: String,
}

impl<'a> Aside<'a> {
    /// Moves the file, durably, before an edit lets go of the segment. An open that finds the edit missing moves it back
    /// ([`take_back`]). Scans that have it open read on.
    fn put(disk: &'a Arc<dyn Disk>, meta: &SegmentMeta) -> Result<Self> {
        let name = SegmentName::in_path(&meta.path()).to_owned();
        let aside = Self { disk, name };
        let io = |e| Error::io("set the damaged file aside", meta.path(), e);
        disk.create_dir(ASIDE_DIR).and_then(|()| disk.sync_dir("")).map_err(io)?;
        match disk.rename(&meta.path(), &format!("{ASIDE_DIR}/{}", aside.name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(aside), // it is lost
            moved => moved.map_err(io)?,
        }
        let synced = disk.sync_dir(ASIDE_DIR).and_then(|()| disk.sync_dir(SEGMENTS_DIR));
        synced.map_err(io).inspect_err(|_| aside.undo())?;
        Ok(aside)
    }

    /// What the edit says: if it was not made the file goes back.
    fn decide<T>(self, edited: Result<T>) -> Result<T> {
        if !matches!(edited, Ok(_) | Err(Error::Poisoned { .. })) {
            self.undo();
        }
        edited
    }

    /// Best effort: the next open does it too.
    fn undo(&self) {
        drop(take_back(self.disk, &self.name));
    }
}

/// Puts a file that was set aside back among the segments.
pub(crate) fn take_back(disk: &Arc<dyn Disk>, name: &str) -> std::io::Result<()> {
    disk.rename(&format!("{ASIDE_DIR}/{name}"), &format!("{SEGMENTS_DIR}/{name}"))?;
    disk.sync_dir(SEGMENTS_DIR).and_then(|()| disk.sync_dir(ASIDE_DIR))
}

/// Tags whose latest sample may have been at these places, or hidden by them.
fn touched(view: &View, places: &[Arc<Damage>]) -> BTreeSet<TagId> {
    let tags = view.registry.iter().map(|tag| tag.id);
    let concerns = |tag: &TagId| {
        let latest = view.latest.get(*tag).map(|entry| entry.time_ns);
        places.iter().any(|damage| {
            let is_there = latest.is_none_or(|latest_ns| damage.range().contains(latest_ns));
            is_there && damage.touches(*tag, *tag)
        })
    };
    tags.filter(concerns).collect()
}

/// Writes the readable chunks of a segment into a new one. A further place that cannot be read is reported, and ends it.
fn write_rest(
    core: &Core,
    segment: &Arc<Segment>,
    places: &[Arc<Damage>],
    draft: &mut Draft,
) -> Result<Option<SegmentMeta>> {
    if places.iter().any(|damage| damage.is_whole()) {
        return Ok(None);
    }
    let report = |damage: Option<Damage>| {
        if let Some(damage) = damage {
            core.view().reports.leave(damage);
        }
    };
    if !segment.meta().is_raw() {
        return write_rest_of_tier(core, segment, places, draft, &report);
    }
    let Readable { chunks, first_ns } = readable(segment, places, &report)?;
    if chunks.is_empty() {
        return Ok(None);
    }
    let old = segment.meta();
    let mut writer = draft.begin(rest_of(core, old, first_ns))?;
    let mut cursor = segment.cursor();
    for (tag, chunks) in chunks {
        let mut rows: Option<SeriesBuf> = None;
        for (chunk, value_type) in chunks {
            let rows = rows.get_or_insert_with(|| SeriesBuf::new(tag, value_type));
            let read = cursor.read(chunk, tag, TimeRange::ALL, true, true, rows);
            read.inspect_err(|error| report(cursor.damage(chunk, error)))?;
        }
        let Some(rows) = rows else { continue };
        writer.push(rows.as_series())?;
    }
    let meta = writer.finish()?;
    draft.sync()?;
    Ok(Some(meta))
}

/// A segment in the place of another.
fn rest_of(core: &Core, old: &SegmentMeta, first_ns: i64) -> SegmentPlan {
    SegmentPlan {
        id: core.take_segment_id(),
        kind: old.kind,
        tier: old.tier,
        stage: old.stage,
        identity: crate::ids::random(),
        seqs: (old.min_seq, old.max_seq),
        first_ns,
        effort: old.stage.effort(),
    }
}

/// The same of a segment in which nothing but rollups is left.
fn write_rest_of_tier(
    core: &Core,
    segment: &Segment,
    places: &[Arc<Damage>],
    draft: &mut Draft,
    report: &dyn Fn(Option<Damage>),
) -> Result<Option<SegmentMeta>> {
    let (directory, old) = (segment.directory()?, segment.meta());
    let is_lost = |head: &BlockHead| places.iter().any(|damage| damage.covers_block(head));
    let left = || directory.tiers().iter().filter(|entry| !is_lost(&entry.head));
    let Some(first_ns) = left().map(|entry| entry.head.first_ns).min() else { return Ok(None) };
    let mut writer = draft.begin(rest_of(core, old, first_ns))?;
    for entry in left() {
        let block = segment.read_block(entry).inspect_err(|error| {
            let why = damage_in(error);
            report(why.map(|why| Damage::block(old.id, &entry.head, why)));
        })?;
        writer.put_block(&block)?;
    }
    let meta = writer.finish()?;
    draft.sync()?;
    Ok(Some(meta))
}

/// What of a segment can be read.
struct Readable {
    /// Chunks by tag, in time order.
    chunks: BTreeMap<TagId, Vec<(ChunkIndex, ValueType)>>,
    /// The least time in them.
    first_ns: i64,
}

/// Finds the chunks outside of the damaged places.
fn readable(
    segment: &Arc<Segment>,
    places: &[Arc<Damage>],
    report: &dyn Fn(Option<Damage>),
) -> Result<Readable> {
    let directory = segment.directory()?;
    let (mut chunks, mut first_ns) = (BTreeMap::<TagId, Vec<_>>::new(), i64::MAX);
    let mut buffer = Vec::new();
    for index in directory.indices() {
        let entry = directory.entry(index);
        if Quarantine::covering(places, &entry).is_some() {
            continue;
        }
        first_ns = first_ns.min(entry.first_ns);
        let mut put = |tag| chunks.entry(tag).or_default().push((index, entry.value_type));
        if entry.packed {
            let rows = segment.read_packed(&entry, &mut buffer).inspect_err(|error| {
                let why = damage_in(error);
                report(why.map(|why| Damage::chunk(segment.meta().id, &entry, why)));
            })?;
            rows.tags().iter().for_each(|tag| put(TagId(*tag)));
        } else {
            put(entry.first_tag);
        }
    }
    Ok(Readable { chunks, first_ns })
}

fn find(version: &Version, id: SegmentId) -> Option<&Arc<Segment>> {
    version.find(id)
}
