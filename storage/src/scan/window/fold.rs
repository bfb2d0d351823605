//! The arithmetic of windows: rows in time order go in, window after window comes out.
//!
//! # Contract
//! * What comes out depends on the rows alone, not on how they are cut into pieces: the same samples in chunks, in the
//!   head or merged from both give the same bits.
//! * No hash and no search a row: where a window ends is found once a window.

use crate::quality::{Quality, Severity};
use crate::sample::f32_of;
use crate::tag::ValueType;

/// Sums a window keeps side by side. Part of what [`Window::sum`] means.
const LANES: usize = 8;

/// A sample's time, and its value as a word, see [`crate::Value::from_word`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Source time.
    pub time_ns: i64,
    /// The value, bit for bit.
    pub word: u64,
}

/// What is known of one tag's samples in one window. Windows without samples are not given.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// First instant inside: `origin_ns` plus a multiple of `width_ns`. The window may reach beyond the asked range, its
    /// samples do not.
    pub start_ns: i64,
    /// Samples of Good quality.
    pub good: u64,
    /// Samples of Uncertain quality.
    pub uncertain: u64,
    /// Samples of Bad quality.
    pub bad: u64,
    /// Good samples with a finite value: those behind all fields below. Always 0 for text.
    pub finite: u64,
    /// Sum of their values; 0 if there are none.
    ///
    /// Of integers, truth values and states it is exact before it is rounded once. Floats are dealt in time order to eight
    /// sums in turn, which are then added as `((0+4)+(2+6))+((1+5)+(3+7))`: the same bits however the rows are stored.
    pub sum: f64,
    /// The least value and where it came first.
    pub min: Option<Point>,
    /// The greatest value and where it came first.
    pub max: Option<Point>,
    /// The first of them.
    pub first: Option<Point>,
    /// The last of them.
    pub last: Option<Point>,
}

/// Times of rows, as cheap as they can be had.
#[derive(Clone, Copy, Debug)]
pub(super) enum Times<'a> {
    /// On a grid: the first, and the distance of neighbours.
    Step(i64, i64),
    /// One for each row, ascending.
    Each(&'a [i64]),
}

impl Times<'_> {
    /// Time of a row.
    fn at(&self, row: usize) -> i64 {
        match self {
            Self::Step(first_ns, step_ns) => {
                first_ns.wrapping_add(step_ns.wrapping_mul(row as i64))
            }
            Self::Each(times) => times[row],
        }
    }

    /// The first row from `from` on whose time is not before `end_ns`; `guess` rows are likely.
    fn end(&self, from: usize, count: usize, end_ns: i64, guess: usize) -> usize {
        match self {
            Self::Step(first_ns, step_ns) => {
                let ahead_ns = i128::from(end_ns) - i128::from(*first_ns);
                let rows = (ahead_ns + i128::from(*step_ns) - 1) / i128::from(*step_ns);
                usize::try_from(rows).map_or(count, |rows| rows.clamp(from, count))
            }
            Self::Each(times) => {
                let near = (from + guess).min(count);
                let is_before = |row: usize| times.get(row).is_none_or(|time| *time < end_ns);
                // Most sources are regular: the window before tells how long this one is.
                let (low, high) = if near > from && !is_before(near - 1) {
                    (from, near)
                } else if near == count || !is_before(near) {
                    return near;
                } else {
                    let mut reach = 8;
                    while near + reach < count && is_before(near + reach) {
                        reach *= 2;
                    }
                    (near, (near + reach).min(count))
                };
                low + times[low..high].partition_point(|time| *time < end_ns)
            }
        }
    }
}

/// Qualities of rows.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowQualities<'a> {
    /// All the same.
    Uniform(u32),
    /// One for each row.
    Each(&'a [u32]),
}

/// Rows of one tag, in time order, after all rows that came before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    pub(super) count: usize,
    pub(super) times: Times<'a>,
    /// Empty for text.
    pub(super) words: &'a [u64],
    pub(super) qualities: RowQualities<'a>,
}

/// Collects the windows of one tag.
#[derive(Debug)]
pub(super) struct Fold {
    origin_ns: i64,
    width_ns: i64,
    value_type: ValueType,
    open: Option<Open>,
    /// Rows of the window before: likely those of the next.
    guess: usize,
    done: Vec<Window>,
}

/// The window that rows go to now.
#[derive(Clone, Debug)]
struct Open {
    window: Window,
    /// First instant after it.
    end_ns: i64,
    lanes: [f64; LANES],
    total: i128,
}

impl Fold {
    pub(super) const fn new(origin_ns: i64, width_ns: i64, value_type: ValueType) -> Self {
        Self { origin_ns, width_ns, value_type, open: None, guess: 0, done: Vec::new() }
    }

    /// Windows that are complete.
    pub(super) fn done(&self) -> usize {
        self.done.len()
    }

    /// Takes the complete windows.
    pub(super) fn take_done(&mut self) -> Vec<Window> {
        std::mem::take(&mut self.done)
    }

    /// Ends the last window and takes what is left.
    pub(super) fn finish(&mut self) -> Vec<Window> {
        let open = self.open.take();
        self.done.extend(open.map(|open| open.close(self.value_type)));
        self.take_done()
    }

    /// Adds rows, which follow those added before.
    pub(super) fn add(&mut self, rows: &Rows<'_>) {
        let mut from = 0;
        while from < rows.count {
            let time_ns = rows.times.at(from);
            let mut open = match self.open.take() {
                Some(open) if time_ns < open.end_ns => open,
                before => {
                    self.done.extend(before.map(|open| open.close(self.value_type)));
                    self.begin(time_ns)
                }
            };
            let to = rows.times.end(from, rows.count, open.end_ns, self.guess).max(from + 1);
            self.guess = to - from;
            open.add(self.value_type, rows, from, to);
            self.open = Some(open);
            from = to;
        }
    }

