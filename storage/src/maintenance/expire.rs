//! Retention: raises the horizons as time passes, and lets go of segments of which everything has ended.
//!
//! # Order
//! One manifest edit with the new horizons, and without the segments that end before all of them; then the View with
//! both, from which on no read shows what has ended; then the files are unlinked, each when the last View that pins it
//! is gone. Segments that hold tags of several classes are looked into afterwards, one a turn: once when they may hold
//! something that has ended, and again each time a horizon reaches them. Of those that must stay for some of their tags it
//! is noted how much of them has ended, and whether rollups shall outlive some of their samples, so that compaction can
//! write them again without the one, and roll the other up.
//!
//! # Clock
//! Time is the wall clock, but at most a day past the newest sample: a plant that sends nothing loses nothing. While the
//! clock has leapt (see [`ClockWatch`]) no horizon is raised.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::seal::{Ledger, commit};
use crate::engine::core::{Core, lock};
use crate::error::Result;
use crate::ids::SegmentId;
use crate::manifest::edit::{Edit, State};
use crate::retention::{ClockWatch, Horizons};
use crate::scan::snapshot::View;
use crate::segment::{Segment, SegmentMeta};
use crate::tag::TagId;
use crate::tier::build::BlockHead;
use crate::time::DAY_NS;

/// How long a failed step rests before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What maintenance knows of retention between two looks.
#[derive(Debug)]
pub(crate) struct Expiry {
    watch: ClockWatch,
    /// Segments to be looked into.
    unseen: VecDeque<SegmentId>,
    /// Segments that were looked into, and that no horizon has reached since.
    seen: HashSet<SegmentId>,
    rest_until: Option<Instant>,
}

impl Expiry {
    /// Begins to watch the clock of an engine that was just opened.
    pub(crate) fn new(core: &Core) -> Self {
        let view = core.view();
        let (wall_ns, monotonic_ns) = (core.clock.wall_ns(), core.clock.monotonic_ns());
        let watch = ClockWatch::new(view.latest.newest_ns(), wall_ns, monotonic_ns);
        Self { watch, unseen: candidates(&view), seen: HashSet::new(), rest_until: None }
    }

    /// Raises what is due and looks into one segment. What fails is tried again later.
    pub(crate) fn step(&mut self, core: &Core, ledger: &mut Ledger) {
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let done = self.raise(core, ledger).and_then(|()| self.look(core, ledger, 1));
        self.rest_until = done.is_err().then(|| Instant::now() + RETRY);
    }

    /// Raises what is due and lets go of every segment that has ended.
    pub(crate) fn run(&mut self, core: &Core, ledger: &mut Ledger) -> Result<()> {
        self.raise(core, ledger)?;
        self.unseen = candidates(&core.view());
        self.look(core, ledger, usize::MAX)
    }

    /// Believes the wall clock, and goes on.
    pub(crate) fn confirm(&mut self, core: &Core, ledger: &mut Ledger) -> Result<()> {
        self.watch.confirm(core.clock.wall_ns(), core.clock.monotonic_ns());
        self.run(core, ledger)
    }

    fn raise(&mut self, core: &Core, ledger: &mut Ledger) -> Result<()> {
        let view = core.view();
        let wall_ns = core.clock.wall_ns();
        let is_paused = !self.watch.is_believable(wall_ns, core.clock.monotonic_ns());
        if is_paused != view.horizons.is_paused {
            let _install = lock(&core.install);
            let mut next = View::clone(&core.view());
            Arc::make_mut(&mut next.horizons).is_paused = is_paused;
            core.swap(next);
        }
        let Some(newest_ns) = view.latest.newest_ns().filter(|_| !is_paused) else { return Ok(()) };
        let now_ns = wall_ns.min(newest_ns.saturating_add(DAY_NS));
        let Some(raised) = core.view().horizons.raised(now_ns) else { return Ok(()) };
        let segments = view.version.all();
        let ended = segments.filter(|segment| has_ended(segment.meta(), &raised));
        let ended: Vec<SegmentId> = ended.map(|segment| segment.meta().id).collect();
        let before = Arc::clone(&view.horizons);
        let_go(core, ledger, raised, &ended)?;
        let view = core.view();
        let segments = view.version.all().map(|segment| segment.meta());
        let reached =
            |meta: &SegmentMeta| view.horizons.has_reached(&before, meta.first_ns, meta.last_ns);
        let seen = segments.filter(|meta| self.seen.contains(&meta.id) && !reached(meta));
        self.seen = seen.map(|meta| meta.id).collect();
        self.unseen = candidates(&view);
        self.unseen.retain(|id| !self.seen.contains(id));
        Ok(())
    }

