//! Arrow Flight SQL: what ADBC, its JDBC driver and other Arrow clients speak. On the port of gRPC.
//!
//! # Contract
//! * Who calls was asked by [`crate::doors`]; a handshake turns a user and a token into the token's bearer header, for
//!   clients that want one.
//! * Statements are read-only and run as those of every other door: same sessions, places, limits. Answers are streamed, in
//!   types that every client of Arrow knows (no views, no dictionaries).
//! * `ingest` into `samples` appends: what its answer counts is on disk.
//!
//! # Reading order
//! [`statements`] (what a client has prepared, and how running ones are ended), [`answer`], [`catalog`], [`received`] (what
//! clients send, checked before it is read), [`texts`], [`ingest`](mod@ingest).

mod answer;
mod catalog;
mod ingest;
mod received;
mod statements;
mod texts;

use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandStatementIngest, CommandStatementQuery, DoPutPreparedStatementResult, ProstMessageExt,
    SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus,
    FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, Ticket,
};
use bytes::Bytes;
use futures::stream;
use prost::Message as _;
use tagmill::Database;
use tagmill::arrow::array::RecordBatch;
use tagmill::arrow::datatypes::SchemaRef;
use tagmill::datafusion::common::ScalarValue;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::access::{Principal, Role};
use crate::doors::caller;
use crate::ingest::Ingest;
use crate::queries::{Admission, asker, session_of};
use crate::status::{of_failure, of_join, of_query};

use self::received::Received;
use self::statements::{Statement, Statements};

/// How this door is named where statements are shown.
const DOOR: &str = "flight";
/// Action of Flight itself; that of Flight SQL is older.
const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

type DoGet = Pin<Box<dyn Stream<Item = Result<arrow_flight::FlightData, Status>> + Send>>;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Flight(pub(crate) Arc<Door>);

/// What calls share.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) database: Database,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) admission: Admission,
    /// Where statements run.
    pub(crate) queries: Handle,
    pub(crate) statements: Statements,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Door {
    pub(crate) fn new(
        database: Database,
        ingest: Arc<Ingest>,
        admission: Admission,
        queries: Handle,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let statements = Statements::default();
        Self { database, ingest, admission, queries, statements, stopping }
    }

    /// Ends the statement of a flight info, if it runs.
    fn cancel(&self, info: &FlightInfo, principal: &Principal) -> CancelStatus {
        let number = self.statements.running(info, principal);
        let end = |number| self.admission.end(&self.database, number, &asker(principal, DOOR));
        match number.map(end) {
            Some(true) => CancelStatus::Cancelled,
            _ => CancelStatus::NotCancellable,
        }
    }

    /// Does something on the runtime of statements, where planning belongs, for as long as whoever asked is there.
    async fn there<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        // A set ends what is in it when it is dropped.
        let mut tasks = JoinSet::new();
        tasks.spawn_on(work, &self.queries);
        match tasks.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) => Err(of_join(&error)),
            None => Err(Status::internal("a task of the server is lost")),
        }
    }

    /// Types of a statement's answer and of its parameters.
    async fn described(
        &self,
        principal: &Principal,
        sql: &str,
    ) -> Result<(SchemaRef, SchemaRef), Status> {
        let session = session_of(&self.database, principal, DOOR);
        let session = session.map_err(|error| of_query(&error))?;
        let (sql, principal) = (sql.to_owned(), principal.clone());
        let admission = self.admission.clone();
        let describing = async move {
            let described = admission.describe(&principal, &session, &sql).await;
            described.map_err(|failure| of_failure(&failure))
        };
        let described = self.there(describing).await?;
        let parameters = answer::parameters_schema(&described.parameters);
        Ok((answer::plain_schema(&described.schema), parameters))
    }

    /// Types of the answer to a statement that was prepared. Values that were given for it may decide them.
    async fn described_with(
        &self,
        principal: &Principal,
        statement: &Statement,
    ) -> Result<SchemaRef, Status> {
        if statement.values.is_empty() {
            return Ok(self.described(principal, &statement.sql).await?.0);
        }
        let session = session_of(&self.database, principal, DOOR);
        let mut session = session.map_err(|error| of_query(&error))?;
        let (sql, values) = (Arc::clone(&statement.sql), statement.values.to_vec());
        let (admission, principal) = (self.admission.clone(), principal.clone());
        let describing = async move {
            let described = admission.describe_with(&principal, &mut session, &sql, values).await;
            described.map_err(|failure| of_failure(&failure))
        };
        Ok(answer::plain_schema(&self.there(describing).await?))
    }
}

