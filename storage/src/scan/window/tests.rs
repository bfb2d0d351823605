//! Windows are what a scan gives, grouped: whatever was written, corrected, deleted and sealed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::disk::sim::{Random, SimDisk};
use crate::sample::f32_of;
use crate::{
    Batch, Clock, Engine, Options, Qualities, Quality, SECOND_NS, Severity, TagColumn,
    TagDefinition, Values,
};

const START_NS: i64 = 1_767_225_600 * SECOND_NS;
const TYPES: [ValueType; 6] = ValueType::ALL;

#[derive(Debug)]
struct StillClock(AtomicI64);

impl Clock for StillClock {
    fn wall_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        0
    }
}

fn engine() -> (Engine, Vec<TagId>) {
    let clock = StillClock(AtomicI64::new(START_NS + 86_400 * SECOND_NS));
    let disk = Arc::new(SimDisk::new(1));
    let engine = Engine::open_on(disk, Arc::new(clock), Options::default()).unwrap();
    // Two tags of each type, so that some share their times.
    let names = (0..2 * TYPES.len()).map(|i| TagDefinition::new(format!("t{i}"), TYPES[i / 2]));
    let tags = engine.define(&names.collect::<Vec<_>>()).unwrap();
    (engine, tags)
}

struct Noise(Random);

impl Noise {
    fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
    }

    fn word(&mut self, value_type: ValueType, odd: bool) -> u64 {
        let special = [f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 5e-324];
        let float = match self.below(if odd { 6 } else { 40 }) {
            0 if odd => special[usize::try_from(self.below(7)).unwrap()],
            _ => (self.below(20_000) as f64 - 10_000.0) / 100.0,
        };
        match value_type {
            ValueType::F64 => float.to_bits(),
            #[expect(clippy::cast_possible_truncation, reason = "any f32 will do")]
            ValueType::F32 => u64::from((float as f32).to_bits()),
            ValueType::I64 if odd && self.below(9) == 0 => self.0.bits() << 7,
            ValueType::I64 => self.below(1_000).wrapping_sub(500),
            ValueType::Bool => self.below(2),
            ValueType::State => self.below(60_000),
            ValueType::Text => 0,
        }
    }
}

/// One thing that happens to a database.
#[derive(Clone, Debug)]
enum Step {
    /// Samples of some tags: how many, from which second, how far apart, how jittered, how odd.
    Write {
        tags: Vec<usize>,
        rows: usize,
        from_s: i64,
        step_ms: i64,
        jitter_ms: u64,
        odd: bool,
    },
    Delete {
        tag: usize,
        from_s: i64,
        seconds: i64,
    },
    Seal,
}

fn any_step() -> impl Strategy<Value = Step> {
    let rows = prop::sample::select(vec![1_usize, 7, 60, 300, 1_025, 9_000]);
    let step_ms = prop::sample::select(vec![5_i64, 100, 1_000]);
    let jitter_ms = prop::sample::select(vec![0_u64, 0, 4]);
    let tags = prop::collection::vec(0..2 * TYPES.len(), 1..5);
    let write = (tags, rows, 0_i64..4_000, step_ms, jitter_ms, any::<bool>()).prop_map(
        |(tags, rows, from_s, step_ms, jitter_ms, odd)| Step::Write {
            tags,
            rows,
            from_s,
            step_ms,
            jitter_ms,
            odd,
        },
    );
    let delete = (0..2 * TYPES.len(), 0_i64..4_000, 1_i64..500)
        .prop_map(|(tag, from_s, seconds)| Step::Delete { tag, from_s, seconds });
    prop_oneof![6 => write, 1 => delete, 2 => Just(Step::Seal)]
}

