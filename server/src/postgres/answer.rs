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
use tagmill::arrow::error::ArrowError;
use tagmill::datafusion::common::ScalarValue;
use tagmill::{Answer, Error};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::errors::{error, fatal, notice, of_failure, of_query};
use super::values::{encode_row, fields_of, on_the_wire};
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
        let running = Box::pin(admission.run(&mut session, sql, values));
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

    /// The rows as messages.
    pub(super) fn into_stream(self) -> Pin<Box<dyn Stream<Item = PgWireResult<DataRow>> + Send>> {
        let Self { fields, answer, zone, lost, ends } = self;
        let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
        let rows = answer.stream.map(move |batch| {
            let batch = batch.map_err(|failure| of_query(&Error::from(failure)));
            let batch =
                batch.and_then(|batch| on_the_wire(&batch, &zone).map_err(|e| of_arrow(&e)));
            let batch = batch.and_then(|batch| in_its_time(ends).map(|()| batch));
            let rows: Vec<PgWireResult<DataRow>> = match batch {
                Err(failure) => vec![Err(failure)],
                Ok((batch, has_lost)) => {
                    lost.note(has_lost);
                    let encode = |row| encode_row(&mut encoder, &batch, row, &fields);
                    (0..batch.num_rows()).map(encode).collect()
                }
            };
            stream::iter(rows)
        });
        Box::pin(rows.flatten())
    }
}

/// Fails if an answer should have been taken by now.
pub(super) fn in_its_time(ends: Instant) -> PgWireResult<()> {
    if Instant::now() < ends {
        return Ok(());
    }
    Err(error("57014", "the answer was not taken within the time of its statement"))
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

/// Waits for a client to take something, but not for ever.
pub(super) async fn in_time<T>(taking: impl Future<Output = T>) -> PgWireResult<T> {
    let stalled = || fatal("57014", format!("the client took nothing for {} s", STALL.as_secs()));
    timeout(STALL, taking).await.map_err(|_| stalled())
}

/// Sends up to so many rows, all of them if that is 0. Gives how many, and whether there may be more.
pub(super) async fn send_rows<C: Client>(
    client: &mut C,
    rows: &mut (impl Stream<Item = PgWireResult<DataRow>> + Unpin),
    max_rows: usize,
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
        send(client, PgWireBackendMessage::DataRow(row?)).await?;
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
