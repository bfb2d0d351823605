//! An engine and its model, driven side by side: [`Harness`].
//!
//! # Contract
//! * Every change goes to the engine first and, by its answer, to the model: durable now, certainly not, or in doubt.
//! * Changes in doubt stay in their order. What the engine shows must be the model with the first n of them applied:
//!   one log knows no gaps. A reopen decides which n; what a query has shown, or an ack has promised, must be among them.
//! * A wrong answer panics with what was expected and what was found.
//!
//! What it does at random is in [`crate::steps`].

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tagmill_storage::disk::Disk;
use tagmill_storage::disk::real::RealDisk;
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{
    Clock, Engine, Error, Options, Outcome, Result, SECOND_NS, ScanRequest, Seq, Snapshot,
    TagDefinition, TagId, limits,
};

use crate::clock::TestClock;
use crate::model::{Cell, Change, Key, Model, Rows, difference, digest, pairs};
use crate::observe;
use crate::steps::Step;
use crate::workload::{GATEWAYS, Timeline};

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Place {
    /// On a simulated disk.
    Sim(SimDisk),
    /// In a directory.
    Real(PathBuf),
}

/// A gateway of the workload.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Its name.
    pub name: Arc<str>,
    /// Its epoch.
    pub epoch: u64,
    /// Its session, while there is one.
    pub session: Option<u64>,
}

/// An engine and its model.
#[derive(Debug)]
pub struct Harness {
    /// Decides everything.
    pub random: Random,
    /// Where the files are.
    pub place: Place,
    /// The engine's clock.
    pub clock: Arc<TestClock>,
    /// How the engine is opened.
    pub options: Options,
    /// The engine, while it is open.
    pub engine: Option<Arc<Engine>>,
    /// What is certainly durable.
    pub settled: Model,
    /// What may be durable, in order, with the seq where one was given.
    pub doubtful: VecDeque<(Change, Option<Seq>)>,
    /// Tags that are reserved but not known to be durable.
    pub reserved: BTreeMap<TagId, TagDefinition>,
    /// Where new samples lie.
    pub timeline: Timeline,
    /// The gateways.
    pub senders: Vec<Sender>,
    /// Tags named so far.
    pub names: usize,
    /// Whether the disk fails by plan.
    pub is_faulty: bool,
    /// Names that were taken once and are free again.
    pub freed_names: Vec<String>,
    /// Most samples of one part of a batch.
    pub samples_max: usize,
    /// Seq and digest of the rows after each change, for those who watch.
    pub history: Vec<(Seq, u64)>,
    /// Whether the history is kept.
    pub keeps_history: bool,
    /// Steps that are not taken: a run that does less of one thing does more of another.
    pub muted: Vec<Step>,
    /// Whether every change and its answer are printed.
    traces: bool,
    held: Vec<(Snapshot, Vec<(Key, Cell)>)>,
    /// Newest seq that a query has shown.
    shown: Seq,
}

/// What a durable or written change was answered with.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Seq of its record, where it was told.
    pub seq: Option<Seq>,
    /// Whether it is on disk.
    pub is_durable: bool,
}

