//! History from Arrow into samples: `ingest` of Flight SQL, as ADBC's `adbc_ingest` sends it.
//!
//! # Contract
//! * Columns: `tag` (text), `ts` (a timestamp, or whole nanoseconds since 1970), `value` (a number, truth value or text), and
//!   perhaps `quality` (an OPC UA status code; Good without it). Any other column is refused, so that none is lost.
//! * Samples are written as they come, piece by piece; those of pieces before an error stay written, and sending all of
//!   them again changes nothing.
//! * What is counted in the answer is on disk. The first samples that are rejected end the load with an error that names
//!   them. A token that ends or is revoked meanwhile writes nothing more.
//! * A piece takes at most [`PIECE_BYTES`] of memory and one sample more, however few bytes it was sent in.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::sql::{CommandStatementIngest, TableDefinitionOptions, TableExistsOption};
use tagmill::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use tagmill::arrow::compute::cast;
use tagmill::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int64Type, TimeUnit, UInt32Type,
};
use tagmill_storage::limits::TEXT_VALUE_BYTES_MAX;
use tagmill_storage::{Batch, Engine, Qualities, Quality, TagColumn, Values, check_name};
use tonic::Status;

use super::Door;
use super::received::Received;
use super::texts::Texts;
use crate::access::{Access, Principal};
use crate::ingest::named::{resolve, value_type};
use crate::status::{of_join, of_storage};

/// The one relation that takes samples.
const TABLE: &str = "samples";
/// Samples of one step, for which memory is asked once.
const SAMPLES_MAX: usize = 65_536;
/// Memory of what is written at once.
const PIECE_BYTES: usize = 8 << 20;
/// Memory of one sample besides its text, and of one tag's samples besides those and its name.
const SAMPLE_BYTES: usize = 96;
const COLUMN_BYTES: usize = 336;
/// Bytes of a client's words that an error repeats.
const TOLD_BYTES: usize = 256;

