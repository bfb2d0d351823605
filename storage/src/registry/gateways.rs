//! What gateways have registered, and how far each has come.
//!
//! The mark of a gateway is the greatest seq of its epoch that is durable. It lives in the same WAL record as the
//! samples it stands for, so a batch is applied once, however often it is sent.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
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

/// Shards that gateways are kept in: of a million names, a thousand are copied for a mark that moves.
const SHARDS: usize = 1_024;

type Shard = HashMap<Arc<str>, Gateway>;

/// Every gateway. Cheap enough to clone for each group commit that moves a mark.
#[derive(Clone, Debug)]
pub(crate) struct Gateways {
    shards: Vec<Arc<Shard>>,
    /// Of this run: nobody may make up names that all lie in one shard.
    hashes: RandomState,
}

impl Default for Gateways {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS], hashes: RandomState::new() }
    }
}

impl Gateways {
    pub(crate) fn get(&self, gateway: &str) -> Option<&Gateway> {
        self.shards[self.shard_of(gateway)].get(gateway)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Gateway)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// The gateway of a name, made if there is none.
    fn entry(&mut self, gateway: &Arc<str>) -> &mut Gateway {
        let at = self.shard_of(gateway);
        Arc::make_mut(&mut self.shards[at]).entry(Arc::clone(gateway)).or_default()
    }

    fn shard_of(&self, gateway: &str) -> usize {
        usize::try_from(self.hashes.hash_one(gateway) % SHARDS as u64).unwrap_or(0)
    }

    /// Moves the mark of the batch's gateway. A replayed older batch moves nothing.
    pub(crate) fn advance(&mut self, origin: &Origin) {
        let gateway = self.entry(&origin.gateway);
        if (origin.epoch, origin.seq) > (gateway.epoch, gateway.seq) {
            (gateway.epoch, gateway.seq) = (origin.epoch, origin.seq);
        }
    }

    /// Sets a mark as a manifest edit recorded it.
    pub(crate) fn restore(&mut self, name: &Arc<str>, epoch: u64, seq: u64) {
        let gateway = self.entry(name);
        (gateway.epoch, gateway.seq) = (epoch, seq);
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Aliases { gateway, pairs } => {
                let gateway = self.entry(gateway);
                Arc::make_mut(&mut gateway.aliases).extend(pairs.iter().copied());
            }
            Change::TagSet { gateway, set, version, tags } => {
                let gateway = self.entry(gateway);
                Arc::make_mut(&mut gateway.sets).insert(*set, (*version, Arc::clone(tags)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_moves_copies_one_shard_and_leaves_older_views_as_they_were() {
        let name = |at: u64| -> Arc<str> { Arc::from(format!("g{at}")) };
        let mut gateways = Gateways::default();
        (0..5_000).for_each(|at| gateways.restore(&name(at), 1, at));
        let before = gateways.clone();
        let origin = Origin { gateway: name(7), epoch: 1, seq: 8, session: 0 };
        gateways.advance(&origin);
        let shared = gateways.shards.iter().zip(&before.shards).filter(|(a, b)| Arc::ptr_eq(a, b));
        assert_eq!(shared.count(), SHARDS - 1);
        assert_eq!(before.get("g7").unwrap().seq, 7);
        assert_eq!(gateways.get("g7").unwrap().seq, 8);
        let mut marks: Vec<u64> = gateways.iter().map(|(_, known)| known.seq).collect();
        marks.sort_unstable();
        assert_eq!(marks.len(), 5_000);
        assert_eq!(marks[7..9], [8, 8]);
        let largest = gateways.shards.iter().map(|shard| shard.len()).max();
        assert!(largest < Some(64), "{largest:?} of 5000 in one shard");
    }
}
