//! What holds between the samples of one tag, cut into cells of time: the arithmetic of the interval functions. Pure.
//!
//! # Contract
//! * What holds between two samples, [`crate::pieces`] says.
//! * Pieces are cut at the bounds of cells: the value before a cell is carried in, a line is drawn across bounds.
//! * Cells come out in order, each once, those without any sample too.
//!
//! # What it does not know
//! SQL, where samples come from, what a bucket is. [`Fold`] is told of samples, or of rollups of them, in order of time.

use std::ops::ControlFlow;

use tagmill_storage::{Point, Rollup, Rule, ValueType};

use super::chain::{Chain, Gain};
use crate::pieces::{self, Piece, piece_of};

/// One bucket, cut by the range that is asked for.
#[expect(clippy::struct_field_names, reason = "all are times, and times say their unit")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Start of the whole bucket.
    pub(crate) label_ns: i64,
    /// First instant that counts.
    pub(crate) start_ns: i64,
    /// First instant that does not.
    pub(crate) end_ns: i64,
}

/// What one tag adds to a cell; of several tags, the sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Share {
    /// Length of the cell, for each tag.
    pub(crate) length_ns: i128,
    /// How much of it a value is known for.
    pub(crate) covered_ns: i128,
    /// Value times nanoseconds over that.
    pub(crate) integral: f64,
    /// Whether there is a sample, of any quality.
    pub(crate) is_sampled: bool,
    /// The longest stretch without a sample.
    pub(crate) gap_ns: i64,
    /// Usable samples.
    pub(crate) usable: u64,
    /// Usable samples whose value is not that of the usable one before.
    pub(crate) transitions: u64,
    /// What a counter has counted.
    pub(crate) increase: Gain,
    /// Time in each of the wanted states.
    pub(crate) in_state_ns: Vec<i128>,
    /// What is known at the first instant. Only of a single tag.
    pub(crate) at_start: Option<Standing>,
}

/// What a tag shows at an instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Standing {
    /// The last usable value.
    pub(crate) held: f64,
    /// The value on the line, where one is drawn.
    pub(crate) drawn: f64,
    /// How old the last usable sample is.
    pub(crate) age_ns: i64,
    /// How far it is from the next sample; if there is none, from the instant.
    pub(crate) span_ns: i64,
}

impl Share {
    /// Whether anything is known of the value in this cell.
    pub(crate) const fn is_known(&self) -> bool {
        self.covered_ns > 0 || self.usable > 0
    }

    /// Adds what another tag does in the same cell.
    pub(crate) fn pool(&mut self, other: &Self) {
        self.length_ns += other.length_ns;
        self.covered_ns += other.covered_ns;
        self.integral += other.integral;
        self.is_sampled |= other.is_sampled;
        self.gap_ns = self.gap_ns.max(other.gap_ns);
        self.usable += other.usable;
        self.transitions += other.transitions;
        self.increase.add(other.increase);
        self.in_state_ns.resize(self.in_state_ns.len().max(other.in_state_ns.len()), 0);
        for (mine, theirs) in self.in_state_ns.iter_mut().zip(&other.in_state_ns) {
            *mine += theirs;
        }
    }
}

/// Which values are a state that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// None of this tag's.
    Never,
    /// Those with this number.
    Number(f64),
    /// Those with one of these words.
    Words(Vec<u64>),
}

impl State {
    #[expect(clippy::float_cmp, reason = "a state is exactly this number")]
    fn holds(&self, value_type: ValueType, word: u64) -> bool {
        match self {
            Self::Never => false,
            Self::Number(wanted) => number(value_type, word) == *wanted,
            Self::Words(words) => words.contains(&word),
        }
    }
}

/// The number that a word of this type stands for; 0 for text.
pub(crate) fn number(value_type: ValueType, word: u64) -> f64 {
    Point { time_ns: 0, word }.value(value_type)
}

/// How the samples of one tag are understood.
#[derive(Clone, Debug)]
pub(crate) struct Meaning {
    pub(crate) value_type: ValueType,
    pub(crate) rule: Rule,
    pub(crate) states: Vec<State>,
}

