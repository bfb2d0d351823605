//! Samples of single tags as the table functions walk them: one after the other, the last before an instant, the first
//! after one.
//!
//! This is the only place of the table functions that reads the engine. Every read sees the statement's snapshot.

use datafusion::common::Result;
use tagmill_storage::{
    Neighbours, OnDamage, Quality, Rule, Scan, ScanBatch, ScanRequest, Snapshot, Tag, TagId,
    TagSelection, TimeRange, Value, ValueType,
};

use crate::error::into_datafusion;
use crate::pieces::{Next, Point};
use crate::source::{check_announced, check_skipped};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) time_ns: i64,
    pub(crate) value: Value,
    pub(crate) quality: Quality,
}

/// How a tag's samples are understood: by its attributes, but that no line leads from one text or state to another.
pub(crate) fn rule_of(tag: &Tag) -> Rule {
    let rule = Rule::of(tag);
    let holds = matches!(tag.value_type, ValueType::Text | ValueType::State);
    Rule { stepped: rule.stepped || holds, ..rule }
}

impl Reading {
    /// Whether it counts, by the rule of its tag.
    pub(crate) fn is_usable(&self, rule: &Rule) -> bool {
        rule.is_usable(self.value.value_type(), self.value.to_word(), self.quality)
    }

    /// Its value as a number; NaN stands for text.
    pub(crate) fn number(&self) -> f64 {
        number_of(&self.value)
    }

    /// What the column `value` shows of it.
    pub(crate) fn shown(&self) -> Option<f64> {
        Some(self.number()).filter(|number| number.is_finite() && !self.quality.is_bad())
    }

    /// It as a point to draw from.
    pub(crate) fn point(&self) -> Point {
        Point { time_ns: self.time_ns, value: self.number() }
    }

    /// It as the sample that follows another.
    pub(crate) fn next(&self, rule: &Rule) -> Next {
        let value = self.is_usable(rule).then(|| self.number());
        Next { time_ns: self.time_ns, value }
    }
}

/// A value as a number; NaN stands for text.
pub(crate) fn number_of(value: &Value) -> f64 {
    match value {
        Value::F64(value) => *value,
        Value::F32(value) => f64::from(*value),
        Value::I64(value) => *value as f64,
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::State(code) => f64::from(*code),
        Value::Text(_) => f64::NAN,
    }
}

/// What came before an instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Carry {
    /// The last usable sample.
    pub(crate) usable: Option<Reading>,
    /// The last sample of any quality.
    pub(crate) last: Option<Reading>,
}

impl Carry {
    /// Takes the next sample.
    pub(crate) fn push(&mut self, reading: Reading, rule: &Rule) {
        if reading.is_usable(rule) {
            self.usable = Some(reading.clone());
        }
        self.last = Some(reading);
    }

    /// Whether an unusable sample came after the last usable one, or there is none.
    pub(crate) fn is_broken(&self) -> bool {
        let time = |reading: &Option<Reading>| reading.as_ref().map(|reading| reading.time_ns);
        time(&self.usable) != time(&self.last)
    }

    /// The last usable sample to draw from.
    pub(crate) fn point(&self) -> Option<Point> {
        self.usable.as_ref().map(Reading::point)
    }
}

/// Reads samples of one snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) snapshot: Snapshot,
    pub(crate) damage: OnDamage,
}

