//! One step of the registry, and its bytes: `docs/format/registry.md`.
//!
//! The same bytes stand in WAL records and in `registry.log`.

use std::sync::Arc;

use crate::bytes::{Malformed, Reader, put_varint, put_zigzag};
use crate::limits;
use crate::tag::{Tag, TagAttributes, TagId, ValueType};

/// One step of the registry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// A new tag.
    Define(Arc<Tag>),
    /// A new name, new attributes, or both.
    Edit { id: TagId, name: Option<Arc<str>>, attributes: Option<Box<TagAttributes>> },
    /// The tag's name is freed. Its samples are deleted by a tombstone of the same record.
    DeleteTag(TagId),
    /// Labels for codes that have none yet.
    States { set: Arc<str>, labels: Vec<(u16, Arc<str>)> },
    /// A gateway's numbers for tags.
    Aliases { gateway: Arc<str>, pairs: Vec<(u32, TagId)> },
    /// A gateway's list of tags that it scans together.
    TagSet { gateway: Arc<str>, set: u32, version: u32, tags: Arc<[TagId]> },
}

const DEFINE: u8 = 1;
const EDIT: u8 = 2;
const DELETE_TAG: u8 = 3;
const STATES: u8 = 4;
const ALIASES: u8 = 5;
const TAG_SET: u8 = 6;

impl Change {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Define(tag) => {
                out.push(DEFINE);
                put_varint(out, u64::from(tag.id.0));
                put_text(out, &tag.name);
                out.push(tag.value_type.code());
                put_zigzag(out, tag.created_ns);
                put_attributes(out, &tag.attributes);
            }
            Self::Edit { id, name, attributes } => {
                out.push(EDIT);
                put_varint(out, u64::from(id.0));
                out.push(u8::from(name.is_some()) | u8::from(attributes.is_some()) << 1);
                if let Some(name) = name {
                    put_text(out, name);
                }
                if let Some(attributes) = attributes {
                    put_attributes(out, attributes);
                }
            }
            Self::DeleteTag(id) => {
                out.push(DELETE_TAG);
                put_varint(out, u64::from(id.0));
            }
            Self::States { set, labels } => {
                out.push(STATES);
                put_text(out, set);
                put_varint(out, labels.len() as u64);
                for (code, label) in labels {
                    put_varint(out, u64::from(*code));
                    put_text(out, label);
                }
            }
            Self::Aliases { gateway, pairs } => {
                out.push(ALIASES);
                put_text(out, gateway);
                put_varint(out, pairs.len() as u64);
                for (alias, tag) in pairs {
                    put_varint(out, u64::from(*alias));
                    put_varint(out, u64::from(tag.0));
                }
            }
            Self::TagSet { gateway, set, version, tags } => {
                out.push(TAG_SET);
                put_text(out, gateway);
                put_varint(out, u64::from(*set));
                put_varint(out, u64::from(*version));
                put_tags(out, tags);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            DEFINE => Self::Define(Arc::new(Tag {
                id: tag_id(reader)?,
                name: text(reader)?,
                value_type: ValueType::from_code(reader.u8()?).ok_or(Malformed("no such type"))?,
                created_ns: reader.zigzag()?,
                attributes: attributes(reader)?,
            })),
            EDIT => {
                let id = tag_id(reader)?;
                let flags = reader.u8()?;
                Self::Edit {
                    id,
                    name: if flags & 1 == 0 { None } else { Some(text(reader)?) },
                    attributes: if flags & 2 == 0 {
                        None
                    } else {
                        Some(Box::new(attributes(reader)?))
                    },
                }
            }
            DELETE_TAG => Self::DeleteTag(tag_id(reader)?),
            STATES => {
                let set = text(reader)?;
                let count = count(reader, 2)?;
                let label = |reader: &mut Reader<'_>| Ok((number(reader)?, text(reader)?));
                Self::States {
                    set,
                    labels: (0..count).map(|_| label(reader)).collect::<Result<_, _>>()?,
                }
            }
            ALIASES => {
                let gateway = text(reader)?;
                let count = count(reader, 2)?;
                let pair = |reader: &mut Reader<'_>| Ok((number(reader)?, tag_id(reader)?));
                let pairs = (0..count).map(|_| pair(reader)).collect::<Result<_, _>>()?;
                Self::Aliases { gateway, pairs }
            }
            TAG_SET => Self::TagSet {
                gateway: text(reader)?,
                set: number(reader)?,
                version: number(reader)?,
                tags: tags(reader)?,
            },
            _ => return Err(Malformed("no such change")),
        })
    }
}