/// Where a value goes until the next sample.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    piece: Piece,
    /// What is held.
    word: u64,
    /// Whether no sample follows.
    is_last: bool,
}

/// The samples of one tag on their way through the cells. Cells are given to `emit` as they are complete.
pub(crate) struct Fold<I, E> {
    meaning: Meaning,
    cells: I,
    emit: E,
    cell: Option<Cell>,
    share: Share,
    /// Since when, in this cell, there was no sample.
    silent_from_ns: i64,
    /// The last usable sample, if no unusable one came after it.
    held: Option<Point>,
    /// The last usable sample, whatever came after it.
    last: Option<Point>,
    chain: Chain,
}

/// What lies before the first cell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Carried {
    /// Time and word of the last usable sample.
    pub(crate) usable: Option<(i64, u64)>,
    /// Whether an unusable sample came after it.
    pub(crate) is_broken: bool,
}

impl<I, E> Fold<I, E>
where
    I: Iterator<Item = Cell>,
    E: FnMut(&Cell, &Share) -> ControlFlow<()>,
{
    /// Begins at the first of `cells`, which ascend and touch each other.
    pub(crate) fn new(meaning: Meaning, carried: Carried, mut cells: I, emit: E) -> Self {
        let cell = cells.next();
        let last = carried.usable.map(|(time_ns, word)| Point { time_ns, word });
        let mut fold = Self {
            meaning,
            cells,
            emit,
            cell,
            share: Share::default(),
            silent_from_ns: 0,
            held: last.filter(|_| !carried.is_broken),
            last,
            chain: Chain::default(),
        };
        fold.enter();
        fold
    }

    /// Takes the next sample: its word if it is usable.
    pub(crate) fn meet(&mut self, time_ns: i64, word: Option<u64>) -> ControlFlow<()> {
        self.run_to(time_ns, self.held.and_then(|from| self.stretch(from, time_ns, word)))?;
        self.share.is_sampled = true;
        self.share.gap_ns = self.share.gap_ns.max(time_ns - self.silent_from_ns);
        self.silent_from_ns = time_ns;
        let Some(word) = word else {
            self.held = None;
            return ControlFlow::Continue(());
        };
        let Meaning { value_type, rule, .. } = &self.meaning;
        self.share.usable += 1;
        if self.last.is_some_and(|last| differ(*value_type, last.word, word)) {
            self.share.transitions += 1;
        }
        self.share.increase.add(self.chain.step(rule, *value_type, time_ns, word));
        let sample = Point { time_ns, word };
        self.stand(sample);
        (self.last, self.held) = (Some(sample), Some(sample));
        ControlFlow::Continue(())
    }

    /// Takes all samples of a window that lies within one cell. For folds of rollups alone: a counter with jitter is
    /// followed through each window from the sample before it.
    pub(crate) fn absorb(&mut self, rollup: &Rollup) -> ControlFlow<()> {
        let usable = &rollup.usable;
        let first = usable.first.filter(|first| first.time_ns == rollup.first_ns);
        let word = first.map(|first| first.word);
        let stretch = self.held.and_then(|from| self.stretch(from, rollup.first_ns, word));
        self.run_to(rollup.first_ns, stretch)?;
        let Meaning { value_type, rule, .. } = &self.meaning;
        let share = &mut self.share;
        let silent_ns = rollup.first_ns - self.silent_from_ns;
        share.is_sampled = true;
        share.gap_ns = share.gap_ns.max(silent_ns).max(usable.gap_ns);
        self.silent_from_ns = rollup.last_ns;
        share.covered_ns += i128::from(usable.covered_ns);
        share.integral += usable.integral;
        share.usable += usable.count;
        share.transitions += usable.transitions;
        if let (Some(last), Some(first)) = (self.last, usable.first) {
            share.transitions += u64::from(differ(*value_type, last.word, first.word));
        }
        let (real, whole) = usable.increase_after(self.last, rule, *value_type);
        share.increase.add(match value_type {
            ValueType::F64 | ValueType::F32 => Gain { whole: 0, real },
            _ => Gain { whole, real: 0.0 },
        });
        if let Some(first) = first {
            self.stand(first);
        }
        self.held = usable.last.filter(|last| last.time_ns == rollup.last_ns);
        self.last = usable.last.or(self.last);
        ControlFlow::Continue(())
    }

    /// Ends the last cells, given the first sample after them: its time, and its word if it is usable.
    pub(crate) fn finish(mut self, next: Option<(i64, Option<u64>)>) -> ControlFlow<()> {
        let stretch = self.held.and_then(|from| {
            if let Some((time_ns, word)) = next {
                return self.stretch(from, time_ns, word);
            }
            let piece = piece_of(&self.meaning.rule, self.point(from), None, i64::MAX)?;
            Some(Stretch { piece, word: from.word, is_last: true })
        });
        self.run_to(i64::MAX, stretch)
    }

    /// From a usable sample to the next one: its time, and its word if it is usable.
    fn stretch(&self, from: Point, time_ns: i64, word: Option<u64>) -> Option<Stretch> {
        let value = word.map(|word| number(self.meaning.value_type, word));
        let next = pieces::Next { time_ns, value };
        let piece = piece_of(&self.meaning.rule, self.point(from), Some(next), i64::MAX)?;
        Some(Stretch { piece, word: from.word, is_last: false })
    }

    fn point(&self, from: Point) -> pieces::Point {
        pieces::Point { time_ns: from.time_ns, value: from.value(self.meaning.value_type) }
    }

    /// Goes on to `time_ns`, leaving the cells that end by then, and adds the stretch to each that it touches.
    fn run_to(&mut self, time_ns: i64, stretch: Option<Stretch>) -> ControlFlow<()> {
        while let Some(cell) = self.cell {
            if let Some(stretch) = &stretch {
                self.add(&cell, stretch);
            }
            if time_ns < cell.end_ns {
                break;
            }
            self.share.gap_ns = self.share.gap_ns.max(cell.end_ns - self.silent_from_ns);
            (self.emit)(&cell, &self.share)?;
            self.cell = self.cells.next();
            self.enter();
        }
        ControlFlow::Continue(())
    }

    fn enter(&mut self) {
        let Some(cell) = self.cell else { return };
        let mut in_state_ns = std::mem::take(&mut self.share.in_state_ns);
        in_state_ns.clear();
        in_state_ns.resize(self.meaning.states.len(), 0);
        let length_ns = i128::from(cell.end_ns) - i128::from(cell.start_ns);
        self.share = Share { length_ns, in_state_ns, ..Share::default() };
        self.silent_from_ns = cell.start_ns;
        // So that a cell's answer is the same whatever other cells are asked for.
        if let Some(Point { time_ns, word }) = self.last {
            self.chain.begin(time_ns, word);
        }
    }

    /// A usable sample at the cell's first instant is what the tag shows there, whatever comes next.
    fn stand(&mut self, sample: Point) {
        if self.cell.is_some_and(|cell| cell.start_ns == sample.time_ns) {
            let value = sample.value(self.meaning.value_type);
            let standing = Standing { held: value, drawn: value, age_ns: 0, span_ns: 0 };
            self.share.at_start = Some(standing);
        }
    }

    /// Adds the part of a stretch that lies in a cell.
    fn add(&mut self, cell: &Cell, stretch: &Stretch) {
        let Stretch { piece, word, is_last } = stretch;
        let Some(part) = piece.cut(cell.start_ns, cell.end_ns) else { return };
        if part.start_ns == cell.start_ns && self.share.at_start.is_none() {
            let age_ns = part.start_ns - piece.start_ns;
            let span_ns = if *is_last { age_ns } else { piece.end_ns - piece.start_ns };
            self.share.at_start =
                Some(Standing { held: piece.from, drawn: part.from, age_ns, span_ns });
        }
        let part_ns = i128::from(part.end_ns - part.start_ns);
        self.share.covered_ns += part_ns;
        self.share.integral += part.integral();
        for (state, in_state_ns) in self.meaning.states.iter().zip(&mut self.share.in_state_ns) {
            if state.holds(self.meaning.value_type, *word) {
                *in_state_ns += part_ns;
            }
        }
    }
}

