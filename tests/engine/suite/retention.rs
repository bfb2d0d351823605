//! Retention: what has ended is neither shown nor taken, nothing else goes, horizons never fall, clocks may lie.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::observe;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{
    Batch, Clock, DAY_NS, Engine, Error, Options, Outcome, Qualities, RejectReason, Result,
    RetentionClass, SECOND_NS, ScanRequest, Snapshot, TagAttributes, TagColumn, TagDefinition,
    TagEdit, TagId, TagSelection, TimeRange, Value, ValueType, Values,
};

const HOUR_NS: i64 = DAY_NS / 24;
const START_NS: i64 = 20_000 * DAY_NS + 9 * HOUR_NS;

fn class(name: &str, days: u64) -> RetentionClass {
    let raw = (days > 0).then(|| Duration::from_secs(days * 86_400));
    RetentionClass::of_raw(name, raw)
}

fn options(retention: Vec<RetentionClass>) -> Options {
    let seal_age = Duration::from_hours(1);
    // A scrub is a reader: it would keep files a moment longer.
    let scrub_period = None;
    Options { wal_bytes: 1 << 20, seal_age, scrub_period, retention, ..Options::default() }
}

fn attributes(class: &str) -> TagAttributes {
    let retention = (!class.is_empty()).then(|| class.to_owned());
    TagAttributes { retention, ..TagAttributes::default() }
}

fn column(tag: TagId, times: &[i64], first: i64) -> TagColumn {
    let values = (first..).zip(times).map(|(value, _)| value).collect();
    let (times, qualities) = (times.to_vec(), Qualities::GOOD);
    TagColumn { tag, times, values: Values::I64(values), qualities }
}

fn batch(columns: Vec<TagColumn>) -> Batch {
    Batch { columns, ..Batch::default() }
}

/// The horizon of each class, the default one under the empty name.
fn horizons(snapshot: &Snapshot) -> BTreeMap<String, i64> {
    let status = snapshot.retention();
    status.into_iter().map(|class| (class.class.to_string(), class.horizon_ns)).collect()
}

fn is_paused(snapshot: &Snapshot) -> bool {
    snapshot.retention().iter().any(|class| class.is_paused)
}

/// The day before which samples have ended at `now_ns`, if they are kept for `days`.
fn day_of(now_ns: i64, days: u64) -> i64 {
    let end_ns = now_ns - i64::try_from(days).unwrap() * DAY_NS;
    end_ns - end_ns.rem_euclid(DAY_NS)
}

type Rows = BTreeMap<(TagId, i64), i64>;

fn rows(snapshot: &Snapshot) -> Result<Rows> {
    let number = |value: &Value| match value {
        Value::I64(number) => *number,
        other => panic!("{other:?}"),
    };
    let found = observe::rows(snapshot)?;
    Ok(found.iter().map(|(key, (value, _))| (*key, number(value))).collect())
}

/// An engine whose clock moves, and what it must show.
struct World {
    random: Random,
    disk: SimDisk,
    clock: Arc<TestClock>,
    classes: Vec<RetentionClass>,
    engine: Option<Engine>,
    tags: Vec<TagId>,
    /// Class of each tag, by its attribute.
    class_of: BTreeMap<TagId, String>,
    /// Everything written and not deleted, ended or not.
    rows: Rows,
    /// The greatest horizon each tag has had: what lies before may be gone for ever.
    gone: BTreeMap<TagId, i64>,
    /// The horizons that were seen last.
    seen: BTreeMap<String, i64>,
    /// What the wall clock has shown while it was believed.
    believed_ns: i64,
    next_value: i64,
}

