//! Backfill: whole or not at all, last push wins, earlier writes lose to it and later ones win over it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::model::{Change, Model};
use tagmill_engine_tests::observe;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_engine_tests::workload::{self, Timeline};
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::disk::{Disk, DiskFile};
use tagmill_storage::{
    BackfillReport, Batch, Clock, DAY_NS, Engine, Error, Options, Origin, Qualities, RejectReason,
    Result, SECOND_NS, SegmentKind, TagColumn, TagDefinition, TagEdit, TagId, TimeRange, Value,
    ValueType, Values,
};

const NOW_NS: i64 = 20_000 * DAY_NS + 7 * 3_600 * SECOND_NS;

fn options(backfill_bytes: u64) -> Options {
    let seal_age = Duration::from_hours(1);
    Options { wal_bytes: 1 << 20, seal_age, backfill_bytes, ..Options::default() }
}

fn open(disk: &SimDisk, backfill_bytes: u64) -> Result<Engine> {
    let clock = Arc::new(TestClock::new(NOW_NS));
    Engine::open_on(Arc::new(disk.clone()), clock, options(backfill_bytes))
}

fn integers(tag: TagId, times: &[i64], first: i64) -> TagColumn {
    let values = (first..).zip(times).map(|(value, _)| value).collect();
    let (times, qualities) = (times.to_vec(), Qualities::GOOD);
    TagColumn { tag, times, values: Values::I64(values), qualities }
}

/// Damage that verify finds.
fn damage(engine: &Engine) -> Vec<String> {
    let mut found = Vec::new();
    engine.verify(&mut |error| found.push(error.to_string()));
    found
}

fn compare(model: &Model, engine: &Engine, what: &str) {
    let snapshot = engine.snapshot();
    let rows = observe::rows(&snapshot).unwrap();
    assert_eq!(observe::compare(model, &snapshot, &rows), None, "{what}");
}

/// A database, its model, and a generator of columns for its tags.
struct World {
    random: Random,
    disk: SimDisk,
    engine: Option<Engine>,
    model: Model,
    tags: Vec<(TagId, ValueType)>,
    timeline: Timeline,
    imports: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6261_636B);
        let disk = SimDisk::new(seed);
        let at_ns = NOW_NS - 3 * DAY_NS;
        let step_ns = [SECOND_NS, 600 * SECOND_NS][random.index(2)];
        let timeline = Timeline { at_ns, reach_ns: 6 * DAY_NS, step_ns, is_late: None };
        let (model, tags) = (Model::default(), Vec::new());
        Self { random, disk, engine: None, model, tags, timeline, imports: 0 }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn open(&mut self) {
        let memory = [4 << 10, 16 << 10, 1 << 20][self.random.index(3)];
        self.engine = Some(open(&self.disk, memory).unwrap());
    }

    fn define(&mut self) {
        let count = 1 + self.random.index(5);
        let names = self.tags.len()..self.tags.len() + count;
        let new: Vec<_> = names.map(|n| workload::definition(&mut self.random, n)).collect();
        let Ok(ids) = self.engine().define(&new) else { return assert!(self.disk.is_down()) };
        self.tags.extend(ids.iter().zip(&new).map(|(id, new)| (*id, new.value_type)));
        self.model.apply(&Change::Define(ids.into_iter().zip(new).collect()));
    }

    fn columns(&mut self) -> Vec<TagColumn> {
        let mut columns = Vec::new();
        for _ in 0..=self.random.index(6) {
            let (tag, value_type) = self.tags[self.random.index(self.tags.len())];
            let most = [5, 200][self.random.index(2)];
            let count = 1 + self.random.index(most);
            let (random, timeline) = (&mut self.random, &mut self.timeline);
            columns.push(workload::column(random, timeline, tag, value_type, count));
            self.timeline.at_ns = self.timeline.at_ns.min(NOW_NS - DAY_NS);
        }
        columns
    }

    fn append_of(columns: Vec<TagColumn>) -> Change {
        Change::Append { defines: Vec::new(), batch: batch(columns), now_ns: NOW_NS }
    }

    /// Pushes some columns. Gives what the finish must bring, or `None` if the disk went down.
    fn begin(&mut self) -> Option<(tagmill_storage::Backfill, Vec<Change>)> {
        self.imports += 1;
        let mut backfill = self.engine().backfill(&format!("import {}", self.imports)).unwrap();
        let mut changes = Vec::new();
        for _ in 0..=self.random.index(12) {
            let columns = self.columns();
            let judged = self.model.judge(&[], &batch(columns.clone()), NOW_NS);
            match backfill.push(columns.clone()) {
                Ok(pushed) => assert_eq!(pushed.accepted, judged.taken.len() as u64),
                Err(error) => {
                    assert!(self.disk.is_down(), "{error}");
                    return None;
                }
            }
            changes.push(Self::append_of(columns));
        }
        Some((backfill, changes))
    }

    /// Something else that goes on meanwhile, in the log.
    fn write(&mut self) -> Option<Change> {
        match self.random.below(6) {
            0 => {
                assert!(self.engine().seal().is_ok() || self.disk.is_down());
                None
            }
            1 => {
                let tag = self.tags[self.random.index(self.tags.len())].0;
                let start = NOW_NS - self.random.below(7 * DAY_NS.unsigned_abs()).cast_signed();
                let range = TimeRange::new(start, start + DAY_NS);
                let deleted = self.engine().delete(&[tag], range, "a test");
                let change = Change::Delete { tags: vec![tag], range };
                self.note(change, deleted.map(|_| ()))
            }
            _ => {
                let columns = self.columns();
                let change = Self::append_of(columns.clone());
                let appended = self.engine().append(batch(columns));
                self.note(change, appended.map(|_| ()))
            }
        }
    }

    /// Applies what is durable; gives what is in doubt.
    fn note(&mut self, change: Change, answer: Result<()>) -> Option<Change> {
        match answer {
            Ok(()) => {
                self.model.apply(&change);
                None
            }
            Err(error) => {
                assert!(self.disk.is_down(), "{error}");
                Some(change)
            }
        }
    }
}

