//! History from Arrow into samples: `ingest` of Flight SQL, as ADBC's `adbc_ingest` sends it.
//!
//! # Contract
//! * Columns: `tag` (text), `ts` (a timestamp, or whole nanoseconds since 1970), `value` (a number, truth value or text), and
//!   perhaps `quality` (an OPC UA status code; Good without it). Any other column is refused, so that none is lost.
//! * Samples are written as they come, batch by batch; those of batches before an error stay written, and sending all of
//!   them again changes nothing.
//! * What is counted in the answer is on disk. The first samples that are rejected end the load with an error that names
//!   them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::sql::{CommandStatementIngest, TableDefinitionOptions, TableExistsOption};
use futures::{Stream, StreamExt, TryStreamExt};
use tagmill::arrow::array::{Array, AsArray, RecordBatch};
use tagmill::arrow::compute::cast;
use tagmill::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int64Type, TimeUnit, UInt32Type,
};
use tagmill_storage::{Batch, Engine, Qualities, Quality, TagColumn, Values};
use tonic::Status;

use super::Door;
use super::answer::of_flight;
use crate::access::{Access, Principal};
use crate::ingest::named::{resolve, value_type};
use crate::status::{of_join, of_storage};

/// The one relation that takes samples.
const TABLE: &str = "samples";
/// Samples of one write.
const SAMPLES_MAX: usize = 65_536;
/// Bytes that a sample takes on its way, for the memory of all.
const SAMPLE_BYTES: usize = 64;

/// Batches of a stream.
pub(super) fn batches(
    stream: PeekableFlightDataStream,
) -> impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static {
    let data = stream.map_err(|status| FlightError::Tonic(Box::new(status)));
    let data = data.try_filter(|data: &FlightData| {
        // A client may say what it wants before it says anything else.
        let has_more = !data.data_header.is_empty();
        async move { has_more }
    });
    FlightRecordBatchStream::new_from_flight_data(data)
}

/// Loads samples. Returns how many are on disk.
pub(super) async fn ingest(
    door: &Arc<Door>,
    principal: &Principal,
    command: &CommandStatementIngest,
    stream: PeekableFlightDataStream,
) -> Result<i64, Status> {
    check_target(command)?;
    let mut batches = std::pin::pin!(batches(stream));
    let mut loaded = 0_u64;
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|error| of_flight(&error))?;
        for start in (0..batch.num_rows()).step_by(SAMPLES_MAX) {
            let rows = SAMPLES_MAX.min(batch.num_rows() - start);
            let piece = batch.slice(start, rows);
            let grant = door.ingest.admit(rows * SAMPLE_BYTES, rows as u64).await?;
            let (door, principal) = (Arc::clone(door), principal.clone());
            let written = tokio::task::spawn_blocking(move || {
                let _held_while_it_waits = grant;
                write(door.database.engine(), door.ingest.access(), &principal, &piece)
            });
            let written = written.await.map_err(|error| of_join(&error))?;
            loaded += written.map_err(|status| after(loaded, &status))?;
        }
    }
    Ok(i64::try_from(loaded).unwrap_or(i64::MAX))
}

/// The same error, and how far the load had come.
fn after(loaded: u64, status: &Status) -> Status {
    let text = format!("{} ({loaded} samples before are on disk)", status.message());
    Status::new(status.code(), text)
}

fn check_target(command: &CommandStatementIngest) -> Result<(), Status> {
    let wrong = |text: &str| Err(Status::invalid_argument(text));
    if command.table != TABLE {
        return wrong("samples are loaded into the relation \"samples\", and nothing into others");
    }
    if command.catalog.as_deref().is_some_and(|catalog| catalog != "tagmill")
        || command.schema.as_deref().is_some_and(|schema| schema != "public")
    {
        return wrong("the relation is tagmill.public.samples");
    }
    if command.temporary || command.transaction_id.as_ref().is_some_and(|id| !id.is_empty()) {
        return wrong("there are no temporary relations and no transactions");
    }
    let options = command.table_definition_options.as_ref();
    match options.map(TableDefinitionOptions::if_exists) {
        None | Some(TableExistsOption::Append | TableExistsOption::Unspecified) => Ok(()),
        Some(TableExistsOption::Fail | TableExistsOption::Replace) => {
            wrong("\"samples\" is there already, and is never replaced: append to it")
        }
    }
}

/// Samples of one tag.
struct Column {
    times: Vec<i64>,
    values: Values,
    qualities: Vec<Quality>,
}

