//! An answer as Flight sends it: a schema and batches, in types that every client of Arrow knows.

use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use tagmill::arrow::array::{ArrayRef, RecordBatch};
use tagmill::arrow::compute::cast;
use tagmill::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use tagmill::arrow::error::ArrowError;
use tagmill::arrow::ipc::writer::IpcWriteOptions;
use tagmill::datafusion::common::ScalarValue;
use tokio::sync::oneshot;
use tonic::Status;

use super::received::Received;
use super::statements::Statement;
use super::{DOOR, DoGet, Door, Values};
use crate::access::Principal;
use crate::queries::{Pieces, Serving, held, session_of, streamed};
use crate::status::{of_failure, of_query};

/// Batches handed to the transport ahead of the network.
const AHEAD: usize = 2;
/// Parameters of one statement, and rows of them: one.
const PARAMETERS_MAX: usize = 1_024;

/// Runs a statement. Returns when it is planned and has its turn; rows follow as the client takes them.
pub(super) async fn run(
    door: &Arc<Door>,
    principal: &Principal,
    handle: Bytes,
    statement: Statement,
) -> Result<DoGet, Status> {
    let session = session_of(&door.database, principal, DOOR);
    let mut session = session.map_err(|error| of_query(&error))?;
    let (runtime, stopping) = (door.queries.clone(), door.stopping.clone());
    let serving = Serving { runtime, held: held(session.settings()), stopping, ahead: AHEAD };
    let (begun, beginning) = oneshot::channel();
    let (door, principal) = (Arc::clone(door), principal.clone());
    let mut batches = streamed(serving, |batches| async move {
        let Statement { sql, values, .. } = statement;
        let running = door.admission.run(&principal, &mut session, &sql, values.to_vec());
        let (mut answer, _place) = running.await.map_err(|failure| of_failure(&failure))?;
        door.statements.runs(&handle, &principal, answer.statement);
        let schema = plain_schema(&answer.schema);
        let sent = match begun.send(Arc::clone(&schema)) {
            Ok(()) => send(&mut answer, &schema, &batches).await,
            Err(_) => Ok(()),
        };
        door.statements.runs(&handle, &principal, None);
        sent
    });
    let Ok(schema) = beginning.await else {
        // It came to its end before it began: why is all there is of it.
        let why = batches.next().await.and_then(Result::err);
        return Err(why.unwrap_or_else(|| Status::internal("the answer broke off")));
    };
    Ok(encoded(schema, batches.map_err(|status| FlightError::Tonic(Box::new(status)))))
}

async fn send(
    answer: &mut tagmill::Answer,
    schema: &SchemaRef,
    batches: &Pieces<RecordBatch>,
) -> Result<(), Status> {
    while let Some(batch) = answer.next().await.map_err(|error| of_query(&error))? {
        batches.send(plain(&batch, schema).map_err(|error| of_arrow(&error))?).await?;
    }
    Ok(())
}

/// An answer that is there already.
pub(super) fn ready(batch: RecordBatch) -> DoGet {
    let schema = batch.schema();
    encoded(schema, futures::stream::iter([Ok(batch)]))
}

fn encoded(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
) -> DoGet {
    let data = FlightDataEncoderBuilder::new().with_schema(schema).build(batches);
    let data: Pin<Box<dyn Stream<Item = Result<FlightData, FlightError>> + Send>> = Box::pin(data);
    Box::pin(data.map_err(|error| of_flight(&error)))
}

/// A schema without views and dictionaries, which older clients do not know. Every column may be null: whether one never is
/// may be known of a plan and not of the statement it was made of, and clients take nothing but the schema they were told.
pub(super) fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(plain_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let of = plain_type(field.data_type());
    Arc::new(field.as_ref().clone().with_data_type(of).with_nullable(true))
}

