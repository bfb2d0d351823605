//! One connection after the other: says hello, goes on where the server stands, sends what the queue gives, hears answers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tagmill_proto::v1::server_message::Message as Answer;
use tagmill_proto::v1::{GoAwayReason, Hello, Nack, ServerMessage, Welcome};
use tagmill_proto::view::ClientMessage;
use tagmill_proto::view::client_message::Message;
use tagmill_proto::view::ingest_client::IngestClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::credentials::Secured;
use crate::error::{Error, Result};
use crate::queue::{OutOfReach, Resume};
use crate::state::{Link, Shared};

/// Messages handed to the transport ahead of the network.
const AHEAD: usize = 4;
/// Bytes of HTTP/2 flow control, above the greatest batch so that the server's credit is what holds a gateway back.
const WINDOW_BYTES: u32 = 8 << 20;

/// A second stream that takes over within this time is another program's.
const FENCED_AGAIN_WITHIN: Duration = Duration::from_mins(10);

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The caller wants no more.
    Closed,
    /// Connect again after a pause.
    Broken(Error),
    /// Connect again at once: in a new epoch, or from the server's mark.
    Again,
    /// It is over.
    Fatal(Error),
}

/// What a queue on disk decides. A queue in memory has none: it goes on by itself.
pub(crate) trait Course: std::fmt::Debug + Send + Sync {
    /// Goes on where the server stands. May wait for the disk.
    fn welcomed(&self, shared: &Shared, welcome: &Welcome) -> Result<(), End>;

    /// What an end without a welcome means: a server may be away for as long as it likes.
    fn failed(&self, shared: &Shared, end: End) -> End;
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        if error.is_retriable() { Self::Broken(error) } else { Self::Fatal(error) }
    }
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::from(Error::from(status))
    }
}

/// Runs until the gateway ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(shared.options.retry_min, shared.options.retry_max);
    let mut fences = Fences::default();
    loop {
        let (started, acked) = (Instant::now(), shared.lock().queue.acked_ticket());
        let end = match connected(&shared).await {
            Ok(end) | Err(end) => end,
        };
        let broken = match weighed(&shared, end, &mut fences) {
            End::Again => continue,
            End::Broken(error) if shared.lock().was_connected() || shared.course.is_some() => error,
            End::Broken(error) | End::Fatal(error) => return finish(&shared, error),
            End::Closed => return finish(&shared, Error::Closed),
        };
        let has_advanced = shared.lock().queue.acked_ticket() > acked;
        let pause = backoff.pause_after(started.elapsed(), has_advanced);
        shared.lock().last_error = Some(broken.clone());
        tracing::warn!(gateway = shared.options.gateway, ?pause, "connection lost: {broken}");
        let closing = wait_for_close(&shared);
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = closing => return finish(&shared, Error::Closed),
        }
    }
}

/// How long to wait before connecting again: twice as long each time, until a connection was good for something.
#[derive(Debug)]
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// The pause after a connection that lasted so long, and on which batches were acknowledged or not. One that brought
    /// something on disk shows a server that works: its end is a new one, not the last one going on.
    fn pause_after(&mut self, lasted: Duration, has_advanced: bool) -> Duration {
        if has_advanced || lasted > self.max {
            self.next = self.min;
        }
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }
}

/// When a newer stream took over.
#[derive(Debug, Default)]
struct Fences {
    last: Option<Instant>,
}

impl Fences {
    /// Whether this one may be an echo of our own: a network may bring the hello of a connection that was given up behind
    /// that of the next one. Another program comes back when it is taken over, an echo does not.
    fn is_echo(&mut self, now: Instant) -> bool {
        let last = self.last.replace(now);
        last.is_none_or(|last| now.saturating_duration_since(last) > FENCED_AGAIN_WITHIN)
    }
}

/// What the end of a connection means.
fn weighed(shared: &Shared, end: End, fences: &mut Fences) -> End {
    let was_connected = {
        let mut state = shared.lock();
        let was_connected = state.is_connected();
        if was_connected {
            state.link = Link::Broken;
        }
        was_connected
    };
    shared.advance();
    match &shared.course {
        Some(course) if !was_connected => course.failed(shared, end),
        Some(_) => match end {
            End::Fatal(error @ (Error::Server { .. } | Error::Protocol { .. })) => {
                End::Broken(error)
            }
            End::Fatal(error @ Error::Fenced { .. }) if fences.is_echo(Instant::now()) => {
                End::Broken(error)
            }
            end => end,
        },
        None => end,
    }
}

fn finish(shared: &Shared, error: Error) {
    shared.lock().failure = Some(error);
    shared.advance();
}

async fn wait_for_close(shared: &Shared) {
    while !shared.lock().closing {
        shared.work.notified().await;
    }
}