/// A length-prefixed text.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Reads what [`put_text`] wrote.
pub(crate) fn text(reader: &mut Reader<'_>) -> Result<Arc<str>, Malformed> {
    let length = count(reader, 1)?;
    let bytes = reader.take(length)?;
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| Malformed("text is not UTF-8"))
}

/// A list of tag ids, in any order.
pub(crate) fn put_tags(out: &mut Vec<u8>, tags: &[TagId]) {
    put_varint(out, tags.len() as u64);
    let mut last = 0;
    for tag in tags {
        put_zigzag(out, i64::from(tag.0) - last);
        last = i64::from(tag.0);
    }
}

/// Reads what [`put_tags`] wrote.
pub(crate) fn tags(reader: &mut Reader<'_>) -> Result<Arc<[TagId]>, Malformed> {
    let count = count(reader, 1)?;
    let mut last = 0i64;
    let mut next = |reader: &mut Reader<'_>| {
        last = last.wrapping_add(reader.zigzag()?);
        let id = u32::try_from(last).map_err(|_| Malformed("tag id out of range"))?;
        check_tag(id)
    };
    (0..count).map(|_| next(reader)).collect()
}

/// A count of things that take at least `bytes_each` bytes: never more than the input can hold.
pub(crate) fn count(reader: &mut Reader<'_>, bytes_each: usize) -> Result<usize, Malformed> {
    let count = usize::try_from(reader.varint()?).map_err(|_| Malformed("count out of range"))?;
    if count > reader.remaining() / bytes_each {
        return Err(Malformed("count exceeds the bytes that follow"));
    }
    Ok(count)
}

/// A varint that fits `T`.
pub(crate) fn number<T: TryFrom<u64>>(reader: &mut Reader<'_>) -> Result<T, Malformed> {
    T::try_from(reader.varint()?).map_err(|_| Malformed("number out of range"))
}

/// A tag id within [`limits::TAGS_MAX`], so that no table sized by ids can be made huge by bad bytes.
pub(crate) fn tag_id(reader: &mut Reader<'_>) -> Result<TagId, Malformed> {
    check_tag(number(reader)?)
}

fn check_tag(id: u32) -> Result<TagId, Malformed> {
    if id as usize >= limits::TAGS_MAX {
        Err(Malformed("tag id out of range"))
    } else {
        Ok(TagId(id))
    }
}

fn put_attributes(out: &mut Vec<u8>, a: &TagAttributes) {
    let texts = [&a.description, &a.unit, &a.retention, &a.state_set];
    let flags = [a.stepped, a.uncertain_usable];
    let numbers = [a.range_low, a.range_high, a.rollover, a.jitter, a.reset_value];
    let mut present = 0u64;
    let all = texts.iter().map(|t| t.is_some()).chain(flags.iter().map(Option::is_some));
    let all = all.chain(numbers.iter().map(Option::is_some)).chain([a.max_gap_ns.is_some()]);
    for (bit, is_some) in all.enumerate() {
        present |= u64::from(is_some) << bit;
    }
    put_varint(out, present);
    for text in texts.into_iter().flatten() {
        put_text(out, text);
    }
    out.extend(flags.into_iter().flatten().map(u8::from));
    for number in numbers.into_iter().flatten() {
        out.extend_from_slice(&number.to_le_bytes());
    }
    if let Some(gap) = a.max_gap_ns {
        put_zigzag(out, gap);
    }
    put_varint(out, a.labels.len() as u64);
    for (key, value) in a.labels.iter() {
        put_text(out, key);
        put_text(out, value);
    }
}

