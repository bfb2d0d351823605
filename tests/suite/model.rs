//! SQL against the model: what the engine's harness has done at random, asked through DataFusion.

use tagmill_engine_tests::harness::{Harness, Place};
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_storage::disk::sim::SimDisk;
use tagmill_tests::answers::check_sql;

#[test]
fn sql_shows_what_the_model_holds() {
    let seeds = seeds(12);
    println!("seeds {} ..", seeds[0]);
    for seed in seeds {
        let _case = Case::of("tagmill-tests", "model::sql_shows_what_the_model_holds", seed);
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        harness.live(4, 120, &mut check_sql);
    }
}
