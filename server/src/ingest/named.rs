//! Tags by their names, for samples that come without a gateway: lines of text, columns of Arrow.

use tagmill_storage::{Engine, Error, TagDefinition, TagId, ValueType, Values};

use crate::access::shares::Made;
use crate::access::{Access, Principal};

/// The tag of a name that a principal may write to; defined if need be, unless it has made enough of them today. Blocks.
///
/// # Errors
/// A sentence for whoever sent it.
pub(crate) fn resolve(
    engine: &Engine,
    access: &Access,
    principal: &Principal,
    name: &str,
    value_type: ValueType,
) -> Result<TagId, String> {
    if !principal.reaches(name) {
        return Err(format!("{name:?} is outside of the scope of token {:?}", principal.name));
    }
    if let Some(tag) = engine.snapshot().registry().find(name) {
        return Ok(tag);
    }
    let new = u64::from(!engine.has_name(name));
    let mut share = access.take(principal, Made::Tags, new);
    if share.count() < new {
        return Err(too_many_new(principal));
    }
    let definition = TagDefinition::new(name, value_type);
    let reserved = engine.reserve(std::slice::from_ref(&definition)).pop();
    let tag = reserved.unwrap_or(Err(Error::Closed)).map_err(|error| match error {
        // Another column of this text has defined it, of another type.
        Error::Invalid(why) => why,
        other => other.to_string(),
    })?;
    share.spend(new);
    Ok(tag)
}

/// Why a principal makes no more tags known.
pub(crate) fn too_many_new(principal: &Principal) -> String {
    format!(
        "token {:?} has made as many tags known today as it may: wait for tomorrow, or give it more with --new-tags",
        principal.name
    )
}

/// The type of a tag that holds such values.
pub(crate) fn value_type(values: &Values) -> ValueType {
    match values {
        Values::F32(_) => ValueType::F32,
        Values::I64(_) => ValueType::I64,
        Values::Bool(_) => ValueType::Bool,
        Values::Text(_) => ValueType::Text,
        _ => ValueType::F64,
    }
}
