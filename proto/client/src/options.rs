//! How a gateway connects.

use std::time::Duration;

use tagmill_proto::v1::Durability;

use crate::credentials::Credentials;

/// How a gateway connects. [`GatewayOptions::new`] gives sensible ones.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// The gateway's own name, 1 to 128 bytes. Two gateways must not share one.
    pub gateway: String,
    /// Raised by whoever keeps it when the gateway's count is lost. 1 is right for a gateway whose queue is in memory: it
    /// goes on after what the server has.
    pub epoch: u64,
    /// Who it is, where the server asks. With a token that has a scope its name is the token's, or begins with it and a `/`.
    pub credentials: Credentials,
    /// What an acknowledgement shall promise. The queue keeps a batch until it is on disk, whatever this says.
    pub durability: Durability,
    /// Program and version, for people who look at the server's list of gateways.
    pub agent: String,
    /// Whether a lost connection appends the latest value of each tag once more as Uncertain `NoCommunication`.
    pub mark_disconnect: bool,
    /// Bytes of batches kept until they are on disk; when they are used up, `send` waits. A batch longer than this is
    /// taken when the queue is empty.
    pub queue_bytes: usize,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// First pause before connecting again; it doubles up to `retry_max`, and begins anew after a connection on which batches
    /// were acknowledged.
    pub retry_min: Duration,
    /// Longest pause before connecting again.
    pub retry_max: Duration,
}

impl GatewayOptions {
    /// Options for a gateway of this name.
    pub fn new(gateway: impl Into<String>) -> Self {
        Self {
            gateway: gateway.into(),
            epoch: 1,
            credentials: Credentials::default(),
            durability: Durability::Synced,
            agent: concat!("tagmill-client/", env!("CARGO_PKG_VERSION")).into(),
            mark_disconnect: false,
            queue_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(10),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// `address` with a scheme: a bare `host:port` is plain HTTP/2.
pub(crate) fn with_scheme(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}