impl Reader {
    /// Walks samples: tags ascending, times ascending within one. Refused where they have ended and rollups are left.
    pub(crate) fn walk(&self, tags: &[TagId], range: TimeRange) -> Result<Walk<'_>> {
        let request = self.request(tags, range);
        self.snapshot.require_samples(&request.tags, range).map_err(failed)?;
        Ok(Walk { reader: self, scan: self.snapshot.scan(request) })
    }

    /// What came before `at_ns`. Unusable samples are stepped over for as long as there are any.
    pub(crate) fn before(&self, tag: TagId, at_ns: i64, rule: &Rule) -> Result<Carry> {
        let mut neighbours = self.snapshot.neighbours(self.damage);
        let before = neighbours.before(tag, at_ns, rule).map_err(failed)?;
        self.check(&neighbours)?;
        let usable = match before.usable {
            Some(found) => self.at(tag, found.time_ns, (found.word, Quality::GOOD))?,
            None => None,
        };
        let last = match before.last_ns {
            Some(last_ns) if before.usable.map(|usable| usable.time_ns) != Some(last_ns) => {
                self.at(tag, last_ns, (0, Quality::BAD))?
            }
            _ => usable.clone(),
        };
        Ok(Carry { usable, last })
    }

    /// The first sample at or after `at_ns`; with `usable_by` the first that counts.
    pub(crate) fn after(
        &self,
        tag: TagId,
        at_ns: i64,
        usable_by: Option<&Rule>,
    ) -> Result<Option<Reading>> {
        let Some(rule) = usable_by else {
            let mut neighbours = self.snapshot.neighbours(self.damage);
            let next = neighbours.after(tag, at_ns).map_err(failed)?;
            self.check(&neighbours)?;
            let at = next.map(|next| self.at(tag, next.time_ns, (next.word, next.quality)));
            return at.transpose().map(Option::flatten);
        };
        let mut walk = self.walk(&[tag], TimeRange::new(at_ns, TimeRange::ALL.end_ns))?;
        while let Some(batch) = walk.next_batch()? {
            if let Some(found) = readings(&batch).find(|reading| reading.is_usable(rule)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The sample of this time; if it has ended, what a rollup says of it.
    fn at(
        &self,
        tag: TagId,
        time_ns: i64,
        (word, quality): (u64, Quality),
    ) -> Result<Option<Reading>> {
        let range = TimeRange::new(time_ns, time_ns.saturating_add(1));
        let scan = self.snapshot.scan(self.request(&[tag], range));
        let found = Walk { reader: self, scan }.next_batch()?;
        if let Some(found) = found.and_then(|batch| readings(&batch).next()) {
            return Ok(Some(found));
        }
        let known = self.snapshot.registry().get(tag).map(|known| known.value_type);
        let value_type = known.filter(|value_type| *value_type != ValueType::Text);
        let value = value_type.map(|value_type| Value::from_word(value_type, word));
        Ok(value.map(|value| Reading { time_ns, value, quality }))
    }

    fn check(&self, neighbours: &Neighbours) -> Result<()> {
        match self.damage {
            OnDamage::Fail => Ok(()),
            OnDamage::Skip => check_announced(&self.snapshot, &neighbours.skipped()),
        }
    }

    /// At most so many samples a tag has in a range.
    pub(crate) fn estimate(&self, tag: TagId, range: TimeRange) -> u64 {
        self.snapshot.estimate_rows(&self.request(&[tag], range))
    }

    fn request(&self, tags: &[TagId], range: TimeRange) -> ScanRequest {
        let request = ScanRequest::new(TagSelection::Only(tags.into()), range);
        ScanRequest { damage: self.damage, ..request }
    }
}

fn failed(error: tagmill_storage::Error) -> datafusion::error::DataFusionError {
    into_datafusion(error.into())
}

/// Samples in order, batch by batch.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    reader: &'a Reader,
    scan: Scan,
}

impl Walk<'_> {
    /// The next samples, all of one tag.
    pub(crate) fn next_batch(&mut self) -> Result<Option<ScanBatch>> {
        let next = self.scan.next().transpose();
        let next = next.map_err(failed)?;
        check_skipped(&self.reader.snapshot, &self.scan)?;
        Ok(next)
    }
}

/// The samples of a batch.
pub(crate) fn readings(batch: &ScanBatch) -> impl Iterator<Item = Reading> {
    let values = (0..batch.times.len()).filter_map(move |row| batch.values.get(row));
    batch.times.iter().zip(values).enumerate().map(move |(row, (&time_ns, value))| Reading {
        time_ns,
        value,
        quality: batch.qualities.at(row),
    })
}
