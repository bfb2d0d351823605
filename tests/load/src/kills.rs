//! Gateways that write by the clock while their server is killed and started again, on the same folder and port.
//!
//! # Contract
//! What is checked after each kill:
//! * a copy of the dead server's folder, opened by itself, holds every acknowledged batch and every sample that a query had
//!   shown before, and of each batch all samples or none;
//! * so does the server that was started again, while gateways go on;
//! * when they stand still for a moment, the samples that this server has written to its log are as many as those of the
//!   batches that the copy lacked: no more, so none was applied twice; no less, so none was lost on the way.
//!
//! Batches correct one another ([`crate::plant`]), so one that is applied again after its successor shows in a sum, too.
//! Of four kills one comes while a seal has begun, and one shortly after a seal has ended, on the average.
//!
//! # What it does not know
//! Power cuts: a killed process leaves its writes with the kernel.

use std::fmt;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tagmill_client::Admin;

use crate::ask::{At, Way, content};
use crate::content::{Content, Verdict};
use crate::figures::machine;
use crate::fleet::Fleet;
use crate::plant::Plant;
use crate::server::{Server, lasting_address};
use crate::{Outcome, check, steady};

/// By how much a kill may come later than its time.
const JITTER_MS: u64 = 1_000;
/// How long after the beginning or the end of a seal a kill may come.
const SEAL_MS: u64 = 1_000;
/// How long a seal that is waited for may take.
const SEAL_MAX: Duration = Duration::from_mins(2);
/// What is read of a file at a time when it is copied.
const BLOCK_BYTES: usize = 64 << 10;

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wish {
    /// How long gateways write.
    #[arg(long, default_value_t = 10)]
    pub(crate) minutes: u64,
    /// Seconds from one kill to the next.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) every: u64,
    /// How many gateways.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) gateways: u32,
    /// Samples a second of all gateways together; a tag has 50.
    #[arg(long, default_value_t = 50_000)]
    pub(crate) rate: usize,
    /// Decides at which moments kills come; left out: another one each time.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// Runs the load. Gives whether every acknowledged sample is there, once.
///
/// # Errors
/// If it could not be run to its end.
pub(crate) async fn run(program: &Path, wish: &Wish) -> Outcome<bool> {
    let seed = wish.seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8));
    let length = Duration::from_secs(60 * wish.minutes);
    let folder = tempfile::tempdir()?;
    let plant = steady::plant(wish.gateways, wish.rate, true);
    let Plant { gateways, tags, .. } = plant;
    println!(
        "kills: {gateways} gateways of {tags} tags at 50 Hz for {} min, a kill each {} s, --seed {seed}; {}",
        wish.minutes,
        wish.every,
        machine()
    );
    let mut trial = Trial::begin(program, folder.path(), plant).await?;
    let fleet = steady::fleet(trial.server()?, &plant).await?;
    let mut random = Random(seed);
    let started = Instant::now();
    for kill in 1.. {
        let jitter = Duration::from_millis(random.below(JITTER_MS));
        let at = Duration::from_secs(wish.every * kill) + jitter;
        if at >= length {
            break;
        }
        tokio::time::sleep_until((started + at).into()).await;
        let moment = Duration::from_millis(random.below(SEAL_MS));
        trial.seal(random.below(4), moment).await?;
        trial.kill_and_restart(&fleet).await?;
        if !trial.check(&fleet).await? {
            // What is lost stays lost: the checks to come would say it again.
            return Ok(false);
        }
    }
    tokio::time::sleep_until((started + length).into()).await;
    trial.end(fleet).await
}

/// The server, what it must hold, and what was found so far.
#[derive(Debug)]
struct Trial {
    program: PathBuf,
    data: PathBuf,
    copy: PathBuf,
    address: String,
    server: Option<Server>,
    model: Content,
    plant: Plant,
    /// Batches of each gateway that were there when this server was started.
    base: Vec<u64>,
    /// Batches of each gateway that were acknowledged when the last one was dead.
    acked: Vec<u64>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    lost: u64,
    twice: u64,
    offences: u64,
    slowest_restart: Duration,
}

