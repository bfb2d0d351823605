//! A file system that fills up: 16 MiB of ext4, as much of tmpfs, and a tmpfs without inodes.
//!
//! # Contract
//! * Writes go on until the disk is full and are then refused as certainly not written, never in another way; nothing that
//!   was acknowledged is lost; reads go on.
//! * With the room that the engine has set aside a delete succeeds on the full disk. An open does, or is refused for want
//!   of space, loses nothing, and succeeds once there is some.
//! * When somebody frees space, writes resume by themselves, and the room is set aside again.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::model::{Change, Model, difference};
use tagmill_engine_tests::observe;
use tagmill_storage::disk::real::RealDisk;
use tagmill_storage::disk::sim::Random;
use tagmill_storage::{
    Batch, Engine, Error, Options, Outcome, Qualities, SECOND_NS, TagColumn, TagDefinition, TagId,
    TimeRange, ValueType, Values,
};

use crate::mounts::{self, Mount};
use crate::process::{has, tool};
use crate::report::Report;

const DISK_BYTES: u64 = 16 << 20;
const BASE_NS: i64 = 1_767_225_600 * SECOND_NS;
const TAGS: u32 = 4;
/// Samples of one tag in one batch.
const SAMPLES: usize = 500;
/// No disk of this size takes more batches.
const BATCHES_MAX: usize = 4_000;
/// How long something that the engine does by itself may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `cases` full disks, in turn of each kind.
pub(crate) fn run(seed: u64, cases: usize, namespace: &Result<(), String>) -> Report {
    const NAME: &str = "full";
    if let Err(why) = namespace {
        return Report::skipped(NAME, seed, why.clone());
    }
    let mut report = Report::new(NAME, seed);
    let mut random = Random::new(seed);
    let mut has_room = true;
    for number in 0..cases {
        let kind = number % 3;
        if kind == 0 && !has("mkfs.ext4") {
            has_room = false;
            continue;
        }
        let victim = random.bits();
        report.cases += 1;
        if let Err(why) = fill(kind, victim, &mut report) {
            let what = format!("{} ({number}): {why}", ["ext4", "tmpfs", "tmpfs inodes"][kind]);
            report.fail(&what, &format!("full --seed {seed} --points {cases}"));
        }
    }
    if !has_room {
        eprintln!("SKIPPED full on ext4: there is no mkfs.ext4: install e2fsprogs");
    }
    report.ended()
}

fn fill(kind: usize, seed: u64, report: &mut Report) -> Result<(), String> {
    let folder = crate::syscalls::scratch()?;
    let point = folder.path().join("mounted");
    std::fs::create_dir(&point).map_err(|e| e.to_string())?;
    let mount = mounted(kind, folder.path(), &point).map_err(|e| e.to_string())?;
    let result = Filler::open(&point, seed).and_then(|mut filler| filler.live(&point, report));
    mount.unmount().map_err(|error| error.to_string())?;
    result
}

fn mounted(kind: usize, folder: &Path, point: &Path) -> std::io::Result<Mount> {
    let inodes = if kind == 2 { ",nr_inodes=24" } else { "" };
    if kind > 0 {
        let options = format!("size={DISK_BYTES}{inodes}");
        return Mount::new(&["-t", "tmpfs", "-o", &options, "tagmill-full"], point);
    }
    let file = folder.join("full.img");
    File::create_new(&file)?.set_len(DISK_BYTES)?;
    tool("mkfs.ext4", &["-q", "-F", &mounts::path(&file)])?;
    Mount::new(&["-t", "ext4", "-o", "loop,noatime", &mounts::path(&file)], point)
}

/// An engine on a disk that fills, and what it has acknowledged.
struct Filler {
    engine: Option<Engine>,
    model: Model,
    random: Random,
    defines: Vec<(TagId, TagDefinition)>,
    batches: i64,
}

impl Filler {
    fn open(point: &Path, seed: u64) -> Result<Self, String> {
        let mut random = Random::new(seed);
        // Somebody else's data, which can be removed later.
        let others = vec![1; 1 << 20];
        for number in 0..4 {
            let made = std::fs::write(point.join(format!("other-{number}")), &others);
            made.map_err(|error| format!("filler: {error}"))?;
        }
        let defines = (0..TAGS)
            .map(|tag| (TagId(tag), TagDefinition::new(format!("full/{tag}"), ValueType::F64)));
        let defines: Vec<_> = defines.collect();
        let engine = Some(opened(point).map_err(|error| format!("open: {error}"))?);
        let random = random.split();
        let mut filler = Self { engine, model: Model::default(), random, defines, batches: 0 };
        let tags: Vec<_> = filler.defines.iter().map(|(_, tag)| tag.clone()).collect();
        let ids = filler.engine().define(&tags).map_err(|e| format!("define: {e}"))?;
        if ids.iter().zip(&filler.defines).any(|(id, (tag, _))| id != tag) {
            return Err("a new database gave other ids".into());
        }
        filler.model.apply(&Change::Define(filler.defines.clone()));
        wait("the room is set aside", || Ok(point.join("data/ballast").exists()))?;
        Ok(filler)
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it is open")
    }

