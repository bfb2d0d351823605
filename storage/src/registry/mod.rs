//! Who is who: tags, their names and attributes, state sets, and what gateways have registered.
//!
//! # Contract
//! * A [`Registry`] is an immutable snapshot; the next one is built from a cheap clone by [`Registry::apply`].
//! * Every step is a [`Change`], which is what the log and the registry file hold. Applying one again changes nothing.
//! * An id keeps its tag for ever. A freed name may be taken by a new tag with a new id.
//!
//! # What it does not know
//! Samples, files, and which changes are durable: the engine applies only durable ones.
//!
//! # Reading order
//! [`change`] (the steps and their bytes), [`names`] (name to id), [`scope`] (what a reader may know), [`gateways`] (aliases, tag sets, marks), [`log`] (the file).

pub(crate) mod change;
pub(crate) mod gateways;
pub(crate) mod log;
mod names;
pub(crate) mod scope;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::PAGE_TAGS;
use crate::tag::{Labels, Tag, TagAttributes, TagId};

pub(crate) use change::Change;
use names::Names;

type Page = Vec<Option<Arc<Tag>>>;

/// All durable tags and state sets of one instant. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    pages: Vec<Arc<Page>>,
    len: usize,
    names: Names,
    states: Arc<HashMap<Arc<str>, Arc<StateSet>>>,
    texts: Texts,
}

/// Texts that many tags have in common, each once. Never part of what a snapshot says.
#[derive(Clone, Debug, Default)]
struct Texts(Arc<Mutex<HashSet<Arc<str>>>>);

impl Texts {
    /// The first text equal to this one.
    fn share(&self, text: &Arc<str>) -> Arc<str> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = known.get(text) {
            return Arc::clone(first);
        }
        known.insert(Arc::clone(text));
        Arc::clone(text)
    }
}

impl Registry {
    /// One more than the greatest known id; deleted tags count.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no tag was ever defined.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tag with this id, deleted ones included ([`Tag::is_deleted`]).
    pub fn get(&self, id: TagId) -> Option<&Arc<Tag>> {
        self.pages.get(id.index() / PAGE_TAGS)?.get(id.index() % PAGE_TAGS)?.as_ref()
    }

    /// The live tag of this name.
    pub fn find(&self, name: &str) -> Option<TagId> {
        self.names.find(name).filter(|id| self.get(*id).is_some())
    }

    /// Live tags, ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tag>> {
        self.pages.iter().flat_map(|page| page.iter().flatten()).filter(|tag| !tag.is_deleted())
    }

    /// The state set of this name.
    pub fn states(&self, set: &str) -> Option<&StateSet> {
        self.states.get(set).map(AsRef::as_ref)
    }

    /// The label of a state tag's code, if its set has one.
    pub fn state_label(&self, tag: &Tag, code: u16) -> Option<&Arc<str>> {
        self.states(tag.state_set())?.label(code)
    }

    /// Makes labels share their texts with those of tags known here.
    pub(crate) fn share(&self, labels: &mut Labels) {
        labels.share(|text| self.texts.share(text));
    }

    /// Makes a step that was just read share its texts with tags known here, so that a million tags stay small.
    pub(crate) fn share_change(&self, change: &mut Change) {
        match change {
            Change::Define(tag) => {
                if let Some(tag) = Arc::get_mut(tag) {
                    self.share(&mut tag.attributes.labels);
                }
            }
            Change::Edit { attributes: Some(attributes), .. } => self.share(&mut attributes.labels),
            _ => {}
        }
    }

    /// Takes one step. Steps about gateways change nothing here.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Define(tag) => self.define(tag),
            Change::Edit { id, name, attributes } => {
                let Some(old) = self.get(*id) else { return };
                let mut tag = Tag::clone(old);
                if let Some(attributes) = attributes {
                    tag.attributes = TagAttributes::clone(attributes);
                }
                if let Some(name) = name {
                    self.names.insert(Arc::clone(&tag.name), None);
                    tag.name = Arc::clone(name);
                    self.names.insert(Arc::clone(name), Some(*id));
                }
                self.put(Arc::new(tag));
            }
            Change::DeleteTag(id) => {
                let Some(old) = self.get(*id) else { return };
                let mut tag = Tag::clone(old);
                self.names.insert(Arc::clone(&tag.name), None);
                tag.name = Arc::from("");
                self.put(Arc::new(tag));
            }
            Change::States { set, labels } => {
                let states = Arc::make_mut(&mut self.states);
                let entry = states.entry(Arc::clone(set)).or_default();
                Arc::make_mut(entry).extend(labels);
            }
            Change::Aliases { .. } | Change::TagSet { .. } => {}
        }
    }

    fn define(&mut self, tag: &Arc<Tag>) {
        if self.get(tag.id).is_some() {
            return; // repeated by a record that was encoded before the first one was durable
        }
        self.names.insert(Arc::clone(&tag.name), Some(tag.id));
        self.put(Arc::clone(tag));
    }

    fn put(&mut self, tag: Arc<Tag>) {
        let index = tag.id.index();
        while self.pages.len() <= index / PAGE_TAGS {
            self.pages.push(Arc::default());
        }
        self.len = self.len.max(index + 1);
        let page = Arc::make_mut(&mut self.pages[index / PAGE_TAGS]);
        if page.len() <= index % PAGE_TAGS {
            page.resize(index % PAGE_TAGS + 1, None);
        }
        page[index % PAGE_TAGS] = Some(tag);
    }
}

