//! Gateways that write by the clock, through every end of the server, and what they know of their acknowledgements.
//!
//! # Contract
//! * Open loop: a batch is due at an instant that follows from its number alone. Its latency is from that instant until the
//!   gateway knows it on disk, so a server that is slow, or a driver that is late, makes latencies longer and never fewer.
//! * Batch n of a gateway, from 0, has ticket n + 1: how many are acknowledged says which.
//! * While the fleet stands still its clock does, too: nobody sends, and everything sent is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tagmill_client::{Gateway, GatewayOptions, TagSet, Ticket};
use tokio::sync::{RwLock, RwLockWriteGuard, mpsc};
use tokio::task::JoinHandle;

use crate::Outcome;
use crate::figures::Latencies;
use crate::plant::Plant;

/// How long the last batches may take to be acknowledged.
const FLUSH_MAX: Duration = Duration::from_mins(2);

/// A gateway that has defined its tags.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) gateway: Gateway,
    pub(crate) number: usize,
    pub(crate) aliases: Vec<u32>,
    pub(crate) set: TagSet,
}

/// Connects every gateway of a plant, each with a queue of so many bytes.
///
/// # Errors
/// What the server answers.
pub(crate) async fn connect(
    address: &str,
    plant: &Plant,
    queue_bytes: usize,
) -> Outcome<Vec<Arc<Station>>> {
    let mut stations = Vec::new();
    for number in 0..plant.gateways {
        let options =
            GatewayOptions { queue_bytes, ..GatewayOptions::new(format!("load-{number}")) };
        let gateway = Gateway::connect(address, options).await?;
        let aliases = gateway.define(&plant.definitions(number)).await?;
        let set = gateway.define_set(&aliases).await?;
        stations.push(Arc::new(Station { gateway, number, aliases, set }));
    }
    Ok(stations)
}

/// The clock of a fleet, and what stops it.
#[derive(Debug)]
struct Pace {
    started: Instant,
    every: Duration,
    /// Nanoseconds that the clock has stood still.
    stood: AtomicU64,
    /// Held while a batch is made and handed over.
    gate: RwLock<()>,
    is_over: AtomicBool,
}

impl Pace {
    /// When a batch is due. Gateways do not all send at the same instant.
    fn due(&self, station: usize, stations: usize, number: u64) -> Instant {
        let share = station as f64 / stations as f64;
        let stood = Duration::from_nanos(self.stood.load(Ordering::SeqCst));
        self.started + stood + self.every.mul_f64(number as f64 + share)
    }
}

/// Gateways at work.
#[derive(Debug)]
pub(crate) struct Fleet {
    stations: Vec<Arc<Station>>,
    pace: Arc<Pace>,
    senders: Vec<JoinHandle<Outcome<Latencies>>>,
    listeners: Vec<JoinHandle<Outcome<Latencies>>>,
    /// Samples that the server has refused, as far as summaries were taken.
    rejected: AtomicU64,
}

/// What a fleet has done.
#[derive(Debug, Default)]
pub(crate) struct Logbook {
    /// Batches of each gateway, all acknowledged.
    pub(crate) batches: Vec<u64>,
    /// From the instant a batch was due until it was known to be on disk.
    pub(crate) acks: Latencies,
    /// From the instant a batch was due until the driver began to make it.
    pub(crate) late: Latencies,
    /// Samples that the server refused.
    pub(crate) rejected: u64,
}

