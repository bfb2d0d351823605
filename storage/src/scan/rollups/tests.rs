//! Rollups are what a scan gives, grouped: whatever was written, corrected, deleted and sealed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::disk::sim::{Random, SimDisk};
use crate::scan::neighbours::{Before, Next};
use crate::tier::rollup::Point;
use crate::tier::tests::{self as book, Row};
use crate::{
    Batch, Clock, Engine, Options, Qualities, Quality, SECOND_NS, TagAttributes, TagColumn,
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
    let names = (0..2 * TYPES.len()).map(|i| {
        let attributes = attributes(i);
        TagDefinition { attributes, ..TagDefinition::new(format!("t{i}"), TYPES[i / 2]) }
    });
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

/// Every sample of a tag.
fn rows_of(snapshot: &Snapshot, tag: TagId, range: TimeRange) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in snapshot.scan(ScanRequest::new(TagSelection::Only(Arc::from([tag])), range)) {
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
            rows.push(Row { time_ns, word, quality });
        }
    }
    rows
}

/// The plain way: every sample of a scan into a map of windows.
fn grouped(
    snapshot: &Snapshot,
    tags: &[TagId],
    windows: &RollupWindows,
) -> BTreeMap<(TagId, i64), Vec<Row>> {
    let mut groups: BTreeMap<(TagId, i64), Vec<Row>> = BTreeMap::new();
    for tag in tags {
        for row in rows_of(snapshot, *tag, windows.hull()) {
            let start_ns = match windows {
                RollupWindows::Even { origin_ns, width_ns, .. } => {
                    let window = (row.time_ns - origin_ns).div_euclid(*width_ns);
                    origin_ns + window * width_ns
                }
                RollupWindows::Each(windows) => {
                    match windows.iter().find(|window| window.contains(row.time_ns)) {
                        Some(window) => window.start_ns,
                        None => continue,
                    }
                }
            };
            groups.entry((*tag, start_ns)).or_default().push(row);
        }
    }
    groups
}

fn check(snapshot: &Snapshot, tags: &[TagId], request: &RollupRequest) {
    let mut want = grouped(snapshot, tags, &request.windows);
    let mut last = None;
    for part in snapshot.rollups(request.clone()) {
        let part = part.unwrap();
        let rule = Rule::of(snapshot.registry().get(part.tag).unwrap());
        assert!(!part.rollups.is_empty() && part.rollups.len() <= ROLLUPS_MAX + 65_536);
        for rollup in &part.rollups {
            let key = (part.tag, rollup.start_ns);
            assert!(last.is_none_or(|last| last < key), "{key:?} comes after {last:?}");
            last = Some(key);
            let rows = want.remove(&key).unwrap_or_else(|| panic!("{key:?} has no samples"));
            book::check(rollup, request.needs, part.value_type, &rule, &rows);
        }
    }
    assert!(want.is_empty(), "{} windows are missing", want.len());
}

/// Compares what lies around an instant with all there is.
fn check_neighbours(snapshot: &Snapshot, tags: &[TagId], at_ns: i64) {
    let mut neighbours = snapshot.neighbours(OnDamage::Fail);
    for tag in tags {
        let known = snapshot.registry().get(*tag).unwrap();
        let rule = Rule::of(known);
        let is_usable = |row: &&Row| rule.is_usable(known.value_type, row.word, row.quality);
        let rows = rows_of(snapshot, *tag, TimeRange::ALL);
        let split = rows.partition_point(|row| row.time_ns < at_ns);
        let usable = rows[..split].iter().rev().find(is_usable);
        let after_ns = usable.map_or(i64::MIN, |row| row.time_ns);
        let mut later = rows[..split].iter().filter(|row| row.time_ns > after_ns);
        let want = Before {
            usable: usable.map(|row| Point { time_ns: row.time_ns, word: row.word }),
            break_ns: later.next().map(|row| row.time_ns),
            last_ns: rows[..split].last().map(|row| row.time_ns),
        };
        assert_eq!(neighbours.before(*tag, at_ns, &rule).unwrap(), want, "before {at_ns}");
        let next = rows.get(split).map(|row| Next {
            time_ns: row.time_ns,
            word: row.word,
            quality: row.quality,
        });
        assert_eq!(neighbours.after(*tag, at_ns).unwrap(), next, "after {at_ns}");
    }
}

/// Every second tag has attributes that matter.
fn attributes(number: usize) -> TagAttributes {
    if number.is_multiple_of(2) {
        return TagAttributes::default();
    }
    TagAttributes {
        stepped: Some(number.is_multiple_of(3)),
        uncertain_usable: Some(number.is_multiple_of(4)),
        max_gap_ns: Some(SECOND_NS / 2),
        jitter: number.is_multiple_of(5).then_some(3.0),
        rollover: number.is_multiple_of(3).then_some(100.0),
        ..TagAttributes::default()
    }
}

const NEEDS: [Needs; 4] = [Needs::Sql, Needs::SqlMoments, Needs::Weighted, Needs::Interval];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rollups_are_a_scan_grouped(
        steps in prop::collection::vec(any_step(), 1..10),
        seed: u64,
        width_ns in prop::sample::select(vec![
            1_000_000, 777_000_000, 60 * SECOND_NS, 3_600 * SECOND_NS, i64::MAX / 4,
        ]),
        origin_ns in prop::sample::select(vec![0, START_NS + 1, -5, START_NS + 9_000 * SECOND_NS]),
        range in (0_i64..5_000, 0_i64..5_000),
        mut bounds in prop::collection::vec(0_i64..5_000, 0..9),
        needs in prop::sample::select(NEEDS.to_vec()),
    ) {
        let (engine, tags) = engine();
        let mut noise = Noise(Random::new(seed));
        for step in &steps {
            apply(&engine, &tags, step, &mut noise);
        }
        let snapshot = engine.snapshot();
        let at = |second: i64| START_NS + second * SECOND_NS;
        let part = TimeRange::new(at(range.0), at(range.1));
        let request = RollupRequest { needs, ..RollupRequest::new(TagSelection::All, part, 1) };
        for range in [TimeRange::ALL, part] {
            let windows = RollupWindows::Even { range, origin_ns, width_ns };
            check(&snapshot, &tags, &RollupRequest { windows, ..request.clone() });
        }
        bounds.sort_unstable();
        bounds.dedup();
        let each = bounds.windows(2).enumerate().filter(|(number, _)| number % 3 != 1);
        let each = each.map(|(_, pair)| TimeRange::new(at(pair[0]), at(pair[1]))).collect();
        check(&snapshot, &tags, &RollupRequest { windows: RollupWindows::Each(each), ..request });
        check_neighbours(&snapshot, &tags, at(range.0));
        check_neighbours(&snapshot, &tags, at(range.1) + 1);
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
    let request = RollupRequest::new(only, TimeRange::ALL, 100_000 * SECOND_NS);
    let sums = |engine: &Engine| {
        let request = RollupRequest { tiers: Tiers::Off, ..request.clone() };
        let parts: Vec<TagRollups> =
            engine.snapshot().rollups(request).map(Result::unwrap).collect();
        parts.iter().flat_map(|part| &part.rollups).map(|w| w.sum.to_bits()).collect::<Vec<_>>()
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
    let request = RollupRequest::new(TagSelection::All, empty, 1);
    assert_eq!(engine.snapshot().rollups(request.clone()).count(), 0);
    let windows = RollupWindows::Each(Arc::from([]));
    assert_eq!(engine.snapshot().rollups(RollupRequest { windows, ..request }).count(), 0);
}