/// Labels of the codes of a state set. It only grows: a code keeps its label for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateSet {
    labels: BTreeMap<u16, Arc<str>>,
    /// The smallest code of each label.
    codes: HashMap<Arc<str>, u16>,
    /// No code below it is free.
    free: u32,
}

impl StateSet {
    /// The label of `code`.
    pub fn label(&self, code: u16) -> Option<&Arc<str>> {
        self.labels.get(&code)
    }

    /// The code of `label`.
    pub fn code(&self, label: &str) -> Option<u16> {
        self.codes.get(label).copied()
    }

    /// Codes and labels, ascending by code.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Arc<str>)> {
        self.labels.iter().map(|(code, label)| (*code, label))
    }

    /// The smallest code without a label.
    pub(crate) fn free_code(&self) -> Option<u16> {
        u16::try_from(self.free).ok()
    }

    /// Labels codes that have none yet.
    pub(crate) fn extend(&mut self, labels: &[(u16, Arc<str>)]) {
        for (code, label) in labels {
            if let Entry::Vacant(unnamed) = self.labels.entry(*code) {
                unnamed.insert(Arc::clone(label));
                let first = self.codes.entry(Arc::clone(label)).or_insert(*code);
                *first = (*first).min(*code);
            }
        }
        while u16::try_from(self.free).is_ok_and(|code| self.labels.contains_key(&code)) {
            self.free += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::{TagAttributes, ValueType};

    fn define(id: u32, name: &str) -> Change {
        Change::Define(Arc::new(Tag {
            id: TagId(id),
            name: Arc::from(name),
            value_type: ValueType::F64,
            attributes: TagAttributes::default(),
            created_ns: 0,
        }))
    }

    fn rename(id: u32, name: &str) -> Change {
        Change::Edit { id: TagId(id), name: Some(Arc::from(name)), attributes: None }
    }

    #[test]
    fn an_old_snapshot_does_not_see_later_changes() {
        let mut registry = Registry::default();
        for id in 0..3_000 {
            registry.apply(&define(id, &format!("t{id}")));
        }
        let old = registry.clone();
        registry.apply(&rename(7, "seven"));
        registry.apply(&Change::DeleteTag(TagId(8)));
        registry.apply(&define(3_000, "t8"));
        assert_eq!((old.find("t7"), old.find("seven")), (Some(TagId(7)), None));
        assert_eq!((registry.find("t7"), registry.find("seven")), (None, Some(TagId(7))));
        assert_eq!((old.find("t8"), registry.find("t8")), (Some(TagId(8)), Some(TagId(3_000))));
        assert_eq!((old.iter().count(), registry.iter().count()), (3_000, 3_000));
        assert!(registry.get(TagId(8)).unwrap().is_deleted());
    }

    #[test]
    fn a_state_code_keeps_its_first_label() {
        let mut registry = Registry::default();
        let states = |labels: &[(u16, &str)]| Change::States {
            set: Arc::from("motor"),
            labels: labels.iter().map(|(c, l)| (*c, Arc::from(*l))).collect(),
        };
        registry.apply(&states(&[(0, "STOP"), (1, "RUN")]));
        registry.apply(&states(&[(1, "GO"), (2, "TRIP")]));
        let set = registry.states("motor").unwrap();
        assert_eq!(set.label(1).unwrap().as_ref(), "RUN");
        assert_eq!(set.code("TRIP"), Some(2));
        assert_eq!(set.free_code(), Some(3));
        registry.apply(&states(&[(9, "HELD"), (4, "HELD"), (3, "IDLE")]));
        let set = registry.states("motor").unwrap();
        assert_eq!((set.code("HELD"), set.code("GO")), (Some(4), None));
        assert_eq!(set.free_code(), Some(5));
        let rest: Vec<(u16, Arc<str>)> = (0..=u16::MAX).map(|c| (c, Arc::from("x"))).collect();
        let mut full = StateSet::clone(set);
        full.extend(&rest);
        assert_eq!((full.free_code(), full.code("x"), full.code("HELD")), (None, Some(5), Some(4)));
    }
}
