//! Rollups, and neighbours of instants, against the rule book, after any operations.
//!
//! # Contract
//! * What is expected is written again here from the documents, over the samples of the model, not from the engine.
//! * Counts, integers, extremes and their times are exact; sums of floats within `4 n eps sum|x|` of what they ought to be.
//! * All of [`Tiers`] are held against it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::{
    Error, Needs, OnDamage, Point, Quality, Result, Rollup, RollupRequest, RollupWindows, Rule,
    SECOND_NS, Served, Severity, Snapshot, TagAttributes, TagDefinition, TagId, TagSelection,
    Tiers, TimeRange, Value, ValueType,
};

use crate::harness::{Harness, Place};
use crate::model::Model;
use crate::seeds::{Case, share};
use crate::tally::Tally;

/// Random operations, and random questions between them.
pub fn equal_the_rule_book(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.mute_some();
        be_dense(&mut harness);
        harness.open();
        for _ in 0..3 {
            for _ in 0..harness.random.below(60) {
                harness.step();
                if harness.random.once_in(10) {
                    ask(&mut harness, tally);
                }
            }
            ask(&mut harness, tally);
            harness.close();
            harness.open();
            ask(&mut harness, tally);
        }
        harness.close();
    });
}

/// Makes the windows of some tier hold enough samples to be stored, more often than not, and late ones rarer.
fn be_dense(harness: &mut Harness) {
    let random = &mut harness.random;
    if random.once_in(4) {
        return;
    }
    let seconds = [1, 5, 60, 300, 3_000][random.index(5)];
    harness.timeline.step_ns = seconds * SECOND_NS;
    harness.timeline.reach_ns = 200 * harness.timeline.step_ns;
    harness.timeline.is_late = [None, Some(false), Some(false)][random.index(3)];
    harness.samples_max = [40, 300, 1_000][random.index(3)];
}

/// Asks some questions of this moment.
pub fn ask(harness: &mut Harness, tally: &Tally) {
    harness.engine().sync().expect("a healthy disk");
    harness.settle_doubts();
    let snapshot = harness.engine().snapshot();
    let samples = Samples::of(&harness.settled);
    for _ in 0..4 {
        let mut request = question(harness);
        for tiers in [Tiers::Always, Tiers::Auto, Tiers::Off] {
            request.tiers = tiers;
            let served = compare(&snapshot, &samples, &request, &|_, _| true);
            let served = served.expect("a healthy disk");
            let stored: u64 = served.tiers.iter().sum();
            assert!(stored == 0 || tiers != Tiers::Off, "tiers are off: {served:?}");
            tally.note("stored_rollups", stored);
            tally.add(1);
        }
    }
    let times: Vec<i64> = samples.each.values().flatten().map(|sample| sample.time_ns).collect();
    for _ in 0..2 {
        let some = times.get(harness.random.index(times.len().max(1))).copied().unwrap_or(0);
        let at_ns = some.saturating_add(harness.random.below(3) as i64 - 1);
        let refused = compare_neighbours(&snapshot, &samples, at_ns, &|_| i64::MIN);
        assert!(refused.is_empty(), "{refused:?}");
        tally.note("neighbours", 1);
    }
}

/// A question that a seed decides.
fn question(harness: &mut Harness) -> RollupRequest {
    let times: Vec<i64> = harness.settled.rows.keys().map(|(_, time_ns)| *time_ns).collect();
    let (step_ns, random) = (harness.timeline.step_ns.max(1), &mut harness.random);
    let mut instant = || {
        let near = times.get(random.index(times.len().max(1))).copied().unwrap_or(0);
        let off_ns = step_ns.saturating_mul(random.below(9) as i64 - 4);
        near.saturating_add(off_ns + random.below(3) as i64 - 1)
    };
    let (a, b) = (instant(), instant());
    let range = TimeRange::new(a.min(b), a.max(b));
    let mut bounds: Vec<i64> = (0..10).map(|_| instant()).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let origin_ns = [0, 0, instant()][random.index(3)];
    let range = if random.once_in(3) { TimeRange::ALL } else { range };
    let width_ns = match random.below(10) {
        0 => step_ns,
        1 => step_ns.saturating_mul(10),
        2 => step_ns.saturating_mul(1_000),
        3 => 60_000_000_000,
        4 => 3_600_000_000_000,
        5 => 86_400_000_000_000,
        6 => 900_000_000_000,
        7 => 7_200_000_000_000,
        8 => 28 * 86_400_000_000_000,
        _ => 7 + random.below(1 << 45) as i64,
    };
    let each = bounds.windows(2).filter(|_| !random.once_in(3));
    let each: Arc<[TimeRange]> = each.map(|pair| TimeRange::new(pair[0], pair[1])).collect();
    let windows = if random.once_in(4) {
        RollupWindows::Each(each)
    } else {
        RollupWindows::Even { range, origin_ns, width_ns }
    };
    let tags: Vec<TagId> =
        harness.settled.tags.keys().filter(|_| random.once_in(2)).copied().collect();
    let tags = if random.once_in(2) { TagSelection::All } else { TagSelection::Only(tags.into()) };
    let needs = [Needs::Sql, Needs::SqlMoments, Needs::Weighted, Needs::Changes, Needs::Interval];
    let needs = needs[random.index(5)];
    RollupRequest { tags, windows, needs, tiers: Tiers::Auto, damage: OnDamage::Fail }
}

