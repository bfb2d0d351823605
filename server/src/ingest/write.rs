//! One batch by tag names: unary `Write`.

use std::collections::HashSet;
use std::sync::Arc;

use tagmill_proto::v1::{RejectReason, WriteResponse};
use tagmill_proto::{v1, view};
use tagmill_storage::limits::BATCH_SAMPLES_MAX;
use tagmill_storage::{
    Aliases, Appended, Batch, Durability, Engine, Error, Origin, Registry, TagDefinition,
};
use tonic::Status;

use super::admission::{CALL, PARTS_PER_TAG};
use super::convert::{Converted, PARTS_MAX, Target, announced};
use super::definitions::{check_gateway, take_gateway};
use super::messages::{Definitions, NamedColumn, check_key, columns, type_of};
use super::named::too_many_new;
use super::parts::RawColumn;
use super::rejects::shown;
use super::{Ingest, grow};
use crate::access::shares::Made;
use crate::access::{Access, KEYS_A_DAY, Principal};
use crate::status::{blocking, of_join, of_storage};

/// Gateways of this name are made by the server: one for each idempotency key.
pub(super) const KEY_PREFIX: &str = "write/";

impl Ingest {
    pub(super) async fn write_batch(
        &self,
        caller: Principal,
        mut request: view::WriteRequest,
    ) -> Result<WriteResponse, Status> {
        check_key(&request.key)?;
        if !request.key.is_empty() && !caller.id.is_empty() {
            // Nobody may use up the keys of others.
            request.key = format!("{}/{}", caller.id, request.key);
        }
        let view::WriteRequest { batch, .. } = &request;
        let (mut samples, mut parts) = (0, 0);
        for column in columns(batch) {
            let column = column?;
            samples += announced(column.column);
            parts += 1;
            if !caller.reaches(column.name) {
                let (tag, token) = (shown(column.name), &caller.name);
                let why = format!("{tag:?} is outside of the scope of token {token:?}");
                return Err(Status::permission_denied(why));
            }
        }
        if parts > PARTS_MAX {
            let why = format!("a batch has at most {PARTS_MAX} columns: send several");
            return Err(Status::invalid_argument(why));
        }
        if samples > BATCH_SAMPLES_MAX as u64 {
            let why = format!("a batch has at most {BATCH_SAMPLES_MAX} samples: send several");
            return Err(Status::invalid_argument(why));
        }
        let grant =
            self.admission.of(&caller).acquire_within(CALL, batch.len(), samples, parts).await?;
        let (engine, access) = (Arc::clone(&self.engine), Arc::clone(&self.access));
        let now_ns = self.now_ns();
        let written = tokio::task::spawn_blocking(move || {
            let _held_while_it_waits = grant;
            write(&engine, (&access, &caller), &request, now_ns)
        });
        written.await.map_err(|error| of_join(&error))?
    }

    pub(super) async fn define(
        &self,
        caller: Principal,
        request: view::DefineTagsRequest,
    ) -> Result<v1::DefineTagsResponse, Status> {
        let tags = Definitions::count(&request.define)? * PARTS_PER_TAG;
        let _held =
            self.admission.of(&caller).acquire_within(CALL, request.define.len(), 0, tags).await?;
        let definitions = Definitions::read(&request.define)?;
        let gateway = request.gateway;
        if gateway.starts_with(KEY_PREFIX) {
            return Err(Status::invalid_argument("gateway names must not begin with write/"));
        }
        let mut share = None;
        if !gateway.is_empty() {
            tagmill_storage::check_gateway(&gateway).map_err(|error| of_storage(&error))?;
            check_gateway(&caller, &gateway)?;
            share = Some(take_gateway(&self.engine, &self.access, &caller, &gateway)?);
        }
        let engine = Arc::clone(&self.engine);
        let gateway = Some(gateway).filter(|gateway| !gateway.is_empty());
        let access = Arc::clone(&self.access);
        let apply = move || definitions.apply(&engine, &access, &caller, gateway.as_deref());
        let answer = blocking(apply).await?;
        if let Some(share) = &mut share {
            share.spend(1);
        }
        Ok(v1::DefineTagsResponse { rejects: answer.rejects, defined: answer.defined })
    }
}

