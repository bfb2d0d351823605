//! Who calls: the token of a request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::{Door, Refusal};
use crate::access::{Denied, Origin, Principal, Role};
use crate::authorization::token_of;
use crate::connections::Peer;

/// Lets a request through with its [`Principal`], or not at all.
pub(super) async fn ask(
    State(door): State<Arc<Door>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let unknown = |text: &str| Refusal::new(StatusCode::UNAUTHORIZED, text);
    if !door.access.asks() {
        check_origin(request.headers(), peer)?;
    }
    let token = token_of(request.headers());
    let origin = Origin { door: "http", peer: Some(peer) };
    let principal = door.access.ask(token.as_deref(), &[], origin).await;
    let principal = principal.map_err(|denied| match (&token, denied) {
        (None, Denied::Unknown) => {
            unknown("who calls? send a token: 'Authorization: Bearer TOKEN'")
        }
        (_, denied) => unknown(&denied.to_string()),
    })?;
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

/// Where nobody is asked, pages of the web must not act through the browser of whoever sits at this machine.
fn check_origin(headers: &HeaderMap, peer: SocketAddr) -> Result<(), Refusal> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let is_own = name == "localhost" || name.parse::<IpAddr>().is_ok();
    let is_page = headers.contains_key(header::ORIGIN) || (peer.ip().is_loopback() && !is_own);
    if !is_page {
        return Ok(());
    }
    let text = "pages of the web get nothing while nobody is asked for a token: make one with 'tagmill token create'";
    Err(Refusal::new(StatusCode::FORBIDDEN, text))
}

/// Fails unless the caller may do what a role allows.
pub(super) fn require(principal: &Principal, role: Role) -> Result<(), Refusal> {
    let denied = principal.require(role);
    denied.map_err(|denied| Refusal::new(StatusCode::FORBIDDEN, denied.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_web_get_nothing_without_a_token() {
        let check = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            origin.map(|origin| headers.insert(header::ORIGIN, origin.parse().unwrap()));
            check_origin(&headers, "127.0.0.1:1".parse().unwrap()).is_ok()
        };
        for host in ["localhost:7412", "127.0.0.1:7412", "[::1]:7412", "127.0.0.1"] {
            assert!(check(host, None), "{host}");
            assert!(!check(host, Some("http://evil.example")), "{host}");
        }
        assert!(!check("evil.example:7412", None), "a name that leads here");
    }
}