/// One sample as rollups see it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Source time.
    pub time_ns: i64,
    /// The value as a word; 0 for text.
    pub word: u64,
    /// Its quality.
    pub quality: Quality,
}

/// The samples of the model, tag by tag.
#[derive(Debug)]
pub struct Samples {
    /// Ascending by time.
    pub each: BTreeMap<TagId, Vec<Sample>>,
    /// The live tags.
    pub tags: BTreeMap<TagId, TagDefinition>,
}

impl Samples {
    fn of(model: &Model) -> Self {
        let tags = model.live().map(|(tag, definition)| (tag, definition.clone())).collect();
        let mut each: BTreeMap<TagId, Vec<Sample>> = BTreeMap::new();
        for ((tag, time_ns), (value, quality)) in &model.rows {
            let word = match value {
                Value::F64(value) => value.to_bits(),
                Value::F32(value) => u64::from(value.to_bits()),
                Value::I64(value) => value.cast_unsigned(),
                Value::Bool(value) => u64::from(*value),
                Value::State(code) => u64::from(*code),
                Value::Text(_) => 0,
            };
            let sample = Sample { time_ns: *time_ns, word, quality: *quality };
            each.entry(*tag).or_default().push(sample);
        }
        Self { each, tags }
    }
}

/// The rule, from the attributes as the documents have it.
pub fn rule_of(value_type: ValueType, attributes: &TagAttributes) -> Rule {
    let is_float = matches!(value_type, ValueType::F64 | ValueType::F32);
    Rule {
        stepped: attributes.stepped.unwrap_or(!is_float),
        uncertain_usable: attributes.uncertain_usable == Some(true),
        max_gap_ns: attributes.max_gap_ns,
        rollover: attributes.rollover,
        jitter: attributes.jitter.unwrap_or(0.0),
        reset_value: attributes.reset_value.unwrap_or(0.0),
    }
}

/// Holds the answer against the samples that `counts` lets count.
///
/// # Errors
/// What the engine says instead of an answer.
///
/// # Panics
/// If the answer is wrong.
pub fn compare(
    snapshot: &Snapshot,
    samples: &Samples,
    request: &RollupRequest,
    counts: &dyn Fn(TagId, i64) -> bool,
) -> Result<Served> {
    let mut want: BTreeMap<(TagId, i64), Vec<Sample>> = BTreeMap::new();
    for (tag, each) in &samples.each {
        let is_asked = match &request.tags {
            TagSelection::All => true,
            TagSelection::Only(tags) => tags.contains(tag),
        };
        for sample in each.iter().filter(|sample| is_asked && counts(*tag, sample.time_ns)) {
            if let Some(start_ns) = window_of(&request.windows, sample.time_ns) {
                want.entry((*tag, start_ns)).or_default().push(*sample);
            }
        }
    }
    let mut last = None;
    let mut rollups = snapshot.rollups(request.clone());
    for part in rollups.by_ref() {
        let part = part?;
        assert!(!part.rollups.is_empty(), "an empty part");
        let definition = &samples.tags[&part.tag];
        assert_eq!(part.value_type, definition.value_type);
        let rule = rule_of(part.value_type, &definition.attributes);
        for rollup in &part.rollups {
            let key = (part.tag, rollup.start_ns);
            assert!(last.is_none_or(|last| last < key), "{key:?} after {last:?}: {request:?}");
            last = Some(key);
            let Some(rows) = want.remove(&key) else {
                panic!("{key:?} has no samples: {rollup:?} of {request:?}")
            };
            let book = Book { value_type: part.value_type, rule: &rule, rows: &rows };
            book.check(rollup, request.needs);
        }
    }
    assert!(want.is_empty(), "missing of {request:?}: {:?}", want.keys());
    Ok(rollups.served())
}

