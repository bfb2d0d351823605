//! Calls that are answered with "permission denied": the audit log hears of them.
//!
//! Contract: each is one event, whichever service refuses it and why, at once or in the course of a stream. What a service
//! has tried before it found a way is none, and neither is a stream that its caller left before it was refused.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap};
use tonic::{Code, Status};

use crate::access::{Access, Principal};
use crate::audit::Event;

/// A call whose answer is looked at.
pub(super) struct Call {
    pub(super) access: Arc<Access>,
    pub(super) principal: Principal,
    pub(super) peer: Option<SocketAddr>,
    /// What is called.
    pub(super) path: String,
}

impl Call {
    /// The answer as it goes out.
    pub(super) fn answered(self, answer: http::Response<Body>) -> http::Response<Body> {
        if is_refusal(answer.headers()) {
            self.refused();
            return answer;
        }
        answer.map(|body| Body::new(Answered { body, call: Some(self) }))
    }

    fn refused(&self) {
        let event = || {
            let event = Event::new("call").result("refused").by(&self.principal);
            event.from("grpc", self.peer).on(&*self.path)
        };
        self.access.forbade(self.peer, event);
    }
}

/// Whether a status is that of a refusal. It comes with the headers, or at the end with the trailers.
fn is_refusal(headers: &HeaderMap) -> bool {
    let code = headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    code == Some(Code::PermissionDenied)
}

/// An answer whose end is not known yet.
struct Answered {
    body: Body,
    call: Option<Call>,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &polled
            && frame.trailers_ref().is_some_and(is_refusal)
            && let Some(call) = this.call.take()
        {
            call.refused();
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
