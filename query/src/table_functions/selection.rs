//! Which tags the `tags` argument of a table function means.
//!
//! Each text is an exact name, a glob in which `*` stands for any text, or labels such as `{area="north"}`, all of which
//! must be there. Exact names keep the order they are written in; what a glob or labels find comes in order of name. A
//! tag that is meant twice counts once.

use std::collections::HashSet;
use std::sync::Arc;

use tagmill_storage::{Registry, Tag, TagId};

use crate::selection::{Notices, unknown};

/// A tag that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Its name as it was asked for.
    pub(crate) name: Arc<str>,
    /// The tag, if there is one of this name.
    pub(crate) id: Option<TagId>,
}

/// The tags that `texts` mean, and a notice for each that means none.
///
/// # Errors
/// A sentence, if a text is nothing of that.
pub(crate) fn select(
    registry: &Registry,
    texts: &[String],
    notices: &Notices,
) -> Result<Vec<Selected>, String> {
    let mut selected = Vec::new();
    let mut seen: HashSet<Arc<str>> = HashSet::new();
    let mut take = |name: &Arc<str>, id| {
        if seen.insert(Arc::clone(name)) {
            selected.push(Selected { name: Arc::clone(name), id });
        }
    };
    for text in texts {
        if let Some(tag) = registry.find(text).and_then(|id| registry.get(id)) {
            take(&tag.name, Some(tag.id));
            continue;
        }
        let labels = text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let mut found: Vec<&Arc<Tag>> = if let Some(inner) = labels {
            let wanted = parse_labels(inner).ok_or_else(|| wrong_labels(text))?;
            let has = |tag: &Tag, key: &str| tag.attributes.labels.get(key).map(str::to_owned);
            let all = |tag: &&Arc<Tag>| {
                wanted.iter().all(|(key, value)| has(tag, key).as_ref() == Some(value))
            };
            registry.iter().filter(all).collect()
        } else if text.contains('*') {
            registry.iter().filter(|tag| matches_glob(text, &tag.name)).collect()
        } else {
            notices.add(unknown(registry, text));
            take(&Arc::from(text.as_str()), None);
            continue;
        };
        if found.is_empty() {
            notices
                .add(format!("no tag matches '{text}'; SELECT tag, labels FROM tags lists them"));
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for tag in found {
            take(&tag.name, Some(tag.id));
        }
    }
    Ok(selected)
}

fn wrong_labels(text: &str) -> String {
    format!("'{text}' is no set of labels: write for example '{{area=\"north\"}}'")
}

/// The pairs of `area="north", line="4"`.
fn parse_labels(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    loop {
        let (key, tail) = rest.split_once('=')?;
        let tail = tail.trim_start();
        let quote = tail.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, tail) = tail[1..].split_once(quote)?;
        let key = key.trim();
        if key.is_empty() {
            return None;
        }
        pairs.push((key.to_owned(), value.to_owned()));
        let tail = tail.trim_start();
        if tail.is_empty() {
            return Some(pairs);
        }
        rest = tail.strip_prefix(',')?;
    }
}

/// Whether `name` is like `glob`, in which each `*` stands for any text, also none.
fn matches_glob(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The earliest place leaves most for what comes after.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (glob, name, want) in [
            ("U1/*", "U1/TT-101", true),
            ("U1/*", "U1/", true),
            ("*", "", true),
            ("*TT*1", "U1/TT-101", true),
            ("*TT*2", "U1/TT-101", false),
            ("U2/*", "U1/TT-101", false),
            ("a*a", "a", false),
            ("a*b*c", "abbc", true),
            ("a*bc*c", "abc", false),
            ("*ü*", "Hülle", true),
        ] {
            assert_eq!(matches_glob(glob, name), want, "{glob} {name}");
        }
    }

    #[test]
    fn labels_are_pairs_of_key_and_quoted_text() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(parse_labels("area=\"U1\""), Some(vec![pair("area", "U1")]));
        let two = parse_labels(" area = \"U 1\" , line='4' ");
        assert_eq!(two, Some(vec![pair("area", "U 1"), pair("line", "4")]));
        for text in ["", "area", "area=U1", "area=\"U1", "=\"x\"", "a=\"b\" c=\"d\"", "a=\"b\","] {
            assert_eq!(parse_labels(text), None, "{text}");
        }
    }
}