impl Harness {
    /// A new database at `place`, not opened yet, with limits so small that rare paths are taken in every run.
    pub fn new(seed: u64, place: Place) -> Self {
        let mut random = Random::new(seed ^ 0x7461_676D_696C_6C00);
        let timeline = Timeline::draw(&mut random);
        let wide = random.once_in(3);
        let now_ns = if wide {
            limits::TIME_MAX_NS - 3_600 * SECOND_NS
        } else {
            timeline.at_ns.saturating_add(timeline.step_ns.saturating_mul(2_000))
        };
        let options = Options {
            create: true,
            head_bytes: [64 << 10, 256 << 10, 4 << 20][random.index(3)],
            wal_bytes: [64 << 10, 128 << 10, 4 << 20][random.index(3)],
            seal_age: Duration::from_millis([5, 200, 3_600_000][random.index(3)]),
            background_compaction: random.once_in(2),
            final_after: Duration::from_millis([0, 30, 3_600_000][random.index(3)]),
            maintenance_bytes_per_s: 1 << 30,
            busy_wait: Duration::from_secs(2),
            ..Options::default()
        };
        let samples_max = if options.head_bytes > 1 << 20 && random.once_in(4) {
            // Thousands of samples hours apart are thousands of days, and as many files.
            if timeline.step_ns > 60 * SECOND_NS { 300 } else { 9_000 }
        } else {
            [3, 40, 300][random.index(3)]
        };
        let sender = |name: &str| Sender { name: name.into(), epoch: 1, session: None };
        Self {
            random,
            place,
            clock: Arc::new(TestClock::new(now_ns)),
            options,
            engine: None,
            settled: Model::default(),
            doubtful: VecDeque::new(),
            reserved: BTreeMap::new(),
            timeline,
            senders: GATEWAYS.map(sender).to_vec(),
            names: 0,
            is_faulty: false,
            freed_names: Vec::new(),
            samples_max,
            history: Vec::new(),
            keeps_history: false,
            muted: Vec::new(),
            traces: std::env::var_os("TAGMILL_TRACE").is_some(),
            held: Vec::new(),
            shown: Seq(0),
        }
    }

