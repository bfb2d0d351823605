//! Aggregates from tiers against the model: whatever was written late, corrected, deleted, sealed, merged and edited.

use tagmill_engine_tests::harness::{Harness, Place};
use tagmill_engine_tests::seeds::{Case, seeds, share};
use tagmill_engine_tests::tally::Tally;
use tagmill_storage::disk::sim::SimDisk;
use tagmill_tests::groupings::check_groupings;

/// Seeds of a run, lives of a seed, queries of a life: 2,000 queries.
const SEEDS: u64 = 25;
const LIVES: u64 = 4;
const QUERIES: u64 = 20;

#[test]
fn grouped_queries_answer_as_the_model_does() {
    let tally = Tally::new("grouped_queries");
    let seeds = seeds(SEEDS);
    println!("seeds {} ..", seeds[0]);
    share(&seeds, |seed| {
        let _case =
            Case::of("tagmill-tests", "tiers::grouped_queries_answer_as_the_model_does", seed);
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.live(LIVES, 100, &mut |harness| check_groupings(harness, QUERIES, &tally));
        tally.seed();
    });
}
