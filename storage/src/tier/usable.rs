//! [`Usable`]: the part of a rollup that interval functions need, with the tag's rule applied.
//!
//! # Contract
//! * Pieces are those of the rule book: each runs from a usable sample to the next sample of any quality. A piece longer
//!   than the rule's `max_gap` is no data.
//! * [`Usable::join`] of two neighbours adds the piece between them, the change of value and the counter's step.

use std::ops::{Deref, DerefMut};

use crate::planted::{self, Bug};
use crate::quality::Quality;
use crate::sample::f32_of;
use crate::tag::ValueType;
use crate::tier::rollup::{Needs, Point, Rollup};
use crate::tier::rows::{RowQualities, Rows, Times};
use crate::tier::rule::{Amount, Rule, differs, is_below, is_float};

/// Sums of values on a grid that are kept side by side.
const LANES: usize = 8;

/// What is known of the samples of a window that are usable by the tag's [`Rule`].
///
/// Times are between samples of the window: what reaches over its bounds is the business of who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Usable {
    /// Usable samples.
    pub count: u64,
    /// The first of them.
    pub first: Option<Point>,
    /// The last of them.
    pub last: Option<Point>,
    /// Whether a sample that is not usable precedes `first`, or there is no usable one at all.
    pub breaks_before: bool,
    /// Time of the first sample after `last` that is not usable; without a usable one, of the first sample.
    pub break_ns: Option<i64>,
    /// Nanoseconds from the first usable to the last sample, without those after an unusable one and without pieces longer
    /// than the rule's `max_gap`.
    pub covered_ns: i64,
    /// Value times nanoseconds over them, held or drawn as the rule says.
    pub integral: f64,
    /// Nanoseconds of the longest stretch between neighbouring samples of any quality.
    pub gap_ns: i64,
    /// How often the value changed from a usable sample to the next usable one.
    pub transitions: u64,
    /// Covered nanoseconds with a value other than 0, held until the next sample.
    pub nonzero_ns: i64,
    /// What a counter rose by from the first to the last usable sample, by the rule; see [`Usable::increase_after`].
    pub increase: f64,
    /// The same, exact, of integers, truth values and states; else 0.
    pub increase_int: i128,
    /// The integral as if the tag were stepped.
    pub(crate) held: f64,
    /// How often a usable value was below the usable one before.
    pub(crate) falls: u64,
    /// What a counter's next value is compared with: the last usable one, or a higher one before that if it fell by noise.
    pub(crate) reference: Option<u64>,
    /// Values that a counter with `jitter` must be followed through again when it comes from a higher value.
    pub(crate) lead: Option<Box<Lead>>,
}

/// [`Usable`] if it was asked for, else that of no samples at all. It is as large as the rest of a rollup, which is moved
/// about much.
#[derive(Clone, Debug, Default)]
pub struct MaybeUsable(Option<Box<Usable>>);

impl MaybeUsable {
    /// Not asked for.
    pub(crate) const NONE: Self = Self(None);

    pub(crate) const fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl From<Usable> for MaybeUsable {
    fn from(usable: Usable) -> Self {
        Self(Some(Box::new(usable)))
    }
}

impl Deref for MaybeUsable {
    type Target = Usable;

    fn deref(&self) -> &Usable {
        static EMPTY: Usable = Usable::EMPTY;
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for MaybeUsable {
    fn deref_mut(&mut self) -> &mut Usable {
        self.0.get_or_insert_with(|| Box::new(Usable::EMPTY))
    }
}

impl PartialEq for MaybeUsable {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// The first usable values of a counter with jitter, until one of them is beyond what any value within jitter of the first
/// may have been: from there on its way does not depend on where it came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lead {
    pub(crate) words: Vec<u64>,
    pub(crate) is_closed: bool,
}

/// The sample at the end of a rollup that another one meets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    pub(crate) time_ns: i64,
    pub(crate) is_usable: bool,
}

impl Side {
    pub(crate) fn first(of: &Rollup) -> Self {
        let time_ns = of.first_ns;
        Self { time_ns, is_usable: of.usable.first.is_some_and(|first| first.time_ns == time_ns) }
    }

