//! The tags and tag sets of a queue, on disk: so that an alias in a batch means the same tag after any restart.
//!
//! # Contract
//! * A definition is durable before its alias is given, so before any batch can hold it.
//! * An alias is given once. Where definitions were lost, the aliases that batches may hold are not given again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tagmill_proto::Message as _;
use tagmill_proto::v1::client_message::Message;
use tagmill_proto::v1::{ClientMessage, DefineTagSet, DefineTags, TagDefinition};

use super::folder::Folder;
use super::frames::Kind;
use super::log::{Content, Cursor, Found, Log};
use crate::definitions::{Definitions, TagDef, TagSet, set_message, tag_messages};
use crate::error::{Error, Result};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// What a queue has defined.
#[derive(Debug)]
pub(super) struct Known {
    log: Log,
    definitions: Definitions,
}

/// New definitions, as every server hears them.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    pub(super) tags: Vec<(u32, TagDef)>,
    pub(super) set: Option<(u32, Vec<u32>)>,
}

impl Known {
    /// Reads what was defined before. `aliases` is the greatest that batches know of.
    ///
    /// # Errors
    /// [`Error::Queue`].
    pub(super) fn open(folder: Arc<Folder>, aliases: u32) -> Result<Self> {
        let (log, of_definitions) = Log::open(folder, Kind::Definitions, u64::MAX)?;
        let mut known = Self { log, definitions: Definitions::default() };
        let (mut cursor, mut next) = (Cursor::default(), 1);
        // Each turn goes on behind the record before, up to the last one.
        loop {
            match known.log.read(&mut cursor, next, READ_BYTES)? {
                Found::End => break,
                Found::Gap(behind) => next = behind,
                Found::Records(records) => {
                    for record in records {
                        known.take(&record.content.payload);
                        next = record.number + 1;
                    }
                }
            }
        }
        known.definitions.reserve(aliases.max(of_definitions));
        Ok(known)
    }

    fn take(&mut self, payload: &[u8]) {
        // The checksum holds, so it is what was written; a later program may have said more.
        match ClientMessage::decode(payload).ok().and_then(|said| said.message) {
            Some(Message::DefineTags(define)) => {
                for tag in define.tags {
                    self.definitions.put(tag.alias, &of_wire(tag));
                }
            }
            Some(Message::DefineTagSet(set)) => self.definitions.put_set(set.set, set.aliases),
            _ => {}
        }
    }

    /// Everything that is defined.
    pub(super) fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// What was found damaged.
    pub(super) fn take_damage(&self) -> Vec<String> {
        self.log.take_damage()
    }

    /// Gives tags their aliases; durable when it returns. A tag that is known keeps its alias, unless its type is another
    /// one now: what is queued under the old alias has the old type.
    ///
    /// # Errors
    /// [`Error::Queue`]; then nothing was defined.
    pub(super) fn define(&mut self, tags: &[TagDef]) -> Result<(Vec<u32>, News)> {
        let mut news = News::default();
        let mut fresh: HashMap<&str, (u32, &TagDef)> = HashMap::new();
        let mut aliases = Vec::with_capacity(tags.len());
        let mut last = self.definitions.last_alias();
        for tag in tags {
            let before = fresh.get(tag.name.as_str()).copied();
            let known = before.or_else(|| self.definitions.find(&tag.name));
            let same = known.filter(|(_, def)| def.value_type == tag.value_type);
            let alias = same.map_or(last + 1, |(alias, _)| alias);
            last = last.max(alias);
            if known.is_none_or(|(is, def)| is != alias || def != tag) {
                news.tags.push((alias, tag.clone()));
            }
            fresh.insert(&tag.name, (alias, tag));
            aliases.push(alias);
        }
        let messages = tag_messages(news.tags.iter().map(|(alias, tag)| (*alias, tag)));
        self.store(messages.into_iter().map(Message::DefineTags), last)?;
        for (alias, tag) in &news.tags {
            self.definitions.put(*alias, tag);
        }
        Ok((aliases, news))
    }

