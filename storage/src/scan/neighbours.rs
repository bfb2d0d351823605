//! [`Neighbours`]: what lies just before an instant, and just after it.
//!
//! # Contract
//! * Looks at some minutes first, then at an hour, then from segment to segment, twice as many with each step: a tag that is
//!   still written is found without opening a file of last year.
//! * Corrections, deletes and horizons hold as for a scan. A place that cannot be read fails the search, or is left out.
//! * Where samples have ended, rollups that are left say what they know; where that is not enough the search fails with
//!   [`crate::Error::Ended`].
//! * Asked for one tag after the other, ascending, what tags share is read and decoded once.

use std::collections::VecDeque;
use std::sync::Arc;

use super::merge::{Cursors, TagReader};
use super::outlived::{LEFT_STEP_NS, Outlived, Part, Wanted, rows_of};
use super::snapshot::{DamagedPlace, Snapshot};
use super::{OnDamage, ScanRequest, TagSelection};
use crate::chunk::series::SeriesBuf;
use crate::error::{Error, Result};
use crate::planted::{self, Bug};
use crate::quality::Quality;
use crate::tag::{TagId, ValueType};
use crate::tier::Tier;
use crate::tier::rollup::{Point, Rollup};
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
    outlived: Outlived,
    /// The instant asked for last and whether it was the past that was asked for, with the steps that this takes.
    steps: Option<(i64, bool, Arc<[TimeRange]>)>,
}

impl Snapshot {
    /// Finds what lies before and after instants, for many tags. See also [`Self::before`] and [`Self::after`].
    pub fn neighbours(&self, damage: OnDamage) -> Neighbours {
        let (cursors, outlived) = (Cursors::new(self), Outlived::new(&self.view));
        Neighbours { snapshot: self.clone(), damage, cursors, outlived, steps: None }
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
        let is_found = self.visit(tag, &steps, true, &mut |rows| before.meet(rows, rule))?;
        if !is_found {
            self.before_among_left(tag, at_ns, rule, &mut before)?;
        }
        Ok(before)
    }

