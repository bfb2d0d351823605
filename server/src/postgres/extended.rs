//! The extended protocol: statements that are parsed, bound to values, and executed in parts.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Sink, SinkExt as _, stream};
use pgwire::api::portal::{Format, Portal, PortalExecutionState};
use pgwire::api::query::{ExtendedQueryHandler, send_ready_for_query};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::{QueryParser, StoredStatement};
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::DataRow;
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Execute, Flush, Parse, ParseComplete,
    PortalSuspended, Sync as PgSync, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};
use tagmill::Described;
use tagmill::arrow::datatypes::Schema;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::answer::{
    Client, Rows, begin, check_format, complete, in_time, not_taken, send, send_rows,
};
use super::connection::{Begun, Connection, Watched, check_name, connection_of};
use super::errors::{error, of_denied, of_failure, of_query};
use super::values::{bound, fields_of, parameter_types};
use super::words::{Word, word_of};
use super::{Door, Runner};
use crate::queries::{Place, STALL};

/// Bytes that a parameter or a column takes besides its name, where a statement is kept.
const TYPE_BYTES: usize = 128;

/// A statement that was parsed.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    sql: Arc<str>,
    word: Word,
    described: Described,
}

/// Says what a statement takes and gives.
#[derive(Debug)]
pub(super) struct Describer {
    pub(super) door: Arc<Door>,
}

/// What one execution holds, if it is a query's.
#[derive(Debug, Default)]
struct Working {
    place: Option<Place>,
    begun: Option<Begun>,
}

impl Runner {
    /// Begins what a portal stands for. Nothing if that is done with it.
    async fn begin_portal<C: Client + ClientPortalStore>(
        &self,
        client: &mut C,
        connection: &Connection,
        portal: &Portal<Prepared>,
        cancelled: &mut watch::Receiver<()>,
    ) -> PgWireResult<Option<(QueryResponse, Working)>>
    where
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let Prepared { sql, word, described } = &portal.statement.statement;
        match word {
            Word::Query => {
                let values = bound(portal, &described.parameters)?;
                let admission = &self.door.admission;
                let (answer, place, shown) =
                    begin(admission, connection, cancelled, sql, values).await?;
                let format = &portal.result_column_format;
                let statement = answer.statement;
                let rows = Rows::begin(client, answer, format, shown).await?;
                check_described(&rows.fields, &fields_of(&described.schema, format)?)?;
                let begun = Begun { lost: rows.lost.clone(), ends: rows.ends, statement };
                let working = Working { place: Some(place), begun: Some(begun) };
                let fields = Arc::clone(&rows.fields);
                Ok(Some((QueryResponse::new(fields, rows.into_stream()), working)))
            }
            Word::Show(name) => {
                let value = connection.shown(name).await?;
                let field = shown_field(name);
                let row = shown_row(field.clone(), &value)?;
                let mut response =
                    QueryResponse::new(Arc::new(vec![field]), stream::iter([Ok(row)]));
                response.set_command_tag("SHOW");
                Ok(Some((response, Working::default())))
            }
            other => self.act(client, connection, other.clone()).await.map(|()| None),
        }
    }
}