    /// One batch of values that do not compress; whether it was taken.
    fn append(&mut self) -> Result<bool, String> {
        let first = BASE_NS + self.batches * SAMPLES as i64 * SECOND_NS;
        let columns = (0..TAGS).map(|tag| TagColumn {
            tag: TagId(tag),
            times: (0..SAMPLES as i64).map(|at| first + at * SECOND_NS).collect(),
            values: Values::F64((0..SAMPLES).map(|_| f64::from_bits(self.random.bits())).collect()),
            qualities: Qualities::GOOD,
        });
        let batch = Batch { columns: columns.collect(), ..Batch::default() };
        match self.engine().append(batch.clone()) {
            Ok(appended) if appended.durable => {
                self.batches += 1;
                let (defines, now_ns) = (self.defines.clone(), now_ns());
                self.model.apply(&Change::Append { defines, batch, now_ns });
                Ok(true)
            }
            Ok(appended) => Err(format!("not durable: {appended:?}")),
            Err(error @ (Error::DiskFull { .. } | Error::Busy { .. })) => {
                assert_eq!(error.outcome(), Outcome::NotWritten);
                Ok(false)
            }
            Err(error) => Err(format!("a full disk is answered as {error:?}")),
        }
    }

    fn check(&self, when: &str) -> Result<(), String> {
        let rows = observe::rows(&self.engine().snapshot());
        let rows = rows.map_err(|error| format!("reading {when}: {error}"))?;
        match difference(&self.model.rows, &rows) {
            Some(why) => Err(format!("{when}: {why}")),
            None => Ok(()),
        }
    }

    fn live(&mut self, point: &Path, report: &mut Report) -> Result<(), String> {
        let mut refused = 0;
        for _ in 0..BATCHES_MAX {
            if refused >= 6 {
                break;
            }
            refused = if self.append()? { 0 } else { refused + 1 };
        }
        if refused < 6 {
            return Err("the disk was never full".into());
        }
        report.add("batches", self.batches.unsigned_abs());
        self.check("on the full disk")?;
        let range = TimeRange::new(BASE_NS, BASE_NS + 100 * SECOND_NS);
        let tags = vec![TagId(0), TagId(1)];
        let deleted = self.engine().delete(&tags, range, "a full disk");
        deleted.map_err(|error| format!("a delete on the full disk: {error}"))?;
        self.model.apply(&Change::Delete { tags, range });
        self.check("after a delete")?;
        self.close("on the full disk")?;
        match opened(point) {
            Ok(engine) => {
                self.opened(engine, "on the full disk")?;
                self.append()?; // taken or refused, but in no other way
                free(point)?;
            }
            Err(Error::DiskFull { .. }) => {
                report.add("refused_opens", 1);
                free(point)?;
                self.reopen(point, "after a refused open")?;
            }
            Err(error) => return Err(format!("open on the full disk: {error}")),
        }
        wait("writes resume", || self.append())?;
        let sealed = self.engine().seal();
        sealed.map_err(|error| format!("a seal after space was freed: {error}"))?;
        self.check("after space was freed")?;
        self.reopen(point, "at the end")?;
        self.engine.take().map_or(Ok(()), Engine::close).map_err(|e| e.to_string())
    }

    fn close(&mut self, when: &str) -> Result<(), String> {
        let closed = self.engine.take().map_or(Ok(()), Engine::close);
        closed.map_err(|error| format!("closing {when}: {error}"))
    }

    fn reopen(&mut self, point: &Path, when: &str) -> Result<(), String> {
        self.close(when)?;
        let engine = opened(point).map_err(|error| format!("{when}: open: {error}"))?;
        self.opened(engine, when)
    }

    /// Goes on with this engine, if it holds everything.
    fn opened(&mut self, engine: Engine, when: &str) -> Result<(), String> {
        self.engine = Some(engine);
        self.check(when)?;
        match self.engine().verify(&mut |_| {}) {
            0 => Ok(()),
            places => Err(format!("verify {when}: {places} places")),
        }
    }
}

/// Somebody else's data goes.
fn free(point: &Path) -> Result<(), String> {
    (0..4).try_for_each(|number| {
        let path = point.join(format!("other-{number}"));
        std::fs::remove_file(path).map_err(|error| error.to_string())
    })
}

fn now_ns() -> i64 {
    BASE_NS + 10_000_000 * SECOND_NS
}

fn opened(point: &Path) -> Result<Engine, Error> {
    let disk = RealDisk::open(&point.join("data"), true).expect("it is a mounted folder");
    let options = Options {
        head_bytes: 4 << 20,
        wal_bytes: 2 << 20,
        busy_wait: Duration::from_millis(100),
        ..Options::default()
    };
    let clock = Arc::new(TestClock::new(now_ns()));
    Engine::open_on(Arc::new(disk), clock, options)
}

/// Waits for something that happens by itself.
fn wait(what: &str, mut is_so: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let started = Instant::now();
    while !is_so()? {
        if started.elapsed() > PATIENCE {
            return Err(format!("{what}: not within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
