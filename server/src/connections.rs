//! Connections as they come in: so many at once, shaken hands with, in clear or not.
//!
//! Contract: one that says nothing is closed after [`HANDSHAKE`], one by gRPC of which no call is let in after [`LET_IN`]:
//! a place is for those who have a token.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::tls::{Protocol, Tls};

/// How long a client may take to shake hands, and to say its first word.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection by gRPC may take until a call of it is let in.
const LET_IN: Duration = Duration::from_secs(30);
/// Clients that shake hands at once.
const HANDSHAKES_MAX: usize = 32;
/// Connections of one address of another machine, at one door.
const PER_ADDRESS_MAX: usize = 32;

/// Accepts connections, so many at once; those beyond wait in the system's queue. With a certificate they shake hands
/// first, each in a task of its own.
pub(crate) async fn accept(
    listener: TcpListener,
    most: usize,
    (protocol, tls): (Protocol, Option<Arc<Tls>>),
    counted: Arc<Counted>,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(most));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let crowd = Arc::new(Crowd::new(counted));
    // The door of HTTP has limits of its own for what comes after the first word.
    let let_in = (protocol == Protocol::Grpc).then_some(LET_IN);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, one) = match listener.accept().await {
            Ok((stream, peer)) => match crowd.enter(peer.ip()) {
                Some(one) => (stream, one),
                None => continue,
            },
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
        // Made anew for each: certificates and authorities may have changed.
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.config(protocol)));
        let Some(acceptor) = acceptor else {
            let connection = Connection::new(Wire::Clear(stream), (place, one), let_in);
            if accepted.send(Ok(connection)).await.is_err() {
                return;
            }
            continue;
        };
        if accepted.is_closed() {
            return;
        }
        let (accepted, handshakes) = (accepted.clone(), Arc::clone(&handshakes));
        let until = tokio::time::Instant::now() + HANDSHAKE;
        tokio::spawn(async move {
            // So many shake hands at once: the others wait for their turn, and their time runs.
            let shaking = async {
                let _turn = handshakes.acquire_owned().await.map_err(io::Error::other)?;
                acceptor.accept(stream).await
            };
            match tokio::time::timeout_at(until, shaking).await {
                Ok(Ok(stream)) => {
                    let connection =
                        Connection::new(Wire::Tls(Box::new(stream)), (place, one), let_in);
                    // Nobody takes it once the server stops.
                    drop(accepted.send(Ok(connection)).await);
                }
                Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error}"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }
}

/// Connections of all doors.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    open: AtomicU64,
    refused: AtomicU64,
}

impl Counted {
    /// Those that are open now.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Those that their address had too many of.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// How many connections each address has at one door. Those of this machine have no limit: whoever is here has other ways.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    of: Mutex<HashMap<IpAddr, usize>>,
    counted: Arc<Counted>,
}

/// One connection of an address.
#[derive(Debug)]
pub(crate) struct OfAddress {
    crowd: Arc<Crowd>,
    /// The address, if its connections have a limit.
    limited: Option<IpAddr>,
}

impl Crowd {
    /// Nobody yet. All doors count together.
    pub(crate) fn new(counted: Arc<Counted>) -> Self {
        Self { of: Mutex::default(), counted }
    }

    /// One more of an address, unless it has [`PER_ADDRESS_MAX`].
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<OfAddress> {
        let address = address.to_canonical();
        let limited = (!address.is_loopback()).then_some(address);
        if limited.is_some() {
            let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            let count = of.entry(address).or_default();
            if *count >= PER_ADDRESS_MAX {
                self.counted.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%address, "it has {PER_ADDRESS_MAX} connections: one more is refused");
                return None;
            }
            *count += 1;
        }
        self.counted.open.fetch_add(1, Ordering::Relaxed);
        Some(OfAddress { crowd: Arc::clone(self), limited })
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        self.crowd.counted.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = &self.limited else { return };
        let mut of = self.crowd.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                of.remove(address);
            }
        }
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
    /// Until when a call of it must have been let in; none once one is.
    outside_until: Option<Pin<Box<Sleep>>>,
    /// Whether one was.
    is_let_in: Arc<AtomicBool>,
    _place: (OwnedSemaphorePermit, OfAddress),
}

