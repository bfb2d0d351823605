//! Samples on their way become numbered batches, handed to a sink.
//!
//! Contract: batches are cut by what the file holds, never by what the database says or how fast it is, so that a
//! second run cuts the same ones. Memory is one batch, and the instants of [`Tracker`].

use tagmill_storage::{Qualities, Quality, TagDefinition, Value, ValueType, Values, check_name};

use super::repeats::{Budget, Step, Tracker};
use super::report::Report;
use super::sink::{Column, Sink};
use crate::cli::attributes::TagFile;
use crate::cli::failure::Result;

/// Samples of a batch: with [`BATCH_BYTES`] it keeps a message of the wire below 4 MiB.
pub const BATCH_CELLS: usize = 128 << 10;
/// Bytes of a batch, each sample with its text and [`SAMPLE_BYTES`].
pub const BATCH_BYTES: usize = 3 << 20;
/// Bytes a sample weighs besides its text: time, value, quality.
const SAMPLE_BYTES: usize = 20;

/// A tag on its way.
#[derive(Debug)]
struct Slot {
    name: String,
    value_type: ValueType,
    refused: Option<String>,
    number: Option<u32>,
    times: Vec<i64>,
    values: Values,
    qualities: Vec<Quality>,
    tracker: Tracker,
    taken: u64,
}

/// Samples of tags, gathered into batches.
#[derive(Debug)]
pub struct Batches<'a> {
    types: &'a TagFile,
    sink: &'a mut dyn Sink,
    mark: u64,
    seq: u64,
    slots: Vec<Slot>,
    /// Slots with samples in the open batch.
    open: Vec<u32>,
    cells: usize,
    bytes: usize,
    budget: Budget,
    /// What became of everything so far.
    pub report: Report,
}

impl<'a> Batches<'a> {
    /// No batch yet; those up to `mark` are there already. `types` gives new tags their attributes.
    pub fn new(types: &'a TagFile, sink: &'a mut dyn Sink, mark: u64) -> Self {
        Self {
            types,
            sink,
            mark,
            seq: 0,
            slots: Vec::new(),
            open: Vec::new(),
            cells: 0,
            bytes: 0,
            budget: Budget::default(),
            report: Report::default(),
        }
    }

    /// The type of a tag that exists already.
    pub fn type_of(&self, name: &str) -> Option<ValueType> {
        self.sink.type_of(name)
    }

    /// Adds a tag; gives its number here.
    pub fn add_tag(&mut self, name: String, value_type: ValueType) -> u32 {
        self.slots.push(Slot::new(name, value_type));
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    /// The name of a tag.
    pub fn name(&self, tag: u32) -> &str {
        &self.slots[tag as usize].name
    }

    /// The type of a tag.
    pub fn value_type(&self, tag: u32) -> ValueType {
        self.slots[tag as usize].value_type
    }

    /// Makes room for one more cell, whatever becomes of it: closes the open batch if it is full.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn make_room(&mut self, text_bytes: usize) -> Result<()> {
        let weight = SAMPLE_BYTES + text_bytes;
        if self.cells == BATCH_CELLS || self.bytes + weight > BATCH_BYTES {
            self.flush()?;
        }
        self.cells += 1;
        self.bytes += weight;
        Ok(())
    }

    /// Counts a refused sample of a tag. If the tag is refused as a whole, that is the reason told.
    pub fn refuse(&mut self, tag: u32, reason: &str) {
        let slot = &self.slots[tag as usize];
        let reason = slot.refused.as_deref().unwrap_or(reason);
        self.report.refuse(reason, 1, || slot.name.clone());
    }

    /// Takes a sample, unless its tag is refused as a whole.
    pub fn push(&mut self, tag: u32, time: i64, value: Value, quality: Quality) {
        let slot = &mut self.slots[tag as usize];
        if let Some(reason) = &slot.refused {
            self.report.refuse(reason, 1, || slot.name.clone());
            return;
        }
        if slot.times.is_empty() {
            self.open.push(tag);
        }
        slot.push(time, value, quality);
        self.report.taken += 1;
        self.report.bad += u64::from(quality.is_bad());
        match slot.tracker.add(time, &mut self.budget) {
            Step::Forward => {}
            Step::Back => self.report.stepped_back += 1,
            Step::Repeat => self.report.merged += 1,
        }
        let (first, last) = self.report.span_ns.unwrap_or((time, time));
        self.report.span_ns = Some((first.min(time), last.max(time)));
    }

