//! Puts the outputs of a compaction in the place of its inputs, on the maintenance thread.

use std::sync::Arc;

pub(crate) use super::task::Compacted;
use crate::engine::core::{Core, lock};
use crate::error::Result;
use crate::head::tombstone::{Tombstone, Tombstones};
use crate::ids::SegmentId;
use crate::maintenance::seal::{Ledger, commit};
use crate::manifest::edit::{Edit, State};
use crate::scan::snapshot::View;
use crate::segment::Segment;

/// Commits and shows what a compaction made. False, and nothing done, if an input is gone meanwhile.
///
/// # Errors
/// [`crate::Error::Poisoned`] if it is unknown which of the files the manifest names; after any other the outputs are not named.
pub(crate) fn install(core: &Core, ledger: &mut Ledger, compacted: &Compacted) -> Result<bool> {
    let Compacted { inputs, outputs } = compacted;
    let open = |meta: &_| Arc::new(Segment::new(Arc::clone(&core.disk), Clone::clone(meta)));
    let opened: Vec<Arc<Segment>> = outputs.iter().map(open).collect();
    let replaced = core.view().version.replaced(inputs, opened);
    let Some(version) = replaced else { return Ok(false) };
    let needed = ledger.state.tombstones.iter().filter(|tombstone| version.may_hold(tombstone));
    let state = State { tombstones: needed.cloned().collect(), ..ledger.state.clone() };
    let remove: Vec<SegmentId> = inputs.iter().map(|input| input.meta().id).collect();
    let edit = Edit { remove, add: outputs.clone(), state };
    commit(core, ledger, edit, &version)?;
    let floor = ledger.state.floor;
    let install = lock(&core.install);
    let mut next = View::clone(&core.view());
    next.version = version;
    // A delete newer than the floor may hide rows of the head, which the version does not know.
    let keep =
        |tombstone: &&Arc<Tombstone>| tombstone.seq > floor || next.version.may_hold(tombstone);
    next.tombstones = Tombstones::new(next.tombstones.iter().filter(keep).cloned().collect());
    core.swap(next);
    drop(install);
    for input in inputs {
        input.retire();
    }
    Ok(true)
}