fn batch(columns: Vec<TagColumn>) -> Batch {
    Batch { columns, ..Batch::default() }
}

#[test]
fn a_backfill_is_one_write_at_its_finish() {
    let seeds = seeds(60);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("backfill::a_backfill_is_one_write_at_its_finish", seed);
        let mut world = World::new(seed);
        world.open();
        world.define();
        for _ in 0..5 {
            for _ in 0..world.random.below(5) {
                assert!(world.write().is_none());
            }
            let (backfill, changes) = world.begin().unwrap();
            for _ in 0..world.random.below(5) {
                assert!(world.write().is_none(), "writes go on meanwhile");
            }
            compare(&world.model, world.engine(), "before the finish");
            if world.random.once_in(6) {
                drop(backfill);
                let scratch = world.disk.files();
                assert!(
                    !scratch.iter().any(|(path, _)| path.starts_with("scratch")),
                    "{scratch:?}"
                );
                compare(&world.model, world.engine(), "after an abort");
                continue;
            }
            let report = backfill.finish().unwrap();
            assert!(!report.already_done);
            for change in &changes {
                world.model.apply(change);
            }
            compare(&world.model, world.engine(), "after the finish");
            for _ in 0..world.random.below(4) {
                assert!(world.write().is_none());
            }
            compare(&world.model, world.engine(), "after later writes");
            assert_eq!(damage(world.engine()), [""; 0]);
            if world.random.once_in(3) {
                world.define();
            }
            if world.random.once_in(2) {
                let engine = world.engine.take().unwrap();
                if world.random.once_in(2) {
                    engine.close().unwrap();
                    world.disk = world.disk.restart();
                } else {
                    world.disk.kill();
                    drop(engine);
                    world.disk = world.disk.restart();
                }
                world.open();
                compare(&world.model, world.engine(), "after a restart");
            }
        }
    }
}