const CLASSES: [&str; 4] = ["", "short", "long", "nobody's"];

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x7265_7461_696E);
        let classes = Self::draw_classes(&mut random);
        Self {
            random,
            disk: SimDisk::new(seed),
            clock: Arc::new(TestClock::new(START_NS)),
            classes,
            engine: None,
            tags: Vec::new(),
            class_of: BTreeMap::new(),
            rows: Rows::new(),
            gone: BTreeMap::new(),
            seen: BTreeMap::new(),
            believed_ns: START_NS,
            next_value: 0,
        }
    }

    fn draw_classes(random: &mut Random) -> Vec<RetentionClass> {
        let mut classes = vec![class("short", 1 + random.below(3))];
        if random.once_in(2) {
            classes.push(class("", [0, 5, 9][random.index(3)]));
        }
        if random.once_in(2) {
            classes.push(class("long", [0, 12, 20][random.index(3)]));
        }
        classes
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn newest_ns(&self) -> Option<i64> {
        self.rows.keys().map(|(_, time)| *time).max()
    }

    fn try_open(&mut self) -> Result<()> {
        let disk = Arc::new(self.disk.clone());
        let options = options(self.classes.clone());
        let clock = Arc::clone(&self.clock);
        self.engine = Some(Engine::open_on(disk, clock, options)?);
        Ok(())
    }

    fn open(&mut self) {
        self.try_open().unwrap();
        self.believed_ns = self.newest_ns().unwrap_or(self.clock.wall_ns());
        self.engine().expire().unwrap();
        self.look();
        if self.tags.is_empty() {
            let tag = |n: usize| TagDefinition {
                attributes: attributes(CLASSES[n % 4]),
                ..TagDefinition::new(format!("tag {n}"), ValueType::I64)
            };
            let tags: Vec<_> = (0..6).map(tag).collect();
            self.tags = self.engine().define(&tags).unwrap();
            for (n, tag) in self.tags.iter().enumerate() {
                self.class_of.insert(*tag, CLASSES[n % 4].to_owned());
            }
        }
        self.check();
    }

    fn horizon_of(&self, tag: TagId, horizons: &BTreeMap<String, i64>) -> i64 {
        horizons.get(&self.class_of[&tag]).or_else(|| horizons.get("")).copied().unwrap_or(0)
    }

    /// Times near now, near the horizons, and between; never in the future.
    fn times(&mut self, tag: TagId) -> Vec<i64> {
        let now_ns = self.clock.wall_ns();
        let horizon_ns = self.horizon_of(tag, &self.seen);
        let count = 1 + self.random.index(12);
        let mut draw = || {
            let back = match self.random.below(4) {
                0 => self.random.below(30 * DAY_NS.unsigned_abs()).cast_signed(),
                1 => return horizon_ns + self.random.below(5).cast_signed() - 2,
                _ => self.random.below(HOUR_NS.unsigned_abs()).cast_signed(),
            };
            now_ns - back
        };
        let mut times: Vec<i64> = (0..count).map(|_| draw().clamp(0, now_ns)).collect();
        times.sort_unstable();
        times.dedup();
        times
    }

    /// Writes; takes what the engine must have taken. Gives what is in doubt after an error.
    fn append(&mut self) -> Option<Rows> {
        let mut columns: Vec<TagColumn> = Vec::new();
        for tag in self.tags.clone() {
            if self.random.once_in(2) {
                let times = self.times(tag);
                columns.push(column(tag, &times, self.next_value));
                self.next_value += 20;
            }
        }
        if columns.is_empty() {
            return None;
        }
        let before = horizons(&self.engine().snapshot());
        let mut taken = Rows::new();
        for (part, column) in columns.iter().enumerate() {
            let Values::I64(values) = &column.values else { unreachable!() };
            let keys = column.times.iter().map(|time| (column.tag, *time));
            taken.extend(keys.zip(values.iter().copied()));
            assert_eq!(columns[part].times.len(), values.len());
        }
        match self.engine().append(batch(columns.clone())) {
            Ok(appended) => {
                let after = horizons(&self.engine().snapshot());
                let mut refused: Vec<(TagId, i64)> = Vec::new();
                for reject in &appended.rejects {
                    assert_eq!(reject.reason, RejectReason::TooLate);
                    let rows = reject.first as usize..(reject.first + reject.count) as usize;
                    refused
                        .extend(columns[reject.part].times[rows].iter().map(|t| (reject.tag, *t)));
                }
                for (tag, time) in taken.keys() {
                    let is_refused = refused.contains(&(*tag, *time));
                    // A horizon may rise between the two looks.
                    let must = *time < self.horizon_of(*tag, &before);
                    let may = *time < self.horizon_of(*tag, &after);
                    assert!(!must || is_refused, "{tag} at {time} was taken: {before:?}");
                    assert!(may || !is_refused, "{tag} at {time} was refused: {after:?}");
                }
                taken.retain(|key, _| !refused.contains(key));
                self.rows.extend(taken);
                None
            }
            Err(error) => {
                assert!(self.disk.is_down(), "{error}");
                (error.outcome() == Outcome::Unknown).then_some(taken)
            }
        }
    }

    fn delete(&mut self) {
        // Never the newest sample: it says what time it was.
        let Some(newest_ns) = self.newest_ns() else { return };
        let tag = self.tags[self.random.index(self.tags.len())];
        let start = newest_ns - self.random.below(10 * DAY_NS.unsigned_abs()).cast_signed();
        let range = TimeRange::new(start, (start + 5 * HOUR_NS).min(newest_ns));
        if range.is_empty() {
            return;
        }
        match self.engine().delete(&[tag], range, "a test") {
            Ok(_) => self.rows.retain(|(t, time), _| !(*t == tag && range.contains(*time))),
            Err(error) => {
                assert!(self.disk.is_down(), "{error}");
                self.rows.retain(|(t, time), _| !(*t == tag && range.contains(*time)));
                // In doubt: any of it may be there.
                let gone = self.gone.entry(tag).or_insert(range.end_ns);
                *gone = range.end_ns.max(*gone);
            }
        }
    }

    fn edit(&mut self) {
        let tag = self.tags[self.random.index(self.tags.len())];
        let class = CLASSES[self.random.index(4)];
        // What the tag's class has ended up to now, and the next one after it, is gone for it.
        if self.engine().expire().is_err() {
            return assert!(self.disk.is_down());
        }
        self.check();
        let edit = TagEdit { attributes: Some(attributes(class)), ..TagEdit::default() };
        match self.engine().edit_tag(tag, edit) {
            Ok(()) => drop(self.class_of.insert(tag, class.to_owned())),
            Err(error) => return assert!(self.disk.is_down(), "{error}"),
        }
        self.check();
    }

    fn move_clock(&mut self) {
        let wall_ns = self.clock.wall_ns();
        let hours = match self.random.below(12) {
            0 => 26 + self.random.below(2_000).cast_signed(),
            1 => -self.random.below(60).cast_signed(),
            _ => self.random.below(20).cast_signed(),
        };
        self.clock.set((wall_ns + hours * HOUR_NS).max(START_NS));
        // The engine may look at any moment from here on.
        let _looked = self.engine().expire();
        self.look();
    }

    /// What the clock shows is believed unless it has leapt. Near the bound both are right.
    fn look(&mut self) {
        let wall_ns = self.clock.wall_ns();
        if self.disk.is_down() {
            return;
        }
        let ahead_ns = wall_ns - self.believed_ns - DAY_NS;
        let found = is_paused(&self.engine().snapshot());
        let any = self.classes.iter().any(|class| class.raw.is_some());
        if any && ahead_ns.abs() > HOUR_NS / 2 {
            let (believed_ns, newest_ns) = (self.believed_ns, self.newest_ns());
            let times = [wall_ns, believed_ns, newest_ns.unwrap_or(0)].map(|t| t / (HOUR_NS / 100));
            assert_eq!(found, ahead_ns > 0, "wall, believed, newest: {times:?}");
        }
        if !found {
            self.believed_ns = self.believed_ns.max(wall_ns);
        }
    }

    fn confirm(&mut self) {
        if self.engine().confirm_clock().is_ok() {
            self.believed_ns = self.clock.wall_ns();
            assert!(!is_paused(&self.engine().snapshot()));
        }
    }

    /// Everything that is due has ended, in reads and in files.
    fn expire(&mut self) {
        let before = horizons(&self.engine().snapshot());
        if let Err(error) = self.engine().expire() {
            assert!(self.disk.is_down(), "{error}");
            return;
        }
        self.look();
        let snapshot = self.engine().snapshot();
        let found = horizons(&snapshot);
        if self.disk.is_down() {
            return; // while files were unlinked
        }
        let files = self.disk.files();
        let files = files.iter().filter(|(path, _)| path.starts_with("segments/")).count();
        assert_eq!(
            files,
            snapshot.segments().len(),
            "files that nobody needs, or that are missing"
        );
        let least = found.values().min().copied().unwrap_or(0);
        assert!(snapshot.segments().iter().all(|s| s.last_ns >= least), "a file has ended");
        let Some(newest_ns) = self.newest_ns() else { return };
        let now_ns = self.clock.wall_ns().min(newest_ns + DAY_NS);
        for class in &self.classes {
            let before = before.get(&class.name).copied().unwrap_or(0);
            let Some(raw) = class.raw.filter(|_| !is_paused(&snapshot)) else {
                assert_eq!(found[&class.name], before, "{class:?} moved");
                continue;
            };
            let want = day_of(now_ns, raw.as_secs() / 86_400).max(before);
            assert_eq!(found[&class.name], want, "{class:?}");
        }
    }

    /// What is shown: everything from the horizons on, nothing before.
    fn check(&mut self) {
        let snapshot = self.engine().snapshot();
        let found = match rows(&snapshot) {
            Ok(found) => found,
            Err(error) => return assert!(self.disk.is_down(), "{error}"),
        };
        let horizons = horizons(&snapshot);
        for (class, before) in &self.seen {
            // A class that the options no longer name, and of which nothing ended, is the default class.
            let now = horizons.get(class).or_else(|| horizons.get(""));
            assert!(now.is_some_and(|now| now >= before), "{class:?} fell");
        }
        for tag in self.tags.clone() {
            let horizon_ns = self.horizon_of(tag, &horizons);
            let gone_ns = *self
                .gone
                .entry(tag)
                .and_modify(|g| *g = (*g).max(horizon_ns))
                .or_insert(horizon_ns);
            let of_tag = |rows: &Rows| -> BTreeMap<i64, i64> {
                rows.range((tag, i64::MIN)..=(tag, i64::MAX)).map(|((_, t), v)| (*t, *v)).collect()
            };
            let (want, have) = (of_tag(&self.rows), of_tag(&found));
            let certain = want.range(gone_ns..).filter(|(time, _)| **time >= horizon_ns);
            for (time, value) in certain {
                assert_eq!(have.get(time), Some(value), "{tag} at {time}, {horizons:?}");
            }
            for (time, value) in &have {
                assert!(*time >= horizon_ns, "{tag} shows {time}, which has ended");
                if *time >= gone_ns {
                    assert_eq!(want.get(time), Some(value), "{tag} at {time}");
                }
            }
            let latest = snapshot.latest(tag).map(|latest| (latest.time_ns, latest.value));
            let last = have.last_key_value().map(|(time, value)| (*time, Value::I64(*value)));
            assert_eq!(latest, last, "latest of {tag}");
            let only = TagSelection::Only(Arc::from([tag]));
            let request = ScanRequest::new(only, TimeRange::ALL);
            assert!(snapshot.estimate_rows(&request) >= have.len() as u64);
        }
        self.seen = horizons;
    }

    fn step(&mut self) -> Option<Rows> {
        match self.random.below(20) {
            0..=8 => return self.append(),
            9 => self.delete(),
            10 => self.edit(),
            11..=13 => self.move_clock(),
            14 => self.confirm(),
            15..=16 => self.expire(),
            _ => {
                let sealed = self.engine().seal();
                assert!(sealed.is_ok() || self.disk.is_down());
            }
        }
        None
    }

    /// The next life: closed, killed or cut off, perhaps with other classes.
    fn reopen(&mut self, doubt: Option<Rows>) {
        let engine = self.engine.take().unwrap();
        if self.disk.is_down() {
            drop(engine);
            self.disk = self.disk.restart();
        } else if self.random.once_in(2) {
            engine.close().unwrap();
        } else {
            self.disk.kill();
            drop(engine);
            self.disk = self.disk.restart();
        }
        if self.random.once_in(3) {
            self.classes = Self::draw_classes(&mut self.random);
        }
        self.try_open().unwrap();
        let snapshot = self.engine().snapshot();
        let found = rows(&snapshot).unwrap();
        for (tag, class) in &mut self.class_of {
            let known = snapshot.registry().get(*tag).unwrap();
            *class = known.attributes.retention.clone().unwrap_or_default();
        }
        let horizons = horizons(&snapshot);
        let doubt = doubt.unwrap_or_default();
        if doubt.iter().any(|(key, value)| found.get(key) == Some(value)) {
            let is_taken = |(tag, time): &(TagId, i64)| *time >= self.horizon_of(*tag, &horizons);
            let taken: Rows = doubt.into_iter().filter(|(key, _)| is_taken(key)).collect();
            self.rows.extend(taken);
        }
        drop(snapshot);
        self.engine.take().unwrap().close().unwrap();
        self.disk = self.disk.restart();
        self.open();
    }
}

