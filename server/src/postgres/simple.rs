//! The simple protocol: texts of one statement or several, answered one after the other.

use std::fmt::Debug;

use async_trait::async_trait;
use futures::Sink;
use pgwire::api::portal::Format;
use pgwire::api::query::{SimpleQueryHandler, send_ready_for_query};
use pgwire::api::results::{Response, Tag};
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::RowDescription;
use pgwire::messages::response::EmptyQueryResponse;
use pgwire::messages::simplequery::Query;

use super::Runner;
use super::answer::{Client, Rows, begin, complete, in_time, send, send_rows};
use super::errors::error;
use super::extended::{shown_field, shown_row};
use super::words::{Word, word_of};

impl Runner {
    /// Answers one statement of the simple protocol.
    async fn answer<C: Client + ClientPortalStore>(
        &self,
        client: &mut C,
        sql: &str,
    ) -> PgWireResult<()>
    where
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let word = word_of(sql).await?;
        let connection = self.may_run(client, &word)?;
        match word {
            Word::Query => {
                let mut cancelled = connection.cancelled();
                let admission = &self.door.admission;
                let (answer, _place, shown) =
                    begin(admission, &connection, &mut cancelled, sql, Vec::new()).await?;
                let rows = Rows::begin(client, answer, &Format::UnifiedText, shown).await?;
                let (lost, ends) = (rows.lost.clone(), rows.ends);
                let fields = rows.fields.iter().map(Into::into).collect();
                let described = RowDescription::new(fields);
                send(client, PgWireBackendMessage::RowDescription(described)).await?;
                let mut rows = rows.into_stream();
                let (count, _) = send_rows(client, &mut rows, 0, ends, &mut cancelled).await?;
                lost.tell(client).await?;
                complete(client, Tag::new("SELECT").with_rows(count)).await
            }
            Word::Show(name) => {
                let value = connection.shown(&name).await?;
                let field = shown_field(&name);
                let described = RowDescription::new(vec![(&field).into()]);
                send(client, PgWireBackendMessage::RowDescription(described)).await?;
                send(client, PgWireBackendMessage::DataRow(shown_row(field, &value)?)).await?;
                complete(client, Tag::new("SHOW")).await
            }
            other => self.act(client, &connection, other).await,
        }
    }
}

#[async_trait]
impl SimpleQueryHandler for Runner {
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statements = tagmill::statements(&query.query);
        if statements.is_empty() {
            send(client, PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))
                .await?;
        }
        for sql in statements {
            self.answer(client, sql).await?;
        }
        let ready = send_ready_for_query(client, client.transaction_status());
        in_time(ready).await?
    }

    async fn do_query<C>(&self, _: &mut C, _: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        Err(error("XX000", "statements are answered by on_query"))
    }
}