    /// Looks into up to `count` segments and lets go of those that have ended.
    fn look(&mut self, core: &Core, ledger: &mut Ledger, count: usize) -> Result<()> {
        let view = core.view();
        let looked: Vec<SegmentId> = self.unseen.drain(..count.min(self.unseen.len())).collect();
        let mut ended = Vec::new();
        for id in &looked {
            let Some(segment) = view.version.find(*id) else { continue };
            // One that cannot be read stays: what it holds is not known.
            let found = look_into(segment, &view).unwrap_or_default();
            segment.note_ended(found.ended_rows, found.is_outlived);
            if found.ended_rows == segment.meta().rows {
                ended.push(*id);
            }
        }
        if !ended.is_empty() {
            let_go(core, ledger, Horizons::clone(&view.horizons), &ended)?;
        }
        self.seen.extend(looked);
        Ok(())
    }
}

/// Segments with samples before some horizon.
fn candidates(view: &View) -> VecDeque<SegmentId> {
    let metas = view.version.all().map(|segment| segment.meta());
    let greatest_ns = |meta: &SegmentMeta| {
        let tier = meta.only_tier();
        tier.map_or(view.horizons.greatest_ns(), |tier| view.horizons.greatest_of_ns(tier))
    };
    let before = metas.filter(|meta| meta.last_ns < greatest_ns(meta));
    before.map(|meta| meta.id).collect()
}

/// Whether everything in a segment has ended for every tag there may be.
fn has_ended(meta: &SegmentMeta, horizons: &Horizons) -> bool {
    let end_ns = match meta.only_tier() {
        Some(tier) => horizons.least_of_ns(tier),
        None => horizons.least_of_all_ns(),
    };
    meta.last_ns < end_ns
}

/// What has ended in a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Rows of tags of which nothing is left to be shown or rolled up.
    ended_rows: u64,
    /// Whether samples of others have ended, and rollups of them have not.
    is_outlived: bool,
}

fn look_into(segment: &Segment, view: &View) -> Result<Found> {
    let meta = segment.meta();
    if has_ended(meta, &view.horizons) {
        return Ok(Found { ended_rows: meta.rows, is_outlived: false });
    }
    // Read through a copy, so that directories nobody asks for do not stay in memory.
    let copy = segment.reopened();
    let mut found = Found::default();
    if let Some(tier) = meta.only_tier() {
        let lasts = |head: &BlockHead| {
            let tags = (head.first_tag.0..=head.last_tag.0).map(TagId);
            tags.into_iter().any(|tag| view.ends_of(tag).of(tier) <= head.last_ns)
        };
        let is_over = !copy.directory()?.tiers().iter().any(|entry| lasts(&entry.head));
        found.ended_rows = if is_over { meta.rows } else { 0 };
        return Ok(found);
    }
    copy.for_each_tag(&mut |tag, first_ns, last_ns, rows| {
        let ends = view.ends_of(tag);
        if last_ns < ends.all_ns() {
            found.ended_rows += rows;
        } else {
            found.is_outlived |= ends.beyond_raw().overlaps_span(first_ns, last_ns);
        }
    })?;
    Ok(found)
}

/// Makes horizons durable, shows them, and drops segments.
fn let_go(core: &Core, ledger: &mut Ledger, horizons: Horizons, ended: &[SegmentId]) -> Result<()> {
    let version = core.view().version.without(ended);
    let state = State { horizons: horizons.state(), ..ledger.state.clone() };
    let edit = Edit { remove: ended.to_vec(), add: Vec::new(), state };
    commit(core, ledger, edit, &version)?;
    let _install = lock(&core.install);
    let mut next = View::clone(&core.view());
    let segments = next.version.all();
    segments.filter(|s| ended.contains(&s.meta().id)).for_each(|segment| segment.retire());
    next.version = version;
    next.horizons = Arc::new(horizons);
    core.swap(next);
    Ok(())
}
