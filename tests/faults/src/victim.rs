//! The process that faults are done to: it opens a real directory, lives through a part of a script, and writes down in
//! its ledger what the engine answers.
//!
//! # Contract
//! * It never decides whether an answer was right: [`crate::checker`] does. It panics only where the engine breaks a
//!   promise that leaves no trace in the ledger.
//! * Appends are in flight several at a time, from several gateways, submitted by one thread: the log has them in the
//!   order in which they were begun.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::model::digest;
use tagmill_engine_tests::workload::GATEWAYS;
use tagmill_storage::disk::Disk;
use tagmill_storage::disk::real::RealDisk;
use tagmill_storage::{
    Appended, Batch, Engine, Error, Origin, Outcome, Result, TagDefinition, TagId,
};

use crate::careless::CarelessDisk;
use crate::ledger::{Event, Ledger};
use crate::rows;
use crate::script::{Script, Step};

/// Most appends in flight.
const WINDOW: usize = 6;
/// Refusals in a row after which the victim gives up: the disk is not coming back.
const REFUSALS_MAX: usize = 12;
/// Times it opens the database again after a write of unknown outcome.
const REOPENINGS_MAX: usize = 2;
/// Epoch of every gateway.
pub(crate) const EPOCH: u64 = 1;

/// What a victim is told.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// The database directory.
    pub(crate) data: PathBuf,
    /// Seed of its script.
    pub(crate) seed: u64,
    /// First step to do.
    pub(crate) first: usize,
    /// Number of steps.
    pub(crate) steps: usize,
    /// Whether every sync is swallowed: the harness must notice.
    pub(crate) is_careless: bool,
}

/// Lives.
pub(crate) fn run(orders: &Orders) {
    let ledger = Arc::new(Ledger::inherited().expect("there is a ledger"));
    let script = Script::new(orders.seed);
    let mut victim = Victim::new(orders.clone(), script, ledger);
    if victim.open() {
        victim.live();
    }
    victim.ledger.say(&Event::Ended);
}

/// What became of a step.
type Answer = (usize, Option<usize>, Result<Appended>);

struct Victim {
    orders: Orders,
    script: Script,
    ledger: Arc<Ledger>,
    engine: Option<Engine>,
    /// The engine's id of each of the script's tags.
    ids: Vec<TagId>,
    /// Session and next seq of each gateway.
    sessions: Vec<(u64, u64)>,
    in_flight: usize,
    answers: (Sender<Answer>, Receiver<Answer>),
    refusals: usize,
    reopenings: usize,
    is_unknown: bool,
}

