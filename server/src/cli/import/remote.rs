//! A sink into a server, over the ingest stream.
//!
//! Contract: batches carry the import's own numbers, so the server leaves out what it has. Unlike a gateway an import
//! does not wait for a server that has gone: it stops and says so, and the next run goes on where it stopped. Batches
//! that are not acknowledged yet are kept, to be sent again if the server asks for them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tagmill_proto::Message as _;
use tagmill_proto::v1;
use tagmill_proto::v1::client_message::Message as Say;
use tagmill_proto::v1::server_message::Message as Hear;
use tagmill_storage::{Qualities, TagDefinition, ValueType, Values};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::local::gateway;
use super::sink::{Column, Sink, SinkReject};
use crate::cli::failure::{Failure, Result};
use crate::cli::target::Remote;
use crate::cli::wire::{attributes_to_wire, type_to_wire};

/// Messages that may wait for the socket.
const QUEUE: usize = 8;
/// Tags in one message of definitions.
const DEFINE_TAGS: usize = 2_000;
/// Pause before a batch is sent again that the server could not take.
const RETRY: Duration = Duration::from_millis(250);

/// A sink into a server.
#[derive(Debug)]
pub struct RemoteSink {
    remote: Remote,
    types: HashMap<String, ValueType>,
    stream: Option<Stream>,
}

impl RemoteSink {
    /// A sink into this server.
    pub fn new(remote: Remote) -> Self {
        Self { remote, types: HashMap::new(), stream: None }
    }

    fn stream(&mut self) -> Result<(&Remote, &mut Stream)> {
        match &mut self.stream {
            Some(stream) => Ok((&self.remote, stream)),
            None => Err(Failure::new("the import has not begun")),
        }
    }
}

impl Sink for RemoteSink {
    fn begin(&mut self, id: &str) -> Result<u64> {
        self.types = self.remote.tag_types()?;
        let stream = self.remote.block_on(Stream::open(&self.remote, gateway(id)))?;
        let mark = stream.mark;
        self.stream = Some(stream);
        Ok(mark)
    }

    fn type_of(&self, name: &str) -> Option<ValueType> {
        self.types.get(name).copied()
    }

    fn define(&mut self, tags: &[TagDefinition]) -> Result<Vec<Result<u32, String>>> {
        let (remote, stream) = self.stream()?;
        remote.block_on(stream.define(tags))
    }

    fn send(&mut self, seq: u64, columns: Vec<Column>) -> Result<()> {
        let (remote, stream) = self.stream()?;
        let columns = columns.into_iter().map(column).collect();
        remote.block_on(stream.send(v1::Batch { seq, columns, scans: Vec::new() }))
    }

    fn finish(&mut self) -> Result<Vec<SinkReject>> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(Vec::new());
        };
        self.remote.block_on(stream.settle())?;
        let rejects = stream.rejects.into_iter();
        Ok(rejects.map(|((tag, reason), count)| SinkReject { tag, count, reason }).collect())
    }
}

/// The open stream.
#[derive(Debug)]
struct Stream {
    say: mpsc::Sender<v1::ClientMessage>,
    hear: tonic::Streaming<v1::ServerMessage>,
    mark: u64,
    credit: i64,
    unacked: VecDeque<v1::Batch>,
    last_alias: u32,
    last_define: u64,
    refused: HashMap<u32, String>,
    defined: u64,
    rejects: BTreeMap<(u32, String), u64>,
}

