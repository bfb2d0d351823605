//! An answer on its way, piece by piece, to a client that takes it as it likes.
//!
//! # Contract
//! * What looks whole is whole: a stream ends without an error only after all of the answer was handed to it. Whatever cuts
//!   it short, a panic too, is its last item.
//! * An answer ends when whoever asked has gone, takes nothing for [`STALL`], has not taken all of it in the time it may
//!   keep its place, or when the server shuts down. Then everything it holds is free.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::STALL;
use crate::lifecycle::turns_true;

/// How an answer is served.
#[derive(Debug)]
pub(crate) struct Serving {
    /// Where it works.
    pub(crate) runtime: Handle,
    /// How long it may keep its place.
    pub(crate) held: Duration,
    /// Turns true when the server shuts down.
    pub(crate) stopping: watch::Receiver<bool>,
    /// Pieces handed to the transport ahead of the network.
    pub(crate) ahead: usize,
}

/// How an answer came to its end. It stands beside the pieces: there is room for it when there is none for them.
type Ending = Arc<OnceLock<Result<(), Status>>>;

/// The pieces of an answer as its client takes them.
#[derive(Debug)]
pub(crate) struct Streamed<T> {
    pieces: mpsc::Receiver<T>,
    ending: Ending,
    is_over: bool,
}

/// Where an answer puts its pieces.
#[derive(Debug)]
pub(crate) struct Pieces<T> {
    sender: mpsc::Sender<T>,
    stall: Duration,
}

impl<T> Pieces<T> {
    /// Hands a piece to the client, when it takes it.
    ///
    /// # Errors
    /// If it takes nothing for [`STALL`], or has gone.
    pub(crate) async fn send(&self, piece: T) -> Result<(), Status> {
        let stalled = |_| {
            let text = format!("the client took nothing for {} s", self.stall.as_secs());
            Status::deadline_exceeded(text)
        };
        let gone = |_| Status::cancelled("whoever asked has gone");
        let sent = tokio::time::timeout(self.stall, self.sender.send(piece)).await;
        sent.map_err(stalled)?.map_err(gone)
    }
}

/// Begins to answer.
pub(crate) fn streamed<T, A>(
    serving: Serving,
    answering: impl FnOnce(Pieces<T>) -> A + Send + 'static,
) -> Streamed<T>
where
    T: Send + 'static,
    A: Future<Output = Result<(), Status>> + Send + 'static,
{
    streamed_within(serving, STALL, answering)
}

/// As [`streamed`], to a client that may take nothing for so long.
fn streamed_within<T, A>(
    serving: Serving,
    stall: Duration,
    answering: impl FnOnce(Pieces<T>) -> A + Send + 'static,
) -> Streamed<T>
where
    T: Send + 'static,
    A: Future<Output = Result<(), Status>> + Send + 'static,
{
    let Serving { runtime, held, mut stopping, ahead } = serving;
    let (sender, pieces) = mpsc::channel(ahead);
    let ending = Ending::default();
    let ends = Arc::clone(&ending);
    runtime.spawn(async move {
        let gone = sender.clone();
        let ended = tokio::select! {
            ended = answering(Pieces { sender, stall }) => ended,
            () = tokio::time::sleep(held) => {
                Err(Status::deadline_exceeded("the answer was not taken in time"))
            }
            () = gone.closed() => Err(Status::cancelled("whoever asked has gone")),
            () = turns_true(&mut stopping) => Err(Status::unavailable("the server shuts down")),
        };
        // Before the channel closes, which the last sender does here.
        drop(ends.set(ended));
        drop(gone);
    });
    Streamed { pieces, ending, is_over: false }
}

impl<T> Stream for Streamed<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(piece) = ready!(self.pieces.poll_recv(context)) {
            return Poll::Ready(Some(Ok(piece)));
        }
        self.is_over = true;
        Poll::Ready(match self.ending.get() {
            Some(Ok(())) => None,
            Some(Err(status)) => Some(Err(status.clone())),
            None => Some(Err(Status::internal("the answer broke off"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    fn serving(held: Duration) -> (Serving, watch::Sender<bool>) {
        let (stop, stopping) = watch::channel(false);
        (Serving { runtime: Handle::current(), held, stopping, ahead: 2 }, stop)
    }

    /// Fills the channel and wants more room.
    async fn too_much(pieces: Pieces<u8>) -> Result<(), Status> {
        for piece in 0.. {
            pieces.send(piece).await?;
        }
        Ok(())
    }

    async fn all(stream: Streamed<u8>) -> (usize, Option<Status>) {
        let items: Vec<_> = stream.collect().await;
        let count = items.iter().filter(|item| item.is_ok()).count();
        (count, items.into_iter().find_map(Result::err))
    }

    #[tokio::test]
    async fn what_is_cut_short_ends_with_an_error() {
        let (soon, hour) = (Duration::from_millis(10), Duration::from_hours(1));
        let (whole, _stop) = serving(hour);
        let whole = streamed(whole, |pieces| async move { pieces.send(1).await });
        assert!(matches!(all(whole).await, (1, None)));

        let (late, _stop) = serving(soon);
        let late = streamed(late, too_much);
        tokio::time::sleep(soon * 10).await;
        let (count, why) = all(late).await;
        assert_eq!((count, why.unwrap().message()), (2, "the answer was not taken in time"));

        let (stalled, _stop) = serving(hour);
        let stalled = streamed_within(stalled, soon, too_much);
        tokio::time::sleep(soon * 10).await;
        let (count, why) = all(stalled).await;
        assert!(count == 2 && why.unwrap().message().contains("took nothing"));

        let (stopped, stop) = serving(hour);
        let stopped = streamed(stopped, too_much);
        tokio::time::sleep(soon).await;
        stop.send_replace(true);
        tokio::time::sleep(soon * 10).await;
        assert_eq!(all(stopped).await.1.unwrap().code(), tonic::Code::Unavailable);

        let (broken, _stop) = serving(hour);
        let broken = streamed(broken, |_: Pieces<u8>| async { panic!("one that is awaited") });
        assert!(matches!(all(broken).await, (0, Some(_))));
    }

    #[tokio::test]
    async fn it_ends_when_whoever_asked_has_gone() {
        let (serving, _stop) = serving(Duration::from_hours(1));
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        let stream = streamed(serving, |_: Pieces<u8>| async move {
            let _held = held;
            std::future::pending().await
        });
        drop(stream);
        assert!(dropped.await.is_err());
    }
}
