//! An answer, from the plan to rows on the wire.
//!
//! Contract: rows are sent as they come; nothing gathers them. An answer ends when it is cancelled, when its time is over,
//! or when the client takes nothing for [`STALL`]. It has one of the places of [`crate::queries`] while it works.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Sink, SinkExt as _, Stream, StreamExt as _, stream};
use pgwire::api::ClientInfo;
use pgwire::api::portal::Format;
use pgwire::api::results::{DataRowEncoder, FieldInfo, Tag};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::DataRow;
use pgwire::messages::response::CommandComplete;
use tagmill::Answer;
use tagmill::arrow::array::RecordBatch;
use tagmill::arrow::error::ArrowError;
use tagmill::datafusion::common::ScalarValue;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::Connection;
use super::errors::{error, fatal, notice, of_failure, of_query};
use super::times::on_the_wire;
use super::values::{encode_row, fields_of};
use crate::queries::{Admission, Place, STALL, held};

/// What the bounds of the handlers' methods come to.
pub(super) trait Client:
    ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync
{
}
impl<C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync> Client for C {}

/// An answer on its way, with its timestamps as its session shows them.
pub(super) struct Rows {
    pub(super) fields: Arc<Vec<FieldInfo>>,
    pub(super) answer: Answer,
    pub(super) zone: Arc<str>,
    pub(super) lost: Lost,
    /// When it must have been taken.
    pub(super) ends: Instant,
}

/// Whether timestamps lost digits, and whether the client wants to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    has: Arc<AtomicBool>,
    is_told: bool,
}

impl Lost {
    pub(super) fn note(&self, has_lost: bool) {
        self.has.fetch_or(has_lost, Ordering::Relaxed);
    }

    /// Tells the client, once.
    pub(super) async fn tell<C: Client>(&self, client: &mut C) -> PgWireResult<()>
    where
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if self.is_told && self.has.swap(false, Ordering::Relaxed) {
            let text = "timestamps are shown in whole microseconds, rounded down: epoch_ns(ts) gives every digit";
            send(client, notice(text)).await?;
        }
        Ok(())
    }
}

/// Plans a query and begins it.
pub(super) async fn begin(
    admission: &Admission,
    connection: &Connection,
    cancelled: &mut watch::Receiver<()>,
    sql: &str,
    values: Vec<ScalarValue>,
) -> PgWireResult<(Answer, Place, Shown)> {
    let beginning = async {
        let (mut session, wants_notices) = {
            let state = connection.state.lock().await;
            (state.session.clone(), state.variables.wants_notices())
        };
        // Planning and waiting take room that every caller would have to hold.
        let principal = &connection.principal;
        let running = Box::pin(admission.run(principal, &mut session, sql, values));
        let (answer, place) = running.await.map_err(of_failure)?;
        let zone = Arc::from(session.settings().time_zone().name());
        let ends = Instant::now() + held(session.settings());
        Ok((answer, place, Shown { zone, wants_notices, ends }))
    };
    tokio::select! {
        begun = beginning => begun,
        _ = cancelled.changed() => Err(PgWireError::QueryCanceled),
    }
}

/// What of a connection's state an answer needs.
pub(super) struct Shown {
    zone: Arc<str>,
    wants_notices: bool,
    ends: Instant,
}

impl Rows {
    /// Tells the client what it should know besides.
    pub(super) async fn begin<C: Client>(
        client: &mut C,
        mut answer: Answer,
        format: &Format,
        shown: Shown,
    ) -> PgWireResult<Self>
    where
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let Shown { zone, wants_notices, ends } = shown;
        for text in std::mem::take(&mut answer.notices) {
            if wants_notices {
                send(client, notice(text)).await?;
            }
        }
        check_format(format, answer.schema.fields().len())?;
        let fields = Arc::new(fields_of(&answer.schema, format)?);
        let lost = Lost { has: Arc::default(), is_told: wants_notices };
        Ok(Self { fields, answer, zone, lost, ends })
    }

    /// The rows as messages, each made when it is asked for.
    pub(super) fn into_stream(self) -> Pin<Box<dyn Stream<Item = PgWireResult<DataRow>> + Send>> {
        let encoder = DataRowEncoder::new(Arc::clone(&self.fields));
        let encoding = Encoding { rows: self, encoder, batch: None, at: 0 };
        Box::pin(stream::try_unfold(encoding, |mut encoding| async move {
            let row = encoding.next().await?;
            Ok(row.map(|row| (row, encoding)))
        }))
    }
}