fn apply(engine: &Engine, tags: &[TagId], step: &Step, noise: &mut Noise) {
    match step {
        Step::Write { tags: which, rows, from_s, step_ms, jitter_ms, odd } => {
            let at = |i: i64, noise: &mut Noise| {
                let jitter_ms = noise.below(jitter_ms + 1).cast_signed();
                START_NS + from_s * SECOND_NS + (i * step_ms + jitter_ms) * 1_000_000
            };
            let times: Vec<i64> = (0..*rows as i64).map(|i| at(i, noise)).collect();
            let mut which = which.clone();
            which.sort_unstable();
            which.dedup();
            let column = |which: &usize| {
                let value_type = TYPES[which / 2];
                let words = (0..*rows).map(|_| noise.word(value_type, *odd)).collect();
                let texts = times.iter().map(|time| Arc::from(time.to_string())).collect();
                let values = if value_type == ValueType::Text {
                    Values::Text(texts)
                } else {
                    Values::from_parts(value_type, words, Vec::new())
                };
                let quality = |noise: &mut Noise| match noise.below(9) {
                    0 => Quality::BAD,
                    1 => Quality::UNCERTAIN,
                    2 => Quality(0x0000_0400),
                    _ => Quality::GOOD,
                };
                let qualities = if *odd {
                    Qualities::Each((0..*rows).map(|_| quality(noise)).collect())
                } else {
                    Qualities::GOOD
                };
                TagColumn { tag: tags[*which], times: times.clone(), values, qualities }
            };
            let columns = which.iter().map(column).collect();
            engine.append(Batch { columns, ..Batch::default() }).unwrap();
        }
        Step::Delete { tag, from_s, seconds } => {
            let start_ns = START_NS + from_s * SECOND_NS;
            let range = TimeRange::new(start_ns, start_ns + seconds * SECOND_NS);
            engine.delete(&tags[*tag..=*tag], range, "test").unwrap();
        }
        Step::Seal => drop(engine.seal().unwrap()),
    }
}

/// The plain way: every sample of a scan into a map of windows.
fn grouped(snapshot: &Snapshot, request: &WindowRequest) -> BTreeMap<(TagId, i64), Vec<Row>> {
    let mut groups: BTreeMap<(TagId, i64), Vec<Row>> = BTreeMap::new();
    for batch in snapshot.scan(ScanRequest::new(request.tags.clone(), request.range)) {
        let batch = batch.unwrap();
        let words: Vec<u64> = match &batch.values {
            Values::F64(values) => values.iter().map(|value| value.to_bits()).collect(),
            Values::F32(values) => values.iter().map(|value| u64::from(value.to_bits())).collect(),
            Values::I64(values) => values.iter().map(|value| value.cast_unsigned()).collect(),
            Values::Bool(values) => values.iter().map(|value| u64::from(*value)).collect(),
            Values::State(values) => values.iter().map(|value| u64::from(*value)).collect(),
            Values::Text(values) => vec![0; values.len()],
        };
        for (row, (&time_ns, &word)) in batch.times.iter().zip(&words).enumerate() {
            let quality = match &batch.qualities {
                Qualities::Uniform(quality) => *quality,
                Qualities::Each(each) => each[row],
            };
            let window = (time_ns - request.origin_ns).div_euclid(request.width_ns);
            let start_ns = request.origin_ns + window * request.width_ns;
            let group = groups.entry((batch.tag, start_ns)).or_default();
            group.push(Row { time_ns, word, severity: quality.severity() });
        }
    }
    groups
}

struct Row {
    time_ns: i64,
    word: u64,
    severity: Severity,
}

/// What is known of the rows of one window, computed one row at a time.
fn window_of(value_type: ValueType, start_ns: i64, rows: &[Row]) -> Window {
    let count = |severity| rows.iter().filter(|row| row.severity == severity).count() as u64;
    let value = |word: u64| match value_type {
        ValueType::F64 => f64::from_bits(word),
        ValueType::F32 => f64::from(f32_of(word)),
        _ => 0.0,
    };
    let is_float = matches!(value_type, ValueType::F64 | ValueType::F32);
    let is_less = |a: u64, b: u64| {
        if is_float { value(a) < value(b) } else { a.cast_signed() < b.cast_signed() }
    };
    let good = rows.iter().filter(|row| row.severity == Severity::Good);
    let points: Vec<Point> = good
        .filter(|row| value_type != ValueType::Text && value(row.word).is_finite())
        .map(|row| Point { time_ns: row.time_ns, word: row.word })
        .collect();
    let (mut min, mut max) = (points.first().copied(), points.first().copied());
    let mut sums = [-0.0; 8];
    for (number, point) in points.iter().enumerate() {
        min = min.map(|min| if is_less(point.word, min.word) { *point } else { min });
        max = max.map(|max| if is_less(max.word, point.word) { *point } else { max });
        sums[number % 8] += value(point.word);
    }
    let floats =
        ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    let exact: i128 = points.iter().map(|point| i128::from(point.word.cast_signed())).sum();
    Window {
        start_ns,
        good: count(Severity::Good),
        uncertain: count(Severity::Uncertain),
        bad: count(Severity::Bad),
        finite: points.len() as u64,
        sum: if points.is_empty() {
            0.0
        } else if is_float {
            floats
        } else {
            exact as f64
        },
        min,
        max,
        first: points.first().copied(),
        last: points.last().copied(),
    }
}

