//! A batch becomes a record, on the caller's thread: checked, sorted, encoded, and with it the definitions of tags that
//! are not durable yet.

use std::collections::HashMap;
use std::sync::Arc;

use super::core::{Core, Entry, lock};
use crate::error::{Error, Result};
use crate::head::block::{self, Block};
use crate::limits;
use crate::registry::Change;
use crate::sample::Batch;
use crate::tag::{Tag, TagId};
use crate::wal::record::Content;

/// The record of a batch, ready for the queue.
pub(super) fn entry(core: &Core, batch: Batch) -> Result<Entry> {
    let samples = batch.len();
    if samples == 0 && batch.origin.is_none() {
        return Err(Error::Invalid("the batch holds no sample: send at least one".into()));
    }
    if samples > limits::BATCH_SAMPLES_MAX {
        let most = limits::BATCH_SAMPLES_MAX;
        let why = format!("the batch holds {samples} samples, at most {most} are taken: split it");
        return Err(Error::Invalid(why));
    }
    let Checked { block: prepared, defines } = check(core, &batch);
    let changes = defines.into_iter().map(Change::Define).collect();
    let has_rows = !prepared.run.times.is_empty();
    let run = has_rows.then_some(prepared.run);
    if run.is_none() && batch.origin.is_none() {
        // Everything was refused: nothing to write, and the caller learns why.
        let mut barrier = Entry::of(Content::default(), batch.durability);
        barrier.rejects = prepared.rejects;
        return Ok(barrier);
    }
    let content = Content { origin: batch.origin, changes, delete: None, run };
    let mut entry = Entry::of(content, batch.durability);
    if entry.payload.as_ref().is_some_and(|p| p.raw_bytes > limits::RECORD_BYTES_MAX) {
        return Err(Error::Invalid("the batch takes more than 64 MiB: split it".into()));
    }
    entry.accepted = prepared.accepted;
    entry.rejects = prepared.rejects;
    Ok(entry)
}

/// A batch after its check.
pub(super) struct Checked {
    pub(super) block: Block,
    /// Tags it uses that are not durable yet.
    pub(super) defines: Vec<Arc<Tag>>,
}

/// Which samples of a batch are taken, in order.
pub(super) fn check(core: &Core, batch: &Batch) -> Checked {
    let view = core.view();
    let reserved = reserved_tags(core, &view.registry, batch);
    let target_of = |tag: TagId| {
        let known = view.registry.get(tag).or_else(|| reserved.get(&tag));
        let known = known.filter(|tag| !tag.is_deleted())?;
        let horizon_ns = view.horizons.of(&known.attributes).raw_ns;
        Some(block::Target { value_type: known.value_type, horizon_ns })
    };
    let block = block::prepare(batch, core.clock.wall_ns(), &target_of);
    let used = block.run.spans.iter().filter_map(|span| reserved.get(&span.tag));
    let defines = used.map(Arc::clone).collect();
    Checked { block, defines }
}

/// The batch's tags that are reserved but not yet durable.
fn reserved_tags(
    core: &Core,
    registry: &crate::registry::Registry,
    batch: &Batch,
) -> HashMap<TagId, Arc<Tag>> {
    let columns = batch.columns.iter().map(|column| column.tag);
    let scans = batch.scans.iter().flat_map(|scan| scan.tags.iter().copied());
    let unknown: Vec<TagId> =
        columns.chain(scans).filter(|tag| registry.get(*tag).is_none()).collect();
    if unknown.is_empty() {
        return HashMap::new();
    }
    let pending = lock(&core.pending);
    let newest = core.view(); // a tag leaves `pending` in the same critical section that makes it visible
    let known = |tag: TagId| match newest.registry.get(tag) {
        Some(tag) => Some(Arc::clone(tag)),
        None => pending.by_id.get(&tag).cloned(),
    };
    unknown.into_iter().filter_map(|tag| Some((tag, known(tag)?))).collect()
}
