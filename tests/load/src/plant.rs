//! What the gateways of a run write: every name, time and value follows from (gateway, tag, row).
//!
//! # Contract
//! * Values are quarters, so a sum of them is exact in floating point, in whatever order it is added up.
//! * With corrections every batch but the first also corrects one row of the batch before. A batch that is applied once
//!   more after its successor brings the old value back, and the sum of that tag tells.
//! * Gateways of even number send scan blocks, the others a column for each tag.
//!
//! # What it does not know
//! When a batch is sent, and what became of it.

use tagmill_client::{BatchBuilder, Qualities, Result, TagDef, TagSet, Times, ValueType, Values};

/// Rows of a tag from one crest of its wave to the next.
const WAVE_ROWS: u64 = 4_096;
/// By how many quarters a correction lifts a value: above everything that is not one.
const CORRECTION: u64 = 10_000;

/// The gateways, their tags, and how samples come in batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plant {
    /// How many gateways.
    pub(crate) gateways: usize,
    /// Tags of each gateway.
    pub(crate) tags: usize,
    /// Rows of each tag in a batch.
    pub(crate) cycles: u64,
    /// Time of row 0, nanoseconds since 1970.
    pub(crate) start_ns: i64,
    /// From one row of a tag to the next.
    pub(crate) step_ns: i64,
    /// Whether batches correct one another.
    pub(crate) has_corrections: bool,
}

impl Plant {
    /// Full name of a tag.
    pub(crate) fn name(gateway: usize, tag: usize) -> String {
        format!("load/G{gateway:02}/TI-{tag:03}.PV")
    }

    /// Definitions of all tags of a gateway.
    pub(crate) fn definitions(&self, gateway: usize) -> Vec<TagDef> {
        let tag = |tag| TagDef::new(Self::name(gateway, tag), ValueType::F64).unit("degC");
        (0..self.tags).map(tag).collect()
    }

    /// Samples that a gateway has written with its first `batches` batches, corrections included.
    pub(crate) fn written(&self, batches: u64) -> u64 {
        let corrections = if self.has_corrections { batches.saturating_sub(1) } else { 0 };
        batches * self.cycles * self.tags as u64 + corrections
    }

    /// The sample that batch `number`, from 0, corrects: tag and row.
    pub(crate) fn correction(&self, number: u64) -> Option<(usize, u64)> {
        let before = number.checked_sub(1).filter(|_| self.has_corrections)?;
        let tag = usize::try_from(number % self.tags as u64).ok()?;
        Some((tag, before * self.cycles))
    }

    /// A sample's value as it is written first, in quarters: a wave with noise.
    pub(crate) fn quarters(gateway: usize, tag: usize, row: u64) -> u64 {
        let (gateway, tag) = (gateway as u64, tag as u64);
        let at = (row + 37 * tag + 1_009 * gateway) % WAVE_ROWS;
        let mut noise = (row ^ tag << 40 ^ gateway << 52).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        noise = (noise ^ (noise >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        at.min(WAVE_ROWS - at) + (noise >> 61)
    }

    /// Its value after its correction, in quarters.
    pub(crate) fn corrected(gateway: usize, tag: usize, row: u64) -> u64 {
        Self::quarters(gateway, tag, row) + CORRECTION
    }

    /// Time of a row.
    pub(crate) fn time(&self, row: u64) -> i64 {
        self.start_ns + row.cast_signed() * self.step_ns
    }

    /// Batch `number`, from 0, of a gateway.
    pub(crate) fn batch(
        &self,
        gateway: usize,
        aliases: &[u32],
        set: &TagSet,
        number: u64,
    ) -> Result<BatchBuilder> {
        let first = number * self.cycles;
        let rows = first..first + self.cycles;
        let value = |tag, row| Self::quarters(gateway, tag, row) as f64 / 4.0;
        let mut batch = BatchBuilder::new();
        if gateway.is_multiple_of(2) {
            let times: Vec<i64> = rows.clone().map(|row| self.time(row)).collect();
            let cells = rows.flat_map(|row| (0..self.tags).map(move |tag| value(tag, row)));
            let cells: Vec<f64> = cells.collect();
            batch.scan(set, &times, cells.as_slice().into(), Qualities::Good)?;
        } else {
            let count = u32::try_from(self.cycles).unwrap_or(u32::MAX);
            let grid = Times::Grid { base_ns: self.time(first), step_ns: self.step_ns, count };
            for (tag, alias) in aliases.iter().enumerate() {
                let values: Vec<f64> = rows.clone().map(|row| value(tag, row)).collect();
                batch.column(*alias, grid, Values::F64(&values), Qualities::Good)?;
            }
        }
        if let Some((tag, row)) = self.correction(number) {
            let value = Self::corrected(gateway, tag, row) as f64 / 4.0;
            batch.f64(aliases[tag], &[self.time(row)], &[value])?;
        }
        Ok(batch)
    }
}
