//! Folds the head's small runs into larger ones, so that a scan meets few of them.

use std::sync::Arc;

use crate::engine::core::{Core, lock};
use crate::head::Head;
use crate::head::run::Run;
use crate::limits::RUNS_MAX;
use crate::scan::snapshot::View;

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
    let rows = |run: &Arc<Run>| run.times.len();
    let mut first = head.folded;
    let mut total: usize = head.runs[first..].iter().map(rows).sum();
    while first > 0 && (rows(&head.runs[first - 1]) < 2 * total || first >= RUNS_MAX) {
        first -= 1;
        total += rows(&head.runs[first]);
    }
    first
}
