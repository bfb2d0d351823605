//! Which batch is sent next: a pure machine, no socket and no clock.
//!
//! Batches wait here until the server has them on disk. Tickets count batches over the gateway's life; sequence numbers
//! count them within an epoch, and an epoch may begin anew, so the two differ by an offset that is kept in one place:
//! the front of the queue.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::batch::numbered;

/// Greatest number that a server can stand at: no gateway lives to send so many batches.
const SEQ_MAX: u64 = 1 << 62;

/// Unacknowledged batches, oldest first.
#[derive(Debug)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    /// Ticket of the front, or of the next batch if there is none.
    first_ticket: u64,
    /// Sequence number of the front, or of the next batch if there is none.
    first_seq: u64,
    /// Position of the next entry to send.
    next: usize,
    /// Greatest sequence number ever sent in this epoch; 0: none.
    sent_seq: u64,
    /// Bytes of all entries.
    bytes: usize,
    /// Bytes the server will take; below 0 when the last batch was longer than what was left.
    credit: i64,
}

#[derive(Debug)]
struct Entry {
    /// Encoded, with its number.
    bytes: Bytes,
    /// Length of what follows the number.
    body_len: usize,
}

/// How the queue goes on after `Welcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// From the server's mark.
    Here,
    /// The server lacks batches that it has acknowledged: only a new epoch can go on.
    NewEpoch,
    /// The server has batches that were never sent from here.
    Foreign,
}