    /// The same moment on a disk of its own, without an engine: many fates of one moment can be tried.
    ///
    /// # Panics
    /// On a real disk.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            place: Place::Sim(self.disk().fork(random.bits())),
            random,
            clock: Arc::new(TestClock::new(self.clock.wall_ns())),
            options: self.options.clone(),
            engine: None,
            settled: self.settled.clone(),
            doubtful: self.doubtful.clone(),
            reserved: self.reserved.clone(),
            timeline: self.timeline.clone(),
            senders: self.senders.clone(),
            names: self.names,
            is_faulty: self.is_faulty,
            freed_names: self.freed_names.clone(),
            samples_max: self.samples_max,
            history: Vec::new(),
            keeps_history: false,
            muted: self.muted.clone(),
            traces: self.traces,
            held: Vec::new(),
            shown: self.shown,
        }
    }

    /// The simulated disk.
    ///
    /// # Panics
    /// On a real disk.
    pub fn disk(&self) -> &SimDisk {
        match &self.place {
            Place::Sim(disk) => disk,
            Place::Real(_) => panic!("only simulated disks do as they are told"),
        }
    }

    /// The engine.
    ///
    /// # Panics
    /// If it is not open.
    pub fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().expect("the engine is open")
    }

    /// Opens the engine, and only that.
    ///
    /// # Errors
    /// What the engine says.
    pub fn try_open(&mut self) -> Result<()> {
        let disk: Arc<dyn Disk> = match &self.place {
            Place::Sim(disk) => Arc::new(disk.clone()),
            Place::Real(path) => Arc::new(RealDisk::open(path, true).expect("a directory")),
        };
        let clock = Arc::clone(&self.clock);
        let opened = Engine::open_on(disk, clock, self.options.clone());
        self.trace(|| match &self.place {
            Place::Sim(disk) => format!("open -> {:?} {:?}", opened.as_ref().err(), disk.files()),
            Place::Real(_) => format!("open -> {:?}", opened.as_ref().err()),
        });
        self.engine = Some(Arc::new(opened?));
        Ok(())
    }

    /// Opens the engine and finds out what it kept.
    ///
    /// # Panics
    /// If it does not open, or keeps anything else than it must.
    pub fn open(&mut self) {
        self.try_open().expect("a database opens from any state a crash leaves");
        let rows = observe::rows(&self.engine().snapshot()).expect("every row can be read");
        self.decide(&rows);
    }

    /// Which of the changes in doubt are there? Those are settled, the others never happened.
    fn decide(&mut self, rows: &Rows) {
        let snapshot = self.engine().snapshot();
        let shown = self.shown;
        let promised = self.doubtful.iter().rposition(|(_, seq)| seq.is_some_and(|s| s <= shown));
        let promised = promised.map_or(0, |last| last + 1);
        let mut first_difference = None;
        for taken in 0..=self.doubtful.len() {
            if taken > 0 {
                let (change, _) = self.doubtful[taken - 1].clone();
                self.settled.apply(&change);
            }
            let difference = observe::compare(&self.settled, &snapshot, rows)
                .or_else(|| observe::compare_gateways(&self.settled, self.engine()));
            match difference {
                None if taken >= promised => {
                    self.doubtful.clear();
                    self.forget_what_was_lost();
                    return;
                }
                None => first_difference = Some("a change that a query showed is lost".into()),
                Some(difference) if taken >= promised => {
                    first_difference.get_or_insert(format!("with {taken} in doubt: {difference}"));
                }
                Some(_) => {}
            }
        }
        let doubts = &self.doubtful;
        panic!("{}\nin doubt were {doubts:?}", first_difference.unwrap_or_default());
    }

    fn forget_what_was_lost(&mut self) {
        self.reserved.clear();
        self.shown = self.engine().snapshot().seq();
        for sender in &mut self.senders {
            sender.session = None;
            sender.epoch = self.settled.marks.get(&sender.name).map_or(sender.epoch, |m| m.0);
        }
        if self.keeps_history {
            self.history.push((self.shown, digest(&self.settled.rows)));
        }
    }

    /// Closes the engine; all it has taken must then be durable.
    ///
    /// # Panics
    /// If that is not known though the disk is well.
    pub fn close(&mut self) {
        self.check_held();
        self.held.clear();
        let engine = self.engine.take().expect("the engine is open");
        let engine = Arc::try_unwrap(engine).expect("nobody else uses the engine");
        self.trace(|| "close".to_owned());
        match engine.close() {
            Ok(()) => self.settle_doubts(),
            Err(error) => {
                assert_eq!(error.outcome(), Outcome::Unknown, "close: {error}");
                assert!(self.may_fail(), "close: {error}: a healthy disk, and {:?}", self.place);
            }
        }
    }

    /// Closes the engine and opens it again, if a disk that may fail lets it. What cannot be said then stays in doubt.
    pub fn reopen(&mut self) {
        self.close();
        self.open_if_possible();
    }

    /// Opens the engine, if a disk that may fail lets it, and finds out what it kept.
    ///
    /// # Panics
    /// As [`Self::open`], on a healthy disk.
    pub fn open_if_possible(&mut self) {
        if let Err(error) = self.try_open() {
            assert!(self.may_fail(), "open: {error}");
            return;
        }
        match observe::rows(&self.engine().snapshot()) {
            Ok(rows) => self.decide(&rows),
            Err(error) => {
                assert!(self.may_fail(), "read: {error}");
                self.engine = None;
            }
        }
    }

    /// The power goes; the disk comes back as it then is. The engine is gone.
    ///
    /// # Panics
    /// On a real disk.
    pub fn crash(&mut self) {
        self.trace(|| "crash".to_owned());
        let disk = self.disk();
        disk.crash();
        let next = disk.restart();
        self.lose_engine(next);
    }

    /// The process dies, the machine runs on.
    ///
    /// # Panics
    /// On a real disk.
    pub fn kill(&mut self) {
        self.trace(|| "kill".to_owned());
        let disk = self.disk();
        disk.kill();
        let next = disk.restart();
        self.lose_engine(next);
    }

    fn lose_engine(&mut self, disk: SimDisk) {
        self.held.clear();
        self.engine = None;
        self.place = Place::Sim(disk);
    }

    /// Whether the simulated disk is down.
    pub fn is_down(&self) -> bool {
        matches!(&self.place, Place::Sim(disk) if disk.is_down())
    }

    /// Takes note of what became of a change.
    ///
    /// # Panics
    /// If the engine refuses what it must take while its disk is well.
    pub fn note(&mut self, change: Change, answer: Result<Answer>) {
        self.trace(|| format!("{change:?} -> {answer:?}"));
        match answer {
            Ok(answer) if answer.is_durable => {
                self.settle_shown();
                self.settled.apply(&change);
                self.remember(answer.seq);
            }
            Ok(answer) => self.doubtful.push_back((change, answer.seq)),
            Err(Error::Busy { .. }) => {}
            Err(error) => {
                if error.outcome() == Outcome::Unknown {
                    self.doubtful.push_back((change, None));
                }
                assert!(self.may_fail(), "{error}: a healthy disk, and {:?}", self.place);
            }
        }
        if let Some(engine) = &self.engine {
            self.shown = self.shown.max(engine.snapshot().seq());
        }
    }

    /// Prints what happens, if `TAGMILL_TRACE` is set.
    pub fn trace(&self, what: impl FnOnce() -> String) {
        if self.traces {
            eprintln!("{}", what());
        }
    }

    /// Whether an engine may answer with errors: its disk is down, or fails by plan.
    pub fn may_fail(&self) -> bool {
        self.is_faulty || self.is_down()
    }

    /// All that is in doubt is durable after all: a later record, or a sync, was.
    pub fn settle_doubts(&mut self) {
        for (change, seq) in std::mem::take(&mut self.doubtful) {
            self.settled.apply(&change);
            self.remember(seq);
        }
    }

    /// What the engine shows is durable. That is all in doubt, unless the last change found nothing to write.
    fn settle_shown(&mut self) {
        let newest = self.engine().snapshot().seq();
        let is_shown = |seq: &Option<Seq>| seq.is_some_and(|seq| seq <= newest);
        let shown = self.doubtful.iter().rposition(|(_, seq)| is_shown(seq));
        for (change, seq) in
            self.doubtful.drain(..shown.map_or(0, |last| last + 1)).collect::<Vec<_>>()
        {
            self.settled.apply(&change);
            self.remember(seq);
        }
    }

    fn remember(&mut self, seq: Option<Seq>) {
        if let (true, Some(engine)) = (self.keeps_history, &self.engine) {
            let seq = seq.unwrap_or_else(|| engine.snapshot().seq());
            self.history.push((seq, digest(&self.settled.rows)));
        }
    }

    /// Everything the engine shows against the model.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&mut self) {
        let snapshot = self.engine().snapshot();
        let Some(rows) = self.read(&snapshot, &observe::everything()) else { return };
        let rows = rows.into_iter().collect();
        self.shown = self.shown.max(snapshot.seq());
        let is_shown = |seq: &Option<Seq>| seq.is_some_and(|seq| seq <= snapshot.seq());
        let shown = self.doubtful.iter().take_while(|(_, seq)| is_shown(seq)).count();
        let difference = if shown == 0 {
            observe::compare(&self.settled, &snapshot, &rows)
        } else {
            let mut model = self.settled.clone();
            self.doubtful.iter().take(shown).for_each(|(change, _)| model.apply(change));
            observe::compare(&model, &snapshot, &rows)
        };
        if let Some(difference) = difference {
            panic!("{difference} (at seq {}, {shown} in doubt shown)", snapshot.seq());
        }
        if self.doubtful.is_empty() {
            let difference = observe::compare_gateways(&self.settled, self.engine());
            assert_eq!(difference, None);
        }
    }

    /// Reads from a snapshot; `None` if the disk went down meanwhile.
    ///
    /// # Panics
    /// If a healthy disk cannot be read.
    pub fn read(&self, snapshot: &Snapshot, request: &ScanRequest) -> Option<Vec<(Key, Cell)>> {
        match observe::read(snapshot, request) {
            Ok(rows) => Some(rows),
            Err(error) => {
                assert!(self.may_fail(), "{request:?}: {error}");
                None
            }
        }
    }

    /// Pins a snapshot, to be read again later.
    pub fn hold(&mut self) {
        let snapshot = self.engine().snapshot();
        let Some(rows) = self.read(&snapshot, &observe::everything()) else { return };
        self.held.push((snapshot, rows));
        if self.held.len() > 3 {
            self.held.remove(0);
        }
    }

    /// Pinned snapshots show what they showed.
    ///
    /// # Panics
    /// If one does not.
    pub fn check_held(&self) {
        for (snapshot, before) in &self.held {
            let Some(now) = self.read(snapshot, &observe::everything()) else { return };
            assert_eq!(now.len(), before.len(), "a pinned snapshot changed");
            let wrong = difference(pairs(before), pairs(&now));
            assert_eq!(wrong, None, "a pinned snapshot changed");
        }
    }
}
