//! Messages of gateways other than batches, and batches by names, as they stand on the wire. Pure: bytes in, definitions
//! out.
//!
//! Contract: any bytes are read or refused. What is read is what the generated code would read, but for a column that is
//! sent twice in one message: the last one counts. A definition that passes has a name and a type the engine takes.

use tagmill_proto::Message as _;
use tagmill_proto::v1;
use tagmill_storage::{
    Aliases, Registry, TagAttributes, TagDefinition, TagId, ValueType, check_name,
};
use tonic::Status;

use super::fields::fields;
use super::parts::RawColumn;

/// Tags in one message.
pub(super) const TAGS_MAX: usize = 100_000;
/// Bytes of an idempotency key.
const KEY_BYTES_MAX: usize = 100;

/// Definitions as a message holds them.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) id: u64,
    pub(super) tags: Vec<v1::TagDefinition>,
}

impl Definitions {
    /// How many tags an encoded `DefineTags` has, so that memory can be asked for before it is taken.
    pub(super) fn count(message: &[u8]) -> Result<u64, Status> {
        let mut count = 0;
        for field in fields(message) {
            let (number, _) = field.map_err(malformed)?;
            count += u64::from(number == 2);
        }
        Ok(count.min(TAGS_MAX as u64))
    }

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
}

/// The engine's form of a definition.
///
/// # Errors
/// Why the engine would not take it.
pub(super) fn definition(
    tag: v1::TagDefinition,
    needs_alias: bool,
) -> Result<TagDefinition, String> {
    if needs_alias && tag.alias == 0 {
        return Err("aliases begin at 1".into());
    }
    let value_type = value_type(tag.r#type()).ok_or("the type is not said")?;
    check_name(&tag.name)?;
    let attributes = attributes(tag.attributes.unwrap_or_default());
    Ok(TagDefinition { name: tag.name, value_type, attributes })
}

/// The tags of a set, in its order.
///
/// # Errors
/// The first alias that cannot be in it.
pub(super) fn tags_of_set(
    message: &v1::DefineTagSet,
    registry: &Registry,
    aliases: &Aliases,
) -> Result<Vec<TagId>, v1::DefineReject> {
    let reject = |alias, detail: &str| {
        Err(v1::DefineReject { alias, name: String::new(), detail: detail.into() })
    };
    if message.set == 0 {
        return reject(0, "numbers of tag sets begin at 1");
    }
    let mut tags = Vec::with_capacity(message.aliases.len());
    for alias in &message.aliases {
        let tag = aliases.get(alias).and_then(|id| registry.get(*id));
        match tag.filter(|tag| !tag.is_deleted()) {
            None => return reject(*alias, &format!("alias {alias} is not defined")),
            Some(tag) if tag.value_type == ValueType::Text => {
                let why = format!("tag {} is text: scan blocks hold numbers", tag.name);
                return reject(*alias, &why);
            }
            Some(tag) => tags.push(tag.id),
        }
    }
    Ok(tags)
}

/// A `NamedColumn`, its samples not yet read.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedColumn<'a> {
    pub(super) name: &'a str,
    pub(super) value_type: Option<ValueType>,
    pub(super) column: &'a [u8],
}

/// Whether an idempotency key is one.
///
/// # Errors
/// Why not.
pub(super) fn check_key(key: &str) -> Result<(), Status> {
    if key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
        let why = format!("a key has at most {KEY_BYTES_MAX} bytes and no control characters");
        return Err(Status::invalid_argument(why));
    }
    Ok(())
}

/// The columns of an encoded `NamedBatch`.
pub(super) fn columns(batch: &[u8]) -> impl Iterator<Item = Result<NamedColumn<'_>, Status>> {
    let columns = fields(batch).filter(|field| !matches!(field, Ok((number, _)) if *number != 1));
    columns.map(|field| {
        let (_, field) = field.map_err(malformed)?;
        let mut named = NamedColumn { name: "", value_type: None, column: &[] };
        for field in fields(field.bytes("a column").map_err(malformed)?) {
            match field.map_err(malformed)? {
                (1, field) => named.name = field.str("name").map_err(malformed)?,
                (2, field) => {
                    let code = field.u32("type").map_err(malformed)?;
                    let code =
                        i32::try_from(code).ok().and_then(|c| v1::ValueType::try_from(c).ok());
                    let code = code.ok_or_else(|| malformed("unknown type"))?;
                    named.value_type = value_type(code);
                }
                (3, field) => named.column = field.bytes("column").map_err(malformed)?,
                _ => {}
            }
        }
        Ok(named)
    })
}

/// The type of a new tag, told by the field that holds its values.
pub(super) fn type_of(raw: &RawColumn<'_>) -> Option<ValueType> {
    raw.value_field().ok().flatten().map(|field| match field {
        "f64" => ValueType::F64,
        "f32" => ValueType::F32,
        "i64" => ValueType::I64,
        "bools" => ValueType::Bool,
        "states" => ValueType::State,
        _ => ValueType::Text,
    })
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