impl Runner {
    /// Gives the next rows of a portal, or does what it stands for. One that fails must not be asked again.
    async fn execute<C: Client + ClientPortalStore>(
        &self,
        client: &mut C,
        connection: &Connection,
        portal: &Portal<Prepared>,
        state: &mut PortalExecutionState,
        max_rows: usize,
    ) -> PgWireResult<()>
    where
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut cancelled = connection.cancelled();
        let Working { place, begun } = match state {
            PortalExecutionState::Initial => {
                *state = PortalExecutionState::Finished;
                let begun = self.begin_portal(client, connection, portal, &mut cancelled).await?;
                let Some((response, working)) = begun else { return Ok(()) };
                if let Some(begun) = &working.begun {
                    connection.state.lock().await.portals.begin(&portal.name, begun.clone());
                }
                *state = PortalExecutionState::Suspended(response);
                working
            }
            PortalExecutionState::Suspended(_) => {
                let begun = connection.state.lock().await.portals.go_on(&portal.name);
                self.go_on(connection, begun, &mut cancelled).await?
            }
            PortalExecutionState::Finished => Working::default(),
        };
        let PortalExecutionState::Suspended(response) = state else {
            return complete(client, Tag::new("SELECT").with_rows(0)).await;
        };
        let (word, is_query) =
            (response.command_tag().to_owned(), response.command_tag() != "SHOW");
        let ends = begun.as_ref().map_or_else(|| Instant::now() + STALL, |begun| begun.ends);
        let rows = response.data_rows();
        let (count, has_more) = send_rows(client, rows, max_rows, ends, &mut cancelled).await?;
        if !has_more {
            *state = PortalExecutionState::Finished;
        }
        drop(place);
        if let Some(begun) = &begun {
            begun.lost.tell(client).await?;
        }
        if has_more {
            if let Some(begun) = &begun {
                let watched = self.watch(&portal.state(), begun);
                connection.state.lock().await.portals.suspend(&portal.name, watched)?;
            }
            let suspended = PortalSuspended::new();
            return send(client, PgWireBackendMessage::PortalSuspended(suspended)).await;
        }
        let tag = Tag::new(&word);
        complete(client, if is_query { tag.with_rows(count) } else { tag }).await
    }

    /// Waits for a place to go on with an answer, as long as it has time.
    async fn go_on(
        &self,
        connection: &Connection,
        begun: Option<Begun>,
        cancelled: &mut watch::Receiver<()>,
    ) -> PgWireResult<Working> {
        let Some(begun) = begun else { return Ok(Working::default()) };
        let turn = self.door.admission.long_place(&connection.principal);
        let place = tokio::select! {
            turn = timeout_at(begun.ends, turn) => match turn {
                Ok(turn) => turn.map_err(of_failure)?,
                Err(_) => return Err(not_taken()),
            },
            _ = cancelled.changed() => return Err(PgWireError::QueryCanceled),
        };
        Ok(Working { place: Some(place), begun: Some(begun) })
    }

    /// Watches an answer that rests: it has no place, and nobody asks it whether it is over. When its time is over, or
    /// somebody ends it, all it holds is let go, and whoever asks for its next part hears why.
    fn watch(&self, portal: &Arc<Mutex<PortalExecutionState>>, begun: &Begun) -> Watched {
        let portal = Arc::downgrade(portal);
        let resting = begun.statement.map(|statement| self.door.admission.rest(statement));
        let ends = begun.ends;
        let watching = tokio::spawn(async move {
            let ended = async {
                match resting {
                    Some(mut resting) => resting.ended().await,
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! {
                () = ended => of_query(&tagmill::Error::Cancelled),
                () = sleep_until(ends) => not_taken(),
            };
            let Some(portal) = portal.upgrade() else { return };
            let mut state = portal.lock().await;
            if let PortalExecutionState::Suspended(response) = &mut *state {
                let (fields, why) = (response.row_schema(), stream::iter([Err(why)]));
                *state = PortalExecutionState::Suspended(QueryResponse::new(fields, why));
            }
        });
        Watched(watching.abort_handle())
    }
}

impl Prepared {
    /// Bytes that it takes, about.
    fn bytes(&self) -> usize {
        let names = self.described.schema.fields().iter().map(|field| field.name().len());
        let columns: usize = names.map(|name| name + TYPE_BYTES).sum();
        // What the text asks for may repeat it.
        2 * self.sql.len() + columns + TYPE_BYTES * self.described.parameters.len()
    }
}

#[async_trait]
impl ExtendedQueryHandler for Runner {
    type Statement = Prepared;
    type QueryParser = Describer;

    fn query_parser(&self) -> Arc<Describer> {
        Arc::clone(&self.describer)
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let connection = connection_of(client)?;
        self.door.access.still(&connection.principal).map_err(|denied| of_denied(&denied))?;
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        check_name(name)?;
        let parsed = StoredStatement::parse(client, &message, self.query_parser()).await?;
        let bytes = parsed.as_ref().map_or(0, |statement| {
            let types = statement.parameter_types.len() + message.type_oids.len();
            statement.statement.bytes() + TYPE_BYTES * types
        });
        connection.state.lock().await.prepared.add(name, bytes)?;
        match parsed {
            Some(statement) => client.portal_store().put_statement(Arc::new(statement)),
            None => client.portal_store().put_empty_statement(name),
        }
        send(client, PgWireBackendMessage::ParseComplete(ParseComplete::new())).await
    }

    async fn on_bind<C>(&self, client: &mut C, mut message: Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        for value in message.parameters.iter_mut().flatten() {
            // A part of a message would keep all of its buffer.
            *value = Bytes::copy_from_slice(value);
        }
        let name = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        let portal_name = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
        let given = message.parameters.len();
        let connection = connection_of(client)?;
        let wrong = |text: String| Err(error("08P01", text));
        if message.parameter_format_codes.len() > 1 && message.parameter_format_codes.len() != given
        {
            return wrong("parameters and their formats differ in number".to_owned());
        }
        match client.portal_store().get_statement(name) {
            Some(Entry::Value(statement)) => {
                let described = &statement.statement.described;
                let wanted = described.parameters.len();
                if wanted != given {
                    return wrong(format!(
                        "the statement has {wanted} parameters, given are {given}"
                    ));
                }
                let portal = Portal::try_new(&message, Arc::clone(&statement))?;
                check_format(&portal.result_column_format, described.schema.fields().len())?;
                let bytes: usize = message.parameters.iter().flatten().map(Bytes::len).sum();
                let bytes = bytes + given * size_of::<Option<Bytes>>();
                connection.state.lock().await.portals.add(portal_name, bytes)?;
                client.portal_store().put_portal(Arc::new(portal));
            }
            Some(Entry::Empty) if given > 0 => {
                return wrong("an empty statement has no parameters".to_owned());
            }
            Some(Entry::Empty) => {
                connection.state.lock().await.portals.add(portal_name, 0)?;
                client.portal_store().put_empty_portal(portal_name);
            }
            None => return Err(PgWireError::StatementNotFound(name.to_owned())),
        }
        send(client, PgWireBackendMessage::BindComplete(BindComplete::new())).await
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let max_rows = usize::try_from(message.max_rows).unwrap_or(0);
        let portal = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => portal,
            Some(Entry::Empty) => {
                let empty = EmptyQueryResponse::new();
                return send(client, PgWireBackendMessage::EmptyQueryResponse(empty)).await;
            }
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        };
        let connection = self.may_run(client, &portal.statement.statement.word)?;
        connection.state.lock().await.portals.check(name)?;
        let shared = portal.state();
        let mut state = shared.lock().await;
        let executed = self.execute(client, &connection, &portal, &mut state, max_rows).await;
        if executed.is_err() {
            // Nothing of an answer outlives its failure: neither rows that nobody watches, nor a place.
            *state = PortalExecutionState::Finished;
            connection.state.lock().await.portals.fail(name);
        }
        executed
    }

    async fn on_sync<C>(&self, client: &mut C, _: PgSync) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // Portals end with their transaction, which outside of BEGIN ends here.
        let status = client.transaction_status();
        if status == TransactionStatus::Idle
            && let Ok(connection) = connection_of(client)
        {
            for name in connection.state.lock().await.portals.clear() {
                client.portal_store().rm_portal(&name);
            }
        }
        client.portal_store().rm_portal(DEFAULT_NAME);
        in_time(send_ready_for_query(client, status)).await?
    }

    async fn on_flush<C>(&self, client: &mut C, _: Flush) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        in_time(client.flush()).await??;
        Ok(())
    }

    async fn on_close<C>(&self, client: &mut C, message: Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        if message.target_type == TARGET_TYPE_BYTE_STATEMENT {
            client.portal_store().rm_statement(name);
            connection_of(client)?.state.lock().await.prepared.remove(name);
        } else {
            client.portal_store().rm_portal(name);
            connection_of(client)?.state.lock().await.portals.remove(name);
        }
        send(client, PgWireBackendMessage::CloseComplete(CloseComplete::new())).await
    }

    async fn do_query<C>(&self, _: &mut C, _: &Portal<Prepared>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Err(error("XX000", "statements are answered by on_execute"))
    }
}

