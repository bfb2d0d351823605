//! The load of a plant that runs: many gateways by the clock, dashboards and a heavy question beside them.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::content::Content;
use crate::dashboards::Room;
use crate::figures::{Usage, machine, ms, verdict};
use crate::fleet::{Fleet, Logbook, connect};
use crate::plant::Plant;
use crate::server::Server;
use crate::{Outcome, check, now_ns};

/// From one row of a tag to the next.
const STEP_NS: i64 = 20_000_000;
/// Rows of each tag in a batch, and how long they take to come together.
const CYCLES: u64 = 5;
const EVERY: Duration = Duration::from_millis(100);
/// What a gateway keeps until it is acknowledged: unless told otherwise, a client's 64 MiB.
const QUEUE_BYTES: usize = 64 << 20;
/// What is aimed at.
const P50_MS: f64 = 5.0;
const P99_MS: f64 = 25.0;

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wish {
    /// How long gateways write.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// How many gateways.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) gateways: u32,
    /// Samples a second of all gateways together; a tag has 50.
    #[arg(long, default_value_t = 200_000)]
    pub(crate) rate: usize,
    /// How many dashboards ask; with 0 there is no heavy question either.
    #[arg(long, default_value_t = 5)]
    pub(crate) dashboards: usize,
}

/// A plant whose gateways write so many samples a second by the clock, from now on.
pub(crate) fn plant(gateways: u32, rate: usize, has_corrections: bool) -> Plant {
    let gateways = usize::try_from(gateways).unwrap_or(1);
    let per_tag = usize::try_from(1_000_000_000 / STEP_NS).unwrap_or(1);
    let tags = (rate / (gateways * per_tag)).max(1);
    let start_ns = now_ns();
    Plant { gateways, tags, cycles: CYCLES, start_ns, step_ns: STEP_NS, has_corrections }
}

/// Sets the gateways of such a plant to work.
///
/// # Errors
/// What the server answers.
pub(crate) async fn fleet(server: &Server, plant: &Plant) -> Outcome<Fleet> {
    let stations = connect(server.address(), plant, QUEUE_BYTES).await?;
    Ok(Fleet::start(stations, *plant, EVERY))
}

/// Runs the load. Gives whether everything is there, once.
///
/// # Errors
/// If it could not be run to its end.
pub(crate) async fn run(program: &Path, wish: &Wish) -> Outcome<bool> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(program, &folder.path().join("data"), "127.0.0.1:0").await?;
    let plant = plant(wish.gateways, wish.rate, false);
    let Plant { gateways, tags, .. } = plant;
    println!(
        "steady: {gateways} gateways of {tags} tags at 50 Hz for {} s; {}",
        wish.seconds,
        machine()
    );
    let fleet = fleet(&server, &plant).await?;
    let started = Instant::now();
    let room = Room::open(server.address(), &plant, wish.dashboards).await?;
    tokio::time::sleep(Duration::from_secs(wish.seconds)).await;
    let logbook = fleet.stop().await?;
    let took = started.elapsed();
    let (used, driver) = (server.usage()?, Usage::of(std::process::id())?);
    let answers = room.close().await?;

    let samples: u64 = logbook.batches.iter().map(|batches| plant.written(*batches)).sum();
    let rate = samples as f64 / took.as_secs_f64() / 1e3;
    println!(
        "  acknowledged  {samples} samples, {rate:.1} k a second, {} batches",
        logbook.acks.len()
    );
    print_acks(&logbook);
    if wish.dashboards > 0 {
        println!("  dashboards    {}, {} answers", answers.dashboards, answers.dashboards.len());
        println!("  heavy         {}, {} answers", answers.heavy, answers.heavy.len());
    }
    println!(
        "  server        {:.1} s of CPU, {:.0} MiB at most",
        used.cpu_seconds, used.rss_peak_mib
    );
    println!("  driver        {:.1} s of CPU in {:.1} s", driver.cpu_seconds, took.as_secs_f64());
    let is_well = check::quiet(program, &server, &mut Content::new(plant), &logbook).await?;
    println!("  at its end    {}", machine());
    server.kill()?;
    Ok(is_well)
}

fn print_acks(logbook: &Logbook) {
    let [p50, p99] = [50, 99].map(|percent| ms(logbook.acks.quantile(percent)));
    println!("  ack           {}", logbook.acks);
    println!("  late sending  {}, part of the above: the driver's own", logbook.late);
    let (median, tail) = (verdict(p50 <= P50_MS), verdict(p99 <= P99_MS));
    println!("  targets       p50 {P50_MS} ms: {median}, p99 {P99_MS} ms: {tail}");
}
