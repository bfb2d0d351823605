//! Aggregates from tiers against the model: whatever was written late, corrected, deleted, sealed, merged and edited.

use tagmill::Database;
use tagmill_engine_tests::harness::{Harness, Place};
use tagmill_engine_tests::seeds::{Case, seeds, share};
use tagmill_engine_tests::tally::Tally;
use tagmill_storage::SECOND_NS;
use tagmill_storage::disk::sim::SimDisk;
use tagmill_tests::fixture;
use tagmill_tests::groupings::check_groupings;
use tagmill_tests::intervals::check_intervals;
use tokio::runtime::Runtime;

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
    assert!(tally.figure("ordered") > 0, "no plan relied on the order of a scan");
}

/// Seeds of the test below, and questions of a life: each is asked in three ways.
const INTERVAL_SEEDS: u64 = 10;
const QUESTIONS: u64 = 16;

#[test]
fn interval_functions_answer_as_the_rule_book_does() {
    let tally = Tally::new("interval_functions");
    let seeds = seeds(INTERVAL_SEEDS);
    println!("seeds {} ..", seeds[0]);
    share(&seeds, |seed| {
        let _case = Case::of(
            "tagmill-tests",
            "tiers::interval_functions_answer_as_the_rule_book_does",
            seed,
        );
        let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
        // Before now(), so that ranges have an end of their own.
        harness.timeline.at_ns %= 1_200_000_000 * SECOND_NS;
        harness.live(LIVES, 60, &mut |harness| check_intervals(harness, QUESTIONS, &tally));
        tally.seed();
    });
}

/// A figure that EXPLAIN ANALYZE tells.
fn figure(plan: &str, name: &str) -> u64 {
    let told = plan.split_once(&format!("{name}=")).map(|(_, rest)| rest);
    let digits = told.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    let number = digits.and_then(|digits| digits.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {plan}"))
}

fn analyzed(runtime: &Runtime, database: &Database, tiers: &str, sql: &str) -> String {
    let mut session = database.session();
    session.settings_mut().set("tagmill.tiers", tiers).unwrap();
    let sql = format!("EXPLAIN ANALYZE {sql}");
    let rows = runtime.block_on(async { session.execute(&sql).await?.collect().await }).unwrap();
    arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string()
}

#[test]
fn explain_analyze_counts_windows_by_where_they_came_from() {
    const TIERS: [&str; 4] = ["windows_1m", "windows_15m", "windows_1h", "windows_1d"];
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let database = fixture::build("plant_small", directory.path(), true);
    // 33 samples of seven tags, in 28 minutes of a tag.
    let keys =
        "tag_id, time_bucket('1 min', ts) FROM samples WHERE ts < '2026-03-02' GROUP BY 1, 2";
    for select in ["avg(value)", "time_avg(value)", "increase(value)"] {
        let sql = format!("SELECT {select}, {keys}").replace("BY 1, 2", "BY 2, 3");
        for tiers in ["always", "auto", "off"] {
            let plan = analyzed(&runtime, &database, tiers, &sql);
            if tiers == "off" && plan.contains("TagmillScan") {
                continue; // samples alone, and the aggregate of DataFusion
            }
            let stored: u64 = TIERS.iter().map(|name| figure(&plan, name)).sum();
            assert_eq!(stored + figure(&plan, "windows_raw"), 28, "{plan}");
            assert!(tiers != "off" || stored == 0, "{plan}");
        }
    }
    let sql = format!("SELECT duration_in_state(value, 1), {keys}").replace("BY 1, 2", "BY 2, 3");
    let plan = analyzed(&runtime, &database, "auto", &sql);
    assert_eq!((figure(&plan, "samples_read"), figure(&plan, "windows_raw")), (33, 0), "{plan}");
}