    pub(crate) fn last(of: &Rollup) -> Self {
        let time_ns = of.last_ns;
        Self { time_ns, is_usable: of.usable.last.is_some_and(|last| last.time_ns == time_ns) }
    }
}

impl Usable {
    /// Of no samples at all.
    pub(crate) const EMPTY: Self = Self {
        count: 0,
        first: None,
        last: None,
        breaks_before: false,
        break_ns: None,
        covered_ns: 0,
        integral: 0.0,
        gap_ns: 0,
        transitions: 0,
        nonzero_ns: 0,
        increase: 0.0,
        increase_int: 0,
        held: 0.0,
        falls: 0,
        reference: None,
        lead: None,
    };

    /// What the counter rose by within the window when `before` is the last usable sample before it: [`Self::increase`]
    /// and the step from there. Exact for integers in the second number, which is 0 for floats.
    pub fn increase_after(
        &self,
        before: Option<Point>,
        rule: &Rule,
        value_type: ValueType,
    ) -> (f64, i128) {
        let rest = Amount { float: self.increase, int: self.increase_int };
        let seam = match (before, self.first) {
            (Some(before), Some(first)) if rule.bridges(apart(before.time_ns, first.time_ns)) => {
                self.follow(before.word, rule, value_type).0
            }
            _ => Amount::default(),
        };
        let all = rest.plus(seam);
        let float = if is_float(value_type) { all.float } else { all.int as f64 };
        (float, all.int)
    }

    /// What coming from `reference` adds to the increase, and what the next value is compared with in the end.
    fn follow(&self, reference: u64, rule: &Rule, value_type: ValueType) -> (Amount, Option<u64>) {
        let Some(first) = self.first else { return (Amount::default(), Some(reference)) };
        if let Some(by) = rule.step(value_type, reference, first.word) {
            return (by, self.reference);
        }
        let Some(lead) = &self.lead else { return (Amount::default(), self.reference) };
        let (mine, _) = walk(first.word, &lead.words, rule, value_type);
        let (theirs, end) = walk(reference, &lead.words, rule, value_type);
        let end = if lead.is_closed { self.reference } else { Some(end) };
        (theirs.minus(mine), end)
    }

    /// Adds what is known of samples that follow. `sides` are this one's last sample and the other's first.
    pub(crate) fn join(
        &mut self,
        later: &Self,
        (last, first): (Side, Side),
        rule: &Rule,
        value_type: ValueType,
    ) {
        if later.count == 0 && later.break_ns.is_none() {
            return; // not asked for
        }
        let distance_ns = apart(last.time_ns, first.time_ns);
        self.gap_ns = self.gap_ns.max(distance_ns).max(later.gap_ns);
        let is_bridged = rule.bridges(distance_ns) && !planted::is(Bug::SeamForgotten);
        if let (true, true, Some(from)) = (last.is_usable, is_bridged, self.last) {
            let value = from.value(value_type);
            let next = later.first.filter(|_| first.is_usable && !rule.stepped);
            let mean = next.map_or(value, |next| middle(value, next.value(value_type)));
            self.covered_ns = self.covered_ns.saturating_add(distance_ns);
            self.integral += mean * distance_ns as f64;
            self.held += value * distance_ns as f64;
            self.nonzero_ns += if is_zero(value) { 0 } else { distance_ns };
        }
        self.covered_ns = self.covered_ns.saturating_add(later.covered_ns);
        self.integral += later.integral;
        self.held += later.held;
        self.falls += later.falls;
        self.nonzero_ns = self.nonzero_ns.saturating_add(later.nonzero_ns);
        self.transitions += later.transitions;
        self.join_chain(later, rule, value_type);
        match (self.count, later.count) {
            (_, 0) => self.break_ns = self.break_ns.or(later.break_ns),
            (0, _) => (self.breaks_before, self.break_ns) = (true, later.break_ns),
            _ => self.break_ns = later.break_ns,
        }
        self.count += later.count;
        self.first = self.first.or(later.first);
        self.last = later.last.or(self.last);
    }

