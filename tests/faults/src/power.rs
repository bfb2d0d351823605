//! Power cuts on a real file system: a victim works on a disk that remembers every write and flush, and the disk is put
//! back to many moments of that.
//!
//! # Contract
//! * A cut keeps what was flushed before it, and of the later writes any subset of their sectors of 512 bytes; of the
//!   [`SUPERBLOCK`] both or none.
//! * The file system mounts that image, replays its own journal, and the database must hold what was acknowledged up to the
//!   cut. Some cuts are gone on from: the next victim opens that disk and is cut too, also amid its recovery.
//! * A victim whose syncs do nothing must be seen to lose data. Otherwise this harness is blind and fails.
//!
//! # Reading order
//! [`device`] (the disk), this file (cuts).

pub(crate) mod device;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tagmill_storage::disk::sim::Random;

use crate::checker::{Checker, Leave};
use crate::ledger;
use crate::mounts::{self, Loop, Mount};
use crate::process::{self, End, has, tool};
use crate::report::Report;
use crate::victim::Orders;
use device::{Device, Entry};

/// Steps of a victim.
const STEPS: usize = 40;
/// Cuts of one victim.
const CUTS_PER_LIFE: usize = 20;
const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// Where ext4 has its superblock. Its checksum is over both sectors, and it takes them for written as one: torn, the disk
/// wants `e2fsck` before anybody mounts it, and nothing of ours is to be seen.
const SUPERBLOCK: Range<usize> = 1024..2048;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Decides victims and cuts.
    pub(crate) seed: u64,
    /// How many cuts.
    pub(crate) cuts: usize,
    /// Whether every file system there is gets its share, or ext4 alone.
    pub(crate) is_long: bool,
}

/// A file system to put the database on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileSystem {
    name: &'static str,
    make: &'static [&'static str],
    bytes: usize,
    options: &'static str,
}

/// The first is the one of every run.
const FILE_SYSTEMS: [FileSystem; 5] = [
    FileSystem { name: "ext4", make: EXT4, bytes: 24 << 20, options: "noatime" },
    FileSystem { name: "ext4", make: EXT4, bytes: 24 << 20, options: "noatime,data=writeback" },
    FileSystem { name: "ext4", make: EXT4, bytes: 24 << 20, options: "noatime,data=journal" },
    FileSystem { name: "xfs", make: &["-q", "-f"], bytes: 320 << 20, options: "noatime,nouuid" },
    FileSystem { name: "btrfs", make: &["-q", "-f"], bytes: 128 << 20, options: "noatime" },
];
const EXT4: &[&str] = &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];

/// A disk at rest, with what is known of the database on it.
struct Before {
    image: Vec<u8>,
    checker: Checker,
    seed: u64,
    system: FileSystem,
}

/// Runs the harness, and its counter-check.
pub(crate) fn run(plan: &Plan, namespace: &Result<(), String>) -> Vec<Report> {
    let why_not = ["mkfs.ext4", "losetup", "mount"]
        .into_iter()
        .find(|tool| !has(tool))
        .map(|tool| format!("there is no {tool}: install e2fsprogs and util-linux"))
        .or_else(|| (!Path::new("/dev/fuse").exists()).then(|| "there is no /dev/fuse".into()))
        .or_else(|| namespace.clone().err());
    if let Some(why) = why_not {
        return vec![Report::skipped("power", plan.seed, why)];
    }
    if let Err(why) = probe() {
        return vec![Report::skipped("power", plan.seed, why)];
    }
    vec![short_calls(plan.seed), cuts(plan), careless(plan)]
}

/// Whether such a disk can be made here at all: anything that fails later is a failure.
fn probe() -> Result<(), String> {
    let folder = folder()?;
    let device = Device::new(vec![0; 24 << 20], 0);
    let point = made(&folder, "device")?;
    let _session = device.mount(&point).map_err(|error| format!("no FUSE here: {error}"))?;
    let attached = Loop::attach(&point.join("disk.img"));
    attached.map(drop).map_err(|error| format!("no loop device here: {error}"))
}

