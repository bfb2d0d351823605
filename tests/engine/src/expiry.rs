//! Samples around a retention horizon: those before it are neither shown nor taken, the first after it are both.

use std::sync::Arc;
use std::time::Duration;

use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{
    Batch, DAY_NS, Engine, Options, Qualities, RetentionClass, SECOND_NS, TagColumn, TagDefinition,
    ValueType, Values,
};

use crate::clock::TestClock;
use crate::observe;
use crate::seeds::{Case, share};
use crate::tally::Tally;

/// Writes samples of many days, lets the clock go on, and compares what is left with the rule, written out again.
pub fn at_the_horizon(test: &'static str, seeds: &[u64], tally: &Tally) {
    share(seeds, |seed| {
        let _case = Case::new(test, seed);
        tally.seed();
        let mut random = Random::new(seed);
        let kept_days = 1 + random.below(3) as i64;
        let now_ns =
            (20_000 + random.below(9) as i64) * DAY_NS + random.below(86_400) as i64 * SECOND_NS;
        let raw = Duration::from_secs(86_400 * kept_days.unsigned_abs());
        let retention = vec![RetentionClass::of_raw("", Some(raw))];
        let options = Options { retention, scrub_period: None, ..Options::default() };
        let clock = Arc::new(TestClock::new(now_ns));
        let disk = SimDisk::new(seed);
        let open = |disk: &SimDisk| {
            let disk = Arc::new(disk.clone());
            Engine::open_on(disk, Arc::clone(&clock) as Arc<_>, options.clone()).expect("healthy")
        };
        let engine = open(&disk);
        let tag = engine.define(&[TagDefinition::new("a", ValueType::I64)]).expect("healthy")[0];
        let end_ns = now_ns - kept_days * DAY_NS;
        let first_kept_ns = end_ns - end_ns.rem_euclid(DAY_NS);
        // Up to now: a horizon goes no further than the newest sample lets it.
        let steps = -3..12 * (kept_days + 1);
        let mut times: Vec<i64> = steps.map(|step| first_kept_ns + step * (DAY_NS / 12)).collect();
        times.extend([first_kept_ns - 1, first_kept_ns + 1]);
        times.retain(|time| *time <= now_ns);
        times.sort_unstable();
        let values = Values::I64(times.clone());
        let column = TagColumn { tag, times: times.clone(), values, qualities: Qualities::GOOD };
        let batch = Batch { columns: vec![column], ..Batch::default() };
        engine.append(batch.clone()).expect("healthy");
        if random.once_in(2) {
            engine.seal().expect("healthy");
        }
        engine.expire().expect("healthy");
        let kept: Vec<i64> = times.into_iter().filter(|time| *time >= first_kept_ns).collect();
        let shown = |engine: &Engine| -> Vec<i64> {
            let rows = observe::rows(&engine.snapshot()).expect("healthy");
            rows.keys().map(|(_, time)| *time).collect()
        };
        assert_eq!(shown(&engine), kept, "{kept_days} days at {now_ns}");
        let taken = engine.append(batch).expect("some are taken").accepted;
        assert_eq!(taken, kept.len() as u64, "{kept_days} days at {now_ns}");
        drop(engine);
        disk.crash();
        assert_eq!(shown(&open(&disk.restart())), kept, "{kept_days} days at {now_ns}");
        tally.add(1);
    });
}
