//! The parts of a batch as they stand on the wire: fields found, lengths checked, values not yet read.

use std::sync::Arc;

use tagmill_storage::limits::BATCH_SAMPLES_MAX;

use super::fields::{Malformed, Packed, check_count, fields, unzigzag};

/// Qualities in runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawQuality<'a> {
    codes: Packed<'a>,
    counts: Packed<'a>,
}

/// A `TagColumn`.
#[derive(Clone, Debug, Default)]
pub(super) struct RawColumn<'a> {
    pub(super) alias: u32,
    pub(super) count: u32,
    base_ns: i64,
    step_ns: i64,
    time_deltas_ns: Packed<'a>,
    times_ns: Packed<'a>,
    f64: Packed<'a>,
    f32: Packed<'a>,
    i64: Packed<'a>,
    bools: Packed<'a>,
    states: Packed<'a>,
    texts: Vec<&'a str>,
    pub(super) quality: RawQuality<'a>,
}

/// A `ScanBlock`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawScan<'a> {
    pub(super) set: u32,
    pub(super) version: u32,
    pub(super) cycles: u32,
    pub(super) times_ns: Packed<'a>,
    pub(super) values: Packed<'a>,
    pub(super) missing: &'a [u8],
    pub(super) quality: RawQuality<'a>,
}