impl Stream {
    async fn open(remote: &Remote, gateway: String) -> Result<Self> {
        let (say, said) = mpsc::channel(QUEUE);
        let hello = v1::Hello {
            gateway,
            epoch: 1,
            durability: v1::Durability::Synced.into(),
            agent: concat!("tagmill import ", env!("CARGO_PKG_VERSION")).to_owned(),
            mark_disconnect: false,
        };
        drop(say.send(v1::ClientMessage { message: Some(Say::Hello(hello)) }).await);
        let mut client = v1::ingest_client::IngestClient::new(remote.channel().await?);
        let answer = client.stream(ReceiverStream::new(said)).await;
        let hear = answer.map_err(|status| remote.failure(&status))?.into_inner();
        let mut stream = Self {
            say,
            hear,
            mark: 0,
            credit: 0,
            unacked: VecDeque::new(),
            last_alias: 0,
            last_define: 0,
            refused: HashMap::new(),
            defined: 0,
            rejects: BTreeMap::new(),
        };
        match stream.next().await? {
            Hear::Welcome(welcome) => {
                stream.mark = welcome.mark;
                stream.credit = i64::try_from(welcome.credit_bytes).unwrap_or(i64::MAX);
                Ok(stream)
            }
            Hear::GoAway(away) => Err(gone(&away.detail)),
            _ => Err(gone("the server did not say welcome")),
        }
    }

    async fn next(&mut self) -> Result<Hear> {
        loop {
            match self.hear.message().await {
                Ok(Some(v1::ServerMessage { message: Some(message) })) => return Ok(message),
                // A later server may say more than this build knows.
                Ok(Some(_)) => {}
                Ok(None) => return Err(gone("the server ended the stream")),
                Err(status) => return Err(gone(status.message())),
            }
        }
    }

    async fn say(&mut self, message: Say) -> Result<()> {
        if self.say.send(v1::ClientMessage { message: Some(message) }).await.is_ok() {
            return Ok(());
        }
        // The socket is closed; what the server said last tells why.
        loop {
            self.listen().await?;
        }
    }

    async fn define(&mut self, tags: &[TagDefinition]) -> Result<Vec<Result<u32, String>>> {
        let first = self.last_alias + 1;
        let mut definitions = Vec::with_capacity(tags.len());
        for tag in tags {
            self.last_alias += 1;
            definitions.push(v1::TagDefinition {
                alias: self.last_alias,
                name: tag.name.clone(),
                r#type: type_to_wire(tag.value_type).into(),
                attributes: Some(attributes_to_wire(&tag.attributes)),
            });
        }
        for tags in definitions.chunks(DEFINE_TAGS) {
            self.last_define += 1;
            let define = v1::DefineTags { id: self.last_define, tags: tags.to_vec() };
            self.say(Say::DefineTags(define)).await?;
        }
        while self.defined < self.last_define {
            self.listen().await?;
        }
        let answer = |alias| self.refused.remove(&alias).map_or(Ok(alias), Err);
        Ok((first..=self.last_alias).map(answer).collect())
    }

    async fn send(&mut self, batch: v1::Batch) -> Result<()> {
        while self.credit <= 0 {
            self.listen().await?;
        }
        self.unacked.push_back(batch.clone());
        self.put(batch).await
    }

    async fn put(&mut self, batch: v1::Batch) -> Result<()> {
        self.credit -= i64::try_from(batch.encoded_len()).unwrap_or(i64::MAX);
        self.say(Say::Batch(batch)).await
    }

    /// Waits until everything sent is on disk.
    async fn settle(&mut self) -> Result<()> {
        while !self.unacked.is_empty() {
            self.listen().await?;
        }
        Ok(())
    }

    /// Takes the server's next message.
    async fn listen(&mut self) -> Result<()> {
        match self.next().await? {
            Hear::Ack(ack) => {
                while self.unacked.front().is_some_and(|batch| batch.seq <= ack.durable_seq) {
                    self.unacked.pop_front();
                }
                for reject in ack.rejects {
                    let reason = if reject.detail.is_empty() {
                        reject.reason().as_str_name().to_lowercase()
                    } else {
                        reject.detail.clone()
                    };
                    let count = u64::from(reject.count);
                    *self.rejects.entry((reject.alias, reason)).or_insert(0) += count;
                }
            }
            Hear::Credit(credit) => self.credit = self.credit.saturating_add_unsigned(credit.bytes),
            Hear::Defined(defined) => {
                self.defined = self.defined.max(defined.id);
                self.refused.extend(
                    defined.rejects.into_iter().map(|reject| (reject.alias, reject.detail)),
                );
            }
            Hear::Nack(nack) if nack.retriable => {
                tokio::time::sleep(RETRY).await;
                Box::pin(self.resend(nack.seq)).await?;
            }
            Hear::Nack(nack) => {
                return Err(Failure::new(format!("batch {}: {}", nack.seq, nack.detail)));
            }
            Hear::Gap(gap) => Box::pin(self.resend(gap.expected)).await?,
            Hear::GoAway(away) => return Err(gone(&away.detail)),
            Hear::Welcome(_) | Hear::Flushed(_) => {}
        }
        Ok(())
    }

