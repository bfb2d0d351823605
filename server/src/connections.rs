//! Connections as they come in: so many at once, shaken hands with, in clear or not.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long a client may take to shake hands, and to say its first word.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Accepts connections, so many at once; those beyond wait in the system's queue. With a certificate they shake hands
/// first, each in a task of its own.
pub(crate) async fn accept(
    listener: TcpListener,
    most: usize,
    tls: Option<Arc<ServerConfig>>,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(most));
    let acceptor = tls.map(TlsAcceptor::from);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: others may close theirs meanwhile.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("cannot set TCP_NODELAY: {error}");
        }
        let Some(acceptor) = acceptor.clone() else {
            let connection = Connection::new(Wire::Clear(stream), place);
            if accepted.send(Ok(connection)).await.is_err() {
                return;
            }
            continue;
        };
        if accepted.is_closed() {
            return;
        }
        let accepted = accepted.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let connection = Connection::new(Wire::Tls(Box::new(stream)), place);
                    // Nobody takes it once the server stops.
                    drop(accepted.send(Ok(connection)).await);
                }
                Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error}"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }
}

/// A stream in clear or not.
#[derive(Debug)]
enum Wire {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Does the same with either.
macro_rules! either {
    ($wire:expr, $stream:ident => $call:expr) => {
        match $wire {
            Wire::Clear($stream) => $call,
            Wire::Tls($stream) => $call,
        }
    };
}

/// A connection and its place among those allowed.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Wire,
    /// Until when it must have said something; none once it has.
    silent_until: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: Wire, place: OwnedSemaphorePermit) -> Self {
        let silent_until = Some(Box::pin(tokio::time::sleep(HANDSHAKE)));
        Self { stream, silent_until, _place: place }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.stream {
            Wire::Clear(stream) => stream.connect_info(),
            Wire::Tls(stream) => stream.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.silent_until.is_some() {
            let before = buffer.filled().len();
            let read =
                either!(&mut self.stream, stream => Pin::new(stream).poll_read(context, buffer));
            if read.is_pending() {
                let late = || io::Error::new(io::ErrorKind::TimedOut, "it said nothing");
                let Some(until) = &mut self.silent_until else { return read };
                return until.as_mut().poll(context).map(|()| Err(late()));
            }
            if buffer.filled().len() > before {
                self.silent_until = None;
            }
            return read;
        }
        either!(&mut self.stream, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(&mut self.stream, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, stream => Pin::new(stream).poll_shutdown(context))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut self.stream, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.stream, stream => stream.is_write_vectored())
    }
}

impl Connection {
    /// Who is at the other end.
    pub(crate) fn peer(&self) -> io::Result<SocketAddr> {
        match &self.stream {
            Wire::Clear(stream) => stream.peer_addr(),
            Wire::Tls(stream) => stream.get_ref().0.peer_addr(),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);