    /// Closes the open batch, and hands it over unless it is there already.
    fn flush(&mut self) -> Result<()> {
        if self.cells == 0 {
            return Ok(());
        }
        self.cells = 0;
        self.bytes = 0;
        self.seq += 1;
        let open = std::mem::take(&mut self.open);
        if self.seq <= self.mark {
            self.report.batches_before += 1;
            for number in open {
                self.slots[number as usize].clear();
            }
            return Ok(());
        }
        self.define(&open)?;
        let mut columns = Vec::with_capacity(open.len());
        for number in open {
            let slot = &mut self.slots[number as usize];
            match (slot.number, &slot.refused) {
                (Some(tag), None) => columns.push(slot.take(tag)),
                _ => slot.clear(),
            }
        }
        self.sink.send(self.seq, columns)
    }

    fn define(&mut self, open: &[u32]) -> Result<()> {
        let new: Vec<u32> = open
            .iter()
            .copied()
            .filter(|number| self.slots[*number as usize].number.is_none())
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let definition = |number: &u32| {
            let slot = &self.slots[*number as usize];
            TagDefinition {
                name: slot.name.clone(),
                value_type: slot.value_type,
                attributes: self.types.attributes_of(&slot.name),
            }
        };
        let definitions: Vec<TagDefinition> = new.iter().map(definition).collect();
        for (number, answer) in new.into_iter().zip(self.sink.define(&definitions)?) {
            let slot = &mut self.slots[number as usize];
            match answer {
                Ok(tag) => slot.number = Some(tag),
                Err(reason) => {
                    let count = slot.times.len() as u64;
                    self.report.refuse(&reason, count, || slot.name.clone());
                    self.report.taken -= count;
                    slot.taken -= count;
                    slot.refused = Some(reason);
                }
            }
        }
        Ok(())
    }

    /// Sends the rest, waits for it, and tells what became of everything.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn finish(mut self) -> Result<Report> {
        self.flush()?;
        for reject in self.sink.finish()? {
            let slot = self.slots.iter_mut().find(|slot| slot.number == Some(reject.tag));
            let name = slot.map_or(String::new(), |slot| {
                slot.taken = slot.taken.saturating_sub(reject.count);
                slot.name.clone()
            });
            self.report.refuse(&reject.reason, reject.count, || name);
            self.report.taken = self.report.taken.saturating_sub(reject.count);
        }
        self.report.batches = self.seq;
        self.report.is_merged_at_least = self.budget.is_spent();
        for slot in self.slots {
            if slot.taken > 0 {
                self.report.tags.entry(slot.value_type).or_default().insert(slot.name);
            }
        }
        Ok(self.report)
    }
}

impl Slot {
    fn new(name: String, value_type: ValueType) -> Self {
        let refused = check_name(&name).err().map(str::to_owned);
        Self {
            name,
            value_type,
            refused,
            number: None,
            times: Vec::new(),
            values: Values::empty(value_type),
            qualities: Vec::new(),
            tracker: Tracker::default(),
            taken: 0,
        }
    }

    fn push(&mut self, time: i64, value: Value, quality: Quality) {
        if !self.qualities.is_empty() {
            self.qualities.push(quality);
        } else if quality != Quality::GOOD {
            self.qualities.resize(self.times.len(), Quality::GOOD);
            self.qualities.push(quality);
        }
        self.times.push(time);
        self.values.push(value);
        self.taken += 1;
    }

    fn take(&mut self, tag: u32) -> Column {
        let qualities = std::mem::take(&mut self.qualities);
        Column {
            tag,
            times: std::mem::take(&mut self.times),
            values: std::mem::replace(&mut self.values, Values::empty(self.value_type)),
            qualities: if qualities.is_empty() {
                Qualities::GOOD
            } else {
                Qualities::Each(qualities)
            },
        }
    }

    fn clear(&mut self) {
        self.times.clear();
        self.qualities.clear();
        self.values = Values::empty(self.value_type);
    }
}