#[expect(clippy::float_cmp, reason = "whether a value changed at all is the question")]
fn differ(value_type: ValueType, one: u64, other: u64) -> bool {
    match value_type {
        ValueType::F64 | ValueType::F32 => number(value_type, one) != number(value_type, other),
        _ => one != other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample at a time in whole units: its value, if it is usable.
    type Sample = (i64, Option<f64>);

    const SLOPED: Rule = Rule {
        stepped: false,
        uncertain_usable: false,
        max_gap_ns: None,
        rollover: None,
        jitter: 0.0,
        reset_value: 0.0,
    };
    const STEPPED: Rule = Rule { stepped: true, ..SLOPED };

    fn meaning(rule: Rule) -> Meaning {
        Meaning { value_type: ValueType::F64, rule, states: vec![State::Number(2.0)] }
    }

    fn folded(rule: &Rule, samples: &[Sample], bounds: &[i64]) -> Vec<Share> {
        let (start_ns, end_ns) = (bounds[0], bounds[bounds.len() - 1]);
        let cells = bounds.windows(2).map(|pair| Cell {
            label_ns: pair[0],
            start_ns: pair[0],
            end_ns: pair[1],
        });
        let before = samples.iter().filter(|(time, _)| *time < start_ns);
        let mut carried = Carried::default();
        for (time, value) in before {
            match value {
                Some(value) => {
                    carried = Carried { usable: Some((*time, value.to_bits())), is_broken: false };
                }
                None => carried.is_broken = true,
            }
        }
        let word = |value: Option<f64>| value.map(f64::to_bits);
        let mut shares = Vec::new();
        let mut fold =
            Fold::new(meaning(rule.clone()), carried, cells, |_: &Cell, share: &Share| {
                shares.push(share.clone());
                ControlFlow::Continue(())
            });
        for &(time, value) in samples.iter().filter(|(at, _)| start_ns <= *at && *at < end_ns) {
            assert!(fold.meet(time, word(value)).is_continue());
        }
        let next = samples.iter().find(|(time, _)| *time >= end_ns);
        assert!(fold.finish(next.map(|&(time, value)| (time, word(value)))).is_continue());
        shares
    }

    /// The same, said unit by unit of time and sample by sample.
    #[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
    fn expected(rule: &Rule, samples: &[Sample], start: i64, end: i64) -> Share {
        let mut share = Share { length_ns: i128::from(end - start), ..Share::default() };
        share.in_state_ns = vec![0];
        for unit in start..end {
            let last = samples.iter().rev().find(|(time, _)| *time <= unit);
            let next = samples.iter().find(|(time, _)| *time > unit);
            let Some(&(from, Some(value))) = last else { continue };
            let far = |to: i64| rule.max_gap_ns.is_some_and(|most| to - from > most);
            let shown = match next {
                None if far(unit + 1) => continue,
                Some(&(to, _)) if far(to) => continue,
                Some(&(to, Some(other))) if !rule.stepped => {
                    let along = ((unit - from) as f64 + 0.5) / (to - from) as f64;
                    value + (other - value) * along
                }
                _ => value,
            };
            if unit == start {
                let drawn = match next {
                    Some(&(to, Some(other))) if !rule.stepped => {
                        value + (other - value) * (unit - from) as f64 / (to - from) as f64
                    }
                    _ => value,
                };
                let age_ns = unit - from;
                let span_ns = next.map_or(age_ns, |next| next.0 - from);
                share.at_start = Some(Standing { held: value, drawn, age_ns, span_ns });
            }
            share.covered_ns += 1;
            share.integral += shown;
            share.in_state_ns[0] += i128::from(value == 2.0);
        }
        let inside = |time: &i64| start <= *time && *time < end;
        share.is_sampled = samples.iter().any(|(time, _)| inside(time));
        let mut from = start;
        for time in samples.iter().map(|(time, _)| *time).filter(inside).chain([end]) {
            share.gap_ns = share.gap_ns.max(time - from);
            from = time;
        }
        if let Some(&(_, Some(value))) = samples.iter().find(|(time, _)| *time == start) {
            let standing = Standing { held: value, drawn: value, age_ns: 0, span_ns: 0 };
            share.at_start = Some(standing);
        }
        let usable: Vec<(i64, f64)> =
            samples.iter().filter_map(|(time, value)| Some((*time, (*value)?))).collect();
        share.usable = usable.iter().filter(|(time, _)| inside(time)).count() as u64;
        for pair in usable.windows(2).filter(|pair| inside(&pair[1].0)) {
            let (from, to) = (pair[0], pair[1]);
            share.transitions += u64::from(from.1 != to.1);
            if rule.max_gap_ns.is_none_or(|most| to.0 - from.0 <= most) {
                let step = to.1 - from.1;
                share.increase.real += if step < 0.0 { to.1 } else { step };
            }
        }
        share
    }

    #[track_caller]
    fn check(rule: &Rule, samples: &[Sample], bounds: &[i64]) {
        let found = folded(rule, samples, bounds);
        assert_eq!(found.len(), bounds.len() - 1, "{samples:?} {bounds:?}");
        for (share, pair) in found.iter().zip(bounds.windows(2)) {
            let want = expected(rule, samples, pair[0], pair[1]);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + a.abs());
            assert!(near(share.integral, want.integral), "{samples:?} {pair:?} {share:?} {want:?}");
            let mut exact = Share { integral: want.integral, ..share.clone() };
            if let (Some(found), Some(want)) = (&mut exact.at_start, &want.at_start) {
                assert!(near(found.drawn, want.drawn), "{samples:?} {pair:?} {found:?} {want:?}");
                found.drawn = want.drawn;
            }
            assert_eq!(exact, want, "{rule:?} {samples:?} {pair:?}");
        }
    }

    /// The rest of a division of a number that looks random, the same in every run.
    struct Draw(u64);

    impl Draw {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 20) % end
        }
    }

    #[test]
    fn equals_the_model_for_random_samples_and_cells() {
        let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
        let mut signed = move |end: u64| draw.below(end).cast_signed();
        for _ in 0..20_000 {
            let mut samples = Vec::new();
            let mut time = signed(6);
            for _ in 0..signed(12) {
                let value = (signed(4) > 0).then(|| signed(5) as f64);
                samples.push((time, value));
                time += 1 + signed(7);
            }
            let mut bounds = vec![signed(20)];
            for _ in 0..=signed(6) {
                bounds.push(bounds[bounds.len() - 1] + 1 + signed(9));
            }
            let max_gap_ns = (signed(2) == 0).then(|| 1 + signed(8));
            check(&Rule { max_gap_ns, ..SLOPED }, &samples, &bounds);
            check(&Rule { max_gap_ns, ..STEPPED }, &samples, &bounds);
        }
    }

    #[test]
    fn gaps_bounds_and_single_samples_by_hand() {
        let of = |rule: &Rule, samples: &[Sample], start: i64, end: i64| {
            let shares = folded(rule, samples, &[start, end]);
            (shares[0].covered_ns, shares[0].integral)
        };
        let line = [(0, Some(0.0)), (10, Some(10.0))];
        // A line across the bound: from 4 to 6 its mean is 5.
        assert_eq!(of(&SLOPED, &line, 4, 6), (2, 10.0));
        assert_eq!(of(&STEPPED, &line, 4, 6), (2, 0.0));
        // The last value is held: 10 from 10 on.
        assert_eq!(of(&SLOPED, &line, 8, 12), (4, 18.0 + 20.0));
        // One sample gives its value.
        assert_eq!(of(&SLOPED, &[(3, Some(7.0))], 0, 10), (7, 49.0));
        // Held up to the bad sample, then nothing.
        let bad = [(0, Some(4.0)), (4, None), (8, Some(6.0))];
        assert_eq!(of(&SLOPED, &bad, 0, 10), (6, 16.0 + 12.0));
        assert_eq!(of(&SLOPED, &bad, 5, 7), (0, 0.0));
        // Six units apart, four at most: no data between, four held at the end.
        let gap = Rule { max_gap_ns: Some(4), ..STEPPED };
        assert_eq!(of(&gap, &[(0, Some(1.0)), (6, Some(2.0))], 0, 20), (4, 8.0));
        // Nothing before the first sample, all of the length known to be asked for.
        assert_eq!(folded(&STEPPED, &[(9, Some(1.0))], &[0, 5, 10])[0].length_ns, 5);
    }
}
