//! What has arrived of messages of gRPC that are not whole: tonic keeps it before anything of the server sees it.
//!
//! # Contract
//! * Bytes of messages that are not whole are bounded: of one principal, and of all. What goes beyond ends its call, and no
//!   other.
//! * A message that has begun is whole within a time, which runs while the server waits for the rest of it and not while
//!   nobody reads on.
//! * A call that sends one message is read to its end before it is served: until then all of it counts, and its time runs
//!   from the first wait on.
//! * Frames go on as they came. Whatever ends a body, its bytes are given back.
//!
//! # What it does not know
//! What is in a message, and which flags and lengths are good: tonic reads the same prefixes and judges them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

/// Bytes of a message before it: a flag, and its length.
const PREFIX_BYTES: usize = 5;

/// Calls that send any number of messages; all others send one.
const STREAMS: [&str; 5] = ["Stream", "Handshake", "DoPut", "DoExchange", "ServerReflectionInfo"];

/// How much may be unfinished, and how long.
#[derive(Clone, Copy, Debug)]
struct Most {
    of_one: usize,
    of_all: usize,
    within: Duration,
}

const MOST: Most = Most { of_one: 64 << 20, of_all: 256 << 20, within: Duration::from_mins(1) };

/// All that is unfinished, by the id of its principal.
#[derive(Debug)]
pub(crate) struct Unfinished {
    most: Most,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    of: HashMap<Arc<str>, usize>,
}

impl Default for Unfinished {
    fn default() -> Self {
        Self { most: MOST, held: Mutex::default() }
    }
}

impl Unfinished {
    /// A body of somebody's call, which counts from now on.
    pub(crate) fn watch(self: &Arc<Self>, who: &Arc<str>, path: &str, body: Body) -> Body {
        let is_stream = path.rsplit('/').next().is_some_and(|call| STREAMS.contains(&call));
        let share = Share { unfinished: Arc::clone(self), who: Arc::clone(who), bytes: 0 };
        Body::new(Partial { body, is_stream, message: Message::default(), share, until: None })
    }

    /// Counts so many bytes of somebody in place of others. Where nobody is asked who they are, all are the same one, whom
    /// the bound of all binds.
    ///
    /// # Errors
    /// Resource exhausted, if these are more and too many. Then it counts as before.
    fn change(&self, who: &Arc<str>, from: usize, to: usize) -> Result<(), Status> {
        if from == to {
            return Ok(());
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all = held.all - from + to;
        let of_one = held.of.get(who).copied().unwrap_or_default() - from + to;
        let is_beyond = all > self.most.of_all || (of_one > self.most.of_one && !who.is_empty());
        if to > from && is_beyond {
            return Err(Status::resource_exhausted(
                "too many bytes of unfinished messages: send fewer at once",
            ));
        }
        held.all = all;
        if of_one == 0 {
            held.of.remove(who);
        } else {
            held.of.insert(Arc::clone(who), of_one);
        }
        Ok(())
    }
}

/// What one body holds of it.
#[derive(Debug)]
struct Share {
    unfinished: Arc<Unfinished>,
    who: Arc<str>,
    bytes: usize,
}

impl Share {
    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        self.unfinished.change(&self.who, self.bytes, bytes)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Fewer bytes are never too many.
        drop(self.hold(0));
    }
}

/// The message that is under way.
#[derive(Debug, Default)]
struct Message {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of it, those of the prefix too. None: there is none under way.
    arrived: usize,
}

impl Message {
    /// Goes on with the next bytes. True if a message has ended in them.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut has_ended = false;
        while !bytes.is_empty() {
            if self.arrived < PREFIX_BYTES {
                let count = bytes.len().min(PREFIX_BYTES - self.arrived);
                let end = self.arrived + count;
                self.prefix[self.arrived..end].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                self.arrived = end;
                if end < PREFIX_BYTES {
                    break;
                }
            }
            let whole = PREFIX_BYTES + (&self.prefix[1..]).get_u32() as usize;
            let count = bytes.len().min(whole - self.arrived);
            bytes = &bytes[count..];
            self.arrived += count;
            if self.arrived == whole {
                self.arrived = 0;
                has_ended = true;
            }
        }
        has_ended
    }
}

/// A body that is followed.
#[derive(Debug)]
struct Partial {
    body: Body,
    is_stream: bool,
    message: Message,
    share: Share,
    /// Until when what is under way must be whole; none while nobody waits for it.
    until: Option<Pin<Box<Sleep>>>,
}