    /// The part of [`Self::join`] that goes from usable to usable sample.
    fn join_chain(&mut self, later: &Self, rule: &Rule, value_type: ValueType) {
        let mut rest = Amount { float: later.increase, int: later.increase_int };
        let mut reference = later.reference.or(self.reference);
        let (Some(last), Some(first), Some(kept)) = (self.last, later.first, self.reference) else {
            if self.reference.is_none() {
                (self.lead, self.reference) = (later.lead.clone(), later.reference);
                self.add(rest, value_type);
            }
            return;
        };
        self.transitions += u64::from(differs(value_type, last.word, first.word));
        self.falls += u64::from(is_below(value_type, first.word, last.word));
        let is_chained = rule.bridges(apart(last.time_ns, first.time_ns));
        if is_chained {
            let (by, end) = later.follow(kept, rule, value_type);
            (rest, reference) = (rest.plus(by), end);
        }
        self.add(rest, value_type);
        self.reference = reference;
        if let Some(lead) = self.lead.as_mut().filter(|lead| !lead.is_closed) {
            let more = later.lead.as_ref().filter(|_| is_chained);
            lead.is_closed = more.is_none_or(|more| more.is_closed);
            lead.words.extend(more.into_iter().flat_map(|more| &more.words));
        }
    }

    fn add(&mut self, by: Amount, value_type: ValueType) {
        self.increase_int += by.int;
        self.increase =
            if is_float(value_type) { self.increase + by.float } else { self.increase_int as f64 };
    }

    /// Of rows, one at least.
    pub(crate) fn of(rows: &Rows<'_>, rule: &Rule, needs: Needs) -> Self {
        let is_clean = match rows.qualities {
            RowQualities::Uniform(quality) => rule.takes(Quality(quality)),
            RowQualities::Each(each) => each.iter().all(|quality| rule.takes(Quality(*quality))),
        };
        let usable = if is_clean { Self::of_clean(rows, rule, needs) } else { None };
        usable.unwrap_or_else(|| Self::one_by_one(rows, rule, needs))
    }

    /// Of rows of a quality that is usable; `None` if a value is not finite, or two are not close enough together.
    fn of_clean(rows: &Rows<'_>, rule: &Rule, needs: Needs) -> Option<Self> {
        match rows.value_type {
            ValueType::F64 => Self::of_values(rows, rule, needs, f64::from_bits),
            ValueType::F32 => Self::of_values(rows, rule, needs, |w| f64::from(f32_of(w))),
            ValueType::Text => Self::of_values(rows, rule, needs, |_| 0.0),
            _ => Self::of_values(rows, rule, needs, |word| word as i64 as f64),
        }
    }

    fn of_values(
        rows: &Rows<'_>,
        rule: &Rule,
        needs: Needs,
        value: impl Fn(u64) -> f64 + Copy,
    ) -> Option<Self> {
        let last_row = rows.count.checked_sub(1)?;
        let (first_ns, last_ns) = (rows.times.at(0), rows.times.at(last_row));
        let covered_ns = apart(first_ns, last_ns);
        let weights = match rows.times {
            _ if rows.words.is_empty() => Weights::of_text(&rows.times, rows.count),
            Times::Step(_, step_ns) => Weights::on_grid(step_ns, rows.words, rule, value),
            Times::Each(times) => Weights::of_times(times, rows.words, rule, value),
        };
        let Weights { gap_ns, integral, held, zero_ns } = weights;
        if !integral.is_finite() || !held.is_finite() || !rule.bridges(gap_ns) {
            return None;
        }
        let point = |row: usize| Point { time_ns: rows.times.at(row), word: rows.word(row) };
        let mut usable = Self {
            count: rows.count as u64,
            first: Some(point(0)),
            last: Some(point(last_row)),
            covered_ns,
            integral,
            held,
            gap_ns,
            nonzero_ns: covered_ns - zero_ns,
            reference: Some(rows.word(last_row)),
            ..Self::EMPTY
        };
        if rows.words.is_empty() {
            usable.nonzero_ns = 0;
        } else if needs >= Needs::Changes {
            usable.add_chain(rows, rule, value);
        }
        Some(usable)
    }

