//! How far one stream has come: which batches are taken, which answers are due. Pure.
//!
//! Batches are submitted without waiting, so when one is refused, those behind it are already under way and will be
//! refused for the gap. Only the first refusal is told; what follows it is dropped until the gateway sends the refused
//! number again. Each such restart begins a round, and answers of earlier rounds are not told.

use tagmill_proto::v1::{Ack, Gap, Nack, NackCode};
use tagmill_storage::{Appended, Error};

use super::admission::CREDIT_BYTES;
use super::rejects::Rejects;

/// The state of one stream.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    round: u32,
    /// The number that must be sent again.
    awaited: Option<u64>,
    taken: u64,
    durable: u64,
    accepted: u64,
    rejects: Rejects,
    /// Bytes of batches that came and whose credit was not given back.
    unanswered: u64,
    /// Bytes of batches answered since the last credit.
    credit: u64,
    is_due: bool,
}

/// What became of one batch.
#[derive(Debug)]
pub(super) enum Outcome {
    Appended(Appended, Rejects),
    Refused(Error),
    /// Mostly in the future.
    Clock,
}

/// What the gateway must hear at once.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    Nack(Nack),
    Gap(Gap),
    Fenced,
}

impl Progress {
    pub(super) fn new(mark: u64) -> Self {
        Self {
            round: 0,
            awaited: None,
            taken: mark,
            durable: mark,
            accepted: 0,
            rejects: Rejects::default(),
            unanswered: 0,
            credit: 0,
            is_due: false,
        }
    }

    /// Whether to submit this batch, and in which round.
    pub(super) fn admit(&mut self, seq: u64) -> Option<u32> {
        match self.awaited {
            Some(awaited) if seq > awaited => return None,
            Some(_) => {
                self.awaited = None;
                self.round += 1;
            }
            None => {}
        }
        Some(self.round)
    }

    /// Counts the bytes of a batch that has come. False if the gateway had no credit left for it: while it has any, it may
    /// send one whole message.
    pub(super) fn charge(&mut self, bytes: usize, message_bytes: usize) -> bool {
        self.unanswered += bytes as u64;
        self.unanswered <= CREDIT_BYTES + message_bytes as u64
    }

    /// Gives back the bytes of a batch, whatever became of it.
    pub(super) fn release(&mut self, bytes: usize) {
        self.credit += bytes as u64;
    }

    pub(super) fn settle(&mut self, seq: u64, round: u32, outcome: Outcome) -> Option<Refusal> {
        match outcome {
            Outcome::Appended(appended, rejects) => {
                self.taken = self.taken.max(seq);
                if appended.durable {
                    self.durable = self.durable.max(seq);
                }
                self.is_due = true;
                // Of a repetition everything was said when it came first.
                if !appended.repeated {
                    self.accepted += appended.accepted;
                    self.rejects.extend(seq, rejects);
                }
                None
            }
            Outcome::Refused(Error::Fenced { .. }) => Some(Refusal::Fenced),
            _ if round < self.round || self.awaited.is_some() => None,
            Outcome::Refused(Error::Gap { expected, .. }) => {
                self.awaited = Some(expected);
                Some(Refusal::Gap(Gap { expected }))
            }
            Outcome::Refused(error) => {
                self.awaited = Some(seq);
                Some(Refusal::Nack(nack(seq, &error)))
            }
            Outcome::Clock => {
                self.awaited = Some(seq);
                Some(Refusal::Nack(Nack {
                    seq,
                    code: NackCode::Clock.into(),
                    detail: "more than half of the batch lies in the future: compare the clocks"
                        .into(),
                    retriable: true,
                }))
            }
        }
    }

