//! `POST /api/v1/sql` and `GET /api/v1/latest`: a statement in, its rows out as JSON, CSV or Arrow.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::{Writer as CsvWriter, WriterBuilder as CsvBuilder};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{JsonArray, Writer as JsonWriter, WriterBuilder as JsonBuilder};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tagmill::datafusion::common::ScalarValue;
use tagmill::limits::PARAMETERS_MAX;
use tagmill::{Answer, Error};
use tokio::sync::oneshot;
use tonic::Status;

use super::body::{Asked, Parameter};
use super::caller::require;
use super::{Door, Refusal, Shared, body_of};
use crate::access::{Principal, Role};
use crate::globs::glob_to_like;
use crate::queries::{Failure, Pieces, Serving, held, session_of, streamed};
use crate::status;

/// Pieces of an answer handed to the transport ahead of the network.
const AHEAD: usize = 4;

/// What `latest` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LatestOf {
    /// A pattern with `*`.
    tag: Option<String>,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Csv,
    Arrow,
}

impl Form {
    /// The first of the types a client would take that we have; JSON if it says nothing or anything.
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Self::Json) };
        let accept = accept.to_str().unwrap_or_default();
        for wanted in accept.split(',') {
            match wanted.split(';').next().unwrap_or_default().trim() {
                "application/json" | "application/*" | "*/*" | "" => return Ok(Self::Json),
                "text/csv" | "text/*" => return Ok(Self::Csv),
                "application/vnd.apache.arrow.stream" => return Ok(Self::Arrow),
                _ => {}
            }
        }
        let text = "answers are application/json, text/csv or application/vnd.apache.arrow.stream";
        Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, text))
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// Writes rows as they come, into memory that is taken away piece by piece.
enum Writer {
    Json(JsonWriter<Vec<u8>, JsonArray>),
    Csv(Written, Box<CsvWriter<Written>>),
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

/// Bytes that a writer keeps to itself, and we take.
#[derive(Clone, Debug, Default)]
struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

impl Written {
    fn take(&self) -> Vec<u8> {
        let mut bytes = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut bytes)
    }
}

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Writer {
    fn new(form: Form, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(match form {
            Form::Json => {
                Self::Json(JsonBuilder::new().with_explicit_nulls(true).build(Vec::new()))
            }
            Form::Csv => {
                let pieces = Written::default();
                let mut writer = CsvBuilder::new().with_header(true).build(pieces.clone());
                writer.write(&RecordBatch::new_empty(Arc::clone(schema)))?;
                Self::Csv(pieces, Box::new(writer))
            }
            Form::Arrow => Self::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
        })
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Json(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Self::Csv(pieces, writer) => {
                writer.write(batch)?;
                Ok(pieces.take())
            }
            Self::Arrow(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }

    fn finish(self) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Json(mut writer) => {
                writer.finish()?;
                let mut bytes = writer.into_inner();
                bytes.push(b'\n');
                Ok(bytes)
            }
            Self::Csv(pieces, writer) => {
                drop(writer);
                Ok(pieces.take())
            }
            Self::Arrow(mut writer) => {
                writer.finish()?;
                writer.into_inner()
            }
        }
    }
}

/// Answers a statement: as JSON with parameters and settings, or as plain text.
pub(super) async fn answer(
    State(door): Shared,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, Refusal> {
    require(&principal, Role::Reader)?;
    check_version(request.version())?;
    let form = Form::of(request.headers())?;
    let headers = request.headers().clone();
    let body = body_of(request).await?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let asked = if kind.is_some_and(|kind| kind.starts_with("application/json")) {
        Asked::of_json(&body, PARAMETERS_MAX)
    } else {
        Asked::of_text(&body)
    };
    let asked = asked.map_err(|text| Refusal::new(StatusCode::BAD_REQUEST, text))?;
    let values = asked.parameters.into_iter().map(scalar).collect();
    run(&door, &principal, form, asked.sql, values, asked.settings).await
}

/// Answers with the latest sample of each tag that matches.
pub(super) async fn latest(
    State(door): Shared,
    Extension(principal): Extension<Principal>,
    Query(of): Query<LatestOf>,
    version: Version,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    require(&principal, Role::Reader)?;
    check_version(version)?;
    let form = Form::of(&headers)?;
    let like = glob_to_like(of.tag.as_deref().unwrap_or("*"));
    let sql = "SELECT * FROM latest WHERE tag LIKE $1 ORDER BY tag".to_owned();
    let values = vec![ScalarValue::Utf8(Some(like))];
    run(&door, &principal, form, sql, values, HashMap::new()).await
}

/// Whether an answer that is cut off is seen to be. In HTTP/1.0 the end of the connection is the end of the answer,
/// whatever came before it.
fn check_version(version: Version) -> Result<(), Refusal> {
    if version >= Version::HTTP_11 {
        return Ok(());
    }
    let text = "in HTTP/1.0 an answer that is cut off looks whole: ask in HTTP/1.1 (in nginx: proxy_http_version 1.1)";
    Err(Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, text))
}

/// A parameter as the session takes it.
fn scalar(parameter: Parameter) -> ScalarValue {
    match parameter {
        Parameter::Null => ScalarValue::Null,
        Parameter::Bool(value) => ScalarValue::Boolean(Some(value)),
        Parameter::I64(value) => ScalarValue::Int64(Some(value)),
        Parameter::F64(value) => ScalarValue::Float64(Some(value)),
        Parameter::Text(value) => ScalarValue::Utf8(Some(value)),
    }
}

