//! HTTP: SQL as JSON, CSV or Arrow; Influx line protocol in; health and figures for those who watch.
//!
//! # Contract
//! * Who calls, and whether they may, is asked before anything is read but the head of a request; `/health` and `/ready`
//!   answer anybody, and say nothing but whether.
//! * Bodies are bounded, packed and unpacked alike, and come within [`BODY`]. An answer is streamed: nothing gathers it.
//! * What is written is on disk when the answer comes.
//!
//! # Reading order
//! [`caller`] (who is there), [`body`] (what is in a body, pure), [`sql`], [`lines`] (line protocol to columns, pure),
//! [`write`](mod@write), [`figures`].

mod body;
mod caller;
mod figures;
#[cfg(test)]
mod fuzzing;
pub(crate) mod lines;
mod sql;
mod write;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest as _, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tagmill::Database;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tower_service::Service as _;

use crate::access::Access;
use crate::connections::{Connection, Peer};
use crate::ingest::Ingest;
use crate::lifecycle::turns_true;
use crate::own::Watched;
use crate::queries::Admission;

use self::lines::Template;

/// Longest body, as it travels and unpacked.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;
/// Bytes of the head of a request, and of what is read ahead of a body.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long the head of a request may take, and a connection be silent.
const HEAD: Duration = Duration::from_secs(30);
/// How long the body of a request may take.
const BODY: Duration = Duration::from_secs(30);
/// Longest body of a statement.
const SQL_BYTES_MAX: usize = 256 << 10;
/// How long requests may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// What requests share.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) database: Database,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) access: Arc<Access>,
    pub(crate) admission: Admission,
    /// Where statements run.
    pub(crate) queries: Handle,
    /// Names of the tags of lines.
    pub(crate) template: Template,
    /// What `/metrics` tells.
    pub(crate) watched: Watched,
    pub(crate) stopping: watch::Receiver<bool>,
    /// The last look at whether writes reach the disk.
    pub(crate) looked: tokio::sync::Mutex<Option<(std::time::Instant, bool)>>,
}

type Shared = State<Arc<Door>>;

/// A refusal: a status, and a sentence as JSON.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.text }));
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers
                    .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl Door {
    /// Serves connections until the server stops.
    pub(crate) async fn serve(self, mut accepted: mpsc::Receiver<io::Result<Connection>>) {
        let mut stopping = self.stopping.clone();
        let router = router(Arc::new(self));
        loop {
            let connection = tokio::select! {
                connection = accepted.recv() => connection,
                () = turns_true(&mut stopping) => return,
            };
            let Some(Ok(connection)) = connection else { return };
            tokio::spawn(serve_one(connection, router.clone(), stopping.clone()));
        }
    }
}

async fn serve_one(connection: Connection, router: Router, mut stopping: watch::Receiver<bool>) {
    let Ok(peer) = connection.peer() else { return };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(Peer(peer)));
        router.clone().call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES_MAX);
    let serving = builder.serve_connection(TokioIo::new(connection), service);
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = turns_true(&mut stopping) => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, "an HTTP connection ended: {error}");
    }
}

/// The body of a request, as long as its route allows.
async fn body_of(request: axum::extract::Request) -> Result<Bytes, Refusal> {
    let read = tokio::time::timeout(BODY, Bytes::from_request(request, &())).await;
    let late = |_| {
        let text = format!("the body did not come within {} s", BODY.as_secs());
        Refusal::new(StatusCode::REQUEST_TIMEOUT, text)
    };
    read.map_err(late)?.map_err(|why| Refusal::new(why.status(), why.body_text()))
}

fn router(door: Arc<Door>) -> Router {
    let guarded = Router::new()
        .route("/api/v1/sql", post(sql::answer).layer(DefaultBodyLimit::max(SQL_BYTES_MAX)))
        .route("/api/v1/latest", get(sql::latest))
        .route("/api/v1/write", post(write::write))
        .route("/api/v2/write", post(write::write))
        .route("/metrics", get(figures::metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&door), caller::ask));
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(figures::ready))
        .route("/api/v1/openapi.json", get(openapi))
        .merge(guarded)
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is nothing of this name") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(door)
}

/// What there is, for programs.
async fn openapi() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, include_str!("openapi.json")).into_response()
}
