//! Tags and tag sets as a gateway knows them: who has which number, and what must be said again after a break.

use std::collections::{BTreeMap, HashMap};

use tagmill_proto::v1::{DefineTagSet, DefineTags, TagAttributes, TagDefinition, ValueType};

/// Tags in one message, well below the server's limit of 100,000 and 4 MiB.
const TAGS_PER_MESSAGE: usize = 2_000;
/// Encoded bytes at which a message of definitions is closed.
const BYTES_PER_MESSAGE: usize = 1 << 20;

/// A tag to be defined.
#[derive(Clone, Debug, PartialEq)]
pub struct TagDef {
    /// Full name, levels separated by `/`.
    pub name: String,
    /// Type of its values.
    pub value_type: ValueType,
    /// What else is known; a tag that exists keeps what it has.
    pub attributes: TagAttributes,
}

impl TagDef {
    /// A definition without attributes.
    pub fn new(name: impl Into<String>, value_type: ValueType) -> Self {
        Self { name: name.into(), value_type, attributes: TagAttributes::default() }
    }

    /// With a unit.
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.attributes.unit = Some(unit.into());
        self
    }

    /// With a description.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.attributes.description = Some(description.into());
        self
    }

    /// Whether a value holds until the next sample (else a line is drawn).
    #[must_use]
    pub fn stepped(mut self, stepped: bool) -> Self {
        self.attributes.stepped = Some(stepped);
        self
    }

    /// With the instrument's range.
    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.attributes.range_low = Some(low);
        self.attributes.range_high = Some(high);
        self
    }

    /// With a label such as `area`.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.labels.insert(key.into(), value.into());
        self
    }

    /// With a state set shared with other tags.
    #[must_use]
    pub fn state_set(mut self, set: impl Into<String>) -> Self {
        self.attributes.state_set = Some(set.into());
        self
    }
}

/// A definition the server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The tag's name.
    pub name: String,
    /// Why.
    pub detail: String,
}

/// Tags that are read together, from [`crate::Gateway::define_set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TagSet {
    pub(crate) set: u32,
    pub(crate) version: u32,
    pub(crate) tags: usize,
}

impl TagSet {
    /// Number of tags in it.
    pub fn len(&self) -> usize {
        self.tags
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.tags == 0
    }
}

/// What the gateway has defined so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Definitions {
    by_name: HashMap<String, u32>,
    tags: BTreeMap<u32, TagDef>,
    sets: BTreeMap<u32, Vec<u32>>,
    last_alias: u32,
}

impl Definitions {
    /// Gives the tag its number: the one it has, or the next.
    pub(crate) fn add(&mut self, def: &TagDef) -> u32 {
        let alias = *self.by_name.entry(def.name.clone()).or_insert_with(|| {
            self.last_alias += 1;
            self.last_alias
        });
        self.tags.insert(alias, def.clone());
        alias
    }

    /// Forgets a tag that the server refused. Its number is not given again.
    pub(crate) fn remove(&mut self, alias: u32) {
        if let Some(def) = self.tags.remove(&alias) {
            self.by_name.remove(&def.name);
        }
    }

    pub(crate) fn knows(&self, alias: u32) -> bool {
        self.tags.contains_key(&alias)
    }

    /// The tag that has this name now.
    pub(crate) fn find(&self, name: &str) -> Option<(u32, &TagDef)> {
        let alias = *self.by_name.get(name)?;
        Some((alias, self.tags.get(&alias)?))
    }

    /// The tag of this number.
    pub(crate) fn get(&self, alias: u32) -> Option<&TagDef> {
        self.tags.get(&alias)
    }

    /// A tag under the number it has been given. An older one of its name stays under its own.
    pub(crate) fn put(&mut self, alias: u32, def: &TagDef) {
        self.by_name.insert(def.name.clone(), alias);
        self.tags.insert(alias, def.clone());
        self.reserve(alias);
    }

    /// Numbers up to this one are not given any more.
    pub(crate) fn reserve(&mut self, alias: u32) {
        self.last_alias = self.last_alias.max(alias);
    }

    /// The greatest number that was given.
    pub(crate) fn last_alias(&self) -> u32 {
        self.last_alias
    }

    /// A set under the number it has been given.
    pub(crate) fn put_set(&mut self, set: u32, aliases: Vec<u32>) {
        self.sets.insert(set, aliases);
    }

