//! What a gateway's disconnect leaves behind, if it asked for it: each tag's latest value once more, of Uncertain quality,
//! so that nobody takes silence for a steady value.

use tagmill_storage::{
    Batch, Engine, Qualities, Quality, Result, TagColumn, TagId, TagScope, Values,
};

/// Tags in one batch.
const TAGS_PER_BATCH: usize = 100_000;

/// Appends one sample to each of the gateway's tags that has any and is in the scope of its token. Blocks.
pub(super) fn mark_disconnect(
    engine: &Engine,
    gateway: &str,
    scope: Option<&TagScope>,
    now_ns: i64,
) -> Result<()> {
    let snapshot = engine.snapshot();
    let mut tags: Vec<TagId> = engine.aliases(gateway).values().copied().collect();
    // An alias may be older than the scope, or its tag may have got another name.
    tags.retain(|tag| {
        let tag = snapshot.registry().get(*tag);
        tag.is_some_and(|tag| scope.is_none_or(|scope| scope.holds(&tag.name)))
    });
    tags.sort_unstable();
    tags.dedup();
    let mark = |tag: TagId| {
        let latest = snapshot.latest(tag)?;
        if latest.quality == Quality::UNCERTAIN_NO_COMMUNICATION {
            return None;
        }
        let mut values = Values::empty(latest.value.value_type());
        values.push(latest.value);
        // A gateway's clock may be ahead of ours: the mark still comes after what it marks.
        let time_ns = now_ns.max(latest.time_ns.saturating_add(1));
        let qualities = Qualities::Uniform(Quality::UNCERTAIN_NO_COMMUNICATION);
        Some(TagColumn { tag, times: vec![time_ns], values, qualities })
    };
    for tags in tags.chunks(TAGS_PER_BATCH) {
        let columns: Vec<TagColumn> = tags.iter().filter_map(|tag| mark(*tag)).collect();
        if !columns.is_empty() {
            engine.append(Batch { columns, ..Batch::default() })?;
        }
    }
    Ok(())
}
