//! Statements that are no queries: they change what is kept of a connection.

use std::fmt::Debug;

use futures::Sink;
use pgwire::api::ClientPortalStore;
use pgwire::api::results::Tag;
use pgwire::api::store::PortalStore;
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::startup::ParameterStatus;

use super::Runner;
use super::answer::{Client, complete, send};
use super::connection::{Connection, State};
use super::errors::{error, notice};
use super::words::Word;

/// What a client is told of after its variables changed as a whole.
const TOLD: [&str; 2] = ["TimeZone", "application_name"];

impl Runner {
    /// Does what is no query.
    pub(super) async fn act<C: Client + ClientPortalStore>(
        &self,
        client: &mut C,
        connection: &Connection,
        word: Word,
    ) -> PgWireResult<()>
    where
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if let Word::Copy { sql, format } = word {
            return self.copy(client, connection, &sql, format).await;
        }
        let done = {
            let mut state = connection.state.lock().await;
            done(client, &mut state, word)?
        };
        if let Some(text) = done.notice {
            send(client, notice(text)).await?;
        }
        for shown in done.told {
            let status = ParameterStatus::new(shown.to_owned(), connection.shown(shown).await?);
            send(client, PgWireBackendMessage::ParameterStatus(status)).await?;
        }
        complete(client, Tag::new(done.tag)).await
    }
}

/// What came of a statement.
struct Done {
    /// The words that are answered.
    tag: &'static str,
    /// Variables of which the client is told.
    told: Vec<&'static str>,
    notice: Option<&'static str>,
}

impl Done {
    fn new(tag: &'static str) -> Self {
        Self { tag, told: Vec::new(), notice: None }
    }

    fn telling(self, told: impl IntoIterator<Item = &'static str>) -> Self {
        Self { told: told.into_iter().collect(), ..self }
    }

    fn noting(self, notice: Option<&'static str>) -> Self {
        Self { notice, ..self }
    }
}

fn done<C: Client + ClientPortalStore>(
    client: &mut C,
    state: &mut State,
    word: Word,
) -> PgWireResult<Done>
where
    C::PortalStore: PortalStore,
{
    let status = client.transaction_status();
    let is_idle = status == TransactionStatus::Idle;
    let done = match word {
        Word::Query | Word::Show(_) | Word::Copy { .. } => {
            return Err(error("XX000", "what gives rows is answered elsewhere"));
        }
        Word::Begin => {
            if is_idle {
                state.begin();
            }
            client.set_transaction_status(status.to_in_transaction_state());
            Done::new("BEGIN").noting((!is_idle).then_some("there is a transaction already"))
        }
        Word::Commit if status != TransactionStatus::Error => {
            client.set_transaction_status(TransactionStatus::Idle);
            Done::new("COMMIT").telling(state.commit()?)
        }
        Word::Commit | Word::Rollback => {
            client.set_transaction_status(TransactionStatus::Idle);
            let has_changed = state.roll_back();
            Done::new("ROLLBACK").telling(TOLD.into_iter().filter(|_| has_changed))
        }
        Word::Savepoint(word) => {
            client.set_transaction_status(match status {
                TransactionStatus::Error => TransactionStatus::Transaction,
                other => other,
            });
            Done::new(word)
        }
        Word::Set { is_local: true, .. } if is_idle => {
            Done::new("SET").noting(Some("SET LOCAL outside of a transaction does nothing"))
        }
        Word::Set { name, value, is_local } => {
            Done::new("SET").telling(state.set(&name, &value, is_local)?)
        }
        Word::Reset(name) if name.eq_ignore_ascii_case("all") => {
            state.reset("all")?;
            Done::new("RESET").telling(TOLD)
        }
        Word::Reset(name) => Done::new("RESET").telling(state.reset(&name)?),
        Word::DiscardAll if !is_idle => {
            return Err(error("25001", "DISCARD ALL cannot run in a transaction"));
        }
        Word::DiscardAll => {
            state.reset("all")?;
            forget(client, state.prepared.drain());
            Done::new("DISCARD ALL").telling(TOLD)
        }
        Word::Deallocate(None) => {
            forget(client, state.prepared.drain());
            Done::new("DEALLOCATE ALL")
        }
        Word::Deallocate(Some(name)) => {
            if !state.prepared.remove(&name) {
                let text = format!("there is no prepared statement {name:?}");
                return Err(error("26000", text));
            }
            forget(client, [name].into_iter());
            Done::new("DEALLOCATE")
        }
        Word::Nothing(tag) => Done::new(tag),
    };
    Ok(done)
}

/// Lets the store of statements go of some.
fn forget<C: ClientPortalStore>(client: &C, names: impl Iterator<Item = String>)
where
    C::PortalStore: PortalStore,
{
    for name in names {
        client.portal_store().rm_statement(&name);
    }
}
