//! What is known of one tag at many instants, for functions that are asked row by row.
//!
//! Instants that lie close together are answered by one walk over the samples between them, instants far apart by a
//! look-up each. Both ways give the same answers.

use datafusion::common::Result;
use tagmill_storage::{Rule, TagId, TimeRange};

use super::readings::{Carry, Reader, Reading, readings};

/// A walk is worth it up to so many samples per instant.
const WALKED_ROWS: u64 = 64;

/// Whether the sample after an instant is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Back,
    BothWays,
}

/// Calls `found` for each of the ascending `times` with its position, what came at or before it, and the sample after.
pub(crate) fn visit(
    reader: &Reader,
    tag: TagId,
    rule: &Rule,
    times: &[i64],
    look: Look,
    mut found: impl FnMut(usize, &Carry, Option<&Reading>),
) -> Result<()> {
    assert!(times.is_sorted(), "instants ascend");
    let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return Ok(()) };
    let range = TimeRange::new(first, last.saturating_add(1));
    if reader.estimate(tag, range) > WALKED_ROWS * times.len() as u64 {
        for (index, &at) in times.iter().enumerate() {
            let after_ns = at.saturating_add(1);
            let carry = reader.before(tag, after_ns, rule)?;
            let settled = carry.usable.as_ref().is_none_or(|usable| usable.time_ns == at);
            let next = match look {
                Look::BothWays if !settled => reader.after(tag, after_ns, None)?,
                Look::Back | Look::BothWays => None,
            };
            found(index, &carry, next.as_ref());
        }
        return Ok(());
    }
    let mut carry = reader.before(tag, first, rule)?;
    let mut at = 0;
    let mut walk = reader.walk(&[tag], range)?;
    while let Some(batch) = walk.next_batch()? {
        for reading in readings(&batch) {
            while times.get(at).is_some_and(|&time| time < reading.time_ns) {
                found(at, &carry, Some(&reading));
                at += 1;
            }
            carry.push(reading, rule);
        }
    }
    let next = match look {
        Look::BothWays => reader.after(tag, range.end_ns, None)?,
        Look::Back => None,
    };
    for index in at..times.len() {
        found(index, &carry, next.as_ref());
    }
    Ok(())
}