impl Fleet {
    /// Sets gateways to work: a batch of each in every so much time.
    pub(crate) fn start(stations: Vec<Arc<Station>>, plant: Plant, every: Duration) -> Self {
        let (stood, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let pace = Pace { started: Instant::now(), every, stood, gate: RwLock::new(()), is_over };
        let (senders, listeners, rejected) = (Vec::new(), Vec::new(), AtomicU64::new(0));
        let mut fleet = Self { stations, pace: Arc::new(pace), senders, listeners, rejected };
        for station in &fleet.stations {
            let (sent, tickets) = mpsc::unbounded_channel();
            let sending = send(Arc::clone(station), plant, Arc::clone(&fleet.pace), sent);
            fleet.senders.push(tokio::spawn(sending));
            fleet.listeners.push(tokio::spawn(listen(Arc::clone(station), tickets)));
        }
        fleet
    }

    /// Batches that each gateway knows to be on disk.
    pub(crate) fn acked(&self) -> Vec<u64> {
        self.stations.iter().map(|station| station.gateway.acked().0).collect()
    }

    /// Waits until gateways have caught up, then lets nobody send, and waits until everything sent is acknowledged. Work goes
    /// on when the result is dropped.
    ///
    /// # Errors
    /// If a gateway has ended, or that takes too long.
    pub(crate) async fn stand_still(&self) -> Outcome<Stillness<'_>> {
        // Beside the clock: what was due while the server was away is part of the load.
        self.flush().await?;
        let since = Instant::now();
        let gate = self.pace.gate.write().await;
        let stillness = Stillness { pace: &self.pace, since, _gate: gate };
        self.flush().await?;
        Ok(stillness)
    }

    async fn flush(&self) -> Outcome<()> {
        let flushing = async {
            for station in &self.stations {
                let summary = station.gateway.flush().await?;
                self.rejected.fetch_add(summary.rejected_samples, Ordering::SeqCst);
            }
            Ok::<_, tagmill_client::Error>(())
        };
        let flushed = tokio::time::timeout(FLUSH_MAX, flushing).await;
        Ok(flushed.map_err(|_| format!("batches are not acknowledged after {FLUSH_MAX:?}"))??)
    }

    /// Ends the work when everything sent is acknowledged.
    ///
    /// # Errors
    /// Why a gateway has ended before.
    pub(crate) async fn stop(mut self) -> Outcome<Logbook> {
        self.pace.is_over.store(true, Ordering::SeqCst);
        let mut logbook = Logbook::default();
        for sender in std::mem::take(&mut self.senders) {
            logbook.late.extend(sender.await??);
        }
        self.flush().await?;
        for listener in std::mem::take(&mut self.listeners) {
            logbook.acks.extend(listener.await??);
        }
        logbook.rejected = self.rejected.load(Ordering::SeqCst);
        logbook.batches = self.acked();
        Ok(logbook)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // After an error they would send for ever.
        self.senders.iter().chain(&self.listeners).for_each(JoinHandle::abort);
    }
}

/// A fleet that stands still, until this is dropped.
#[derive(Debug)]
pub(crate) struct Stillness<'a> {
    pace: &'a Pace,
    since: Instant,
    _gate: RwLockWriteGuard<'a, ()>,
}

impl Drop for Stillness<'_> {
    fn drop(&mut self) {
        let stood = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.pace.stood.fetch_add(stood, Ordering::SeqCst);
    }
}

/// Sends batches when they are due, until it is over. Gives how late each was begun.
async fn send(
    station: Arc<Station>,
    plant: Plant,
    pace: Arc<Pace>,
    sent: mpsc::UnboundedSender<(Ticket, Instant)>,
) -> Outcome<Latencies> {
    let mut late = Latencies::default();
    let mut number = 0;
    loop {
        let due = pace.due(station.number, plant.gateways, number);
        tokio::time::sleep_until(due.into()).await;
        let gate = pace.gate.read().await;
        if pace.is_over.load(Ordering::SeqCst) {
            return Ok(late);
        }
        if pace.due(station.number, plant.gateways, number) > due {
            continue; // the clock stood still meanwhile
        }
        late.add(due.elapsed());
        let batch = plant.batch(station.number, &station.aliases, &station.set, number)?;
        let ticket = station.gateway.send(batch).await?;
        if sent.send((ticket, due)).is_err() {
            return Err("nobody listens to the acknowledgements any more".into());
        }
        drop(gate);
        number += 1;
    }
}

/// Waits for the acknowledgement of each batch, until no more are sent. Gives how long each took.
async fn listen(
    station: Arc<Station>,
    mut tickets: mpsc::UnboundedReceiver<(Ticket, Instant)>,
) -> Outcome<Latencies> {
    let mut took = Latencies::default();
    while let Some((ticket, due)) = tickets.recv().await {
        station.gateway.wait_acked(ticket).await?;
        took.add(due.elapsed());
    }
    Ok(took)
}
