//! The rollup of a whole is the merge of the rollups of its parts, and both are what the rule book says.

use proptest::prelude::*;

use super::Tier;
use super::fold::{Fold, Frame};
use super::rollup::{Needs, Point, Rollup};
use super::rows::{RowQualities, Rows, Times};
use super::rule::{Rule, is_float, value_of};
use super::usable::{MaybeUsable, Usable};
use crate::quality::{Quality, Severity};
use crate::tag::ValueType;

/// One sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) time_ns: i64,
    pub(crate) word: u64,
    pub(crate) quality: Quality,
}

/// A sum that keeps what rounding takes from it.
#[derive(Clone, Copy, Default)]
struct Exact(f64, f64);

impl Exact {
    fn add(&mut self, value: f64) {
        let sum = self.0 + value;
        let part = sum - self.0;
        self.1 += (self.0 - (sum - part)) + (value - part);
        self.0 = sum;
    }

    fn value(self) -> f64 {
        self.0 + self.1
    }
}

/// What the rule book says of these rows, straight from its sentences. The second number: how far sums may be off, as
/// sums of what is added without its sign: values, squares, integral, increase.
pub(crate) fn by_the_book(
    value_type: ValueType,
    rule: &Rule,
    start_ns: i64,
    rows: &[Row],
) -> (Rollup, [f64; 4]) {
    let mut all = Rollup::empty(start_ns);
    let count = |severity| rows.iter().filter(|r| r.quality.severity() == severity).count() as u64;
    (all.first_ns, all.last_ns) = (rows[0].time_ns, rows.last().unwrap().time_ns);
    all.good = count(Severity::Good);
    all.uncertain = count(Severity::Uncertain);
    all.bad = count(Severity::Bad);
    let value = |word: u64| value_of(value_type, word);
    let point = |row: &Row| Point { time_ns: row.time_ns, word: row.word };
    let is_text = value_type == ValueType::Text;
    let known: Vec<Point> = rows
        .iter()
        .filter(|row| !row.quality.is_bad() && value(row.word).is_finite() && !is_text)
        .map(point)
        .collect();
    let mut scale = [0.0; 4];
    if !is_text {
        all.non_finite = all.good + all.uncertain - known.len() as u64;
        all.count = known.len() as u64;
        let (mut sum, mut m2) = (Exact::default(), Exact::default());
        for p in &known {
            sum.add(value(p.word));
        }
        all.sum = sum.value();
        let mean = all.sum / all.count.max(1) as f64;
        for p in &known {
            m2.add((value(p.word) - mean).powi(2));
        }
        all.m2 = m2.value();
        scale[0] = known.iter().map(|p| value(p.word).abs()).sum();
        scale[1] = known.iter().map(|p| value(p.word).powi(2)).sum();
        if !is_float(value_type) {
            all.sum_int = known.iter().map(|p| i128::from(p.word as i64)).sum();
        }
        let less = |a: &Point, b: &Point| {
            if is_float(value_type) {
                value(a.word) < value(b.word)
            } else {
                (a.word as i64) < (b.word as i64)
            }
        };
        let wins = |best: Point, other: &Point, is_less: bool| if is_less { *other } else { best };
        let all_of = || known.iter().skip(1);
        let first = known.first().copied();
        all.min = first.map(|f| all_of().fold(f, |best, p| wins(best, p, less(p, &best))));
        all.max = first.map(|f| all_of().fold(f, |best, p| wins(best, p, less(&best, p))));
        (all.first, all.last) = (first, known.last().copied());
    }
    let usable = usable_by_the_book(value_type, rule, rows, &mut scale);
    (Rollup { usable: usable.into(), ..all }, scale)
}