/// The server asked for a batch that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfReach;

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            first_ticket: 1,
            first_seq: 1,
            next: 0,
            sent_seq: 0,
            bytes: 0,
            credit: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ticket of the newest batch that the server has on disk; 0: none.
    pub(crate) fn acked_ticket(&self) -> u64 {
        self.first_ticket - 1
    }

    /// Ticket of the newest batch; 0: none.
    pub(crate) fn last_ticket(&self) -> u64 {
        self.first_ticket + self.entries.len() as u64 - 1
    }

    /// Ticket of a batch of this epoch.
    pub(crate) fn ticket_of(&self, seq: u64) -> u64 {
        // Any number may come from the wire.
        self.first_ticket.saturating_add(seq).saturating_sub(self.first_seq)
    }

    /// Appends a batch and gives its ticket.
    pub(crate) fn push(&mut self, body: &[u8]) -> u64 {
        let bytes = numbered(self.first_seq + self.entries.len() as u64, body);
        self.bytes += bytes.len();
        self.entries.push_back(Entry { bytes, body_len: body.len() });
        self.last_ticket()
    }

    /// Whether a batch waits to be sent and may be.
    pub(crate) fn has_next(&self) -> bool {
        self.credit > 0 && self.next < self.entries.len()
    }

    /// Whether everything was sent on this connection.
    pub(crate) fn is_sent(&self) -> bool {
        self.next == self.entries.len()
    }

    /// The next batch to send, encoded; it counts as sent.
    pub(crate) fn take_next(&mut self) -> Option<Bytes> {
        if self.credit <= 0 {
            return None;
        }
        let bytes = self.entries.get(self.next)?.bytes.clone();
        self.credit -= bytes.len() as i64;
        self.sent_seq = self.sent_seq.max(self.first_seq + self.next as u64);
        self.next += 1;
        Some(bytes)
    }

    pub(crate) fn grant(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add_unsigned(bytes);
    }

    /// Begins a connection at the server's mark.
    pub(crate) fn welcome(&mut self, mark: u64, credit: u64) -> Resume {
        self.next = 0;
        self.credit = i64::try_from(credit).unwrap_or(i64::MAX);
        if mark > SEQ_MAX {
            return Resume::Foreign;
        }
        if self.sent_seq == 0 {
            // Nothing of this epoch was sent from here: it goes on after whatever an earlier run sent.
            self.renumber(mark + 1);
            return Resume::Here;
        }
        if mark > self.sent_seq {
            return Resume::Foreign;
        }
        if mark + 1 < self.first_seq {
            return Resume::NewEpoch;
        }
        self.drop_to(mark);
        Resume::Here
    }

    /// Every batch up to `seq` is on disk.
    pub(crate) fn ack(&mut self, seq: u64) -> Result<(), OutOfReach> {
        if seq > self.sent_seq {
            return if seq < self.first_seq { Ok(()) } else { Err(OutOfReach) };
        }
        self.drop_to(seq);
        Ok(())
    }

    /// Sends again from `seq` on.
    pub(crate) fn rewind(&mut self, seq: u64) -> Result<(), OutOfReach> {
        let index = seq.checked_sub(self.first_seq).ok_or(OutOfReach)?;
        let index = usize::try_from(index).map_err(|_| OutOfReach)?;
        if index > self.entries.len() {
            return Err(OutOfReach);
        }
        self.next = index;
        Ok(())
    }

    /// Empties a batch that the server will never take, so that those after it can follow.
    pub(crate) fn empty(&mut self, seq: u64) -> Result<(), OutOfReach> {
        self.rewind(seq)?;
        let entry = self.entries.get_mut(self.next).ok_or(OutOfReach)?;
        self.bytes -= entry.bytes.len();
        *entry = Entry { bytes: numbered(seq, &[]), body_len: 0 };
        self.bytes += entry.bytes.len();
        Ok(())
    }

    /// A new epoch begins: nothing of it was sent.
    pub(crate) fn begin_epoch(&mut self) {
        self.sent_seq = 0;
        self.next = 0;
    }

    /// Greatest sequence number that may have been sent in this epoch.
    pub(crate) fn sent_seq(&self) -> u64 {
        self.sent_seq
    }

    /// Sequence number of the front, or of the next batch if there is none.
    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Empties the queue. It goes on with this ticket under this number; those up to `sent_seq` may have been sent before.
    pub(crate) fn restart(&mut self, ticket: u64, seq: u64, sent_seq: u64) {
        *self = Self { first_ticket: ticket, first_seq: seq, sent_seq, ..Self::new() };
    }

    /// Begins a connection of a queue whose numbers are fixed, at a mark that is not before its front.
    pub(crate) fn resume(&mut self, mark: u64, credit: u64) {
        self.drop_to(mark);
        self.next = 0;
        self.credit = i64::try_from(credit).unwrap_or(i64::MAX);
    }

    /// Empties batches that are longer than the server reads. Gives their tickets.
    pub(crate) fn empty_longer(&mut self, most_bytes: usize) -> Vec<u64> {
        let entries = (self.first_ticket..).zip(self.first_seq..).zip(&self.entries);
        let long = entries.filter(|(_, entry)| entry.body_len > most_bytes);
        let long: Vec<(u64, u64)> = long.map(|(numbers, _)| numbers).collect();
        let next = self.next;
        let mut tickets = Vec::with_capacity(long.len());
        for (ticket, seq) in long {
            if self.empty(seq).is_ok() {
                tickets.push(ticket);
            }
        }
        self.next = next;
        tickets
    }

    fn renumber(&mut self, first_seq: u64) {
        if first_seq == self.first_seq {
            return;
        }
        self.first_seq = first_seq;
        self.bytes = 0;
        for (seq, entry) in (first_seq..).zip(&mut self.entries) {
            let body_start = entry.bytes.len() - entry.body_len;
            entry.bytes = numbered(seq, &entry.bytes[body_start..]);
            self.bytes += entry.bytes.len();
        }
    }

    fn drop_to(&mut self, seq: u64) {
        while self.first_seq <= seq {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= entry.bytes.len();
            self.first_seq += 1;
            self.first_ticket += 1;
            self.next = self.next.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_proto::Message;
    use tagmill_proto::v1::Batch;

    fn seq_of(bytes: Option<Bytes>) -> Option<u64> {
        bytes.map(|bytes| Batch::decode(bytes).unwrap().seq)
    }

    fn filled(count: u64) -> Queue {
        let mut queue = Queue::new();
        for ticket in 1..=count {
            assert_eq!(queue.push(&[]), ticket);
        }
        queue
    }

    #[test]
    fn the_first_connection_goes_on_after_the_mark() {
        let mut queue = filled(2);
        assert_eq!(queue.welcome(40, 100), Resume::Here);
        assert_eq!(seq_of(queue.take_next()), Some(41));
        assert_eq!(queue.ticket_of(41), 1);
        queue.ack(41).unwrap();
        assert_eq!((queue.acked_ticket(), queue.last_ticket()), (1, 2));
        assert_eq!(seq_of(queue.take_next()), Some(42));
        assert_eq!(seq_of(queue.take_next()), None);
    }

    #[test]
    fn a_new_connection_sends_again_what_the_server_lacks() {
        let mut queue = filled(4);
        assert_eq!(queue.welcome(0, 100), Resume::Here);
        while queue.take_next().is_some() {}
        queue.ack(1).unwrap();
        assert_eq!(queue.welcome(2, 100), Resume::Here);
        assert_eq!(queue.acked_ticket(), 2);
        assert_eq!(seq_of(queue.take_next()), Some(3));
        queue.rewind(3).unwrap();
        assert_eq!(seq_of(queue.take_next()), Some(3));
        assert_eq!(queue.rewind(2), Err(OutOfReach));
        assert_eq!(queue.rewind(6), Err(OutOfReach));
    }

    #[test]
    fn a_server_that_forgot_needs_a_new_epoch() {
        let mut queue = filled(3);
        queue.welcome(0, 100);
        while queue.take_next().is_some() {}
        queue.ack(2).unwrap();
        assert_eq!(queue.welcome(1, 100), Resume::NewEpoch);
        queue.begin_epoch();
        assert_eq!(queue.welcome(0, 100), Resume::Here);
        assert_eq!(seq_of(queue.take_next()), Some(1));
        assert_eq!(queue.ticket_of(1), 3);
        queue.ack(1).unwrap();
        assert_eq!((queue.acked_ticket(), queue.bytes()), (3, 0));
    }

    #[test]
    fn batches_never_sent_from_here_show_another_sender() {
        let mut queue = filled(3);
        queue.welcome(0, 1);
        queue.take_next().unwrap();
        assert_eq!(queue.welcome(2, 100), Resume::Foreign);
        assert_eq!(queue.ack(2), Err(OutOfReach));
    }

    #[test]
    fn numbers_that_nobody_has_sent_are_refused() {
        let mut queue = filled(2);
        assert_eq!(queue.welcome(u64::MAX, u64::MAX), Resume::Foreign);
        assert_eq!(queue.welcome(SEQ_MAX, u64::MAX), Resume::Here);
        assert_eq!(seq_of(queue.take_next()), Some(SEQ_MAX + 1));
        queue.grant(u64::MAX);
        assert_eq!(queue.ticket_of(u64::MAX), u64::MAX - SEQ_MAX - 1);
        assert_eq!(queue.rewind(u64::MAX), Err(OutOfReach));
        assert_eq!(queue.ack(u64::MAX), Err(OutOfReach));
    }

    #[test]
    fn a_queue_of_fixed_numbers_never_renumbers() {
        let mut queue = Queue::new();
        queue.restart(101, 51, 60);
        assert_eq!((queue.push(&[]), queue.push(&[1; 50]), queue.sent_seq()), (101, 102, 60));
        queue.resume(50, 1_000);
        assert_eq!(seq_of(queue.take_next()), Some(51));
        assert_eq!(queue.empty_longer(49), [102]);
        queue.resume(51, 1_000);
        assert_eq!((queue.acked_ticket(), queue.first_seq(), queue.ticket_of(52)), (101, 52, 102));
        let bytes = queue.take_next().unwrap();
        assert_eq!((bytes.len(), seq_of(Some(bytes))), (2, Some(52)));
        queue.ack(52).unwrap();
        assert_eq!(queue.acked_ticket(), 102);
        assert_eq!(queue.ack(61), Err(OutOfReach));
    }

    #[test]
    fn credit_lets_one_batch_over_and_then_waits() {
        let mut queue = Queue::new();
        queue.push(&[0; 100]);
        queue.push(&[0; 100]);
        queue.welcome(0, 10);
        assert!(queue.take_next().is_some());
        assert!(!queue.has_next());
        queue.grant(92);
        assert!(!queue.has_next());
        queue.grant(1);
        assert!(queue.has_next());
        assert!(queue.take_next().is_some());
        assert!(queue.is_sent());
    }

    #[test]
    fn an_emptied_batch_keeps_its_number() {
        let mut queue = Queue::new();
        queue.push(&[0; 100]);
        queue.push(&[]);
        queue.welcome(0, 1_000);
        while queue.take_next().is_some() {}
        queue.empty(1).unwrap();
        let bytes = queue.take_next().unwrap();
        assert_eq!(bytes.len(), 2);
        assert_eq!(seq_of(Some(bytes)), Some(1));
        assert_eq!(seq_of(queue.take_next()), Some(2));
    }
}
