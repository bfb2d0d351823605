//! Which service a gRPC call goes to, by its path, and who calls.
//!
//! Contract: a call without a valid token goes nowhere, where tokens are asked for. Services find the caller's
//! [`Principal`] with the request.

use std::convert::Infallible;
use std::sync::Arc;

use tagmill_proto::v1::admin_server::{self, AdminServer};
use tagmill_proto::v1::query_server::{self, QueryServer};
use tagmill_proto::view::ingest_server::IngestServer;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Status};

use crate::access::attempts::Attempts;
use crate::access::{Access, Principal, Role};
use crate::admin::AdminService;
use crate::ingest::IngestService;
use crate::sql_service::QueryService;

/// All services of the gRPC port.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub(crate) ingest: IngestServer<IngestService>,
    pub(crate) admin: AdminServer<AdminService>,
    pub(crate) query: QueryServer<QueryService>,
    pub(crate) access: Arc<Access>,
    pub(crate) attempts: Arc<Attempts>,
}

impl Doors {
    /// Who calls.
    fn caller(&self, request: &http::Request<Body>) -> Result<Principal, Status> {
        if !self.access.asks() {
            return Ok(Principal::anyone());
        }
        let peer = request.extensions().get::<TcpConnectInfo>();
        let address = peer.and_then(TcpConnectInfo::remote_addr).map(|address| address.ip());
        let header = request.headers().get(http::header::AUTHORIZATION);
        let token = header.and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        let Some(token) = token else {
            let text = "who calls? send a token: 'authorization: Bearer TOKEN', or --token-file with a command";
            return Err(Status::unauthenticated(text));
        };
        self.access.by_token(token.trim()).map_err(|denied| {
            // A valid token is never kept waiting for those who guess from the same address.
            if address.is_some_and(|address| !self.attempts.may(address)) {
                let text = "too many failed logins from this address: wait a minute";
                return Status::unauthenticated(text);
            }
            if let Some(address) = address {
                self.attempts.failed(address);
            }
            tracing::warn!(?address, "a token was refused");
            Status::unauthenticated(denied.to_string())
        })
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
        match self.caller(&request) {
            Ok(principal) => request.extensions_mut().insert(principal),
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            admin_server::SERVICE_NAME => self.admin.call(request),
            query_server::SERVICE_NAME => self.query.call(request),
            // It answers what it does not know with "unimplemented", as gRPC wants.
            _ => self.ingest.call(request),
        }
    }
}