/// Reads and writes that move fewer bytes than asked are continued by the real disk.
fn short_calls(seed: u64) -> Report {
    let mut report = Report::new("short-calls", seed);
    if let Err(why) = short_calls_in(seed, &mut report) {
        report.fail(&why, &format!("power --seed {seed}"));
    }
    report.ended()
}

fn short_calls_in(seed: u64, report: &mut Report) -> Result<(), String> {
    use tagmill_storage::disk::Disk;
    let mut random = Random::new(seed);
    let folder = folder()?;
    let point = made(&folder, "device")?;
    let device = Device::new(Vec::new(), seed);
    let _session = device.mount(&point).map_err(said("FUSE"))?;
    let disk = tagmill_storage::disk::real::RealDisk::open(&point, false).map_err(said("open"))?;
    let file = disk.open_writable("short").map_err(said("open"))?;
    let mut expected = vec![0; 1 << 20];
    for _ in 0..200 {
        let offset = random.index(1 << 19);
        let bytes: Vec<u8> = (0..=random.index(1 << 14)).map(|_| low(&mut random)).collect();
        file.write_at(offset as u64, &bytes).map_err(said("short write"))?;
        expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
        let mut found = vec![0; 1 + random.index(1 << 15)];
        let offset = random.index(1 << 19);
        file.read_at(offset as u64, &mut found).map_err(said("short read"))?;
        if found != expected[offset..offset + found.len()] {
            return Err(format!("{} bytes at {offset} were read wrong", found.len()));
        }
        report.cases += 2;
    }
    Ok(())
}

fn low(random: &mut Random) -> u8 {
    random.bits().to_le_bytes()[0]
}

fn cuts(plan: &Plan) -> Report {
    let mut report = Report::new("power", plan.seed);
    let mut random = Random::new(plan.seed);
    let repeat = format!("power --seed {} --points {}", plan.seed, plan.cuts);
    let mut victims = 0;
    let mut carried: Option<Before> = None;
    while report.cases < plan.cuts as u64 && report.failures.len() < 10 {
        let systems: Vec<FileSystem> = FILE_SYSTEMS
            .into_iter()
            .filter(|system| plan.is_long && has(&format!("mkfs.{}", system.name)))
            .collect();
        let system =
            systems.get(victims % systems.len().max(1)).copied().unwrap_or(FILE_SYSTEMS[0]);
        victims += 1;
        let seed = random.bits() >> 32;
        let before = carried.take().map_or_else(|| blank(seed, system), Ok);
        let left = usize::try_from(plan.cuts as u64 - report.cases).unwrap_or(0);
        let count = CUTS_PER_LIFE.min(left);
        let lived = before.and_then(|before| {
            let log = live(&before, false)?;
            Ok((cut(&before, &log, count, &mut random, &mut report), log.len()))
        });
        match lived {
            Ok((outcome, events)) => {
                report.add("lives", 1);
                report.add("disk_events", events as u64);
                for why in outcome.wrong {
                    report.fail(&why, &repeat);
                }
                carried = outcome.next;
            }
            Err(why) => report.fail(&why, &repeat),
        }
    }
    report.ended()
}

/// Without syncs data must be lost, and be seen to be lost.
fn careless(plan: &Plan) -> Report {
    let mut report = Report::new("power-without-syncs", plan.seed);
    let mut random = Random::new(plan.seed ^ 1);
    let mut lost = 0;
    let result = (0..2).try_for_each(|_| {
        let before = blank(random.bits() >> 32, FILE_SYSTEMS[0])?;
        let log = live(&before, true)?;
        let mut silent = Report::new("power-without-syncs", plan.seed);
        let outcome = cut(&before, &log, CUTS_PER_LIFE, &mut random, &mut silent);
        report.cases += CUTS_PER_LIFE as u64;
        lost += outcome.wrong.len() as u64;
        Ok::<(), String>(())
    });
    report.add("losses_seen", lost);
    let why = match result {
        Err(why) => Some(why),
        Ok(()) if lost * 2 < report.cases => {
            Some(format!("only {lost} of {} cuts lost anything: it is blind", report.cases))
        }
        Ok(()) => None,
    };
    if let Some(why) = why {
        report.fail(&why, &format!("power --seed {}", plan.seed));
    }
    report.ended()
}