fn usable_by_the_book(
    value_type: ValueType,
    rule: &Rule,
    rows: &[Row],
    scale: &mut [f64; 4],
) -> Usable {
    let value = |word: u64| value_of(value_type, word);
    let point = |row: &Row| Point { time_ns: row.time_ns, word: row.word };
    let is_usable = |row: &&Row| {
        let uncertain = row.quality.severity() == Severity::Uncertain && rule.uncertain_usable;
        (row.quality.is_good() || uncertain) && value(row.word).is_finite()
    };
    let usable: Vec<Row> = rows.iter().filter(is_usable).copied().collect();
    let mut found = Usable {
        count: usable.len() as u64,
        first: usable.first().map(point),
        last: usable.last().map(point),
        ..Usable::EMPTY
    };
    found.breaks_before = rows.first().is_some_and(|row| !is_usable(&row));
    let after_ns = found.last.map_or(i64::MIN, |last| last.time_ns);
    let mut after = rows.iter().filter(|row| row.time_ns > after_ns);
    found.break_ns = after.find(|row| !is_usable(row)).map(|row| row.time_ns);
    let mut integral = Exact::default();
    for pair in rows.windows(2) {
        let distance_ns = pair[1].time_ns - pair[0].time_ns;
        found.gap_ns = found.gap_ns.max(distance_ns);
        if !is_usable(&&pair[0]) || rule.max_gap_ns.is_some_and(|max| distance_ns > max) {
            continue;
        }
        let (v, w) = (value(pair[0].word), value(pair[1].word));
        let mean = if rule.stepped || !is_usable(&&pair[1]) { v } else { v / 2.0 + w / 2.0 };
        found.covered_ns += distance_ns;
        integral.add(mean * distance_ns as f64);
        scale[2] += (v.abs() + w.abs()) * distance_ns as f64;
        let is_zero = v == 0.0;
        found.nonzero_ns += if is_zero { 0 } else { distance_ns };
    }
    found.integral = integral.value();
    #[expect(clippy::float_cmp, reason = "any change counts")]
    let changed = |pair: &&[Row]| {
        if is_float(value_type) {
            value(pair[0].word) != value(pair[1].word)
        } else {
            pair[0].word != pair[1].word
        }
    };
    found.transitions = usable.windows(2).filter(changed).count() as u64;
    (found.increase, found.increase_int) = rise_by_the_book(value_type, rule, &usable);
    scale[3] = usable.iter().map(|row| value(row.word).abs() + rule.rollover.unwrap_or(0.0)).sum();
    found
}

/// What a counter rose by from the first of these rows to the last.
fn rise_by_the_book(value_type: ValueType, rule: &Rule, usable: &[Row]) -> (f64, i128) {
    let (mut sum, mut exact) = (0.0, 0);
    let Some(mut before) = usable.first().copied() else { return (0.0, 0) };
    let mut last = before;
    for row in &usable[1..] {
        let is_chained = rule.max_gap_ns.is_none_or(|max| row.time_ns - last.time_ns <= max);
        last = *row;
        if !is_chained {
            before = *row;
        } else if is_float(value_type) {
            let (x, y) = (value_of(value_type, before.word), value_of(value_type, row.word));
            let d = y - x;
            if d >= 0.0 {
                sum += d;
            } else if rule.rollover.is_some_and(|modulus| d.abs() > modulus / 2.0) {
                sum += d + rule.rollover.unwrap();
            } else if d.abs() <= rule.jitter {
                continue;
            } else {
                sum += y - rule.reset_value;
            }
            before = *row;
        } else {
            let (x, y) = (i128::from(before.word as i64), i128::from(row.word as i64));
            let whole = |value: f64| i128::from(format!("{value}").parse::<i64>().unwrap());
            let d = y - x;
            if d >= 0 {
                exact += d;
            } else if rule.rollover.is_some_and(|modulus| 2 * d.abs() > whole(modulus)) {
                exact += d + whole(rule.rollover.unwrap());
            } else if d.abs() <= whole(rule.jitter) {
                continue;
            } else {
                exact += y - whole(rule.reset_value);
            }
            before = *row;
        }
    }
    (if is_float(value_type) { sum } else { exact as f64 }, exact)
}

