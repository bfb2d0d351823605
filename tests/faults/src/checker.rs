//! Holds a ledger against the rules, and what a directory shows against the ledger: [`Checker`].
//!
//! # Contract
//! * What was called durable is there, bit for bit; what was certainly not written is not; what is in doubt may be there,
//!   but in order: the database is the changes up to one point, whole batches only, and nothing else.
//! * What a snapshot has shown counts as promised.
//! * It knows a victim only by its ledger and draws the steps again from the seed.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::model::{Change, Model, Rows, difference, digest, same};
use tagmill_engine_tests::workload::GATEWAYS;
use tagmill_storage::disk::real::RealDisk;
use tagmill_storage::{
    Batch, Engine, Origin, Qualities, Snapshot, TagColumn, TagDefinition, TagId, Values, limits,
};

use crate::ledger::Event;
use crate::rows;
use crate::script::{Script, Step};
use crate::victim::EPOCH;

/// What the fault may make fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leave {
    /// Writes may be refused and opening may fail.
    pub(crate) writes: bool,
    /// Reads may fail.
    pub(crate) reads: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InFlight,
    Durable,
    Doubtful,
}

#[derive(Clone, Debug)]
struct Entry {
    step: usize,
    change: Change,
    fate: Fate,
}

/// Counts for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Changes that were called durable.
    pub(crate) durable: u64,
    /// Changes that were refused.
    pub(crate) refused: u64,
    /// Changes whose outcome was unknown.
    pub(crate) unknown: u64,
    /// Rows compared at the end.
    pub(crate) rows: u64,
}

/// What is known of a database.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    script: Script,
    leave: Leave,
    settled: Model,
    entries: VecDeque<Entry>,
    is_poisoned: bool,
    /// Steps begun so far: where the next victim goes on.
    pub(crate) next_step: usize,
    /// What was seen.
    pub(crate) counts: Counts,
}

impl Checker {
    /// Of a database that does not exist yet.
    pub(crate) fn new(seed: u64, leave: Leave) -> Self {
        Self {
            script: Script::new(seed),
            leave,
            settled: Model::default(),
            entries: VecDeque::new(),
            is_poisoned: false,
            next_step: 0,
            counts: Counts::default(),
        }
    }

    /// Takes in what a victim said.
    ///
    /// # Errors
    /// The rule it broke.
    pub(crate) fn take(&mut self, events: &[Event]) -> Result<(), String> {
        for event in events {
            self.event(event).map_err(|why| format!("at \"{event}\": {why}"))?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Begun { step, seq } => self.begin(*step, *seq)?,
            Event::Durable(step) => {
                self.counts.durable += 1;
                if self.is_poisoned {
                    return Err("acknowledged although the log is poisoned".into());
                }
                self.entry(*step)?.fate = Fate::Durable;
                self.settle();
            }
            Event::Defined(step) => {
                let at = self.entries.iter().position(|entry| entry.step == *step);
                let entry = at.and_then(|at| self.entries.remove(at));
                self.settled.apply(&entry.ok_or("defined, but never begun")?.change);
            }
            Event::Written(step) => self.entry(*step)?.fate = Fate::Doubtful,
            Event::NotWritten(step) => {
                self.counts.refused += 1;
                let at = self.entries.iter().position(|entry| entry.step == *step);
                let at = at.ok_or("refused, but never begun, or settled by a later one")?;
                self.entries.remove(at);
            }
            Event::Unknown(step) => {
                self.counts.unknown += 1;
                self.is_poisoned = true;
                self.entry(*step)?.fate = Fate::Doubtful;
                if !self.leave.writes {
                    return Err("unknown outcome, and nothing was made to fail".into());
                }
            }
            Event::Opened(shown) => {
                self.decide(|model| (digest(&model.rows) != *shown).then(|| "other rows".into()))?;
                self.entries.clear();
                self.is_poisoned = false;
            }
            Event::Shown(shown) => {
                self.decide(|model| (digest(&model.rows) != *shown).then(|| "other rows".into()))?;
            }
            Event::Synced | Event::Closed => {
                if let Some(last) = self.entries.back_mut()
                    && !self.is_poisoned
                {
                    last.fate = Fate::Durable;
                }
                self.settle();
            }
            Event::ReadFailed(why) => {
                if !self.leave.reads {
                    return Err(format!("a read failed: {why}"));
                }
            }
            Event::OpenFailed(why) | Event::Refused(why) => {
                if !self.leave.writes && !self.leave.reads {
                    return Err(format!("refused, and nothing was made to fail: {why}"));
                }
            }
            Event::Ended => {}
        }
        Ok(())
    }

