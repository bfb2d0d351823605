//! Tags, aliases and tag sets as gateways define them.

use tagmill_proto::Message as _;
use tagmill_proto::v1;
use tagmill_storage::{
    Engine, Error, Result, TagAttributes, TagDefinition, TagId, ValueType, check_name,
};
use tonic::Status;

use super::fields::fields;
use super::named::too_many_new;
use crate::access::{Access, Principal};

/// Tags in one message.
const TAGS_MAX: usize = 100_000;

/// Definitions as a message holds them.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) id: u64,
    tags: Vec<v1::TagDefinition>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) defined: u32,
    pub(super) rejects: Vec<v1::DefineReject>,
}

impl Definitions {
    /// Reads an encoded `DefineTags`.
    pub(super) fn read(message: &[u8]) -> Result<Self, Status> {
        let mut read = Self::default();
        for field in fields(message) {
            match field.map_err(malformed)? {
                (1, field) => read.id = field.u64("id").map_err(malformed)?,
                (2, _) if read.tags.len() >= TAGS_MAX => {
                    let why = format!("a message defines at most {TAGS_MAX} tags: send several");
                    return Err(Status::invalid_argument(why));
                }
                (2, field) => {
                    let bytes = field.bytes("a tag").map_err(malformed)?;
                    read.tags.push(v1::TagDefinition::decode(bytes).map_err(malformed)?);
                }
                _ => {}
            }
        }
        Ok(read)
    }

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
    let reject = |alias, detail: &str| {
        vec![v1::DefineReject { alias, name: String::new(), detail: detail.into() }]
    };
    if message.set == 0 {
        return Ok(reject(0, "numbers of tag sets begin at 1"));
    }
    let aliases = engine.aliases(gateway);
    let snapshot = engine.snapshot();
    let mut tags = Vec::with_capacity(message.aliases.len());
    for alias in &message.aliases {
        let tag = aliases.get(alias).and_then(|id| snapshot.registry().get(*id));
        match tag.filter(|tag| !tag.is_deleted()) {
            None => return Ok(reject(*alias, &format!("alias {alias} is not defined"))),
            Some(tag) if tag.value_type == ValueType::Text => {
                let why = format!("tag {} is text: scan blocks hold numbers", tag.name);
                return Ok(reject(*alias, &why));
            }
            Some(tag) => tags.push(tag.id),
        }
    }
    let sets = engine.tag_sets(gateway);
    let known = sets.get(&message.set);
    if known.is_none_or(|(version, known)| *version != message.version || known.as_ref() != tags) {
        engine.define_tag_set(gateway, message.set, message.version, &tags)?;
    }
    Ok(Vec::new())
}

fn definition(tag: v1::TagDefinition, needs_alias: bool) -> Result<TagDefinition, String> {
    if needs_alias && tag.alias == 0 {
        return Err("aliases begin at 1".into());
    }
    let value_type = value_type(tag.r#type()).ok_or("the type is not said")?;
    check_name(&tag.name)?;
    let attributes = attributes(tag.attributes.unwrap_or_default());
    Ok(TagDefinition { name: tag.name, value_type, attributes })
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

/// The engine's word for a type; `None` if none was said.
pub(crate) fn value_type(value_type: v1::ValueType) -> Option<ValueType> {
    Some(match value_type {
        v1::ValueType::Unspecified => return None,
        v1::ValueType::F64 => ValueType::F64,
        v1::ValueType::F32 => ValueType::F32,
        v1::ValueType::I64 => ValueType::I64,
        v1::ValueType::Bool => ValueType::Bool,
        v1::ValueType::State => ValueType::State,
        v1::ValueType::Text => ValueType::Text,
    })
}

/// The engine's form of attributes.
pub(crate) fn attributes(wire: v1::TagAttributes) -> TagAttributes {
    TagAttributes {
        description: wire.description,
        unit: wire.unit,
        stepped: wire.stepped,
        range_low: wire.range_low,
        range_high: wire.range_high,
        max_gap_ns: wire.max_gap_ns,
        uncertain_usable: wire.uncertain_usable,
        rollover: wire.rollover,
        jitter: wire.jitter,
        reset_value: wire.reset_value,
        retention: wire.retention,
        state_set: wire.state_set,
        labels: wire.labels.into_iter().collect(),
    }
}

pub(super) fn malformed(why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("the message cannot be read: {why}"))
}
