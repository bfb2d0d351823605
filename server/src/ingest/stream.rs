//! One stream of one gateway: a reader that submits what arrives, and a teller that answers what the engine calls back.
//!
//! The two run side by side in one task, so that a batch that waits for memory or for room in the head never holds up the
//! acknowledgement of those before it. The reader takes a place in the channel between them for each message before it does
//! anything with it, and what a message takes is given back when its answer has been handed over: a gateway that does not
//! read is not read from.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tagmill_proto::Message as _;
use tagmill_proto::v1::server_message::Message as Answer;
use tagmill_proto::v1::{self, Credit, Defined, Flushed, GoAway, GoAwayReason, Hello, Welcome};
use tagmill_proto::view::ClientMessage;
use tagmill_proto::view::client_message::Message;
use tagmill_storage::{Aliases, Appended, Batch, Durability, Engine, Error, Origin, TagSets};
use tokio::sync::{Notify, mpsc, watch};
use tonic::{Status, Streaming};

use super::admission::{Account, CREDIT_BYTES, Grant, PARTS_PER_TAG};
use super::answers::{Answers, Unheard};
use super::convert::{Converted, Known, Outline, Places, convert, outline};
use super::definitions::{check_gateway, define_set, take_gateway};
use super::disconnect::mark_disconnect;
use super::messages::{Definitions, malformed};
use super::progress::{Outcome, Progress, Refusal};
use super::rejects::{Rejects, shown};
use super::write::KEY_PREFIX;
use super::{Ingest, grow};
use crate::access::{Access, Principal};
use crate::lifecycle::turns_true;
use crate::status::{blocking, of_join};

/// How long a gateway may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How long a batch that was acknowledged before its sync may be without one.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Messages of a stream that are under way at once.
const UNDER_WAY: usize = 1_024;
/// Memory of a tag set for each of its bytes on the wire.
const SET_BYTES: usize = 4;

/// A place for one event. It is there before the work that it tells of: whoever calls back must not wait.
type Place = mpsc::OwnedPermit<Event>;

/// Why a stream ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The gateway closed it, or is gone.
    Left,
    Fenced,
    Stopping,
}

/// Memory of a range of samples that the engine has refused.
const RANGE_BYTES: usize = 40;

/// What reader and teller share.
struct Stream<'a> {
    service: &'a Arc<Ingest>,
    caller: Arc<Principal>,
    gateway: Arc<str>,
    epoch: u64,
    generation: u64,
    durability: Durability,
    memory: Account,
    progress: Mutex<Progress>,
    /// The teller has found that reading on is of no use.
    halt: Notify,
}

/// What the teller hears.
enum Event {
    Answered(Box<Answered>),
    /// A batch mostly in the future.
    Clock {
        seq: u64,
        round: u32,
        bytes: usize,
    },
    /// A batch that waits for one before it to be sent again.
    Dropped {
        bytes: usize,
    },
    /// Everything submitted before is on disk.
    Flushed {
        id: u64,
    },
    Defined(Defined, Grant),
}

struct Answered {
    seq: u64,
    round: u32,
    bytes: usize,
    result: Result<Appended, Error>,
    places: Places,
    rejects: Rejects,
    aliases: Aliases,
    grant: Grant,
}

/// What the gateway is to be told, and the memory that this takes.
#[derive(Default)]
struct Due {
    answers: Vec<Answer>,
    held: Vec<Grant>,
}