    async fn resend(&mut self, from: u64) -> Result<()> {
        if self.unacked.front().is_none_or(|batch| batch.seq > from) {
            return Err(gone(&format!(
                "the server asks for batch {from}, which it had acknowledged"
            )));
        }
        let again: Vec<v1::Batch> =
            self.unacked.iter().filter(|batch| batch.seq >= from).cloned().collect();
        for batch in again {
            self.put(batch).await?;
        }
        Ok(())
    }
}

fn gone(why: &str) -> Failure {
    Failure::new(format!("the stream to the server broke: {why}"))
        .next("run the same import again: it goes on where it stopped")
}

/// A column as it travels.
fn column(column: Column) -> v1::TagColumn {
    let Column { tag, times, values, qualities } = column;
    let (quality_codes, quality_counts) = runs(&qualities, times.len());
    let mut out = v1::TagColumn {
        alias: tag,
        count: u32::try_from(times.len()).unwrap_or(u32::MAX),
        quality_codes,
        quality_counts,
        ..v1::TagColumn::default()
    };
    match grid(&times) {
        Some((base, step)) => (out.base_ns, out.step_ns) = (base, step),
        None => out.times_ns = times,
    }
    match values {
        Values::F64(values) => out.f64 = values,
        Values::F32(values) => out.f32 = values,
        Values::I64(values) => out.i64 = values,
        Values::Bool(values) => out.bools = values,
        Values::State(codes) => out.states = codes.into_iter().map(u32::from).collect(),
        Values::Text(texts) => out.texts = texts.iter().map(|text| text.as_ref().into()).collect(),
    }
    out
}

/// First time and distance of times on a grid.
fn grid(times: &[i64]) -> Option<(i64, i64)> {
    let (first, second) = (*times.first()?, times.get(1).copied());
    let step = second.map_or(Some(0), |second| second.checked_sub(first))?;
    let is_even = times.windows(2).all(|pair| pair[1].checked_sub(pair[0]) == Some(step));
    is_even.then_some((first, step))
}

/// Codes and lengths of runs of equal qualities; none if all are Good.
fn runs(qualities: &Qualities, count: usize) -> (Vec<u32>, Vec<u32>) {
    let each = match qualities {
        Qualities::Uniform(quality) if quality.0 == 0 => return (Vec::new(), Vec::new()),
        Qualities::Uniform(quality) => {
            return (vec![quality.0], vec![u32::try_from(count).unwrap_or(u32::MAX)]);
        }
        Qualities::Each(each) => each,
    };
    let runs = each.chunk_by(|a, b| a == b);
    runs.map(|run| (run[0].0, u32::try_from(run.len()).unwrap_or(u32::MAX))).unzip()
}

#[cfg(test)]
mod tests {
    use tagmill_storage::Quality;

    use super::*;

    #[test]
    fn columns_travel_short_and_whole() {
        let sent = column(Column {
            tag: 7,
            times: vec![10, 20, 30],
            values: Values::F64(vec![1.0, 2.0, f64::NAN]),
            qualities: Qualities::Each(vec![Quality::GOOD, Quality::GOOD, Quality::BAD]),
        });
        assert_eq!((sent.alias, sent.count, sent.base_ns, sent.step_ns), (7, 3, 10, 10));
        assert!(sent.times_ns.is_empty());
        assert_eq!(
            (sent.quality_codes, sent.quality_counts),
            (vec![0, Quality::BAD.0], vec![2, 1])
        );
        assert_eq!(grid(&[10, 20, 31]), None);
        assert_eq!(grid(&[10]), Some((10, 0)));
        assert_eq!(grid(&[i64::MIN, i64::MAX]), None);
    }
}