/// Rows, one batch of them at hand.
struct Encoding {
    rows: Rows,
    encoder: DataRowEncoder,
    batch: Option<RecordBatch>,
    /// The next row of it.
    at: usize,
}

impl Encoding {
    async fn next(&mut self) -> PgWireResult<Option<DataRow>> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.at < batch.num_rows()) {
                let row = encode_row(&mut self.encoder, batch, self.at, &self.rows.fields)?;
                self.at += 1;
                return Ok(Some(row));
            }
            // What was sent is free before more comes.
            self.batch = None;
            let more = self.rows.answer.next().await.map_err(|failure| of_query(&failure))?;
            let Some(more) = more else { return Ok(None) };
            in_its_time(self.rows.ends)?;
            let on_the_wire = on_the_wire(&more, &self.rows.zone);
            let (batch, has_lost) = on_the_wire.map_err(|e| of_arrow(&e))?;
            self.rows.lost.note(has_lost);
            (self.batch, self.at) = (Some(batch), 0);
        }
    }
}

/// Fails if an answer should have been taken by now.
pub(super) fn in_its_time(ends: Instant) -> PgWireResult<()> {
    if Instant::now() < ends { Ok(()) } else { Err(not_taken()) }
}

/// An answer was not taken by the time it had to be.
pub(super) fn not_taken() -> PgWireError {
    error("57014", "the answer was not taken within the time of its statement")
}

/// A client may give a format for each column, one for all, or none.
pub(super) fn check_format(format: &Format, columns: usize) -> PgWireResult<()> {
    match format {
        Format::Individual(each) if each.len() != columns => {
            let text = format!("{} result formats were given for {columns} columns", each.len());
            Err(error("08P01", text))
        }
        _ => Ok(()),
    }
}

pub(super) fn of_arrow(failure: &ArrowError) -> PgWireError {
    error("XX000", format!("cannot send the answer: {failure}"))
}

/// Hands a message to the transport; waits for the client, if it takes something now and then.
pub(super) async fn send<C: Client>(
    client: &mut C,
    message: PgWireBackendMessage,
) -> PgWireResult<()>
where
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let ready = poll_fn(|context| client.poll_ready_unpin(context));
    in_time(ready).await??;
    client.start_send_unpin(message)?;
    Ok(())
}

/// As [`send`], for what must be taken by a time, however steadily the client takes it.
pub(super) async fn send_by<C: Client>(
    client: &mut C,
    message: PgWireBackendMessage,
    ends: Instant,
) -> PgWireResult<()>
where
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    timeout_at(ends, send(client, message)).await.unwrap_or_else(|_| Err(not_taken()))
}

/// Waits for a client to take something, but not for ever.
pub(super) async fn in_time<T>(taking: impl Future<Output = T>) -> PgWireResult<T> {
    let stalled = || fatal("57014", format!("the client took nothing for {} s", STALL.as_secs()));
    timeout(STALL, taking).await.map_err(|_| stalled())
}

/// Sends up to so many rows, all of them if that is 0, until a time. Gives how many, and whether there may be more.
pub(super) async fn send_rows<C: Client>(
    client: &mut C,
    rows: &mut (impl Stream<Item = PgWireResult<DataRow>> + Unpin),
    max_rows: usize,
    ends: Instant,
    cancelled: &mut watch::Receiver<()>,
) -> PgWireResult<(usize, bool)>
where
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut count = 0;
    while max_rows == 0 || count < max_rows {
        let row = tokio::select! {
            biased;
            _ = cancelled.changed() => return Err(PgWireError::QueryCanceled),
            row = rows.next() => row,
        };
        let Some(row) = row else { return Ok((count, false)) };
        send_by(client, PgWireBackendMessage::DataRow(row?), ends).await?;
        count += 1;
    }
    Ok((count, true))
}

pub(super) async fn complete<C: Client>(client: &mut C, tag: Tag) -> PgWireResult<()>
where
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    send(client, PgWireBackendMessage::CommandComplete(CommandComplete::from(tag))).await
}
