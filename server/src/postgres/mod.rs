//! The PostgreSQL wire: psql, psycopg, JDBC, `SQLAlchemy`, Grafana and their like ask here.
//!
//! # Contract
//! * Statements are those of every other door, in PostgreSQL's words ([`dialect`]), with the same checks and limits. Simple
//!   and extended protocol, parameters, cancel, `COPY .. TO STDOUT`. SQL only reads: a transaction is accepted, and each
//!   statement in it sees its own, newest state.
//! * Where tokens are asked for, a user logs in by SCRAM-SHA-256 with the token's name and text. Where the server has a
//!   certificate, nobody speaks in clear: there is no way down.
//! * What a connection holds is bounded: bytes of a message, prepared statements, time to log in, time to take an answer.
//! * Timestamps leave in microseconds, rounded down; where that loses digits a notice says so, once a statement.
//!
//! # Reading order
//! [`cut`](mod@cut) (one message, pure), [`startup`] (who is there), [`connection`] (what is kept of it), [`words`] (what a
//! statement asks for), [`variables`], [`acts`] (statements that are no queries), [`answer`] (rows on the wire), [`simple`] and [`extended`] (the two
//! protocols), [`copy`], [`values`] (Arrow to PostgreSQL and back), [`times`], [`arrays`], [`errors`], [`dialect`].

mod acts;
mod answer;
mod arrays;
mod connection;
mod copy;
mod cut;
pub mod dialect;
mod errors;
mod extended;
#[cfg(test)]
mod fuzzing;
mod simple;
mod startup;
mod times;
mod values;
mod variables;
mod words;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgwire::api::cancel::CancelHandler;
use pgwire::api::{ClientInfo, NoopHandler, PgWireConnectionState};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireFrontendMessage;
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::response::TransactionStatus;
use pgwire::tokio::server::{
    MaybeTls, PgWireMessageServerCodec, negotiate_tls, process_error, process_message,
};
use pgwire::tokio::tokio_rustls::TlsAcceptor;
use tagmill::{Database, Dialect};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::codec::Framed;

use crate::access::Access;
use crate::connections::{Counted, Crowd};
use crate::lifecycle::turns_true;
use crate::queries::{Admission, STALL};
use crate::tls::{Protocol, Tls};

use self::connection::{Cancels, Connection, connection_of};
use self::cut::{Uncut, cut, decoded, is_text};
use self::errors::{error, fatal, is_fatal, of_denied};
use self::extended::{Describer, Prepared};
use self::startup::Startup;
use self::words::Word;

/// How long a client may take to log in.
const LOGIN: Duration = Duration::from_secs(10);
/// How long a connection may say nothing. Pools keep theirs for an hour at most.
const IDLE: Duration = Duration::from_hours(8);
/// Longest message before a client has logged in, and after.
const FIRST_BYTES_MAX: usize = 16 << 10;
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes read at once.
const CHUNK_BYTES: usize = 8 << 10;
/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Door {
    database: Database,
    dialect: Dialect,
    access: Arc<Access>,
    admission: Admission,
    cancels: Arc<Cancels>,
    tls: Option<Arc<Tls>>,
}

/// Answers statements of one connection.
#[derive(Debug)]
struct Runner {
    door: Arc<Door>,
    describer: Arc<Describer>,
}

impl Runner {
    fn new(door: Arc<Door>) -> Self {
        let describer = Arc::new(Describer { door: Arc::clone(&door) });
        Self { door, describer }
    }

    /// Who asks, if it is still let in and the statement may run now.
    fn may_run<C: ClientInfo>(&self, client: &C, word: &Word) -> PgWireResult<Arc<Connection>> {
        let connection = connection_of(client)?;
        self.door.access.still(&connection.principal).map_err(|denied| of_denied(&denied))?;
        let ends = matches!(word, Word::Commit | Word::Rollback | Word::Savepoint("ROLLBACK"));
        if client.transaction_status() == TransactionStatus::Error && !ends {
            let text = "the transaction has failed: nothing runs until ROLLBACK";
            return Err(error("25P02", text));
        }
        Ok(connection)
    }
}

/// A connection's stream, with its messages cut.
type Socket = Framed<MaybeTls, PgWireMessageServerCodec<Prepared>>;

impl Door {
    /// # Errors
    /// If the catalogs cannot be set up.
    pub(crate) async fn new(
        database: Database,
        access: Arc<Access>,
        admission: Admission,
        tls: Option<Arc<Tls>>,
    ) -> tagmill::Result<Self> {
        let dialect = dialect::new(&database).await?;
        let cancels = Arc::default();
        Ok(Self { database, dialect, access, admission, cancels, tls })
    }