/// Between half of the pause and the whole, so that many gateways do not return at one instant.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 1_000;
    pause / 2 + pause.mul_f64(random as f64 / 2_000.0)
}

async fn open_channel(shared: &Shared) -> Result<Secured> {
    let tune = |endpoint: Endpoint| {
        endpoint
            .connect_timeout(shared.options.connect_timeout)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
    };
    shared.options.credentials.connect(&shared.uri, tune).await
}

/// An error with everything below it: tonic's own sentence is "transport error".
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// One connection, from hello to its end.
async fn connected(shared: &Arc<Shared>) -> Result<End, End> {
    let channel = open_channel(shared).await?;
    let (outbound, messages) = mpsc::channel(AHEAD);
    let hello = {
        let options = &shared.options;
        Hello {
            gateway: options.gateway.clone(),
            epoch: shared.lock().epoch,
            durability: options.durability.into(),
            agent: options.agent.clone(),
            mark_disconnect: options.mark_disconnect,
        }
    };
    let hello = ClientMessage { message: Some(Message::Hello(hello)) };
    outbound.send(hello).await.map_err(|_| End::Closed)?;
    let mut client = IngestClient::new(channel);
    let timeout = shared.options.connect_timeout;
    let late = || Error::Unreachable {
        uri: shared.uri.clone(),
        why: format!("no welcome within {} s", timeout.as_secs_f64()),
    };
    let opening = async {
        let mut answers = client.stream(ReceiverStream::new(messages)).await?.into_inner();
        let first = answers.message().await?;
        Ok::<_, tonic::Status>((answers, first))
    };
    let (mut answers, first) =
        tokio::time::timeout(timeout, opening).await.map_err(|_| late())??;
    match first.and_then(|answer| answer.message) {
        Some(Answer::Welcome(welcome)) => match &shared.course {
            None => welcomed(shared, &welcome)?,
            Some(course) => {
                let (course, shared) = (Arc::clone(course), Arc::clone(shared));
                let deciding =
                    tokio::task::spawn_blocking(move || course.welcomed(&shared, &welcome));
                deciding.await.map_err(|_| End::Closed)??;
            }
        },
        Some(Answer::GoAway(away)) => return Err(went_away(shared, away.reason(), away.detail)),
        _ => return Err(End::Fatal(protocol(shared, "its first answer is not a welcome"))),
    }
    shared.advance();
    exchange(shared, &outbound, &mut answers).await
}

fn welcomed(shared: &Shared, welcome: &Welcome) -> Result<(), End> {
    let mut state = shared.lock();
    let incarnation = state.incarnation.replace(welcome.incarnation);
    if incarnation.is_some_and(|before| before != welcome.incarnation) {
        state.epoch += 1;
        state.queue.begin_epoch();
        tracing::warn!(epoch = state.epoch, "the database was restored or replaced: new epoch");
        return Err(End::Again);
    }
    match state.queue.welcome(welcome.mark, welcome.credit_bytes) {
        Resume::Here => {}
        Resume::NewEpoch => {
            state.epoch += 1;
            state.queue.begin_epoch();
            tracing::warn!(epoch = state.epoch, "the server lacks acknowledged batches: new epoch");
            return Err(End::Again);
        }
        Resume::Foreign => {
            let gateway = shared.options.gateway.clone();
            let detail = "the server has batches that were not sent from here".into();
            return Err(End::Fatal(Error::Fenced { gateway, detail }));
        }
    }
    state.begin(welcome);
    Ok(())
}

/// Sends and hears until the connection ends.
async fn exchange(
    shared: &Shared,
    outbound: &mpsc::Sender<ClientMessage>,
    answers: &mut Streaming<ServerMessage>,
) -> Result<End, End> {
    loop {
        let (ready, resume_at) = {
            let state = shared.lock();
            if state.closing {
                return Ok(End::Closed);
            }
            if state.link == Link::Stale {
                return Ok(End::Again);
            }
            let now = Instant::now();
            (state.has_outgoing(now), state.pause_end(now))
        };
        let pause = async {
            match resume_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = answers.message() => {
                let Some(answer) = answer? else {
                    return Ok(broken(shared, "the server ended the stream"));
                };
                hear(shared, answer)?;
            }
            permit = outbound.reserve(), if ready => {
                // A closed channel means a broken connection: the answers say why, so only they are waited for.
                let Ok(permit) = permit else {
                    let why = answers.message().await.err();
                    return Ok(broken(shared, why.as_ref().map_or("closed", |s| s.message())));
                };
                let message = shared.lock().take_outgoing(Instant::now());
                if message.is_some() {
                    permit.send(ClientMessage { message });
                }
            }
            () = shared.work.notified(), if !ready => {}
            () = pause, if !ready => {}
        }
    }
}

