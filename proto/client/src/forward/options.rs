//! How a queue on disk is kept, and where it is delivered.

use std::time::Duration;

use tagmill_proto::v1::Durability;

use super::position::NAME_BYTES_MAX;
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::options::GatewayOptions;

/// The least room a queue can be given.
pub const CAPACITY_BYTES_MIN: u64 = 64 << 10;
/// Servers of one queue.
const SERVERS_MAX: usize = 64;

/// What becomes of an append that finds the queue full of records that some server lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Full {
    /// It waits until there is room.
    #[default]
    Block,
    /// It fails with [`Error::Full`].
    Refuse,
    /// The oldest records go, and are counted for each server that lacked them.
    DropOldest,
}

/// A server to deliver to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Under which name its position is kept. If it changes, the server is taken for a new one.
    pub name: String,
    /// Where it is, such as `127.0.0.1:7410` or `https://plant:7410`. It may change.
    pub address: String,
    /// Who we are there.
    pub credentials: Credentials,
}

impl Destination {
    /// A server that is known by its address, and asks nobody who calls.
    pub fn new(address: impl Into<String>) -> Self {
        let address = address.into();
        Self { name: address.clone(), address, credentials: Credentials::default() }
    }
}

/// How a queue on disk is kept. [`ForwardOptions::new`] gives sensible ones.
#[derive(Clone, Debug)]
pub struct ForwardOptions {
    /// The gateway's own name, 1 to 128 bytes. Two gateways must not share one.
    pub gateway: String,
    /// Where everything goes. Each server gets every record.
    pub to: Vec<Destination>,
    /// Bytes of batches on disk. What every server has is kept for as long as there is room.
    pub capacity_bytes: u64,
    /// What to do when nothing can go that every server has.
    pub when_full: Full,
    /// Samples a second that each server gets at most; none: as many as it takes. A rate below what comes in never catches up.
    pub rate: Option<u64>,
    /// Longest batch that is taken, as it is encoded. The server reads up to 4 MiB unless it was told otherwise.
    pub batch_bytes_max: usize,
    /// Program and version, for people who look at the server's list of gateways.
    pub agent: String,
    /// Whether a lost connection appends the latest value of each tag once more as Uncertain `NoCommunication`.
    pub mark_disconnect: bool,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// First pause before connecting again; it doubles up to `retry_max`.
    pub retry_min: Duration,
    /// Longest pause before connecting again.
    pub retry_max: Duration,
}

impl ForwardOptions {
    /// Options for a gateway of this name: a queue of 1 GiB, and appends that wait when it is full.
    pub fn new(gateway: impl Into<String>, to: Vec<Destination>) -> Self {
        let GatewayOptions {
            gateway,
            agent,
            mark_disconnect,
            connect_timeout,
            retry_min,
            retry_max,
            ..
        } = GatewayOptions::new(gateway);
        Self {
            gateway,
            to,
            capacity_bytes: 1 << 30,
            when_full: Full::default(),
            rate: None,
            batch_bytes_max: (4 << 20) - 64,
            agent,
            mark_disconnect,
            connect_timeout,
            retry_min,
            retry_max,
        }
    }

    /// How the connection to one server is kept.
    pub(super) fn link(&self, to: &Destination, epoch: u64) -> GatewayOptions {
        GatewayOptions {
            gateway: self.gateway.clone(),
            epoch,
            credentials: to.credentials.clone(),
            durability: Durability::Synced,
            agent: self.agent.clone(),
            mark_disconnect: self.mark_disconnect,
            connect_timeout: self.connect_timeout,
            retry_min: self.retry_min,
            retry_max: self.retry_max,
            ..GatewayOptions::new("")
        }
    }

    /// Length at which a file of the queue is closed: room comes back in such pieces.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.capacity_bytes / 16).min(16 << 20)
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::Invalid(why));
        if self.gateway.is_empty() || self.gateway.len() > 128 {
            return wrong("a gateway's name has 1 to 128 bytes".into());
        }
        if self.to.is_empty() || self.to.len() > SERVERS_MAX {
            return wrong(format!("a queue is delivered to 1 to {SERVERS_MAX} servers"));
        }
        if let Some(to) =
            self.to.iter().find(|to| to.name.is_empty() || to.name.len() > NAME_BYTES_MAX)
        {
            return wrong(format!(
                "{:?}: a server's name has 1 to {NAME_BYTES_MAX} bytes",
                to.name
            ));
        }
        let mut names: Vec<&str> = self.to.iter().map(|to| to.name.as_str()).collect();
        names.sort_unstable();
        let same = names.windows(2).find(|pair| matches!(pair, [a, b] if a == b));
        if let Some([name, ..]) = same {
            return wrong(format!("server {name:?} is named twice"));
        }
        if self.capacity_bytes < CAPACITY_BYTES_MIN {
            return wrong(format!("a queue has at least {CAPACITY_BYTES_MIN} bytes"));
        }
        if self.rate == Some(0) {
            return wrong("a rate is at least 1 sample a second".into());
        }
        Ok(())
    }
}
