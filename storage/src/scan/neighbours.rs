//! [`Neighbours`]: what lies just before an instant, and just after it.
//!
//! # Contract
//! * Looks at some minutes first, then at an hour, then from segment to segment, twice as many with each step: a tag that is
//!   still written is found without opening a file of last year.
//! * Corrections, deletes and horizons hold as for a scan. A place that cannot be read fails the search, or is left out.
//! * Asked for one tag after the other, ascending, what tags share is read and decoded once.

use std::sync::Arc;

use super::merge::{Cursors, TagReader};
use super::snapshot::{DamagedPlace, Snapshot};
use super::{OnDamage, ScanRequest, TagSelection};
use crate::chunk::series::SeriesBuf;
use crate::error::Result;
use crate::planted::{self, Bug};
use crate::quality::Quality;
use crate::tag::{TagId, ValueType};
use crate::tier::rollup::Point;
use crate::tier::rule::Rule;
use crate::time::{SECOND_NS, TimeRange};

/// Where a search looks first, and next.
const FIRST_STEPS_NS: [i64; 2] = [120 * SECOND_NS, 3_600 * SECOND_NS];

/// What lies before an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// The last usable sample. The word of text is 0.
    pub usable: Option<Point>,
    /// Time of the first sample after that one which is not usable; without a usable one, of the first sample of all.
    pub break_ns: Option<i64>,
    /// The last sample of any quality.
    pub last_ns: Option<i64>,
}

/// The first sample at or after an instant, of any quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Source time.
    pub time_ns: i64,
    /// The value as a word, see [`crate::Value::from_word`]; 0 for text.
    pub word: u64,
    /// Its quality.
    pub quality: Quality,
}

/// Finds neighbours, tag after tag, in one snapshot.
#[derive(Debug)]
pub struct Neighbours {
    snapshot: Snapshot,
    damage: OnDamage,
    cursors: Cursors,
    /// The instant asked for last and whether it was the past that was asked for, with the steps that this takes.
    steps: Option<(i64, bool, Arc<[TimeRange]>)>,
}

impl Snapshot {
    /// Finds what lies before and after instants, for many tags. See also [`Self::before`] and [`Self::after`].
    pub fn neighbours(&self, damage: OnDamage) -> Neighbours {
        let cursors = Cursors::new(self);
        Neighbours { snapshot: self.clone(), damage, cursors, steps: None }
    }

    /// What lies before an instant: the last usable sample, the first after it that is not, the last of any quality.
    ///
    /// # Errors
    /// As a [`super::Scan`].
    pub fn before(&self, tag: TagId, at_ns: i64, rule: &Rule, damage: OnDamage) -> Result<Before> {
        self.neighbours(damage).before(tag, at_ns, rule)
    }

    /// The first sample at or after an instant.
    ///
    /// # Errors
    /// As a [`super::Scan`].
    pub fn after(&self, tag: TagId, at_ns: i64, damage: OnDamage) -> Result<Option<Next>> {
        self.neighbours(damage).after(tag, at_ns)
    }
}

impl Neighbours {
    /// What lies before an instant; see [`Snapshot::before`].
    ///
    /// # Errors
    /// As a [`super::Scan`].
    pub fn before(&mut self, tag: TagId, at_ns: i64, rule: &Rule) -> Result<Before> {
        let mut before = Before::default();
        let steps = self.steps_from(at_ns, true);
        self.visit(tag, &steps, true, &mut |rows| {
            for row in (0..rows.len()).rev() {
                let (time_ns, sample) = (rows.times[row], sample_at(rows, row));
                before.last_ns = before.last_ns.or(Some(time_ns));
                if rule.is_usable(rows.value_type, sample.word, sample.quality) {
                    before.usable = Some(Point { time_ns, word: sample.word });
                    return true;
                }
                if !planted::is(Bug::BreakForgotten) {
                    before.break_ns = Some(time_ns);
                }
            }
            false
        })?;
        Ok(before)
    }

    /// The first sample at or after an instant; see [`Snapshot::after`].
    ///
    /// # Errors
    /// As a [`super::Scan`].
    pub fn after(&mut self, tag: TagId, at_ns: i64) -> Result<Option<Next>> {
        let mut next = None;
        let steps = self.steps_from(at_ns, false);
        self.visit(tag, &steps, false, &mut |rows| {
            next = (rows.len() > 0).then(|| sample_at(rows, 0));
            next.is_some()
        })?;
        Ok(next)
    }

    /// Places that were left out so far, as [`super::Scan::skipped`].
    pub fn skipped(&self) -> Vec<DamagedPlace> {
        self.cursors.skipped.iter().map(|damage| self.snapshot.view.place(damage)).collect()
    }