impl<'a> RawColumn<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut raw = Self::default();
        for field in fields(bytes) {
            let (number, field) = field?;
            match number {
                1 => raw.alias = field.u32("alias")?,
                2 => raw.count = field.u32("count")?,
                3 => raw.base_ns = field.sfixed64("base_ns")?,
                4 => raw.step_ns = field.sint64("step_ns")?,
                5 => raw.time_deltas_ns.set(field, "time_deltas_ns")?,
                6 => raw.times_ns.set(field, "times_ns")?,
                7 => raw.f64.set(field, "f64")?,
                8 => raw.f32.set(field, "f32")?,
                9 => raw.i64.set(field, "i64")?,
                10 => raw.bools.set(field, "bools")?,
                11 => raw.states.set(field, "states")?,
                12 if raw.texts.len() < BATCH_SAMPLES_MAX => raw.texts.push(field.str("texts")?),
                12 => return Err(Malformed("a column has too many texts".into())),
                13 => raw.quality.codes.set(field, "quality_codes")?,
                14 => raw.quality.counts.set(field, "quality_counts")?,
                // A later client may say more than this server knows.
                _ => {}
            }
        }
        if raw.count as usize > BATCH_SAMPLES_MAX {
            let why = format!("a column has at most {BATCH_SAMPLES_MAX} samples");
            return Err(Malformed(why));
        }
        Ok(raw)
    }

    fn len(&self) -> usize {
        self.count as usize
    }

    /// Times in whichever of the three forms they stand.
    pub(super) fn times(&self) -> Result<Vec<i64>, Malformed> {
        let overflow = || Malformed("a time is beyond 64 bits".into());
        if !self.times_ns.is_empty() {
            if !self.time_deltas_ns.is_empty() {
                return Err(Malformed("times are given twice".into()));
            }
            let times = self.times_ns.fixed(self.len(), "times_ns")?;
            return Ok(times.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect());
        }
        let mut times = Vec::with_capacity(self.len());
        let mut time = self.base_ns;
        if !self.time_deltas_ns.is_empty() {
            let count = self.len().saturating_sub(1);
            let deltas =
                self.time_deltas_ns.varints(count, "time_deltas_ns", |v| Some(unzigzag(v)))?;
            times.push(time);
            for delta in deltas {
                time = time.checked_add(delta).ok_or_else(overflow)?;
                times.push(time);
            }
            return Ok(times);
        }
        for index in 0..self.count {
            let offset = self.step_ns.checked_mul(i64::from(index)).ok_or_else(overflow)?;
            times.push(time.checked_add(offset).ok_or_else(overflow)?);
        }
        Ok(times)
    }

    /// The one field that holds values, if any does.
    pub(super) fn value_field(&self) -> Result<Option<&'static str>, Malformed> {
        let held = [
            ("f64", !self.f64.is_empty()),
            ("f32", !self.f32.is_empty()),
            ("i64", !self.i64.is_empty()),
            ("bools", !self.bools.is_empty()),
            ("states", !self.states.is_empty()),
            ("texts", !self.texts.is_empty()),
        ];
        let mut held = held.into_iter().filter(|(_, is_held)| *is_held).map(|(name, _)| name);
        let first = held.next();
        if let (Some(first), Some(second)) = (first, held.next()) {
            return Err(Malformed(format!("values stand in both {first} and {second}")));
        }
        Ok(first)
    }

    pub(super) fn f64(&self) -> Result<Vec<f64>, Malformed> {
        let values = self.f64.fixed(self.len(), "f64 values")?;
        Ok(values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn f32(&self) -> Result<Vec<f32>, Malformed> {
        let values = self.f32.fixed(self.len(), "f32 values")?;
        Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn i64(&self) -> Result<Vec<i64>, Malformed> {
        self.i64.varints(self.len(), "i64 values", |value| Some(unzigzag(value)))
    }

    pub(super) fn bools(&self) -> Result<Vec<bool>, Malformed> {
        self.bools.varints(self.len(), "bools", |value| Some(value != 0))
    }

    pub(super) fn states(&self) -> Result<Vec<u16>, Malformed> {
        self.states.varints(self.len(), "states", |value| u16::try_from(value).ok())
    }

    pub(super) fn checked_texts(&self) -> Result<&[&'a str], Malformed> {
        check_count("texts", self.texts.len(), self.len())?;
        Ok(&self.texts)
    }

    /// Texts; neighbours that are equal share their memory.
    pub(super) fn texts(&self) -> Result<Vec<Arc<str>>, Malformed> {
        let mut texts: Vec<Arc<str>> = Vec::with_capacity(self.len());
        for text in self.checked_texts()? {
            let shared = texts.last().filter(|last| last.as_ref() == *text).map(Arc::clone);
            texts.push(shared.unwrap_or_else(|| Arc::from(*text)));
        }
        Ok(texts)
    }
}

impl<'a> RawScan<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut raw = Self::default();
        for field in fields(bytes) {
            let (number, field) = field?;
            match number {
                1 => raw.set = field.u32("set")?,
                2 => raw.version = field.u32("version")?,
                3 => raw.cycles = field.u32("cycles")?,
                4 => raw.times_ns.set(field, "times_ns")?,
                5 => raw.values.set(field, "values")?,
                6 => raw.missing = field.bytes("missing")?,
                7 => raw.quality.codes.set(field, "quality_codes")?,
                8 => raw.quality.counts.set(field, "quality_counts")?,
                _ => {}
            }
        }
        Ok(raw)
    }
}

impl RawQuality<'_> {
    /// (code, length) of the runs, `count` in all; none if all are Good.
    pub(super) fn runs(&self, count: usize) -> Result<Vec<(u32, u32)>, Malformed> {
        let length = |packed: &Packed<'_>| packed.bytes().iter().filter(|b| **b < 0x80).count();
        let runs = length(&self.codes);
        if runs > count.max(1) {
            return Err(Malformed(format!("found {runs} runs of quality for {count} samples")));
        }
        let codes = self.codes.varints(runs, "quality_codes", |code| u32::try_from(code).ok())?;
        if let ([code], true) = (codes.as_slice(), self.counts.is_empty()) {
            return Ok(vec![(*code, u32::try_from(count).unwrap_or(u32::MAX))]);
        }
        let counts = self.counts.varints(runs, "quality_counts", |run| u32::try_from(run).ok())?;
        let total: u64 = counts.iter().map(|run| u64::from(*run)).sum();
        if runs > 0 && total != count as u64 {
            return Err(Malformed(format!("qualities cover {total} samples, expected {count}")));
        }
        Ok(codes.into_iter().zip(counts).collect())
    }
}