    /// Goes on where samples have ended.
    fn before_among_left(
        &mut self,
        tag: TagId,
        at_ns: i64,
        rule: &Rule,
        before: &mut Before,
    ) -> Result<()> {
        for part in self.left(tag, TimeRange::new(i64::MIN, at_ns))?.into_iter().rev() {
            let is_found = match part {
                Part::Samples(range) => {
                    self.visit_in(tag, range, true, &mut |rows| before.meet(rows, rule))?
                }
                Part::Left(range) => self.visit_left(tag, range, true, &mut |row| {
                    before.last_ns = before.last_ns.or(Some(row.last_ns));
                    if at_ns <= row.last_ns {
                        return Err("they may lie on either side of the asked instant".into());
                    }
                    tells_usable(row)?;
                    before.usable = row.usable.last;
                    if row.usable.break_ns.is_some() {
                        before.break_ns = row.usable.break_ns;
                    }
                    Ok(before.usable.is_some())
                })?,
            };
            if is_found {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The first sample at or after an instant; see [`Snapshot::after`].
    ///
    /// # Errors
    /// As a [`super::Scan`].
    pub fn after(&mut self, tag: TagId, at_ns: i64) -> Result<Option<Next>> {
        let mut next = None;
        for part in self.left(tag, TimeRange::new(at_ns, i64::MAX))? {
            let is_found = match part {
                Part::Samples(range) => self.visit_in(tag, range, false, &mut |rows| {
                    next = (rows.len() > 0).then(|| sample_at(rows, 0));
                    next.is_some()
                })?,
                Part::Left(range) => self.visit_left(tag, range, false, &mut |row| {
                    if row.first_ns < at_ns {
                        return Err("they may lie on either side of the asked instant".into());
                    }
                    tells_usable(row)?;
                    let usable = row.usable.first.filter(|first| first.time_ns == row.first_ns);
                    let word = usable.map_or(0, |first| first.word);
                    let quality = if usable.is_some() { Quality::GOOD } else { Quality::BAD };
                    next = Some(Next { time_ns: row.first_ns, word, quality });
                    Ok(true)
                })?,
            };
            if is_found {
                return Ok(next);
            }
        }
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

    /// Parts of a range in which a tag's samples have ended.
    fn left(&mut self, tag: TagId, range: TimeRange) -> Result<VecDeque<Part>> {
        let ends = self.snapshot.view.ends_of(tag);
        let range = range.intersect(&ends.beyond_raw());
        let known = self.snapshot.registry().get(tag).filter(|known| !known.is_deleted());
        let Some(value_type) = known.map(|known| known.value_type) else {
            return Ok(VecDeque::new());
        };
        if range.is_empty() {
            return Ok(VecDeque::new());
        }
        let of = (tag, value_type);
        self.outlived.parts(&self.snapshot, &mut self.cursors, of, range, self.damage)
    }

    /// Shows the rollups of the finest tier that is left, in the asked order, until `is_enough` or it says why they do not
    /// do. Gives whether it was enough.
    fn visit_left(
        &mut self,
        tag: TagId,
        range: TimeRange,
        descending: bool,
        is_enough: &mut dyn FnMut(&Rollup) -> Result<bool, String>,
    ) -> Result<bool> {
        let ends = self.snapshot.view.ends_of(tag);
        let Some(known) = self.snapshot.registry().get(tag) else { return Ok(false) };
        let (value_type, name) = (known.value_type, known.name.to_string());
        let mut steps = Vec::new();
        let mut finer_ns = ends.raw_ns;
        for tier in Tier::ALL {
            let zone = TimeRange::new(ends.of(tier), finer_ns).intersect(&range);
            finer_ns = ends.of(tier);
            let mut end_ns = zone.end_ns;
            while zone.start_ns < end_ns {
                let start_ns = zone.start_ns.max(end_ns.saturating_sub(LEFT_STEP_NS));
                steps.push((tier, TimeRange::new(start_ns, end_ns)));
                end_ns = start_ns;
            }
        }
        if !descending {
            steps.reverse();
        }
        for (tier, range) in steps {
            let wanted = Wanted { tag, value_type, tier, usable: true, range };
            let mut found = self.outlived.find(&self.snapshot.view, &wanted);
            if descending {
                found.reverse();
            }
            for found in found {
                let found = match found {
                    Ok(found) => found,
                    Err(unread) => {
                        self.cursors.miss(&self.snapshot, tag, unread, self.damage)?;
                        continue;
                    }
                };
                let rows = rows_of(&found);
                for at in 0..rows.len() {
                    let row = &rows[if descending { rows.len() - 1 - at } else { at }];
                    match is_enough(row) {
                        Ok(true) => return Ok(true),
                        Ok(false) => {}
                        Err(why) => {
                            let (before_ns, at_ns) = (ends.raw_ns, row.first_ns);
                            return Err(Error::Ended { tag: name, before_ns, at_ns, tier, why });
                        }
                    }
                }
            }
        }
        Ok(false)
    }

    /// Shows the tag's rows that have not ended, part by part, each ascending, until `is_enough`. Gives whether it was.
    fn visit(
        &mut self,
        tag: TagId,
        steps: &[TimeRange],
        descending: bool,
        is_enough: &mut dyn FnMut(&SeriesBuf) -> bool,
    ) -> Result<bool> {
        let horizon_ns = self.snapshot.view.horizon_of(tag);
        for step in steps.iter().filter(|step| step.end_ns > horizon_ns && !step.is_empty()) {
            let range = self.snapshot.view.clip(tag, *step);
            if self.visit_in(tag, range, descending, is_enough)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn visit_in(
        &mut self,
        tag: TagId,
        range: TimeRange,
        descending: bool,
        is_enough: &mut dyn FnMut(&SeriesBuf) -> bool,
    ) -> Result<bool> {
        let known = self.snapshot.registry().get(tag).filter(|known| !known.is_deleted());
        let Some(value_type) = known.map(|known| known.value_type) else { return Ok(false) };
        let mut request = ScanRequest::new(TagSelection::All, range);
        (request.descending, request.damage) = (descending, self.damage);
        request.values = value_type != ValueType::Text;
        let (snapshot, cursors) = (&self.snapshot, &mut self.cursors);
        let of = (tag, value_type);
        let mut reader = TagReader::open_in(snapshot, cursors, of, range, descending)?;
        while let Some(rows) = reader.next(snapshot, cursors, &request)? {
            if is_enough(&rows) {
                return Ok(true);
            }
        }
        Ok(false)
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

impl Before {
    /// Looks at the rows before those that were met. Gives whether a usable one was found.
    fn meet(&mut self, rows: &SeriesBuf, rule: &Rule) -> bool {
        for row in (0..rows.len()).rev() {
            let (time_ns, sample) = (rows.times[row], sample_at(rows, row));
            self.last_ns = self.last_ns.or(Some(time_ns));
            if rule.is_usable(rows.value_type, sample.word, sample.quality) {
                self.usable = Some(Point { time_ns, word: sample.word });
                return true;
            }
            if !planted::is(Bug::BreakForgotten) {
                self.break_ns = Some(time_ns);
            }
        }
        false
    }
}

/// Whether a rollup says which of its samples are usable. It does if none is Uncertain.
fn tells_usable(row: &Rollup) -> Result<(), String> {
    if row.uncertain > 0 {
        return Err(
            "there are samples of Uncertain quality, and which is not known any more".into()
        );
    }
    if row.count == 0 && row.good > row.non_finite {
        return Err("of text only counts are left".into());
    }
    Ok(())
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
