//! Tags, aliases and tag sets as gateways define them.

use tagmill_proto::v1;
use tagmill_storage::{Engine, Error, Result, TagDefinition, TagId};
use tonic::Status;

use super::messages::{Definitions, definition, tags_of_set};
use super::named::too_many_new;
use crate::access::{Access, Principal};

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) defined: u32,
    pub(super) rejects: Vec<v1::DefineReject>,
}

impl Definitions {
    /// Makes the tags that the caller may write, and their aliases if there is a gateway, durable. Blocks.
    pub(super) fn apply(
        self,
        engine: &Engine,
        access: &Access,
        caller: &Principal,
        gateway: Option<&str>,
    ) -> Result<Answer> {
        let mut answer = Answer::default();
        let snapshot = engine.snapshot();
        let new = self.tags.iter().filter(|tag| snapshot.registry().find(&tag.name).is_none());
        let new = new.count() as u64;
        let mut new_left = if new == 0 { 0 } else { access.take_new_tags(caller, new) };
        let mut wanted = Vec::with_capacity(self.tags.len());
        for tag in self.tags {
            let (alias, name) = (tag.alias, tag.name.clone());
            let definition = definition(tag, gateway.is_some());
            let definition = definition.and_then(|definition| in_scope(caller, definition));
            let definition = definition.and_then(|definition| {
                if snapshot.registry().find(&definition.name).is_none() {
                    new_left = new_left.checked_sub(1).ok_or_else(|| too_many_new(caller))?;
                }
                Ok(definition)
            });
            match definition {
                Ok(definition) => wanted.push((alias, definition)),
                Err(detail) => answer.rejects.push(v1::DefineReject { alias, name, detail }),
            }
        }
        let definitions: Vec<TagDefinition> = wanted.iter().map(|(_, d)| d.clone()).collect();
        let mut taken = Vec::with_capacity(wanted.len());
        for ((alias, definition), id) in wanted.into_iter().zip(engine.reserve(&definitions)) {
            match id {
                Ok(id) => taken.push((alias, definition, id)),
                Err(Error::Invalid(detail)) => {
                    let name = definition.name;
                    answer.rejects.push(v1::DefineReject { alias, name, detail });
                }
                Err(error) => return Err(error),
            }
        }
        answer.defined = u32::try_from(taken.len()).unwrap_or(u32::MAX);
        if let Some(gateway) = gateway {
            let known = engine.aliases(gateway);
            let pairs = taken.iter().map(|(alias, _, id)| (*alias, *id));
            let new = |(alias, id): &(u32, TagId)| known.get(alias) != Some(id);
            let pairs: Vec<(u32, TagId)> = pairs.filter(new).collect();
            if !pairs.is_empty() {
                engine.define_aliases(gateway, &pairs)?;
            }
        } else {
            let taken: Vec<TagDefinition> = taken.into_iter().map(|(_, d, _)| d).collect();
            engine.define(&taken)?;
        }
        Ok(answer)
    }
}

/// Makes a tag set durable. Blocks. The answer lists aliases that are not known; then nothing was defined.
pub(super) fn define_set(
    engine: &Engine,
    gateway: &str,
    message: &v1::DefineTagSet,
) -> Result<Vec<v1::DefineReject>> {
    let aliases = engine.aliases(gateway);
    let tags = match tags_of_set(message, engine.snapshot().registry(), &aliases) {
        Ok(tags) => tags,
        Err(reject) => return Ok(vec![reject]),
    };
    let sets = engine.tag_sets(gateway);
    let known = sets.get(&message.set);
    if known.is_none_or(|(version, known)| *version != message.version || known.as_ref() != tags) {
        engine.define_tag_set(gateway, message.set, message.version, &tags)?;
    }
    Ok(Vec::new())
}

/// The definition, if the caller may write the tag.
fn in_scope(caller: &Principal, definition: TagDefinition) -> Result<TagDefinition, String> {
    if caller.reaches(&definition.name) {
        return Ok(definition);
    }
    Err(format!("{:?} is outside of the scope of token {:?}", definition.name, caller.name))
}

/// Whether a caller may send as a gateway: one with a scope as that of its own name, and as those below it.
///
/// # Errors
/// Why not.
pub(super) fn check_gateway(caller: &Principal, gateway: &str) -> Result<(), Status> {
    let name = caller.name.as_ref();
    let rest = gateway.strip_prefix(name);
    if caller.scope().is_none() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    {
        return Ok(());
    }
    let why = format!("token {name:?} sends as gateway {name:?} or {name}/.., not as {gateway:?}");
    Err(Status::permission_denied(why))
}
