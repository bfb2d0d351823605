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

use crate::ingest::Ingest;
use crate::lifecycle::turns_true;

/// Where the tags are.
const PATH: &str = "tagmill";

/// Name, kind, what it is, value.
pub(crate) type Figure = (&'static str, &'static str, &'static str, f64);

/// All of them now.
pub(crate) fn figures(engine: &Engine, ingest: &Ingest) -> Vec<Figure> {
    let metrics = engine.metrics();
    let snapshot = engine.snapshot();
    let gateways = ingest.gateways().totals();
    let (counter, gauge) = ("counter", "gauge");
    let whole = |count: u64| count as f64;
    vec![
        ("samples_total", counter, "Samples written to the log.", whole(metrics.samples)),
        (
            "backfill_samples_total",
            counter,
            "Samples of bulk loads.",
            whole(metrics.backfill_samples),
        ),
        ("wal_bytes_total", counter, "Bytes written to the log.", whole(metrics.wal_bytes)),
        ("seals_total", counter, "Seals that wrote a segment.", whole(metrics.seals)),
        ("seal_bytes_total", counter, "Bytes that seals wrote.", whole(metrics.seal_bytes)),
        (
            "backfill_bytes_total",
            counter,
            "Bytes that bulk loads wrote.",
            whole(metrics.backfill_bytes),
        ),
        ("compactions_total", counter, "Compactions done.", whole(metrics.compactions)),
        (
            "compaction_read_bytes_total",
            counter,
            "Bytes that compactions read.",
            whole(metrics.compaction_read_bytes),
        ),
        (
            "compaction_written_bytes_total",
            counter,
            "Bytes that compactions wrote.",
            whole(metrics.compaction_written_bytes),
        ),
        (
            "scrubbed_bytes_total",
            counter,
            "Bytes that scrubbing read.",
            whole(metrics.scrubbed.bytes),
        ),
        ("segments", gauge, "Live segments.", whole(metrics.segments)),
        ("segment_bytes", gauge, "Bytes of live segments.", whole(metrics.segment_bytes)),
        ("tags", gauge, "Tags that are not deleted.", snapshot.registry().iter().count() as f64),
        ("gateways", gauge, "Gateways that are connected.", whole(gateways.connected)),
        (
            "gateway_samples_total",
            counter,
            "Samples acknowledged to gateways.",
            whole(gateways.samples),
        ),
        (
            "gateway_rejected_total",
            counter,
            "Samples of gateways that were rejected.",
            whole(gateways.rejected),
        ),
        ("resident_bytes", gauge, "Memory that the process has.", resident_bytes()),
        ("damaged_places", gauge, "Places that cannot be read.", snapshot.damage().len() as f64),
    ]
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
pub(crate) async fn write(
    engine: Arc<Engine>,
    ingest: Arc<Ingest>,
    every: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = turns_true(&mut stopping) => return,
        }
        let (engine, ingest) = (Arc::clone(&engine), Arc::clone(&ingest));
        let written = tokio::task::spawn_blocking(move || write_once(&engine, &ingest)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the server's own figures were not written: {error}"),
            Err(error) => tracing::warn!("the server's own figures were not written: {error}"),
        }
    }
}

fn write_once(engine: &Engine, ingest: &Ingest) -> tagmill_storage::Result<()> {
    let now_ns = ingest.now_ns();
    let figures = figures(engine, ingest);
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
    let tags = engine.define(&definitions)?;
    let column = |(tag, (_, _, _, value)): (_, &Figure)| TagColumn {
        tag,
        times: vec![now_ns],
        values: Values::F64(vec![*value]),
        qualities: Qualities::GOOD,
    };
    let columns = tags.into_iter().zip(&figures).map(column).collect();
    engine.append(Batch { columns, ..Batch::default() })?;
    Ok(())
}
