//! [`Fold`]: rows in time order go in, rollup after rollup comes out.
//!
//! # Contract
//! * Counts, integers, extremes, ends and sums depend on the rows alone, not on how they are cut into pieces: the same
//!   samples in chunks, in the head or merged from both give the same bits. `m2` and integrals may differ in the last ones.
//! * No hash and no search a row: where a window ends is found once a window.

use std::sync::Arc;

use crate::quality::{Quality, Severity};
use crate::sample::f32_of;
use crate::tag::ValueType;
use crate::tier::rollup::{Needs, Point, Rollup, between};
use crate::tier::rows::{RowQualities, Rows};
use crate::tier::rule::{Rule, is_finite, value_of};
use crate::tier::usable::{Side, Usable};
use crate::tier::{Tier, stored};
use crate::time::TimeRange;

/// Sums a window keeps side by side. Part of what [`Rollup::sum`] means.
const LANES: usize = 8;

/// The neutral sum is -0.0: a sum of nothing but -0.0 keeps its sign.
const NO_LANES: [f64; LANES] = [-0.0; LANES];

/// Which windows rows go to.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    /// All of one width, aligned to the origin.
    Even { origin_ns: i64, width_ns: i64 },
    /// These, ascending and disjoint. Rows outside of them go nowhere.
    Each(Arc<[TimeRange]>),
}

impl Frame {
    /// The window that holds this instant, or the first one after it.
    pub(crate) fn at(&self, time_ns: i64) -> Option<TimeRange> {
        match self {
            Self::Even { origin_ns, width_ns } => {
                // Where nothing overflows, without the division of wide numbers.
                if let Some(since_ns) = time_ns.checked_sub(*origin_ns)
                    && let Some(start_ns) = time_ns.checked_sub(since_ns.rem_euclid(*width_ns))
                    && let Some(end_ns) = start_ns.checked_add(*width_ns)
                {
                    return Some(TimeRange::new(start_ns, end_ns));
                }
                let since = i128::from(time_ns) - i128::from(*origin_ns);
                let start = i128::from(time_ns) - since.rem_euclid(i128::from(*width_ns));
                let end = start + i128::from(*width_ns);
                let start_ns = i64::try_from(start).unwrap_or(i64::MIN);
                Some(TimeRange::new(start_ns, i64::try_from(end).unwrap_or(i64::MAX)))
            }
            Self::Each(windows) => {
                let next = windows.partition_point(|window| window.end_ns <= time_ns);
                windows.get(next).copied()
            }
        }
    }
}

/// Collects the rollups of one tag.
#[derive(Debug)]
pub(crate) struct Fold {
    frame: Frame,
    value_type: ValueType,
    rule: Rule,
    needs: Needs,
    /// Whether `m2` is wanted.
    moments: bool,
    /// The window that rows go to now, if there is one; else what the last one left. It stays where it is: moving it once a
    /// window costs more than all that is computed of a few rows.
    open: Open,
    is_open: bool,
    /// Rows of the window before: likely those of the next.
    guess: usize,
    done: Vec<Rollup>,
    /// Complete windows that rows went into.
    from_rows: u64,
}

/// The window that rows go to now.
#[derive(Clone, Debug)]
struct Open {
    /// What stored rollups said of its earlier samples, and rows before them.
    before: Option<Rollup>,
    /// Whether rows went in.
    has_rows: bool,
    /// The rows since then.
    rollup: Rollup,
    /// First instant after it.
    end_ns: i64,
    lanes: [f64; LANES],
    /// Count and sum behind `m2`.
    moments: (u64, f64),
}

impl Fold {
    pub(crate) fn new(frame: Frame, value_type: ValueType, rule: Rule, needs: Needs) -> Self {
        let moments = matches!(needs, Needs::SqlMoments);
        let (open, is_open) = (Open::default(), false);
        let (guess, done, from_rows) = (0, Vec::new(), 0);
        Self { frame, value_type, rule, needs, moments, open, is_open, guess, done, from_rows }
    }

    /// Collects rollups of a tier as they are stored: everything is known of them, and no tag's rule applied.
    pub(crate) fn to_store(tier: Tier, value_type: ValueType) -> Self {
        let frame = Frame::Even { origin_ns: 0, width_ns: tier.width_ns() };
        Self { moments: true, ..Self::new(frame, value_type, stored::neutral(), Needs::Interval) }
    }

    /// Type of the values.
    pub(crate) const fn value_type(&self) -> ValueType {
        self.value_type
    }

    /// Whether one window holds all of this span.
    pub(crate) fn is_of_one(&self, first_ns: i64, last_ns: i64) -> bool {
        let window = self.frame.at(first_ns);
        window.is_some_and(|window| window.start_ns <= first_ns && last_ns < window.end_ns)
    }