fn attributes(reader: &mut Reader<'_>) -> Result<TagAttributes, Malformed> {
    let present = reader.varint()?;
    let has = |bit: u32| present >> bit & 1 == 1;
    let mut texts = [None, None, None, None];
    for (slot, bit) in texts.iter_mut().zip(0..) {
        *slot = if has(bit) { Some(text(reader)?.to_string()) } else { None };
    }
    let mut flags = [None; 2];
    for (slot, bit) in flags.iter_mut().zip(4..) {
        *slot = if has(bit) { Some(reader.u8()? != 0) } else { None };
    }
    let mut numbers = [None; 5];
    for (slot, bit) in numbers.iter_mut().zip(6..) {
        *slot = if has(bit) { Some(reader.f64()?) } else { None };
    }
    let max_gap_ns = if has(11) { Some(reader.zigzag()?) } else { None };
    if present >> 12 != 0 {
        return Err(Malformed("unknown attribute"));
    }
    let count = count(reader, 2)?;
    let label = |reader: &mut Reader<'_>| Ok((text(reader)?, text(reader)?));
    let labels = (0..count).map(|_| label(reader)).collect::<Result<_, Malformed>>()?;
    let [description, unit, retention, state_set] = texts;
    let [stepped, uncertain_usable] = flags;
    let [range_low, range_high, rollover, jitter, reset_value] = numbers;
    Ok(TagAttributes {
        description,
        unit,
        stepped,
        range_low,
        range_high,
        max_gap_ns,
        uncertain_usable,
        rollover,
        jitter,
        reset_value,
        retention,
        state_set,
        labels,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Every kind of change.
    pub(crate) fn examples() -> Vec<Change> {
        let mut full = TagAttributes {
            description: Some("Reactor temperature".into()),
            unit: Some("°C".into()),
            stepped: Some(false),
            range_low: Some(-40.0),
            range_high: Some(400.5),
            max_gap_ns: Some(60_000_000_000),
            uncertain_usable: Some(true),
            rollover: Some(10_000.0),
            jitter: Some(0.5),
            reset_value: Some(0.0),
            retention: Some("long".into()),
            state_set: Some("motor".into()),
            ..TagAttributes::default()
        };
        full.labels.insert("area", "U1");
        let tag = |attributes| {
            Arc::new(Tag {
                id: TagId(70_000),
                name: Arc::from("U1/TI-101.PV"),
                value_type: ValueType::F32,
                attributes,
                created_ns: -5,
            })
        };
        vec![
            Change::Define(tag(TagAttributes::default())),
            Change::Define(tag(full.clone())),
            Change::Edit { id: TagId(3), name: None, attributes: Some(Box::new(full)) },
            Change::Edit { id: TagId(3), name: Some(Arc::from("x")), attributes: None },
            Change::DeleteTag(TagId(9)),
            Change::States {
                set: Arc::from("m"),
                labels: vec![(0, Arc::from("STOP")), (9, Arc::from("RUN"))],
            },
            Change::Aliases { gateway: Arc::from("g"), pairs: vec![(7, TagId(1)), (8, TagId(0))] },
            Change::TagSet {
                gateway: Arc::from("g"),
                set: 1,
                version: 2,
                tags: Arc::from([TagId(5), TagId(2), TagId(9)]),
            },
        ]
    }

    #[test]
    fn every_change_comes_back_and_every_prefix_is_refused() {
        for change in examples() {
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            assert_eq!(Change::decode(&mut reader).unwrap(), change);
            assert_eq!(reader.remaining(), 0);
            for end in 0..bytes.len() {
                let read = Change::decode(&mut Reader::new(&bytes[..end]));
                assert!(read.is_err(), "{change:?} cut at {end} gave {read:?}");
            }
        }
    }

    #[test]
    fn the_format_page_lists_every_kind() {
        let kinds = [
            (DEFINE, "define"),
            (EDIT, "edit"),
            (DELETE_TAG, "delete tag"),
            (STATES, "states"),
            (ALIASES, "aliases"),
            (TAG_SET, "tag set"),
        ];
        let listed = crate::fields::tests::numbered("registry", "Change");
        assert_eq!(listed, kinds.map(|(kind, name)| (kind, name.to_owned())));
    }
}