/// Serves one stream to its end.
pub(super) async fn run(
    service: &Arc<Ingest>,
    (caller, peer): (Principal, Option<SocketAddr>),
    mut inbound: Streaming<ClientMessage>,
    answers: &Answers,
) -> Result<(), Status> {
    let hello = hear_hello(&mut inbound).await?;
    let stream = open(service, caller, &hello, answers).await?;
    let mut fenced = service.sessions.enter(&stream.gateway, stream.generation);
    let (generation, mark) = (stream.generation, stream.progress().taken());
    service.gateways.connected(&hello, generation, &stream.caller.name, peer, mark);
    tracing::info!(
        gateway = hello.gateway,
        agent = shown(&hello.agent),
        epoch = hello.epoch,
        "connected"
    );

    let (events, heard) = mpsc::channel(UNDER_WAY);
    let reading = stream.read(&mut inbound, events, &mut fenced);
    let (read, told) = tokio::join!(reading, stream.tell(heard, answers));

    service.sessions.leave(&stream.gateway, stream.generation);
    service.gateways.left(&stream.gateway, stream.generation);
    let why = match &read {
        Ok(End::Left) => "it left",
        Ok(End::Fenced) => "a newer stream of it came",
        Ok(End::Stopping) => "the server stops",
        Err(status) => status.message(),
    };
    tracing::info!(gateway = hello.gateway, why, "disconnected");
    let is_fenced = service.engine.is_fenced(&stream.gateway, stream.generation);
    // Whose token was revoked writes nothing any more.
    let may_write = !is_fenced && service.access.still(&stream.caller).is_ok();
    if hello.mark_disconnect && may_write && read.as_ref().ok() != Some(&End::Stopping) {
        let (engine, gateway) = (Arc::clone(&service.engine), Arc::clone(&stream.gateway));
        let (scope, now_ns) = (stream.caller.scope().cloned(), service.now_ns());
        blocking(move || mark_disconnect(&engine, &gateway, scope.as_deref(), now_ns)).await?;
    }
    let read = read?;
    if told == Err(Unheard::Stalled) {
        return Err(Status::deadline_exceeded("the gateway does not read what it is told"));
    }
    let (reason, detail) = match read {
        End::Left => return Ok(()),
        End::Fenced => (GoAwayReason::Fenced, "a newer stream of this gateway has taken over"),
        End::Stopping => (GoAwayReason::Shutdown, "the server shuts down"),
    };
    let away = GoAway { reason: reason.into(), detail: detail.into() };
    // The stream ends either way.
    drop(answers.send(Ok(message(Answer::GoAway(away)))).await);
    Ok(())
}

async fn hear_hello(inbound: &mut Streaming<ClientMessage>) -> Result<Hello, Status> {
    let late = |_| Status::deadline_exceeded("no hello within 10 s");
    let first = tokio::time::timeout(HELLO_WITHIN, inbound.message()).await.map_err(late)??;
    match first.and_then(|first| first.message) {
        Some(Message::Hello(hello)) if hello.gateway.starts_with(KEY_PREFIX) => {
            Err(Status::invalid_argument("gateway names must not begin with write/"))
        }
        Some(Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::failed_precondition("the first message of a stream must be a hello")),
    }
}

async fn open<'a>(
    service: &'a Arc<Ingest>,
    caller: Principal,
    hello: &Hello,
    answers: &Answers,
) -> Result<Stream<'a>, Status> {
    check_gateway(&caller, &hello.gateway)?;
    let mut share = take_gateway(&service.engine, &service.access, &caller, &hello.gateway)?;
    let (engine, gateway) = (Arc::clone(&service.engine), hello.gateway.clone());
    let epoch = hello.epoch;
    let session = blocking(move || engine.open_session(&gateway, epoch)).await?;
    share.spend(1);
    let engine = &service.engine;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let welcome = Welcome {
        incarnation: engine.incarnation(),
        mark: session.mark,
        generation: session.generation,
        max_batch_bytes: count(service.message_bytes),
        credit_bytes: CREDIT_BYTES,
        aliases: count(engine.aliases(&hello.gateway).len()),
        tag_sets: count(engine.tag_sets(&hello.gateway).len()),
    };
    let gone = |_| Status::cancelled("the gateway has gone");
    answers.send(Ok(message(Answer::Welcome(welcome)))).await.map_err(gone)?;
    Ok(Stream {
        service,
        memory: service.admission.of_stream(&caller),
        caller: Arc::new(caller),
        gateway: hello.gateway.as_str().into(),
        epoch,
        generation: session.generation,
        durability: match hello.durability() {
            v1::Durability::Interval => Durability::Interval,
            v1::Durability::Synced | v1::Durability::Unspecified => Durability::Synced,
        },
        progress: Mutex::new(Progress::new(session.mark)),
        halt: Notify::new(),
    })
}

