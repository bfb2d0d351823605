//! `/metrics` for Prometheus, and `/ready`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Refusal, Shared};
use crate::access::Principal;
use crate::own::Figure;

/// The server's figures, as text.
pub(super) async fn metrics(
    State(door): Shared,
    Extension(principal): Extension<Principal>,
) -> Result<Response, Refusal> {
    if principal.scope().is_some() {
        let text = "figures are of the whole database: a token with a scope does not see them";
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    }
    // It counts all tags.
    let counting = tokio::task::spawn_blocking(move || exposition(door.watched.figures()));
    let text = counting.await.map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the count stopped: {error}"))
    })?;
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

/// The text of Prometheus' exposition format 0.0.4.
fn exposition(figures: Vec<Figure>) -> String {
    let shown = |(name, kind, what, value): Figure| {
        format!(
            "# HELP tagmill_{name} {what}\n# TYPE tagmill_{name} {kind}\ntagmill_{name} {value}\n"
        )
    };
    let shown: Vec<String> = figures.into_iter().map(shown).collect();
    shown.concat()
}
