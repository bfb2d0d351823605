//! The bytes of a file of the queue: a header, then frames of one record each. Pure.
//!
//! # Contract
//! * Any bytes are read as frames or refused; nothing here panics, or allocates more than it was given.
//! * [`survey`] tells what a crash tore (nobody was told that it is stored) from what is damaged (somebody was).
//!
//! # What it does not know
//! Files, and what a payload means. The bytes are described in `docs/format/forward-queue.md`.

use bytes::{Buf, BufMut};

use super::checksum::crc32;

/// First bytes of every file.
const MAGIC: [u8; 8] = *b"TMFWD\r\n\x1a";
/// The version this build writes, and the newest it reads.
const VERSION: u16 = 1;
/// Length of a file's header.
pub(super) const HEADER_BYTES: usize = 64;
/// Length of a frame's header.
pub(super) const FRAME_BYTES: usize = 40;
/// Frames begin at multiples of this.
const ALIGN: usize = 8;
/// Numbers above were not written by us.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Encoded batches, without their numbers on the wire.
    Batches,
    /// Encoded definitions.
    Definitions,
}

impl Kind {
    const fn code(self) -> u16 {
        match self {
            Self::Batches => 1,
            Self::Definitions => 2,
        }
    }

    /// End of the names of its files.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Batches => ".batches",
            Self::Definitions => ".tags",
        }
    }
}

/// What the name of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// The first record it may hold.
    pub(super) first: u64,
    /// Random; seeds every checksum in it.
    pub(super) identity: u64,
}

impl Name {
    pub(super) fn file(self, kind: Kind) -> String {
        format!("{:016x}-{:016x}{}", self.first, self.identity, kind.suffix())
    }

    /// Reads the name of a file; `None` for a file that is not of this kind.
    pub(super) fn parse(file: &str, kind: Kind) -> Option<Self> {
        let (first, identity) = file.strip_suffix(kind.suffix())?.split_once('-')?;
        let number = |digits: &str| {
            let is_plain = digits.len() == 16 && !digits.starts_with('+');
            is_plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let name = Self { first: number(first)?, identity: number(identity)? };
        (1..=NUMBER_MAX).contains(&name.first).then_some(name)
    }
}

/// What the header of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// That it is the file of this name.
    Good,
    /// That a later program wrote it, in this version.
    TooNew(u16),
    /// Nothing that can be believed.
    Bad,
}

/// The header of a new file.
pub(super) fn header(name: Name, kind: Kind) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(kind.code());
    out.put_bytes(0, 4);
    out.put_u64_le(name.identity);
    out.put_u64_le(name.first);
    out.put_bytes(0, HEADER_BYTES - 4 - out.len());
    let crc = crc32(name.identity, &[&out]);
    out.put_u32_le(crc);
    out
}

/// Reads a file's header.
pub(super) fn check_header(bytes: &[u8], name: Name, kind: Kind) -> Header {
    let Some((head, mut crc)) = bytes.get(..HEADER_BYTES).and_then(|h| h.split_at_checked(60))
    else {
        return Header::Bad;
    };
    if head[..8] != MAGIC || crc.get_u32_le() != crc32(name.identity, &[head]) {
        return Header::Bad;
    }
    let version = (&head[8..]).get_u16_le();
    if version > VERSION {
        return Header::TooNew(version);
    }
    if head == &header(name, kind)[..60] { Header::Good } else { Header::Bad }
}

/// What a frame says of its record besides the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Number of the record.
    pub(super) record: u64,
    /// Greatest record that was durable when this one was written.
    pub(super) synced: u64,
    /// Samples in it.
    pub(super) samples: u32,
    /// Greatest alias that had been given when it was written.
    pub(super) aliases: u32,
    /// Length of the payload.
    pub(super) payload_bytes: usize,
    payload_crc: u32,
}

impl Frame {
    /// Length of the whole frame with its padding.
    pub(super) const fn len(&self) -> usize {
        frame_len(self.payload_bytes)
    }