/// A freshly made file system.
fn blank(seed: u64, system: FileSystem) -> Result<Before, String> {
    let folder = folder()?;
    let file = folder.path().join("blank.img");
    let sized = File::create_new(&file).and_then(|image| image.set_len(system.bytes as u64));
    sized.map_err(said("image"))?;
    let name = mounts::path(&file);
    let make = [system.make, &[name.as_str()]].concat();
    tool(&format!("mkfs.{}", system.name), &make).map_err(said("mkfs"))?;
    let image = std::fs::read(&file).map_err(said("image"))?;
    Ok(Before { image, checker: Checker::new(seed, Leave::default()), seed, system })
}

/// Lets a victim live on the disk and gives what happened there.
fn live(before: &Before, is_careless: bool) -> Result<Vec<Entry>, String> {
    let folder = folder()?;
    let (point, target) = (made(&folder, "device")?, made(&folder, "mounted")?);
    let device = Device::new(before.image.clone(), before.seed);
    let session = device.mount(&point).map_err(said("FUSE"))?;
    let attached = Loop::attach(&point.join("disk.img")).map_err(said("loop"))?;
    let arguments = ["-t", before.system.name, "-o", before.system.options, attached.device()];
    device.restart_log();
    let mount = Mount::new(&arguments, &target).map_err(said("mount"))?;
    drop(attached);
    let orders = Orders {
        data: target.join("data"),
        seed: before.seed,
        first: before.checker.next_step,
        steps: STEPS,
        is_careless,
    };
    let ledger = File::options().append(true).open(point.join("ledger")).map_err(said("ledger"))?;
    let end = process::run(process::victim(&orders).map_err(said("victim"))?, ledger);
    let log = device.take_log(); // before the file system writes what an unmount writes
    let end = end.map_err(said("victim"));
    mount.unmount().map_err(said("unmount"))?;
    drop(session);
    match end? {
        End::Well => Ok(log),
        other => Err(format!("a victim of seed {} ended {other:?}", before.seed)),
    }
}

/// What came of the cuts of one life.
struct Cuts {
    wrong: Vec<String>,
    /// One of the disks, to go on from.
    next: Option<Before>,
}

/// Cuts the power at `count` moments of the log.
fn cut(
    before: &Before,
    log: &[Entry],
    count: usize,
    random: &mut Random,
    report: &mut Report,
) -> Cuts {
    let mut moments: Vec<usize> = (0..count).map(|_| moment(log, random)).collect();
    moments.sort_unstable();
    let carried = random.index(count * 2);
    let mut cuts = Cuts { wrong: Vec::new(), next: None };
    let mut flushed = before.image.clone();
    let mut applied = 0;
    for (number, moment) in moments.into_iter().enumerate() {
        let is_flush = |entry: &Entry| matches!(entry, Entry::Flush);
        let flush = log[..moment].iter().rposition(is_flush).unwrap_or(0).max(applied);
        for entry in &log[applied..flush] {
            if let Entry::Write { offset, bytes } = entry {
                flushed[*offset..*offset + bytes.len()].copy_from_slice(bytes);
            }
        }
        applied = flush;
        let torn = tear(&log[flush..moment], random);
        report.cases += 1;
        report.add("torn_sectors", torn.len() as u64);
        let mut checker = before.checker.clone();
        let told = heard(&log[..moment]).and_then(|events| checker.take(&events));
        if number == carried {
            let mut image = flushed.clone();
            for (at, bytes) in &torn {
                image[*at..*at + bytes.len()].copy_from_slice(bytes);
            }
            let (seed, system) = (before.seed, before.system);
            cuts.next = Some(Before { image, checker: checker.clone(), seed, system });
        }
        match told.and_then(|()| look(before.system, &flushed, &torn, &mut checker)) {
            Ok(()) => {
                report.add("durable", checker.counts.durable - before.checker.counts.durable);
                report.add("rows", checker.counts.rows - before.checker.counts.rows);
            }
            Err(why) => {
                let (system, options) = (before.system.name, before.system.options);
                let seed = before.seed;
                let place = format!("{moment} of {} disk events", log.len());
                cuts.wrong.push(format!("{system} ({options}), victim {seed}, at {place}: {why}"));
            }
        }
    }
    cuts
}

