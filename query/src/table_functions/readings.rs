//! Samples of single tags as the table functions walk them: one after the other, the last before an instant, the first
//! after one.
//!
//! This is the only place of the table functions that reads the engine. Every read sees the statement's snapshot.

use datafusion::common::Result;
use tagmill_storage::{
    OnDamage, Quality, Scan, ScanBatch, ScanRequest, Snapshot, Tag, TagId, TagSelection, TimeRange,
    Value, ValueType,
};

use super::pieces::{Next, Point, Shape};
use crate::error::into_datafusion;
use crate::source::check_skipped;

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) time_ns: i64,
    pub(crate) value: Value,
    pub(crate) quality: Quality,
}

/// How a tag's samples are understood, by its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) shape: Shape,
    uncertain_usable: bool,
}

impl Rule {
    /// The rule of a tag.
    pub(crate) fn of(tag: &Tag) -> Self {
        // No line leads from one text or state to another.
        let stepped =
            tag.is_stepped() || matches!(tag.value_type, ValueType::Text | ValueType::State);
        let shape = Shape { stepped, max_gap_ns: tag.attributes.max_gap_ns };
        Self { shape, uncertain_usable: tag.attributes.uncertain_usable == Some(true) }
    }

    /// Whether a sample counts: finite, and Good or, where the tag says so, Uncertain.
    pub(crate) fn is_usable(self, reading: &Reading) -> bool {
        let finite = match &reading.value {
            Value::F64(value) => value.is_finite(),
            Value::F32(value) => value.is_finite(),
            _ => true,
        };
        let quality = reading.quality;
        finite && (quality.is_good() || (self.uncertain_usable && !quality.is_bad()))
    }
}

impl Reading {
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
    pub(crate) fn next(&self, rule: Rule) -> Next {
        let value = rule.is_usable(self).then(|| self.number());
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
    pub(crate) fn push(&mut self, reading: Reading, rule: Rule) {
        if rule.is_usable(&reading) {
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
    /// Walks samples: tags ascending, times ascending within one.
    pub(crate) fn walk(&self, tags: &[TagId], range: TimeRange) -> Walk<'_> {
        Walk { reader: self, scan: self.scan(tags, range, false, None) }
    }

    /// What came before `at_ns`. Unusable samples are stepped over for as long as there are any.
    pub(crate) fn before(&self, tag: TagId, at_ns: i64, rule: Rule) -> Result<Carry> {
        let range = TimeRange::new(TimeRange::ALL.start_ns, at_ns);
        let mut carry = Carry::default();
        let mut walk = Walk { reader: self, scan: self.scan(&[tag], range, true, None) };
        while let Some(batch) = walk.next_batch()? {
            for reading in readings(&batch) {
                if carry.last.is_none() {
                    carry.last = Some(reading.clone());
                }
                if rule.is_usable(&reading) {
                    carry.usable = Some(reading);
                    return Ok(carry);
                }
            }
        }
        Ok(carry)
    }

    /// The first sample at or after `at_ns`; with `usable_by` the first that counts.
    pub(crate) fn after(
        &self,
        tag: TagId,
        at_ns: i64,
        usable_by: Option<Rule>,
    ) -> Result<Option<Reading>> {
        let range = TimeRange::new(at_ns, TimeRange::ALL.end_ns);
        let limit = if usable_by.is_some() { None } else { Some(1) };
        let mut walk = Walk { reader: self, scan: self.scan(&[tag], range, false, limit) };
        while let Some(batch) = walk.next_batch()? {
            for reading in readings(&batch) {
                if usable_by.is_none_or(|rule| rule.is_usable(&reading)) {
                    return Ok(Some(reading));
                }
            }
        }
        Ok(None)
    }

    /// At most so many samples a tag has in a range.
    pub(crate) fn estimate(&self, tag: TagId, range: TimeRange) -> u64 {
        self.snapshot.estimate_rows(&self.request(&[tag], range, false, None))
    }

    fn scan(&self, tags: &[TagId], range: TimeRange, descending: bool, limit: Option<u64>) -> Scan {
        self.snapshot.scan(self.request(tags, range, descending, limit))
    }

    fn request(
        &self,
        tags: &[TagId],
        range: TimeRange,
        descending: bool,
        limit: Option<u64>,
    ) -> ScanRequest {
        ScanRequest {
            descending,
            limit,
            damage: self.damage,
            ..ScanRequest::new(TagSelection::Only(tags.into()), range)
        }
    }
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
        let next = next.map_err(|error| into_datafusion(error.into()))?;
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
