//! [`Labels`]: the key=value attributes of a tag, as small as a million tags need them.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// Key=value attributes, ascending by key, each key once. Texts are shared: tags of one area hold one "area" and one "U1".
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// Number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.place(key).ok().map(|place| self.0[place].1.as_ref())
    }

    /// Keys and values, ascending by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Sets `key` to `value`, whatever it was.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        let (key, value) = (key.into(), value.into());
        match self.place(&key) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => self.edit(|labels| labels.insert(place, (key, value))),
        }
    }

    /// Takes `key` away, if it is there.
    pub fn remove(&mut self, key: &str) {
        if let Ok(place) = self.place(key) {
            self.edit(|labels| drop(labels.remove(place)));
        }
    }

    /// Takes every label away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Replaces each text by what `share` gives for it, which is equal.
    pub(crate) fn share(&mut self, mut share: impl FnMut(&Arc<str>) -> Arc<str>) {
        for (key, value) in &mut self.0 {
            (*key, *value) = (share(key), share(value));
        }
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.as_ref().cmp(key))
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Vec<(Arc<str>, Arc<str>)>)) {
        let mut labels = std::mem::take(&mut self.0).into_vec();
        edit(&mut labels);
        self.0 = labels.into_boxed_slice();
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The last of equal keys wins.
impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let mut list: Vec<(Arc<str>, Arc<str>)> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        list.reverse();
        list.sort_by(|a, b| a.0.cmp(&b.0)); // stable: the last of equal keys is first now
        list.dedup_by(|later, first| later.0 == first.0);
        Self(list.into_boxed_slice())
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>, const N: usize> From<[(K, V); N]> for Labels {
    fn from(labels: [(K, V); N]) -> Self {
        labels.into_iter().collect()
    }
}

/// The value of a key that is known to be there.
impl Index<&str> for Labels {
    type Output = str;

    fn index(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| panic!("there is no label {key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_map_in_the_order_of_keys() {
        let mut labels = Labels::from([("line", "4"), ("area", "U1"), ("line", "5")]);
        assert_eq!(format!("{labels:?}"), r#"{"area": "U1", "line": "5"}"#);
        labels.insert("kind", "flow");
        labels.insert("area", "U2");
        assert_eq!((labels.len(), &labels["area"], labels.get("none")), (3, "U2", None));
        labels.remove("line");
        labels.remove("line");
        let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(pairs, ["area=U2", "kind=flow"]);
        labels.clear();
        assert!(labels.is_empty());
    }
}