    /// The window that holds this instant, empty.
    fn begin(&self, time_ns: i64) -> Open {
        let since = i128::from(time_ns) - i128::from(self.origin_ns);
        let start = i128::from(time_ns) - since.rem_euclid(i128::from(self.width_ns));
        let end = start + i128::from(self.width_ns);
        let window = Window {
            start_ns: i64::try_from(start).unwrap_or(i64::MIN),
            good: 0,
            uncertain: 0,
            bad: 0,
            finite: 0,
            sum: 0.0,
            min: None,
            max: None,
            first: None,
            last: None,
        };
        let end_ns = i64::try_from(end).unwrap_or(i64::MAX);
        // The neutral sum is -0.0: a sum of nothing but -0.0 keeps its sign.
        Open { window, end_ns, lanes: [-0.0; LANES], total: 0 }
    }
}

impl Open {
    /// Adds rows `from..to`, all of them within the window.
    fn add(&mut self, value_type: ValueType, rows: &Rows<'_>, from: usize, to: usize) {
        match rows.qualities {
            RowQualities::Uniform(quality) => self.add_run(value_type, rows, (from, to), quality),
            RowQualities::Each(qualities) => {
                let mut at = from;
                for run in qualities[from..to].chunk_by(|a, b| a >> 30 == b >> 30) {
                    let quality = run.first().copied().unwrap_or_default();
                    self.add_run(value_type, rows, (at, at + run.len()), quality);
                    at += run.len();
                }
            }
        }
    }

    /// Adds rows of one severity.
    fn add_run(
        &mut self,
        value_type: ValueType,
        rows: &Rows<'_>,
        (from, to): (usize, usize),
        quality: u32,
    ) {
        let count = (to - from) as u64;
        match Quality(quality).severity() {
            Severity::Uncertain => self.window.uncertain += count,
            Severity::Bad => self.window.bad += count,
            Severity::Good => {
                self.window.good += count;
                let times = |row: usize| rows.times.at(from + row);
                match value_type {
                    ValueType::Text => {}
                    ValueType::F64 => self.add_floats(&rows.words[from..to], f64::from_bits, times),
                    ValueType::F32 => {
                        self.add_floats(&rows.words[from..to], |w| f64::from(f32_of(w)), times);
                    }
                    ValueType::I64 | ValueType::Bool | ValueType::State => {
                        self.add_integers(&rows.words[from..to], times);
                    }
                }
            }
        }
    }

    /// Adds Good floats: as if all were finite, and again one by one if that was wrong.
    fn add_floats(
        &mut self,
        words: &[u64],
        value: impl Fn(u64) -> f64 + Copy,
        time: impl Fn(usize) -> i64,
    ) {
        let before = self.lanes;
        // Begins where the lanes begin.
        let phase = lane_of(self.window.finite);
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
        let known = self.window.min.map_or(f64::INFINITY, |point| value(point.word));
        if least < known {
            self.window.min = find(words, least, value).map(|row| point(words, row, &time));
        }
        let known = self.window.max.map_or(f64::NEG_INFINITY, |point| value(point.word));
        if greatest > known {
            self.window.max = find(words, greatest, value).map(|row| point(words, row, &time));
        }
        if let Some(last) = words.len().checked_sub(1) {
            self.note_ends(point(words, 0, &time), point(words, last, &time));
        }
        self.window.finite += words.len() as u64;
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
            self.lanes[lane_of(self.window.finite)] += found;
            self.window.finite += 1;
            if self.window.min.is_none_or(|min| found < value(min.word)) {
                self.window.min = Some(point);
            }
            if self.window.max.is_none_or(|max| found > value(max.word)) {
                self.window.max = Some(point);
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
        self.total += total;
        let row_of = |value: i64| words.iter().position(|&word| word as i64 == value);
        if self.window.min.is_none_or(|min| least < min.word as i64) {
            self.window.min = row_of(least).map(|row| point(words, row, &time));
        }
        if self.window.max.is_none_or(|max| greatest > max.word as i64) {
            self.window.max = row_of(greatest).map(|row| point(words, row, &time));
        }
        if let Some(last) = words.len().checked_sub(1) {
            self.note_ends(point(words, 0, &time), point(words, last, &time));
        }
        self.window.finite += words.len() as u64;
    }

    fn note_ends(&mut self, first: Point, last: Point) {
        self.window.first = self.window.first.or(Some(first));
        self.window.last = Some(last);
    }

    fn close(self, value_type: ValueType) -> Window {
        let Self { mut window, lanes, total, .. } = self;
        window.sum = match value_type {
            _ if window.finite == 0 => 0.0,
            ValueType::F64 | ValueType::F32 => united(&lanes),
            _ => total as f64,
        };
        window
    }
}

/// All lanes as one sum. The order is part of what [`Window::sum`] means.
fn united(lanes: &[f64; LANES]) -> f64 {
    let (low, high) = lanes.split_at(LANES / 2);
    let [even, odd] = [0, 1].map(|at| (low[at] + high[at]) + (low[at + 2] + high[at + 2]));
    even + odd
}

/// The lane that the next value goes to after so many.
fn lane_of(finite: u64) -> usize {
    usize::try_from(finite % LANES as u64).unwrap_or(0)
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