impl Victim {
    fn new(orders: Orders, script: Script, ledger: Arc<Ledger>) -> Self {
        Self {
            orders,
            script,
            ledger,
            engine: None,
            ids: Vec::new(),
            sessions: Vec::new(),
            in_flight: 0,
            answers: channel(),
            refusals: 0,
            reopenings: 0,
            is_unknown: false,
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine is open")
    }

    fn try_open(&self) -> Result<Engine> {
        let data = &self.orders.data;
        let disk = RealDisk::open(data, true).map_err(|error| {
            let source = tagmill_storage::SharedIo(Arc::new(error));
            Error::Io { op: "open", path: data.clone(), source }
        })?;
        let disk: Arc<dyn Disk> = if self.orders.is_careless {
            Arc::new(CarelessDisk::over(disk))
        } else {
            Arc::new(disk)
        };
        let clock = Arc::new(TestClock::new(self.script.now_ns));
        Engine::open_on(disk, clock, self.script.options.clone())
    }

    /// Opens the database; false if that fails.
    fn open(&mut self) -> bool {
        match self.try_open() {
            Ok(engine) => self.engine = Some(engine),
            Err(error) => {
                self.ledger.say(&Event::OpenFailed(error.to_string()));
                return false;
            }
        }
        let reserved = self.engine().reserve(&self.script.definitions);
        self.ids = reserved.into_iter().map(|id| id.expect("reserving needs no disk")).collect();
        self.is_unknown = false;
        self.look(Event::Opened);
        self.sessions.clear();
        for gateway in GATEWAYS {
            match self.engine().open_session(gateway, EPOCH) {
                Ok(session) => self.sessions.push((session.generation, session.mark + 1)),
                Err(error) => {
                    self.ledger.say(&Event::Refused(error.to_string()));
                    return false;
                }
            }
        }
        true
    }

    /// Reads everything and says what it saw.
    fn look(&self, event: fn(u64) -> Event) {
        let event = match rows::of(&self.engine().snapshot(), &self.script.definitions) {
            Ok(rows) => event(digest(&rows)),
            Err(error) => Event::ReadFailed(error),
        };
        self.ledger.say(&event);
    }

    fn live(&mut self) {
        for number in self.orders.first..self.orders.first + self.orders.steps {
            let step = self.script.step(number);
            self.script.forget_before(number);
            if !matches!(step, Step::Append { .. }) {
                self.drain();
            }
            if self.is_unknown && !self.recover(number) {
                return;
            }
            match step {
                Step::Append { batch, gateway } => self.append(number, batch, gateway),
                Step::Delete { tags, range } => {
                    let tags: Vec<TagId> = tags.iter().map(|tag| self.id(*tag)).collect();
                    let delete =
                        |engine: &Engine| engine.delete(&tags, range, "a victim").map(drop);
                    self.change(Event::Durable(number), number, delete);
                }
                Step::Define(tags) => {
                    let tags: Vec<TagDefinition> = tags.into_iter().map(|(_, tag)| tag).collect();
                    let define = |engine: &Engine| engine.define(&tags).map(drop);
                    self.change(Event::Defined(number), number, define);
                }
                Step::Seal => self.ask(|engine| engine.seal().map(drop)),
                Step::Sync => self.ask(|engine| engine.sync().map(drop)),
                Step::Look => self.look(Event::Shown),
                Step::Reopen => {
                    if !self.reopen() {
                        return;
                    }
                }
            }
            if self.refusals >= REFUSALS_MAX {
                break;
            }
        }
        self.drain();
        if self.is_unknown && !self.recover(self.orders.first + self.orders.steps) {
            return;
        }
        self.look(Event::Shown);
        self.close();
    }

    fn id(&self, tag: TagId) -> TagId {
        self.ids.get(tag.index()).copied().unwrap_or(TagId(u32::MAX))
    }

    /// The batch under the engine's ids.
    fn translated(&self, mut batch: Batch) -> Batch {
        for column in &mut batch.columns {
            column.tag = self.id(column.tag);
        }
        for scan in &mut batch.scans {
            scan.tags = scan.tags.iter().map(|tag| self.id(*tag)).collect();
        }
        batch
    }

    fn append(&mut self, number: usize, batch: Batch, gateway: Option<usize>) {
        let mut batch = self.translated(batch);
        let mut seq = 0;
        if let Some(gateway) = gateway {
            let (session, next) = &mut self.sessions[gateway];
            seq = *next;
            *next += 1;
            let gateway = Arc::from(GATEWAYS[gateway]);
            batch.origin = Some(Origin { gateway, epoch: EPOCH, seq, session: *session });
        }
        self.ledger.say(&Event::Begun { step: number, seq });
        let (ledger, answers) = (Arc::clone(&self.ledger), self.answers.0.clone());
        self.in_flight += 1;
        self.engine().submit(
            batch,
            Box::new(move |result| {
                ledger.say(&appended(number, gateway.is_some(), &result));
                // The victim may have given up waiting.
                answers.send((number, gateway, result)).ok();
            }),
        );
        while self.in_flight >= WINDOW {
            self.take_answer();
        }
    }

    fn drain(&mut self) {
        while self.in_flight > 0 {
            self.take_answer();
        }
    }

    fn take_answer(&mut self) {
        let (_, gateway, result) = self.answers.1.recv().expect("we hold a sender");
        self.in_flight -= 1;
        let Err(error) = result else {
            self.refusals = 0;
            return;
        };
        self.note(&error);
        // The next batch of this gateway follows the last one that was taken.
        if let Some(gateway) = gateway
            && error.outcome() == Outcome::NotWritten
        {
            self.drain();
            if self.is_unknown {
                return;
            }
            if let Ok(session) = self.engine().open_session(GATEWAYS[gateway], EPOCH) {
                self.sessions[gateway] = (session.generation, session.mark + 1);
            }
        }
    }

    fn note(&mut self, error: &Error) {
        self.refusals += 1;
        self.is_unknown |= error.outcome() == Outcome::Unknown;
    }

    /// A change that is waited for.
    fn change(&mut self, done: Event, number: usize, what: impl FnOnce(&Engine) -> Result<()>) {
        self.ledger.say(&Event::Begun { step: number, seq: 0 });
        let result = what(self.engine());
        self.ledger.say(&match &result {
            Ok(()) => done,
            Err(error) => refused(number, error),
        });
        match result {
            Ok(()) => self.refusals = 0,
            Err(error) => self.note(&error),
        }
    }

    /// Something that writes no record of its own; success means that all before it is durable.
    fn ask(&mut self, what: impl FnOnce(&Engine) -> Result<()>) {
        match what(self.engine()) {
            Ok(()) => self.ledger.say(&Event::Synced),
            Err(error) => {
                self.ledger.say(&Event::Refused(error.to_string()));
                self.is_unknown |= error.outcome() == Outcome::Unknown;
            }
        }
    }

    /// After a write of unknown outcome: reads go on, writes are refused, and opening again decides.
    fn recover(&mut self, number: usize) -> bool {
        self.drain();
        self.look(Event::Shown);
        if let Step::Append { batch, .. } = self.script.step(number) {
            // Not begun in the ledger: nothing of it may ever be seen.
            let tried = self.engine().append(self.translated(batch));
            assert!(!matches!(&tried, Ok(a) if a.accepted > 0), "a poisoned log took a batch");
        }
        self.reopenings += 1;
        self.reopenings <= REOPENINGS_MAX && self.reopen()
    }

    fn reopen(&mut self) -> bool {
        self.drain();
        self.close();
        self.open()
    }

    fn close(&mut self) {
        let Some(engine) = self.engine.take() else { return };
        match engine.close() {
            Ok(()) => self.ledger.say(&Event::Closed),
            Err(error) => self.ledger.say(&Event::Refused(format!("close: {error}"))),
        }
    }
}

fn appended(number: usize, has_origin: bool, result: &Result<Appended>) -> Event {
    match result {
        // Without samples and origin there is no record, and the answer says nothing of those before it.
        Ok(appended) if appended.accepted == 0 && !has_origin => Event::NotWritten(number),
        Ok(appended) if appended.durable => Event::Durable(number),
        Ok(_) => Event::Written(number),
        Err(error) => refused(number, error),
    }
}

fn refused(number: usize, error: &Error) -> Event {
    match error.outcome() {
        Outcome::NotWritten => Event::NotWritten(number),
        Outcome::Unknown => Event::Unknown(number),
    }
}