    /// Whether these bytes are its payload.
    pub(super) fn verifies(&self, identity: u64, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes
            && self.payload_crc == crc32(identity ^ self.record, &[payload])
    }
}

/// Length of a frame with a payload of this length.
pub(super) const fn frame_len(payload_bytes: usize) -> usize {
    (FRAME_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

/// Appends a frame; its lengths are in reach of the format.
pub(super) fn put_frame(out: &mut Vec<u8>, identity: u64, frame: &NewFrame<'_>) {
    let payload_bytes = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
    let mut head = Vec::with_capacity(FRAME_BYTES - 4);
    head.put_u32_le(crc32(identity ^ frame.record, &[frame.payload]));
    head.put_u32_le(payload_bytes);
    head.put_u32_le(frame.samples);
    head.put_u64_le(frame.record);
    head.put_u64_le(frame.synced);
    head.put_u32_le(frame.aliases);
    head.put_bytes(0, 4);
    out.put_u32_le(crc32(identity, &[&head]));
    out.put_slice(&head);
    out.put_slice(frame.payload);
    let padding = frame_len(frame.payload.len()) - FRAME_BYTES - frame.payload.len();
    out.put_bytes(0, padding);
}

/// A frame to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewFrame<'a> {
    pub(super) record: u64,
    pub(super) synced: u64,
    pub(super) samples: u32,
    pub(super) aliases: u32,
    pub(super) payload: &'a [u8],
}

/// Reads the header of a frame at the start of `bytes`.
pub(super) fn frame(bytes: &[u8], identity: u64) -> Option<Frame> {
    let mut head = bytes.get(4..FRAME_BYTES)?;
    if (&bytes[..4]).get_u32_le() != crc32(identity, &[head]) {
        return None;
    }
    let payload_crc = head.get_u32_le();
    let payload_bytes = usize::try_from(head.get_u32_le()).ok()?;
    let samples = head.get_u32_le();
    let (record, synced) = (head.get_u64_le(), head.get_u64_le());
    let (aliases, reserved) = (head.get_u32_le(), head.get_u32_le());
    let is_sane = (1..=NUMBER_MAX).contains(&record) && synced < record && reserved == 0;
    is_sane.then_some(Frame { record, synced, samples, aliases, payload_bytes, payload_crc })
}

/// The whole frame at the start of `bytes`, its payload and padding verified.
pub(super) fn whole_frame(bytes: &[u8], identity: u64) -> Option<(Frame, &[u8])> {
    let frame = frame(bytes, identity)?;
    let end = FRAME_BYTES.checked_add(frame.payload_bytes)?;
    let payload = bytes.get(FRAME_BYTES..end)?;
    let padding = bytes.get(end..frame.len())?;
    let is_good = frame.verifies(identity, payload) && padding.iter().all(|byte| *byte == 0);
    is_good.then_some((frame, payload))
}

/// The first whole frame at or behind `from` of a record at or above `least`: where it begins, and what it says.
pub(super) fn next_frame(
    bytes: &[u8],
    identity: u64,
    from: usize,
    least: u64,
) -> Option<(usize, Frame)> {
    let starts = (from.next_multiple_of(ALIGN)..bytes.len()).step_by(ALIGN);
    let mut found = starts.filter_map(|at| Some((at, whole_frame(&bytes[at..], identity)?.0)));
    found.find(|(_, frame)| frame.record >= least)
}

/// Records that are missing between those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// Where in the file.
    pub(super) at: usize,
    /// The first that is missing.
    pub(super) first: u64,
    /// The last that is missing.
    pub(super) last: u64,
}

/// What the newest file of a log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Survey {
    /// Where the last record ends that counts; what is behind was torn by a crash.
    pub(super) end: usize,
    /// The last record; one before the file's first if there is none.
    pub(super) last: u64,
    /// Greatest alias that any frame knows of.
    pub(super) aliases: u32,
    /// What is damaged.
    pub(super) holes: Vec<Hole>,
}

