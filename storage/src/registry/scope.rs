//! [`TagScope`]: which tags a reader may know of.
//!
//! # Contract
//! * A scope is a set of paths. It holds the tags of these names and those below them: whole levels, so `a/b` holds `a/b`
//!   and `a/b/c` and not `a/bc`. An empty one holds none.
//! * A registry within a scope knows the tags that the scope holds by their present names, and no other: they have no
//!   id, no name and no attributes there. Whatever reads through it ([`crate::Snapshot::within`]) cannot tell a tag
//!   outside from one that does not exist.
//!
//! # What it does not know
//! Who reads, and by which right.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Page, Registry};
use crate::tag::check_name;

/// Paths of tag names. Share one among the snapshots of a reader: it keeps what it has looked through.
#[derive(Debug)]
pub struct TagScope {
    /// Ascending, none below another.
    paths: Vec<String>,
    /// Pages that were looked through, and what of them the scope holds.
    seen: Mutex<Vec<Seen>>,
}

#[derive(Debug)]
struct Seen {
    whole: Arc<Page>,
    within: Arc<Page>,
}

impl TagScope {
    /// The tags at and below some paths, such as `plant/unit 3`. A `/` at the end changes nothing.
    ///
    /// # Errors
    /// The path that no tag name can begin with, and why.
    pub fn new<P: AsRef<str>>(paths: &[P]) -> Result<Self, String> {
        let mut all = Vec::with_capacity(paths.len());
        for path in paths.iter().map(AsRef::as_ref) {
            let path = path.strip_suffix('/').unwrap_or(path);
            check_name(path).map_err(|why| format!("{path:?}: {why}"))?;
            all.push(path.to_owned());
        }
        all.sort_unstable();
        let mut paths: Vec<String> = Vec::new();
        for path in all {
            if !paths.iter().any(|known| is_below(&path, known)) {
                paths.push(path);
            }
        }
        Ok(Self { paths, seen: Mutex::default() })
    }

    /// Whether a tag of this name is in it.
    pub fn holds(&self, name: &str) -> bool {
        self.paths.iter().any(|path| is_below(name, path))
    }

    /// Its paths, ascending.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }

    fn page(&self, number: usize, whole: &Arc<Page>) -> Arc<Page> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen.get(number).filter(|known| Arc::ptr_eq(&known.whole, whole)) {
            return Arc::clone(&known.within);
        }
        let inside = |tag: &Arc<_>| -> bool {
            let tag: &crate::tag::Tag = tag;
            !tag.is_deleted() && self.holds(&tag.name)
        };
        let within = whole.iter().map(|tag| tag.as_ref().filter(|tag| inside(tag)).cloned());
        let within: Arc<Page> = Arc::new(within.collect());
        let known = Seen { whole: Arc::clone(whole), within: Arc::clone(&within) };
        if let Some(old) = seen.get_mut(number) {
            *old = known;
        } else if seen.len() == number {
            seen.push(known); // pages are looked through in their order
        }
        within
    }
}

impl Registry {
    /// What a reader of a scope may know of it.
    pub(crate) fn within(&self, scope: &TagScope) -> Self {
        let pages = self.pages.iter().enumerate();
        let pages = pages.map(|(number, page)| scope.page(number, page)).collect();
        Self { pages, ..self.clone() }
    }
}

/// Whether a name is a path or below it.
fn is_below(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Change;
    use crate::tag::{Tag, TagAttributes, TagId, ValueType};

    fn define(registry: &mut Registry, id: u32, name: &str) {
        registry.apply(&Change::Define(Arc::new(Tag {
            id: TagId(id),
            name: Arc::from(name),
            value_type: ValueType::F64,
            attributes: TagAttributes::default(),
            created_ns: 0,
        })));
    }

    #[test]
    fn holds_whole_levels() {
        let scope = TagScope::new(&["a/b/", "a/b/c", "x"]).unwrap();
        assert_eq!(scope.paths().collect::<Vec<_>>(), ["a/b", "x"]);
        for name in ["a/b", "a/b/c", "a/b/c/d", "x", "x/y"] {
            assert!(scope.holds(name), "{name}");
        }
        for name in ["a", "a/bc", "a/B", "xy", "", "b"] {
            assert!(!scope.holds(name), "{name}");
        }
        for path in ["", "/", "/a", "a//b", "a/../b", "a\n"] {
            assert!(TagScope::new(&[path]).is_err(), "{path:?}");
        }
        assert!(!TagScope::new::<&str>(&[]).unwrap().holds("a"));
    }

    #[test]
    fn a_registry_within_a_scope_knows_the_present_names() {
        let scope = TagScope::new(&["mine"]).unwrap();
        let mut registry = Registry::default();
        for id in 0..5_000 {
            define(
                &mut registry,
                id,
                &format!("{}/{id}", if id % 3 == 0 { "mine" } else { "yours" }),
            );
        }
        let within = registry.within(&scope);
        assert_eq!(within.iter().count(), 1_667);
        assert_eq!((within.find("mine/3"), within.find("yours/4")), (Some(TagId(3)), None));
        assert!(within.get(TagId(4)).is_none());
        let rename = |id, name: &str| Change::Edit {
            id: TagId(id),
            name: Some(Arc::from(name)),
            attributes: None,
        };
        registry.apply(&rename(3, "yours/3"));
        registry.apply(&rename(4_999, "mine/4999"));
        let later = registry.within(&scope);
        assert_eq!((later.find("yours/3"), later.get(TagId(3))), (None, None));
        assert_eq!(later.find("mine/4999"), Some(TagId(4_999)));
        assert_eq!(later.iter().count(), 1_667);
        // What was taken before stays as it was.
        assert_eq!((within.find("mine/3"), within.find("mine/4999")), (Some(TagId(3)), None));
    }
}