#[test]
fn what_has_ended_is_not_shown_and_nothing_else_goes() {
    let seeds = seeds(40);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("retention::what_has_ended_is_not_shown_and_nothing_else_goes", seed);
        let mut world = World::new(seed);
        world.open();
        for _ in 0..4 {
            for _ in 0..world.random.below(40) {
                assert!(world.step().is_none());
                if world.random.once_in(3) {
                    world.check();
                }
            }
            world.check();
            world.expire();
            world.check();
            world.reopen(None);
        }
    }
}

#[test]
fn power_cuts_while_samples_end() {
    let seeds = seeds(150);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("retention::power_cuts_while_samples_end", seed);
        let mut world = World::new(seed);
        world.open();
        for _ in 0..4 {
            world.disk.crash_after_changes(1 + world.random.below(80));
            let mut doubt = None;
            for _ in 0..60 {
                doubt = world.step();
                if world.disk.is_down() {
                    break;
                }
                world.check();
            }
            world.reopen(doubt);
        }
    }
}

fn open(disk: &SimDisk, clock: &Arc<TestClock>, classes: &[RetentionClass]) -> Engine {
    let clock = Arc::clone(clock);
    Engine::open_on(Arc::new(disk.clone()), clock, options(classes.to_vec())).unwrap()
}

