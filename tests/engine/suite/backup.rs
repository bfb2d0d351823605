//! Backups taken beside the writers, restored, and held against what the database held at that instant.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::harness::{Harness, Place};
use tagmill_engine_tests::model::digest;
use tagmill_engine_tests::observe;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_engine_tests::steps::Step;
use tagmill_storage::disk::Disk;
use tagmill_storage::disk::sim::{Random, SimDisk};
use tagmill_storage::{Engine, Error, Options, Seq, restore, restore_on};

fn shared(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn open(disk: &SimDisk) -> Result<Engine, Error> {
    let clock = Arc::new(TestClock::new(0));
    Engine::open_on(shared(disk), clock, Options { create: false, ..Options::default() })
}

/// Restores a backup onto a new disk and opens it.
fn restored(backup: &SimDisk) -> Result<Engine, Error> {
    let target = SimDisk::new(77);
    restore_on(&shared(backup), &shared(&target), false)?;
    Ok(open(&target).expect("a restored database opens"))
}

fn digest_of(engine: &Engine) -> u64 {
    digest(&observe::rows(&engine.snapshot()).expect("every row can be read"))
}

/// What the rows were at `seq`.
fn digest_at(history: &[(Seq, u64)], seq: Seq) -> u64 {
    let last = history.partition_point(|(at, _)| *at <= seq);
    history[last.checked_sub(1).expect("history begins with the open")].1
}

fn disk_of(harness: &Harness) -> SimDisk {
    let Place::Sim(disk) = &harness.place else { panic!("a simulated disk") };
    disk.clone()
}

/// A harness with a history, some way into its life.
fn lived(seed: u64, steps: u64) -> Harness {
    let mut harness = Harness::new(seed, Place::Sim(SimDisk::new(seed)));
    harness.keeps_history = true;
    harness.open();
    for _ in 0..steps {
        harness.step();
    }
    harness
}

#[test]
fn a_backup_beside_the_writers_is_one_instant() {
    let seeds = seeds(4);
    println!("seeds {} ..", seeds[0]);
    let mut taken = 0;
    for seed in seeds {
        let _case = Case::new("backup::a_backup_beside_the_writers_is_one_instant", seed);
        let mut harness = lived(seed, 20);
        let stop = Arc::new(AtomicBool::new(false));
        let backups = std::thread::spawn({
            let (engine, stop) = (Arc::clone(harness.engine()), Arc::clone(&stop));
            let mut random = Random::new(seed);
            move || {
                let mut backups: Vec<(Seq, SimDisk)> = Vec::new();
                while backups.len() < 3 || (!stop.load(Ordering::SeqCst) && backups.len() < 6) {
                    // Into a new folder, or on top of the last backup.
                    let folder = match backups.last() {
                        Some((_, last)) if random.once_in(2) => last.fork(random.bits()),
                        _ => SimDisk::new(random.bits()),
                    };
                    let report = engine.backup_on(&shared(&folder), false).expect("a healthy disk");
                    backups.push((report.seq, folder));
                }
                backups
            }
        });
        for _ in 0..60 {
            harness.step();
        }
        stop.store(true, Ordering::SeqCst);
        let backups = backups.join().unwrap();
        harness.engine().sync().unwrap();
        harness.settle_doubts();
        for (seq, folder) in &backups {
            let engine = restored(folder).unwrap();
            assert_eq!(digest_of(&engine), digest_at(&harness.history, *seq), "backup at {seq}");
            assert!(engine.snapshot().seq() >= *seq);
            assert_eq!(engine.verify(&mut |error| panic!("{error}")), 0);
        }
        taken += backups.len();
        let folder = SimDisk::new(seed);
        harness.engine().backup_on(&shared(&folder), false).unwrap();
        let engine = restored(&folder).unwrap();
        let snapshot = engine.snapshot();
        let rows = observe::rows(&snapshot).unwrap();
        assert_eq!(observe::compare(&harness.settled, &snapshot, &rows), None);
        assert_eq!(observe::compare_gateways(&harness.settled, &engine), None);
        assert_ne!(engine.incarnation(), harness.engine().incarnation());
        drop(engine);
        harness.close();
    }
    println!("{taken} backups");
}

#[test]
fn a_crash_while_a_backup_is_made_leaves_the_source_whole() {
    let seeds = seeds(40);
    println!("seeds {} ..", seeds[0]);
    let mut during = 0;
    for (at, seed) in (1..).zip(seeds) {
        let _case =
            Case::new("backup::a_crash_while_a_backup_is_made_leaves_the_source_whole", seed);
        let mut harness = lived(seed, 12);
        harness.perform(Step::Append);
        let is_up = !harness.is_down();
        disk_of(&harness).crash_after_changes(1 + at % 20);
        let taken = harness.engine().backup_on(&shared(&SimDisk::new(at)), false);
        during += usize::from(is_up && harness.is_down());
        if taken.is_ok() && !harness.is_down() {
            harness.settle_doubts();
        }
        harness.crash();
        harness.open();
        harness.check();
        harness.close();
    }
    println!("{during} crashes during the backup");
    assert!(during > 0, "every crash came after the backup");
}

#[test]
fn a_broken_off_backup_is_none_and_the_next_one_completes_it() {
    let harness = lived(9, 40);
    harness.engine().sync().unwrap();
    let whole = digest_of(harness.engine());
    let (mut unfinished, mut finished) = (0, 0);
    for at in 1.. {
        let folder = SimDisk::new(at);
        folder.crash_after_changes(at);
        let taken = harness.engine().backup_on(&shared(&folder), false);
        let folder = folder.restart();
        match restored(&folder) {
            Ok(engine) => {
                assert_eq!(digest_of(&engine), whole, "cut at change {at}");
                finished += 1;
            }
            Err(error) => {
                assert!(taken.is_err(), "a finished backup is lost at change {at}: {error}");
                assert!(matches!(error, Error::Invalid(_)), "cut at change {at}: {error}");
                assert!(open(&folder).is_err(), "half a backup was opened as a database");
                unfinished += 1;
            }
        }
        harness.engine().backup_on(&shared(&folder), false).expect("it is made again");
        assert_eq!(digest_of(&restored(&folder).unwrap()), whole, "made again after change {at}");
        if taken.is_ok() {
            break;
        }
    }
    println!("{unfinished} unfinished, {finished} finished");
    assert!(unfinished > 5);
}

#[test]
fn an_earlier_backup_counts_until_the_next_one_does() {
    let mut harness = lived(10, 40);
    harness.engine().sync().unwrap();
    let folder = SimDisk::new(1);
    harness.engine().backup_on(&shared(&folder), false).unwrap();
    let before = digest_of(&restored(&folder).unwrap());
    for _ in 0..30 {
        harness.perform(Step::Append);
    }
    harness.perform(Step::Delete);
    harness.engine().sync().unwrap();
    let after = digest_of(harness.engine());
    assert_ne!(before, after);
    let (mut old, mut new) = (0, 0);
    for at in 1.. {
        let folder = folder.fork(at);
        folder.crash_after_changes(at);
        let taken = harness.engine().backup_on(&shared(&folder), false);
        let found = digest_of(&restored(&folder.restart()).expect("one of them is there"));
        assert!(found == before || found == after, "a mixture, cut at change {at}");
        assert!(taken.is_err() || found == after);
        if found == after {
            new += 1;
        } else {
            old += 1;
        }
        if taken.is_ok() {
            break;
        }
    }
    println!("{old} times the old one, {new} times the new one");
    assert!(old > 3 && new > 0);
}

#[test]
fn a_restore_that_was_cut_short_is_no_database() {
    let harness = lived(15, 40);
    harness.engine().sync().unwrap();
    let whole = digest_of(harness.engine());
    let folder = SimDisk::new(1);
    harness.engine().backup_on(&shared(&folder), false).unwrap();
    let (mut refused, mut opened) = (0, 0);
    for at in 1.. {
        let target = SimDisk::new(at);
        target.crash_after_changes(at);
        let done = restore_on(&shared(&folder), &shared(&target), false);
        let target = target.restart();
        match open(&target) {
            Ok(engine) => {
                assert_eq!(digest_of(&engine), whole, "cut at change {at}");
                opened += 1;
            }
            Err(error) => {
                assert!(done.is_err(), "a finished restore does not open: {error}");
                refused += 1;
            }
        }
        if done.is_ok() {
            break;
        }
    }
    println!("{refused} times none, {opened} times whole");
    assert!(refused > 5 && opened > 0);
}

#[test]
fn what_is_no_complete_backup_is_refused_and_so_is_a_full_target() {
    let mut harness = lived(11, 30);
    let folder = SimDisk::new(1);
    harness.engine().backup_on(&shared(&folder), false).unwrap();
    let error = open(&folder).unwrap_err().to_string();
    assert!(error.contains("tagmill restore"), "{error}");
    let other = lived(12, 10);
    let refused = other.engine().backup_on(&shared(&folder), false).unwrap_err().to_string();
    assert!(refused.contains("another database"), "{refused}");
    harness.close();
    let source = disk_of(&harness).restart();
    let error = restore_on(&shared(&source), &shared(&SimDisk::new(2)), false).unwrap_err();
    assert!(error.to_string().contains("no backup"), "{error}");
    let refused = other.engine().backup_on(&shared(&source), false).unwrap_err().to_string();
    assert!(refused.contains("something else"), "{refused}");
    let error = restore_on(&shared(&folder), &shared(&source), false).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn every_damaged_byte_of_a_backup_is_found_before_it_is_used() {
    let mut harness = lived(13, 60);
    harness.perform(Step::Append);
    harness.engine().sync().unwrap();
    let whole = digest_of(harness.engine());
    let folder = SimDisk::new(1);
    harness.engine().backup_on(&shared(&folder), false).unwrap();
    let mut random = Random::new(5);
    let (mut refused, mut accepted) = (0, 0);
    for (path, length) in folder.files() {
        if !path.starts_with("segments/") && !path.starts_with("registry") {
            continue;
        }
        for _ in 0..12 {
            let damaged = folder.fork(random.bits());
            damaged.flip_bit(&path, random.below(length * 8));
            let error = restored(&damaged).expect_err("damage went unseen");
            assert!(matches!(error, Error::Corrupt { .. }), "{path}: {error}");
            refused += 1;
            let target = SimDisk::new(3);
            if let Ok(report) = restore_on(&shared(&damaged), &shared(&target), true) {
                assert!(report.damaged > 0);
                let engine = open(&target).unwrap();
                assert_eq!(engine.snapshot().damage().len() as u64, report.damaged);
                accepted += 1;
            }
        }
    }
    println!("{refused} refused, {accepted} restored with the damage in quarantine");
    assert!(accepted > 0);
    assert_eq!(digest_of(&restored(&folder).unwrap()), whole);
}

#[test]
fn what_rots_in_a_backup_is_mended_by_the_next_one() {
    let mut harness = Harness::new(16, Place::Sim(SimDisk::new(16)));
    harness.options.background_compaction = false;
    harness.open();
    for _ in 0..40 {
        harness.step();
    }
    harness.perform(Step::Append);
    harness.engine().sync().unwrap();
    let whole = digest_of(harness.engine());
    let folder = SimDisk::new(1);
    harness.engine().backup_on(&shared(&folder), false).unwrap();
    let mut random = Random::new(6);
    let mut mended = 0;
    let files: Vec<_> =
        folder.files().into_iter().filter(|(path, _)| path.starts_with("segments/")).collect();
    for _ in 0..12 {
        let (path, length) = &files[random.index(files.len())];
        let rotten = folder.fork(random.bits());
        rotten.flip_bit(path, random.below(length * 8));
        restored(&rotten).unwrap_err();
        let report = harness.engine().backup_on(&shared(&rotten), false).unwrap();
        let now = harness.engine().snapshot().segments();
        if now.iter().any(|segment| segment.file == *path) {
            assert_eq!(report.mended, 1, "{path}: {report:?}");
            mended += 1;
        }
        assert_eq!(digest_of(&restored(&rotten).unwrap()), whole);
    }
    println!("{mended} mended");
    assert!(mended > 0);
    harness.close();
}

#[test]
fn segments_are_linked_or_copied_and_never_twice() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let mut harness = Harness::new(14, Place::Real(path("data")));
    harness.open();
    for _ in 0..30 {
        harness.step();
    }
    harness.perform(Step::Append);
    harness.engine().sync().unwrap();
    harness.settle_doubts();
    let linked = harness.engine().backup(&path("linked"), true).unwrap();
    assert_eq!((linked.linked, linked.copied), (linked.segments, 0));
    let copied = harness.engine().backup(&path("copied"), false).unwrap();
    assert_eq!((copied.linked, copied.copied), (0, copied.segments));
    let inodes = |folder: &str| {
        let files = std::fs::read_dir(path(folder).join("segments")).unwrap();
        let inode =
            |file: std::io::Result<std::fs::DirEntry>| file.unwrap().metadata().unwrap().ino();
        files.map(inode).collect::<BTreeSet<u64>>()
    };
    for (folder, may_link) in
        [("linked", true), ("copied", true), ("linked", false), ("copied", false)]
    {
        let is_shared = !inodes(folder).is_disjoint(&inodes("data"));
        assert_eq!(is_shared, folder == "linked", "{folder}");
        let again = harness.engine().backup(&path(folder), may_link).unwrap();
        if is_shared && !may_link {
            assert_eq!(again.copied, again.segments, "a linked file is no copy");
            assert!(inodes(folder).is_disjoint(&inodes("data")));
        } else {
            assert_eq!(again.kept, again.segments, "{folder}");
        }
        assert_eq!(again.mended, 0);
        let target = path(&format!("{folder} restored {may_link}"));
        let report = restore(&path(folder), &target, false).unwrap();
        assert_eq!((report.segments, report.damaged), (again.segments, 0));
        let engine = Engine::open(&target, Options::default()).unwrap();
        let snapshot = engine.snapshot();
        let rows = observe::rows(&snapshot).unwrap();
        assert_eq!(observe::compare(&harness.settled, &snapshot, &rows), None);
    }
    harness.close();
}
