//! What a gateway embeds to send samples to Tagmill.
//!
//! [`Gateway`] is the main thing: a stream that survives breaks. It numbers batches, keeps them in memory until the server
//! has them on disk, connects again with a growing pause, and goes on where the server stands, so that every batch is
//! stored exactly once. When the server is slow, [`Gateway::send`] waits.
//!
//! [`Writer`] writes one batch by names, [`Admin`] cares for tags, [`Query`] runs SQL and hands back Arrow IPC bytes;
//! decoding them is left to the caller, so that a gateway needs no Arrow.
//!
//! ```no_run
//! # async fn example() -> tagmill_client::Result<()> {
//! use tagmill_client::{BatchBuilder, Gateway, GatewayOptions, TagDef, ValueType};
//!
//! let gateway = Gateway::connect("127.0.0.1:7410", GatewayOptions::new("boiler-house")).await?;
//! let aliases = gateway.define(&[TagDef::new("u1/TI-101.PV", ValueType::F64).unit("degC")]).await?;
//!
//! let mut batch = BatchBuilder::new();
//! batch.f64(aliases[0], &[1_700_000_000_000_000_000], &[71.3])?;
//! gateway.send(batch).await?;
//!
//! let summary = gateway.flush().await?; // on disk now
//! assert!(summary.rejects.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! What a [`Gateway`] has not delivered is lost when its own process ends. [`Forwarder`] keeps it in a queue on disk, and
//! delivers it to one server or several, each in its own time.
//!
//! Reading order: [`credentials`], [`batch`], `queue` (pure: what is sent next), `state`, `session` (one connection),
//! [`gateway`], [`forward`].

pub mod batch;
pub mod calls;
pub mod credentials;
mod definitions;
pub mod error;
pub mod forward;
pub mod gateway;
pub mod options;
mod queue;
mod session;
mod state;

pub use batch::{BatchBuilder, Cells, Qualities, Times, Values};
pub use calls::{Admin, Answer, NamedSamples, Piece, Query, Writer};
pub use credentials::{Credentials, Secured};
pub use definitions::{Refused, TagDef, TagSet};
pub use error::{Error, Result};
pub use forward::{Destination, ForwardOptions, ForwardStatus, Forwarder, Full};
pub use gateway::{AckSummary, Gateway, Rejected, Ticket};
pub use options::GatewayOptions;
pub use tagmill_proto::v1;
pub use tagmill_proto::v1::{Durability, RejectReason, TagAttributes, ValueType};
