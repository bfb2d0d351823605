//! Defining, editing and deleting tags, and growing state sets.

use std::sync::Arc;

use super::Engine;
use super::core::{Pending, lock};
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::limits;
use crate::planted::{self, Bug};
use crate::registry::{Change, Registry};
use crate::tag::{Tag, TagAttributes, TagDefinition, TagId, check_name};
use crate::time::TimeRange;
use crate::wal::record::{Content, Delete};

/// What to change about a tag. Its id and type stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TagEdit {
    /// A new name, free and valid.
    pub name: Option<String>,
    /// New attributes; they replace all old ones.
    pub attributes: Option<TagAttributes>,
}

impl Engine {
    /// Makes tags known; durable when it returns. A tag that exists keeps its id, and its unset attributes are filled.
    ///
    /// # Errors
    /// [`Error::Invalid`] if any definition is refused (then none is taken); else as [`Engine::append`].
    pub fn define(&self, tags: &[TagDefinition]) -> Result<Vec<TagId>> {
        let (ids, edits) = self.reserve_all(tags);
        let ids: Vec<TagId> = ids.into_iter().collect::<Result<_>>()?;
        let mut changes = self.definitions(&ids)?;
        changes.extend(edits);
        if !changes.is_empty() {
            self.write(Content { changes, ..Content::default() })?;
        }
        Ok(ids)
    }

    /// Gives tags their ids without waiting for the disk: the definition goes into the record of the first batch that uses
    /// the tag. Ids of tags that were never used are free again after a restart.
    pub fn reserve(&self, tags: &[TagDefinition]) -> Vec<Result<TagId>> {
        let (ids, changes) = self.reserve_all(tags);
        if !changes.is_empty() {
            let content = Content { changes, ..Content::default() };
            // Nobody waits for it: what it fills in is a convenience, and a failing log tells the next append.
            self.core.enqueue(super::Entry::of(content, super::Durability::Synced));
        }
        ids
    }

    /// Renames a tag or replaces its attributes, for all history; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the tag is unknown, the name is taken or the attributes are refused.
    pub fn edit_tag(&self, tag: TagId, edit: TagEdit) -> Result<()> {
        let _one_at_a_time = lock(&self.core.edits);
        live_tag(&self.core.view().registry, tag)?;
        let TagEdit { name, attributes } = edit;
        if let Some(attributes) = &attributes {
            attributes.check().map_err(invalid)?;
        }
        let name: Option<Arc<str>> = name.map(Arc::from);
        if let Some(name) = &name {
            check_name(name).map_err(invalid)?;
            let mut pending = lock(&self.core.pending);
            let taken = self.core.view().registry.find(name).or(pending.by_name.get(name).copied());
            if let Some(other) = taken {
                return Err(Error::Invalid(format!("the name {name} is taken by tag {other}")));
            }
            pending.by_name.insert(Arc::clone(name), tag);
        }
        let attributes = attributes.map(Box::new);
        let change = Change::Edit { id: tag, name: name.clone(), attributes };
        let written = self.write(Content { changes: vec![change], ..Content::default() });
        if let (Err(_), Some(name)) = (&written, &name) {
            lock(&self.core.pending).by_name.remove(name);
        }
        written.map(|_| ())
    }

    /// Deletes a tag with all its samples and frees its name; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the tag is unknown; else as [`Engine::append`].
    pub fn delete_tag(&self, tag: TagId, who: &str) -> Result<()> {
        let _one_at_a_time = lock(&self.core.edits);
        live_tag(&self.core.view().registry, tag)?;
        let delete = Delete { tags: Arc::from([tag]), range: TimeRange::ALL, who: Arc::from(who) };
        let changes = vec![Change::DeleteTag(tag)];
        self.write(Content { changes, delete: Some(delete), ..Content::default() }).map(|_| ())
    }

    /// Whether a name has an id, if only a reserved one.
    pub fn has_name(&self, name: &str) -> bool {
        // Most are durable: then nobody waits for the lock.
        self.core.view().registry.find(name).is_some()
            || lock(&self.core.pending).by_name.contains_key(name)
    }

    /// Codes of labels in a state set, new labels appended; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the set is full or a label is refused; else as [`Engine::append`].
    pub fn grow_states(&self, set: &str, labels: &[String]) -> Result<Vec<u16>> {
        let _one_at_a_time = lock(&self.core.edits);
        let view = self.core.view();
        let mut known = view.registry.states(set).cloned().unwrap_or_default();
        let mut new = Vec::new();
        let mut codes = Vec::with_capacity(labels.len());
        for label in labels {
            check_label(label)?;
            if let Some(code) = known.code(label) {
                codes.push(code);
                continue;
            }
            let full = || Error::Invalid(format!("state set {set} has 65536 states"));
            let code = known.free_code().ok_or_else(full)?;
            let labelled = (code, Arc::from(label.as_str()));
            known.extend(std::slice::from_ref(&labelled));
            new.push(labelled);
            codes.push(code);
        }
        self.write_states(set, new)?;
        Ok(codes)
    }

