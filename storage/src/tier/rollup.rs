//! [`Rollup`]: what is known of one tag's samples in one window, and how two of them become one.

use crate::tag::ValueType;
use crate::tier::rule::{Rule, is_below, is_float, value_of};
use crate::tier::usable::{MaybeUsable, Side};

/// A sample's time, and its value as a word, see [`crate::Value::from_word`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Source time.
    pub time_ns: i64,
    /// The value, bit for bit.
    pub word: u64,
}

impl Point {
    /// The number it stands for; 0 for text.
    pub fn value(&self, value_type: ValueType) -> f64 {
        value_of(value_type, self.word)
    }
}

/// What a question needs to know of each window. It decides how much is computed, and what may be read instead of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Counts, sums, extremes and ends: [`Rollup`] without `m2`; `usable` is empty.
    Sql,
    /// The same, and `m2`.
    SqlMoments,
    /// As [`Needs::Sql`], and `usable` without transitions and increase: these two then mean nothing.
    Weighted,
    /// As [`Needs::Weighted`], and transitions.
    Changes,
    /// As [`Needs::Sql`], and all of `usable`.
    Interval,
}

/// What is known of one tag's samples in one window: a state that can be merged.
///
/// Windows without samples are not given. Of text there are no values: only times and counts, and of `usable` what needs
/// no value; words of its points are 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollup {
    /// First instant of the window it is for. The window may reach beyond the asked range, its samples do not.
    pub start_ns: i64,
    /// First sample, of any quality.
    pub first_ns: i64,
    /// Last sample, of any quality.
    pub last_ns: i64,
    /// Samples of Good quality.
    pub good: u64,
    /// Samples of Uncertain quality.
    pub uncertain: u64,
    /// Samples of Bad quality.
    pub bad: u64,
    /// Samples that are not Bad and have no finite value.
    pub non_finite: u64,
    /// Samples with a `value`, as SQL sees it: not Bad, and finite. The fields down to `last` are over these; 0 for text.
    pub count: u64,
    /// Sum of their values; 0 if there are none.
    ///
    /// Of integers, truth values and states it is exact before it is rounded once. From raw samples, floats are dealt in
    /// time order to eight sums in turn, which are then added as `((0+4)+(2+6))+((1+5)+(3+7))`.
    pub sum: f64,
    /// The same, exact, of integers, truth values and states; else 0.
    pub sum_int: i128,
    /// Sum of the squares of their distances from their mean.
    pub m2: f64,
    /// The least value and where it came first.
    pub min: Option<Point>,
    /// The greatest value and where it came first.
    pub max: Option<Point>,
    /// The first of them.
    pub first: Option<Point>,
    /// The last of them.
    pub last: Option<Point>,
    /// What interval functions need.
    pub usable: MaybeUsable,
}

impl Rollup {
    /// Of a window that no sample came to yet: not a rollup until one does.
    pub(crate) const fn empty(start_ns: i64) -> Self {
        Self {
            start_ns,
            first_ns: i64::MAX,
            last_ns: i64::MIN,
            good: 0,
            uncertain: 0,
            bad: 0,
            non_finite: 0,
            count: 0,
            sum: 0.0,
            sum_int: 0,
            m2: 0.0,
            min: None,
            max: None,
            first: None,
            last: None,
            usable: MaybeUsable::NONE,
        }
    }

    /// Samples of any quality.
    pub fn rows(&self) -> u64 {
        self.good + self.uncertain + self.bad
    }

    /// Adds what is known of later samples of the same tag: the rollup of both together, with the stretch between them. It
    /// keeps its own `start_ns`.
    ///
    /// # Panics
    /// If `later` does not begin after this ends.
    pub fn merge(&mut self, later: &Self, rule: &Rule, value_type: ValueType) {
        if self.rows() == 0 {
            *self = Self { start_ns: self.start_ns, ..later.clone() };
            return;
        }
        assert!(self.last_ns < later.first_ns, "rollups of spans that overlap cannot be merged");
        let sides = (Side::last(self), Side::first(later));
        if later.usable.is_some() {
            self.usable.join(&later.usable, sides, rule, value_type);
        }
        self.m2 += later.m2 + between((self.count, self.sum), (later.count, later.sum));
        self.sum_int += later.sum_int;
        self.sum = match () {
            () if self.count == 0 => later.sum,
            () if later.count == 0 => self.sum,
            () if is_float(value_type) => self.sum + later.sum,
            () => self.sum_int as f64,
        };
        self.count += later.count;
        self.good += later.good;
        self.uncertain += later.uncertain;
        self.bad += later.bad;
        self.non_finite += later.non_finite;
        let wins = |mine: Option<Point>, other: Option<Point>, less: bool| match (mine, other) {
            (Some(a), Some(b)) if less => is_below(value_type, b.word, a.word),
            (Some(a), Some(b)) => is_below(value_type, a.word, b.word),
            (mine, _) => mine.is_none(),
        };
        if wins(self.min, later.min, true) {
            self.min = later.min;
        }
        if wins(self.max, later.max, false) {
            self.max = later.max;
        }
        self.first = self.first.or(later.first);
        self.last = later.last.or(self.last);
        self.last_ns = later.last_ns;
    }
}

/// What two groups' means add to the squares of the distances from the mean of both.
pub(crate) fn between((n, sum): (u64, f64), (m, other): (u64, f64)) -> f64 {
    if n == 0 || m == 0 {
        return 0.0;
    }
    let (n, m) = (n as f64, m as f64);
    let apart = other / m - sum / n;
    apart * apart * (n * m / (n + m))
}