    /// Takes the number of windows that are complete and that rows went into, wholly or in part.
    pub(crate) const fn take_from_rows(&mut self) -> u64 {
        std::mem::replace(&mut self.from_rows, 0)
    }

    /// Windows that are complete.
    pub(crate) fn done(&self) -> usize {
        self.done.len()
    }

    /// Takes the complete windows.
    pub(crate) fn take_done(&mut self) -> Vec<Rollup> {
        std::mem::take(&mut self.done)
    }

    /// Ends the last window and takes what is left.
    pub(crate) fn finish(&mut self) -> Vec<Rollup> {
        self.close();
        self.take_done()
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.from_rows += u64::from(self.open.has_rows);
            let rollup = self.open.close(&self.rule, self.value_type, self.needs);
            self.done.push(rollup);
        }
    }

    fn begin(&mut self, window: TimeRange) {
        self.open.begin(window);
        self.is_open = true;
    }

    /// Adds what stored rollups say, which are of one tier each and follow what was added before. `serve` makes of each what
    /// is wanted.
    pub(crate) fn add_stored(
        &mut self,
        tier: Tier,
        rows: &[Rollup],
        serve: impl Fn(&Rollup) -> Rollup,
    ) {
        let is_same = matches!(&self.frame, Frame::Even { origin_ns, width_ns }
            if *width_ns == tier.width_ns() && origin_ns % width_ns == 0);
        let [first, inner @ .., last] = rows else {
            if let [row] = rows {
                self.add_rollup(serve(row));
            }
            return;
        };
        self.add_rollup(serve(first));
        if is_same {
            // Each of them is a window of its own, to which nothing else comes.
            self.close();
            self.done.reserve(rows.len());
            self.done.extend(inner.iter().map(&serve));
        } else {
            for row in inner {
                self.add_rollup(serve(row));
            }
        }
        self.add_rollup(serve(last));
    }

    /// Adds what a stored rollup says, which is of one window and follows what was added before.
    fn add_rollup(&mut self, row: Rollup) {
        if self.is_open && self.open.end_ns <= row.first_ns {
            self.close();
        }
        if !self.is_open {
            let Some(window) = self.frame.at(row.first_ns) else { return };
            self.begin(window);
        }
        self.open.settle(&self.rule, self.value_type);
        let start_ns = self.open.rollup.start_ns;
        match &mut self.open.before {
            Some(before) => before.merge(&row, &self.rule, self.value_type),
            None => self.open.before = Some(Rollup { start_ns, ..row }),
        }
    }

    /// Adds rows, which follow those added before.
    pub(crate) fn add(&mut self, rows: &Rows<'_>) {
        assert_eq!(rows.value_type, self.value_type, "a tag has one type");
        let mut from = 0;
        while from < rows.count {
            let time_ns = rows.times.at(from);
            if !self.is_open || self.open.end_ns <= time_ns {
                self.close();
                let Some(window) = self.frame.at(time_ns) else { return };
                if time_ns < window.start_ns {
                    from = rows.times.end(from, rows.count, window.start_ns, 0).max(from + 1);
                    continue;
                }
                self.begin(window);
            }
            let end_ns = self.open.end_ns;
            let to = rows.times.end(from, rows.count, end_ns, self.guess).max(from + 1);
            self.guess = to - from;
            self.open.add(&rows.slice(from..to), &self.rule, self.needs, self.moments);
            from = to;
        }
    }
}

impl Default for Open {
    fn default() -> Self {
        let (before, has_rows, end_ns) = (None, false, i64::MIN);
        let (rollup, lanes, moments) = (Rollup::empty(0), NO_LANES, (0, 0.0));
        Self { before, has_rows, rollup, end_ns, lanes, moments }
    }
}

impl Open {
    /// Becomes this window, empty.
    fn begin(&mut self, window: TimeRange) {
        (self.before, self.has_rows, self.end_ns) = (None, false, window.end_ns);
        self.begin_rows(window.start_ns);
    }

    /// Forgets the rows, for those that come next.
    fn begin_rows(&mut self, start_ns: i64) {
        self.rollup = Rollup::empty(start_ns);
        (self.lanes, self.moments) = (NO_LANES, (0, 0.0));
    }

    /// Adds rows, at least one and all of them within the window.
    fn add(&mut self, rows: &Rows<'_>, rule: &Rule, needs: Needs, moments: bool) {
        self.has_rows = true;
        if needs >= Needs::Weighted {
            self.add_usable(rows, rule, needs);
        }
        if self.rollup.rows() == 0 {
            self.rollup.first_ns = rows.times.at(0);
        }
        self.rollup.last_ns = rows.times.at(rows.count - 1);
        match rows.qualities {
            RowQualities::Uniform(quality) => self.add_run(rows, quality, moments),
            RowQualities::Each(qualities) => {
                let mut at = 0;
                for run in qualities.chunk_by(|a, b| a >> 30 == b >> 30) {
                    let quality = run.first().copied().unwrap_or_default();
                    self.add_run(&rows.slice(at..at + run.len()), quality, moments);
                    at += run.len();
                }
            }
        }
    }