    /// Serves what comes in until the server stops. Runs on the runtime of queries.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        counted: Arc<Counted>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let door = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let crowd = Arc::new(Crowd::new(counted));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = turns_true(&mut stopping) => return,
            };
            let (stream, one) = match accepted {
                Ok((stream, peer)) => match crowd.enter(peer.ip()) {
                    Some(one) => (stream, one),
                    None => continue,
                },
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (door, mut stopping) = (Arc::clone(&door), stopping.clone());
            tokio::spawn(async move {
                let _place = (place, one);
                tokio::select! {
                    served = door.serve_one(stream) => if let Err(error) = served {
                        tracing::debug!("a PostgreSQL connection ended: {error}");
                    },
                    () = turns_true(&mut stopping) => {}
                }
            });
        }
    }

    async fn serve_one(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let acceptor =
            self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.config(Protocol::Postgres)));
        let slow = || io::Error::new(io::ErrorKind::TimedOut, "it did not log in in time");
        let deadline = tokio::time::Instant::now() + LOGIN;
        let negotiated = tokio::time::timeout_at(deadline, negotiate_tls(stream, acceptor));
        let Some(mut socket) = negotiated.await.map_err(|_| slow())?? else {
            return Ok(()); // it spoke TLS to a server that has no certificate
        };
        if socket.is_secure() && !socket.read_buffer().is_empty() {
            // Somebody in between has put them there.
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there were bytes in clear before TLS",
            ));
        }
        let startup = Arc::new(Startup::new(Arc::clone(&self)));
        let runner = Arc::new(Runner::new(Arc::clone(&self)));
        loop {
            let is_known = !is_before_login(&socket);
            let message = if is_known {
                let next = timeout(IDLE, next_message(&mut socket, MESSAGE_BYTES_MAX)).await;
                next.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it said nothing"))?
            } else {
                let next = next_message(&mut socket, FIRST_BYTES_MAX);
                tokio::time::timeout_at(deadline, next).await.map_err(|_| slow())?
            };
            let Some(message) = message else { return Ok(()) };
            let is_last = match &message {
                Ok((PgWireFrontendMessage::Terminate(_), _)) => return Ok(()),
                Ok((PgWireFrontendMessage::CancelRequest(_), _)) => true,
                _ => false,
            };
            let is_extended =
                message.as_ref().is_ok_and(|(message, _)| message.is_extended_query());
            let processed = match message {
                Ok((_, false)) if is_known && !is_skipping(&socket) => {
                    Err(error("22021", "a statement is text in UTF-8, and this one is not"))
                }
                Ok((message, _)) => {
                    let (startup, runner) = (Arc::clone(&startup), Arc::clone(&runner));
                    let copy = Arc::new(NoopHandler);
                    let cancel = Arc::clone(&self.cancels);
                    let extended = Arc::clone(&runner);
                    process_message(message, &mut socket, startup, runner, extended, copy, cancel)
                        .await
                }
                Err(error) => Err(fatal("08P01", error.to_string())),
            };
            if let Err(error) = processed {
                let is_over = !is_known || is_fatal(&error);
                let telling = process_error(&mut socket, error, is_extended);
                timeout(STALL, telling).await.unwrap_or(Ok(()))?;
                if is_over {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

fn is_before_login(socket: &Socket) -> bool {
    matches!(
        socket.state(),
        PgWireConnectionState::AwaitingStartup | PgWireConnectionState::AuthenticationInProgress
    )
}

/// Whether something has failed, and what comes before the next Sync is not looked at.
fn is_skipping(socket: &Socket) -> bool {
    matches!(socket.state(), PgWireConnectionState::AwaitingSync)
}

/// The next message, of bounded length, and whether it is text where it has to be. The decoder sees the bytes of this one
/// alone, and may stumble over them.
async fn next_message(
    socket: &mut Socket,
    bytes_max: usize,
) -> Option<Result<(PgWireFrontendMessage, bool), PgWireError>> {
    let is_first = matches!(socket.state(), PgWireConnectionState::AwaitingStartup);
    loop {
        match cut(socket.read_buffer(), is_first, bytes_max) {
            Err(Uncut::NoLength) => {
                return Some(Err(fatal("08P01", "the length of a message is none")));
            }
            Err(Uncut::TooLong(length)) => {
                return Some(Err(PgWireError::MessageTooLarge(bytes_max, length)));
            }
            Ok(Some(end)) => {
                let mut bytes = socket.read_buffer_mut().split_to(end);
                let is_text = is_first || is_text(&bytes);
                let unreadable = || fatal("08P01", "the message cannot be read");
                let message = decoded(socket.codec_mut(), &mut bytes);
                let message = message.and_then(|message| message.ok_or_else(unreadable));
                return Some(message.map(|message| (message, is_text)));
            }
            Ok(None) => {}
        }
        let mut chunk = [0; CHUNK_BYTES];
        match socket.get_mut().read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => socket.read_buffer_mut().extend_from_slice(&chunk[..count]),
        }
    }
}

#[async_trait::async_trait]
impl CancelHandler for Cancels {
    async fn on_cancel_request(&self, request: CancelRequest) {
        self.cancel(request.pid, &request.secret_key);
    }
}
