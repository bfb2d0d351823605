//! What rollups that outlive their samples answer, against all samples there ever were.
//!
//! # Contract
//! * Horizons are computed here from the classes and the clock, windows are cut here by the documents.
//! * An answer is exact, or refused; it is refused only where a window cuts a rollup, or what is left does not say it.
//! * The clock is believed, however far it moves: its doubts have tests of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{
    Batch, Clock, DAY_NS, Engine, Error, Needs, OnDamage, Options, Qualities, Quality,
    RetentionClass, RollupRequest, RollupWindows, SECOND_NS, ScanRequest, Severity, Snapshot,
    TagAttributes, TagColumn, TagDefinition, TagId, TagSelection, Tier, Tiers, TimeRange,
    ValueType, Values,
};

use crate::clock::TestClock;
use crate::rollups::{Sample, Samples, compare, compare_neighbours};
use crate::seeds::{Case, share};
use crate::tally::Tally;

const HOUR_NS: i64 = 3_600 * SECOND_NS;
const START_NS: i64 = 20_000 * DAY_NS + 7 * HOUR_NS;

/// Weeks of a plant whose samples end while rollups of them stay, and questions about all of it.
pub fn equal_what_has_ended(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut world = World::new(seed);
        world.open();
        for _ in 0..40 + world.random.below(40) {
            world.step();
            if world.random.once_in(3) {
                world.ask(tally);
            }
        }
        world.ask(tally);
        let engine = world.engine.take().expect("it is open");
        let damaged = engine.verify(&mut |error| panic!("{error}"));
        assert_eq!(damaged, 0);
        engine.close().expect("a healthy disk");
    });
}

struct World {
    random: Random,
    disk: SimDisk,
    clock: Arc<TestClock>,
    classes: Vec<RetentionClass>,
    engine: Option<Engine>,
    samples: Samples,
}

