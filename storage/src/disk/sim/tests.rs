//! The simulated disk against a tiny log: one that syncs never loses, each kind of carelessness is caught.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;

use super::{Call, Failure, Fault, Loss, Moment, Random, SimDisk};
use crate::disk::{Disk, DiskFile};

const RECORD_BYTES: usize = 700;

/// What a log may forget to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    Full,
    NoSync,
    NoFolderSync,
    NoChecksum,
}

fn record(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; RECORD_BYTES];
    let mut random = Random::new(number);
    for byte in &mut bytes[12..] {
        *byte = u8::try_from(random.below(256)).unwrap();
    }
    bytes[..8].copy_from_slice(&(number + 1).to_le_bytes());
    let crc = crc32fast::hash(&bytes[12..]) ^ crc32fast::hash(&bytes[..8]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn open_log(disk: &SimDisk, care: Care) -> std::io::Result<Arc<dyn DiskFile>> {
    disk.create_dir("wal")?;
    let file = disk.create("wal/log", 64 << 10)?;
    if care != Care::NoSync {
        file.sync()?;
    }
    if care != Care::NoFolderSync {
        disk.sync_dir("wal")?;
        disk.sync_dir("")?;
    }
    Ok(file)
}

/// Writes records until the disk goes down; gives how many were acknowledged.
fn write_log(disk: &SimDisk, care: Care, records: u64) -> u64 {
    let Ok(file) = open_log(disk, care) else { return 0 };
    for number in 0..records {
        let written = file.write_at(number * RECORD_BYTES as u64, &record(number));
        let synced = if care == Care::NoSync { Ok(()) } else { file.sync() };
        if written.is_err() || synced.is_err() {
            return number;
        }
    }
    records
}

/// The numbers of the records found, or `None` if one is wrong.
fn read_log(disk: &SimDisk, care: Care) -> Option<u64> {
    let Ok(file) = disk.open("wal/log") else { return Some(0) };
    for number in 0.. {
        let mut bytes = vec![0; RECORD_BYTES];
        if file.read_at(number * RECORD_BYTES as u64, &mut bytes).is_err() {
            return Some(number);
        }
        let good = bytes == record(number);
        if care == Care::NoChecksum && bytes[..8] == (number + 1).to_le_bytes() && !good {
            return None;
        }
        if !good {
            return Some(number);
        }
    }
    unreachable!("the file ends")
}

fn losses(care: Care) -> usize {
    let lost = |seed: &u64| {
        let disk = SimDisk::new(*seed);
        disk.crash_after_changes(1 + seed % 40);
        let acked = write_log(&disk, care, 17);
        disk.crash();
        let found = read_log(&disk.restart(), care);
        found.is_none_or(|found| found < acked)
    };
    (0..2_000).filter(lost).count()
}

#[test]
fn a_careful_log_never_loses_what_it_acknowledged() {
    assert_eq!(losses(Care::Full), 0);
}

#[test]
fn carelessness_is_caught() {
    for care in [Care::NoSync, Care::NoFolderSync, Care::NoChecksum] {
        let lost = losses(care);
        assert!(lost > 10, "{care:?} was caught in {lost} of 2,000 seeds");
    }
}

#[test]
fn the_same_seed_leaves_the_same_bytes() {
    let leave = |seed| {
        let disk = SimDisk::new(seed);
        disk.crash_after_changes(15);
        write_log(&disk, Care::NoSync, 17);
        disk.restart().bytes("wal/log")
    };
    for seed in 0..50 {
        assert_eq!(leave(seed), leave(seed), "seed {seed}");
    }
    let distinct: BTreeSet<_> = (0..50).map(leave).collect();
    assert!(distinct.len() > 10, "only {} different crashes", distinct.len());
}

#[test]
fn handles_from_before_a_crash_are_dead() {
    let disk = SimDisk::new(1);
    let file = disk.create("a", 10).unwrap();
    let lock = disk.lock().unwrap();
    assert_eq!(disk.lock().err().unwrap().kind(), ErrorKind::WouldBlock);
    disk.crash();
    assert!(file.write_at(0, b"x").is_err());
    assert!(disk.list("").is_err());
    let next = disk.restart();
    assert!(file.write_at(0, b"x").is_err());
    assert!(disk.list("").is_err());
    let held = next.lock().unwrap();
    drop(lock);
    assert!(next.lock().is_err(), "an old guard released the new lock");
    drop(held);
    next.lock().unwrap();
}

#[test]
fn a_killed_process_leaves_its_unsynced_bytes_to_the_next() {
    let disk = SimDisk::new(2);
    let file = disk.create("a", 0).unwrap();
    file.write_at(3, b"xyz").unwrap();
    disk.kill();
    let next = disk.restart();
    assert_eq!(next.bytes("a").unwrap(), b"\0\0\0xyz");
    let lost = (0..50).filter(|seed| {
        let fork = next.fork(*seed);
        fork.crash();
        fork.restart().bytes("a").is_none_or(|bytes| bytes != b"\0\0\0xyz")
    });
    assert!(lost.count() > 10, "a kill made unsynced bytes durable");
}

#[test]
fn a_failed_sync_drops_pages_that_reads_still_show() {
    let mut lost = 0;
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let file = disk.create("a", 4).unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        file.write_at(0, b"data").unwrap();
        let fault = Fault {
            call: Call::Sync,
            path: String::new(),
            after: 0,
            times: 1,
            failure: Failure::Io,
        };
        disk.add_fault(fault);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(disk.bytes("a").unwrap(), b"data");
        disk.crash();
        lost += usize::from(disk.restart().bytes("a").unwrap() != b"data");
    }
    assert!((5..40).contains(&lost), "{lost} of 40 lost");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::new(3);
    disk.set_capacity(Some(100));
    let file = disk.create("a", 60).unwrap();
    assert_eq!(disk.create("b", 60).err().unwrap().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.files(), [("a".to_owned(), 60)]);
    assert_eq!(file.write_at(90, &[1; 20]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.used_bytes(), 100);
    disk.remove("a").unwrap();
    disk.create("b", 60).unwrap();
}

#[test]
fn faults_count_their_calls() {
    let disk = SimDisk::new(4);
    disk.create_dir("wal").unwrap();
    let fault = |after, times, failure| Fault {
        call: Call::Create,
        path: "wal/".to_owned(),
        after,
        times,
        failure,
    };
    disk.add_fault(fault(1, 1, Failure::TooManyFiles));
    disk.create("other", 0).unwrap();
    disk.create("wal/1", 0).unwrap();
    assert!(disk.create("wal/2", 0).is_err());
    disk.create("wal/2", 0).unwrap();
    disk.add_fault(fault(0, u64::MAX, Failure::ReadOnly));
    for _ in 0..3 {
        let error = disk.create("wal/3", 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(disk.calls(Call::Create), 7);
    disk.clear_faults();
    disk.create("wal/3", 0).unwrap();
}

#[test]
fn a_rename_never_leaves_a_file_without_a_name() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        disk.create_dir("trash").unwrap();
        disk.create("a", 1).unwrap().sync().unwrap();
        disk.sync_dir("").unwrap();
        disk.sync_dir("trash").unwrap();
        disk.rename("a", "trash/a").unwrap();
        if seed % 3 == 0 {
            disk.sync_dir("trash").unwrap();
        }
        disk.crash();
        let names: Vec<String> = disk.restart().files().into_iter().map(|(path, _)| path).collect();
        assert!(!names.is_empty(), "seed {seed} lost the file");
        seen.insert(names);
    }
    assert_eq!(seen.len(), 3, "old, new or both: {seen:?}");
}

#[test]
fn damage_at_rest_is_read_back() {
    let disk = SimDisk::new(5);
    disk.replace("a", &[0; 9_000]);
    disk.flip_bit("a", 8 * 4_100 + 2);
    let file = disk.open("a").unwrap();
    let mut bytes = [0; 9_000];
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes.iter().position(|b| *b != 0), Some(4_100));
    assert_eq!(bytes[4_100], 4);
    assert!(file.read_at(1, &mut bytes).is_err(), "a read past the end succeeded");
    let fault = Fault {
        call: Call::Read,
        path: String::new(),
        after: 0,
        times: 1,
        failure: Failure::FlippedBit,
    };
    disk.replace("a", &[0; 10]);
    disk.add_fault(fault);
    let mut bytes = [0; 10];
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
    disk.lose("a");
    assert_eq!(disk.open("a").err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn held_syncs_wait_until_released() {
    let disk = SimDisk::new(6);
    let file = disk.create("a", 1).unwrap();
    disk.hold_syncs(true);
    let waiting = std::thread::spawn(move || file.sync());
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!waiting.is_finished());
    disk.hold_syncs(false);
    waiting.join().unwrap().unwrap();
    let file = disk.open("a").unwrap();
    disk.hold_syncs(true);
    let waiting = std::thread::spawn(move || file.sync());
    disk.crash();
    assert!(waiting.join().unwrap().is_err());
}

#[test]
fn every_failure_that_is_continued_is_never_heard_of() {
    for call in Call::ALL {
        for failure in call.failures().iter().filter(|failure| failure.is_continued()) {
            let disk = SimDisk::new(8);
            let times = if *failure == Failure::Interrupted { 3 } else { u64::MAX };
            disk.add_fault(Fault { times, ..Fault::lasting(call, *failure) });
            let _guard = disk.lock().unwrap();
            disk.create_dir("wal").unwrap();
            let file = disk.create("wal/a", 3).unwrap();
            file.write_at(2, &[7; 3_000]).unwrap();
            file.sync().unwrap();
            disk.sync_dir("wal").unwrap();
            file.truncate(2_000).unwrap();
            let mut bytes = vec![0; 2_000];
            disk.open("wal/a").unwrap().read_at(0, &mut bytes).unwrap();
            assert!(bytes[2..].iter().all(|byte| *byte == 7), "{call:?} {failure:?}");
        }
    }
}

#[test]
fn a_full_quota_is_a_full_disk() {
    for failure in [Failure::Quota, Failure::TooLarge, Failure::NoSpace] {
        let disk = SimDisk::new(9);
        let file = disk.create("a", 0).unwrap();
        disk.add_fault(Fault::lasting(Call::Write, failure));
        disk.add_fault(Fault::lasting(Call::Create, failure));
        assert_eq!(file.write_at(0, &[1; 9]).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(disk.create("b", 9).err().unwrap().kind(), ErrorKind::StorageFull);
    }
}

#[test]
fn a_plan_ends_the_disk_at_its_change() {
    for (moment, written) in [(Moment::Before, 0), (Moment::After, 7)] {
        let disk = SimDisk::new(10);
        let file = disk.create("a", 1).unwrap();
        file.sync().unwrap();
        disk.sync_dir("").unwrap();
        disk.end_at_change(1, moment, Loss::Process);
        assert!(file.write_at(0, &[7]).is_err());
        assert!(disk.is_down());
        assert_eq!(disk.fork(1).restart().bytes("a").unwrap(), [written], "nothing is lost yet");
        let fates = (0..64).map(|seed| {
            let fate = disk.fork(seed);
            fate.crash();
            fate.restart().bytes("a").unwrap()[0]
        });
        let fates: BTreeSet<u8> = fates.collect();
        assert_eq!(fates, BTreeSet::from([0, written]));
    }
}

#[test]
fn a_folder_in_place_of_a_file_is_refused() {
    let disk = SimDisk::new(11);
    disk.replace("a", &[1]);
    disk.replace_with_folder("a");
    assert_eq!(disk.open("a").err().unwrap().kind(), ErrorKind::InvalidInput);
    assert_eq!(disk.create("a", 0).err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert!(disk.remove("a").is_err());
    assert!(disk.list("").unwrap().is_empty());
}