    /// Shows the tag's rows, part by part, each ascending, until `is_enough`.
    fn visit(
        &mut self,
        tag: TagId,
        steps: &[TimeRange],
        descending: bool,
        is_enough: &mut dyn FnMut(&SeriesBuf) -> bool,
    ) -> Result<()> {
        let known = self.snapshot.registry().get(tag).filter(|known| !known.is_deleted());
        let Some(value_type) = known.map(|known| known.value_type) else { return Ok(()) };
        let horizon_ns = self.snapshot.view.horizon_of(tag);
        for step in steps.iter().filter(|step| step.end_ns > horizon_ns && !step.is_empty()) {
            let mut request = ScanRequest::new(TagSelection::All, *step);
            (request.descending, request.damage) = (descending, self.damage);
            request.values = value_type != ValueType::Text;
            let (snapshot, cursors) = (&self.snapshot, &mut self.cursors);
            let mut reader = TagReader::open(snapshot, cursors, tag, value_type, &request)?;
            while let Some(rows) = reader.next(snapshot, cursors, &request)? {
                if is_enough(&rows) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn steps_from(&mut self, at_ns: i64, backwards: bool) -> Arc<[TimeRange]> {
        if let Some((at, way, steps)) = &self.steps
            && (*at, *way) == (at_ns, backwards)
        {
            return Arc::clone(steps);
        }
        let metas = self.snapshot.view.version.segments().iter().map(|segment| segment.meta());
        let steps: Arc<[TimeRange]> = if backwards {
            steps_back(at_ns, metas.map(|meta| meta.first_ns).collect()).into()
        } else {
            steps_ahead(at_ns, metas.map(|meta| meta.last_ns.saturating_add(1)).collect()).into()
        };
        self.steps = Some((at_ns, backwards, Arc::clone(&steps)));
        steps
    }
}

fn sample_at(rows: &SeriesBuf, row: usize) -> Next {
    let word = rows.words.get(row).copied().unwrap_or(0);
    Next { time_ns: rows.times[row], word, quality: Quality(rows.qualities[row]) }
}

/// All of time before an instant, the nearest first, cut where segments begin.
fn steps_back(at_ns: i64, mut firsts: Vec<i64>) -> Vec<TimeRange> {
    let near_ns = at_ns.saturating_sub(FIRST_STEPS_NS[1]);
    firsts.retain(|first_ns| *first_ns < near_ns);
    firsts.sort_unstable_by(|a, b| b.cmp(a));
    let far = (0..usize::BITS).map_while(|step| firsts.get((1_usize << step) - 1));
    let starts = FIRST_STEPS_NS.map(|step_ns| at_ns.saturating_sub(step_ns)).into_iter();
    let (mut steps, mut end_ns) = (Vec::new(), at_ns);
    for start_ns in starts.chain(far.copied()).chain([i64::MIN]) {
        steps.push(TimeRange::new(start_ns, end_ns));
        end_ns = end_ns.min(start_ns);
    }
    steps
}

/// All of time from an instant on, the nearest first, cut where segments end.
fn steps_ahead(at_ns: i64, mut ends: Vec<i64>) -> Vec<TimeRange> {
    let near_ns = at_ns.saturating_add(FIRST_STEPS_NS[1]);
    ends.retain(|end_ns| *end_ns > near_ns);
    ends.sort_unstable();
    let far = (0..usize::BITS).map_while(|step| ends.get((1_usize << step) - 1));
    let near = FIRST_STEPS_NS.map(|step_ns| at_ns.saturating_add(step_ns)).into_iter();
    let (mut steps, mut start_ns) = (Vec::new(), at_ns);
    for end_ns in near.chain(far.copied()).chain([i64::MAX]) {
        steps.push(TimeRange::new(start_ns, end_ns));
        start_ns = start_ns.max(end_ns);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_all_of_time_on_their_side_once_and_grow() {
        let hour_ns = FIRST_STEPS_NS[1];
        for at_ns in [i64::MIN, 0, 20 * hour_ns, i64::MAX] {
            for count in [0, 1, 2, 30] {
                let times: Vec<i64> = (0..count).map(|i| i * hour_ns).collect();
                let full = |steps: Vec<TimeRange>| -> Vec<TimeRange> {
                    steps.into_iter().filter(|step| !step.is_empty()).collect()
                };
                let mut back = full(steps_back(at_ns, times.clone()));
                back.reverse();
                let ahead = full(steps_ahead(at_ns, times));
                let all: Vec<TimeRange> = back.into_iter().chain(ahead).collect();
                assert_eq!(all.first().unwrap().start_ns, i64::MIN);
                assert_eq!(all.last().unwrap().end_ns, i64::MAX);
                assert!(all.windows(2).all(|pair| pair[0].end_ns == pair[1].start_ns), "{all:?}");
                assert!(all.len() <= 15, "{all:?}");
            }
        }
    }
}