/// Compares what was found with the rule book, as far as `needs` go.
pub(crate) fn check(
    found: &Rollup,
    needs: Needs,
    value_type: ValueType,
    rule: &Rule,
    rows: &[Row],
) {
    let (mut want, scale) = by_the_book(value_type, rule, found.start_ns, rows);
    let mut found = found.clone();
    let slack = 4.0 * rows.len() as f64 * f64::EPSILON;
    let near = |what: &str, a: &mut f64, b: &mut f64, scale: f64| {
        let ok = (*a - *b).abs() <= slack * scale || !scale.is_finite();
        assert!(ok, "{what}: {a} is not {b}, of {rows:?} by {rule:?}");
        (*a, *b) = (0.0, 0.0);
    };
    near("sum", &mut found.sum, &mut want.sum, scale[0]);
    if needs == Needs::SqlMoments {
        near("m2", &mut found.m2, &mut want.m2, 4.0 * scale[1]);
    }
    (found.m2, want.m2) = (0.0, 0.0);
    if needs < Needs::Weighted {
        assert_eq!(*found.usable, Usable::EMPTY);
        want.usable = MaybeUsable::NONE;
    }
    let (mine, theirs) = (&mut found.usable, &mut want.usable);
    near("integral", &mut mine.integral, &mut theirs.integral, scale[2]);
    if needs == Needs::Interval {
        near("increase", &mut mine.increase, &mut theirs.increase, scale[3]);
    } else {
        (mine.transitions, mine.increase, mine.increase_int) = (0, 0.0, 0);
        (theirs.transitions, theirs.increase, theirs.increase_int) = (0, 0.0, 0);
    }
    (mine.reference, mine.lead) = (None, None);
    (mine.held, mine.falls) = (0.0, 0);
    assert_eq!(found, want, "of {rows:?} by {rule:?}");
}

fn any_word(value_type: ValueType) -> BoxedStrategy<u64> {
    let odd = prop::sample::select(vec![f64::NAN, f64::INFINITY, -0.0, 1e-300]);
    let float = prop_oneof![
        8 => (-20_i32..40).prop_map(|n| f64::from(n) / 4.0),
        2 => (0_i32..400).prop_map(|n| f64::from(n) / 10.0),
        1 => odd
    ];
    match value_type {
        ValueType::F64 => float.prop_map(f64::to_bits).boxed(),
        #[expect(clippy::cast_possible_truncation, reason = "any f32 will do")]
        ValueType::F32 => float.prop_map(|v| u64::from((v as f32).to_bits())).boxed(),
        ValueType::I64 => {
            prop_oneof![9 => -5_i64..12, 1 => any::<i64>()].prop_map(i64::cast_unsigned).boxed()
        }
        ValueType::Bool => (0_u64..2).boxed(),
        ValueType::State => (0_u64..5).boxed(),
        ValueType::Text => Just(0).boxed(),
    }
}

fn any_quality() -> impl Strategy<Value = Quality> {
    prop_oneof![
        12 => Just(Quality::GOOD),
        1 => Just(Quality(0x0000_0400)),
        1 => Just(Quality::UNCERTAIN),
        1 => Just(Quality::BAD)
    ]
}

pub(crate) fn any_rule() -> impl Strategy<Value = Rule> {
    let maybe = |values: Vec<f64>| prop::option::of(prop::sample::select(values));
    (
        any::<bool>(),
        any::<bool>(),
        prop::option::of(1_i64..8),
        maybe(vec![10.0, 4.0]),
        maybe(vec![1.0, 3.0, 8.0]),
        maybe(vec![1.0, -2.0]),
    )
        .prop_map(|(stepped, uncertain_usable, max_gap_ns, rollover, jitter, reset)| Rule {
            stepped,
            uncertain_usable,
            max_gap_ns,
            rollover,
            jitter: jitter.unwrap_or(0.0),
            reset_value: reset.unwrap_or(0.0),
        })
}

fn any_rows() -> impl Strategy<Value = (ValueType, Vec<Row>)> {
    any_rows_in(1)
}

/// Rows whose times are multiples of a unit.
pub(crate) fn any_rows_in(unit_ns: i64) -> impl Strategy<Value = (ValueType, Vec<Row>)> {
    let types = prop::sample::select(ValueType::ALL.to_vec());
    types.prop_flat_map(move |value_type| {
        let steps = prop_oneof![3 => Just(2_i64), 1 => 1_i64..12];
        let quality = prop_oneof![1 => Just(Quality::GOOD).boxed(), 1 => any_quality().boxed()];
        let rows = prop::collection::vec((steps, any_word(value_type), quality), 1..40);
        rows.prop_map(move |rows| {
            let mut time_ns = 1_000 * unit_ns;
            let row = |(step, word, quality): (i64, u64, Quality)| {
                time_ns += step * unit_ns;
                Row { time_ns, word, quality }
            };
            (value_type, rows.into_iter().map(row).collect())
        })
    })
}