impl Partial {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let has_ended = self.message.take(bytes);
        if !self.is_stream {
            return self.share.hold(self.share.bytes + bytes.len());
        }
        if has_ended {
            self.until = None;
        }
        self.share.hold(self.message.arrived)
    }

    /// Nothing comes any more, and nothing is held.
    fn end(&mut self) {
        self.body = Body::empty();
        self.until = None;
        // Fewer bytes are never too many.
        drop(self.share.hold(0));
    }

    /// Waits for the rest of what is under way, and no longer than it may take.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        if self.is_stream && self.message.arrived == 0 {
            return Poll::Pending;
        }
        let within = self.share.unfinished.most.within;
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        ready!(until.as_mut().poll(context));
        let within = within.as_secs();
        Poll::Ready(Status::deadline_exceeded(format!("a message was not whole within {within} s")))
    }
}

impl HttpBody for Partial {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Pending => Some(Err(ready!(this.wait(context)))),
            Poll::Ready(polled) => polled,
        };
        let taken = match polled {
            Some(Ok(frame)) => match frame.data_ref().map(|bytes| this.take(bytes)) {
                Some(Ok(())) => return Poll::Ready(Some(Ok(frame))),
                Some(Err(status)) => Some(Err(status)),
                // Trailers, after which nothing comes.
                None => Some(Ok(frame)),
            },
            ended => ended,
        };
        this.end();
        Poll::Ready(taken)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::FutureExt as _;
    use tonic::Code;
    use tonic::codegen::http::HeaderMap;

    use super::*;

    /// A body that has these frames at once, and then ends or says nothing more.
    struct Frames {
        frames: VecDeque<Frame<Bytes>>,
        has_end: bool,
    }

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.frames.pop_front() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None if self.has_end => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    const STREAM: &str = "/tagmill.v1.Ingest/Stream";
    const CALL: &str = "/tagmill.v1.Ingest/Write";

    fn unfinished(of_one: usize, of_all: usize, within: Duration) -> Arc<Unfinished> {
        let most = Most { of_one, of_all, within };
        Arc::new(Unfinished { most, held: Mutex::default() })
    }

    fn roomy() -> Arc<Unfinished> {
        unfinished(1_000, 1_000, Duration::from_hours(1))
    }

    fn watched(all: &Arc<Unfinished>, who: &str, path: &str, frames: &[&[u8]]) -> Body {
        let frames = frames.iter().map(|bytes| Frame::data(Bytes::copy_from_slice(bytes)));
        let body = Body::new(Frames { frames: frames.collect(), has_end: false });
        all.watch(&Arc::from(who), path, body)
    }

    fn message(flag: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![flag, 0, 0, 0, length];
        bytes.resize(PREFIX_BYTES + usize::from(length), b'x');
        bytes
    }

    async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
        std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    async fn code(body: &mut Body) -> Code {
        loop {
            match next(body).await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return status.code(),
                None => return Code::Ok,
            }
        }
    }

    fn held(all: &Unfinished) -> usize {
        let held = all.held.lock().unwrap();
        assert_eq!(held.all, held.of.values().sum::<usize>());
        held.all
    }

    #[tokio::test]
    async fn what_is_not_whole_counts_however_it_is_cut() {
        // Flags count for nothing here; an empty message is whole with its prefix.
        let sent = [message(0, 3), message(1, 0), message(7, 40), message(0, 200)].concat();
        let ends = [8, 13, 58, 263];
        for size in [1, 2, 3, 5, 7, 60, 263] {
            let all = roomy();
            let frames: Vec<&[u8]> = sent.chunks(size).collect();
            let mut body = watched(&all, "a", STREAM, &frames);
            let mut arrived = 0;
            for expected in frames {
                let frame = next(&mut body).await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), expected, "frames go on as they came");
                arrived += expected.len();
                let whole = ends.iter().rev().find(|end| **end <= arrived).unwrap_or(&0);
                assert_eq!(held(&all), arrived - whole, "{arrived} bytes by {size}");
            }
            // Between two messages nobody has to say anything.
            assert!(next(&mut body).now_or_never().is_none());
        }
    }

    #[tokio::test]
    async fn a_call_of_one_message_counts_until_its_body_ends() {
        let all = roomy();
        let mut body = watched(&all, "a", CALL, &[&message(0, 10), &message(0, 0)]);
        next(&mut body).await.unwrap().unwrap();
        next(&mut body).await.unwrap().unwrap();
        assert_eq!(held(&all), 20);
        assert!(next(&mut body).now_or_never().is_none());
        drop(body);
        assert_eq!(held(&all), 0, "dropping it gives its bytes back");
        let frames = VecDeque::from([Frame::data(Bytes::from(message(0, 10)))]);
        let ended = Body::new(Frames { frames, has_end: true });
        let mut body = all.watch(&Arc::from("a"), CALL, ended);
        assert_eq!(code(&mut body).await, Code::Ok);
        assert_eq!(held(&all), 0);
    }

    #[tokio::test]
    async fn one_has_so_much_and_all_have_so_much() {
        let all = unfinished(100, 150, Duration::from_hours(1));
        let part = &message(0, 200)[..60];
        let mut first = watched(&all, "a", STREAM, &[part]);
        next(&mut first).await.unwrap().unwrap();
        assert_eq!(code(&mut watched(&all, "a", STREAM, &[part])).await, Code::ResourceExhausted);
        assert_eq!(held(&all), 60, "what was refused holds nothing");
        let mut other = watched(&all, "b", STREAM, &[part]);
        next(&mut other).await.unwrap().unwrap();
        let mut third = watched(&all, "c", STREAM, &[part]);
        assert_eq!(code(&mut third).await, Code::ResourceExhausted);
        assert!(next(&mut third).await.is_none(), "nothing comes after an error");
        drop(first);
        let mut third = watched(&all, "c", STREAM, &[part]);
        next(&mut third).await.unwrap().unwrap();
        drop((other, third));
        assert!(held(&all) == 0 && all.held.lock().unwrap().of.is_empty());
        // Where nobody is asked all are one, and have what all have.
        let mut anyone = watched(&all, "", STREAM, &[part, part]);
        next(&mut anyone).await.unwrap().unwrap();
        next(&mut anyone).await.unwrap().unwrap();
        assert_eq!(held(&all), 120);
    }

    #[tokio::test]
    async fn an_unfinished_message_has_so_long() {
        let all = unfinished(1_000, 1_000, Duration::from_millis(20));
        let parts: [&[u8]; 3] = [&[0, 0], &message(0, 9)[..6], &message(0, 9)[..13]];
        for part in parts {
            let mut body = watched(&all, "a", STREAM, &[&message(0, 1), part]);
            assert_eq!(code(&mut body).await, Code::DeadlineExceeded, "{part:?}");
            assert_eq!(held(&all), 0);
            assert!(next(&mut body).await.is_none(), "nothing comes after an error");
        }
        let mut silent = watched(&all, "a", CALL, &[]);
        assert_eq!(code(&mut silent).await, Code::DeadlineExceeded);
        let mut whole = watched(&all, "a", CALL, &[&message(0, 1)]);
        assert_eq!(code(&mut whole).await, Code::DeadlineExceeded, "its body has no end");
        // Time in which nobody reads on is not the sender's.
        let whole = message(0, 9);
        let mut body = watched(&all, "a", STREAM, &[&whole[..6], &whole[6..]]);
        next(&mut body).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(40)).await;
        next(&mut body).await.unwrap().unwrap();
        let silence = Duration::from_millis(60);
        assert!(tokio::time::timeout(silence, next(&mut body)).await.is_err());
    }

    #[tokio::test]
    async fn trailers_and_an_end_inside_a_message_give_its_bytes_back() {
        let all = roomy();
        let part = || Frame::data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]));
        let frames = VecDeque::from([part(), Frame::trailers(HeaderMap::new())]);
        let body = Body::new(Frames { frames, has_end: false });
        let mut body = all.watch(&Arc::from("a"), STREAM, body);
        next(&mut body).await.unwrap().unwrap();
        assert_eq!(held(&all), 6);
        assert!(next(&mut body).await.unwrap().unwrap().is_trailers());
        assert_eq!(held(&all), 0);
        assert!(next(&mut body).await.is_none());
        let body = Body::new(Frames { frames: VecDeque::from([part()]), has_end: true });
        let mut body = all.watch(&Arc::from("a"), STREAM, body);
        next(&mut body).await.unwrap().unwrap();
        // tonic itself says that a message was cut off.
        assert!(next(&mut body).await.is_none());
        assert_eq!(held(&all), 0);
    }
}