/// Loads samples. Returns how many are on disk.
pub(super) async fn ingest(
    door: &Arc<Door>,
    principal: &Principal,
    command: &CommandStatementIngest,
    stream: PeekableFlightDataStream,
) -> Result<i64, Status> {
    check_target(command)?;
    let mut received = Received::new(stream);
    let mut loaded = 0_u64;
    while let Some(batch) = received.next().await.map_err(|status| after(loaded, &status))? {
        for start in (0..batch.num_rows()).step_by(SAMPLES_MAX) {
            let still = door.ingest.access().still(principal);
            still.map_err(|denied| after(loaded, &Status::unauthenticated(denied.to_string())))?;
            let count = SAMPLES_MAX.min(batch.num_rows() - start);
            let rows = Rows::of(&batch.slice(start, count));
            let rows = rows.map_err(|why| after(loaded, &Status::invalid_argument(why)))?;
            let grant = door.ingest.admit(principal, rows.piece_bytes_max(), count as u64).await;
            let grant = grant.map_err(|status| after(loaded, &status))?;
            let (door, principal) = (Arc::clone(door), principal.clone());
            let written = tokio::task::spawn_blocking(move || {
                let _held_while_it_waits = grant;
                write_all(door.database.engine(), door.ingest.access(), &principal, &rows)
            });
            let (count, written) = written.await.map_err(|error| of_join(&error))?;
            loaded += count;
            written.map_err(|status| after(loaded, &status))?;
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

/// Writes all rows, in pieces. Gives how many are on disk, and what kept the others from it. Blocks.
fn write_all(
    engine: &Engine,
    access: &Access,
    principal: &Principal,
    rows: &Rows,
) -> (u64, Result<(), Status>) {
    let (mut loaded, mut from) = (0, 0);
    while from < rows.count {
        let piece = rows.piece(from, PIECE_BYTES).map_err(Status::invalid_argument);
        let written = piece.and_then(|(columns, next)| {
            from = next;
            write(engine, access, principal, columns)
        });
        match written {
            Ok(count) => loaded += count,
            Err(status) => return (loaded, Err(status)),
        }
    }
    (loaded, Ok(()))
}

/// Writes one piece. Blocks until it is on disk.
fn write(
    engine: &Engine,
    access: &Access,
    principal: &Principal,
    columns: BTreeMap<String, Column>,
) -> Result<u64, Status> {
    let mut names = Vec::with_capacity(columns.len());
    let mut wanted = Batch::default();
    for (name, Column { times, values, qualities }) in columns {
        let tag = resolve(engine, access, principal, &name, value_type(&values));
        // Other reasons than the scope are no refusals: the tag is of another type, or one too many.
        let status = |why: String| {
            let is_outside = !principal.reaches(&name);
            if is_outside {
                Status::permission_denied(why)
            } else {
                Status::failed_precondition(why)
            }
        };
        let tag = tag.map_err(status)?;
        let qualities = Qualities::Each(qualities);
        wanted.columns.push(TagColumn { tag, times, values, qualities });
        names.push(name);
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

/// Rows of a batch, their numbers in the types of the engine, their texts as they were sent.
struct Rows {
    count: usize,
    tags: Texts,
    times: ArrayRef,
    values: Given,
    qualities: Option<ArrayRef>,
}

/// Values of rows.
enum Given {
    Texts(Texts),
    Numbers(ArrayRef),
}

impl Rows {
    /// Reads the columns of a batch.
    ///
    /// # Errors
    /// What is wrong with them.
    fn of(batch: &RecordBatch) -> Result<Self, String> {
        const KNOWN: [&str; 4] = ["tag", "ts", "value", "quality"];
        let schema = batch.schema();
        let is_known = |name: &str| KNOWN.contains(&name);
        if let Some(other) = schema.fields().iter().find(|field| !is_known(field.name())) {
            let name = told(other.name());
            return Err(format!(
                "there is no column {name:?}: it takes tag, ts, value and quality"
            ));
        }
        let column = |name: &str| batch.column_by_name(name);
        let needed =
            |name: &str| column(name).ok_or_else(|| format!("the column {name:?} is missing"));
        let tags = needed("tag")?;
        let tags = Texts::of(tags)
            .ok_or_else(|| format!("the column \"tag\" is no text but {}", tags.data_type()))?;
        let times = times_of(needed("ts")?)?;
        let qualities = column("quality").map(|qualities| match qualities.data_type() {
            of if of.is_numeric() || of.is_null() => {
                as_type("quality", qualities, &DataType::UInt32)
            }
            of => Err(format!("the column \"quality\" is no status code but {of}")),
        });
        let values = values_of(needed("value")?)?;
        Ok(Self { count: batch.num_rows(), tags, times, values, qualities: qualities.transpose()? })
    }

    /// The most memory that one piece of these rows may take.
    fn piece_bytes_max(&self) -> usize {
        let mut bytes = 0;
        for row in 0..self.count {
            bytes += self.sample_bytes(row) + self.name_bytes(row);
            if bytes >= PIECE_BYTES {
                return PIECE_BYTES + TEXT_VALUE_BYTES_MAX;
            }
        }
        bytes
    }

    /// Memory of a row's sample.
    fn sample_bytes(&self, row: usize) -> usize {
        let text = match &self.values {
            Given::Texts(texts) => texts.get(row),
            Given::Numbers(_) => None,
        };
        SAMPLE_BYTES + text.map_or(0, str::len)
    }

    /// Memory of a row's tag.
    fn name_bytes(&self, row: usize) -> usize {
        COLUMN_BYTES + self.tags.get(row).map_or(0, str::len)
    }

    /// Samples by tag from a row on, until they take so many bytes, and the row that comes after them.
    ///
    /// # Errors
    /// What is wrong with one of them.
    fn piece(
        &self,
        from: usize,
        bytes_max: usize,
    ) -> Result<(BTreeMap<String, Column>, usize), String> {
        let times = self.times.as_primitive::<Int64Type>();
        let qualities = self.qualities.as_ref().map(AsArray::as_primitive::<UInt32Type>);
        let mut columns: BTreeMap<String, Column> = BTreeMap::new();
        let (mut row, mut bytes) = (from, 0);
        while row < self.count && bytes < bytes_max {
            let null = || format!("row {row}: tag, ts and value must not be null");
            let name = self.tags.get(row).filter(|_| times.is_valid(row)).ok_or_else(null)?;
            if !columns.contains_key(name) {
                check_name(name).map_err(|why| format!("{:?}: {why}", told(name)))?;
                bytes += self.name_bytes(row);
                let values = self.values.empty();
                let column = Column { times: Vec::new(), values, qualities: Vec::new() };
                columns.insert(name.to_owned(), column);
            }
            let column = columns.get_mut(name).ok_or_else(null)?;
            self.values.push(&mut column.values, row).ok_or_else(null)??;
            column.times.push(times.value(row));
            let code = qualities.filter(|codes| codes.is_valid(row)).map(|codes| codes.value(row));
            column.qualities.push(code.map_or(Quality::GOOD, Quality));
            bytes += self.sample_bytes(row);
            row += 1;
        }
        Ok((columns, row))
    }
}

impl Given {
    fn empty(&self) -> Values {
        match self {
            Self::Texts(_) => Values::Text(Vec::new()),
            Self::Numbers(numbers) => match numbers.data_type() {
                DataType::Boolean => Values::Bool(Vec::new()),
                DataType::Float32 => Values::F32(Vec::new()),
                DataType::Int64 => Values::I64(Vec::new()),
                _ => Values::F64(Vec::new()),
            },
        }
    }

    /// Adds the value of a row; nothing if it is null.
    fn push(&self, values: &mut Values, row: usize) -> Option<Result<(), String>> {
        let array = match self {
            Self::Texts(texts) => {
                let text = texts.get(row)?;
                if text.len() > TEXT_VALUE_BYTES_MAX {
                    return Some(Err(format!("row {row}: a text has at most 64 KiB")));
                }
                if let Values::Text(values) = values {
                    values.push(Arc::from(text));
                }
                return Some(Ok(()));
            }
            Self::Numbers(numbers) if numbers.is_null(row) => return None,
            Self::Numbers(numbers) => numbers,
        };
        match values {
            Values::F64(values) => values.push(array.as_primitive::<Float64Type>().value(row)),
            Values::F32(values) => values.push(array.as_primitive::<Float32Type>().value(row)),
            Values::I64(values) => values.push(array.as_primitive::<Int64Type>().value(row)),
            Values::Bool(values) => values.push(array.as_boolean().value(row)),
            Values::Text(_) | Values::State(_) => {}
        }
        Some(Ok(()))
    }
}

/// A column in another type, in which every one of its values is.
fn as_type(name: &str, array: &ArrayRef, of: &DataType) -> Result<ArrayRef, String> {
    let cast = cast(array, of).map_err(|error| format!("the column {name:?}: {error}"))?;
    if cast.null_count() > array.logical_null_count() {
        return Err(format!("the column {name:?} has values that are no {of}"));
    }
    Ok(cast)
}

fn times_of(array: &ArrayRef) -> Result<ArrayRef, String> {
    let times = match array.data_type() {
        DataType::Timestamp(..) => {
            let ns = DataType::Timestamp(TimeUnit::Nanosecond, Some(Arc::from("UTC")));
            as_type("ts", array, &ns)?
        }
        of if of.is_integer() => Arc::clone(array),
        of => return Err(format!("the column \"ts\" is no timestamp but {of}")),
    };
    as_type("ts", &times, &DataType::Int64)
}

fn values_of(array: &ArrayRef) -> Result<Given, String> {
    if let Some(texts) = Texts::of(array) {
        return Ok(Given::Texts(texts));
    }
    let wide = match array.data_type() {
        DataType::Boolean | DataType::Float64 | DataType::Float32 => array.data_type().clone(),
        of if of.is_integer() => DataType::Int64,
        of => {
            return Err(format!("the column \"value\" is no number, truth value or text but {of}"));
        }
    };
    as_type("value", array, &wide).map(Given::Numbers)
}

/// The beginning of a client's words.
fn told(text: &str) -> &str {
    &text[..text.floor_char_boundary(TOLD_BYTES)]
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::path::Path;
    use std::time::Duration;

    use arrow_flight::FlightDescriptor;
    use arrow_flight::encode::FlightDataEncoderBuilder;
    use arrow_flight::flight_service_server::FlightServiceServer;
    use arrow_flight::sql::ProstMessageExt as _;
    use bytes::{BufMut as _, Bytes};
    use futures::{StreamExt as _, TryStreamExt as _, stream};
    use prost::Message as _;
    use tagmill::Database;
    use tagmill::arrow::array::{DictionaryArray, Int64Array, StringArray, UInt16Array};
    use tagmill_storage::Options;
    use tokio::runtime::Handle;
    use tokio::sync::watch;
    use tonic::Code;
    use tonic::body::Body;
    use tonic::codegen::{Service as _, http};

    use super::super::Flight;
    use super::*;
    use crate::access::Role;
    use crate::access::file::{NewToken, Tokens};
    use crate::ingest::Ingest;
    use crate::queries::{Admission, Threads};

    fn new_token(scope: &[&str]) -> NewToken {
        NewToken {
            name: "loader".to_owned(),
            roles: vec![Role::Writer],
            scope: scope.iter().map(ToString::to_string).collect(),
            certificate: None,
            new_tags: Some(2),
            expires: crate::access::now() + 3_600,
        }
    }

    fn door(directory: &Path, access: Access) -> Arc<Door> {
        let database = Database::open(directory, tagmill::Options::default()).unwrap();
        let (engine, stopping) = (Arc::clone(database.engine()), watch::channel(false).1);
        let (message_bytes, memory_bytes) = (4 << 20, 64 << 20);
        let access = Arc::new(access);
        let ingest = Ingest::new(engine, message_bytes, memory_bytes, access, stopping.clone());
        let threads = Threads { long: Handle::current(), small: Handle::current() };
        let (admission, here) = (Admission::new(threads), Handle::current());
        Arc::new(Door::new(database, Arc::new(ingest), admission, here, stopping))
    }

    /// A load of these batches as it travels, message by message.
    async fn load_of(batches: Vec<RecordBatch>) -> Vec<Bytes> {
        let table = TABLE.to_owned();
        let command = CommandStatementIngest { table, ..CommandStatementIngest::default() };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let encoder = FlightDataEncoderBuilder::new().with_flight_descriptor(Some(descriptor));
        let sent = encoder.build(stream::iter(batches.into_iter().map(Ok)));
        let sent: Vec<_> = sent.try_collect().await.unwrap();
        let mut messages = Vec::new();
        for data in sent {
            let data = data.encode_to_vec();
            let mut message: Vec<u8> = vec![0];
            message.put_u32(u32::try_from(data.len()).unwrap());
            message.extend(data);
            messages.push(Bytes::from(message));
        }
        messages
    }

    #[test]
    fn what_is_outside_of_the_scope_is_refused_and_one_tag_too_many_is_another_matter() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(&dir.path().join("data"), Options::default()).unwrap();
        let path = dir.path().join("access.toml");
        let text = Tokens::create(&path, new_token(&["plant"])).unwrap();
        let access = Access::by_tokens(path).unwrap();
        let loader = access.by_token(&text).unwrap();
        let column = |name: &str, values| {
            let column = Column { times: vec![1], values, qualities: vec![Quality::GOOD] };
            BTreeMap::from([(name.to_owned(), column)])
        };
        let load = |name, values| write(&engine, &access, &loader, column(name, values));
        assert_eq!(load("plant/a", Values::I64(vec![1])).unwrap(), 1);
        assert_eq!(load("plant/b", Values::I64(vec![1])).unwrap(), 1);
        let beyond = load("plant/c", Values::I64(vec![1])).unwrap_err();
        assert_eq!(beyond.code(), Code::FailedPrecondition);
        let outside = load("other/a", Values::I64(vec![1])).unwrap_err();
        assert_eq!(outside.code(), Code::PermissionDenied);
    }

    #[tokio::test]
    async fn a_token_that_is_revoked_loads_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.toml");
        let text = Tokens::create(&path, new_token(&[])).unwrap();
        let access = Access::by_tokens(path.clone()).unwrap();
        let loader = access.by_token(&text).unwrap();
        let door = door(&dir.path().join("data"), access);
        let batch = |at: i64| {
            let tags: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
            let times: ArrayRef = Arc::new(Int64Array::from(vec![at, at]));
            let columns = [("tag", tags), ("ts", Arc::clone(&times)), ("value", times)];
            RecordBatch::try_from_iter(columns).unwrap()
        };
        let mut messages = load_of(vec![batch(1), batch(2)]).await;
        assert_eq!(messages.len(), 3, "a schema and two batches");
        let last = messages.pop().unwrap();
        // The last batch comes when the token is revoked, and that is known.
        let then = stream::once(async move {
            Tokens::revoke(&path, "loader").unwrap();
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            last
        });
        let body = stream::iter(messages).chain(then).map(Ok::<_, Infallible>);
        let mut request = http::Request::new(Body::new(axum::body::Body::from_stream(body)));
        *request.uri_mut() = "/arrow.flight.protocol.FlightService/DoPut".parse().unwrap();
        request.extensions_mut().insert(loader);
        let mut service = FlightServiceServer::new(Flight(Arc::clone(&door)));
        let answer = service.call(request).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().ends_with("(2 samples before are on disk)"), "{status}");
    }

    fn rows(tags: ArrayRef, values: ArrayRef) -> Result<Rows, String> {
        let times: ArrayRef = Arc::new(Int64Array::from_iter_values(0..tags.len() as i64));
        let columns = [("tag", tags), ("ts", times), ("value", values)];
        Rows::of(&RecordBatch::try_from_iter(columns).unwrap())
    }

    fn same_many_times(text: &str, times: usize) -> ArrayRef {
        let values: ArrayRef = Arc::new(StringArray::from(vec![text]));
        Arc::new(DictionaryArray::new(UInt16Array::from(vec![0; times]), values))
    }

    #[test]
    fn a_text_that_is_shown_often_is_written_in_pieces() {
        let text = "x".repeat(32 << 10);
        let rows = rows(same_many_times("a/b", 2_000), same_many_times(&text, 2_000)).unwrap();
        assert_eq!(rows.piece_bytes_max(), PIECE_BYTES + TEXT_VALUE_BYTES_MAX);
        let (mut from, mut pieces) = (0, 0);
        while from < rows.count {
            let (columns, next) = rows.piece(from, PIECE_BYTES).unwrap();
            let column = &columns["a/b"];
            assert_eq!((column.times.len(), column.values.len()), (next - from, next - from));
            assert_eq!(column.times.first(), Some(&(from as i64)));
            assert!((next - from) * text.len() <= PIECE_BYTES + text.len(), "{from} to {next}");
            (from, pieces) = (next, pieces + 1);
        }
        assert_eq!((from, pieces), (2_000, 8));
    }

    #[test]
    fn what_no_tag_can_hold_is_refused_before_it_is_copied() {
        let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let long = rows(same_many_times(&"n".repeat(513), 1), Arc::clone(&one)).unwrap();
        assert!(long.piece(0, PIECE_BYTES).is_err_and(|why| why.len() < 400));
        let text = "x".repeat(TEXT_VALUE_BYTES_MAX + 1);
        let long = rows(same_many_times("a", 1), same_many_times(&text, 1)).unwrap();
        assert!(long.piece(0, PIECE_BYTES).is_err());
        assert!(rows(Arc::clone(&one), one).is_err(), "a tag that is no text");
        let null: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        let null = rows(same_many_times("a", 1), null).unwrap();
        assert!(null.piece(0, PIECE_BYTES).is_err());
    }
}