fn write(
    engine: &Engine,
    (access, caller): (&Access, &Principal),
    request: &view::WriteRequest,
    now_ns: i64,
) -> Result<WriteResponse, Status> {
    let new = new_names(engine, &request.batch);
    let mut share = access.take(caller, Made::Tags, new);
    if share.count() < new {
        return Err(Status::resource_exhausted(too_many_new(caller)));
    }
    let converted = convert(engine, &request.batch);
    // Their ids are taken, whatever comes of the samples.
    share.spend(new);
    let mut converted = converted?;
    if grow(engine, (access, caller), &converted.missing_labels) {
        converted = convert(engine, &request.batch)?;
    }
    if converted.is_mostly_future(now_ns) {
        let why = "more than half of the samples lie in the future: compare the clocks, send again";
        return Err(Status::unavailable(why));
    }
    let origin = origin(engine, (access, caller), &request.key)?;
    if converted.columns.is_empty() && origin.is_none() {
        let rejects = converted.rejects.take();
        return Ok(WriteResponse { rejects, ..WriteResponse::default() });
    }
    let durability = match request.durability() {
        v1::Durability::Interval => Durability::Interval,
        v1::Durability::Synced | v1::Durability::Unspecified => Durability::Synced,
    };
    let Converted { columns, places, mut rejects, .. } = converted;
    let batch = Batch { columns, scans: Vec::new(), origin, durability };
    let appended: Appended = engine.append(batch).map_err(|error| match error {
        Error::Fenced { .. } => Status::aborted("another request with this key is under way: wait"),
        error => of_storage(&error),
    })?;
    places.reject(&appended, &Aliases::default(), &mut rejects);
    Ok(WriteResponse {
        accepted_samples: appended.accepted,
        repeated: appended.repeated,
        durable: appended.durable,
        rejects: if appended.repeated { Vec::new() } else { rejects.take() },
    })
}

/// How many tags are named that have no id.
fn new_names(engine: &Engine, batch: &[u8]) -> u64 {
    let names = columns(batch).filter_map(|column| Some(column.ok()?.name));
    let new: HashSet<&str> = names.filter(|name| !engine.has_name(name)).collect();
    new.len() as u64
}

/// A key is a gateway of its own that sends one batch. It is kept for ever: a token has so many new ones a day.
fn origin(
    engine: &Engine,
    (access, caller): (&Access, &Principal),
    key: &str,
) -> Result<Option<Origin>, Status> {
    if key.is_empty() {
        return Ok(None);
    }
    let gateway = format!("{KEY_PREFIX}{key}");
    let new = u64::from(!engine.knows_gateway(&gateway));
    let mut share = access.take(caller, Made::Keys, new);
    if share.count() < new {
        let name = &caller.name;
        let why = format!(
            "token {name:?} has used {KEYS_A_DAY} keys today: wait for tomorrow, or send as a gateway"
        );
        return Err(Status::resource_exhausted(why));
    }
    let session = engine.open_session(&gateway, 1).map_err(|error| of_storage(&error))?;
    share.spend(1);
    let gateway = gateway.into();
    Ok(Some(Origin { gateway, epoch: 1, seq: 1, session: session.generation }))
}

fn convert(engine: &Engine, batch: &[u8]) -> Result<Converted, Status> {
    let snapshot = engine.snapshot();
    let mut converted = Converted::default();
    for (part, named) in (0..).zip(columns(batch)) {
        let named = named?;
        let mut raw = match RawColumn::read(named.column) {
            Ok(raw) => raw,
            Err(why) => {
                converted.reject(part, 0, 0, (RejectReason::Malformed, why.0));
                continue;
            }
        };
        raw.alias = 0;
        match resolve(engine, snapshot.registry(), &named, &raw) {
            Ok((target, set)) => {
                let target = Target { state_set: &set, ..target };
                converted.take_raw(part, &raw, target, snapshot.registry());
            }
            Err(Error::Invalid(why)) => {
                converted.reject(part, 0, raw.count, (RejectReason::BadDefinition, why));
            }
            Err(error) => return Err(of_storage(&error)),
        }
    }
    Ok(converted)
}

/// The tag of a name, defined if need be, and the name of its state set.
fn resolve(
    engine: &Engine,
    registry: &Registry,
    named: &NamedColumn<'_>,
    raw: &RawColumn<'_>,
) -> tagmill_storage::Result<(Target<'static>, String)> {
    let known = registry.find(named.name).and_then(|id| registry.get(id));
    if let Some(tag) = known.filter(|tag| named.value_type.is_none_or(|t| t == tag.value_type)) {
        let target = Target { tag: tag.id, value_type: tag.value_type, state_set: "" };
        return Ok((target, tag.state_set().to_owned()));
    }
    let Some(value_type) = named.value_type.or_else(|| type_of(raw)) else {
        let why = format!("tag {} is new and neither type nor values are given", named.name);
        return Err(Error::Invalid(why));
    };
    let definition = TagDefinition::new(named.name, value_type);
    let mut ids = engine.reserve(std::slice::from_ref(&definition));
    let tag = ids.pop().unwrap_or(Err(Error::Closed))?;
    Ok((Target { tag, value_type, state_set: "" }, definition.name))
}
