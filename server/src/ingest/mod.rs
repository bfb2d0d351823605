//! The way in: service `tagmill.v1.Ingest`.
//!
//! # Contract
//! * An acknowledgement is sent after the engine has called back, never before.
//! * One bad tag, column or batch never harms the others, one bad stream never harms other streams.
//! * Memory taken by samples under way is bounded by [`admission`], whoever sends them.
//!
//! # Reading order
//! [`fields`] (protobuf in place), [`parts`] (columns and scan blocks as sent), [`convert`] (wire to engine, pure),
//! [`rejects`] (pure), [`messages`] (what is no batch, pure), [`definitions`], [`admission`], [`progress`] (one stream's
//! order, pure), [`answers`], [`stream`], [`disconnect`], [`write`], [`gateways`] (for people), [`named`] (what comes without protobuf).

mod admission;
mod answers;
mod convert;
mod definitions;
mod disconnect;
mod fields;
#[cfg(test)]
mod fuzzing;
pub(crate) mod gateways;
pub(crate) mod messages;
pub(crate) mod named;
mod parts;
mod progress;
mod rejects;
mod stream;
mod write;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tagmill::Hosted;
use tagmill_proto::v1::{DefineTagsResponse, ServerMessage, WriteResponse};
use tagmill_proto::view;
use tagmill_storage::{Clock, Engine, SystemClock};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::access::shares::Made;
use crate::access::{Access, LABELS_A_DAY, Principal, Role};
use crate::doors::{caller, peer_of};

use admission::Admission;
use answers::Answers;
use convert::MissingLabels;
use gateways::{Gateways, GatewaysRelation};

/// The service.
#[derive(Debug)]
pub(crate) struct Ingest {
    engine: Arc<Engine>,
    admission: Admission,
    clock: SystemClock,
    message_bytes: usize,
    sessions: Sessions,
    gateways: Arc<Gateways>,
    access: Arc<Access>,
    /// Turns true when the server shuts down.
    stopping: watch::Receiver<bool>,
}

/// The newest stream of each gateway.
#[derive(Debug, Default)]
struct Sessions {
    newest: Mutex<HashMap<String, (u64, watch::Sender<bool>)>>,
}

impl Ingest {
    pub(crate) fn new(
        engine: Arc<Engine>,
        message_bytes: usize,
        memory_bytes: u64,
        access: Arc<Access>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let admission = Admission::new(memory_bytes);
        let (clock, sessions) = (SystemClock::default(), Sessions::default());
        let gateways = Arc::default();
        Self { engine, admission, clock, message_bytes, sessions, gateways, access, stopping }
    }

    /// Who may make tags known.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Gateways of this run.
    pub(crate) fn gateways(&self) -> &Gateways {
        &self.gateways
    }

    /// The relation `system.gateways`.
    pub(crate) fn relation(&self) -> Arc<dyn Hosted> {
        Arc::new(GatewaysRelation(Arc::clone(&self.gateways)))
    }

    /// The server's clock.
    pub(crate) fn now_ns(&self) -> i64 {
        self.clock.wall_ns()
    }

    /// Memory of samples on their way from the wire to the log.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.admission.taken_bytes()
    }

    /// Waits for the memory of samples that come another way, as long as a call may.
    pub(crate) async fn admit(
        &self,
        principal: &Principal,
        bytes: usize,
        samples: u64,
    ) -> Result<admission::Grant, Status> {
        self.admission.of(principal).acquire_within(admission::CALL, bytes, samples, 0).await
    }
}

impl Sessions {
    /// Makes this the newest stream of the gateway and tells the one before. The receiver turns true when a newer comes.
    fn enter(&self, gateway: &str, generation: u64) -> watch::Receiver<bool> {
        let (fence, fenced) = watch::channel(false);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.get(gateway) {
            // Two streams entered in the other order than they opened their sessions.
            Some((known, _)) if *known > generation => {
                fence.send_replace(true);
            }
            _ => {
                if let Some((_, older)) = newest.insert(gateway.to_owned(), (generation, fence)) {
                    older.send_replace(true);
                }
            }
        }
        fenced
    }

    fn leave(&self, gateway: &str, generation: u64) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.get(gateway).is_some_and(|(known, _)| *known == generation) {
            newest.remove(gateway);
        }
    }
}

/// The service as tonic wants it: a handle of the shared one.
#[derive(Clone, Debug)]
pub(crate) struct IngestService(pub(crate) Arc<Ingest>);

#[tonic::async_trait]
impl view::ingest_server::Ingest for IngestService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<ServerMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<view::ClientMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let caller = caller(&request, Role::Writer)?;
        let peer = peer_of(&request);
        let (answers, outbound) = Answers::new();
        let service = Arc::clone(&self.0);
        tokio::spawn(async move {
            let inbound = request.into_inner();
            if let Err(status) = stream::run(&service, (caller, peer), inbound, &answers).await {
                // Nobody to tell if the gateway has gone.
                drop(answers.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(outbound)))
    }

    async fn write(
        &self,
        request: Request<view::WriteRequest>,
    ) -> Result<Response<WriteResponse>, Status> {
        let caller = caller(&request, Role::Writer)?;
        Ok(Response::new(self.0.write_batch(caller, request.into_inner()).await?))
    }

    async fn define_tags(
        &self,
        request: Request<view::DefineTagsRequest>,
    ) -> Result<Response<DefineTagsResponse>, Status> {
        let caller = caller(&request, Role::Writer)?;
        Ok(Response::new(self.0.define(caller, request.into_inner()).await?))
    }
}

/// Adds labels to their state sets that the sender's scope holds. Blocks. True if the batch should be read again; what could
/// not be added is then rejected by name.
fn grow(engine: &Engine, (access, caller): (&Access, &Principal), missing: &MissingLabels) -> bool {
    let mut is_any = false;
    for (set, labels) in missing.iter().filter(|(set, _)| caller.reaches(set)) {
        is_any = true;
        let labels: Vec<String> = labels.iter().cloned().collect();
        let mut share = access.take(caller, Made::Labels, labels.len() as u64);
        if share.count() < labels.len() as u64 {
            let token = &caller.name;
            tracing::warn!(set, %token, "more than {LABELS_A_DAY} labels in a day are not added");
            continue;
        }
        match engine.grow_states(set, &labels) {
            Ok(_) => share.spend(labels.len() as u64),
            Err(error) => tracing::warn!(set, "cannot add labels: {error}"),
        }
    }
    is_any
}
