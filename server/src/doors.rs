//! Which service a gRPC call goes to, by its path, and who calls.
//!
//! Contract: a call without a valid token goes nowhere, where tokens are asked for. Services find the caller's
//! [`Principal`] with the request. The audit log hears of calls that are refused ([`refusals`]). What arrives of a message
//! that is not whole is bounded ([`partial`]).

mod partial;
mod refusals;

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
use self::refusals::Call;
use crate::access::{Access, Denied, Origin, Principal, Role};
use crate::admin::AdminService;
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

/// Who calls, if it may do what a role allows.
///
/// # Errors
/// Permission denied, with the role that is missing.
pub(crate) fn caller<T>(request: &Request<T>, role: Role) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>().cloned();
    let principal =
        principal.ok_or_else(|| Status::unauthenticated("nobody has said who calls"))?;
    principal.require(role).map_err(|denied| Status::permission_denied(denied.to_string()))?;
    Ok(principal)
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
        return Err(Status::permission_denied(text));
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
            from.let_in();
            let (unfinished, who) = (Arc::clone(&doors.unfinished), Arc::clone(&principal.id));
            let (access, path) = (Arc::clone(&doors.access), request.uri().path().to_owned());
            let call = Call { access, principal: principal.clone(), peer: from.peer, path };
            let extensions = request.extensions_mut();
            extensions.insert(principal);
            if let Some(token) = token {
                extensions.insert(Bearer(token.into()));
            }
            let (head, body) = request.into_parts();
            let body = unfinished.watch(&who, &call.path, body);
            let answer = doors.hand_over(http::Request::from_parts(head, body)).await?;
            Ok(call.answered(answer))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::BufMut as _;
    use prost::Message as _;
    use tagmill::Database;
    use tagmill_proto::v1::client_message::Message;
    use tagmill_proto::v1::{
        ClientMessage, DefineTags, DefineTagsRequest, EndRequest, ExecuteRequest, Hello,
    };
    use tokio::runtime::Handle;
    use tokio::sync::watch;
    use tonic::Code;

    use super::*;
    use crate::access::file::{NewToken, Tokens};
    use crate::audit::{self, Audit, Event};
    use crate::flight;
    use crate::ingest::Ingest;
    use crate::queries::{Admission, Threads};

    fn token(directory: &Path, name: &str, role: Role, scope: &[&str]) -> String {
        let new = NewToken {
            name: name.to_owned(),
            roles: vec![role],
            scope: scope.iter().map(ToString::to_string).collect(),
            certificate: None,
            new_tags: None,
            expires: crate::access::now() + 3_600,
        };
        Tokens::create(&directory.join("access.toml"), new).unwrap()
    }

    /// All services over a new database, whose tokens and audit log are in a directory.
    fn doors(directory: &Path) -> Doors {
        let database = Database::open(directory.join("data"), tagmill::Options::default()).unwrap();
        let access = Access::by_tokens(directory.join("access.toml")).unwrap();
        let access = Arc::new(access.with_audit(Audit::open(directory).unwrap()));
        let (engine, stopping) = (Arc::clone(database.engine()), watch::channel(false).1);
        let (of_ingest, told) = (Arc::clone(&access), stopping.clone());
        let ingest = Ingest::new(Arc::clone(&engine), 4 << 20, 64 << 20, of_ingest, told);
        let ingest = Arc::new(ingest);
        let here = Handle::current();
        let admission = Admission::new(Threads { long: here.clone(), small: here.clone() });
        let flight = flight::Door::new(
            database.clone(),
            Arc::clone(&ingest),
            admission.clone(),
            here.clone(),
            stopping.clone(),
        );
        let admin = AdminService::new(engine, None, Arc::clone(&access));
        let query = QueryService::new(database, here, admission, Arc::clone(&access), stopping);
        Doors {
            ingest: IngestServer::new(IngestService(ingest)),
            admin: AdminServer::new(admin),
            query: QueryServer::new(query),
            flight: FlightServiceServer::new(Flight(Arc::new(flight))),
            reflection: Reflection::new().unwrap(),
            access,
            unfinished: Arc::default(),
        }
    }

    fn code_of(headers: &http::HeaderMap) -> Option<Code> {
        Status::from_header_map(headers).map(|status| status.code())
    }

    /// How a call of one message ends.
    async fn call(doors: &mut Doors, token: &str, path: &str, message: Vec<u8>) -> Code {
        let mut body: Vec<u8> = vec![0];
        body.put_u32(u32::try_from(message.len()).unwrap());
        body.extend(message);
        let mut request = http::Request::new(Body::new(axum::body::Body::from(body)));
        *request.uri_mut() = path.parse().unwrap();
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        let answer = Service::call(doors, request).await.unwrap();
        if let Some(code) = code_of(answer.headers()) {
            return code;
        }
        let mut body = answer.into_body();
        loop {
            let polled = std::future::poll_fn(|context| {
                hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), context)
            });
            let frame = polled.await.unwrap().unwrap();
            if let Some(code) = frame.trailers_ref().and_then(code_of) {
                return code;
            }
        }
    }

    #[tokio::test]
    async fn the_audit_log_hears_of_each_refusal_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let line = token(dir.path(), "line", Role::Writer, &["line"]);
        let operator = token(dir.path(), "operator", Role::Operator, &[]);
        let mut doors = doors(dir.path());
        let end = EndRequest { id: 999 }.encode_to_vec();
        let ended = call(&mut doors, &operator, "/tagmill.v1.Query/End", end.clone()).await;
        assert_eq!(ended, Code::NotFound, "an operator may, if there is one");
        let hello = |gateway: &str| {
            let hello = Hello { gateway: gateway.to_owned(), epoch: 1, ..Hello::default() };
            ClientMessage { message: Some(Message::Hello(hello)) }.encode_to_vec()
        };
        let stream = "/tagmill.v1.Ingest/Stream";
        assert_eq!(call(&mut doors, &line, stream, hello("line/1")).await, Code::Ok);
        doors.access.require(Event::new("server.stop")).unwrap();
        let told = || std::fs::read_to_string(dir.path().join(audit::FILE)).unwrap();
        assert!(!told().contains("refused"), "{}", told());
        let (gateway, define) = ("other".to_owned(), Some(DefineTags::default()));
        let define = DefineTagsRequest { gateway, define }.encode_to_vec();
        let execute = ExecuteRequest::default().encode_to_vec();
        for (path, message) in [
            (stream, hello("other")),
            ("/tagmill.v1.Ingest/DefineTags", define),
            ("/tagmill.v1.Query/Execute", execute),
            ("/tagmill.v1.Query/End", end),
        ] {
            let code = call(&mut doors, &line, path, message).await;
            assert_eq!(code, Code::PermissionDenied, "{path}");
            doors.access.require(Event::new("server.stop")).unwrap();
            let text = told();
            let refused = text.lines().filter(|line| line.contains("refused"));
            let of_path = refused.filter(|line| line.contains(path) && line.contains("\"line\""));
            assert_eq!(of_path.count(), 1, "{path}: {text}");
        }
    }
}