    /// Whether batches are taken that are not known to be on disk.
    pub(super) fn is_behind(&self) -> bool {
        self.durable < self.taken
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// A sync that began when `taken` was the newest has ended.
    pub(super) fn synced(&mut self, taken: u64) {
        self.is_due |= taken > self.durable;
        self.durable = self.durable.max(taken);
    }

    /// The acknowledgement that is due.
    pub(super) fn take_ack(&mut self, always: bool) -> Option<Ack> {
        if !std::mem::take(&mut self.is_due) && !always {
            return None;
        }
        Some(Ack {
            seq: self.taken,
            durable_seq: self.durable,
            accepted_samples: std::mem::take(&mut self.accepted),
            rejects: self.rejects.take(),
        })
    }

    pub(super) fn take_credit(&mut self) -> u64 {
        let credit = std::mem::take(&mut self.credit);
        self.unanswered = self.unanswered.saturating_sub(credit);
        credit
    }
}

fn nack(seq: u64, error: &Error) -> Nack {
    let (code, retriable) = match error {
        Error::Invalid(_) => (NackCode::Invalid, false),
        Error::DiskFull { .. } => (NackCode::DiskFull, true),
        Error::Busy { .. } => (NackCode::Busy, true),
        _ => (NackCode::Unavailable, true),
    };
    Nack { seq, code: code.into(), detail: error.to_string(), retriable }
}

#[cfg(test)]
mod tests {
    use super::super::rejects::REJECTS_MAX;
    use super::*;
    use tagmill_proto::v1::Reject;

    fn taken(accepted: u64, durable: bool) -> Outcome {
        let seq = tagmill_storage::Seq(1);
        let appended = Appended { seq, accepted, repeated: false, durable, rejects: Vec::new() };
        Outcome::Appended(appended, Rejects::default())
    }

    fn gap(expected: u64) -> Outcome {
        Outcome::Refused(Error::Gap { gateway: "g".into(), expected, found: expected + 1 })
    }

    #[test]
    fn acknowledgements_are_cumulative() {
        let mut progress = Progress::new(4);
        assert_eq!(progress.take_ack(false), None);
        for seq in [5, 6] {
            let round = progress.admit(seq).unwrap();
            assert_eq!(progress.settle(seq, round, taken(10, seq == 5)), None);
        }
        let ack = progress.take_ack(false).unwrap();
        assert_eq!((ack.seq, ack.durable_seq, ack.accepted_samples), (6, 5, 20));
        assert!(progress.is_behind());
        progress.synced(6);
        let ack = progress.take_ack(false).unwrap();
        assert_eq!((ack.seq, ack.durable_seq, ack.accepted_samples), (6, 6, 0));
    }

    #[test]
    fn of_one_refusal_only_the_first_is_told() {
        let mut progress = Progress::new(0);
        let round = progress.admit(1).unwrap();
        progress.admit(2).unwrap();
        progress.admit(3).unwrap();
        let busy = Outcome::Refused(Error::Busy { used_bytes: 1, limit_bytes: 1 });
        assert!(matches!(progress.settle(1, round, busy), Some(Refusal::Nack(n)) if n.retriable));
        assert_eq!(progress.settle(2, round, gap(1)), None);
        assert_eq!(progress.admit(4), None, "dropped until 1 is sent again");
        let again = progress.admit(1).unwrap();
        assert_eq!(progress.settle(3, round, gap(1)), None, "of the round before");
        assert_eq!(progress.settle(1, again, taken(1, true)), None);
        let next = progress.admit(3).unwrap();
        assert_eq!(progress.settle(3, next, gap(2)), Some(Refusal::Gap(Gap { expected: 2 })));
        assert_eq!(progress.take_ack(false).unwrap().seq, 1);
    }

    #[test]
    fn rejects_beyond_the_limit_are_counted() {
        let mut progress = Progress::new(0);
        progress.admit(1).unwrap();
        let Outcome::Appended(appended, _) = taken(0, true) else { unreachable!() };
        let list = vec![Reject::default(); REJECTS_MAX + 5];
        let rejects = Rejects { list, left_out: 0 };
        progress.settle(1, 0, Outcome::Appended(appended, rejects));
        let ack = progress.take_ack(false).unwrap();
        assert_eq!(ack.rejects.len(), REJECTS_MAX);
        assert_eq!(ack.rejects[0].seq, 1);
        assert!(ack.rejects[REJECTS_MAX - 1].detail.contains("and 5 more"));
    }

    #[test]
    fn credit_lets_one_message_over_and_no_more() {
        let (mut progress, message) = (Progress::new(0), 4 << 20);
        for _ in 0..3 {
            assert!(progress.charge(message, message), "8 MiB of credit, and one over");
        }
        progress.release(message);
        assert!(!progress.clone().charge(1, message), "what is not told is not given back");
        assert_eq!(progress.take_credit(), message as u64);
        assert!(progress.charge(message, message) && !progress.charge(1, message));
    }
}
