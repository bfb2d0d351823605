//! Answers of one stream on their way to the network.
//!
//! Contract: so many answers, and so many bytes of them, wait to be sent; and each so long at most until there is room for
//! it. A gateway that does not read what it is told has no stream, and never a share of the memory that grows.

use std::sync::Arc;
use std::time::Duration;

use tagmill_proto::v1::ServerMessage;
use tagmill_proto::v1::server_message::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::rejects;

/// Answers handed to the transport ahead of the network.
const AHEAD: usize = 16;
/// Bytes of them. One that is longer goes when there is no other.
const AHEAD_BYTES: u32 = 1 << 20;
/// Memory of one refused definition besides its texts.
const DEFINE_REJECT_BYTES: usize = 100;
/// How long the network may take to make room for one answer.
const STALL: Duration = Duration::from_secs(30);

type Item = Result<ServerMessage, Status>;

/// Where the answers of a stream go.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    to: mpsc::Sender<(Item, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// Why an answer was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unheard {
    /// The gateway has gone.
    Gone,
    /// It does not read.
    Stalled,
}

impl Answers {
    /// A way for answers, and its other end.
    pub(super) fn new() -> (Self, impl Stream<Item = Item> + Send + 'static) {
        let (to, waiting) = mpsc::channel(AHEAD);
        let room = Arc::new(Semaphore::new(AHEAD_BYTES as usize));
        (Self { to, room }, ReceiverStream::new(waiting).map(|(item, _)| item))
    }

    /// Hands an answer over as soon as there is room.
    pub(super) async fn send(&self, answer: Item) -> Result<(), Unheard> {
        self.send_within(answer, STALL).await
    }

    async fn send_within(&self, answer: Item, stall: Duration) -> Result<(), Unheard> {
        let bytes = u32::try_from(bytes_of(&answer)).unwrap_or(u32::MAX).min(AHEAD_BYTES);
        let sending = async {
            let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
            let room = room.map_err(|_| Unheard::Gone)?;
            self.to.send((answer, room)).await.map_err(|_| Unheard::Gone)
        };
        tokio::time::timeout(stall, sending).await.unwrap_or(Err(Unheard::Stalled))
    }
}

/// About what memory an answer takes.
fn bytes_of(answer: &Item) -> usize {
    match answer.as_ref().ok().and_then(|answer| answer.message.as_ref()) {
        Some(Message::Ack(ack)) => rejects::bytes_of(&ack.rejects),
        Some(Message::Defined(defined)) => {
            let texts = |reject: &tagmill_proto::v1::DefineReject| {
                DEFINE_REJECT_BYTES + reject.name.len() + reject.detail.len()
            };
            defined.rejects.iter().map(texts).sum()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_proto::v1::{Ack, Reject};

    fn ack(rejects: usize) -> ServerMessage {
        let rejects = vec![Reject::default(); rejects];
        let ack = Ack { rejects, ..Ack::default() };
        ServerMessage { message: Some(Message::Ack(ack)) }
    }

    #[tokio::test]
    async fn who_does_not_read_is_told_little_and_not_for_long() {
        let (answers, mut heard) = Answers::new();
        let stall = Duration::from_millis(5);
        for _ in 0..AHEAD {
            answers.send(Ok(ack(1))).await.unwrap();
        }
        assert_eq!(answers.send_within(Ok(ack(1)), stall).await, Err(Unheard::Stalled));
        for _ in 0..AHEAD {
            heard.next().await.unwrap().unwrap();
        }
        // One of more bytes than may wait goes alone.
        answers.send(Ok(ack(20_000))).await.unwrap();
        assert_eq!(answers.send_within(Ok(ack(1)), stall).await, Err(Unheard::Stalled));
        heard.next().await.unwrap().unwrap();
        answers.send(Ok(ack(1))).await.unwrap();
        drop(heard);
        assert_eq!(answers.send(Ok(ack(1))).await, Err(Unheard::Gone));
    }
}