    /// Transitions and increase of rows that are all usable and close together.
    fn add_chain(&mut self, rows: &Rows<'_>, rule: &Rule, value: impl Fn(u64) -> f64) {
        let value_type = rows.value_type;
        let Some((first, rest)) = rows.words.split_first() else { return };
        let is_exact = !is_float(value_type);
        let (mut changes, mut falls) = (0_u64, 0_u64);
        for [before, after] in rows.words.array_windows() {
            let (a, b) = (value(*before), value(*after));
            // Integers beyond what a float holds may look equal.
            let (less, more) = if is_exact {
                ((*after as i64) < (*before as i64), (*before as i64) < (*after as i64))
            } else {
                (b < a, a < b)
            };
            falls += u64::from(less);
            changes += u64::from(less | more);
        }
        (self.transitions, self.falls) = (changes, falls);
        self.lead = lead_of(rows.words, rule, value_type);
        if falls == 0 {
            // Rising all the way: the steps add up to the distance of the ends.
            let last = rest.last().unwrap_or(first);
            if let Some(by) = rule.step(value_type, *first, *last) {
                self.add(by, value_type);
            }
            return;
        }
        let (sum, reference) = if !is_exact && rule.rollover.is_none() && rule.jitter <= 0.0 {
            // Whatever falls is a reset: no row depends on more than the one before.
            let step = |[before, after]: &[u64; 2]| {
                let (a, b) = (value(*before), value(*after));
                if b >= a { b - a } else { b - rule.reset_value }
            };
            let float = rows.words.array_windows().map(step).sum();
            (Amount { float, int: 0 }, *rest.last().unwrap_or(first))
        } else {
            walk(*first, rest, rule, value_type)
        };
        self.reference = Some(reference);
        self.add(sum, value_type);
    }

    fn one_by_one(rows: &Rows<'_>, rule: &Rule, needs: Needs) -> Self {
        let value_type = rows.value_type;
        let mut all: Option<(Self, Side)> = None;
        for row in 0..rows.count {
            let (time_ns, word) = (rows.times.at(row), rows.word(row));
            let is_usable = rule.is_usable(value_type, word, Quality(rows.qualities.at(row)));
            let side = Side { time_ns, is_usable };
            let one = Self::one(side, word, rule, value_type, needs);
            all = Some(match all {
                None => (one, side),
                Some((mut all, last)) => {
                    all.join(&one, (last, side), rule, value_type);
                    (all, side)
                }
            });
        }
        all.map_or(Self::EMPTY, |(all, _)| all)
    }

    /// Of one sample.
    fn one(side: Side, word: u64, rule: &Rule, value_type: ValueType, needs: Needs) -> Self {
        if !side.is_usable {
            return Self { breaks_before: true, break_ns: Some(side.time_ns), ..Self::EMPTY };
        }
        let point = Some(Point { time_ns: side.time_ns, word });
        let lead = if needs == Needs::Interval { lead_of(&[word], rule, value_type) } else { None };
        let (first, last, reference) = (point, point, Some(word));
        Self { count: 1, first, last, reference, lead, ..Self::EMPTY }
    }
}

/// What rows that are all usable weigh. The integral is not finite if a value is not, or the sum of finite ones is beyond
/// what a float holds.
struct Weights {
    gap_ns: i64,
    integral: f64,
    /// The same as if the tag were stepped.
    held: f64,
    /// Nanoseconds with the value 0.
    zero_ns: i64,
}

impl Weights {
    /// On a grid every value weighs the same.
    fn on_grid(
        step_ns: i64,
        words: &[u64],
        rule: &Rule,
        value: impl Fn(u64) -> f64 + Copy,
    ) -> Self {
        let Some((last, held)) = words.split_last() else {
            return Self { gap_ns: 0, integral: 0.0, held: 0.0, zero_ns: 0 };
        };
        let (blocks, tail) = held.as_chunks::<LANES>();
        let (mut sums, mut zeros) = ([0.0; LANES], [0_i64; LANES]);
        for block in blocks {
            for lane in 0..LANES {
                let value = value(block[lane]);
                sums[lane] += value;
                zeros[lane] += i64::from(is_zero(value));
            }
        }
        let mut sum: f64 = sums.iter().sum();
        let mut zeros: i64 = zeros.iter().sum();
        for word in tail {
            sum += value(*word);
            zeros += i64::from(is_zero(value(*word)));
        }
        let last = value(*last);
        let held_sum = sum;
        if !rule.stepped {
            sum += (last - words.first().map_or(0.0, |first| value(*first))) / 2.0;
        }
        let gap_ns = if held.is_empty() { 0 } else { step_ns };
        let integral = if last.is_finite() { sum * step_ns as f64 } else { f64::NAN };
        let held = held_sum * step_ns as f64;
        Self { gap_ns, integral, held, zero_ns: zeros.saturating_mul(gap_ns) }
    }

