//! A server that keeps the rules of `ingest.proto` and can be made to fail in every way that the rules allow: it goes away,
//! loses its last answers, comes back with an older state.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tagmill_client::v1;
use tagmill_client::v1::client_message::Message as Said;
use tagmill_client::v1::ingest_server::{Ingest, IngestServer};
use tagmill_client::v1::server_message::Message as Answer;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What a gateway has on a server's disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    /// Names by alias.
    pub(crate) tags: BTreeMap<u32, String>,
}

/// What a server has on disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) incarnation: u64,
    pub(crate) gateways: HashMap<String, Known>,
    /// What the batches held, in the order in which they were taken.
    pub(crate) values: Vec<i64>,
}

#[derive(Debug)]
struct State {
    disk: Disk,
    is_away: bool,
    /// Answers until the connection breaks before one; none: it does not.
    answers_left: Option<u64>,
    /// Whether nothing is answered after a welcome.
    is_mute: bool,
    generations: HashMap<String, u64>,
    /// A value that is never taken.
    poison: Option<i64>,
    batch_bytes_max: u32,
    offences: Vec<String>,
}

/// The server. It ends with the runtime.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    /// Changes when all streams break.
    breaks: watch::Sender<u64>,
    pub(crate) address: SocketAddr,
}

impl Fake {
    pub(crate) async fn start(incarnation: u64) -> Self {
        let disk = Disk { incarnation, gateways: HashMap::new(), values: Vec::new() };
        let state = State {
            disk,
            is_away: false,
            answers_left: None,
            is_mute: false,
            generations: HashMap::new(),
            poison: None,
            batch_bytes_max: 4 << 20,
            offences: Vec::new(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (breaks, _) = watch::channel(0);
        let fake = Self { state: Arc::new(Mutex::new(state)), breaks, address };
        let service = IngestServer::new(fake.clone());
        let serving = tonic::transport::Server::builder().serve_with_incoming_shutdown(
            service,
            TcpListenerStream::new(listener),
            std::future::pending(),
        );
        tokio::spawn(serving);
        fake
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks every connection.
    pub(crate) fn kill(&self) {
        self.breaks.send_modify(|count| *count += 1);
    }

    /// Whether nobody is let in from now on. Connections break.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.lock().is_away = is_away;
        self.kill();
    }

    /// After so many answers connections break before the next: what was done is not told.
    pub(crate) fn lose_answers_after(&self, answers: u64) {
        self.lock().answers_left = Some(answers);
    }

    /// Whether nothing is answered from now on: what is sent is taken, up to the credit.
    pub(crate) fn set_mute(&self, is_mute: bool) {
        self.lock().is_mute = is_mute;
        self.kill();
    }

    pub(crate) fn set_poison(&self, value: i64) {
        self.lock().poison = Some(value);
    }

    pub(crate) fn set_batch_bytes_max(&self, bytes: u32) {
        self.lock().batch_bytes_max = bytes;
        self.kill();
    }

    /// What is on disk now.
    pub(crate) fn disk(&self) -> Disk {
        self.lock().disk.clone()
    }

    /// Puts an older state in the place of what is on disk, as another database.
    pub(crate) fn restore(&self, disk: Disk, incarnation: u64) {
        {
            let mut state = self.lock();
            state.disk = Disk { incarnation, ..disk };
            // As after a restart: what streams of before still say is not heard.
            state.generations.values_mut().for_each(|generation| *generation += 1);
        }
        self.kill();
    }

    /// Where senders broke the rules.
    pub(crate) fn offences(&self) -> Vec<String> {
        self.lock().offences.clone()
    }
}

impl State {
    fn offend(&mut self, what: String) -> Status {
        self.offences.push(what.clone());
        Status::invalid_argument(what)
    }

    fn hello(&mut self, hello: &v1::Hello) -> Result<(v1::Welcome, u64), Status> {
        if self.is_away {
            return Err(Status::unavailable("away"));
        }
        let known = self.disk.gateways.get(&hello.gateway).cloned().unwrap_or_default();
        if known.epoch > hello.epoch {
            return Err(Status::failed_precondition("gateway has used a later epoch"));
        }
        let generation = self.generations.entry(hello.gateway.clone()).or_default();
        *generation += 1;
        let welcome = v1::Welcome {
            incarnation: self.disk.incarnation,
            mark: if known.epoch == hello.epoch { known.seq } else { 0 },
            generation: *generation,
            max_batch_bytes: self.batch_bytes_max,
            credit_bytes: 2_000,
            ..v1::Welcome::default()
        };
        Ok((welcome, *generation))
    }

    /// Does what a message asks, and gives the answers.
    fn hear(
        &mut self,
        (hello, generation): (&v1::Hello, u64),
        said: Said,
    ) -> Result<Vec<Answer>, Status> {
        if self.generations.get(&hello.gateway) != Some(&generation) || self.is_away {
            return Err(Status::unavailable(
                "a newer stream has taken over, or the server is away",
            ));
        }
        let known = self.disk.gateways.entry(hello.gateway.clone()).or_default();
        match said {
            Said::Hello(_) => Err(self.offend("hello twice".into())),
            Said::DefineTags(define) => {
                known.tags.extend(define.tags.into_iter().map(|tag| (tag.alias, tag.name)));
                let defined = v1::Defined { id: define.id, rejects: Vec::new() };
                Ok(vec![Answer::Defined(defined)])
            }
            Said::DefineTagSet(set) => {
                Ok(vec![Answer::Defined(v1::Defined { id: set.id, rejects: Vec::new() })])
            }
            Said::Flush(flush) => Ok(vec![Answer::Flushed(v1::Flushed { id: flush.id })]),
            Said::Batch(batch) => self.take(hello, &batch),
        }
    }

    fn take(&mut self, hello: &v1::Hello, batch: &v1::Batch) -> Result<Vec<Answer>, Status> {
        use tagmill_proto::Message as _;
        let bytes = batch.encoded_len() as u64;
        let credit = Answer::Credit(v1::Credit { bytes });
        let known = self.disk.gateways.get_mut(&hello.gateway).unwrap();
        let mark = if known.epoch == hello.epoch { known.seq } else { 0 };
        if batch.seq > mark + 1 {
            return Ok(vec![credit, Answer::Gap(v1::Gap { expected: mark + 1 })]);
        }
        let values = batch.columns.iter().flat_map(|column| &column.i64).copied();
        let values: Vec<i64> = values.collect();
        if let Some(poison) = self.poison.filter(|poison| values.contains(poison)) {
            let detail = format!("{poison} is poison");
            let nack = v1::Nack { seq: batch.seq, detail, ..v1::Nack::default() };
            return Ok(vec![credit, Answer::Nack(nack)]);
        }
        let aliases = batch.columns.iter().map(|column| column.alias);
        if let Some(unknown) = aliases.into_iter().find(|alias| !known.tags.contains_key(alias)) {
            return Err(self.offend(format!("alias {unknown} was not defined")));
        }
        let durable_seq = mark.max(batch.seq);
        let accepted_samples = if batch.seq > mark { values.len() as u64 } else { 0 };
        if batch.seq > mark {
            (known.epoch, known.seq) = (hello.epoch, batch.seq);
            self.disk.values.extend(values);
        }
        let ack = v1::Ack { seq: durable_seq, durable_seq, accepted_samples, rejects: Vec::new() };
        Ok(vec![credit, Answer::Ack(ack)])
    }

    /// Whether the connection breaks before the next answer.
    fn loses_answer(&mut self) -> bool {
        match &mut self.answers_left {
            None => false,
            Some(0) => {
                self.answers_left = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }
}

type Answers = mpsc::Sender<Result<v1::ServerMessage, Status>>;

fn message(answer: Answer) -> v1::ServerMessage {
    v1::ServerMessage { message: Some(answer) }
}

/// Serves one stream to its end.
async fn serve(
    fake: &Fake,
    said: &mut Streaming<v1::ClientMessage>,
    answers: &Answers,
) -> Result<(), Status> {
    // Whoever dies early says nothing.
    let Some(first) = said.message().await? else { return Ok(()) };
    let Some(Said::Hello(hello)) = first.message else {
        return Err(fake.lock().offend("no hello".into()));
    };
    let (welcome, generation) = fake.lock().hello(&hello)?;
    answers.send(Ok(message(Answer::Welcome(welcome)))).await.ok();
    while let Some(said) = said.message().await? {
        let Some(said) = said.message else { continue };
        let heard = fake.lock().hear((&hello, generation), said)?;
        let heard = if fake.lock().is_mute { Vec::new() } else { heard };
        for answer in heard {
            if fake.lock().loses_answer() {
                return Err(Status::unavailable("the answer is lost"));
            }
            answers.send(Ok(message(answer))).await.ok();
        }
    }
    Ok(())
}

#[tonic::async_trait]
impl Ingest for Fake {
    type StreamStream = ReceiverStream<Result<v1::ServerMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ClientMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        if self.lock().is_away {
            return Err(Status::unavailable("away"));
        }
        let (answers, stream) = mpsc::channel(64);
        let fake = self.clone();
        let mut breaks = self.breaks.subscribe();
        tokio::spawn(async move {
            let mut said = request.into_inner();
            let ended = tokio::select! {
                ended = serve(&fake, &mut said, &answers) => ended,
                _ = breaks.changed() => Err(Status::unavailable("killed")),
            };
            if let Err(status) = ended {
                answers.send(Err(status)).await.ok();
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn write(
        &self,
        _: Request<v1::WriteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn define_tags(
        &self,
        _: Request<v1::DefineTagsRequest>,
    ) -> Result<Response<v1::DefineTagsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
