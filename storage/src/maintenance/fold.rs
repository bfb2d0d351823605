//! Folds the head's small runs into larger ones, so that a scan meets few of them.

use std::sync::Arc;

use crate::engine::core::{Core, lock};
use crate::head::Head;
use crate::head::run::Run;
use crate::limits::RUNS_MAX;
use crate::scan::snapshot::View;

/// Rows of a folded run: 256 MiB of numbers.
const FOLDED_ROWS_MAX: usize = 1 << 24;

/// Folds every unfolded run, together with those older runs that are not much larger: each row is then folded a number of
/// times that grows with the logarithm of the head only.
pub(crate) fn fold(core: &Core) {
    let view = core.view();
    let first = start(&view.head);
    let inputs = &view.head.runs[first..];
    if inputs.is_empty() {
        return;
    }
    let folded = Arc::new(Run::fold(inputs, &view.tombstones));
    let folded = (!folded.times.is_empty()).then_some(folded);
    let mut install = lock(&core.install);
    let mut next = View::clone(&core.view());
    let same = next.head.runs[first..].iter().zip(inputs).all(|(now, then)| Arc::ptr_eq(now, then));
    assert!(same, "only maintenance removes runs from the head");
    next.head.replace(first, inputs.len(), folded.as_ref());
    let is_all_folded = next.head.runs.len() == next.head.folded;
    install.unfolded_since_ns = (!is_all_folded).then(|| core.clock.monotonic_ns());
    core.swap(next);
}

/// Where the runs to be folded begin.
fn start(head: &Head) -> usize {
    let rows: Vec<usize> = head.runs.iter().map(|run| run.times.len()).collect();
    start_of(&rows, head.folded)
}

/// The same for runs of these rows. A fold needs memory for its rows once more, so no run grows beyond a limit; those
/// that cannot be folded again for it do not count among the runs that are too many.
fn start_of(rows: &[usize], folded: usize) -> usize {
    let full = rows.iter().filter(|rows| **rows > FOLDED_ROWS_MAX / 2).count();
    let mut first = folded;
    let mut total: usize = rows[first..].iter().sum();
    while let Some(before) = first.checked_sub(1).and_then(|before| rows.get(before)) {
        let is_near = *before < 2 * total && total + before <= FOLDED_ROWS_MAX;
        if !is_near && first < RUNS_MAX + full {
            break;
        }
        first -= 1;
        total += before;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FOLD_ROWS;

    /// 128 M rows, as a full log brings them: no fold is large, runs stay few, and what is folded again and again adds up
    /// to a few times the rows.
    #[test]
    fn folds_are_small_and_runs_stay_few() {
        let (mut rows, mut folded) = (Vec::new(), 0);
        for count in 1..=128 {
            rows.push(FOLD_ROWS);
            let first = start_of(&rows, rows.len() - 1);
            let merged: usize = rows.drain(first..).sum();
            rows.push(merged);
            folded += merged;
            assert!(merged <= FOLDED_ROWS_MAX, "{merged}");
            assert!(rows.len() <= RUNS_MAX + count * FOLD_ROWS / FOLDED_ROWS_MAX, "{rows:?}");
        }
        assert!(folded < 4 * 128 * FOLD_ROWS, "{folded} rows folded");
    }
}
