//! Rollups that outlive their samples.

use std::sync::Arc;
use std::time::Duration;

use tagmill_engine_tests::beyond;
use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::seeds::seeds;
use tagmill_engine_tests::tally::Tally;
use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::{
    Batch, DAY_NS, Engine, Error, OnDamage, Options, Qualities, RetentionClass, Rollup,
    RollupRequest, SECOND_NS, TagAttributes, TagColumn, TagDefinition, TagEdit, TagId,
    TagSelection, Tier, TimeRange, ValueType, Values,
};

#[test]
fn what_outlives_samples_says_what_they_said() {
    let tally = Tally::new("what_outlives_samples_says_what_they_said");
    let test = "beyond::what_outlives_samples_says_what_they_said";
    beyond::equal_what_has_ended(test, &seeds(60), &tally);
    assert!(tally.figure("beyond_raw") > 0, "nothing was asked about samples that have ended");
}

const START_NS: i64 = 20_000 * DAY_NS;
const FOR_EVER: &str = "for ever";
const MINUTE_NS: i64 = 60 * SECOND_NS;

/// Three days of two tags, of which rollups alone are left of the first two.
fn rolled_up(disk: &SimDisk) -> (Engine, Vec<TagId>) {
    let class = RetentionClass {
        tiers: vec![(Tier::Minute, None)],
        ..RetentionClass::of_raw("", Some(Duration::from_hours(24)))
    };
    let retention = vec![class, RetentionClass::of_raw(FOR_EVER, None)];
    let options = Options { retention, scrub_period: None, ..Options::default() };
    let clock = Arc::new(TestClock::new(START_NS + 3 * DAY_NS));
    let engine = Engine::open_on(Arc::new(disk.clone()), clock, options).unwrap();
    let tag = |name: &str| TagDefinition::new(name, ValueType::F64);
    let tags = engine.define(&[tag("a"), tag("b")]).unwrap();
    let times: Vec<i64> = (0..3 * 24 * 60).map(|at| START_NS + at * MINUTE_NS).collect();
    let values = Values::F64((0..times.len()).map(|at| at as f64).collect());
    let column = |tag| TagColumn {
        tag,
        times: times.clone(),
        values: values.clone(),
        qualities: Qualities::GOOD,
    };
    let columns = tags.iter().map(|tag| column(*tag)).collect();
    engine.append(Batch { columns, ..Batch::default() }).unwrap();
    engine.confirm_clock().unwrap();
    engine.compact().unwrap();
    (engine, tags)
}

fn count(engine: &Engine, damage: OnDamage) -> Result<(u64, usize), Error> {
    let day = TimeRange::new(START_NS, START_NS + DAY_NS);
    let request = RollupRequest::new(TagSelection::All, day, MINUTE_NS);
    let snapshot = engine.snapshot();
    let mut rollups = snapshot.rollups(RollupRequest { damage, ..request });
    let mut rows = 0;
    for part in rollups.by_ref() {
        rows += part?.rollups.iter().map(Rollup::rows).sum::<u64>();
    }
    Ok((rows, rollups.skipped().len()))
}

#[test]
fn a_damaged_file_of_rollups_is_named_left_out_and_given_up() {
    let disk = SimDisk::new(1);
    let (engine, _) = rolled_up(&disk);
    assert_eq!(count(&engine, OnDamage::Fail).unwrap(), (2 * 24 * 60, 0));
    let segments = engine.snapshot().segments();
    let of_minutes = segments.iter().find(|segment| segment.tier == "1m").unwrap();
    assert_eq!((of_minutes.rows, of_minutes.tags, of_minutes.chunks), (2 * 24 * 60, 2, 0));
    let file = of_minutes.file.clone();
    engine.close().unwrap();
    disk.flip_bit(&file, 8 * 300); // in the first block
    let engine = reopened(&disk);
    let error = count(&engine, OnDamage::Fail).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { path, .. } if path.ends_with(&file)), "{error}");
    let mut errors = Vec::new();
    assert_eq!(engine.verify(&mut |error| errors.push(error)), 1, "{errors:?}");
    let damage = engine.snapshot().damage();
    let [place] = damage.as_slice() else { panic!("one block is damaged: {damage:?}") };
    assert_eq!(place.file, file);
    let (rows, skipped) = count(&engine, OnDamage::Skip).unwrap();
    assert!(rows < 2 * 24 * 60 && skipped == 1, "{rows} rows, {skipped} skipped");
    // What can be read of the file stays.
    engine.forget_damage(place.segment).unwrap();
    assert!(engine.snapshot().damage().is_empty());
    assert_eq!(count(&engine, OnDamage::Fail).unwrap(), (rows, 0));
    assert_eq!(engine.verify(&mut |error| panic!("{error}")), 0);
    engine.close().unwrap();
}