    fn add_usable(&mut self, rows: &Rows<'_>, rule: &Rule, needs: Needs) {
        let more = Usable::of(rows, rule, needs);
        let side = |row: usize| {
            let quality = Quality(rows.qualities.at(row));
            let is_usable = rule.is_usable(rows.value_type, rows.word(row), quality);
            Side { time_ns: rows.times.at(row), is_usable }
        };
        if self.rollup.rows() == 0 {
            self.rollup.usable = more.into();
        } else {
            let sides = (Side::last(&self.rollup), side(0));
            self.rollup.usable.join(&more, sides, rule, rows.value_type);
        }
    }

    /// Adds rows of one severity.
    fn add_run(&mut self, rows: &Rows<'_>, quality: u32, moments: bool) {
        let count = rows.count as u64;
        match Quality(quality).severity() {
            Severity::Good => self.rollup.good += count,
            Severity::Uncertain => self.rollup.uncertain += count,
            Severity::Bad => {
                self.rollup.bad += count;
                return;
            }
        }
        if rows.value_type == ValueType::Text {
            return;
        }
        let before = self.rollup.count;
        let times = |row: usize| rows.times.at(row);
        match rows.value_type {
            ValueType::F64 => self.add_floats(rows.words, f64::from_bits, times),
            ValueType::F32 => self.add_floats(rows.words, |w| f64::from(f32_of(w)), times),
            _ => self.add_integers(rows.words, times),
        }
        let finite = self.rollup.count - before;
        self.rollup.non_finite += count - finite;
        if moments {
            self.add_moments(rows, finite);
        }
    }

    /// Adds the squares of distances from the mean of one run's finite values.
    fn add_moments(&mut self, rows: &Rows<'_>, finite: u64) {
        let words = || rows.words.iter().filter(|word| is_finite(rows.value_type, **word));
        let values = || words().map(|word| value_of(rows.value_type, *word));
        let sum: f64 = values().sum();
        let mean = sum / finite.max(1) as f64;
        let squares: f64 = values().map(|value| (value - mean) * (value - mean)).sum();
        self.rollup.m2 += squares + between(self.moments, (finite, sum));
        self.moments = (self.moments.0 + finite, self.moments.1 + sum);
    }

    /// Adds floats that are not Bad: as if all were finite, and again one by one if that was wrong.
    fn add_floats(
        &mut self,
        words: &[u64],
        value: impl Fn(u64) -> f64 + Copy,
        time: impl Fn(usize) -> i64,
    ) {
        let before = self.lanes;
        // Begins where the lanes begin.
        let phase = lane_of(self.rollup.count);
        let (head, body) = words.split_at(((LANES - phase) % LANES).min(words.len()));
        let mut least = f64::INFINITY;
        let mut greatest = f64::NEG_INFINITY;
        for (lane, &word) in self.lanes[phase..].iter_mut().zip(head) {
            let value = value(word);
            *lane += value;
            least = if value < least { value } else { least };
            greatest = if value > greatest { value } else { greatest };
        }
        let (blocks, tail) = body.as_chunks::<LANES>();
        let (mut low, mut high) = ([least; LANES], [greatest; LANES]);
        let mut lanes = self.lanes;
        for block in blocks {
            for lane in 0..LANES {
                let value = value(block[lane]);
                lanes[lane] += value;
                low[lane] = if value < low[lane] { value } else { low[lane] };
                high[lane] = if value > high[lane] { value } else { high[lane] };
            }
        }
        for (lane, &word) in tail.iter().enumerate() {
            let value = value(word);
            lanes[lane] += value;
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
        }
        // Whatever is not finite makes the sum of its lane so.
        if lanes.iter().any(|lane| !lane.is_finite()) {
            self.lanes = before;
            return self.add_floats_one_by_one(words, value, time);
        }
        self.lanes = lanes;
        for lane in 0..LANES {
            least = least.min(low[lane]);
            greatest = greatest.max(high[lane]);
        }
        let known = self.rollup.min.map_or(f64::INFINITY, |point| value(point.word));
        if least < known {
            self.rollup.min = find(words, least, value).map(|row| point(words, row, &time));
        }
        let known = self.rollup.max.map_or(f64::NEG_INFINITY, |point| value(point.word));
        if greatest > known {
            self.rollup.max = find(words, greatest, value).map(|row| point(words, row, &time));
        }
        if let Some(last) = words.len().checked_sub(1) {
            self.note_ends(point(words, 0, &time), point(words, last, &time));
        }
        self.rollup.count += words.len() as u64;
    }

