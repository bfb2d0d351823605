//! `POST /api/v1/write` and `/api/v2/write`: line protocol, on disk when the answer comes.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use tagmill_storage::{Batch, Error, Qualities, RejectReason, TagColumn};

use super::body::{Packed, unpacked};
use super::caller::require;
use super::lines::{Lines, Precision, Refusals, read};
use super::{BODY_BYTES_MAX, Door, Refusal, Shared};
use crate::access::{Principal, Role};
use crate::ingest::named::{resolve, value_type};

/// Words of Influx's versions; those about its organisations and buckets mean nothing here.
#[derive(Debug, Deserialize)]
pub(super) struct Words {
    #[serde(default)]
    precision: String,
}

/// Takes a text of lines. 204 if all are on disk; 400 if some were refused, with their numbers: the others are on disk.
pub(super) async fn write(
    State(door): Shared,
    Extension(principal): Extension<Principal>,
    Query(words): Query<Words>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    require(&principal, Role::Writer)?;
    let wrong = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    let precision = Precision::parse(&words.precision)
        .ok_or_else(|| wrong("precision is ns, us, ms, s, m or h"))?;
    // What it may come to when it is unpacked; a sample takes eight bytes of text at least.
    let is_packed = headers.contains_key(header::CONTENT_ENCODING);
    let bytes = if is_packed { BODY_BYTES_MAX } else { body.len() };
    let grant = door.ingest.admit(bytes, bytes as u64 / 8).await;
    let grant =
        grant.map_err(|status| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, status.message()))?;
    let text = text_of(&headers, &body)?;
    let text = String::from_utf8(text).map_err(|_| wrong("the lines are no UTF-8"))?;
    let writing = tokio::task::spawn_blocking(move || {
        let _held_while_it_waits = grant;
        let lines = read(&text, &door.template, precision, door.ingest.now_ns());
        store(&door, &principal, lines)
    });
    let stored = writing.await;
    let stored = stored.map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the write stopped: {error}"))
    })??;
    Ok(stored.into_response())
}

/// What became of a text.
#[derive(Debug)]
struct Stored {
    lines: usize,
    refused: Refusals,
}

impl IntoResponse for Stored {
    fn into_response(mut self) -> Response {
        self.refused.first.sort_by_key(|refused| refused.line);
        let Some(first) = self.refused.first.first() else {
            return StatusCode::NO_CONTENT.into_response();
        };
        let message = format!(
            "partial write: {} of {} lines were refused, the others are on disk; line {}: {}",
            self.refused.count(),
            self.lines,
            first.line,
            first.error
        );
        let body = serde_json::json!({
            "code": "invalid", "message": message, "error": message, "lines": self.refused.first,
        });
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}

/// The body, without its packing.
fn text_of(headers: &HeaderMap, body: &Bytes) -> Result<Vec<u8>, Refusal> {
    let packing = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    unpacked(packing, body, BODY_BYTES_MAX).map_err(|why| {
        let status = match why {
            Packed::Damaged(_) => StatusCode::BAD_REQUEST,
            Packed::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Packed::Unknown(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        };
        Refusal::new(status, why.to_string())
    })
}

/// Writes what was read. Blocks until it is on disk.
fn store(door: &Arc<Door>, principal: &Principal, lines: Lines) -> Result<Stored, Refusal> {
    let Lines { columns, mut refused, count } = lines;
    let engine = door.database.engine();
    let mut batch = Batch::default();
    let mut numbers = Vec::new();
    for column in columns {
        let named =
            resolve(engine, &door.access, principal, &column.tag, value_type(&column.values));
        match named {
            Ok(tag) => {
                let super::lines::Column { times, values, lines, .. } = column;
                batch.columns.push(TagColumn { tag, times, values, qualities: Qualities::GOOD });
                numbers.push(lines);
            }
            Err(error) => {
                column.lines.iter().for_each(|line| refused.add(*line, || error.clone()));
            }
        }
    }
    if !batch.columns.is_empty() {
        let appended = engine.append(batch).map_err(|error| of_storage(&error))?;
        for reject in &appended.rejects {
            let from = reject.first as usize;
            let rows = numbers.get(reject.part).into_iter().flatten();
            let rows = rows.skip(from).take(reject.count as usize);
            rows.for_each(|line| refused.add(*line, || told(reject.reason)));
        }
    }
    Ok(Stored { lines: count, refused })
}

fn told(reason: RejectReason) -> String {
    match reason {
        RejectReason::TypeMismatch => {
            "the tag has another type, in which the value is not exact".to_owned()
        }
        other => other.to_string(),
    }
}

fn of_storage(error: &Error) -> Refusal {
    let status = match error {
        Error::Invalid(_) => StatusCode::BAD_REQUEST,
        Error::Busy { .. } | Error::DiskFull { .. } | Error::Poisoned { .. } | Error::Closed => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, error.to_string())
}
