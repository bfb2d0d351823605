//! The spills of one backfill, merged as they become many.
//!
//! # Contract
//! * In the order of their pushes, so that of equal keys the last one pushed stays.
//! * Of [`FAN_IN`] spills of one size one is made, which is one of the next size. So there are fewer than [`FAN_IN`] of each
//!   size, a row is written again once for each size, and at the end no more than [`FAN_IN`] are read side by side:
//!   that bounds open files, and frames in memory.

use std::sync::Arc;

use super::spill::Spill;
use crate::disk::Disk;
use crate::error::Result;
use crate::head::run::Run;

/// Most spills that are read side by side.
pub(super) const FAN_IN: usize = 32;

/// Spills, oldest first, and how often each was merged: never rising.
#[derive(Debug, Default)]
pub(crate) struct Spills {
    stack: Vec<(u32, Spill)>,
}

impl Spills {
    /// Whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.stack.is_empty()
    }

    /// Writes runs that are newer than all before.
    pub(crate) fn push(&mut self, disk: &Arc<dyn Disk>, runs: &[Run]) -> Result<()> {
        self.stack.push((0, Spill::write(disk, runs)?));
        while let Some((newest, _)) = self.stack.last() {
            let same = self.stack.iter().rev().take_while(|(level, _)| level == newest);
            if same.count() < FAN_IN {
                break;
            }
            self.merge(disk, FAN_IN)?;
        }
        Ok(())
    }

    /// No more than can be read side by side.
    pub(crate) fn finish(mut self, disk: &Arc<dyn Disk>) -> Result<Vec<Spill>> {
        while self.stack.len() > FAN_IN {
            self.merge(disk, FAN_IN.min(self.stack.len() - FAN_IN + 1))?;
        }
        Ok(self.stack.into_iter().map(|(_, spill)| spill).collect())
    }

    /// Makes one of the `count` newest.
    fn merge(&mut self, disk: &Arc<dyn Disk>, count: usize) -> Result<()> {
        let newest = self.stack.split_off(self.stack.len() - count);
        let level = newest.iter().map(|(level, _)| level + 1).max().unwrap_or(0);
        let newest: Vec<Spill> = newest.into_iter().map(|(_, spill)| spill).collect();
        self.stack.push((level, Spill::merge(disk, &newest)?));
        Ok(())
    }
}
