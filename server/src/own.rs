//! What the server tells of itself in numbers: for `/metrics`, and as tags below `tagmill/`.
//!
//! Contract: a figure has the same name in both, without Prometheus' prefix as a tag. Tags are written like any other, so
//! they have tiers, retention and SQL; the server's own writes are counted among all.

use std::sync::Arc;
use std::time::Duration;

use tagmill_storage::{
    Batch, Engine, Qualities, TagAttributes, TagColumn, TagDefinition, ValueType, Values,
};
use tokio::sync::watch;

use crate::access::Access;
use crate::connections::Counted;
use crate::ingest::Ingest;
use crate::lifecycle::turns_true;
use crate::queries::Admission;

/// Where the tags are.
const PATH: &str = "tagmill";
/// Kinds of figures: one that only grows, and one that does not.
const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// Name, kind, what it is, value.
pub(crate) type Figure = (&'static str, &'static str, &'static str, f64);

/// What is counted.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) engine: Arc<Engine>,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) access: Arc<Access>,
    pub(crate) admission: Admission,
    pub(crate) connections: Arc<Counted>,
}

impl Watched {
    /// All figures now. Counts tags: takes a moment where there are many.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = of_engine(&self.engine);
        figures.extend(self.of_gateways());
        figures.extend(self.of_doors());
        figures.push(("resident_bytes", GAUGE, "Memory that the process has.", resident_bytes()));
        figures
    }

    fn of_gateways(&self) -> [Figure; 4] {
        let totals = self.ingest.gateways().totals();
        [
            ("gateways", GAUGE, "Gateways that are connected.", whole(totals.connected)),
            (
                "gateway_samples_total",
                COUNTER,
                "Samples acknowledged to gateways.",
                whole(totals.samples),
            ),
            (
                "gateway_rejected_total",
                COUNTER,
                "Samples of gateways that were rejected.",
                whole(totals.rejected),
            ),
            (
                "ingest_memory_bytes",
                GAUGE,
                "Memory of samples on their way from the wire to the log.",
                whole(self.ingest.taken_bytes()),
            ),
        ]
    }

    fn of_doors(&self) -> [Figure; 8] {
        let statements = self.admission.statements();
        [
            ("connections", GAUGE, "Connections by all doors.", whole(self.connections.open())),
            (
                "connections_refused_total",
                COUNTER,
                "Connections of which an address had too many.",
                whole(self.connections.refused()),
            ),
            (
                "logins_refused_total",
                COUNTER,
                "Logins and tokens that were refused.",
                whole(self.access.refused_logins()),
            ),
            (
                "calls_refused_total",
                COUNTER,
                "Calls by gRPC that a token may not make.",
                whole(self.access.refused_calls()),
            ),
            (
                "statements",
                GAUGE,
                "Statements that are planned, wait or run.",
                whole(statements.all as u64),
            ),
            (
                "statements_running",
                GAUGE,
                "Statements that read much and run.",
                whole(statements.running as u64),
            ),
            (
                "statements_waiting",
                GAUGE,
                "Statements that read much and wait for a place.",
                whole(statements.waiting as u64),
            ),
            (
                "statements_refused_total",
                COUNTER,
                "Statements that found no place.",
                whole(statements.refused),
            ),
        ]
    }
}

fn of_engine(engine: &Engine) -> Vec<Figure> {
    let metrics = engine.metrics();
    let snapshot = engine.snapshot();
    let tags = snapshot.registry().iter().count() as u64;
    let counters = [
        ("samples_total", "Samples written to the log.", metrics.samples),
        ("backfill_samples_total", "Samples of bulk loads.", metrics.backfill_samples),
        ("wal_bytes_total", "Bytes written to the log.", metrics.wal_bytes),
        ("seals_total", "Seals that wrote a segment.", metrics.seals),
        ("seal_bytes_total", "Bytes that seals wrote.", metrics.seal_bytes),
        ("backfill_bytes_total", "Bytes that bulk loads wrote.", metrics.backfill_bytes),
        ("compactions_total", "Compactions done.", metrics.compactions),
        (
            "compaction_read_bytes_total",
            "Bytes that compactions read.",
            metrics.compaction_read_bytes,
        ),
        (
            "compaction_written_bytes_total",
            "Bytes that compactions wrote.",
            metrics.compaction_written_bytes,
        ),
        ("scrubbed_bytes_total", "Bytes that scrubbing read.", metrics.scrubbed.bytes),
    ];
    let gauges = [
        ("segments", "Live segments.", metrics.segments),
        ("segment_bytes", "Bytes of live segments.", metrics.segment_bytes),
        ("tags", "Tags that are not deleted.", tags),
        ("damaged_places", "Places that cannot be read.", snapshot.damage().len() as u64),
    ];
    let figure = |kind| move |(name, what, count)| (name, kind, what, whole(count));
    let counters = counters.into_iter().map(figure(COUNTER));
    counters.chain(gauges.into_iter().map(figure(GAUGE))).collect()
}

fn whole(count: u64) -> f64 {
    count as f64
}

/// Memory that the process has, as the system counts it; 0 where it does not say.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0
}

/// Writes the figures as samples every so often, until the server stops. A write that fails is told and tried no more: the
/// next one is new.
pub(crate) async fn write(watched: Watched, every: Duration, mut stopping: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = turns_true(&mut stopping) => return,
        }
        let watched = watched.clone();
        let written = tokio::task::spawn_blocking(move || write_once(&watched)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the server's own figures were not written: {error}"),
            Err(error) => tracing::warn!("the server's own figures were not written: {error}"),
        }
    }
}

fn write_once(watched: &Watched) -> tagmill_storage::Result<()> {
    let now_ns = watched.ingest.now_ns();
    let figures = watched.figures();
    let definition = |(name, _, what, _): &Figure| TagDefinition {
        name: format!("{PATH}/{name}"),
        value_type: ValueType::F64,
        attributes: TagAttributes {
            description: Some((*what).to_owned()),
            stepped: Some(true),
            ..TagAttributes::default()
        },
    };
    let definitions: Vec<TagDefinition> = figures.iter().map(definition).collect();
    let tags = watched.engine.define(&definitions)?;
    let column = |(tag, (_, _, _, value)): (_, &Figure)| TagColumn {
        tag,
        times: vec![now_ns],
        values: Values::F64(vec![*value]),
        qualities: Qualities::GOOD,
    };
    let columns = tags.into_iter().zip(&figures).map(column).collect();
    watched.engine.append(Batch { columns, ..Batch::default() })?;
    Ok(())
}
