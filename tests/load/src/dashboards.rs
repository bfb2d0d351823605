//! Those who ask while gateways write: dashboards that want an answer every second, and one heavy question without end.
//!
//! # Contract
//! A dashboard asks by the clock: its latency is from the instant it wanted to ask until it has the whole answer. An error is
//! an error of the run.
//!
//! # What it does not know
//! Whether an answer is right: that is compared when the run is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tagmill_client::Query;
use tokio::task::JoinHandle;

use crate::figures::Latencies;
use crate::plant::Plant;
use crate::{Outcome, ask};

/// How often a dashboard asks.
const EVERY: Duration = Duration::from_secs(1);

/// The spread of every tag in every second, all samples, row by row.
const HEAVY: &str = "SELECT count(*) AS windows, max(spread) AS widest FROM (SELECT tag, time_bucket('1 second', ts) AS second, \
                     stddev(value) AS spread, count(*) AS samples FROM samples GROUP BY tag, second)";

/// What dashboard `number` asks. They have five kinds, each for another unit of the plant.
fn question(plant: &Plant, number: usize) -> String {
    let gateway = number % plant.gateways;
    let (unit, tag) = (format!("load/G{gateway:02}/%"), Plant::name(gateway, 0));
    match number % 5 {
        0 => format!(
            "SELECT time_bucket('10 seconds', ts) AS time, avg(value) AS mean, min(value) AS least, max(value) AS greatest \
             FROM samples WHERE tag = '{tag}' AND ts >= now() - INTERVAL '5 minutes' GROUP BY time ORDER BY time"
        ),
        1 => format!(
            "SELECT tag, time_bucket('1 minute', ts) AS time, avg(value) AS mean, min(value) AS least, max(value) AS \
             greatest FROM samples WHERE tag LIKE '{unit}' AND ts >= now() - INTERVAL '15 minutes' GROUP BY tag, time"
        ),
        2 => format!("SELECT tag, ts, value, age FROM latest WHERE tag LIKE '{unit}' ORDER BY tag"),
        3 => format!(
            "SELECT ts, value FROM samples WHERE tag = '{tag}' AND ts >= now() - INTERVAL '30 seconds' ORDER BY ts"
        ),
        _ => format!(
            "SELECT tag, time_bucket('1 minute', ts) AS time, time_avg(value) AS mean, percent_good(value) AS good FROM \
             samples WHERE tag LIKE '{unit}' AND ts >= now() - INTERVAL '5 minutes' GROUP BY tag, time"
        ),
    }
}

/// Dashboards at work.
#[derive(Debug)]
pub(crate) struct Room {
    is_over: Arc<AtomicBool>,
    dashboards: Vec<JoinHandle<Outcome<Latencies>>>,
    heavy: Option<JoinHandle<Outcome<Latencies>>>,
}

/// How long answers took.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Of the dashboards.
    pub(crate) dashboards: Latencies,
    /// Of the heavy question, those that came in time.
    pub(crate) heavy: Latencies,
}

impl Room {
    /// Sets so many dashboards to work, and, if there is one, the heavy question beside them.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub(crate) async fn open(address: &str, plant: &Plant, dashboards: usize) -> Outcome<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut room = Self { is_over, dashboards: Vec::new(), heavy: None };
        for number in 0..dashboards {
            let query = Query::connect(address).await?;
            let phase = EVERY.mul_f64(number as f64 / dashboards as f64);
            let asking = look(query, question(plant, number), phase, Arc::clone(&room.is_over));
            room.dashboards.push(tokio::spawn(asking));
        }
        if dashboards > 0 {
            let query = Query::connect(address).await?;
            room.heavy = Some(tokio::spawn(analyse(query, Arc::clone(&room.is_over))));
        }
        Ok(room)
    }

    /// Ends the work. An answer that is under way is waited for.
    ///
    /// # Errors
    /// What the server answered to a question.
    pub(crate) async fn close(mut self) -> Outcome<Answers> {
        self.is_over.store(true, Ordering::SeqCst);
        let mut answers = Answers::default();
        for dashboard in std::mem::take(&mut self.dashboards) {
            answers.dashboards.extend(dashboard.await??);
        }
        if let Some(heavy) = self.heavy.take() {
            answers.heavy = heavy.await??;
        }
        Ok(answers)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // After an error they would ask for ever.
        self.dashboards.iter().chain(&self.heavy).for_each(JoinHandle::abort);
    }
}

async fn look(
    mut query: Query,
    question: String,
    phase: Duration,
    is_over: Arc<AtomicBool>,
) -> Outcome<Latencies> {
    let settings = HashMap::from([("statement_timeout".to_owned(), "5 min".to_owned())]);
    let mut took = Latencies::default();
    let mut due = Instant::now() + phase;
    loop {
        tokio::time::sleep_until(due.into()).await;
        if is_over.load(Ordering::SeqCst) {
            return Ok(took);
        }
        ask::rows(&mut query, &question, &settings).await?;
        took.add(due.elapsed());
        due += EVERY;
    }
}

async fn analyse(mut query: Query, is_over: Arc<AtomicBool>) -> Outcome<Latencies> {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings = HashMap::from([
        setting("tagmill.tiers", "off"),
        setting("tagmill.max_rows", "1000000000"),
        setting("statement_timeout", "10 min"),
    ]);
    let mut took = Latencies::default();
    while !is_over.load(Ordering::SeqCst) {
        let asked = Instant::now();
        ask::rows(&mut query, HEAVY, &settings).await?;
        took.add(asked.elapsed());
    }
    Ok(took)
}