impl Tally {
    fn is_clean(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.offences == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, lost, twice, offences, slowest_restart } = self;
        let seconds = slowest_restart.as_secs_f64();
        write!(
            f,
            "kills         {kills}, lost {lost} samples, twice {twice} samples, wrong {offences} figures; "
        )?;
        write!(f, "the slowest restart took {seconds:.1} s")
    }
}

impl Trial {
    async fn begin(program: &Path, folder: &Path, plant: Plant) -> Outcome<Self> {
        let (data, copy) = (folder.join("data"), folder.join("copy"));
        let address = lasting_address()?;
        let server = Server::start(program, &data, &address).await?;
        let nothing = vec![0; plant.gateways];
        Ok(Self {
            program: program.to_owned(),
            data,
            copy,
            address,
            server: Some(server),
            model: Content::new(plant),
            plant,
            base: nothing.clone(),
            acked: nothing,
            tally: Tally::default(),
        })
    }

    fn server(&self) -> Outcome<&Server> {
        self.server.as_ref().ok_or_else(|| "the server is not running".into())
    }

    /// What comes before a kill: by chance nothing, a part of a seal, or the whole of it and a moment.
    async fn seal(&self, chance: u64, moment: Duration) -> Outcome<()> {
        let address = self.server()?.address().to_owned();
        let sealing = async move { Admin::connect(&address).await?.seal().await };
        match chance {
            0 => {
                // The kill comes before the answer, as a rule.
                tokio::spawn(sealing);
                tokio::time::sleep(moment).await;
            }
            1 => {
                tokio::time::timeout(SEAL_MAX, sealing).await??;
                tokio::time::sleep(moment).await;
            }
            _ => {}
        }
        Ok(())
    }

    async fn kill_and_restart(&mut self, fleet: &Fleet) -> Outcome<()> {
        let server = self.server.take().ok_or("the server is not running")?;
        server.kill()?;
        self.tally.kills += 1;
        // Nobody acknowledges any more: what is known now was said by the dead one.
        self.acked = fleet.acked();
        let (data, copy) = (self.data.clone(), self.copy.clone());
        let since = Instant::now();
        let copied = tokio::task::spawn_blocking(move || copy_database(&data, &copy)).await??;
        let until_copied = since.elapsed();
        self.server = Some(Server::start(&self.program, &self.data, &self.address).await?);
        let restart = since.elapsed().saturating_sub(until_copied);
        self.tally.slowest_restart = self.tally.slowest_restart.max(restart);
        println!(
            "  kill {:<8} {:.1} MiB copied in {:.1} s, then serving after {:.1} s",
            self.tally.kills,
            copied as f64 / f64::from(1 << 20),
            until_copied.as_secs_f64(),
            restart.as_secs_f64()
        );
        Ok(())
    }

    /// Looks at everything after a restart, up to the first thing that is wrong. Gives whether nothing is.
    async fn check(&mut self, fleet: &Fleet) -> Outcome<bool> {
        self.check_copy().await?;
        if self.tally.is_clean() {
            self.check_beside_writers(fleet).await?;
        }
        if self.tally.is_clean() {
            self.check_count(fleet).await?;
        }
        if !self.tally.is_clean() {
            println!("  {}", self.tally);
        }
        Ok(self.tally.is_clean())
    }

    /// The dead server's folder, as it was.
    async fn check_copy(&mut self) -> Outcome<()> {
        let at = At::Folder(self.copy.clone());
        let found = content(&self.program, &at, Way::Best).await?;
        let verdict = self.model.compare(&found, &self.acked);
        self.count(verdict, "the dead server's folder");
        self.base = self.model.batches();
        fs::remove_dir_all(&self.copy)?;
        Ok(())
    }

    /// The new server, in the midst of writes: a statement sees one instant.
    async fn check_beside_writers(&mut self, fleet: &Fleet) -> Outcome<()> {
        let acked = fleet.acked();
        let at = At::Server(self.address.clone());
        let found = content(&self.program, &at, Way::Best).await?;
        let verdict = self.model.compare(&found, &acked);
        self.count(verdict, "the new server");
        Ok(())
    }