fn hear(shared: &Shared, answer: ServerMessage) -> Result<(), End> {
    let mut state = shared.lock();
    let heard = match answer.message {
        Some(Answer::Ack(ack)) => state.acked(ack),
        Some(Answer::Nack(nack)) => {
            log_nack(&shared.options.gateway, &nack);
            state.nacked(nack, Instant::now() + jittered(Duration::from_secs(2)))
        }
        Some(Answer::Gap(gap)) => state.queue.rewind(gap.expected),
        Some(Answer::Credit(credit)) => {
            state.queue.grant(credit.bytes);
            Ok(())
        }
        Some(Answer::Defined(defined)) => {
            state.defined(defined.id, defined.rejects);
            Ok(())
        }
        Some(Answer::GoAway(away)) => {
            drop(state);
            return Err(went_away(shared, away.reason(), away.detail));
        }
        // A later server may say more than this client knows.
        Some(Answer::Welcome(_) | Answer::Flushed(_)) | None => Ok(()),
    };
    drop(state);
    shared.advance();
    // What the server stands at is learned anew from its next welcome.
    heard.map_err(|OutOfReach| broken(shared, "the server asks for a batch that is not here"))
}

fn log_nack(gateway: &str, nack: &Nack) {
    let Nack { seq, detail, .. } = nack;
    if nack.retriable {
        tracing::warn!(gateway, seq, "the server asks to send again later: {detail}");
    } else {
        tracing::error!(gateway, seq, "the server will never take this batch: {detail}");
    }
}

fn went_away(shared: &Shared, reason: GoAwayReason, detail: String) -> End {
    if reason == GoAwayReason::Fenced {
        let gateway = shared.options.gateway.clone();
        return End::Fatal(Error::Fenced { gateway, detail });
    }
    broken(shared, if detail.is_empty() { "the server goes away" } else { &detail })
}

fn broken(shared: &Shared, why: &str) -> End {
    End::Broken(Error::Unreachable { uri: shared.uri.clone(), why: why.into() })
}

fn protocol(shared: &Shared, why: &str) -> Error {
    Error::Protocol { uri: shared.uri.clone(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that is restarted now and then is found again quickly each time; one that takes nothing is left alone.
    #[test]
    fn pauses_grow_until_a_connection_was_good_for_something() {
        let [min, max] = [1, 30].map(Duration::from_secs);
        let seconds = |backoff: &mut Backoff, lasted, has_advanced| {
            backoff.pause_after(Duration::from_secs(lasted), has_advanced).as_secs()
        };
        let mut backoff = Backoff::new(min, max);
        let refused: Vec<u64> = (0..7).map(|_| seconds(&mut backoff, 0, false)).collect();
        assert_eq!(refused, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(seconds(&mut backoff, 31, false), 1, "a long one");
        assert_eq!(seconds(&mut backoff, 0, false), 2);
        for _ in 0..9 {
            assert_eq!(seconds(&mut backoff, 20, true), 1, "a short one that was good");
            assert_eq!(seconds(&mut backoff, 0, false), 2);
        }
    }

    /// Goes on wherever the server stands.
    #[derive(Debug)]
    struct Anywhere;

    impl Course for Anywhere {
        fn welcomed(&self, _: &Shared, _: &Welcome) -> Result<(), End> {
            Ok(())
        }

        fn failed(&self, _: &Shared, end: End) -> End {
            end
        }
    }

    /// The first stream that takes over may be an earlier one of our own, which the network has brought late.
    #[test]
    fn a_queue_on_disk_gives_way_to_the_second_newer_stream() {
        let options = crate::options::GatewayOptions::new("g");
        let shared = Shared::new("s".into(), options.clone(), Some(Arc::new(Anywhere)));
        let fenced = |shared: &Shared, earlier: &mut Fences| {
            shared.lock().link = Link::Stands;
            weighed(shared, went_away(shared, GoAwayReason::Fenced, "newer".into()), earlier)
        };
        let mut earlier = Fences::default();
        assert!(matches!(fenced(&shared, &mut earlier), End::Broken(Error::Fenced { .. })));
        assert!(!shared.lock().is_connected());
        assert!(matches!(fenced(&shared, &mut earlier), End::Fatal(Error::Fenced { .. })));
        // One that has no queue on disk goes on after what the server has, whoever sent that: it stops at once.
        let alone = Shared::new("s".into(), options, None);
        assert!(matches!(fenced(&alone, &mut Fences::default()), End::Fatal(_)));
    }

    #[test]
    fn newer_streams_that_are_far_apart_are_no_fight() {
        let (mut fences, start) = (Fences::default(), Instant::now());
        let is_echo = |minutes| fences.is_echo(start + Duration::from_mins(minutes));
        assert_eq!([0, 11, 22, 30, 41].map(is_echo), [true, true, true, false, true]);
    }
}