/// Power cuts at every change of a backfill with spills, and of the open after it: all of it is there, or nothing.
#[test]
fn power_cuts_at_every_change_leave_all_or_nothing() {
    let seeds = seeds(3);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::new("backfill::power_cuts_at_every_change_leave_all_or_nothing", seed);
        let start = || {
            let mut world = World::new(seed);
            world.random = Random::new(seed);
            world.engine = Some(open(&world.disk, 4 << 10).unwrap());
            world.define();
            for _ in 0..4 {
                assert!(world.write().is_none());
            }
            world
        };
        let mut world = start();
        let before = world.disk.changes();
        let (backfill, _) = world.begin().unwrap();
        backfill.finish().unwrap();
        let changes = world.disk.changes() - before;
        drop(world);
        for change in 1..=changes + 2 {
            let mut world = start();
            world.disk.crash_after_changes(change);
            let begun = world.begin();
            let finished = begun.map(|(backfill, changes)| (backfill.finish(), changes));
            world.disk.crash();
            world.engine = None;
            world.disk = world.disk.restart();
            world.disk.crash_after_changes(1 + change % 17);
            match open(&world.disk, 4 << 10) {
                Ok(engine) => drop(engine),
                Err(error) => assert!(world.disk.is_down(), "{error}"),
            }
            world.disk.crash();
            world.disk = world.disk.restart();
            world.open();
            let is_done = world.engine().backfill("import 1").unwrap().is_done();
            match finished {
                Some((Ok(BackfillReport { .. }), changes)) => {
                    assert!(is_done, "a finished backfill is lost");
                    for change in &changes {
                        world.model.apply(change);
                    }
                }
                Some((Err(_), changes)) if is_done => {
                    for change in &changes {
                        world.model.apply(change);
                    }
                }
                _ => assert!(!is_done, "what was never finished is there"),
            }
            compare(&world.model, world.engine(), &format!("cut at change {change}"));
            let left = world.disk.files();
            assert!(!left.iter().any(|(path, _)| path.starts_with("scratch")), "{left:?}");
        }
    }
}

/// What is done once is not done again, after a restart too; another id is another import.
#[test]
fn an_import_id_is_written_once() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, 1 << 20).unwrap();
    let tag = engine.reserve(&[TagDefinition::new("a", ValueType::I64)]).remove(0).unwrap();
    let run = |engine: &Engine, id: &str, first: i64| {
        let mut backfill = engine.backfill(id).unwrap();
        backfill.push(vec![integers(tag, &[10, 20], first)]).unwrap();
        backfill.finish().unwrap()
    };
    let latest = |engine: &Engine| engine.snapshot().latest(tag).map(|latest| latest.value);
    let mut twin = engine.backfill("x").unwrap();
    twin.push(vec![integers(tag, &[30], 9)]).unwrap();
    assert_eq!(latest(&engine), None);
    let first = run(&engine, "x", 1);
    assert_eq!((first.rows, first.segments, first.already_done), (2, 1, false));
    assert!(twin.finish().unwrap().already_done, "begun before the other was finished");
    let seq = engine.snapshot().seq();
    assert!(run(&engine, "x", 5).already_done);
    assert_eq!((latest(&engine), engine.snapshot().seq()), (Some(Value::I64(2)), seq));
    engine.close().unwrap();
    let engine = open(&disk.restart(), 1 << 20).unwrap();
    assert!(run(&engine, "x", 5).already_done);
    assert_eq!(latest(&engine), Some(Value::I64(2)));
    assert!(!run(&engine, "y", 5).already_done);
    assert_eq!(latest(&engine), Some(Value::I64(6)));
    let imports = engine.imports();
    assert_eq!(imports.iter().map(|(id, _)| id.as_ref()).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(engine.snapshot().segments().len(), 2, "the twin's file is gone");
    for id in ["", "a\nb", &"x".repeat(257)] {
        assert!(matches!(engine.backfill(id), Err(Error::Invalid(_))), "{id:?}");
    }
    let empty = engine.backfill("z").unwrap().finish().unwrap();
    assert_eq!(empty, BackfillReport::default());
}

