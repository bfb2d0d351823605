//! Which service a gRPC call goes to, by its path, and who calls.
//!
//! Contract: a call without a valid token goes nowhere, where tokens are asked for. Services find the caller's
//! [`Principal`] with the request. Who may not do what it calls for is told to the audit log. What arrives of a message that
//! is not whole is bounded ([`partial`]).

mod partial;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use tagmill_proto::v1::admin_server::{self, AdminServer};
use tagmill_proto::v1::query_server::{self, QueryServer};
use tagmill_proto::view::ingest_server::IngestServer;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::{Request, Status};

use self::partial::Unfinished;
use crate::access::{Access, Denied, Origin, Principal, Role};
use crate::admin::AdminService;
use crate::audit::Event;
use crate::authorization::token_of;
use crate::connections::From;
use crate::flight::Flight;
use crate::ingest::IngestService;
use crate::sql_service::QueryService;

/// The token of a call. A handshake of Flight asks whoever may be in for it: it is nowhere else.
#[derive(Clone)]
pub(crate) struct Bearer(pub(crate) Arc<str>);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

/// Answers a call.
type Answer = BoxFuture<http::Response<Body>, Infallible>;

/// What the services are, for `grpcurl` and its kin, in the two versions that they speak.
#[derive(Clone)]
pub(crate) struct Reflection {
    v1: Arc<dyn Fn(http::Request<Body>) -> Answer + Send + Sync>,
    v1alpha: Arc<dyn Fn(http::Request<Body>) -> Answer + Send + Sync>,
}

impl std::fmt::Debug for Reflection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reflection")
    }
}

impl Reflection {
    /// Of the services that are ours.
    ///
    /// # Errors
    /// If their description cannot be read.
    pub(crate) fn new() -> Result<Self, tonic_reflection::server::Error> {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(tagmill_proto::DESCRIPTORS)
        };
        let (v1, v1alpha) = (builder().build_v1()?, builder().build_v1alpha()?);
        Ok(Self {
            v1: Arc::new(move |request| Service::call(&mut v1.clone(), request)),
            v1alpha: Arc::new(move |request| Service::call(&mut v1alpha.clone(), request)),
        })
    }
}

/// Name of the service of Flight.
const FLIGHT: &str = "arrow.flight.protocol.FlightService";

/// All services of the gRPC port.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub(crate) ingest: IngestServer<IngestService>,
    pub(crate) admin: AdminServer<AdminService>,
    pub(crate) query: QueryServer<QueryService>,
    pub(crate) flight: FlightServiceServer<Flight>,
    pub(crate) reflection: Reflection,
    pub(crate) access: Arc<Access>,
    pub(crate) unfinished: Arc<Unfinished>,
}

impl Doors {
    /// Who calls.
    async fn caller(&self, from: &From, token: Option<&str>) -> Result<Principal, Status> {
        let origin = Origin { door: "grpc", peer: from.peer };
        let asked = self.access.ask(token, &from.names, origin).await;
        asked.map_err(|denied| match (token, denied) {
            (None, Denied::Unknown) => Status::unauthenticated(
                "who calls? send a token: 'authorization: Bearer TOKEN', or --token-file with a command",
            ),
            (_, denied) => Status::unauthenticated(denied.to_string()),
        })
    }

    /// Hands a call to its service.
    fn hand_over(&mut self, request: http::Request<Body>) -> Answer {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            admin_server::SERVICE_NAME => self.admin.call(request),
            query_server::SERVICE_NAME => self.query.call(request),
            FLIGHT => self.flight.call(request),
            "grpc.reflection.v1.ServerReflection" => (self.reflection.v1)(request),
            "grpc.reflection.v1alpha.ServerReflection" => (self.reflection.v1alpha)(request),
            // It answers what it does not know with "unimplemented", as gRPC wants.
            _ => self.ingest.call(request),
        }
    }
}

/// What a service needs to tell the audit log of a refusal: the log, and what was called.
#[derive(Clone)]
struct Told {
    access: Arc<Access>,
    path: Arc<str>,
}

impl Told {
    fn refused(&self, principal: &Principal, peer: Option<SocketAddr>) {
        let event = || {
            let event = Event::new("call").result("refused").by(principal);
            event.from("grpc", peer).on(&*self.path)
        };
        self.access.forbade(peer, event);
    }
}

/// Who calls, if it may do what a role allows.
///
/// # Errors
/// Permission denied, with the role that is missing.
pub(crate) fn caller<T>(request: &Request<T>, role: Role) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>().cloned();
    let principal =
        principal.ok_or_else(|| Status::unauthenticated("nobody has said who calls"))?;
    principal.require(role).map_err(|denied| refused(request, &principal, denied.to_string()))?;
    Ok(principal)
}

/// Tells the audit log of a caller that may not do what it calls for. Gives what it hears.
pub(crate) fn refused<T>(request: &Request<T>, principal: &Principal, why: String) -> Status {
    if let Some(told) = request.extensions().get::<Told>() {
        told.refused(principal, peer_of(request));
    }
    Status::permission_denied(why)
}

/// Where a call comes from.
pub(crate) fn peer_of<T>(request: &Request<T>) -> Option<SocketAddr> {
    request.extensions().get::<From>().and_then(|from| from.peer)
}

/// As [`caller`], for what concerns the whole database: nobody with a scope may do that.
///
/// # Errors
/// Permission denied.
pub(crate) fn whole_caller<T>(request: &Request<T>, role: Role) -> Result<Principal, Status> {
    let principal = caller(request, role)?;
    if principal.scope().is_some() {
        let text = "this concerns the whole database: a token with a scope may not";
        return Err(refused(request, &principal, text.to_owned()));
    }
    Ok(principal)
}

impl Service<http::Request<Body>> for Doors {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The services are always ready, so that a copy of them is, too.
        let mut doors = self.clone();
        Box::pin(async move {
            let token = token_of(request.headers());
            let from = request.extensions().get::<From>().cloned().unwrap_or_default();
            let principal = match doors.caller(&from, token.as_deref()).await {
                Ok(principal) => principal,
                Err(status) => return Ok(status.into_http()),
            };
            let (access, path) = (Arc::clone(&doors.access), request.uri().path().into());
            let (unfinished, who) = (Arc::clone(&doors.unfinished), Arc::clone(&principal.id));
            let extensions = request.extensions_mut();
            extensions.insert(principal);
            extensions.insert(Told { access, path });
            if let Some(token) = token {
                extensions.insert(Bearer(token.into()));
            }
            let (head, body) = request.into_parts();
            let body = unfinished.watch(&who, head.uri.path(), body);
            doors.hand_over(http::Request::from_parts(head, body)).await
        })
    }
}