    /// Gives a list of tags its number; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an alias that was not defined, [`Error::Queue`].
    pub(super) fn define_set(&mut self, aliases: &[u32]) -> Result<(TagSet, News)> {
        if let Some(unknown) = aliases.iter().find(|alias| !self.definitions.knows(**alias)) {
            return Err(Error::Invalid(format!("alias {unknown} is not defined")));
        }
        let mut news = News::default();
        let set = self.definitions.set_of(aliases);
        if !self.definitions.has_set(aliases) {
            let message = Message::DefineTagSet(set_message(0, set.set, aliases));
            self.store(std::iter::once(message), self.last_alias())?;
            self.definitions.put_set(set.set, aliases.to_vec());
            news.set = Some((set.set, aliases.to_vec()));
        }
        Ok((set, news))
    }

    /// The greatest alias that was given.
    pub(super) fn last_alias(&self) -> u32 {
        self.definitions.last_alias()
    }

    fn store(&self, said: impl Iterator<Item = Message>, aliases: u32) -> Result<()> {
        let content = |message| {
            let bytes = ClientMessage { message: Some(message) }.encode_to_vec();
            Content { samples: 0, payload: Bytes::from(bytes) }
        };
        let contents: Vec<Content> = said.map(content).collect();
        if contents.is_empty() { Ok(()) } else { self.log.append(&contents, aliases).map(|_| ()) }
    }
}

/// The messages that say them.
pub(super) fn messages(news: &News) -> (Vec<DefineTags>, Option<DefineTagSet>) {
    let tags = tag_messages(news.tags.iter().map(|(alias, tag)| (*alias, tag)));
    (tags, news.set.as_ref().map(|(set, aliases)| set_message(0, *set, aliases)))
}

fn of_wire(tag: TagDefinition) -> TagDef {
    let value_type = tag.r#type();
    TagDef { name: tag.name, value_type, attributes: tag.attributes.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use tagmill_proto::v1::ValueType;

    use super::*;

    fn open(path: &std::path::Path, aliases: u32) -> Known {
        Known::open(Arc::new(Folder::open(path).unwrap()), aliases).unwrap()
    }

    #[test]
    fn aliases_stay_over_restarts_and_a_new_type_has_a_new_one() {
        let scratch = tempfile::tempdir().unwrap();
        let a = TagDef::new("a", ValueType::F64).unit("bar");
        let b = TagDef::new("b", ValueType::Text);
        let mut known = open(scratch.path(), 0);
        let (aliases, news) = known.define(&[a.clone(), b.clone(), a.clone()]).unwrap();
        assert_eq!((aliases, news.tags.len()), (vec![1, 2, 1], 2));
        let (set, _) = known.define_set(&[2, 1]).unwrap();
        assert!(known.define_set(&[3]).is_err());
        drop(known);

        let mut known = open(scratch.path(), 0);
        assert!(known.take_damage().is_empty());
        let (aliases, news) = known.define(&[b.clone(), a.clone()]).unwrap();
        assert_eq!((aliases, news.tags.len()), (vec![2, 1], 0), "nothing is new");
        assert_eq!(known.define_set(&[2, 1]).unwrap().0, set);
        let whole = TagDef::new("a", ValueType::I64);
        assert_eq!(known.define(&[whole]).unwrap().0, [3]);
        let described = a.description("steam");
        let (aliases, news) = known.define(&[b, described]).unwrap();
        assert_eq!(aliases, [2, 4], "the newest definition of a name counts");
        assert_eq!(news.tags.len(), 1);
        drop(known);
        assert_eq!(open(scratch.path(), 0).last_alias(), 4);
    }

    /// Batches may hold aliases whose definitions are gone: these must not come to mean another tag.
    #[test]
    fn aliases_that_batches_hold_are_not_given_again() {
        let scratch = tempfile::tempdir().unwrap();
        let mut known = open(scratch.path(), 17);
        let (aliases, _) = known.define(&[TagDef::new("x", ValueType::Bool)]).unwrap();
        assert_eq!(aliases, [18]);
    }
}