impl Stream<'_> {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits what arrives. Ends when the gateway, the server or a newer stream says so.
    async fn read(
        &self,
        inbound: &mut Streaming<ClientMessage>,
        events: mpsc::Sender<Event>,
        fenced: &mut watch::Receiver<bool>,
    ) -> Result<End, Status> {
        let mut stopping = self.service.stopping.clone();
        let mut sets = Arc::new(self.service.engine.tag_sets(&self.gateway));
        loop {
            let arrived = tokio::select! {
                biased;
                () = turns_true(&mut stopping) => return Ok(End::Stopping),
                () = turns_true(fenced) => return Ok(End::Fenced),
                () = self.halt.notified() => return Ok(self.halted()),
                arrived = inbound.message() => arrived?,
            };
            let Some(arrived) = arrived else { return Ok(End::Left) };
            let still = self.service.access.still(&self.caller);
            still.map_err(|denied| Status::unauthenticated(denied.to_string()))?;
            // Without the teller there is nobody to answer.
            let place = events.clone().reserve_owned().await;
            let Ok(place) = place else { return Ok(self.halted()) };
            match arrived.message {
                Some(Message::Batch(bytes)) => self.take_batch(bytes, place, &sets).await?,
                Some(Message::DefineTags(bytes)) => self.define_tags(bytes, place).await?,
                Some(Message::DefineTagSet(bytes)) => {
                    self.define_tag_set(&bytes, place).await?;
                    sets = Arc::new(self.service.engine.tag_sets(&self.gateway));
                }
                Some(Message::Flush(flush)) => {
                    let engine = Arc::clone(&self.service.engine);
                    blocking(move || engine.sync()).await?;
                    tell(place, Event::Flushed { id: flush.id });
                }
                Some(Message::Hello(_)) => {
                    return Err(Status::failed_precondition("hello was said before"));
                }
                // A later client may say more than this server knows.
                None => {}
            }
        }
    }

    /// Why there is nothing more to read.
    fn halted(&self) -> End {
        let is_fenced = self.service.engine.is_fenced(&self.gateway, self.generation);
        if is_fenced { End::Fenced } else { End::Left }
    }

    /// Waits for memory. None if reading on has become of no use.
    async fn acquire(
        &self,
        encoded: usize,
        samples: u64,
        parts: u64,
    ) -> Result<Option<Grant>, Status> {
        tokio::select! {
            grant = self.memory.acquire(encoded, samples, parts) => grant.map(Some),
            () = self.halt.notified() => {
                // The reader is to hear of it too.
                self.halt.notify_one();
                Ok(None)
            }
        }
    }

    async fn define_tags(&self, bytes: Bytes, place: Place) -> Result<(), Status> {
        let parts = Definitions::count(&bytes)? * PARTS_PER_TAG;
        let Some(grant) = self.acquire(bytes.len(), 0, parts).await? else { return Ok(()) };
        let definitions = Definitions::read(&bytes)?;
        let id = definitions.id;
        let (engine, gateway) = (Arc::clone(&self.service.engine), Arc::clone(&self.gateway));
        let caller = Arc::clone(&self.caller);
        let access = Arc::clone(&self.service.access);
        let apply = move || definitions.apply(&engine, &access, &caller, Some(&gateway));
        let answer = blocking(apply).await?;
        tell(place, Event::Defined(Defined { id, rejects: answer.rejects }, grant));
        Ok(())
    }

    async fn define_tag_set(&self, bytes: &[u8], place: Place) -> Result<(), Status> {
        let Some(grant) = self.acquire(bytes.len() * SET_BYTES, 0, 0).await? else {
            return Ok(());
        };
        let set = v1::DefineTagSet::decode(bytes).map_err(malformed)?;
        let id = set.id;
        let (engine, gateway) = (Arc::clone(&self.service.engine), Arc::clone(&self.gateway));
        let caller = Arc::clone(&self.caller);
        let access = Arc::clone(&self.service.access);
        let define = move || define_set(&engine, (&access, &caller), &gateway, &set);
        let rejects = blocking(define).await?;
        tell(place, Event::Defined(Defined { id, rejects }, grant));
        Ok(())
    }

    async fn take_batch(
        &self,
        bytes: Bytes,
        place: Place,
        sets: &Arc<TagSets>,
    ) -> Result<(), Status> {
        if !self.progress().charge(bytes.len(), self.service.message_bytes) {
            let why = format!("more than {CREDIT_BYTES} bytes are unanswered: wait for Credit");
            return Err(Status::resource_exhausted(why));
        }
        let outline = outline(&bytes).map_err(malformed)?;
        if outline.seq == 0 {
            return Err(Status::invalid_argument("the numbers of batches begin at 1"));
        }
        let admitted = self.progress().admit(outline.seq);
        let Some(round) = admitted else {
            tell(place, Event::Dropped { bytes: bytes.len() });
            return Ok(());
        };
        // What will not be read takes no memory: a number beyond all must not have everybody's.
        let (samples, parts) = match outline.too_long() {
            Some(_) => (0, 0),
            None => (outline.announced, outline.parts),
        };
        let Some(grant) = self.acquire(bytes.len(), samples, parts).await? else { return Ok(()) };
        let job = Job {
            engine: Arc::clone(&self.service.engine),
            access: Arc::clone(&self.service.access),
            caller: Arc::clone(&self.caller),
            origin: Origin {
                gateway: Arc::clone(&self.gateway),
                epoch: self.epoch,
                seq: outline.seq,
                session: self.generation,
            },
            durability: self.durability,
            sets: Arc::clone(sets),
            now_ns: self.service.now_ns(),
            place,
            outline,
            round,
            bytes,
        };
        // Reading a batch takes time and submitting it may wait for room: not on a thread that serves others.
        let submitted = tokio::task::spawn_blocking(move || job.submit(grant));
        submitted.await.map_err(|error| of_join(&error))?
    }

    /// Answers what the engine calls back, until nothing more can come.
    async fn tell(
        &self,
        mut heard: mpsc::Receiver<Event>,
        answers: &Answers,
    ) -> Result<(), Unheard> {
        let mut sync = tokio::time::interval(SYNC_EVERY);
        sync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_behind = self.progress().is_behind();
            let mut due = Due::default();
            tokio::select! {
                event = heard.recv() => match event {
                    Some(event) => self.hear(event, &mut due),
                    None => return Ok(()),
                },
                _ = sync.tick(), if is_behind => self.catch_up().await,
            }
            while let Ok(event) = heard.try_recv() {
                self.hear(event, &mut due);
            }
            self.push_ack(&mut due, false);
            let credit = self.progress().take_credit();
            if credit > 0 {
                due.answers.push(Answer::Credit(Credit { bytes: credit }));
            }
            for answer in due.answers {
                if let Err(unheard) = answers.send(Ok(message(answer))).await {
                    self.halt.notify_one();
                    return Err(unheard);
                }
            }
            drop(due.held);
        }
    }

    /// Brings to disk what was acknowledged before its sync.
    async fn catch_up(&self) {
        let taken = self.progress().taken();
        let engine = Arc::clone(&self.service.engine);
        match blocking(move || engine.sync()).await {
            Ok(_) => self.progress().synced(taken),
            // The next batch meets the same error and tells the gateway.
            Err(status) => tracing::warn!("cannot sync: {}", status.message()),
        }
    }

    fn push_ack(&self, due: &mut Due, always: bool) {
        let ack = self.progress().take_ack(always);
        if let Some(ack) = &ack {
            self.service.gateways.acknowledged(&self.gateway, ack);
        }
        due.answers.extend(ack.map(Answer::Ack));
    }

    fn hear(&self, event: Event, due: &mut Due) {
        let refusal = match event {
            Event::Answered(answered) => {
                let Answered { seq, round, bytes, result, places, mut rejects, aliases, mut grant } =
                    *answered;
                let outcome = match result {
                    Ok(appended) => {
                        places.reject(&appended, &aliases, &mut rejects);
                        Outcome::Appended(appended, rejects)
                    }
                    Err(error) => Outcome::Refused(error),
                };
                if let Outcome::Appended(_, rejects) = &outcome {
                    grant.shrink(rejects.bytes());
                }
                due.held.push(grant);
                let mut progress = self.progress();
                progress.release(bytes);
                progress.settle(seq, round, outcome)
            }
            Event::Clock { seq, round, bytes } => {
                let mut progress = self.progress();
                progress.release(bytes);
                progress.settle(seq, round, Outcome::Clock)
            }
            Event::Dropped { bytes } => {
                self.progress().release(bytes);
                None
            }
            Event::Flushed { id } => {
                let mut progress = self.progress();
                let taken = progress.taken();
                progress.synced(taken);
                drop(progress);
                self.push_ack(due, true);
                due.answers.push(Answer::Flushed(Flushed { id }));
                None
            }
            Event::Defined(defined, grant) => {
                due.held.push(grant);
                due.answers.push(Answer::Defined(defined));
                None
            }
        };
        let Some(refusal) = refusal else { return };
        self.push_ack(due, false);
        match refusal {
            Refusal::Nack(nack) => due.answers.push(Answer::Nack(nack)),
            Refusal::Gap(gap) => due.answers.push(Answer::Gap(gap)),
            Refusal::Fenced => self.halt.notify_one(),
        }
    }
}

