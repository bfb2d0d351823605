//! A small database of every kind of file, and what it holds: [`Golden`].
//!
//! # Contract
//! The same seed gives the same content every time; only identities, which are random, differ. Base and late segments with plain
//! and packed chunks of every value type, a registry with edits, a checkpoint, a manifest of several edits, two log files, all
//! closed cleanly.

use std::collections::BTreeMap;

use tagmill_storage::disk::sim::{Random, SimDisk};

use crate::harness::{Harness, Place};
use crate::model::Model;
use crate::scripts::{play, quiet};
use crate::steps::Step;

/// A database to damage.
#[derive(Debug)]
pub struct Golden {
    /// Closed; its disk is to be forked. `settled` is what it holds.
    pub harness: Harness,
    /// What it held after each step.
    pub earlier: Vec<Model>,
    /// Earlier contents of files that still have the name, each different from the last.
    pub stale: Vec<(String, Vec<u8>)>,
    /// Last contents of files that are no longer there.
    pub gone: Vec<(String, Vec<u8>)>,
}

/// What is done to it: three generations of segments, a merge, a bulk load, and changes that only the log holds.
const SCRIPT: [Step; 36] = {
    use Step::{
        Alias, Append, AppendAsGateway, AppendLate, AppendMuch, Backfill, Compact, Define, Delete,
        DeleteTag, Edit, GrowStates, Reopen, Seal, Sync,
    };
    [
        Define,
        Define,
        Append,
        Edit,
        GrowStates,
        AppendAsGateway,
        Append,
        Seal, //
        AppendLate,
        Append,
        Delete,
        Define,
        Seal, //
        AppendLate,
        Append,
        DeleteTag,
        Alias,
        Seal,
        Compact, //
        Append,
        AppendMuch,
        Seal,
        Backfill, // not in the log: before the manifest file whose older states are put back
        Reopen,
        Append,
        AppendAsGateway,
        Delete,
        AppendLate,
        Seal, //
        GrowStates,
        Sync,
        AppendMuch,
        Append,
        Delete,
        AppendLate,
        Define,
    ]
};

impl Golden {
    /// Makes it.
    pub fn make(seed: u64) -> Self {
        let mut golden = Self {
            harness: quiet(seed, &SimDisk::new(seed)),
            earlier: Vec::new(),
            stale: Vec::new(),
            gone: Vec::new(),
        };
        let harness = &mut golden.harness;
        harness.samples_max = 300; // enough of one tag for a chunk of its own
        harness.open();
        let mut versions: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for step in SCRIPT {
            play(harness, &[step]);
            let mut now = harness.settled.clone();
            harness.doubtful.iter().for_each(|(change, _)| now.apply(change)); // written, if not synced
            golden.earlier.push(now);
            for (path, _) in harness.disk().files() {
                let bytes = harness.disk().bytes(&path).expect("it is listed");
                let known = versions.entry(path).or_default();
                if known.last() != Some(&bytes) {
                    known.push(bytes);
                }
            }
        }
        harness.close();
        harness.kill();
        for (path, _) in harness.disk().files() {
            let last = harness.disk().bytes(&path).expect("it is listed");
            let known = versions.remove(&path).unwrap_or_default();
            let older = known.into_iter().filter(|bytes| *bytes != last);
            golden.stale.extend(older.map(|bytes| (path.clone(), bytes)));
        }
        let last = |(path, mut known): (String, Vec<Vec<u8>>)| Some((path, known.pop()?));
        golden.gone = versions.into_iter().filter_map(last).collect();
        golden
    }

    /// The same database on a disk of its own, not opened.
    pub fn copy(&self, seed: u64) -> Harness {
        let mut copy = self.harness.fork(seed);
        copy.random = Random::new(seed);
        copy.place = Place::Sim(copy.disk().restart());
        copy
    }

    /// Paths and lengths of its files, but for the one that is only locked.
    pub fn files(&self) -> Vec<(String, u64)> {
        let files = self.harness.disk().files().into_iter();
        files.filter(|(path, _)| path != "LOCK").collect()
    }
}