    fn add_floats_one_by_one(
        &mut self,
        words: &[u64],
        value: impl Fn(u64) -> f64,
        time: impl Fn(usize) -> i64,
    ) {
        for (row, &word) in words.iter().enumerate() {
            let found = value(word);
            if !found.is_finite() {
                continue;
            }
            let point = point(words, row, &time);
            self.lanes[lane_of(self.rollup.count)] += found;
            self.rollup.count += 1;
            if self.rollup.min.is_none_or(|min| found < value(min.word)) {
                self.rollup.min = Some(point);
            }
            if self.rollup.max.is_none_or(|max| found > value(max.word)) {
                self.rollup.max = Some(point);
            }
            self.note_ends(point, point);
        }
    }

    fn add_integers(&mut self, words: &[u64], time: impl Fn(usize) -> i64) {
        let (mut least, mut greatest) = (i64::MAX, i64::MIN);
        let mut total = 0_i128;
        for &word in words {
            let value = word as i64;
            least = least.min(value);
            greatest = greatest.max(value);
            total += i128::from(value);
        }
        self.rollup.sum_int += total;
        let row_of = |value: i64| words.iter().position(|&word| word as i64 == value);
        if self.rollup.min.is_none_or(|min| least < min.word as i64) {
            self.rollup.min = row_of(least).map(|row| point(words, row, &time));
        }
        if self.rollup.max.is_none_or(|max| greatest > max.word as i64) {
            self.rollup.max = row_of(greatest).map(|row| point(words, row, &time));
        }
        if let Some(last) = words.len().checked_sub(1) {
            self.note_ends(point(words, 0, &time), point(words, last, &time));
        }
        self.rollup.count += words.len() as u64;
    }

    fn note_ends(&mut self, first: Point, last: Point) {
        self.rollup.first = self.rollup.first.or(Some(first));
        self.rollup.last = Some(last);
    }

    /// Moves the rows to what was before them.
    fn settle(&mut self, rule: &Rule, value_type: ValueType) {
        if self.rollup.rows() == 0 {
            return;
        }
        self.add_up(value_type);
        if let Some(before) = &mut self.before {
            before.merge(&self.rollup, rule, value_type);
        } else {
            let empty = Rollup::empty(self.rollup.start_ns);
            self.before = Some(std::mem::replace(&mut self.rollup, empty));
        }
        self.begin_rows(self.rollup.start_ns);
    }

    /// Makes one sum of the lanes.
    fn add_up(&mut self, value_type: ValueType) {
        self.rollup.sum = match value_type {
            _ if self.rollup.count == 0 => 0.0,
            ValueType::F64 | ValueType::F32 => united(&self.lanes),
            _ => self.rollup.sum_int as f64,
        };
    }

    /// All of the window. What is left is to begin another one.
    fn close(&mut self, rule: &Rule, value_type: ValueType, needs: Needs) -> Rollup {
        let has_rows = self.rollup.rows() > 0;
        if has_rows {
            self.add_up(value_type);
        }
        let mut rollup = match self.before.take() {
            Some(mut before) => {
                if has_rows {
                    before.merge(&self.rollup, rule, value_type);
                }
                before
            }
            None => std::mem::replace(&mut self.rollup, Rollup::empty(0)),
        };
        if (Needs::Weighted..Needs::Interval).contains(&needs) {
            let usable = &mut rollup.usable;
            (usable.increase, usable.increase_int) = (0.0, 0);
            if needs < Needs::Changes {
                usable.transitions = 0;
            }
        }
        rollup
    }
}

/// All lanes as one sum. The order is part of what [`Rollup::sum`] means.
fn united(lanes: &[f64; LANES]) -> f64 {
    let pair = |at: usize| lanes[at] + lanes[at + LANES / 2];
    (pair(0) + pair(2)) + (pair(1) + pair(3))
}

/// The lane that the next value goes to after so many.
fn lane_of(count: u64) -> usize {
    usize::try_from(count % LANES as u64).unwrap_or(0)
}

fn point(words: &[u64], row: usize, time: &impl Fn(usize) -> i64) -> Point {
    Point { time_ns: time(row), word: words[row] }
}

/// The first row with this value, block by block.
#[expect(clippy::float_cmp, reason = "it is one of these values")]
fn find(words: &[u64], wanted: f64, value: impl Fn(u64) -> f64) -> Option<usize> {
    let (blocks, tail) = words.as_chunks::<LANES>();
    for (number, block) in blocks.iter().enumerate() {
        let mut found = 0;
        for (lane, &word) in block.iter().enumerate() {
            found |= u32::from(value(word) == wanted) << lane;
        }
        if found != 0 {
            return Some(number * LANES + found.trailing_zeros() as usize);
        }
    }
    tail.iter().position(|&word| value(word) == wanted).map(|row| blocks.len() * LANES + row)
}
