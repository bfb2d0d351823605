//! The start of a connection: in clear or not, who it is, and the settings it begins with.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{Sink, SinkExt as _};
use pgwire::api::auth::{
    ServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation,
    save_startup_parameters_to_metadata,
};
use pgwire::api::{
    ClientInfo, METADATA_USER, PgWireConnectionState, PidSecretKeyGenerator as _,
    RandomPidSecretKeyGenerator,
};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::startup::{Authentication, PasswordMessageFamily};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tokio::sync::Mutex;

use super::Door;
use super::connection::Connection;
use super::cut::is_first_answer;
use super::dialect;
use super::errors::{fatal, of_query};
use super::variables::Variables;
use crate::access::scram::Exchange;
use crate::access::{Login, Origin, Principal, Role};
use crate::queries::session_of;

const SCRAM: &str = "SCRAM-SHA-256";
/// Parameters of the startup message that are no variables.
const NO_VARIABLES: [&str; 4] = ["user", "database", "options", "replication"];

/// The start of one connection.
#[derive(Debug)]
pub(super) struct Startup {
    door: Arc<Door>,
    step: Mutex<Step>,
}

#[derive(Debug)]
enum Step {
    First,
    Proof(Box<(Exchange, Login)>),
    Done,
}

/// What a client is told of the server.
struct Parameters(HashMap<String, String>);

impl ServerParameterProvider for Parameters {
    fn server_parameters<C: ClientInfo>(&self, _: &C) -> Option<HashMap<String, String>> {
        Some(self.0.clone())
    }
}

impl Startup {
    pub(super) fn new(door: Arc<Door>) -> Self {
        Self { door, step: Mutex::new(Step::First) }
    }

    /// Takes a step of the proof; gives who it is after the last one.
    async fn prove<C>(
        &self,
        client: &mut C,
        message: PasswordMessageFamily,
    ) -> PgWireResult<Option<Principal>>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
        let mut step = self.step.lock().await;
        match std::mem::replace(&mut *step, Step::Done) {
            Step::First => {
                if let PasswordMessageFamily::Raw(body) = &message
                    && !is_first_answer(body)
                {
                    return Err(fatal("08P01", "the answer to the login cannot be read"));
                }
                let first = message.into_sasl_initial_response()?;
                if first.auth_method != SCRAM {
                    return Err(PgWireError::UnsupportedSASLAuthMethod(first.auth_method));
                }
                let login = self.door.access.login(&user);
                let verifier = login.verifier().clone();
                let begun = verifier.begin(first.data.as_deref().unwrap_or_default());
                let Ok((exchange, answer)) = begun else { return Err(self.refuse(client).await) };
                let answer = Authentication::SASLContinue(answer.into());
                client.send(PgWireBackendMessage::Authentication(answer)).await?;
                *step = Step::Proof(Box::new((exchange, login)));
                Ok(None)
            }
            Step::Proof(begun) => {
                let (exchange, login) = *begun;
                let last = message.into_sasl_response()?;
                let proved = exchange.finish(&last.data);
                let (Ok(answer), Ok(principal)) = (proved, login.principal()) else {
                    return Err(self.refuse(client).await);
                };
                let answer = Authentication::SASLFinal(answer.into());
                client.feed(PgWireBackendMessage::Authentication(answer)).await?;
                Ok(Some(principal))
            }
            Step::Done => Err(PgWireError::InvalidSASLState),
        }
    }

    /// Refuses a login. Who fails too often waits for that.
    async fn refuse<C: ClientInfo>(&self, client: &C) -> PgWireError {
        let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
        let origin = Origin { door: "postgres", peer: Some(client.socket_addr()) };
        self.door.access.refused(&user, origin).await;
        PgWireError::InvalidPassword(user)
    }

    /// Lets somebody in.
    async fn enter<C>(&self, client: &mut C, principal: Principal) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        principal.require(Role::Reader).map_err(|denied| fatal("42501", denied.to_string()))?;
        let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
        let dialect = self.door.dialect.with(dialect::of_user(&user)).map_err(|e| of_query(&e))?;
        let session = session_of(&self.door.database, &principal, "postgres");
        let mut session = session.map_err(|e| of_query(&e))?.in_dialect(Arc::new(dialect));
        let mut variables = Variables::default();
        for (name, value) in wanted(client.metadata()) {
            let wrong = |error: PgWireError| match error {
                PgWireError::UserError(info) => fatal(&info.code, info.message.clone()),
                other => other,
            };
            variables.set(&mut session, &name, &value).map_err(wrong)?;
        }
        let (pid, key) = KEYS.generate(client);
        client.set_pid_and_secret_key(pid, key.clone());
        let parameters = Parameters(variables.reported(session.settings(), &user));
        let cancels = &self.door.cancels;
        let connection = Connection::new(principal, session, variables, cancels, (pid, &key));
        client.session_extensions().insert(connection);
        finish_authentication(client, &parameters).await
    }
}

static KEYS: std::sync::LazyLock<RandomPidSecretKeyGenerator> =
    std::sync::LazyLock::new(RandomPidSecretKeyGenerator::default);

/// The variables that a client asks for at its start: parameters of their own, and `-c name=value` within `options`.
fn wanted(parameters: &HashMap<String, String>) -> Vec<(String, String)> {
    let own = parameters.iter().filter(|(name, _)| !NO_VARIABLES.contains(&name.as_str()));
    let mut wanted: Vec<_> = own.map(|(name, value)| (name.clone(), value.clone())).collect();
    let options = parameters.get("options").map_or("", String::as_str);
    let mut words = options.split_whitespace();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c") {
            Some("") => words.next(),
            Some(setting) => Some(setting),
            None => word.strip_prefix("--"),
        };
        let Some((name, value)) = setting.and_then(|setting| setting.split_once('=')) else {
            continue;
        };
        wanted.push((name.to_owned(), value.to_owned()));
    }
    wanted
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                if self.door.tls.is_some() && !client.is_secure() {
                    let text =
                        "this server speaks TLS alone: connect with sslmode=require or better";
                    return Err(fatal("28000", text));
                }
                if client.metadata().contains_key("replication") {
                    return Err(fatal("0A000", "there is no replication by this protocol"));
                }
                if !self.door.access.asks() {
                    return self.enter(client, Principal::anyone()).await;
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                let offered = Authentication::SASL(vec![SCRAM.to_owned()]);
                client.send(PgWireBackendMessage::Authentication(offered)).await?;
                Ok(())
            }
            PgWireFrontendMessage::PasswordMessageFamily(message) => {
                match self.prove(client, message).await? {
                    Some(principal) => self.enter(client, principal).await,
                    None => Ok(()),
                }
            }
            _ => Err(fatal("08P01", "log in first")),
        }
    }
}
