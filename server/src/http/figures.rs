//! `/metrics` for Prometheus, and `/ready`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tagmill_storage::Engine;

use super::{Refusal, Shared};
use crate::access::Principal;

/// The figures of the engine, as text.
pub(super) async fn metrics(
    State(door): Shared,
    Extension(principal): Extension<Principal>,
) -> Result<Response, Refusal> {
    if principal.scope().is_some() {
        let text = "figures are of the whole database: a token with a scope does not see them";
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    }
    let text = exposition(door.database.engine());
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, text).into_response())
}

/// 200 if what is written now would be on disk.
pub(super) async fn ready(State(door): Shared) -> Response {
    // One look a second, however many ask.
    let mut looked = door.looked.lock().await;
    let is_fresh = |(at, _): &(Instant, bool)| at.elapsed() < Duration::from_secs(1);
    let is_ready = if let Some((_, is_ready)) = looked.filter(is_fresh) {
        is_ready
    } else {
        let engine = Arc::clone(door.database.engine());
        let synced = tokio::task::spawn_blocking(move || engine.sync()).await;
        let is_ready = matches!(synced, Ok(Ok(_)));
        *looked = Some((Instant::now(), is_ready));
        is_ready
    };
    if is_ready {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
}

/// Name, kind, what it is, value.
type Figure = (&'static str, &'static str, &'static str, f64);

fn figures(engine: &Engine) -> Vec<Figure> {
    let metrics = engine.metrics();
    let snapshot = engine.snapshot();
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
        ("damaged_places", gauge, "Places that cannot be read.", snapshot.damage().len() as f64),
    ]
}

/// The text of Prometheus' exposition format 0.0.4.
fn exposition(engine: &Engine) -> String {
    let shown = |(name, kind, what, value): Figure| {
        format!(
            "# HELP tagmill_{name} {what}\n# TYPE tagmill_{name} {kind}\ntagmill_{name} {value}\n"
        )
    };
    let shown: Vec<String> = figures(engine).into_iter().map(shown).collect();
    shown.concat()
}