    fn entry(&mut self, step: usize) -> Result<&mut Entry, String> {
        let found = self.entries.iter_mut().find(|entry| entry.step == step);
        found.ok_or_else(|| "answered, but never begun, or answered twice".into())
    }

    fn begin(&mut self, step: usize, seq: u64) -> Result<(), String> {
        self.next_step = step + 1;
        let change = match self.script.step(step) {
            Step::Append { mut batch, gateway } => {
                batch.origin = gateway.map(|gateway| {
                    let gateway = Arc::from(GATEWAYS[gateway]);
                    Origin { gateway, epoch: EPOCH, seq, session: 0 }
                });
                let numbered = (0u32..).map(TagId).zip(self.script.definitions.iter().cloned());
                Change::Append { defines: numbered.collect(), batch, now_ns: self.script.now_ns }
            }
            Step::Delete { tags, range } => Change::Delete { tags, range },
            Step::Define(tags) => Change::Define(tags),
            _ => return Err("begun, but it changes nothing".into()),
        };
        self.script.forget_before(step);
        self.entries.push_back(Entry { step, change, fate: Fate::InFlight });
        Ok(())
    }

    /// One log knows no gaps: all before a durable change is durable.
    fn settle(&mut self) {
        let Some(last) = self.entries.iter().rposition(|entry| entry.fate == Fate::Durable) else {
            return;
        };
        if self.entries.iter().take(last).all(|entry| entry.fate != Fate::InFlight) {
            for entry in self.entries.drain(..=last) {
                self.settled.apply(&entry.change);
            }
        }
    }

    /// Finds how many of the changes in doubt are there; those are settled.
    fn decide(&mut self, mut differs: impl FnMut(&Model) -> Option<String>) -> Result<(), String> {
        let durable = self.entries.iter().rposition(|entry| entry.fate == Fate::Durable);
        let least = durable.map_or(0, |last| last + 1);
        let mut model = self.settled.clone();
        let mut why = None;
        for taken in 0..=self.entries.len() {
            if taken > 0 {
                model.apply(&self.entries[taken - 1].change);
            }
            if taken < least {
                continue;
            }
            let Some(difference) = differs(&model) else {
                self.settled = model;
                self.entries.drain(..taken);
                return Ok(());
            };
            why.get_or_insert(difference);
        }
        let doubts: Vec<usize> = self.entries.iter().map(|entry| entry.step).collect();
        let why = why.unwrap_or_default();
        Err(format!("with {least} of the changes {doubts:?} that are in doubt: {why}"))
    }