/// A batch on its way into the engine.
struct Job {
    engine: Arc<Engine>,
    access: Arc<Access>,
    caller: Arc<Principal>,
    origin: Origin,
    durability: Durability,
    sets: Arc<TagSets>,
    now_ns: i64,
    place: Place,
    outline: Outline,
    round: u32,
    bytes: Bytes,
}

impl Job {
    /// Reads the batch and hands it to the engine, which answers later. Blocks.
    fn submit(self, mut grant: Grant) -> Result<(), Status> {
        let aliases = self.engine.aliases(&self.origin.gateway);
        let mut converted = self.convert(&aliases)?;
        if grow(&self.engine, (&self.access, &self.caller), &converted.missing_labels) {
            converted = self.convert(&aliases)?;
        }
        let Self { engine, origin, durability, now_ns, place, round, bytes, .. } = self;
        let (seq, bytes) = (origin.seq, bytes.len());
        if converted.is_mostly_future(now_ns) {
            tell(place, Event::Clock { seq, round, bytes });
            return Ok(());
        }
        let Converted { columns, scans, places, rejects, .. } = converted;
        let batch = Batch { columns, scans, origin: Some(origin), durability };
        let done = move |result: Result<Appended, Error>| {
            let ranges = result.as_ref().map_or(0, |appended: &Appended| appended.rejects.len());
            grant.shrink(rejects.bytes() + places.bytes() + ranges * RANGE_BYTES);
            let answered = Answered { seq, round, bytes, result, places, rejects, aliases, grant };
            tell(place, Event::Answered(Box::new(answered)));
        };
        engine.submit(batch, Box::new(done));
        Ok(())
    }

    fn convert(&self, aliases: &Aliases) -> Result<Converted, Status> {
        if let Some(why) = self.outline.too_long() {
            return Ok(Converted::too_long(self.outline.announced, why));
        }
        let snapshot = self.engine.snapshot();
        // An alias of a tag that is outside, or has come to be, is not known.
        let scope = self.caller.scope();
        let snapshot = match scope {
            Some(scope) => snapshot.within(scope),
            None => snapshot,
        };
        let (registry, is_scoped) = (snapshot.registry(), scope.is_some());
        let known = Known { registry, aliases, sets: &self.sets, is_scoped };
        convert(&self.bytes, &known).map_err(malformed)
    }
}

/// The teller outlives the stream's interest: it may be gone.
fn tell(place: Place, event: Event) {
    drop(place.send(event));
}

fn message(answer: Answer) -> v1::ServerMessage {
    v1::ServerMessage { message: Some(answer) }
}