#[async_trait]
impl QueryParser for Describer {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        _: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let statements = tagmill::statements(sql);
        let sql = match statements.as_slice() {
            [] => return Ok(None),
            [sql] => *sql,
            _ => return Err(error("42601", "a prepared statement is one statement")),
        };
        let word = word_of(sql).await?;
        let nothing = || {
            let (parameters, schema) = (Vec::new(), Arc::new(Schema::empty()));
            Described { parameters, schema }
        };
        let described = match &word {
            Word::Query => {
                let connection = connection_of(client)?;
                let session = connection.state.lock().await.session.clone();
                let mut cancelled = connection.cancelled();
                let admission = &self.door.admission;
                tokio::select! {
                    described = admission.describe(&connection.principal, &session, sql) => {
                        described.map_err(of_failure)?
                    }
                    _ = cancelled.changed() => return Err(PgWireError::QueryCanceled),
                }
            }
            _ => nothing(),
        };
        Ok(Some(Prepared { sql: Arc::from(sql), word, described }))
    }

    fn get_parameter_types(&self, prepared: &Prepared) -> PgWireResult<Vec<Type>> {
        parameter_types(&prepared.described.parameters)
    }

    fn get_result_schema(
        &self,
        prepared: &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        if let Word::Show(name) = &prepared.word {
            return Ok(vec![shown_field(name)]);
        }
        fields_of(&prepared.described.schema, format.unwrap_or(&Format::UnifiedText))
    }
}

/// What is sent must be what the client was told of.
fn check_described(sent: &[FieldInfo], told: &[FieldInfo]) -> PgWireResult<()> {
    let types = |fields: &[FieldInfo]| -> Vec<u32> {
        fields.iter().map(|field| field.datatype().oid()).collect()
    };
    if types(sent) == types(told) {
        return Ok(());
    }
    Err(error(
        "0A000",
        "cached plan must not change result type: prepare the statement again, with casts",
    ))
}

pub(super) fn shown_field(name: &str) -> FieldInfo {
    let format = FieldFormat::Text;
    FieldInfo::new(name.to_ascii_lowercase(), None, None, Type::TEXT, format)
}

pub(super) fn shown_row(field: FieldInfo, value: &str) -> PgWireResult<DataRow> {
    let mut encoder = DataRowEncoder::new(Arc::new(vec![field]));
    encoder.encode_field(&value)?;
    Ok(encoder.take_row())
}
