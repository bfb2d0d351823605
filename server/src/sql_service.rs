//! The way out: service `tagmill.v1.Query`.
//!
//! Statements run on a runtime of their own, so that a heavy one never delays an acknowledgement. Only so many run at once;
//! a few more wait, the rest are refused.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::StreamExt;
use tagmill::{Database, Session};
use tagmill_proto::v1::execute_response::Message;
use tagmill_proto::v1::query_server::Query;
use tagmill_proto::v1::{EndRequest, EndResponse, ExecuteRequest, ExecuteResponse, Finished};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::access::{Access, Principal, Role};
use crate::audit::Event;
use crate::doors::{caller, peer_of};
use crate::queries::{Admission, Pieces, Serving, asker, held, session_of, streamed};
use crate::status::{of_failure, of_query};

/// Bytes of one message of an answer.
const PIECE_BYTES: usize = 1 << 20;
/// Messages of an answer handed to the transport ahead of the network.
const AHEAD: usize = 4;
/// Bytes of a statement.
const SQL_BYTES_MAX: usize = 64 << 10;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct QueryService {
    database: Database,
    runtime: Handle,
    admission: Admission,
    access: Arc<Access>,
    /// Turns true when the server shuts down.
    stopping: watch::Receiver<bool>,
}

type Answers = Pieces<ExecuteResponse>;

impl QueryService {
    pub(crate) fn new(
        database: Database,
        runtime: Handle,
        admission: Admission,
        access: Arc<Access>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { database, runtime, admission, access, stopping }
    }
}

#[tonic::async_trait]
impl Query for QueryService {
    type ExecuteStream = Pin<Box<dyn Stream<Item = Result<ExecuteResponse, Status>> + Send>>;

    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let principal = caller(&request, Role::Reader)?;
        let ExecuteRequest { sql, settings } = request.into_inner();
        if sql.len() > SQL_BYTES_MAX {
            return Err(Status::resource_exhausted("a statement has at most 64 KiB"));
        }
        let session = session_of(&self.database, &principal, "grpc");
        let mut session = session.map_err(|error| of_query(&error))?;
        for (name, value) in settings {
            session.settings_mut().set(&name, &value).map_err(|error| of_query(&error))?;
        }
        let (runtime, stopping) = (self.runtime.clone(), self.stopping.clone());
        let serving = Serving { runtime, held: held(session.settings()), stopping, ahead: AHEAD };
        let admission = self.admission.clone();
        let answers = streamed(serving, |answers| async move {
            answer(&admission, &principal, session, &sql, &answers).await
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn end(&self, request: Request<EndRequest>) -> Result<Response<EndResponse>, Status> {
        let principal =
            caller(&request, Role::Reader).or_else(|_| caller(&request, Role::Operator))?;
        let id = request.get_ref().id;
        if !self.admission.end(&self.database, id, &asker(&principal, "grpc")) {
            return Err(Status::not_found(format!("there is no statement {id} of yours")));
        }
        let peer = peer_of(&request);
        self.access.note(|| {
            Event::new("statement.end").by(&principal).from("grpc", peer).on(id.to_string())
        });
        Ok(Response::new(EndResponse {}))
    }
}

async fn answer(
    admission: &Admission,
    principal: &Principal,
    mut session: Session,
    sql: &str,
    answers: &Answers,
) -> Result<(), Status> {
    let started = Instant::now();
    let begun = admission.run(principal, &mut session, sql, Vec::new()).await;
    let (mut answer, _place) = begun.map_err(|failure| of_failure(&failure))?;
    for notice in std::mem::take(&mut answer.notices) {
        send(answers, Message::Notice(notice)).await?;
    }
    let mut pieces = Messages::new(&answer.schema)?;
    let mut rows = 0;
    while let Some(batch) = answer.stream.next().await {
        let batch = batch.map_err(|error| of_query(&tagmill::Error::from(error)))?;
        rows += batch.num_rows() as u64;
        for piece in pieces.write(&batch)? {
            send(answers, Message::Ipc(piece)).await?;
        }
    }
    for piece in pieces.finish()? {
        send(answers, Message::Ipc(piece)).await?;
    }
    let elapsed_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    send(answers, Message::Finished(Finished { rows, elapsed_ns })).await
}

async fn send(answers: &Answers, message: Message) -> Result<(), Status> {
    answers.send(ExecuteResponse { message: Some(message) }).await
}

/// An Arrow IPC stream, cut into messages.
struct Messages {
    writer: StreamWriter<Vec<u8>>,
}

impl Messages {
    fn new(schema: &SchemaRef) -> Result<Self, Status> {
        let writer = StreamWriter::try_new(Vec::new(), schema).map_err(|error| of_arrow(&error))?;
        Ok(Self { writer })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<impl Iterator<Item = Bytes>, Status> {
        let batch = compacted(batch).map_err(|error| of_arrow(&error))?;
        self.writer.write(&batch).map_err(|error| of_arrow(&error))?;
        Ok(self.cut())
    }

    fn finish(&mut self) -> Result<impl Iterator<Item = Bytes>, Status> {
        self.writer.finish().map_err(|error| of_arrow(&error))?;
        Ok(self.cut())
    }

    /// What was written since the last call, in pieces.
    fn cut(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        let mut rest = Bytes::from(std::mem::take(self.writer.get_mut()));
        std::iter::from_fn(move || {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            (!piece.is_empty()).then_some(piece)
        })
    }
}

/// The batch without text that it holds but does not show: a view of ten rows keeps the buffers of all it was cut from.
fn compacted(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let compact = |column: &ArrayRef| -> ArrayRef {
        if *column.data_type() != DataType::Utf8View {
            return Arc::clone(column);
        }
        let views = column.as_string_view();
        let held: usize = views.data_buffers().iter().map(arrow::buffer::Buffer::len).sum();
        if held > 2 * views.total_buffer_bytes_used() {
            Arc::new(views.gc())
        } else {
            Arc::clone(column)
        }
    };
    RecordBatch::try_new_with_options(
        batch.schema(),
        batch.columns().iter().map(compact).collect(),
        &arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
    )
}

fn of_arrow(error: &ArrowError) -> Status {
    Status::internal(format!("cannot send the answer: {error}"))
}
