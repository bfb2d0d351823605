//! What gateways have registered, and how far each has come.
//!
//! The mark of a gateway is the greatest seq of its epoch that is durable. It lives in the same WAL record as the
//! samples it stands for, so a batch is applied once, however often it is sent.

use std::collections::HashMap;
use std::sync::Arc;

use super::Change;
use crate::sample::Origin;
use crate::tag::TagId;

/// Aliases of one gateway.
pub type Aliases = Arc<HashMap<u32, TagId>>;
/// Tag sets of one gateway: set number to (version, tags).
pub type TagSets = HashMap<u32, (u32, Arc<[TagId]>)>;

/// What is durable of one gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) aliases: Aliases,
    pub(crate) sets: Arc<TagSets>,
}

/// Every gateway. Cheap enough to clone for each group commit that moves a mark.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gateways {
    map: HashMap<Arc<str>, Gateway>,
}

impl Gateways {
    pub(crate) fn get(&self, gateway: &str) -> Option<&Gateway> {
        self.map.get(gateway)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Gateway)> {
        self.map.iter()
    }

    /// Moves the mark of the batch's gateway. A replayed older batch moves nothing.
    pub(crate) fn advance(&mut self, origin: &Origin) {
        let gateway = self.map.entry(Arc::clone(&origin.gateway)).or_default();
        if (origin.epoch, origin.seq) > (gateway.epoch, gateway.seq) {
            (gateway.epoch, gateway.seq) = (origin.epoch, origin.seq);
        }
    }

    /// Sets a mark as a manifest edit recorded it.
    pub(crate) fn restore(&mut self, name: Arc<str>, epoch: u64, seq: u64) {
        let gateway = self.map.entry(name).or_default();
        (gateway.epoch, gateway.seq) = (epoch, seq);
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Aliases { gateway, pairs } => {
                let gateway = self.map.entry(Arc::clone(gateway)).or_default();
                Arc::make_mut(&mut gateway.aliases).extend(pairs.iter().copied());
            }
            Change::TagSet { gateway, set, version, tags } => {
                let gateway = self.map.entry(Arc::clone(gateway)).or_default();
                Arc::make_mut(&mut gateway.sets).insert(*set, (*version, Arc::clone(tags)));
            }
            _ => {}
        }
    }
}
