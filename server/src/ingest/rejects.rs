//! What was left out of batches, as gateways hear of it: so many one by one, the others by their number. Pure.
//!
//! A part of a batch may take two bytes on the wire and a hundred as a reject, so they are bounded where they arise: an
//! answer stays below 4 MiB, the longest that clients take unless told otherwise.

use tagmill_proto::v1::{DefineReject, Reject};

/// Rejects of one batch, and of one acknowledgement, that are told one by one.
pub(super) const REJECTS_MAX: usize = 10_000;
/// Bytes that say why. What does not fit is cut off.
const DETAIL_BYTES_MAX: usize = 300;
/// Bytes of a name that is told of a definition.
const NAME_BYTES_MAX: usize = 600;
/// Bytes of a name in a status.
const SHOWN_BYTES_MAX: usize = 128;
/// Bytes of all texts about the definitions of one message. Beyond, a definition is told by its alias alone.
const TEXT_BYTES_MAX: usize = 2 << 20;

/// The first of them, and how many more there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rejects {
    pub(super) list: Vec<Reject>,
    pub(super) left_out: u64,
}

/// Memory of one reject besides its text.
const REJECT_BYTES: usize = 100;

/// About what memory rejects take.
pub(super) fn bytes_of(rejects: &[Reject]) -> usize {
    rejects.iter().map(|reject| REJECT_BYTES + reject.detail.len()).sum()
}

impl Rejects {
    /// The memory that those take which are told one by one.
    pub(super) fn bytes(&self) -> usize {
        bytes_of(&self.list)
    }

    pub(super) fn push(&mut self, mut reject: Reject) {
        if self.list.len() >= REJECTS_MAX {
            self.left_out += 1;
            return;
        }
        cut(&mut reject.detail, DETAIL_BYTES_MAX);
        self.list.push(reject);
    }

    /// Those of the batch of this number, too.
    pub(super) fn extend(&mut self, seq: u64, other: Self) {
        self.left_out += other.left_out;
        for reject in other.list {
            self.push(Reject { seq, ..reject });
        }
    }

    /// Gives all that there are; the last one says how many are not among them.
    pub(super) fn take(&mut self) -> Vec<Reject> {
        let Self { mut list, left_out } = std::mem::take(self);
        if left_out > 0
            && let Some(last) = list.last_mut()
        {
            last.detail = format!("{} (and {left_out} more rejects)", last.detail);
        }
        list
    }
}

/// Definitions that were left out, with texts of so many bytes. Each of them is told: a gateway must not send under its
/// alias.
pub(super) fn definitions(mut rejects: Vec<DefineReject>) -> Vec<DefineReject> {
    let mut bytes = 0;
    for reject in &mut rejects {
        cut(&mut reject.name, NAME_BYTES_MAX);
        cut(&mut reject.detail, DETAIL_BYTES_MAX);
        bytes += reject.name.len() + reject.detail.len();
        if bytes > TEXT_BYTES_MAX {
            (reject.name, reject.detail) = (String::new(), String::new());
        }
    }
    rejects
}

/// So much of a name as a status may say, which travels in a header.
pub(super) fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(SHOWN_BYTES_MAX)]
}

fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
}

#[cfg(test)]
mod tests {
    use tagmill_proto::Message as _;
    use tagmill_proto::v1::{Ack, DefineTagsResponse};

    use super::super::messages::TAGS_MAX;
    use super::*;

    /// Clients take no longer message unless told otherwise.
    const CLIENTS_BYTES_MAX: usize = 4 << 20;

    #[test]
    fn the_longest_answers_are_messages_that_clients_take() {
        let mut rejects = Rejects::default();
        let detail = "x".repeat(DETAIL_BYTES_MAX + 1);
        let most = u32::MAX;
        for _ in 0..=REJECTS_MAX {
            let (part, alias, first, count) = (most, most, most, most);
            rejects.push(Reject {
                seq: u64::MAX,
                part,
                alias,
                first,
                count,
                reason: 1,
                detail: detail.clone(),
            });
        }
        let ack = Ack { rejects: rejects.take(), ..Ack::default() };
        assert!(ack.encoded_len() < CLIENTS_BYTES_MAX, "{}", ack.encoded_len());
        for (name, detail) in [(1, 1), (1, 20), (600, 300), (5_000_000, 300)] {
            let (name, detail) = ("n".repeat(name), "d".repeat(detail));
            let count = if name.len() > NAME_BYTES_MAX { 10 } else { TAGS_MAX };
            let rejects = vec![DefineReject { alias: most, name, detail }; count];
            let rejects = definitions(rejects);
            assert_eq!(rejects.len(), count);
            let answer = DefineTagsResponse { rejects, ..DefineTagsResponse::default() };
            assert!(answer.encoded_len() < CLIENTS_BYTES_MAX, "{}", answer.encoded_len());
        }
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted_and_never_kept() {
        let mut rejects = Rejects::default();
        for _ in 0..REJECTS_MAX + 5 {
            rejects.push(Reject { detail: "ä".repeat(DETAIL_BYTES_MAX), ..Reject::default() });
        }
        let mut all = Rejects::default();
        all.extend(7, rejects.clone());
        all.extend(8, rejects);
        assert_eq!((all.list.len(), all.left_out), (REJECTS_MAX, REJECTS_MAX as u64 + 10));
        let told = all.take();
        assert!(told.iter().all(|reject| reject.seq == 7 && reject.detail.len() < 400));
        assert!(told[REJECTS_MAX - 1].detail.ends_with("(and 10010 more rejects)"));
        assert_eq!(all, Rejects::default());
    }
}