    /// Opens the directory, twice, and compares everything; writes a sample too.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check(&mut self, data: &Path) -> Result<(), String> {
        for round in 0..2 {
            let disk = RealDisk::open(data, true).map_err(|e| format!("directory: {e}"))?;
            let clock = Arc::new(TestClock::new(self.script.now_ns));
            let options = self.script.options.clone();
            let engine = Engine::open_on(Arc::new(disk), clock, options);
            let engine = engine.map_err(|error| format!("reopening {round}: {error}"))?;
            self.compare(&engine)?;
            let mut damage = Vec::new();
            engine.verify(&mut |error| damage.push(error.to_string()));
            if !damage.is_empty() {
                return Err(format!("verify: {damage:?}"));
            }
            if round == 0 {
                self.write_one(&engine)?;
            }
            engine.close().map_err(|error| format!("closing {round}: {error}"))?;
        }
        Ok(())
    }

    fn compare(&mut self, engine: &Engine) -> Result<(), String> {
        let definitions = self.script.definitions.clone();
        let snapshot = engine.snapshot();
        let found = rows::of(&snapshot, &definitions)?;
        self.counts.rows += found.len() as u64;
        self.decide(|model| {
            difference(&model.rows, &found)
                .or_else(|| latest_differs(model, &snapshot, &definitions, &found))
                .or_else(|| tags_differ(model, &snapshot, &definitions))
                .or_else(|| marks_differ(model, engine))
        })?;
        self.entries.clear();
        self.is_poisoned = false;
        Ok(())
    }

    /// Writing goes on: one sample of the first tag.
    fn write_one(&mut self, engine: &Engine) -> Result<(), String> {
        let definitions = self.script.definitions.clone();
        let refused = |error: tagmill_storage::Error| format!("writing after it: {error}");
        let ids = engine.define(&definitions[..1]).map_err(refused)?;
        self.settled.apply(&Change::Define(vec![(TagId(0), definitions[0].clone())]));
        let column = |tag| TagColumn {
            tag,
            times: vec![self.script.now_ns.min(limits::TIME_MAX_NS - 1)],
            values: {
                let mut values = Values::empty(definitions[0].value_type);
                values.push(tagmill_storage::Value::F64(0.25));
                values
            },
            qualities: Qualities::GOOD,
        };
        let batch = |tag| Batch { columns: vec![column(tag)], ..Batch::default() };
        let written = engine.append(batch(ids[0])).map_err(refused)?;
        if !written.durable || written.accepted != 1 {
            return Err(format!("writing after it: {written:?}"));
        }
        let defines = vec![(TagId(0), definitions[0].clone())];
        let now_ns = self.script.now_ns;
        self.settled.apply(&Change::Append { defines, batch: batch(TagId(0)), now_ns });
        Ok(())
    }
}

/// The engine's id of a tag of the script.
fn id_of(snapshot: &Snapshot, definitions: &[TagDefinition], tag: TagId) -> Option<TagId> {
    snapshot.registry().find(&definitions.get(tag.index())?.name)
}

fn latest_differs(
    model: &Model,
    snapshot: &Snapshot,
    definitions: &[TagDefinition],
    found: &Rows,
) -> Option<String> {
    let tags = model.tags.keys().chain(found.keys().map(|(tag, _)| tag));
    tags.into_iter().find_map(|tag| {
        let expected = model.latest(*tag);
        let latest = id_of(snapshot, definitions, *tag).and_then(|id| snapshot.latest(id));
        let equal = match (&expected, &latest) {
            (None, None) => true,
            (Some((time_ns, cell)), Some(latest)) => {
                *time_ns == latest.time_ns && same(cell, &(latest.value.clone(), latest.quality))
            }
            _ => false,
        };
        (!equal).then(|| format!("latest of tag {tag}: expected {expected:?}, found {latest:?}"))
    })
}

fn tags_differ(
    model: &Model,
    snapshot: &Snapshot,
    definitions: &[TagDefinition],
) -> Option<String> {
    let registry = snapshot.registry();
    model.tags.iter().find_map(|(tag, known)| {
        let found = id_of(snapshot, definitions, *tag).and_then(|id| registry.get(id));
        let is_equal = found.is_some_and(|found| {
            found.value_type == known.definition.value_type
                && found.attributes == known.definition.attributes
        });
        (!is_equal).then(|| format!("tag {:?}: found {found:?}", known.definition))
    })
}

fn marks_differ(model: &Model, engine: &Engine) -> Option<String> {
    let marks = engine.gateways();
    GATEWAYS.into_iter().find_map(|gateway| {
        let expected = model.marks.get(gateway).copied();
        let found = marks.iter().find(|mark| mark.gateway.as_ref() == gateway);
        let found = found.map(|mark| (mark.epoch, mark.seq)).filter(|mark| mark.1 > 0);
        (found != expected)
            .then(|| format!("mark of {gateway}: expected {expected:?}, found {found:?}"))
    })
}
