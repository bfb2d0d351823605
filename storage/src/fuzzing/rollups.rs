//! Blocks of rollups: read, written again, and asked as questions ask them.

use crate::chunk::Extent;
use crate::encoding::Effort;
use crate::segment::tiers::{TierEntry, TierRows};
use crate::tag::{TagId, ValueType};
use crate::tier::build::{BLOCK_ROWS_MAX, BlockHead};
use crate::tier::fold::{Fold, Frame};
use crate::tier::rollup::{Needs, Rollup};
use crate::tier::rule::Rule;
use crate::tier::{Tier, stored};

/// A block that was read.
#[derive(Debug)]
pub struct Block {
    head: BlockHead,
    rows: TierRows,
}

impl Block {
    /// Reads bytes as a block of so many runs and rows. A directory says of it what its rows say. `None` if it is refused.
    ///
    /// # Panics
    /// If it is read in full, and without what interval functions need not at all, or differently.
    pub fn read(
        tier: Tier,
        value_type: ValueType,
        (runs, rows): (u32, u32),
        bytes: &[u8],
    ) -> Option<Self> {
        if runs == 0 || runs > rows || rows as usize > BLOCK_ROWS_MAX {
            return None; // no directory says so
        }
        let mut reader = crate::bytes::Reader::new(bytes);
        let found = stored::decode_runs(&mut reader, runs as usize, rows as usize).ok()?;
        let rest = reader.rest();
        let decoded = stored::decode(rest, rows as usize, tier, value_type, true).ok()?;
        let (first_tag, last_tag) = (found.first()?.0, found.last()?.0);
        let first_ns = decoded.iter().map(|row| row.first_ns).min()?;
        let last_ns = decoded.iter().map(|row| row.last_ns).max()?;
        let head =
            BlockHead { tier, value_type, first_tag, last_tag, first_ns, last_ns, runs, rows };
        let extent = Extent { offset: 0, bytes: u32::try_from(bytes.len()).ok()?, crc: 0 };
        let entry = TierEntry { head, extent };
        let whole = TierRows::decode(&entry, true, bytes).ok();
        let plain = TierRows::decode(&entry, false, bytes).ok();
        assert!(whole.is_none() || plain.is_some(), "it is read in full, and not in part");
        for (row, plain) in whole.iter().flat_map(TierRows::rows).zip(plain?.rows()) {
            let mut row = row.clone();
            row.usable = plain.usable.clone();
            assert!(stored::agree(&row, plain, tier, ValueType::Text), "a part of it differs");
        }
        Some(Self { head, rows: whole? })
    }

    /// The bytes it is written as.
    pub fn written(&self) -> Vec<u8> {
        let BlockHead { tier, value_type, .. } = self.head;
        let lengths: Vec<(TagId, usize)> =
            self.rows.runs().map(|(tag, rows)| (tag, rows.len())).collect();
        let mut bytes = Vec::new();
        stored::encode_runs(&lengths, Effort::Light, &mut bytes);
        stored::encode(self.rows.rows(), tier, value_type, Effort::Light, &mut bytes);
        bytes
    }

    /// The same, read of other bytes.
    pub fn reread(&self, bytes: &[u8]) -> Option<Self> {
        let BlockHead { tier, value_type, runs, rows, .. } = self.head;
        Self::read(tier, value_type, (runs, rows), bytes)
    }

    /// Whether another one says the same, but for sums and integrals of floats: those are rounded when they are written.
    pub fn agrees(&self, other: &Self) -> bool {
        let BlockHead { tier, value_type, .. } = self.head;
        let exact = |row: &Rollup| {
            let mut row = row.clone();
            row.sum = 0.0;
            (row.usable.held, row.usable.integral) = (0.0, 0.0);
            row
        };
        let mut pairs = self.rows.rows().iter().zip(other.rows.rows());
        self.head == other.head
            && pairs.all(|(a, b)| stored::agree(&exact(a), &exact(b), tier, value_type))
    }

    /// Windows of this width of each tag, of the rows that can say what is needed by a rule.
    pub fn ask(&self, rule: &Rule, needs: Needs, width_ns: i64) -> Vec<(TagId, Vec<Rollup>)> {
        let BlockHead { tier, value_type, .. } = self.head;
        let can_serve = |row: &&Rollup| stored::can_serve(row, rule, needs, tier, value_type);
        let windows = |(tag, rows): (TagId, &[Rollup])| {
            let frame = Frame::Even { origin_ns: 0, width_ns };
            let mut fold = Fold::new(frame, value_type, rule.clone(), needs);
            let rows: Vec<Rollup> = rows.iter().filter(can_serve).cloned().collect();
            fold.add_stored(tier, &rows, |row| stored::serve(row, rule, needs, value_type));
            (tag, fold.finish())
        };
        self.rows.runs().map(windows).collect()
    }
}