async fn run(
    door: &Arc<Door>,
    principal: &Principal,
    form: Form,
    sql: String,
    values: Vec<ScalarValue>,
    settings: HashMap<String, String>,
) -> Result<Response, Refusal> {
    let session = session_of(&door.database, principal, "http");
    let mut session = session.map_err(|error| of_query(&error))?;
    for (name, value) in settings {
        session.settings_mut().set(&name, &value).map_err(|error| of_query(&error))?;
    }
    let (runtime, stopping) = (door.queries.clone(), door.stopping.clone());
    let serving = Serving { runtime, held: held(session.settings()), stopping, ahead: AHEAD };
    let (begun, beginning) = oneshot::channel();
    let (admission, principal) = (door.admission.clone(), principal.clone());
    let mut body = streamed(serving, move |pieces| async move {
        let started = admission.run(&principal, &mut session, &sql, values).await;
        let started = started.map_err(|failure| of_failure(&failure));
        match started.and_then(|(answer, place)| Ok((writer_of(form, &answer)?, answer, place))) {
            Ok((writer, answer, _place)) => {
                if begun.send(Ok(answer.notices.clone())).is_ok() {
                    stream(answer, writer, &pieces).await?;
                }
            }
            Err(refusal) => drop(begun.send(Err(refusal))),
        }
        Ok(())
    });
    let Ok(begun) = beginning.await else {
        // It came to its end before it began: why is all there is of it.
        let why = body.next().await.and_then(Result::err);
        let why = why.as_ref().map_or("the answer broke off", Status::message);
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let notices = begun?;
    // An error ends the body without its end, so that no client takes it for whole.
    let body = body.map_err(|status| {
        let text = status.message();
        tracing::info!("an answer by HTTP broke off: {text}");
        std::io::Error::other(text.to_owned())
    });
    let body = Body::from_stream(body);
    let mut response = ([(header::CONTENT_TYPE, form.media_type())], body).into_response();
    for notice in notices {
        let text: String =
            notice.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
        if let Ok(value) = text.parse() {
            response.headers_mut().append("x-tagmill-notice", value);
        }
    }
    Ok(response)
}

fn writer_of(form: Form, answer: &Answer) -> Result<Writer, Refusal> {
    if form == Form::Json {
        check_names(&answer.schema)?;
    }
    let writer = Writer::new(form, &answer.schema);
    writer.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
}

/// Whether each column has a name of its own. Of those with one name an object in JSON keeps the last alone.
fn check_names(schema: &SchemaRef) -> Result<(), Refusal> {
    let mut names = HashSet::new();
    let twice = schema.fields().iter().find(|field| !names.insert(field.name()));
    let Some(twice) = twice else { return Ok(()) };
    let text = format!(
        "two columns are named {:?}, and JSON keeps one: name them with AS, or ask for CSV or Arrow",
        twice.name()
    );
    Err(Refusal::new(StatusCode::BAD_REQUEST, text))
}

/// Sends rows.
async fn stream(
    mut answer: Answer,
    mut writer: Writer,
    pieces: &Pieces<Vec<u8>>,
) -> Result<(), Status> {
    let unwritten = |error: ArrowError| Status::internal(error.to_string());
    while let Some(batch) = answer.next().await.map_err(|error| status::of_query(&error))? {
        let piece = writer.batch(&batch).map_err(unwritten)?;
        if !piece.is_empty() {
            pieces.send(piece).await?;
        }
    }
    pieces.send(writer.finish().map_err(unwritten)?).await
}

/// Why a statement does not run.
fn of_failure(failure: &Failure) -> Refusal {
    match failure {
        Failure::Full => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, failure.to_string()),
        Failure::Statement(error) => of_query(error),
    }
}

/// What a statement met.
fn of_query(error: &Error) -> Refusal {
    let status = match error {
        Error::Sql(_) | Error::Setting(_) | Error::ReadOnly(_) | Error::Execution(_) => {
            StatusCode::BAD_REQUEST
        }
        Error::Limit(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        Error::Memory(_) | Error::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, error.to_string())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn two_columns_of_one_name_are_no_json() {
        let schema = |names: &[&str]| {
            let fields = names.iter().map(|name| Field::new(*name, DataType::Int64, true));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        for good in [&["a"][..], &["a", "A", "b"]] {
            assert!(check_names(&schema(good)).is_ok(), "{good:?}");
        }
        let refusal = check_names(&schema(&["a", "b", "c", "b"])).unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        assert!(refusal.text.contains("\"b\""), "{}", refusal.text);
    }

    #[test]
    fn an_answer_needs_a_version_that_tells_its_end() {
        for old in [Version::HTTP_09, Version::HTTP_10] {
            let refusal = check_version(old).unwrap_err();
            assert_eq!(refusal.status, StatusCode::HTTP_VERSION_NOT_SUPPORTED);
            assert!(refusal.text.contains("HTTP/1.1"), "{}", refusal.text);
        }
        for new in [Version::HTTP_11, Version::HTTP_2] {
            assert!(check_version(new).is_ok(), "{new:?}");
        }
    }
}