/// A moment to cut at: anywhere, right before a flush, or right after something was promised or flushed.
fn moment(log: &[Entry], random: &mut Random) -> usize {
    let any = random.index(log.len() + 1);
    if random.once_in(3) {
        return any;
    }
    if random.once_in(2) {
        let is_flush = |entry: &Entry| matches!(entry, Entry::Flush);
        return log[any..].iter().position(is_flush).map_or(any, |at| any + at);
    }
    let is_turn = |entry: &Entry| !matches!(entry, Entry::Write { .. });
    let turn = log[..any].iter().rposition(is_turn).map_or(any, |at| at + 1);
    (turn + random.index(3)).min(log.len())
}

/// Of the writes after the last flush, those sectors that reached the medium.
fn tear(unflushed: &[Entry], random: &mut Random) -> Vec<(usize, Vec<u8>)> {
    let odds = [0, 1, 2, 2, 4, 10][random.index(6)];
    let mut kept = Vec::new();
    for entry in unflushed {
        let Entry::Write { offset, bytes } = entry else { continue };
        let mut is_kept = false;
        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = offset + number * SECTOR;
            let goes_with_the_last =
                number > 0 && SUPERBLOCK.contains(&at) && at > SUPERBLOCK.start;
            if !goes_with_the_last {
                is_kept = match odds {
                    0 => false,
                    1 => true,
                    odds => random.once_in(odds),
                };
            }
            if is_kept {
                kept.push((at, sector.to_vec()));
            }
        }
    }
    kept
}

/// What the victim had said by then.
fn heard(log: &[Entry]) -> Result<Vec<ledger::Event>, String> {
    let mut bytes = Vec::new();
    for entry in log {
        if let Entry::Said(line) = entry {
            bytes.extend_from_slice(line);
        }
    }
    ledger::parse(&bytes)
}

/// Mounts the disk as the cut left it and looks at the database.
fn look(
    system: FileSystem,
    flushed: &[u8],
    torn: &[(usize, Vec<u8>)],
    checker: &mut Checker,
) -> Result<(), String> {
    let folder = folder()?;
    let file = folder.path().join("cut.img");
    let image = File::create_new(&file).map_err(said("image"))?;
    image.set_len(flushed.len() as u64).map_err(said("image"))?;
    let zeros = [0; BLOCK];
    for (number, block) in flushed.chunks(BLOCK).enumerate() {
        if *block != zeros[..block.len()] {
            image.write_all_at(block, (number * BLOCK) as u64).map_err(said("image"))?;
        }
    }
    for (at, bytes) in torn {
        image.write_all_at(bytes, *at as u64).map_err(said("image"))?;
    }
    let target = made(&folder, "mounted")?;
    let options = format!("loop,{}", system.options);
    let arguments = ["-t", system.name, "-o", &options, &mounts::path(&file)];
    let mount = Mount::new(&arguments, &target).map_err(said("mount after a cut"))?;
    let result = checker.check(&target.join("data"));
    mount.unmount().map_err(said("unmount"))?;
    result
}

fn folder() -> Result<tempfile::TempDir, String> {
    crate::syscalls::scratch()
}

fn made(folder: &tempfile::TempDir, name: &str) -> Result<PathBuf, String> {
    let path = folder.path().join(name);
    std::fs::create_dir(&path).map_err(said("folder"))?;
    Ok(path)
}

fn said(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}