    /// The new server's own count, while nobody writes.
    async fn check_count(&mut self, fleet: &Fleet) -> Outcome<()> {
        let stillness = fleet.stand_still().await?;
        let logged = self.server()?.samples_written().await?;
        let acked = fleet.acked();
        drop(stillness);
        let both = acked.iter().zip(&self.base);
        let expected: u64 = both
            .map(|(acked, base)| {
                self.plant.written(*acked).saturating_sub(self.plant.written(*base))
            })
            .sum();
        self.tally.twice += logged.saturating_sub(expected);
        if logged != expected {
            let text = format!("its log took {logged} samples, {expected} were wanted");
            self.count(Verdict { lost: 0, offences: vec![text] }, "the new server");
        }
        Ok(())
    }

    fn count(&mut self, verdict: Verdict, whose: &str) {
        self.tally.lost += verdict.lost;
        for offence in verdict.offences {
            self.tally.offences += 1;
            println!("  FAILED        after kill {}, {whose}: {offence}", self.tally.kills);
        }
    }

    /// Waits for the last acknowledgements, looks at everything once more, and prints what was found.
    async fn end(mut self, fleet: Fleet) -> Outcome<bool> {
        self.check_count(&fleet).await?;
        let logbook = fleet.stop().await?;
        let server = self.server.take().ok_or("the server is not running")?;
        let mut last = Verdict::default();
        let batches = &logbook.batches;
        last.offences = check::contents(&self.program, &server, &mut self.model, batches).await?;
        if logbook.rejected > 0 {
            last.offences.push(format!("the server refused {} samples", logbook.rejected));
        }
        self.count(last, "at the end");
        let samples: u64 = batches.iter().map(|batches| self.plant.written(*batches)).sum();
        println!("  acknowledged  {samples} samples in {} batches", batches.iter().sum::<u64>());
        println!("  {}", self.tally);
        println!("  ack           {}", logbook.acks);
        let outage = logbook.acks.quantile(100).as_secs_f64();
        println!(
            "  outage        {outage:.1} s at most from the instant a batch was due to its acknowledgement"
        );
        if self.tally.is_clean() {
            println!(
                "  checked       after each kill: count and sum of every tag in a copy of the dead server's folder and in the \
                 new server beside its writers; the samples that the new server's log took, against the batches that the copy \
                 lacked. At the end: count and sum of every tag, by SQL as it likes and row by row"
            );
        }
        println!("  at its end    {}", machine());
        server.kill()?;
        Ok(self.tally.is_clean())
    }
}

/// Copies a folder of a database that nobody has open. Segments never change: they are linked. Gives bytes copied.
fn copy_database(from: &Path, to: &Path) -> io::Result<u64> {
    let mut copied = 0;
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, source) = (entry.file_name(), entry.path());
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            for file in fs::read_dir(&source)? {
                let file = file?;
                let (is_segment, target) = (name == "segments", target.join(file.file_name()));
                if !is_segment || fs::hard_link(file.path(), &target).is_err() {
                    copied += copy_file(&file.path(), &target)?;
                }
            }
        } else if name != "ballast" {
            // That is room set aside for a full disk: an open makes it again.
            copied += copy_file(&source, &target)?;
        }
    }
    Ok(copied)
}

/// Copies a file and leaves holes where it has zeros: most of a log file is room that was never written, and the disk shall
/// not be busy with it while the server starts. Gives bytes written.
fn copy_file(from: &Path, to: &Path) -> io::Result<u64> {
    let (mut source, mut target) = (File::open(from)?, File::create_new(to)?);
    let (mut block, mut at, mut copied) = (vec![0; BLOCK_BYTES], 0, 0);
    loop {
        let length = source.read(&mut block)?;
        if length == 0 {
            target.set_len(at)?;
            return Ok(copied);
        }
        if block[..length].iter().any(|byte| *byte != 0) {
            target.seek(SeekFrom::Start(at))?;
            target.write_all(&block[..length])?;
            copied += length as u64;
        }
        at += length as u64;
    }
}

/// Small random numbers from a seed (splitmix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// A number below `end`, which is not 0. The bias of the remainder does not matter here.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}