/// Where to get an answer: here, with a ticket.
fn info_of(
    descriptor: FlightDescriptor,
    schema: &SchemaRef,
    ticket: Vec<u8>,
) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|error| Status::internal(format!("cannot describe the answer: {error}")))?
        .with_endpoint(endpoint)
        .with_descriptor(descriptor);
    Ok(Response::new(info))
}

/// As [`info_of`], for an answer that its command says all about.
fn info_of_command(
    request: Request<FlightDescriptor>,
    command: &impl ProstMessageExt,
    schema: &SchemaRef,
) -> Result<Response<FlightInfo>, Status> {
    info_of(request.into_inner(), schema, command.as_any().encode_to_vec())
}

/// As [`info_of_command`], for readers.
fn described(
    request: Request<FlightDescriptor>,
    command: &impl ProstMessageExt,
    schema: &SchemaRef,
) -> Result<Response<FlightInfo>, Status> {
    caller(&request, Role::Reader)?;
    info_of_command(request, command, schema)
}

/// The list of keys, of which there are none.
fn no_keys(request: &Request<Ticket>, schema: SchemaRef) -> Result<Response<DoGet>, Status> {
    caller(request, Role::Reader)?;
    Ok(Response::new(answer::ready(RecordBatch::new_empty(schema))))
}

#[tonic::async_trait]
impl FlightSqlService for Flight {
    type FlightService = Self;

