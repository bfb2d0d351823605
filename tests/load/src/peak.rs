//! As many samples as go through: a few gateways that send the next batch as soon as there is room for it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::content::Content;
use crate::figures::{Usage, machine, verdict};
use crate::fleet::{Logbook, Station, connect};
use crate::plant::Plant;
use crate::server::Server;
use crate::{Outcome, check, now_ns};

/// Tags of all gateways together, about.
const TAGS: usize = 500;
/// Rows of each tag in a batch: with four gateways it has the 50,000 samples that are the most one should send.
const CYCLES: u64 = 400;
const STEP_NS: i64 = 1_000_000;
/// Times begin so long ago: however fast it goes, they stay behind the clock.
const PAST_NS: i64 = 86_400_000_000_000;
/// Batches that a gateway has under way: about ten.
const QUEUE_BYTES: usize = 4 << 20;
/// What is aimed at.
const M_SAMPLES_PER_S: f64 = 2.5;

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wish {
    /// How long gateways write.
    #[arg(long, default_value_t = 20)]
    pub(crate) seconds: u64,
    /// How many gateways.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) gateways: u32,
}

/// Runs the load. Gives whether everything is there, once.
///
/// # Errors
/// If it could not be run to its end.
pub(crate) async fn run(program: &Path, wish: &Wish) -> Outcome<bool> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(program, &folder.path().join("data"), "127.0.0.1:0").await?;
    let gateways = usize::try_from(wish.gateways)?;
    let tags = (TAGS / gateways).max(1);
    let start_ns = now_ns() - PAST_NS;
    let plant = Plant {
        gateways,
        tags,
        cycles: CYCLES,
        start_ns,
        step_ns: STEP_NS,
        has_corrections: false,
    };
    println!(
        "peak: {gateways} gateways of {tags} tags, {} samples a batch, for {} s; {}",
        plant.written(1),
        wish.seconds,
        machine()
    );
    let stations = connect(server.address(), &plant, QUEUE_BYTES).await?;
    let (server_before, driver_before) = (server.usage()?, Usage::of(std::process::id())?);
    let started = Instant::now();
    let until = started + Duration::from_secs(wish.seconds);
    let work = stations.into_iter().map(|station| tokio::spawn(pour(station, plant, until)));
    let (mut logbook, mut bytes) = (Logbook::default(), 0);
    for sender in work.collect::<Vec<_>>() {
        let poured = sender.await??;
        logbook.batches.push(poured.batches);
        logbook.rejected += poured.rejected;
        bytes += poured.bytes;
    }
    let took = started.elapsed().as_secs_f64();
    let (used, driver) = (server.usage()?, Usage::of(std::process::id())?);

    let samples: u64 = logbook.batches.iter().map(|batches| plant.written(*batches)).sum();
    let rate = samples as f64 / took / 1e6;
    println!(
        "  acknowledged  {samples} samples in {took:.1} s: {rate:.2} M a second (target {M_SAMPLES_PER_S}: {})",
        verdict(rate >= M_SAMPLES_PER_S)
    );
    println!("  on the wire   {:.2} bytes a sample", bytes as f64 / samples as f64);
    let (server_cpu, driver_cpu) = (
        used.cpu_seconds - server_before.cpu_seconds,
        driver.cpu_seconds - driver_before.cpu_seconds,
    );
    println!("  server        {server_cpu:.1} s of CPU, {:.0} MiB at most", used.rss_peak_mib);
    println!("  driver        {driver_cpu:.1} s of CPU");
    let is_well = check::quiet(program, &server, &mut Content::new(plant), &logbook).await?;
    println!("  at its end    {}", machine());
    server.kill()?;
    Ok(is_well)
}

/// What one gateway has sent and knows to be on disk.
#[derive(Debug)]
struct Poured {
    batches: u64,
    /// Of the encoded batches, without what HTTP/2 adds.
    bytes: usize,
    rejected: u64,
}

/// Sends until the time is over, and waits for the last acknowledgement.
async fn pour(station: Arc<Station>, plant: Plant, until: Instant) -> Outcome<Poured> {
    let (mut batches, mut bytes) = (0, 0);
    while Instant::now() < until {
        let batch = plant.batch(station.number, &station.aliases, &station.set, batches)?;
        bytes += batch.bytes();
        station.gateway.send(batch).await?;
        batches += 1;
    }
    let summary = station.gateway.flush().await?;
    Ok(Poured { batches, bytes, rejected: summary.rejected_samples })
}
