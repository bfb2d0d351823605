//! What a snapshot shows, under the script's own numbers of the tags.

use tagmill_engine_tests::model::Rows;
use tagmill_engine_tests::observe;
use tagmill_storage::{Snapshot, TagDefinition, TagId};

/// Number of each tag the engine knows, by its name in the script; `None` for a tag that no script has.
pub(crate) fn number(
    snapshot: &Snapshot,
    definitions: &[TagDefinition],
    tag: TagId,
) -> Option<TagId> {
    let name = &snapshot.registry().get(tag)?.name;
    let at = definitions.iter().position(|known| known.name == name.as_ref())?;
    u32::try_from(at).ok().map(TagId)
}

/// Every row.
///
/// # Errors
/// What the engine says; or a row of a tag that the script does not have.
pub(crate) fn of(snapshot: &Snapshot, definitions: &[TagDefinition]) -> Result<Rows, String> {
    let found = observe::rows(snapshot).map_err(|error| error.to_string())?;
    let renumbered = found.into_iter().map(|((tag, time_ns), cell)| {
        let number = number(snapshot, definitions, tag);
        let number = number.ok_or_else(|| format!("a row of {tag}, which no script has"))?;
        Ok(((number, time_ns), cell))
    });
    renumbered.collect()
}
