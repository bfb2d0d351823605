//! Which service a gRPC call goes to, by its path.

use std::convert::Infallible;

use tagmill_proto::v1::admin_server::{self, AdminServer};
use tagmill_proto::v1::query_server::{self, QueryServer};
use tagmill_proto::view::ingest_server::IngestServer;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};

use crate::admin::AdminService;
use crate::ingest::IngestService;
use crate::sql_service::QueryService;

/// All services of the gRPC port.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub(crate) ingest: IngestServer<IngestService>,
    pub(crate) admin: AdminServer<AdminService>,
    pub(crate) query: QueryServer<QueryService>,
}

impl Service<http::Request<Body>> for Doors {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            admin_server::SERVICE_NAME => self.admin.call(request),
            query_server::SERVICE_NAME => self.query.call(request),
            // It answers what it does not know with "unimplemented", as gRPC wants.
            _ => self.ingest.call(request),
        }
    }
}