    /// With times that are written out.
    fn of_times(times: &[i64], words: &[u64], rule: &Rule, value: impl Fn(u64) -> f64) -> Self {
        let (mut gap_ns, mut zero_ns, mut integral, mut held_sum) = (0, 0, 0.0, 0.0);
        let mut held = words.first().map_or(0.0, |word| value(*word));
        for ([from_ns, to_ns], word) in times.array_windows().zip(words.iter().skip(1)) {
            let distance_ns = apart(*from_ns, *to_ns);
            gap_ns = gap_ns.max(distance_ns);
            zero_ns += if is_zero(held) { distance_ns } else { 0 };
            let next = value(*word);
            let mean = if rule.stepped { held } else { middle(held, next) };
            integral += mean * distance_ns as f64;
            held_sum += held * distance_ns as f64;
            held = next;
        }
        // The last value counts for nothing, but must be usable.
        let integral = if held.is_finite() { integral } else { f64::NAN };
        Self { gap_ns, integral, held: held_sum, zero_ns }
    }

    /// Without values.
    fn of_text(times: &Times<'_>, count: usize) -> Self {
        let gap_ns = match times {
            Times::Step(_, step_ns) if count > 1 => *step_ns,
            Times::Step(..) => 0,
            Times::Each(times) => {
                times.array_windows().map(|[a, b]| apart(*a, *b)).max().unwrap_or(0)
            }
        };
        Self { gap_ns, integral: 0.0, held: 0.0, zero_ns: 0 }
    }
}

/// What a counter adds on its way through these values, and what the next is compared with.
fn walk(from: u64, words: &[u64], rule: &Rule, value_type: ValueType) -> (Amount, u64) {
    let (mut sum, mut reference) = (Amount::default(), from);
    for &word in words {
        if let Some(by) = rule.step(value_type, reference, word) {
            (sum, reference) = (sum.plus(by), word);
        }
    }
    (sum, reference)
}

fn lead_of(words: &[u64], rule: &Rule, value_type: ValueType) -> Option<Box<Lead>> {
    let first = *words.first().filter(|_| rule.jitter > 0.0)?;
    let end = words.iter().position(|word| rule.is_beyond(value_type, first, *word));
    let kept = &words[..end.map_or(words.len(), |end| end + 1)];
    let mut words = kept.to_vec();
    words.dedup();
    Some(Box::new(Lead { words, is_closed: end.is_some() }))
}

/// Nanoseconds from a time to a later one; of times farther apart than an `i64` holds, that.
fn apart(from_ns: i64, to_ns: i64) -> i64 {
    to_ns.saturating_sub(from_ns)
}

/// Half of the sum, where the sum itself may be too great.
fn middle(a: f64, b: f64) -> f64 {
    a / 2.0 + b / 2.0
}

fn is_zero(value: f64) -> bool {
    value.abs() <= 0.0
}