/// Writes one batch. Blocks until it is on disk.
fn write(
    engine: &Engine,
    access: &Access,
    principal: &Principal,
    batch: &RecordBatch,
) -> Result<u64, Status> {
    let columns = columns_of(batch).map_err(Status::invalid_argument)?;
    let mut names = Vec::with_capacity(columns.len());
    let mut wanted = Batch::default();
    for (name, Column { times, values, qualities }) in columns {
        let tag = resolve(engine, access, principal, &name, value_type(&values));
        let tag = tag.map_err(Status::permission_denied)?;
        let qualities = Qualities::Each(qualities);
        wanted.columns.push(TagColumn { tag, times, values, qualities });
        names.push(name);
    }
    if wanted.columns.is_empty() {
        return Ok(0);
    }
    let appended = engine.append(wanted).map_err(|error| of_storage(&error))?;
    if let Some(reject) = appended.rejects.first() {
        let name = names.get(reject.part).map_or("", String::as_str);
        return Err(Status::invalid_argument(format!(
            "samples of {name:?} were rejected: {}",
            reject.reason
        )));
    }
    Ok(appended.accepted)
}

/// The samples of a batch by tag. Pure.
fn columns_of(batch: &RecordBatch) -> Result<BTreeMap<String, Column>, String> {
    const KNOWN: [&str; 4] = ["tag", "ts", "value", "quality"];
    let schema = batch.schema();
    if let Some(other) =
        schema.fields().iter().find(|field| !KNOWN.contains(&field.name().as_str()))
    {
        let name = other.name();
        return Err(format!("there is no column {name:?}: it takes tag, ts, value and quality"));
    }
    let column = |name: &str| batch.column_by_name(name);
    let needed = |name: &str| column(name).ok_or_else(|| format!("the column {name:?} is missing"));
    let as_type = |name: &str, of: &DataType| {
        let array = needed(name)?;
        let cast = cast(array, of);
        let cast = cast.map_err(|error| format!("the column {name:?}: {error}"))?;
        if cast.null_count() > array.null_count() {
            return Err(format!("the column {name:?} has values that are no {of}"));
        }
        Ok(cast)
    };
    let tags = as_type("tag", &DataType::Utf8)?;
    let ns = DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("UTC")));
    let times = match needed("ts")?.data_type() {
        DataType::Timestamp(..) => cast(&as_type("ts", &ns)?, &DataType::Int64),
        of if of.is_integer() => cast(&as_type("ts", &DataType::Int64)?, &DataType::Int64),
        of => return Err(format!("the column \"ts\" is no timestamp but {of}")),
    };
    let times = times.map_err(|error| format!("the column \"ts\": {error}"))?;
    let qualities = match column("quality") {
        None => None,
        Some(_) => Some(as_type("quality", &DataType::UInt32)?),
    };
    let value_of = needed("value")?;
    let wide = match value_of.data_type() {
        DataType::Boolean | DataType::Float64 | DataType::Float32 => value_of.data_type().clone(),
        of if of.is_integer() => DataType::Int64,
        of if of.is_string() => DataType::Utf8,
        of => {
            return Err(format!("the column \"value\" is no number, truth value or text but {of}"));
        }
    };
    let values = as_type("value", &wide)?;
    let (tags, times) = (tags.as_string::<i32>(), times.as_primitive::<Int64Type>());
    let qualities = qualities.as_ref().map(AsArray::as_primitive::<UInt32Type>);
    let mut columns: BTreeMap<String, Column> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        if tags.is_null(row) || times.is_null(row) || values.is_null(row) {
            return Err(format!("row {row}: tag, ts and value must not be null"));
        }
        let name = tags.value(row);
        if !columns.contains_key(name) {
            let values = empty(&wide);
            let column = Column { times: Vec::new(), values, qualities: Vec::new() };
            columns.insert(name.to_owned(), column);
        }
        let Some(column) = columns.get_mut(name) else { continue };
        column.times.push(times.value(row));
        let code = qualities.filter(|codes| codes.is_valid(row)).map(|codes| codes.value(row));
        column.qualities.push(code.map_or(Quality::GOOD, Quality));
        push(&mut column.values, values.as_ref(), row);
    }
    Ok(columns)
}

const fn empty(of: &DataType) -> Values {
    match of {
        DataType::Boolean => Values::Bool(Vec::new()),
        DataType::Float32 => Values::F32(Vec::new()),
        DataType::Int64 => Values::I64(Vec::new()),
        DataType::Utf8 => Values::Text(Vec::new()),
        _ => Values::F64(Vec::new()),
    }
}

fn push(values: &mut Values, array: &dyn Array, row: usize) {
    match values {
        Values::F64(values) => values.push(array.as_primitive::<Float64Type>().value(row)),
        Values::F32(values) => values.push(array.as_primitive::<Float32Type>().value(row)),
        Values::I64(values) => values.push(array.as_primitive::<Int64Type>().value(row)),
        Values::Bool(values) => values.push(array.as_boolean().value(row)),
        Values::Text(values) => values.push(Arc::from(array.as_string::<i32>().value(row))),
        Values::State(_) => {}
    }
}
