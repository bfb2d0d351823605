//! The server's life: it listens, serves, and ends without losing what it has acknowledged.
//!
//! Three runtimes: one for gateways and administration, one for those who ask, one for the statements themselves, so that a
//! heavy statement never delays an acknowledgement, nor keeps another from being asked or ended. Every limit that tonic leaves open is set here.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use tagmill::Database;
use tagmill_proto::v1::admin_server::AdminServer;
use tagmill_proto::v1::query_server::QueryServer;
use tagmill_proto::view::ingest_server::IngestServer;
use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::access::Access;
use crate::admin::AdminService;
use crate::audit::{Audit, Event};
use crate::connections::{Counted, accept};
use crate::doors::{Doors, Reflection};
use crate::flight::{self, Flight};
use crate::http::{self, lines::Template};
use crate::ingest::{Ingest, IngestService};
use crate::own::{self, Watched};
use crate::postgres;
use crate::queries::{Admission, Threads};
use crate::sql_service::QueryService;
use crate::tls::{Protocol, Tls, TlsFiles};

/// Where the server listens unless told otherwise.
pub const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7410);
/// Longest message the server reads unless told otherwise.
pub const MESSAGE_BYTES: usize = 4 << 20;

/// Streams of one connection.
const STREAMS_PER_CONNECTION: u32 = 64;
/// Calls of one connection that have no answer yet. A stream counts until its first answer.
const CALLS_PER_CONNECTION: usize = 8;
/// After this time a connection is asked to go; streams that are there go on.
const CONNECTION_AGE_MAX: Duration = Duration::from_hours(1);
/// HTTP/2 flow control: a message and a half in flight per stream, several streams per connection.
const STREAM_WINDOW_BYTES: u32 = 6 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How long streams may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(10);

/// A file of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it must be there at the start. If not, tokens are asked for as soon as it is.
    pub must_exist: bool,
}

/// How the server runs.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where clients of PostgreSQL are served; `None` for nowhere.
    pub postgres: Option<SocketAddr>,
    /// Where HTTP is served; `None` for nowhere.
    pub http: Option<SocketAddr>,
    /// How names of tags are made of lines of Influx line protocol: `{measurement}`, `{field}`, `{tags}`, `{tag:KEY}`.
    pub line_template: String,
    /// Listen on an address that others can reach, even if nobody is asked for a token or nothing is encrypted.
    pub insecure_no_auth: bool,
    /// Tokens of those who are let in; without them everybody may do everything.
    pub access: Option<TokenFile>,
    /// The server's certificate; without it everything is in clear.
    pub tls: Option<TlsFiles>,
    /// Longest message to read.
    pub message_bytes: usize,
    /// Memory of samples on their way from the wire to the log, of all gateways together.
    pub ingest_bytes: u64,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Folder below which backups may be written on request; `None` refuses such requests.
    pub backups: Option<PathBuf>,
    /// Folder of the audit log; `None` for none.
    pub audit: Option<PathBuf>,
    /// How often the server writes its own figures as tags below `tagmill/`; `None` for never.
    pub own_figures: Option<Duration>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            listen: LISTEN,
            postgres: None,
            http: None,
            line_template: http::lines::DEFAULT.to_owned(),
            insecure_no_auth: false,
            access: None,
            tls: None,
            message_bytes: MESSAGE_BYTES,
            ingest_bytes: 256 << 20,
            connections: 512,
            backups: None,
            audit: None,
            own_figures: None,
        }
    }
}