    /// Whether there is a set of these aliases.
    pub(crate) fn has_set(&self, aliases: &[u32]) -> bool {
        self.sets.values().any(|tags| tags == aliases)
    }

    /// The set of these aliases: the one that is known, or the next.
    pub(crate) fn set_of(&self, aliases: &[u32]) -> TagSet {
        let known = self.sets.iter().find(|(_, tags)| tags.as_slice() == aliases);
        let set = match known {
            Some((set, _)) => *set,
            None => self.sets.last_key_value().map_or(1, |(last, _)| last + 1),
        };
        TagSet { set, version: version_of(aliases), tags: aliases.len() }
    }

    /// Number of the set of these aliases: the one it has, or the next.
    pub(crate) fn add_set(&mut self, aliases: &[u32]) -> TagSet {
        let set = self.set_of(aliases);
        self.sets.insert(set.set, aliases.to_vec());
        set
    }

    pub(crate) fn remove_set(&mut self, set: u32) {
        self.sets.remove(&set);
    }

    /// Everything, for a new connection: messages without ids.
    pub(crate) fn messages(&self) -> (Vec<DefineTags>, Vec<DefineTagSet>) {
        let tags = self.tags.iter().map(|(alias, def)| (*alias, def));
        let sets = self.sets.iter().map(|(set, aliases)| set_message(0, *set, aliases));
        (tag_messages(tags), sets.collect())
    }
}

/// Definitions in messages that the server will read.
pub(crate) fn tag_messages<'a>(tags: impl Iterator<Item = (u32, &'a TagDef)>) -> Vec<DefineTags> {
    use tagmill_proto::Message;

    let mut messages: Vec<DefineTags> = Vec::new();
    let mut bytes = 0;
    for (alias, def) in tags {
        let tag = TagDefinition {
            alias,
            name: def.name.clone(),
            r#type: def.value_type.into(),
            attributes: Some(def.attributes.clone()),
        };
        bytes += tag.encoded_len();
        match messages.last_mut() {
            Some(last) if last.tags.len() < TAGS_PER_MESSAGE && bytes < BYTES_PER_MESSAGE => {
                last.tags.push(tag);
            }
            _ => {
                bytes = tag.encoded_len();
                messages.push(DefineTags { id: 0, tags: vec![tag] });
            }
        }
    }
    messages
}

pub(crate) fn set_message(id: u64, set: u32, aliases: &[u32]) -> DefineTagSet {
    DefineTagSet { id, set, version: version_of(aliases), aliases: aliases.to_vec() }
}

/// A version that follows from the list, so that a restarted gateway whose list is another one is told apart
/// from the one before without keeping a count on disk.
fn version_of(aliases: &[u32]) -> u32 {
    let mut hash = 0x811C_9DC5_u32;
    for byte in aliases.iter().flat_map(|alias| alias.to_le_bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_alias_and_a_refused_one_is_not_given_again() {
        let mut known = Definitions::default();
        let a = known.add(&TagDef::new("a", ValueType::F64));
        let b = known.add(&TagDef::new("b", ValueType::F64));
        assert_eq!((a, b), (1, 2));
        assert_eq!(known.add(&TagDef::new("a", ValueType::F64).unit("bar")), 1);
        known.remove(b);
        assert!(!known.knows(b));
        assert_eq!(known.add(&TagDef::new("c", ValueType::F64)), 3);
        let (tags, sets) = known.messages();
        assert_eq!(tags.len(), 1);
        assert_eq!(tags[0].tags.len(), 2);
        assert!(sets.is_empty());
    }

    #[test]
    fn equal_lists_share_a_set_and_many_tags_are_split() {
        let mut known = Definitions::default();
        let first = known.add_set(&[1, 2]);
        assert_eq!(known.add_set(&[1, 2]), first);
        assert_ne!(known.add_set(&[2, 1]), first);
        for i in 0..4_500 {
            known.add(&TagDef::new(format!("t{i}"), ValueType::I64));
        }
        let (tags, sets) = known.messages();
        assert_eq!(tags.iter().map(|m| m.tags.len()).collect::<Vec<_>>(), [2_000, 2_000, 500]);
        assert_eq!(sets.len(), 2);
    }
}