/// Files of rollups that hold a day, tiers from the coarsest.
fn files_of(engine: &Engine) -> Vec<String> {
    let segments = engine.snapshot().segments();
    let of_day = |tier: &Tier| {
        let name = tier.to_string();
        segments.iter().find(|segment| segment.tier == name).unwrap().file.clone()
    };
    Tier::ALL.iter().rev().map(of_day).collect()
}

#[test]
fn damage_in_the_coarsest_tier_is_left_out_where_late_samples_wait() {
    let disk = SimDisk::new(3);
    let (engine, tags) = rolled_up(&disk);
    let files = files_of(&engine);
    // A sample that came when the tag belonged to a class that keeps more: it lies in a raw segment, and is not shown.
    let belong = |class: Option<&str>| {
        let attributes =
            TagAttributes { retention: class.map(str::to_owned), ..TagAttributes::default() };
        engine.edit_tag(tags[0], TagEdit { attributes: Some(attributes), ..TagEdit::default() })
    };
    let late = TagColumn {
        tag: tags[0],
        times: vec![START_NS + 1],
        values: Values::F64(vec![1e9]),
        qualities: Qualities::GOOD,
    };
    belong(Some(FOR_EVER)).unwrap();
    let appended = engine.append(Batch { columns: vec![late], ..Batch::default() }).unwrap();
    assert!(appended.rejects.is_empty(), "{appended:?}");
    engine.seal().unwrap();
    belong(None).unwrap();
    assert_eq!(count(&engine, OnDamage::Fail).unwrap(), (2 * 24 * 60, 0));
    engine.close().unwrap();
    // A finer tier tells that the day is rolled up: nothing is missed.
    disk.flip_bit(&files[0], 8 * 300);
    let engine = reopened(&disk);
    assert_eq!(count(&engine, OnDamage::Fail).unwrap(), (2 * 24 * 60, 0));
    engine.close().unwrap();
    for file in &files[1..] {
        disk.flip_bit(file, 8 * 300);
    }
    let engine = reopened(&disk);
    let error = count(&engine, OnDamage::Fail).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { .. }), "{error}");
    let (rows, skipped) = count(&engine, OnDamage::Skip).unwrap();
    assert!(rows < 2 * 24 * 60 && skipped >= 1, "{rows} rows, {skipped} skipped");
    engine.close().unwrap();
}

fn reopened(disk: &SimDisk) -> Engine {
    let options = Options { create: false, scrub_period: None, ..Options::default() };
    let clock = Arc::new(TestClock::new(START_NS + 3 * DAY_NS));
    Engine::open_on(Arc::new(disk.clone()), clock, options).unwrap()
}

#[test]
fn a_delete_beyond_raw_takes_whole_days() {
    let disk = SimDisk::new(2);
    let (engine, tags) = rolled_up(&disk);
    let cut = TimeRange::new(START_NS, START_NS + DAY_NS / 2);
    let error = engine.delete(&tags[..1], cut, "a test").unwrap_err();
    assert!(error.to_string().contains("there a delete must take whole days"), "{error}");
    engine.delete(&tags[..1], TimeRange::new(START_NS, START_NS + DAY_NS), "a test").unwrap();
    assert_eq!(count(&engine, OnDamage::Fail).unwrap(), (24 * 60, 0));
    // It may reach into the time of samples at any instant.
    let across = TimeRange::new(START_NS + DAY_NS, START_NS + 2 * DAY_NS + 5);
    engine.delete(&tags[..1], across, "a test").unwrap();
    engine.close().unwrap();
}