/// A pinned snapshot reads on what has ended since, even files it has not opened; they go with it.
#[test]
fn a_pinned_snapshot_keeps_what_ends() {
    let (disk, clock) = (SimDisk::new(1), Arc::new(TestClock::new(START_NS)));
    let engine = open(&disk, &clock, &[class("", 2)]);
    let tag = engine.define(&[TagDefinition::new("a", ValueType::I64)]).unwrap()[0];
    let old: Vec<i64> = (0..500).map(|n| START_NS - DAY_NS + n * SECOND_NS).collect();
    engine.append(batch(vec![column(tag, &old, 0)])).unwrap();
    engine.seal().unwrap();
    let held = engine.snapshot();
    for _ in 0..3 {
        clock.set(clock.wall_ns() + 20 * HOUR_NS);
        let now = [clock.wall_ns()];
        engine.append(batch(vec![column(tag, &now, 7)])).unwrap();
        engine.expire().unwrap();
    }
    assert_eq!(rows(&engine.snapshot()).unwrap().len(), 3, "only the new ones");
    assert_eq!(engine.snapshot().segments().len(), 0);
    let sealed = || disk.files().iter().any(|(path, _)| path.starts_with("segments/"));
    assert!(sealed());
    assert_eq!(rows(&held).unwrap().len(), 500);
    drop(held);
    assert!(!sealed(), "the file outlives its last reader");
}