fn days(count: u64) -> Option<Duration> {
    (count > 0).then(|| Duration::from_secs(count * 86_400))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6265_796F_6E64);
        let mut classes = Vec::new();
        for name in ["", "other"] {
            let mut kept = 1 + random.below(3);
            let raw = days(kept);
            let mut tiers = Vec::new();
            for tier in Tier::ALL {
                if random.once_in(2) && kept > 0 {
                    kept = if random.once_in(4) { 0 } else { kept + random.below(6) };
                    tiers.push((tier, days(kept)));
                }
            }
            classes.push(RetentionClass { tiers, ..RetentionClass::of_raw(name, raw) });
        }
        let clock = Arc::new(TestClock::new(START_NS));
        let samples = Samples { each: BTreeMap::new(), tags: BTreeMap::new() };
        Self { random, disk: SimDisk::new(seed), clock, classes, engine: None, samples }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it is open")
    }

    fn open(&mut self) {
        let options = Options {
            head_bytes: [64 << 10, 1 << 20][self.random.index(2)],
            wal_bytes: 1 << 20,
            scrub_period: None,
            background_compaction: self.random.once_in(2),
            final_after: Duration::ZERO,
            retention: self.classes.clone(),
            ..Options::default()
        };
        let (disk, clock) = (Arc::new(self.disk.clone()), Arc::clone(&self.clock));
        self.engine = Some(Engine::open_on(disk, clock, options).expect("a healthy disk"));
        if !self.samples.tags.is_empty() {
            return;
        }
        let types =
            [ValueType::F64, ValueType::F64, ValueType::I64, ValueType::Bool, ValueType::F32];
        let mut definitions = Vec::new();
        for (number, value_type) in types.into_iter().chain([ValueType::Text]).enumerate() {
            let attributes = TagAttributes {
                retention: self.random.once_in(2).then(|| "other".to_owned()),
                stepped: self.random.once_in(2).then_some(true).filter(|_| number < 2),
                uncertain_usable: self.random.once_in(3).then_some(true),
                max_gap_ns: self.random.once_in(4).then_some(HOUR_NS),
                ..TagAttributes::default()
            };
            let name = format!("tag {number}");
            definitions.push(TagDefinition { attributes, ..TagDefinition::new(name, value_type) });
        }
        let ids = self.engine().define(&definitions).expect("a healthy disk");
        self.samples.tags = ids.into_iter().zip(definitions).collect();
    }

    fn step(&mut self) {
        if self.random.once_in(40) {
            // Long enough for the engine to compact by itself, with samples in the head.
            std::thread::sleep(Duration::from_millis(120));
        }
        match self.random.below(20) {
            0..8 => self.pass_time(),
            8..11 => self.append(),
            11 => self.delete(),
            12..14 => drop(self.engine().seal().expect("a healthy disk")),
            14..16 => drop(self.engine().confirm_clock().expect("a healthy disk")),
            16..18 => drop(self.engine().compact().expect("a healthy disk")),
            18 => {
                self.engine.take().expect("it is open").close().expect("a healthy disk");
                self.open();
            }
            _ => {
                self.disk.crash();
                drop(self.engine.take());
                self.disk = self.disk.restart();
                self.open();
            }
        }
    }

    fn pass_time(&mut self) {
        let hours = 1 + self.random.below(18).cast_signed();
        self.clock.set(self.clock.wall_ns() + hours * HOUR_NS);
        self.append();
    }

    /// Samples of the last hours, or of any time that may still be written.
    fn append(&mut self) {
        let now_ns = self.clock.wall_ns();
        let mut columns = Vec::new();
        for (tag, definition) in self.samples.tags.clone() {
            if self.random.once_in(3) {
                continue;
            }
            let step_ns = SECOND_NS * [1, 10, 60, 700, 5_000][self.random.index(5)];
            let count = 1 + self.random.below(200).cast_signed();
            let back_ns = match self.random.below(3) {
                0 => self.random.below(2 * DAY_NS.unsigned_abs()).cast_signed(),
                _ => 0,
            };
            let last_ns = now_ns - back_ns - self.random.below(1_000).cast_signed() * SECOND_NS;
            let mut times: Vec<i64> = (0..count).map(|at| last_ns - at * step_ns).collect();
            times.reverse();
            columns.push(self.column(tag, definition.value_type, times));
        }
        if columns.is_empty() {
            return;
        }
        let batch = Batch { columns: columns.clone(), ..Batch::default() };
        let appended = self.engine().append(batch).expect("a healthy disk");
        let mut refused = Vec::new();
        for reject in &appended.rejects {
            let rows = reject.first as usize..(reject.first + reject.count) as usize;
            refused.extend(rows.map(|row| (reject.part, row)));
        }
        for (part, column) in columns.iter().enumerate() {
            for row in 0..column.times.len() {
                if !refused.contains(&(part, row)) {
                    self.take(column, row);
                }
            }
        }
    }

    fn column(&mut self, tag: TagId, value_type: ValueType, times: Vec<i64>) -> TagColumn {
        let mut value = self.random.below(100).cast_signed();
        let (falls, count) = (self.random.once_in(2), times.len());
        let mut next = || {
            let by = self.random.below(4).cast_signed();
            value += if falls { by - 2 } else { by };
            value
        };
        let values = match value_type {
            ValueType::F64 => Values::F64((0..count).map(|_| next() as f64 / 8.0).collect()),
            ValueType::F32 => Values::F32((0..count).map(|_| (next() % 999) as f32).collect()),
            ValueType::I64 => Values::I64((0..count).map(|_| next()).collect()),
            ValueType::Bool => Values::Bool((0..count).map(|_| next() % 3 == 0).collect()),
            ValueType::Text => {
                let text = |_| Arc::from(format!("text {}", next() % 5));
                Values::Text((0..count).map(text).collect())
            }
            ValueType::State => unreachable!("no tag is of this type"),
        };
        let odd = self.random.once_in(3);
        let qualities = if odd {
            let mut draw = || match self.random.below(30) {
                0 => Quality::BAD,
                1 => Quality::UNCERTAIN,
                _ => Quality::GOOD,
            };
            Qualities::Each((0..count).map(|_| draw()).collect())
        } else {
            Qualities::GOOD
        };
        TagColumn { tag, times, values, qualities }
    }

    fn take(&mut self, column: &TagColumn, row: usize) {
        let word = match &column.values {
            Values::F64(values) => values[row].to_bits(),
            Values::F32(values) => u64::from(values[row].to_bits()),
            Values::I64(values) => values[row].cast_unsigned(),
            Values::Bool(values) => u64::from(values[row]),
            Values::State(codes) => u64::from(codes[row]),
            Values::Text(_) => 0,
        };
        let (time_ns, quality) = (column.times[row], column.qualities.at(row));
        let each = self.samples.each.entry(column.tag).or_default();
        let at = each.partition_point(|sample| sample.time_ns < time_ns);
        let sample = Sample { time_ns, word, quality };
        match each.get_mut(at).filter(|known| known.time_ns == time_ns) {
            Some(known) => *known = sample,
            None => each.insert(at, sample),
        }
    }

    /// Deletes hours, or days; never the newest sample of all, which says what time it was.
    fn delete(&mut self) {
        let newest = self.samples.each.values().filter_map(|each| each.last());
        let Some(newest_ns) = newest.map(|sample| sample.time_ns).max() else { return };
        let tags: Vec<TagId> = self.samples.tags.keys().copied().collect();
        let tag = tags[self.random.index(tags.len())];
        let unit_ns = [HOUR_NS, DAY_NS][self.random.index(2)];
        let back = self.random.below(20 * DAY_NS.unsigned_abs()).cast_signed();
        let start_ns = (newest_ns - back) / unit_ns * unit_ns;
        let end_ns = start_ns + unit_ns * (1 + self.random.below(3).cast_signed());
        let range = TimeRange::new(start_ns, end_ns);
        if range.contains(newest_ns) {
            return;
        }
        // Horizons may rise between this look and the delete, but not at a moment when the clock stands still.
        self.engine().confirm_clock().expect("a healthy disk");
        let ends = self.ends(&self.engine().snapshot(), tag);
        let cut = range.intersect(&TimeRange::new(ends.all_ns(), ends.raw_ns));
        let is_whole = cut.is_empty() || (cut.start_ns % DAY_NS, cut.end_ns % DAY_NS) == (0, 0);
        match self.engine().delete(&[tag], range, "a test") {
            Ok(_) => {
                assert!(is_whole, "part of a day that was rolled up was deleted: {range}");
                if let Some(each) = self.samples.each.get_mut(&tag) {
                    each.retain(|sample| !range.contains(sample.time_ns));
                }
            }
            Err(error) => assert!(!is_whole, "{error}: {range}"),
        }
    }

    fn ends(&self, snapshot: &Snapshot, tag: TagId) -> Ends {
        let class = self.samples.tags[&tag].attributes.retention.clone().unwrap_or_default();
        let status = snapshot.retention();
        let found = status.iter().find(|status| status.class.as_ref() == class);
        let found = found.expect("every class is shown");
        Ends { raw_ns: found.horizon_ns, tiers_ns: found.tier_horizons_ns }
    }

    /// Horizons are those of the classes and the clock.
    fn check_horizons(&self, snapshot: &Snapshot) {
        let newest = self.samples.each.values().filter_map(|each| each.last());
        let Some(newest_ns) = newest.map(|sample| sample.time_ns).max() else { return };
        let now_ns = self.clock.wall_ns().min(newest_ns + DAY_NS);
        let due_ns = |kept: Option<Duration>| {
            let kept_ns = kept.map(|kept| i64::try_from(kept.as_nanos()).expect("days"));
            kept_ns.map_or(0, |kept_ns| (now_ns - kept_ns).div_euclid(DAY_NS) * DAY_NS)
        };
        for class in &self.classes {
            let status = snapshot.retention();
            let found = status.iter().find(|found| found.class.as_ref() == class.name);
            let found = found.expect("every class is shown");
            let mut kept = class.raw;
            assert_eq!(found.horizon_ns, due_ns(kept), "{found:?}");
            for (tier, end_ns) in Tier::ALL.into_iter().zip(found.tier_horizons_ns) {
                let named = class.tiers.iter().find(|(named, _)| *named == tier);
                kept = named.map_or(kept, |(_, kept)| *kept);
                assert_eq!(end_ns, due_ns(kept), "{found:?}");
                assert!(end_ns <= found.horizon_ns, "{found:?}");
            }
        }
    }

    fn ask(&mut self, tally: &Tally) {
        self.engine().confirm_clock().expect("a healthy disk");
        let snapshot = self.engine().snapshot();
        self.check_horizons(&snapshot);
        let ends: BTreeMap<TagId, Ends> =
            self.samples.tags.keys().map(|tag| (*tag, self.ends(&snapshot, *tag))).collect();
        for (tag, each) in &mut self.samples.each {
            each.retain(|sample| sample.time_ns >= ends[tag].all_ns());
        }
        self.check_scan(&snapshot, &ends);
        for _ in 0..6 {
            let request = self.question();
            let hull = request.windows.hull();
            let clips: BTreeMap<TagId, TimeRange> =
                ends.iter().map(|(tag, ends)| (*tag, ends.clip(hull))).collect();
            for (tag, clip) in &clips {
                let found = snapshot.answerable(*tag, hull);
                assert!(found.is_empty() && clip.is_empty() || found == *clip, "{found} {clip}");
            }
            let counts = |tag: TagId, time_ns: i64| clips[&tag].contains(time_ns);
            match compare(&snapshot, &self.samples, &request, &counts) {
                Ok(served) => {
                    tally.add(1);
                    tally.note("stored_rollups", served.tiers.iter().sum());
                    let beyond = |(tag, each): (&TagId, &Vec<Sample>)| {
                        let is_left = |sample: &&Sample| {
                            sample.time_ns < ends[tag].raw_ns && counts(*tag, sample.time_ns)
                        };
                        is_asked(&request, *tag) && each.iter().any(|sample| is_left(&sample))
                    };
                    tally.note("beyond_raw", self.samples.each.iter().any(beyond).into());
                }
                Err(error @ Error::Ended { .. }) => {
                    tally.note("refused", 1);
                    let may = ends.iter().any(|(tag, ends)| {
                        is_asked(&request, *tag) && self.may_refuse(&request, *tag, ends)
                    });
                    assert!(may, "{error}: {request:?}\n{ends:?}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..2 {
            let times = self.samples.each.values().flatten().map(|sample| sample.time_ns);
            let times: Vec<i64> = times.collect();
            let near = times.get(self.random.index(times.len().max(1))).copied().unwrap_or(0);
            let unit_ns = [1, 60 * SECOND_NS, HOUR_NS, DAY_NS][self.random.index(4)];
            let at_ns = near.div_euclid(unit_ns) * unit_ns;
            let kept_from = |tag| ends[&tag].raw_ns;
            let found = compare_neighbours(&snapshot, &self.samples, at_ns, &kept_from);
            for (tag, error) in found {
                assert!(matches!(error, Error::Ended { .. }), "{error}");
                let is_text = self.samples.tags[&tag].value_type == ValueType::Text;
                let each = self.samples.each.get(&tag).into_iter().flatten();
                let mut ended = each.filter(|sample| sample.time_ns < ends[&tag].raw_ns);
                let is_odd = ended.any(|s| s.quality.severity() == Severity::Uncertain || is_text);
                let is_inside = ends[&tag].finest_at(at_ns).is_some_and(|tier| {
                    at_ns % tier.width_ns() != 0 // a rollup lies on both sides
                });
                assert!(is_odd || is_inside, "{error} at {at_ns}");
                tally.note("refused", 1);
            }
            tally.note("neighbours", 1);
        }
    }

    /// Samples are shown from their horizon on, and where they have ended nobody may think there were none.
    fn check_scan(&mut self, snapshot: &Snapshot, ends: &BTreeMap<TagId, Ends>) {
        for (tag, each) in &self.samples.each {
            let only = TagSelection::Only(Arc::from([*tag]));
            let mut found = Vec::new();
            for part in snapshot.scan(ScanRequest::new(only.clone(), TimeRange::ALL)) {
                found.extend(part.expect("a healthy disk").times);
            }
            let raw_ns = ends[tag].raw_ns;
            let kept = each.iter().map(|sample| sample.time_ns).filter(|time| *time >= raw_ns);
            assert!(found.into_iter().eq(kept), "samples of {tag}");
            let (from, to) = (self.random.below(40), self.random.below(40));
            let at = |day: u64| START_NS + day.cast_signed() * DAY_NS / 2;
            let range = TimeRange::new(at(from.min(to)), at(from.max(to)));
            let has_ended = |s: &Sample| range.contains(s.time_ns) && s.time_ns < raw_ns;
            let refused = snapshot.require_samples(&only, range);
            // Whole days are looked at.
            let near = |s: &Sample| {
                s.time_ns < raw_ns && {
                    let near = TimeRange::new(range.start_ns - DAY_NS, range.end_ns + DAY_NS);
                    near.contains(s.time_ns)
                }
            };
            match refused {
                Ok(()) => assert!(!each.iter().any(has_ended), "{tag} in {range}"),
                Err(error) => {
                    assert!(matches!(error, Error::Ended { .. }), "{error}");
                    assert!(!range.is_empty() && each.iter().any(near), "{error} in {range}");
                }
            }
        }
    }

    fn question(&mut self) -> RollupRequest {
        let now_ns = self.clock.wall_ns();
        let random = &mut self.random;
        let mut instant = || {
            let unit = [1, SECOND_NS, 60 * SECOND_NS, HOUR_NS, DAY_NS][random.index(5)];
            let back = random.below((now_ns - START_NS + 2 * DAY_NS).unsigned_abs());
            (now_ns + DAY_NS - back.cast_signed()).div_euclid(unit) * unit
        };
        let mut bounds: Vec<i64> = (0..6).map(|_| instant()).collect();
        let (a, b) = (instant(), instant());
        bounds.sort_unstable();
        bounds.dedup();
        let range = TimeRange::new(a.min(b), a.max(b));
        let range = if random.once_in(3) { TimeRange::ALL } else { range };
        let minute_ns = 60 * SECOND_NS;
        let widths =
            [10 * SECOND_NS, minute_ns, 5 * minute_ns, 15 * minute_ns, HOUR_NS, DAY_NS, 7 * DAY_NS];
        let width_ns = widths[random.index(widths.len())];
        let origin_ns = [0, 0, 0, HOUR_NS, 7 * minute_ns][random.index(5)];
        let each = bounds.windows(2).filter(|_| !random.once_in(3));
        let each: Arc<[TimeRange]> = each.map(|pair| TimeRange::new(pair[0], pair[1])).collect();
        let windows = if random.once_in(4) {
            RollupWindows::Each(each)
        } else {
            RollupWindows::Even { range, origin_ns, width_ns }
        };
        let tags = self.samples.tags.keys().filter(|_| random.once_in(2));
        let tags = TagSelection::Only(tags.copied().collect());
        let needs =
            [Needs::Sql, Needs::SqlMoments, Needs::Weighted, Needs::Changes, Needs::Interval];
        let tiers = [Tiers::Auto, Tiers::Always][random.index(2)];
        let needs = needs[random.index(5)];
        RollupRequest { tags, windows, needs, tiers, damage: OnDamage::Fail }
    }

    /// Whether what is left of a tag may not say what is asked.
    fn may_refuse(&self, request: &RollupRequest, tag: TagId, ends: &Ends) -> bool {
        let definition = &self.samples.tags[&tag];
        let hull = ends.clip(request.windows.hull());
        let each = self.samples.each.get(&tag).into_iter().flatten();
        let asked: Vec<&Sample> = each
            .filter(|sample| sample.time_ns < ends.raw_ns && hull.contains(sample.time_ns))
            .collect();
        let is_cut = asked.iter().any(|sample| {
            let Some(tier) = ends.finest_at(sample.time_ns) else { return false };
            let width_ns = tier.width_ns();
            let start_ns = sample.time_ns.div_euclid(width_ns) * width_ns;
            match &request.windows {
                RollupWindows::Even { origin_ns, width_ns: each_ns, .. } => {
                    each_ns % width_ns != 0 || origin_ns % width_ns != 0
                }
                RollupWindows::Each(windows) => {
                    let touch = TimeRange::new(start_ns, start_ns + width_ns);
                    let inside = |w: &TimeRange| {
                        let w = w.intersect(&hull);
                        w.start_ns <= touch.start_ns && touch.end_ns <= w.end_ns
                    };
                    !windows.iter().any(inside)
                        && windows.iter().any(|w| !w.intersect(&touch).is_empty())
                }
            }
        });
        let is_odd = |sample: &&&Sample| sample.quality != Quality::GOOD;
        let is_weighted = request.needs >= Needs::Weighted;
        is_cut
            || request.needs == Needs::SqlMoments && !asked.is_empty()
            || is_weighted && definition.value_type == ValueType::Text && !asked.is_empty()
            || is_weighted && definition.attributes.max_gap_ns.is_some() && !asked.is_empty()
            || is_weighted && asked.iter().any(|sample| is_odd(&sample))
            || request.needs == Needs::Interval && !asked.is_empty()
    }
}

fn is_asked(request: &RollupRequest, tag: TagId) -> bool {
    match &request.tags {
        TagSelection::All => true,
        TagSelection::Only(tags) => tags.contains(&tag),
    }
}

/// Before which times a tag's samples and rollups have ended.
#[derive(Clone, Copy, Debug)]
struct Ends {
    raw_ns: i64,
    tiers_ns: [i64; Tier::ALL.len()],
}

impl Ends {
    fn all_ns(&self) -> i64 {
        self.tiers_ns[Tier::ALL.len() - 1]
    }

    /// The finest tier that is left where samples have ended.
    fn finest_at(&self, time_ns: i64) -> Option<Tier> {
        if time_ns >= self.raw_ns || time_ns < self.all_ns() {
            return None;
        }
        Tier::ALL.into_iter().find(|tier| self.tiers_ns[tier.index()] <= time_ns)
    }

    /// Bounds move to the next whole window inside, where samples have ended.
    fn clip(&self, range: TimeRange) -> TimeRange {
        let mut start_ns = range.start_ns.max(self.all_ns());
        if let Some(tier) = self.finest_at(start_ns) {
            let width_ns = tier.width_ns();
            start_ns = (start_ns + width_ns - 1).div_euclid(width_ns) * width_ns;
        }
        let mut end_ns = range.end_ns;
        if let Some(tier) = self.finest_at(end_ns - 1) {
            end_ns = end_ns.div_euclid(tier.width_ns()) * tier.width_ns();
        }
        TimeRange::new(start_ns, end_ns.max(start_ns))
    }
}