    /// The doors have asked already: the answer says by which header to come again.
    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>,
        Status,
    > {
        let bearer = request.extensions().get::<crate::doors::Bearer>().cloned();
        let payload = bearer.as_ref().map(|bearer| Bytes::copy_from_slice(bearer.0.as_bytes()));
        let answer =
            HandshakeResponse { protocol_version: 0, payload: payload.unwrap_or_default() };
        let answers = stream::iter([Ok(answer)]);
        let mut response: Response<Pin<Box<dyn Stream<Item = _> + Send>>> =
            Response::new(Box::pin(answers));
        if let Some(value) = bearer.and_then(|bearer| format!("Bearer {}", bearer.0).parse().ok()) {
            response.metadata_mut().insert("authorization", value);
        }
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let principal = caller(&request, Role::Reader)?;
        refuse_transaction(query.transaction_id.as_ref())?;
        let (schema, parameters) = self.0.described(&principal, &query.query).await?;
        let statement = Statement::new(&principal, query.query, parameters.fields().len());
        let handle = self.0.statements.keep(statement)?;
        let ticket = TicketStatementQuery { statement_handle: handle };
        info_of(request.into_inner(), &schema, ticket.as_any().encode_to_vec())
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        let principal = caller(&request, Role::Reader)?;
        let statement = self.0.statements.get(&ticket.statement_handle, &principal)?;
        let handle = ticket.statement_handle;
        Ok(Response::new(answer::run(&self.0, &principal, handle, statement).await?))
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let principal = caller(&request, Role::Reader)?;
        refuse_transaction(query.transaction_id.as_ref())?;
        let (schema, parameters) = self.0.described(&principal, &query.query).await?;
        let statement = Statement::new(&principal, query.query, parameters.fields().len());
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: self.0.statements.keep(statement)?,
            dataset_schema: answer::schema_bytes(&schema)?,
            parameter_schema: answer::schema_bytes(&parameters)?,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        let principal = caller(&request, Role::Reader)?;
        self.0.statements.close(&query.prepared_statement_handle, &principal);
        Ok(())
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let principal = caller(&request, Role::Reader)?;
        let statement = self.0.statements.get(&query.prepared_statement_handle, &principal)?;
        let schema = self.0.described_with(&principal, &statement).await?;
        info_of_command(request, &query, &schema)
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let principal = caller(&request, Role::Reader)?;
        let handle = query.prepared_statement_handle;
        self.0.statements.get(&handle, &principal)?;
        let values = answer::parameters_of(Received::new(request.into_inner())).await?;
        self.0.statements.bind(&handle, &principal, values)?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) })
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        let principal = caller(&request, Role::Reader)?;
        let handle = query.prepared_statement_handle;
        let statement = self.0.statements.get(&handle, &principal)?;
        Ok(Response::new(answer::run(&self.0, &principal, handle, statement).await?))
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let principal = caller(&request, Role::Reader)?;
        let info = FlightInfo::decode(query.info);
        let info = info.map_err(|_| Status::invalid_argument("there is no flight info in it"))?;
        // Both lists of results have the same numbers.
        let status = self.0.cancel(&info, &principal);
        Ok(ActionCancelQueryResult { result: status.into() })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let principal = caller(&request, Role::Reader)?;
        let action = request.into_inner();
        if action.r#type != CANCEL_FLIGHT_INFO {
            let text = format!("there is no action {:?}", action.r#type);
            return Err(Status::invalid_argument(text));
        }
        let wrong = || Status::invalid_argument("there is no flight info in it");
        let wanted = CancelFlightInfoRequest::decode(action.body).map_err(|_| wrong())?;
        let status = self.0.cancel(&wanted.info.ok_or_else(wrong)?, &principal);
        let result = CancelFlightInfoResult { status: status.into() };
        let result = arrow_flight::Result { body: result.encode_to_vec().into() };
        Ok(Response::new(Box::pin(stream::iter([Ok(result)]))))
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        let description = "Ends the statement of a flight info".to_owned();
        Some(vec![Ok(ActionType { r#type: CANCEL_FLIGHT_INFO.to_owned(), description })])
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &query.into_builder().schema())
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &query.clone().into_builder().schema())
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &query.clone().into_builder().schema())
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &query.into_builder().schema())
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &query.clone().into_builder(catalog::sql_info()).schema())
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &query.into_builder(catalog::type_info()).schema())
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        caller(&request, Role::Reader)?;
        Ok(Response::new(answer::ready(catalog::catalogs(query)?)))
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        let principal = caller(&request, Role::Reader)?;
        Ok(Response::new(answer::ready(catalog::schemas(&self.0, &principal, query).await?)))
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        let principal = caller(&request, Role::Reader)?;
        Ok(Response::new(answer::ready(
            Box::pin(catalog::tables(&self.0, &principal, query)).await?,
        )))
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        caller(&request, Role::Reader)?;
        Ok(Response::new(answer::ready(catalog::table_types(query)?)))
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        caller(&request, Role::Reader)?;
        let info = query.into_builder(catalog::sql_info()).build();
        Ok(Response::new(answer::ready(info.map_err(|error| answer::of_flight(&error))?)))
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        caller(&request, Role::Reader)?;
        let info = query.into_builder(catalog::type_info()).build();
        Ok(Response::new(answer::ready(info.map_err(|error| answer::of_flight(&error))?)))
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &catalog::primary_keys())
    }

    async fn do_get_primary_keys(
        &self,
        _: CommandGetPrimaryKeys,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        no_keys(&request, catalog::primary_keys())
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &catalog::foreign_keys())
    }

    async fn do_get_exported_keys(
        &self,
        _: CommandGetExportedKeys,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        no_keys(&request, catalog::foreign_keys())
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &catalog::foreign_keys())
    }

    async fn do_get_imported_keys(
        &self,
        _: CommandGetImportedKeys,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        no_keys(&request, catalog::foreign_keys())
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        described(request, &query, &catalog::foreign_keys())
    }

    async fn do_get_cross_reference(
        &self,
        _: CommandGetCrossReference,
        request: Request<Ticket>,
    ) -> Result<Response<DoGet>, Status> {
        no_keys(&request, catalog::foreign_keys())
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let principal = caller(&request, Role::Writer)?;
        ingest::ingest(&self.0, &principal, &command, request.into_inner()).await
    }

    async fn get_flight_info_fallback(
        &self,
        command: arrow_flight::sql::Command,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        Err(unknown(command.type_url()))
    }

    async fn do_get_fallback(
        &self,
        _: Request<Ticket>,
        message: Any,
    ) -> Result<Response<DoGet>, Status> {
        Err(unknown(&message.type_url))
    }

    /// What is known is the same for all.
    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}

fn unknown(what: &str) -> Status {
    Status::unimplemented(format!("there is no such thing here: {what}"))
}

/// There are no transactions to be in.
fn refuse_transaction(id: Option<&Bytes>) -> Result<(), Status> {
    match id {
        Some(id) if !id.is_empty() => Err(Status::invalid_argument("there are no transactions")),
        _ => Ok(()),
    }
}

/// Values of `$1`, `$2` ..
pub(crate) type Values = Arc<[ScalarValue]>;