/// A file that holds tags of two classes stays as long as one of them needs it.
#[test]
fn a_file_goes_when_no_tag_needs_it() {
    let (disk, clock) = (SimDisk::new(1), Arc::new(TestClock::new(START_NS)));
    let classes = [class("", 30), class("short", 1)];
    let engine = open(&disk, &clock, &classes);
    let define = |name: &str, class: &str| TagDefinition {
        attributes: attributes(class),
        ..TagDefinition::new(name, ValueType::I64)
    };
    let tags = engine.define(&[define("a", ""), define("b", "short"), define("c", "")]).unwrap();
    let now = |column: &dyn Fn(i64) -> TagColumn| batch(vec![column(clock.wall_ns())]);
    engine.append(now(&|at| column(tags[1], &[at], 1))).unwrap();
    engine.seal().unwrap();
    engine.append(now(&|at| column(tags[1], &[at + 1], 2))).unwrap();
    engine.append(now(&|at| column(tags[2], &[at + 2], 3))).unwrap();
    engine.seal().unwrap();
    assert_eq!(engine.snapshot().segments().len(), 2);
    for _ in 0..3 {
        clock.set(clock.wall_ns() + 20 * HOUR_NS);
        engine.append(now(&|at| column(tags[0], &[at], 4))).unwrap();
        engine.expire().unwrap();
    }
    let snapshot = engine.snapshot();
    assert_eq!(snapshot.segments().len(), 1, "the one that only the short class was in has gone");
    assert_eq!(snapshot.latest(tags[1]), None);
    assert_eq!(snapshot.latest(tags[2]).unwrap().value, Value::I64(3));
    // Moved to the other class, the tag shows what still exists.
    let longer = TagEdit { attributes: Some(attributes("")), ..TagEdit::default() };
    engine.edit_tag(tags[1], longer).unwrap();
    assert_eq!(engine.snapshot().latest(tags[1]).unwrap().value, Value::I64(2));
}