/// What is newer than everything sealed of its tags is base, the rest late; a gateway's mark moves with the finish.
#[test]
fn segments_know_their_kind_and_marks_move() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, 1 << 20).unwrap();
    let names = ["a", "b"].map(|name| TagDefinition::new(name, ValueType::I64));
    let tags = engine.define(&names).unwrap();
    let day = |n: i64| n * DAY_NS;
    engine.append(batch(vec![integers(tags[0], &[day(5), day(5) + 1], 0)])).unwrap();
    let session = engine.open_session("import/x", 1).unwrap();
    let origin = |seq, session| Origin { gateway: Arc::from("import/x"), epoch: 1, seq, session };
    let mut backfill = engine.backfill("x").unwrap();
    backfill.set_origin(origin(7, session.generation));
    let times = [day(4), day(5) + 1, day(6)];
    let rejected = backfill
        .push(vec![integers(tags[0], &times, 10), integers(tags[1], &times, 20), {
            TagColumn { tag: TagId(99), ..integers(tags[1], &[1], 0) }
        }])
        .unwrap();
    assert_eq!(rejected.rejects[0].reason, RejectReason::UnknownTag);
    let report = backfill.finish().unwrap();
    assert_eq!(report.segments, 3);
    let metrics = engine.metrics();
    assert_eq!((metrics.backfill_samples, metrics.backfill_bytes), (report.rows, report.bytes));
    let written = metrics.wal_bytes + metrics.seal_bytes + report.bytes;
    assert_eq!(metrics.samples, 2, "those of the log");
    assert_eq!(metrics.written_bytes_per_sample(), Some(written as f64 / (2 + report.rows) as f64));
    let segments = engine.snapshot().segments();
    let kind = |first| segments.iter().rfind(|s| s.first_ns == first).map(|s| s.kind);
    assert_eq!(kind(day(4)), Some(SegmentKind::Late));
    assert_eq!(kind(day(6)), Some(SegmentKind::Base));
    let rows = observe::rows(&engine.snapshot()).unwrap();
    assert_eq!(rows[&(tags[0], day(5))].0, Value::I64(0));
    assert_eq!(rows[&(tags[0], day(5) + 1)].0, Value::I64(11), "the import overwrites");
    assert_eq!(engine.open_session("import/x", 1).unwrap().mark, 7);
    let mut late = engine.backfill("x again").unwrap();
    late.set_origin(origin(8, session.generation));
    late.push(vec![integers(tags[0], &[1], 0)]).unwrap();
    let fenced = late.finish().unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
    let edit = TagEdit { name: Some("c".into()), attributes: None };
    engine.edit_tag(tags[0], edit).unwrap();
    engine.close().unwrap();
    let engine = open(&disk.restart(), 1 << 20).unwrap();
    assert_eq!(engine.open_session("import/x", 1).unwrap().mark, 7);
    assert_eq!(observe::rows(&engine.snapshot()).unwrap(), rows);
}

/// A disk that does something at the first sync of a folder from then on.
struct Watched {
    disk: SimDisk,
    at_sync: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.disk.fmt(f)
    }
}

