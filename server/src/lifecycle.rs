//! The server's life: it listens, serves, and ends without losing what it has acknowledged.
//!
//! Two runtimes: one for gateways and administration, one for SQL, so that a heavy statement never delays an
//! acknowledgement. Every limit that tonic leaves open is set here.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tagmill::Database;
use tagmill_proto::v1::admin_server::AdminServer;
use tagmill_proto::v1::query_server::QueryServer;
use tagmill_proto::view::ingest_server::IngestServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::admin::AdminService;
use crate::doors::Doors;
use crate::ingest::{Ingest, IngestService};
use crate::sql_service::QueryService;

/// Where the server listens unless told otherwise.
pub const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7410);
/// Longest message the server reads unless told otherwise.
pub const MESSAGE_BYTES: usize = 4 << 20;

/// Streams of one connection.
const STREAMS_PER_CONNECTION: u32 = 64;
/// HTTP/2 flow control: a message and a half in flight per stream, several streams per connection.
const STREAM_WINDOW_BYTES: u32 = 6 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How long streams may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(10);

/// How the server runs.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Listen on an address that others can reach, though nobody is asked for a password and nothing is encrypted.
    pub insecure_no_auth: bool,
    /// Longest message to read.
    pub message_bytes: usize,
    /// Memory of samples on their way from the wire to the log, of all gateways together.
    pub ingest_bytes: u64,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Folder below which backups may be written on request; `None` refuses such requests.
    pub backups: Option<PathBuf>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            listen: LISTEN,
            insecure_no_auth: false,
            message_bytes: MESSAGE_BYTES,
            ingest_bytes: 256 << 20,
            connections: 512,
            backups: None,
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
        "{address} can be reached from other machines, and this version has neither TLS nor passwords: \
         listen on 127.0.0.1, or pass --insecure-no-auth if the network is trusted"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
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
    database: Option<Database>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    /// For gateways and administration, then for SQL.
    runtimes: Vec<Runtime>,
}

impl Server {
    /// Listens and serves from now on, on threads of its own.
    ///
    /// # Errors
    /// [`Error::Exposed`], [`Error::Listen`], [`Error::Threads`].
    pub async fn start(database: Database, options: ServeOptions) -> Result<Self> {
        let address = options.listen;
        if !address.ip().is_loopback() && !options.insecure_no_auth {
            return Err(Error::Exposed { address });
        }
        let gateways = runtime("tagmill-serve")?;
        let queries = runtime("tagmill-query")?;
        let (stop, stopping) = watch::channel(false);
        let mut server = Self {
            address,
            database: Some(database.clone()),
            stop,
            task: None,
            runtimes: Vec::new(),
        };
        let (gateways_handle, queries_handle) =
            (gateways.handle().clone(), queries.handle().clone());
        // From here on a drop of the server ends the runtimes without blocking.
        server.runtimes = vec![gateways, queries];
        let on_address = |source| Error::Listen { address, source };
        let binding = gateways_handle.spawn(TcpListener::bind(address));
        let listener = binding.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let listener = listener.map_err(on_address)?;
        server.address = listener.local_addr().map_err(on_address)?;
        let task =
            gateways_handle.spawn(serve(database, options, listener, queries_handle, stopping));
        server.task = Some(task);
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
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

fn runtime(name: &str) -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_name(name).enable_all().build().map_err(Error::Threads)
}

async fn serve(
    database: Database,
    options: ServeOptions,
    listener: TcpListener,
    queries: tokio::runtime::Handle,
    stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let engine = Arc::clone(database.engine());
    let (message_bytes, memory) = (options.message_bytes, options.ingest_bytes);
    let ingest = Ingest::new(Arc::clone(&engine), message_bytes, memory, stopping.clone());
    let ingest =
        IngestServer::new(IngestService(Arc::new(ingest))).max_decoding_message_size(message_bytes);
    let admin = AdminServer::new(AdminService::new(engine, options.backups))
        .max_decoding_message_size(message_bytes);
    let query = QueryServer::new(QueryService::new(database, queries, stopping.clone()))
        .max_decoding_message_size(message_bytes);
    let doors = Doors { ingest, admin, query };
    let (accepted, connections) = mpsc::channel(1);
    let accepting = tokio::spawn(accept(listener, options.connections, accepted));
    let mut stop = stopping;
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
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

/// Accepts connections, so many at once; those beyond wait in the system's queue.
async fn accept(
    listener: TcpListener,
    most: usize,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(most));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!("cannot set TCP_NODELAY: {error}");
                }
                if accepted.send(Ok(Connection { stream, _place: place })).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of file descriptors, mostly: others may close theirs meanwhile.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A connection and its place among those allowed.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