/// In a file that some tags need for ever, the rows of others do not stay for ever.
#[test]
fn what_has_ended_leaves_files_that_others_need() {
    let (disk, clock) = (SimDisk::new(1), Arc::new(TestClock::new(START_NS)));
    let options =
        Options { background_compaction: false, ..options(vec![class("", 2), class("kept", 0)]) };
    let disk = Arc::new(disk.clone());
    let engine = Engine::open_on(disk, Arc::clone(&clock) as Arc<dyn Clock>, options).unwrap();
    let define = |name: &str, class: &str| TagDefinition {
        attributes: attributes(class),
        ..TagDefinition::new(name, ValueType::I64)
    };
    let tags = engine.define(&[define("a", "kept"), define("b", ""), define("c", "")]).unwrap();
    // One with chunks of its own in the file, one packed with others.
    let times = |rows: i64| (1 - rows..1).map(|row| START_NS + row * SECOND_NS).collect::<Vec<_>>();
    for (tag, rows) in tags.iter().zip([1_000, 5_000, 20]) {
        engine.append(batch(vec![column(*tag, &times(rows), 0)])).unwrap();
    }
    engine.seal().unwrap();
    for _ in 0..5 {
        clock.set(clock.wall_ns() + 20 * HOUR_NS);
        engine.append(batch(vec![column(tags[0], &[clock.wall_ns()], 7)])).unwrap();
        engine.expire().unwrap();
    }
    let rows_stored = |engine: &Engine| -> u64 {
        let segments = engine.snapshot().segments();
        segments.iter().filter(|segment| segment.first_ns < START_NS).map(|s| s.rows).sum()
    };
    assert_eq!(rows_stored(&engine), 6_020, "the file stays for one tag of three");
    engine.compact().unwrap();
    assert_eq!(rows_stored(&engine), 1_000);
    let report = engine.compact().unwrap();
    assert_eq!(report.tasks, 0, "once is enough");
    assert_eq!(rows(&engine.snapshot()).unwrap().len(), 1_005);
}

#[test]
fn classes_that_make_no_sense_are_refused() {
    let short = RetentionClass::of_raw("a", Some(Duration::from_hours(1)));
    let cases = [
        vec![short],
        vec![class("a", 1), class("a", 2)],
        vec![class("a\n", 1)],
        vec![class(&"x".repeat(65), 1)],
        (0..65).map(|n| class(&format!("{n}"), 1)).collect(),
    ];
    for classes in cases {
        let disk = Arc::new(SimDisk::new(1));
        let clock = Arc::new(TestClock::new(START_NS));
        let refused = Engine::open_on(disk, clock, options(classes.clone()));
        assert!(matches!(refused, Err(Error::Invalid(_))), "{classes:?}");
    }
}