impl Disk for Watched {
    fn create(&self, path: &str, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path, allocate)
    }
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path)
    }
    fn open_writable(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open_writable(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let synced = self.disk.sync_dir(dir);
        if let Some(act) = self.at_sync.lock().unwrap().take_if(|_| dir == "segments") {
            act();
        }
        synced
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
    fn root(&self) -> PathBuf {
        self.disk.root()
    }
}

/// A gateway's batches that become durable while a backfill of that gateway takes its place move the mark for good, and
/// the backfill, which is older, is none any more.
#[test]
fn a_mark_that_moves_during_a_finish_stays() {
    let sim = SimDisk::new(1);
    let disk = Arc::new(Watched { disk: sim.clone(), at_sync: Mutex::default() });
    let clock = Arc::new(TestClock::new(NOW_NS));
    let engine = Engine::open_on(Arc::clone(&disk) as _, clock, options(1 << 20)).unwrap();
    let engine = Arc::new(engine);
    let tag = engine.define(&[TagDefinition::new("a", ValueType::I64)]).unwrap()[0];
    let session = engine.open_session("gw", 1).unwrap().generation;
    let origin = move |seq| Origin { gateway: Arc::from("gw"), epoch: 1, seq, session };
    let mut backfill = engine.backfill("x").unwrap();
    backfill.set_origin(origin(1));
    backfill.push(vec![integers(tag, &[10], 0)]).unwrap();
    let (writer, later) = (Arc::clone(&engine), sim.clone());
    let (sent, done) = std::sync::mpsc::channel();
    *disk.at_sync.lock().unwrap() = Some(Box::new(move || {
        // They wait in the log, unseen, until the finish waits there too.
        later.hold_syncs(true);
        for seq in 1..=3_u64 {
            let columns = vec![integers(tag, &[20], seq.cast_signed())];
            let (batch, sent) =
                (Batch { origin: Some(origin(seq)), ..batch(columns) }, sent.clone());
            writer.submit(batch, Box::new(move |appended| sent.send(appended).unwrap()));
        }
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            later.hold_syncs(false);
        });
    }));
    let report = backfill.finish().unwrap();
    for _ in 1..=3 {
        assert!(done.recv().unwrap().unwrap().durable);
    }
    assert!(report.already_done, "the log had its batch first: {report:?}");
    *disk.at_sync.lock().unwrap() = None;
    engine.seal().unwrap();
    drop(engine);
    let engine = open(&sim.restart(), 1 << 20).unwrap();
    assert_eq!(engine.open_session("gw", 1).unwrap().mark, 3);
    let rows = observe::rows(&engine.snapshot()).unwrap();
    assert_eq!(rows.into_values().map(|cell| cell.0).collect::<Vec<_>>(), [Value::I64(3)]);
}

/// Writers and readers go on while a large backfill is finished; every row is the newer one's.
#[test]
fn appends_go_on_during_a_finish() {
    let disk = SimDisk::new(1);
    let clock = Arc::new(TestClock::new(NOW_NS));
    let small = Options { head_bytes: 256 << 10, wal_bytes: 64 << 10, ..options(64 << 10) };
    let engine = Engine::open_on(Arc::new(disk), Arc::clone(&clock) as Arc<dyn Clock>, small);
    let engine = engine.unwrap();
    let names: Vec<_> =
        (0..40).map(|n| TagDefinition::new(format!("t{n}"), ValueType::I64)).collect();
    let tags = engine.define(&names).unwrap();
    let times: Vec<i64> = (0..500).map(|n| NOW_NS - DAY_NS + n * 300 * SECOND_NS).collect();
    let times: Vec<i64> = times.into_iter().filter(|time| *time <= NOW_NS).collect();
    let mut backfill = engine.backfill("x").unwrap();
    for tag in &tags {
        backfill.push(vec![integers(*tag, &times, 1_000_000)]).unwrap();
    }
    std::thread::scope(|scope| {
        let (engine, tags, times) = (&engine, &tags, &times);
        let writer = scope.spawn(move || {
            // Each key is written again and again with a greater value.
            for round in 0..60 {
                for tag in tags.iter().step_by(7) {
                    let at = usize::try_from(round).unwrap() % times.len();
                    let some = &times[at..(at + 20).min(times.len())];
                    engine
                        .append(batch(vec![integers(*tag, some, 2_000_000 + round * 100)]))
                        .unwrap();
                }
            }
        });
        backfill.finish().unwrap();
        writer.join().unwrap();
    });
    engine.append(batch(vec![integers(tags[1], &times[..1], 7)])).unwrap();
    let snapshot = engine.snapshot();
    let rows = observe::rows(&snapshot).unwrap();
    assert_eq!(rows.len(), tags.len() * times.len(), "every key once");
    assert_eq!(rows[&(tags[1], times[0])].0, Value::I64(7), "later writes win");
    for (n, tag) in tags.iter().enumerate() {
        let last = snapshot.latest(*tag).unwrap();
        let key = (*tag, last.time_ns);
        assert_eq!(rows.range((*tag, i64::MIN)..=(*tag, i64::MAX)).next_back().unwrap().0, &key);
        assert_eq!(rows[&key].0, last.value, "tag {n}");
    }
    assert_eq!(damage(&engine), [""; 0]);
}