/// Equal to the bit: a sum may be NaN, and zero has a sign.
fn bits(window: &Window) -> (u64, Window) {
    (window.sum.to_bits(), Window { sum: 0.0, ..window.clone() })
}

fn check(snapshot: &Snapshot, request: &WindowRequest) {
    let mut want = grouped(snapshot, request);
    let mut last = None;
    for part in snapshot.windows(request.clone()) {
        let part = part.unwrap();
        assert!(!part.windows.is_empty() && part.windows.len() <= WINDOWS_MAX + 65_536);
        for window in &part.windows {
            let key = (part.tag, window.start_ns);
            assert!(last.is_none_or(|last| last < key), "{key:?} comes after {last:?}");
            last = Some(key);
            let rows = want.remove(&key).unwrap_or_else(|| panic!("{key:?} has no samples"));
            let expected = window_of(part.value_type, window.start_ns, &rows);
            assert_eq!(bits(window), bits(&expected), "{key:?} of {} rows", rows.len());
        }
    }
    assert!(want.is_empty(), "{} windows are missing", want.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn windows_are_a_scan_grouped(
        steps in prop::collection::vec(any_step(), 1..10),
        seed: u64,
        width_ns in prop::sample::select(vec![
            1_000_000, 777_000_000, 60 * SECOND_NS, 3_600 * SECOND_NS, i64::MAX / 4,
        ]),
        origin_ns in prop::sample::select(vec![0, START_NS + 1, -5, START_NS + 9_000 * SECOND_NS]),
        range in (0_i64..5_000, 0_i64..5_000),
    ) {
        let (engine, tags) = engine();
        let mut noise = Noise(Random::new(seed));
        for step in &steps {
            apply(&engine, &tags, step, &mut noise);
        }
        let snapshot = engine.snapshot();
        let part = TimeRange::new(START_NS + range.0 * SECOND_NS, START_NS + range.1 * SECOND_NS);
        for range in [TimeRange::ALL, part] {
            let request = WindowRequest::new(TagSelection::All, range, width_ns);
            check(&snapshot, &WindowRequest { origin_ns, ..request });
        }
    }
}

#[test]
fn a_sum_does_not_depend_on_how_rows_are_stored() {
    let (engine, tags) = engine();
    let mut noise = Noise(Random::new(5));
    let tags = [tags[0]];
    let write = |from: i64, rows: i64, noise: &mut Noise| {
        let times = (from..from + rows).map(|i| START_NS + i * SECOND_NS).collect();
        let values = Values::F64((0..rows).map(|_| noise.below(1 << 50) as f64 / 3.0).collect());
        let column = TagColumn { tag: tags[0], times, values, qualities: Qualities::GOOD };
        engine.append(Batch { columns: vec![column], ..Batch::default() }).unwrap();
    };
    for (from, rows) in [(0, 333), (333, 1_000), (1_333, 5), (1_338, 9_000)] {
        write(from, rows, &mut noise);
    }
    let only = TagSelection::Only(Arc::from(tags));
    let request = WindowRequest::new(only, TimeRange::ALL, 100_000 * SECOND_NS);
    let sums = |engine: &Engine| {
        let parts: Vec<TagWindows> =
            engine.snapshot().windows(request.clone()).map(Result::unwrap).collect();
        parts.iter().flat_map(|part| &part.windows).map(|w| w.sum.to_bits()).collect::<Vec<_>>()
    };
    let in_head = sums(&engine);
    engine.seal().unwrap();
    assert_eq!(sums(&engine), in_head);
    assert!(!in_head.is_empty());
}

#[test]
fn nothing_is_asked_for_and_nothing_comes() {
    let (engine, _) = engine();
    let empty = TimeRange::new(5, 5);
    let request = WindowRequest::new(TagSelection::All, empty, 1);
    assert_eq!(engine.snapshot().windows(request).count(), 0);
}