/// Start of the window that an instant lies in, as far as an `i64` can say it.
fn window_of(windows: &RollupWindows, time_ns: i64) -> Option<i64> {
    match windows {
        RollupWindows::Even { range, origin_ns, width_ns } => {
            let since = i128::from(time_ns) - i128::from(*origin_ns);
            let start = i128::from(time_ns) - since.rem_euclid(i128::from(*width_ns));
            range.contains(time_ns).then(|| i64::try_from(start).unwrap_or(i64::MIN))
        }
        RollupWindows::Each(windows) => {
            let mut holding = windows.iter().filter(|window| window.contains(time_ns));
            holding.next().map(|window| window.start_ns)
        }
    }
}

/// The rule book over the samples of one window.
struct Book<'a> {
    value_type: ValueType,
    rule: &'a Rule,
    rows: &'a [Sample],
}

impl Book<'_> {
    fn is_float(&self) -> bool {
        matches!(self.value_type, ValueType::F64 | ValueType::F32)
    }

    fn value(&self, sample: &Sample) -> f64 {
        Point { time_ns: sample.time_ns, word: sample.word }.value(self.value_type)
    }

    fn is_usable(&self, sample: &Sample) -> bool {
        let takes = match sample.quality.severity() {
            Severity::Good => true,
            Severity::Uncertain => self.rule.uncertain_usable,
            Severity::Bad => false,
        };
        takes && self.value(sample).is_finite()
    }

    fn check(&self, found: &Rollup, needs: Needs) {
        let rows = self.rows;
        let context = || format!("{found:?}\nof {rows:?}\nby {:?}", self.rule);
        let count =
            |severity| rows.iter().filter(|row| row.quality.severity() == severity).count() as u64;
        let counts = [Severity::Good, Severity::Uncertain, Severity::Bad].map(count);
        assert_eq!([found.good, found.uncertain, found.bad], counts, "{}", context());
        let ends = (rows[0].time_ns, rows[rows.len() - 1].time_ns);
        assert_eq!((found.first_ns, found.last_ns), ends, "{}", context());
        self.check_values(found, needs, &context);
        if needs >= Needs::Weighted {
            self.check_weights(found, &context);
        }
        if needs >= Needs::Changes {
            self.check_changes(found, &context);
        }
        if needs == Needs::Interval {
            self.check_rise(found, &context);
        }
    }

    /// Whether two numbers are as near as so many roundings allow; beyond what floats hold anything goes. The least floats
    /// have few digits, and half of one is rounded much: of them as many are let pass as there are nanoseconds.
    fn is_near(&self, a: f64, b: f64, scale: f64) -> bool {
        const LEAST: f64 = 1e-300;
        let slack = 4.0 * self.rows.len() as f64 * f64::EPSILON * scale + LEAST;
        !scale.is_finite() || !slack.is_finite() || (a - b).abs() <= slack
    }

    fn check_values(&self, found: &Rollup, needs: Needs, context: &dyn Fn() -> String) {
        let is_text = self.value_type == ValueType::Text;
        let is_known =
            |row: &&Sample| !row.quality.is_bad() && self.value(row).is_finite() && !is_text;
        let known: Vec<Sample> = self.rows.iter().filter(is_known).copied().collect();
        assert_eq!(found.count, known.len() as u64, "{}", context());
        let non_finite = if is_text { 0 } else { found.good + found.uncertain - found.count };
        assert_eq!(found.non_finite, non_finite, "{}", context());
        let values: Vec<f64> = known.iter().map(|row| self.value(row)).collect();
        if self.is_float() {
            let scale: f64 = values.iter().map(|value| value.abs()).sum();
            assert!(self.is_near(found.sum, exact_sum(&values), scale), "sum: {}", context());
        } else {
            let whole: i128 = known.iter().map(|row| i128::from(row.word.cast_signed())).sum();
            let sum = if is_text { (0, 0) } else { (whole, (whole as f64).to_bits()) };
            assert_eq!((found.sum_int, found.sum.to_bits()), sum, "{}", context());
        }
        if needs == Needs::SqlMoments {
            let mean = exact_sum(&values) / values.len().max(1) as f64;
            let squares: Vec<f64> = values.iter().map(|value| (value - mean).powi(2)).collect();
            let scale: f64 = values.iter().map(|value| 4.0 * value * value).sum();
            assert!(self.is_near(found.m2, exact_sum(&squares), scale), "m2: {}", context());
        }
        let point = |row: &Sample| Point { time_ns: row.time_ns, word: row.word };
        let mut extremes = [known.first(), known.first()];
        for row in &known {
            let below = |a: &Sample, b: &Sample| {
                if self.is_float() {
                    self.value(a) < self.value(b)
                } else {
                    a.word.cast_signed() < b.word.cast_signed()
                }
            };
            extremes[0] = extremes[0].map(|least| if below(row, least) { row } else { least });
            extremes[1] = extremes[1].map(|most| if below(most, row) { row } else { most });
        }
        let want = [extremes[0], extremes[1], known.first(), known.last()];
        let want = want.map(|row| row.map(point));
        assert_eq!([found.min, found.max, found.first, found.last], want, "{}", context());
    }

    fn check_weights(&self, found: &Rollup, context: &dyn Fn() -> String) {
        let usable = &found.usable;
        let mine: Vec<&Sample> = self.rows.iter().filter(|row| self.is_usable(row)).collect();
        let point = |row: &&Sample| Point { time_ns: row.time_ns, word: row.word };
        let ends = (mine.first().map(point), mine.last().map(point));
        assert_eq!((usable.first, usable.last), ends, "{}", context());
        assert_eq!(usable.count, mine.len() as u64, "{}", context());
        assert_eq!(usable.breaks_before, !self.is_usable(&self.rows[0]), "{}", context());
        let last_ns = mine.last().map_or(i64::MIN, |row| row.time_ns);
        let mut after = self.rows.iter().filter(|row| row.time_ns > last_ns);
        assert_eq!(usable.break_ns, after.next().map(|row| row.time_ns), "{}", context());
        let (mut gap_ns, mut covered_ns, mut nonzero_ns) = (0, 0, 0);
        let (mut parts, mut scale) = (Vec::new(), 0.0);
        for pair in self.rows.windows(2) {
            let distance_ns = pair[1].time_ns - pair[0].time_ns;
            gap_ns = gap_ns.max(distance_ns);
            if !self.is_usable(&pair[0]) || self.rule.max_gap_ns.is_some_and(|m| distance_ns > m) {
                continue;
            }
            let (v, w) = (self.value(&pair[0]), self.value(&pair[1]));
            let holds = self.rule.stepped || !self.is_usable(&pair[1]);
            let mean = if holds { v } else { v / 2.0 + w / 2.0 };
            covered_ns += distance_ns;
            nonzero_ns += if v.abs() > 0.0 { distance_ns } else { 0 };
            parts.push(mean * distance_ns as f64);
            scale += (v.abs() + if holds { 0.0 } else { w.abs() }) * distance_ns as f64;
        }
        let times = (usable.gap_ns, usable.covered_ns, usable.nonzero_ns);
        assert_eq!(times, (gap_ns, covered_ns, nonzero_ns), "{}", context());
        let integral = exact_sum(&parts);
        assert!(self.is_near(usable.integral, integral, scale), "{integral}: {}", context());
    }

    fn check_changes(&self, found: &Rollup, context: &dyn Fn() -> String) {
        if self.value_type == ValueType::Text {
            return;
        }
        let mine: Vec<&Sample> = self.rows.iter().filter(|row| self.is_usable(row)).collect();
        let differs = |a: &Sample, b: &Sample| {
            if self.is_float() {
                (self.value(a) - self.value(b)).abs() > 0.0
            } else {
                a.word != b.word
            }
        };
        let changes = mine.windows(2).filter(|pair| differs(pair[0], pair[1])).count() as u64;
        assert_eq!(found.usable.transitions, changes, "{}", context());
    }

    fn check_rise(&self, found: &Rollup, context: &dyn Fn() -> String) {
        if self.value_type == ValueType::Text {
            return;
        }
        let mine: Vec<&Sample> = self.rows.iter().filter(|row| self.is_usable(row)).collect();
        let (float, whole) = self.rise(&mine);
        assert_eq!(found.usable.increase_int, whole, "{}", context());
        let reset = self.rule.reset_value.abs() + self.rule.rollover.unwrap_or(0.0);
        let scale: f64 = mine.iter().map(|row| 2.0 * self.value(row).abs() + reset).sum();
        assert!(self.is_near(found.usable.increase, float, scale), "{float}: {}", context());
    }

    /// What a counter rose by, one usable sample after the other.
    fn rise(&self, mine: &[&Sample]) -> (f64, i128) {
        let Some((first, rest)) = mine.split_first() else { return (0.0, 0) };
        let (mut parts, mut whole) = (Vec::new(), 0);
        let (mut from, mut last_ns) = (*first, first.time_ns);
        for row in rest {
            let is_far = self.rule.max_gap_ns.is_some_and(|max| row.time_ns - last_ns > max);
            last_ns = row.time_ns;
            if is_far {
                from = row;
                continue;
            }
            if self.is_float() {
                let by = self.value(row) - self.value(from);
                match self.rule.rollover {
                    _ if by >= 0.0 => parts.push(by),
                    Some(modulus) if by.abs() > modulus / 2.0 => parts.push(by + modulus),
                    _ if by.abs() <= self.rule.jitter => continue,
                    _ => parts.push(self.value(row) - self.rule.reset_value),
                }
            } else {
                let integer = |value: f64| format!("{value:.0}").parse::<i128>().unwrap_or(0);
                let (a, b) = (i128::from(from.word.cast_signed()), row.word.cast_signed());
                let by = i128::from(b) - a;
                match self.rule.rollover {
                    _ if by >= 0 => whole += by,
                    Some(modulus) if 2 * by.abs() > integer(modulus) => {
                        whole += by + integer(modulus);
                    }
                    _ if by.abs() <= integer(self.rule.jitter.floor()) => continue,
                    _ => whole += i128::from(b) - integer(self.rule.reset_value),
                }
            }
            from = row;
        }
        if self.is_float() { (exact_sum(&parts), 0) } else { (whole as f64, whole) }
    }
}