/// The rollups of even windows, as they are stored.
pub(crate) fn fold_windows(rows: &[Row], tier: Tier, value_type: ValueType) -> Vec<Rollup> {
    let mut fold = Fold::to_store(tier, value_type);
    for row in rows {
        let words = if value_type == ValueType::Text { &[][..] } else { &[row.word][..] };
        let times = Times::Step(row.time_ns, 1);
        let qualities = RowQualities::Uniform(row.quality.0);
        fold.add(&Rows { value_type, count: 1, times, words, qualities });
    }
    fold.finish()
}

/// Folds rows, given in pieces that end at `cuts`.
fn fold(rows: &[Row], cuts: &[usize], value_type: ValueType, rule: &Rule, needs: Needs) -> Rollup {
    let frame = Frame::Even { origin_ns: 0, width_ns: 1 << 40 };
    let mut fold = Fold::new(frame, value_type, rule.clone(), needs);
    let mut from = 0;
    for to in cuts.iter().copied().chain([rows.len()]) {
        let piece = &rows[from..to.max(from)];
        let times: Vec<i64> = piece.iter().map(|row| row.time_ns).collect();
        let words: Vec<u64> = piece.iter().map(|row| row.word).collect();
        let qualities: Vec<u32> = piece.iter().map(|row| row.quality.0).collect();
        let step_ns = times.get(1).map_or(1, |second| second - times[0]);
        let is_grid = times.windows(2).all(|pair| pair[1] - pair[0] == step_ns);
        let times = match times.first() {
            Some(first_ns) if is_grid => Times::Step(*first_ns, step_ns),
            _ => Times::Each(&times),
        };
        let qualities = match qualities.first() {
            Some(first) if qualities.iter().all(|q| q == first) => RowQualities::Uniform(*first),
            _ => RowQualities::Each(&qualities),
        };
        let words = if value_type == ValueType::Text { &[][..] } else { &words[..] };
        fold.add(&Rows { value_type, count: piece.len(), times, words, qualities });
        from = to.max(from);
    }
    fold.finish().pop().unwrap()
}

const ALL_NEEDS: [Needs; 4] = [Needs::Sql, Needs::SqlMoments, Needs::Weighted, Needs::Interval];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_whole_is_the_merge_of_its_parts(
        (value_type, rows) in any_rows(),
        rule in any_rule(),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        pieces in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        word in (-20_i32..60).prop_map(|n| f64::from(n) / 4.0),
        before_ns in 1_i64..12,
    ) {
        let at = |index: &prop::sample::Index| index.index(rows.len());
        let mut pieces: Vec<usize> = pieces.iter().map(at).collect();
        pieces.sort_unstable();
        cuts.sort_by_key(at);
        for needs in ALL_NEEDS {
            let whole = fold(&rows, &pieces, value_type, &rule, needs);
            check(&whole, needs, value_type, &rule, &rows);
            let mut merged = Rollup::empty(0);
            let mut from = 0;
            for to in cuts.iter().map(at).chain([rows.len()]) {
                if from < to {
                    let part = fold(&rows[from..to], &[], value_type, &rule, needs);
                    merged.merge(&part, &rule, value_type);
                    from = to;
                }
            }
            check(&merged, needs, value_type, &rule, &rows);
            if needs != Needs::Interval {
                continue;
            }
            // A counter that comes from before the window.
            let word = match value_type {
                ValueType::F64 => word.to_bits(),
                #[expect(clippy::cast_possible_truncation, reason = "any f32 will do")]
                ValueType::F32 => u64::from((word as f32).to_bits()),
                #[expect(clippy::cast_possible_truncation, reason = "any integer will do")]
                _ => (word as i64).cast_unsigned(),
            };
            let before = Row { time_ns: 1_001 - before_ns, word, quality: Quality::GOOD };
            let carried = Point { time_ns: before.time_ns, word };
            let mut longer = rows.clone();
            longer.insert(0, before);
            let (want, scale) = by_the_book(value_type, &rule, 0, &longer);
            for rollup in [&whole, &merged] {
                let (float, int) = rollup.usable.increase_after(Some(carried), &rule, value_type);
                if value_type != ValueType::Text {
                    prop_assert_eq!(int, want.usable.increase_int);
                    let slack = 8.0 * longer.len() as f64 * f64::EPSILON * scale[3];
                    prop_assert!((float - want.usable.increase).abs() <= slack, "{} {:?}", float, want);
                }
            }
        }
    }
}