/// Finds out where a file ends that was written to when the process died.
///
/// Records were stored in order. So a hole with a frame behind it that was written when the missing record was durable is
/// damage: it is named, and what is behind it counts. Any other hole is where a crash tore the last write.
pub(super) fn survey(bytes: &[u8], name: Name) -> Survey {
    let mut frames = Vec::new();
    let (mut at, mut least) = (HEADER_BYTES, name.first);
    while let Some((start, frame)) = next_frame(bytes, name.identity, at, least) {
        frames.push((at, start, frame));
        (at, least) = (start + frame.len(), frame.record + 1);
    }
    let synced = frames.iter().map(|(_, _, frame)| frame.synced).max().unwrap_or_default();
    let aliases = frames.iter().map(|(_, _, frame)| frame.aliases).max().unwrap_or_default();
    let mut survey = Survey { end: HEADER_BYTES, last: name.first - 1, aliases, holes: Vec::new() };
    for (at, start, frame) in frames {
        let first = survey.last + 1;
        if frame.record > first {
            if synced < first {
                break;
            }
            survey.holes.push(Hole { at, first, last: frame.record - 1 });
        }
        (survey.end, survey.last) = (start + frame.len(), frame.record);
    }
    survey
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::random::Random;

    const NAME: Name = Name { first: 5, identity: 0x1234_5678_9ABC_DEF0 };

    /// A file of these payloads, each written when all before it were durable.
    fn file(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = header(NAME, Kind::Batches);
        for (record, payload) in (NAME.first..).zip(payloads) {
            let frame = NewFrame {
                record,
                synced: record - 1,
                samples: 1,
                aliases: 3,
                payload: &payload[..],
            };
            put_frame(&mut bytes, NAME.identity, &frame);
        }
        bytes
    }

    fn payloads(random: &mut Random) -> Vec<Vec<u8>> {
        let count = 1 + random.below(6);
        (0..count).map(|_| (0..random.below(60)).map(|_| random.byte()).collect()).collect()
    }

    fn read(bytes: &[u8], survey: &Survey) -> Vec<(u64, Vec<u8>)> {
        let (mut at, mut least, mut found) = (HEADER_BYTES, NAME.first, Vec::new());
        let bytes = &bytes[..survey.end];
        while let Some((start, frame)) = next_frame(bytes, NAME.identity, at, least) {
            let (_, payload) = whole_frame(&bytes[start..], NAME.identity).unwrap();
            found.push((frame.record, payload.to_vec()));
            (at, least) = (start + frame.len(), frame.record + 1);
        }
        found
    }

    #[test]
    fn names_say_what_they_say_and_nothing_else_is_one() {
        let file = NAME.file(Kind::Batches);
        assert_eq!(file, "0000000000000005-123456789abcdef0.batches");
        assert_eq!(Name::parse(&file, Kind::Batches), Some(NAME));
        assert_eq!(Name::parse(&file, Kind::Definitions), None);
        for wrong in ["5-6.batches", "+000000000000005-123456789abcdef0.batches", ".batches", ""] {
            assert_eq!(Name::parse(wrong, Kind::Batches), None, "{wrong}");
        }
        let zero = Name { first: 0, ..NAME }.file(Kind::Batches);
        assert_eq!(Name::parse(&zero, Kind::Batches), None);
    }

    #[test]
    fn a_newer_header_is_told_from_a_damaged_one() {
        let good = header(NAME, Kind::Batches);
        assert_eq!(good.len(), HEADER_BYTES);
        assert_eq!(check_header(&good, NAME, Kind::Batches), Header::Good);
        assert_eq!(check_header(&good, NAME, Kind::Definitions), Header::Bad);
        let mut newer = good.clone();
        newer[8] = 9;
        let crc = crc32(NAME.identity, &[&newer[..60]]);
        newer.truncate(60);
        newer.put_u32_le(crc);
        assert_eq!(check_header(&newer, NAME, Kind::Batches), Header::TooNew(9));
        for at in 0..HEADER_BYTES {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(check_header(&bad, NAME, Kind::Batches), Header::Bad, "byte {at}");
            assert_eq!(check_header(&good[..at], NAME, Kind::Batches), Header::Bad);
        }
    }

    /// A file cut anywhere holds the records before the cut, each whole, and names no damage.
    #[test]
    fn every_prefix_of_a_file_is_a_prefix_of_its_records() {
        let mut random = Random::seeded();
        let _case = random.case();
        for _ in 0..20 {
            let payloads = payloads(&mut random);
            let bytes = file(&payloads);
            for length in HEADER_BYTES..=bytes.len() {
                let survey = survey(&bytes[..length], NAME);
                let found = read(&bytes[..length], &survey);
                assert_eq!(survey.holes, []);
                assert_eq!(survey.last, NAME.first - 1 + found.len() as u64);
                let whole: Vec<_> = (NAME.first..).zip(payloads.iter().cloned()).collect();
                assert_eq!(found, whole[..found.len()], "cut at {length}");
                let is_whole = length == bytes.len();
                assert_eq!(found.len() == payloads.len(), is_whole, "cut at {length}");
            }
        }
    }

    /// A flipped bit costs exactly the record it is in: the last one, which looks like a tear, or one that is named.
    #[test]
    fn every_flipped_bit_costs_one_record_that_is_named() {
        let mut random = Random::seeded();
        let _case = random.case();
        for _ in 0..20 {
            let payloads = payloads(&mut random);
            let good = file(&payloads);
            for at in HEADER_BYTES..good.len() {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << random.below(8);
                let survey = survey(&bytes, NAME);
                let found = read(&bytes, &survey);
                let mut whole: Vec<_> = (NAME.first..).zip(payloads.iter().cloned()).collect();
                assert_eq!(found.len(), whole.len() - 1, "byte {at}");
                let lost = whole.iter().position(|record| !found.contains(record)).unwrap();
                let (record, _) = whole.remove(lost);
                assert_eq!(found, whole, "byte {at}");
                if lost == whole.len() {
                    assert_eq!(survey.holes, [], "the last looks like a tear");
                } else {
                    let hole = survey.holes[0];
                    assert_eq!((hole.first, hole.last), (record, record), "byte {at}");
                }
            }
        }
    }

    /// Of one write that was never reported, a crash may leave any part: nothing behind the first hole counts.
    #[test]
    fn what_was_torn_in_one_write_ends_at_its_first_hole() {
        let mut bytes = header(NAME, Kind::Batches);
        let mut starts = Vec::new();
        for record in 5..=8 {
            starts.push(bytes.len());
            let frame = NewFrame { record, synced: 5, samples: 1, aliases: 0, payload: &[7; 20] };
            let frame = NewFrame { synced: frame.synced.min(record - 1), ..frame };
            put_frame(&mut bytes, NAME.identity, &frame);
        }
        bytes[starts[2]..starts[3]].fill(0);
        let torn = survey(&bytes, NAME);
        assert_eq!((torn.last, torn.end, torn.holes.len()), (6, starts[2], 0));
        let first_gone = {
            bytes[starts[0]..starts[1]].fill(0);
            survey(&bytes, NAME)
        };
        // Record 5 was durable when the others were written; 7 was not.
        assert_eq!(first_gone.holes, [Hole { at: HEADER_BYTES, first: 5, last: 5 }]);
        assert_eq!(first_gone.last, 6);
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let mut random = Random::seeded();
        let _case = random.case();
        let good = file(&[vec![1; 30], vec![], vec![2; 9]]);
        for _ in 0..5_000 {
            let mut bytes = good.clone();
            for _ in 0..random.below(4) {
                let at = random.index(bytes.len());
                match random.below(3) {
                    0 => bytes[at] = random.byte(),
                    1 => bytes.truncate(at),
                    _ => bytes.insert(at, random.byte()),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            let survey = survey(&bytes, NAME);
            assert!(survey.end <= bytes.len().max(HEADER_BYTES));
            check_header(&bytes, NAME, Kind::Batches);
        }
    }
}