fn plain_type(of: &DataType) -> DataType {
    match of {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(item) | DataType::ListView(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}

fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()));
    let rows = Some(batch.num_rows());
    let options = tagmill::arrow::array::RecordBatchOptions::new().with_row_count(rows);
    let columns = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Types of parameters, as columns `$1`, `$2` ..; a text where any type would do.
pub(super) fn parameters_schema(parameters: &[Option<DataType>]) -> SchemaRef {
    let field = |(number, of): (usize, &Option<DataType>)| {
        let of = of.as_ref().map_or(DataType::Utf8, plain_type);
        Field::new(format!("${number}"), of, true)
    };
    Arc::new(Schema::new((1..).zip(parameters).map(field).collect::<Vec<_>>()))
}

/// A schema as Flight SQL writes it into an answer.
pub(super) fn schema_bytes(schema: &SchemaRef) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let message = arrow_flight::SchemaAsIpc::new(schema, &options);
    let message = arrow_flight::IpcMessage::try_from(message).map_err(|error| of_arrow(&error))?;
    Ok(message.0)
}

/// The values of one row.
pub(super) async fn parameters_of(mut rows: Received) -> Result<Values, Status> {
    let mut values: Option<Values> = None;
    while let Some(batch) = rows.next().await? {
        if batch.num_rows() == 0 {
            continue;
        }
        if values.is_some() || batch.num_rows() > 1 || batch.num_columns() > PARAMETERS_MAX {
            let text = format!("give one row of at most {PARAMETERS_MAX} values");
            return Err(Status::invalid_argument(text));
        }
        // Compacted: a list would keep the whole message it came in.
        let value =
            |column: &ArrayRef| ScalarValue::try_from_array(column, 0).map(ScalarValue::compacted);
        let row = batch.columns().iter().map(value).collect::<Result<Vec<_>, _>>();
        let row = row.map_err(|error| Status::invalid_argument(error.to_string()))?;
        values = Some(row.into());
    }
    Ok(values.unwrap_or_else(|| Arc::from([])))
}

pub(super) fn of_flight(error: &FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => Status::new(status.code(), status.message()),
        FlightError::Arrow(error) => of_arrow(error),
        other => Status::invalid_argument(other.to_string()),
    }
}

fn of_arrow(error: &ArrowError) -> Status {
    Status::internal(format!("cannot send the answer: {error}"))
}

#[cfg(test)]
mod tests {
    use tagmill::arrow::array::{Int64Array, ListArray, StringViewArray, StructArray};
    use tagmill::arrow::buffer::OffsetBuffer;

    use super::*;

    #[test]
    fn a_batch_takes_the_schema_that_was_announced() {
        let schema_of = |may_be_null: bool, of_text: DataType| {
            let item = Field::new("item", DataType::Int64, may_be_null);
            let text = Field::new("x", of_text, may_be_null);
            Schema::new(vec![
                Field::new_list("a", item, may_be_null),
                Field::new_struct("b", vec![text], may_be_null),
            ])
        };
        let planned = Arc::new(schema_of(false, DataType::Utf8View));
        let announced = plain_schema(&Arc::new(schema_of(true, DataType::Utf8View)));
        assert_eq!(*announced, schema_of(true, DataType::Utf8));
        assert_eq!(plain_schema(&planned), announced);

        let item = Arc::new(Field::new("item", DataType::Int64, false));
        let numbers = Arc::new(Int64Array::from(vec![1, 2]));
        let list = ListArray::new(item, OffsetBuffer::from_lengths([2]), numbers, None);
        let text: ArrayRef = Arc::new(StringViewArray::from(vec!["a"]));
        let field = Arc::new(Field::new("x", DataType::Utf8View, false));
        let named = StructArray::from(vec![(field, text)]);
        let batch = RecordBatch::try_new(planned, vec![Arc::new(list), Arc::new(named)]).unwrap();
        assert_eq!(plain(&batch, &announced).unwrap().schema(), announced);
    }
}