/// Result of starting or stopping the server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Others could reach the address.
    #[error(
        "{address} can be reached from other machines, and there is no {lacks}: make one, listen on 127.0.0.1, \
         or pass --insecure-no-auth if the network is trusted"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
        /// What would make it safe.
        lacks: &'static str,
    },
    /// The file of tokens, certificate or key cannot be used, or the template of lines is none.
    #[error("{0}")]
    Safety(String),
    /// The address cannot be used.
    #[error("cannot listen on {address}: {source}; is another server running there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start threads: {0}")]
    Threads(#[source] io::Error),
    /// The server stopped by itself.
    #[error("the server stopped: {0}")]
    Transport(#[source] tonic::transport::Error),
    /// The database was not closed as it should be.
    #[error(transparent)]
    Database(#[from] tagmill::Error),
}

/// A running server. Dropping it ends everything at once; [`Server::shutdown`] is the polite way.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    postgres: Option<SocketAddr>,
    http: Option<SocketAddr>,
    database: Option<Database>,
    stop: watch::Sender<bool>,
    access: Arc<Access>,
    task: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    /// For gateways and administration, for doors of SQL, for statements.
    runtimes: Vec<Runtime>,
}

impl Server {
    /// Listens and serves from now on, on threads of its own.
    ///
    /// # Errors
    /// [`Error::Exposed`], [`Error::Safety`], [`Error::Listen`], [`Error::Threads`].
    pub async fn start(database: Database, options: ServeOptions) -> Result<Self> {
        check_exposure(&options)?;
        let access = match &options.access {
            Some(TokenFile { path, must_exist: true }) => Access::by_tokens(path.clone()),
            Some(TokenFile { path, .. }) => Access::when_there(path.clone()),
            None => Ok(Access::open()),
        };
        let audit = options.audit.as_deref().map(Audit::open).transpose().map_err(Error::Safety)?;
        let mut access = access.map_err(Error::Safety)?;
        if let Some(audit) = &audit {
            database.host(audit.relation());
            access = access.with_audit(Arc::clone(audit));
        }
        let access = Arc::new(access);
        let tls = options.tls.clone().map(Tls::new).transpose().map_err(Error::Safety)?;
        let template = Template::parse(&options.line_template).map_err(Error::Safety)?;
        let gateways = runtime("tagmill-serve")?;
        let queries = runtime("tagmill-query")?;
        let (long, small) = (patient_runtime("tagmill-long")?, runtime("tagmill-small")?);
        let threads = Threads { long: long.handle().clone(), small: small.handle().clone() };
        let (stop, stopping) = watch::channel(false);
        let common = Common {
            access,
            tls: tls.map(Arc::new),
            admission: Admission::new(threads),
            connections: Arc::default(),
            gateways: gateways.handle().clone(),
            queries: queries.handle().clone(),
            database: database.clone(),
            stopping,
        };
        let mut server = Self {
            address: options.listen,
            postgres: None,
            http: None,
            database: Some(database),
            stop,
            access: Arc::clone(&common.access),
            task: None,
            // From here on a drop of the server ends the runtimes without blocking.
            runtimes: vec![gateways, queries, long, small],
        };
        let (listener, address) = bind(&common.gateways, options.listen).await?;
        server.address = address;
        if let Some(tls) = common.tls.clone() {
            common.gateways.spawn(async move { tls.watch().await });
        }
        let ingest = common.ingest(&options);
        // Before PostgreSQL's catalogs are made, which list it.
        common.database.host(ingest.relation());
        if let Some(address) = options.postgres {
            server.postgres = Some(common.serve_postgres(address).await?);
        }
        if let Some(address) = options.http {
            let (most, ingest) = (options.connections, Arc::clone(&ingest));
            server.http = Some(common.serve_http(address, most, ingest, template).await?);
        }
        let reflection = Reflection::new();
        let reflection = reflection.map_err(|error| Error::Safety(error.to_string()))?;
        server.begin_to_watch(&common, &options, &ingest);
        let gateways = common.gateways.clone();
        server.task = Some(gateways.spawn(serve(common, options, ingest, reflection, listener)));
        Ok(server)
    }

    /// What the server tells of itself: its figures as tags, its start.
    fn begin_to_watch(&self, common: &Common, options: &ServeOptions, ingest: &Arc<Ingest>) {
        if let Some(every) = options.own_figures {
            let writing = own::write(common.watched(ingest), every, common.stopping.clone());
            common.gateways.spawn(writing);
        }
        common.access.note(|| Event::new("server.start").on(self.address.to_string()));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients of PostgreSQL are served.
    pub fn postgres_address(&self) -> Option<SocketAddr> {
        self.postgres
    }

    /// Where HTTP is served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Waits until the server stops by itself, which only a failure makes it do.
    ///
    /// # Errors
    /// [`Error::Transport`].
    pub async fn stopped(&mut self) -> Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        ended.unwrap_or(Ok(())).map_err(Error::Transport)
    }

    /// Tells gateways to go, answers what has arrived, and closes the database unless the caller holds another handle.
    ///
    /// # Errors
    /// [`Error::Database`] if the last writes are not on disk.
    pub async fn shutdown(mut self) -> Result<()> {
        self.stop.send_replace(true);
        self.access.note(|| Event::new("server.stop").on(self.address.to_string()));
        if let Some(task) = &mut self.task
            && tokio::time::timeout(DRAIN, task).await.is_err()
        {
            tracing::warn!("some connections did not end within {} s", DRAIN.as_secs());
        }
        self.task = None;
        let runtimes = std::mem::take(&mut self.runtimes);
        let database = self.database.take();
        let close = move || {
            for runtime in runtimes {
                runtime.shutdown_timeout(Duration::from_secs(2));
            }
            database.map_or(Ok(()), close)
        };
        match tokio::task::spawn_blocking(close).await {
            Ok(closed) => Ok(closed?),
            Err(error) => Err(Error::Threads(io::Error::other(error))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for runtime in self.runtimes.drain(..) {
            runtime.shutdown_background();
        }
    }
}

/// Closes the database. Another handle of the caller keeps it open: then it is synced.
fn close(database: Database) -> tagmill::Result<()> {
    match database.close() {
        Err(tagmill::Error::Execution(in_use)) => {
            tracing::debug!("{in_use}");
            Ok(())
        }
        closed => closed,
    }
}

/// Waits for a signal. A sender that is gone means the same.
pub(crate) async fn turns_true(signal: &mut watch::Receiver<bool>) {
    drop(signal.wait_for(|is_set| *is_set).await);
}

/// What all doors share.
#[derive(Clone, Debug)]
struct Common {
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
    admission: Admission,
    connections: Arc<Counted>,
    /// Where gateways are served, and all that writes.
    gateways: Handle,
    /// Where statements run.
    queries: Handle,
    database: Database,
    stopping: watch::Receiver<bool>,
}

impl Common {
    fn ingest(&self, options: &ServeOptions) -> Arc<Ingest> {
        let (engine, access) = (Arc::clone(self.database.engine()), Arc::clone(&self.access));
        let (message_bytes, memory_bytes) = (options.message_bytes, options.ingest_bytes);
        let stopping = self.stopping.clone();
        Arc::new(Ingest::new(engine, message_bytes, memory_bytes, access, stopping))
    }

    /// What the server counts.
    fn watched(&self, ingest: &Arc<Ingest>) -> Watched {
        Watched {
            engine: Arc::clone(self.database.engine()),
            ingest: Arc::clone(ingest),
            access: Arc::clone(&self.access),
            admission: self.admission.clone(),
            connections: Arc::clone(&self.connections),
        }
    }

    /// All services of the gRPC port.
    fn doors(self, options: &ServeOptions, ingest: Arc<Ingest>, reflection: Reflection) -> Doors {
        let Self { access, admission, queries, database, stopping, .. } = self;
        let bytes = options.message_bytes;
        let engine = Arc::clone(database.engine());
        let flight = Arc::new(flight::Door::new(
            database.clone(),
            Arc::clone(&ingest),
            admission.clone(),
            queries.clone(),
            stopping.clone(),
        ));
        let admin = AdminService::new(engine, options.backups.clone(), Arc::clone(&access));
        let query = QueryService::new(database, queries, admission, Arc::clone(&access), stopping);
        Doors {
            ingest: IngestServer::new(IngestService(ingest)).max_decoding_message_size(bytes),
            admin: AdminServer::new(admin).max_decoding_message_size(bytes),
            query: QueryServer::new(query).max_decoding_message_size(bytes),
            flight: FlightServiceServer::new(Flight(flight)).max_decoding_message_size(bytes),
            reflection,
            access,
            unfinished: Arc::default(),
        }
    }

    async fn serve_postgres(&self, address: SocketAddr) -> Result<SocketAddr> {
        let (listener, address) = bind(&self.queries, address).await?;
        let Self { access, tls, admission, connections, database, stopping, .. } = self.clone();
        let door = postgres::Door::new(database, access, admission, tls).await?;
        self.queries.spawn(door.serve(listener, connections, stopping));
        Ok(address)
    }

    async fn serve_http(
        &self,
        address: SocketAddr,
        most: usize,
        ingest: Arc<Ingest>,
        template: Template,
    ) -> Result<SocketAddr> {
        let (listener, address) = bind(&self.gateways, address).await?;
        let Self { access, tls, admission, queries, database, stopping, .. } = self.clone();
        let watched = self.watched(&ingest);
        let door = http::Door {
            database,
            watched,
            ingest,
            access,
            admission,
            queries,
            template,
            stopping,
            looked: tokio::sync::Mutex::default(),
        };
        let (accepted, connections) = mpsc::channel(1);
        let (spoken, counted) = ((Protocol::Http, tls), Arc::clone(&self.connections));
        self.gateways.spawn(accept(listener, most, spoken, counted, accepted));
        self.gateways.spawn(door.serve(connections));
        Ok(address)
    }
}

/// Fails if others can reach an address and either are asked for nothing or speak in clear.
///
/// # Errors
/// [`Error::Exposed`].
pub(crate) fn check_exposure(options: &ServeOptions) -> Result<()> {
    let all = std::iter::once(options.listen).chain(options.postgres).chain(options.http);
    let exposed = all.into_iter().find(|address| !address.ip().is_loopback());
    let is_there = |file: &&TokenFile| file.must_exist || file.path.exists();
    let lacks = match (options.access.as_ref().filter(is_there), &options.tls) {
        (None, _) => "token ('tagmill token create')",
        (_, None) => "certificate (--tls-cert, --tls-key)",
        _ => return Ok(()),
    };
    match exposed {
        Some(address) if !options.insecure_no_auth => Err(Error::Exposed { address, lacks }),
        _ => Ok(()),
    }
}

/// Listens, on a runtime. Gives the address too, whose port may have been left to the system.
async fn bind(runtime: &Handle, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let on_address = |source| Error::Listen { address, source };
    let binding = runtime.spawn(TcpListener::bind(address));
    let listener = binding.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let listener = listener.map_err(on_address)?;
    let address = listener.local_addr().map_err(on_address)?;
    Ok((listener, address))
}

fn runtime(name: &str) -> Result<Runtime> {
    threads(name).build().map_err(Error::Threads)
}

/// A runtime whose threads take what others leave of the processors, if there is not enough for all.
fn patient_runtime(name: &str) -> Result<Runtime> {
    threads(name).on_thread_start(step_back).build().map_err(Error::Threads)
}

fn threads(name: &str) -> tokio::runtime::Builder {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_name(name).enable_all();
    builder
}

/// Gives this thread a nice value of 10. It still gets a tenth of a processor that others want as a whole, so that what it
/// holds comes free.
fn step_back() {
    /// Of 0 to 99, of which the library makes nice values of 19 down to -20.
    const PATIENT: u8 = 22;
    let patient = ThreadPriorityValue::try_from(PATIENT).map(ThreadPriority::Crossplatform);
    let set = patient.map(set_current_thread_priority);
    if !matches!(set, Ok(Ok(()))) {
        tracing::debug!("a thread of long statements keeps its priority: {set:?}");
    }
}

async fn serve(
    common: Common,
    options: ServeOptions,
    ingest: Arc<Ingest>,
    reflection: Reflection,
    listener: TcpListener,
) -> Result<(), tonic::transport::Error> {
    let (tls, counted) = (common.tls.clone(), Arc::clone(&common.connections));
    let stopping = common.stopping.clone();
    let doors = common.doors(&options, ingest, reflection);
    let (accepted, connections) = mpsc::channel(1);
    let spoken = (Protocol::Grpc, tls);
    let accepting = tokio::spawn(accept(listener, options.connections, spoken, counted, accepted));
    let mut stop = stopping;
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .max_connection_age(CONNECTION_AGE_MAX)
        .max_frame_size(1 << 20)
        .http2_max_header_list_size(16 << 10)
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .serve_with_incoming_shutdown(doors, ReceiverStream::new(connections), async move {
            turns_true(&mut stop).await;
        })
        .await;
    accepting.abort();
    served
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nice value of this thread, field 19 of its line in `/proc` (`proc_pid_stat(5)`).
    fn nice() -> Option<i32> {
        let line = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
        let (_, behind_name) = line.rsplit_once(") ")?;
        behind_name.split(' ').nth(16)?.parse().ok()
    }

    #[test]
    fn long_statements_step_back_and_small_ones_do_not() {
        let Some(own @ ..=10) = nice() else {
            return eprintln!(
                "SKIPPED: this system has no /proc, or this process steps back itself"
            );
        };
        let of = |runtime: Runtime| {
            let there = runtime.block_on(runtime.spawn(async { nice() })).unwrap();
            runtime.shutdown_background();
            there
        };
        assert_eq!(of(patient_runtime("long").unwrap()), Some(10));
        assert_eq!(of(runtime("small").unwrap()), Some(own));
    }
}