    /// Gives codes of a state set their labels; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a code has another label already; else as [`Engine::append`].
    pub fn set_states(&self, set: &str, labels: &[(u16, String)]) -> Result<()> {
        let _one_at_a_time = lock(&self.core.edits);
        let view = self.core.view();
        let mut known = view.registry.states(set).cloned().unwrap_or_default();
        let mut new: Vec<(u16, Arc<str>)> = Vec::new();
        for (code, label) in labels {
            check_label(label)?;
            match known.label(*code) {
                Some(old) if old.as_ref() == label => {}
                Some(old) => {
                    let why = format!("code {code} of state set {set} is {old} and stays so");
                    return Err(Error::Invalid(why));
                }
                None => {
                    let labelled = (*code, Arc::from(label.as_str()));
                    known.extend(std::slice::from_ref(&labelled));
                    new.push(labelled);
                }
            }
        }
        self.write_states(set, new)
    }

    fn write_states(&self, set: &str, labels: Vec<(u16, Arc<str>)>) -> Result<()> {
        check_label(set)?;
        if labels.is_empty() {
            return Ok(());
        }
        let changes = vec![Change::States { set: Arc::from(set), labels }];
        self.write(Content { changes, ..Content::default() }).map(|_: Seq| ())
    }

    /// Definitions that a record using these tags must carry: those not durable yet.
    pub(super) fn definitions(&self, tags: &[TagId]) -> Result<Vec<Change>> {
        let pending = lock(&self.core.pending);
        let view = self.core.view();
        let mut changes = Vec::new();
        let is_forgotten = |tag: &TagId| planted::is(Bug::DefinitionMissing) && tag.0 % 7 == 3;
        for tag in tags.iter().filter(|tag| view.registry.get(**tag).is_none()) {
            if is_forgotten(tag) {
                continue;
            }
            let known = pending.by_id.get(tag);
            let known = known.ok_or_else(|| Error::Invalid(format!("there is no tag {tag}")))?;
            changes.push(Change::Define(Arc::clone(known)));
        }
        Ok(changes)
    }

    /// Reserves ids; also gives edits that fill attributes of durable tags.
    fn reserve_all(&self, tags: &[TagDefinition]) -> (Vec<Result<TagId>>, Vec<Change>) {
        let now_ns = self.core.clock.wall_ns();
        let mut pending = lock(&self.core.pending);
        let view = self.core.view();
        let mut edits = Vec::new();
        let mut reserve =
            |definition| reserve_one(&view.registry, &mut pending, definition, now_ns, &mut edits);
        (tags.iter().map(&mut reserve).collect(), edits)
    }
}

fn reserve_one(
    registry: &Registry,
    pending: &mut Pending,
    definition: &TagDefinition,
    now_ns: i64,
    edits: &mut Vec<Change>,
) -> Result<TagId> {
    let TagDefinition { name, value_type, attributes } = definition;
    check_name(name).map_err(|why| Error::Invalid(format!("{why}: {name:?}")))?;
    attributes.check().map_err(|why| Error::Invalid(format!("{why}: {name}")))?;
    let other_type = |known: &Tag| {
        let is = known.value_type;
        Error::Invalid(format!(
            "tag {name} is {is}, not {value_type}: types never change, define another tag"
        ))
    };
    if let Some(id) = registry.find(name)
        && let Some(known) = registry.get(id)
    {
        if known.value_type != *value_type {
            return Err(other_type(known));
        }
        let mut filled = known.attributes.clone();
        filled.fill_from(attributes);
        if filled != known.attributes {
            edits.push(Change::Edit { id, name: None, attributes: Some(Box::new(filled)) });
        }
        return Ok(id);
    }
    if let Some(id) = pending.by_name.get(name.as_str()).copied() {
        if let Some(known) = pending.by_id.get_mut(&id) {
            if known.value_type != *value_type {
                return Err(other_type(known));
            }
            Arc::make_mut(known).attributes.fill_from(attributes);
        }
        return Ok(id);
    }
    if pending.next_id as usize >= limits::TAGS_MAX {
        let most = limits::TAGS_MAX;
        return Err(Error::Invalid(format!("a database has at most {most} tags")));
    }
    let id = TagId(pending.next_id);
    pending.next_id += 1;
    let name: Arc<str> = Arc::from(name.as_str());
    let (value_type, mut attributes) = (*value_type, attributes.clone());
    registry.share(&mut attributes.labels);
    let tag = Tag { id, name: Arc::clone(&name), value_type, attributes, created_ns: now_ns };
    pending.by_name.insert(name, id);
    pending.by_id.insert(id, Arc::new(tag));
    Ok(id)
}

fn live_tag(registry: &Registry, tag: TagId) -> Result<Arc<Tag>> {
    let known = registry.get(tag).filter(|known| !known.is_deleted());
    known.cloned().ok_or_else(|| Error::Invalid(format!("there is no tag {tag}")))
}

fn invalid(why: &str) -> Error {
    Error::Invalid(why.to_owned())
}

fn check_label(label: &str) -> Result<()> {
    let is_fine = !label.is_empty()
        && label.len() <= limits::TAG_TEXT_BYTES_MAX
        && !label.chars().any(char::is_control);
    if is_fine {
        return Ok(());
    }
    Err(Error::Invalid(
        "a state's name or label has 1 to 4096 bytes and no control characters".into(),
    ))
}