impl Connection {
    fn new(
        stream: Wire,
        place: (OwnedSemaphorePermit, OfAddress),
        let_in: Option<Duration>,
    ) -> Self {
        let silent_until = Some(Box::pin(tokio::time::sleep(HANDSHAKE)));
        let outside_until = let_in.map(|within| Box::pin(tokio::time::sleep(within)));
        Self { stream, silent_until, outside_until, is_let_in: Arc::default(), _place: place }
    }

    /// Ready once its time has come without a call that was let in.
    fn poll_outside(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.outside_until.is_some() && self.is_let_in.load(Ordering::Relaxed) {
            self.outside_until = None;
        }
        match &mut self.outside_until {
            Some(until) => until.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

/// Where a connection comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct From {
    /// The address at the other end.
    pub(crate) peer: Option<SocketAddr>,
    /// URIs and DNS names in the certificate that the client has shown.
    pub(crate) names: Arc<[String]>,
    /// Whether a call was let in.
    is_let_in: Arc<AtomicBool>,
}

impl From {
    /// Notes that a call was let in: from now on the connection stays.
    pub(crate) fn let_in(&self) {
        self.is_let_in.store(true, Ordering::Relaxed);
    }
}

impl Connected for Connection {
    type ConnectInfo = From;

    fn connect_info(&self) -> From {
        let names = match &self.stream {
            Wire::Clear(_) => Vec::new(),
            Wire::Tls(stream) => {
                let shown = stream.get_ref().1.peer_certificates();
                shown.and_then(<[_]>::first).map(names_of).unwrap_or_default()
            }
        };
        let is_let_in = Arc::clone(&self.is_let_in);
        From { peer: self.peer().ok(), names: names.into(), is_let_in }
    }
}

/// URIs and DNS names that a certificate gives its owner. Its authority was checked when the connection was made.
fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) => Some((*text).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_outside(context).is_ready() {
            let why = "no call was let in";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A connection of which a call must be let in within a time, and its other end.
    async fn connection(let_in: Option<Duration>) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let one = Arc::new(Crowd::default()).enter([127, 0, 0, 1].into()).unwrap();
        (Connection::new(Wire::Clear(stream), (place, one), let_in), other)
    }

    #[tokio::test]
    async fn a_connection_that_is_not_let_in_is_closed_whatever_it_says() {
        let soon = Duration::from_millis(50);
        let (mut connection, mut other) = connection(Some(soon)).await;
        let talking = tokio::spawn(async move {
            while other.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let mut byte = [0];
        connection.read_exact(&mut byte).await.unwrap();
        let closed = async {
            loop {
                if let Err(error) = connection.read_exact(&mut byte).await {
                    return error.kind();
                }
            }
        };
        let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
        assert_eq!(closed.unwrap(), io::ErrorKind::TimedOut);
        drop(connection);
        talking.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_is_let_in_or_has_no_such_limit_stays() {
        let soon = Duration::from_millis(50);
        for let_in in [Some(soon), None] {
            let (mut connection, mut other) = connection(let_in).await;
            other.write_all(b"x").await.unwrap();
            let mut byte = [0];
            connection.read_exact(&mut byte).await.unwrap();
            if let_in.is_some() {
                connection.connect_info().let_in();
            }
            let silence = tokio::time::timeout(4 * soon, connection.read_exact(&mut byte)).await;
            assert!(silence.is_err(), "{let_in:?}");
        }
    }

    #[test]
    fn an_address_has_so_many_connections_and_this_machine_any_number() {
        let crowd = Arc::new(Crowd::default());
        let far: IpAddr = "192.0.2.1".parse().unwrap();
        let same: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let mut all: Vec<_> = (0..PER_ADDRESS_MAX).map(|_| crowd.enter(far).unwrap()).collect();
        assert!(crowd.enter(far).is_none() && crowd.enter(same).is_none());
        assert!(crowd.enter("192.0.2.2".parse().unwrap()).is_some());
        for _ in 0..=PER_ADDRESS_MAX {
            all.push(crowd.enter("127.0.0.1".parse().unwrap()).unwrap());
        }
        let counted = Arc::clone(&crowd.counted);
        assert_eq!((counted.open(), counted.refused()), (all.len() as u64, 2));
        drop(all);
        assert_eq!(counted.open(), 0);
        assert!(crowd.enter(far).is_some() && crowd.of.lock().unwrap().is_empty());
    }
}