/// The sum, with what rounding takes from it added in the end.
fn exact_sum(values: &[f64]) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
    for value in values {
        let next = sum + value;
        let part = next - sum;
        lost += (sum - (next - part)) + (value - part);
        sum = next;
    }
    sum + lost
}

/// Looks before and after an instant, tag by tag. Of a sample before `kept_from` that cannot be used only the time need be
/// known. Gives what the engine says instead of an answer.
///
/// # Panics
/// If an answer is wrong.
pub fn compare_neighbours(
    snapshot: &Snapshot,
    samples: &Samples,
    at_ns: i64,
    kept_from: &dyn Fn(TagId) -> i64,
) -> Vec<(TagId, Error)> {
    let mut refused = Vec::new();
    let mut neighbours = snapshot.neighbours(OnDamage::Fail);
    for (tag, definition) in &samples.tags {
        let none = Vec::new();
        let rows = samples.each.get(tag).unwrap_or(&none);
        let (before, after) = rows.split_at(rows.partition_point(|row| row.time_ns < at_ns));
        let rule = rule_of(definition.value_type, &definition.attributes);
        let book = Book { value_type: definition.value_type, rule: &rule, rows };
        let usable = before.iter().rev().find(|row| book.is_usable(row));
        let since_ns = usable.map_or(i64::MIN, |row| row.time_ns);
        let mut later = before.iter().filter(|row| row.time_ns > since_ns);
        let both = neighbours.before(*tag, at_ns, &rule);
        let both = both.and_then(|found| Ok((found, neighbours.after(*tag, at_ns)?)));
        let (found, next) = match both {
            Ok(both) => both,
            Err(error) => {
                refused.push((*tag, error));
                continue;
            }
        };
        let point = usable.map(|row| Point { time_ns: row.time_ns, word: row.word });
        assert_eq!(found.usable, point, "before {at_ns} of {tag}: {found:?}");
        assert_eq!(found.break_ns, later.next().map(|row| row.time_ns), "before {at_ns} of {tag}");
        assert_eq!(found.last_ns, before.last().map(|row| row.time_ns), "before {at_ns} of {tag}");
        let next = next.map(|next| (next.time_ns, next.word, next.quality));
        let want = after.first().map(|row| (row.time_ns, row.word, row.quality));
        let is_known = |row: &Sample| row.time_ns >= kept_from(*tag) || book.is_usable(row);
        if let (Some((time_ns, word, quality)), Some(row)) = (next, after.first())
            && !is_known(row)
        {
            assert_eq!(time_ns, row.time_ns, "after {at_ns} of {tag}");
            assert!(!book.is_usable(&Sample { time_ns, word, quality }), "after {at_ns} of {tag}");
            continue;
        }
        assert_eq!(next, want, "after {at_ns} of {tag}");
    }
    refused
}
