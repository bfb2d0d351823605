//! Name to tag id, as a persistent map: a clone shares everything, an insert touches little.
//!
//! Layers of hash maps, newest last, each at least twice as large as the one after it; a lookup asks the newest first.
//! An insert adds to the newest layer and merges layers that have grown alike, so it costs O(log n) copies at worst
//! averaged over inserts, and snapshots stay valid.

use std::collections::HashMap;
use std::sync::Arc;

use crate::tag::TagId;

type Layer = HashMap<Arc<str>, Option<TagId>>;

/// Layers above this size are never copied for a single insert: a fresh layer is begun instead.
const COPY_MAX: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    layers: Vec<Arc<Layer>>,
}

impl Names {
    pub(super) fn find(&self, name: &str) -> Option<TagId> {
        self.layers.iter().rev().find_map(|layer| layer.get(name)).copied().flatten()
    }

    /// Gives `name` to `id`; `None` frees it.
    pub(super) fn insert(&mut self, name: Arc<str>, id: Option<TagId>) {
        match self.layers.last_mut().map(|layer| (layer.len(), Arc::get_mut(layer))) {
            Some((_, Some(layer))) => {
                layer.insert(name, id);
            }
            Some((len, None)) if len < COPY_MAX => {
                let mut layer =
                    self.layers.pop().map(|layer| Layer::clone(&layer)).unwrap_or_default();
                layer.insert(name, id);
                self.layers.push(Arc::new(layer));
            }
            _ => self.layers.push(Arc::new(Layer::from([(name, id)]))),
        }
        self.merge_alike();
    }

    fn merge_alike(&mut self) {
        while let [.., older, newer] = self.layers.as_mut_slice() {
            if older.len() >= 2 * newer.len() {
                return;
            }
            let merged = Arc::make_mut(older);
            merged.extend(newer.iter().map(|(name, id)| (Arc::clone(name), *id)));
            self.layers.pop();
        }
    }
}
