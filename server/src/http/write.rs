//! `POST /api/v1/write` and `/api/v2/write`: line protocol, on disk when the answer comes.
//!
//! Contract: a text takes the memory of its bytes and of one piece of [`PIECE_BYTES`], which is asked for before it is read.
//! A piece is on disk before the next is read; what fails after it says so.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use tagmill_storage::{Batch, Error, Qualities, RejectReason, TagColumn};

use super::body::{Packed, unpacked, unpacked_bytes_max};
use super::caller::require;
use super::lines::{Column, Lines, Precision, Reader, Refusals, piece_bytes_max};
use super::{BODY_BYTES_MAX, Door, Refusal, Shared, body_of};
use crate::access::{Principal, Role};
use crate::ingest::named::{resolve, value_type};

/// Memory of what is written at once.
const PIECE_BYTES: usize = 8 << 20;

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
    request: Request,
) -> Result<Response, Refusal> {
    require(&principal, Role::Writer)?;
    let precision = Precision::parse(&words.precision)
        .ok_or_else(|| wrong("precision is ns, us, ms, s, m or h"))?;
    let headers = request.headers().clone();
    let body = body_of(request).await?;
    let grant = door.ingest.admit(&principal, memory_of(&headers, &body), 0).await;
    let grant =
        grant.map_err(|status| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, status.message()))?;
    let writing = tokio::task::spawn_blocking(move || {
        let _held_while_it_waits = grant;
        let text = text_of(&headers, &body)?;
        let text = std::str::from_utf8(&text).map_err(|_| wrong("the lines are no UTF-8"))?;
        store_all(&door, &principal, text, precision)
    });
    let stored = writing.await;
    let stored = stored.map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the write stopped: {error}"))
    })??;
    Ok(stored.into_response())
}

fn wrong(text: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

/// The most memory that a text takes, in bytes that the wire would count: they are there twice, as a piece is while the log
/// takes it.
fn memory_of(headers: &HeaderMap, body: &Bytes) -> usize {
    let is_packed = headers.contains_key(header::CONTENT_ENCODING);
    let text = if is_packed { unpacked_bytes_max(body, BODY_BYTES_MAX) } else { body.len() };
    let besides = if is_packed { body.len() } else { 0 };
    text.midpoint(besides) + piece_bytes_max(text, PIECE_BYTES)
}

/// What became of a text.
#[derive(Debug, Default)]
struct Stored {
    lines: usize,
    refused: Refusals,
}

impl Stored {
    /// What kept the rest of a text from the disk, and what of it is there.
    fn so_far(&self, why: Refusal) -> Refusal {
        let count = self.lines - self.refused.count();
        if count == 0 {
            return why;
        }
        let (Refusal { status, text }, lines) = (why, self.lines);
        let text = format!(
            "{text}; of the first {lines} lines {count} are on disk: send all again, a sample that is there stays as it is"
        );
        Refusal::new(status, text)
    }
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
fn text_of<'a>(headers: &HeaderMap, body: &'a Bytes) -> Result<Cow<'a, [u8]>, Refusal> {
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

/// Reads a text and writes it, piece by piece. Blocks until it is on disk.
fn store_all(
    door: &Arc<Door>,
    principal: &Principal,
    text: &str,
    precision: Precision,
) -> Result<Stored, Refusal> {
    let mut reader = Reader::new(text, &door.template, precision, door.ingest.now_ns());
    let mut stored = Stored::default();
    while let Some(piece) = reader.piece(PIECE_BYTES) {
        let lines = piece.count;
        let refused = store(door, principal, piece).map_err(|why| stored.so_far(why))?;
        stored.lines += lines;
        stored.refused.extend(refused);
    }
    Ok(stored)
}

/// Writes what was read. Blocks until it is on disk. Gives the lines of it that are not.
fn store(door: &Arc<Door>, principal: &Principal, piece: Lines) -> Result<Refusals, Refusal> {
    let Lines { columns, mut refused, .. } = piece;
    let engine = door.database.engine();
    let mut batch = Batch::default();
    let mut numbers = Vec::new();
    for column in columns {
        let named =
            resolve(engine, &door.access, principal, &column.tag, value_type(&column.values));
        match named {
            Ok(tag) => {
                let Column { times, values, lines, .. } = column;
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
    Ok(refused)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_asked_for_in_proportion_and_bounded() {
        let of = |bytes: usize, is_packed: bool| {
            let mut headers = HeaderMap::new();
            if is_packed {
                headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
            }
            2 * memory_of(&headers, &Bytes::from(vec![0; bytes]))
        };
        assert!(of(100, false) < 64 << 10);
        assert!(of(BODY_BYTES_MAX, false) < 28 << 20);
        assert!(of(BODY_BYTES_MAX, true) < 36 << 20);
        assert!(of(100, true) > of(100, false));
    }

    #[test]
    fn what_fails_after_a_piece_says_what_is_on_disk() {
        let why = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the disk is full");
        let mut stored = Stored::default();
        assert_eq!(stored.so_far(why()).text, "the disk is full");
        stored.lines = 10;
        stored.refused.add(3, || "nonsense".to_owned());
        let told = stored.so_far(why());
        assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(told.text.contains("of the first 10 lines 9 are on disk"), "{}", told.text);
    }
}
