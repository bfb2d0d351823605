//! Looks through a log that does not read from front to back: every good frame, wherever it lies, and what is missing.
//!
//! # Contract
//! * A frame is taken if both its checksums hold under the identity in its file's name, whatever stands around it.
//! * Every record above the floor is either found or named as lost, as far as any frame or header tells of it.
//! * One file is in memory at a time. Nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::file::{FileHeader, Frame, HEADER_BYTES, Kind};
use super::record::{Content, Payload};
use super::replay::Listing;
use crate::disk::{Disk, read_all};
use crate::error::{Error, Result};
use crate::ids::Seq;

/// A record that can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Position in [`Survey::files`].
    file: usize,
    offset: usize,
    frame: Frame,
}

/// What was found in one file.
#[derive(Debug)]
pub(crate) struct FileSurvey {
    pub(crate) path: String,
    identity: u64,
    /// What is wrong with its header, or its length.
    pub(crate) flaw: Option<String>,
    /// Ranges of bytes between good frames, or before the first, that are no good frames.
    pub(crate) holes: Vec<(usize, usize)>,
}

/// All that can be known of a log.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) files: Vec<FileSurvey>,
    /// By seq, those at or below the floor left out.
    pub(crate) records: BTreeMap<Seq, Found>,
    /// Ranges of lost records, first and last.
    pub(crate) lost: Vec<(Seq, Seq)>,
    /// Whether a file that must follow the last record is gone: how many records it held nobody knows.
    pub(crate) has_lost_end: bool,
}

impl Survey {
    /// Looks through every file. `floor` is the greatest seq that segments hold.
    pub(crate) fn read(disk: &Arc<dyn Disk>, floor: Seq) -> Result<Self> {
        let mut survey = Self::default();
        let (mut durable, mut continues) = (floor, Seq(0));
        for (first_seq, path, identity) in Listing::read(disk)?.files() {
            let bytes = read_all(disk.as_ref(), &path);
            let bytes = bytes.map_err(|e| Error::io("read log file", &path, e))?;
            let flaw = match FileHeader::decode(&bytes, identity) {
                Ok(header) => {
                    durable = durable.max(header.synced_seq);
                    let is_cut = (bytes.len() as u64) < header.length;
                    is_cut.then(|| format!("it was made with {} bytes", header.length))
                }
                Err(why) => Some(format!("its header does not verify: {why:?}")),
            };
            let number = survey.files.len();
            survey.files.push(FileSurvey { path, identity, flaw, holes: Vec::new() });
            let before = survey.records.len();
            let mut seen = |offset: usize, frame: Frame, payload: &[u8]| {
                durable = durable.max(frame.synced_seq);
                match frame.kind {
                    Kind::Continue => continues = continues.max(frame.seq),
                    Kind::Close => durable = durable.max(frame.seq),
                    Kind::Record if frame.seq > floor => {
                        let is_sound =
                            Content::decode(frame.seq, payload, frame.raw_bytes as usize).is_ok();
                        if is_sound {
                            let found = Found { file: number, offset, frame };
                            survey.records.entry(frame.seq).or_insert(found);
                        }
                    }
                    Kind::Record => {}
                }
            };
            survey.files[number].holes = walk(&bytes, identity, &mut seen);
            if survey.records.len() > before {
                // The file was begun when everything before it was durable.
                durable = durable.max(Seq(first_seq.0.saturating_sub(1)));
            }
        }
        durable = durable.max(continues);
        let newest = survey.records.last_key_value().map_or(floor, |(seq, _)| *seq);
        survey.has_lost_end = continues > Seq(0) && continues >= newest.max(floor);
        survey.lost = survey.missing(floor, newest.max(durable));
        Ok(survey)
    }

    fn missing(&self, floor: Seq, newest: Seq) -> Vec<(Seq, Seq)> {
        let mut lost = Vec::new();
        let mut expected = floor.next();
        for seq in self.records.keys().copied() {
            if seq > expected {
                lost.push((expected, Seq(seq.0 - 1)));
            }
            expected = seq.next();
        }
        if expected <= newest {
            lost.push((expected, newest));
        }
        lost
    }

    /// Hands over every record that was found, in order, as it was stored.
    pub(crate) fn for_each(
        &self,
        disk: &Arc<dyn Disk>,
        mut take: impl FnMut(Seq, Payload) -> Result<()>,
    ) -> Result<()> {
        let mut open: Option<(usize, Vec<u8>)> = None;
        for (seq, found) in &self.records {
            let path = &self.files[found.file].path;
            if open.as_ref().is_none_or(|(number, _)| *number != found.file) {
                let bytes = read_all(disk.as_ref(), path);
                let bytes = bytes.map_err(|e| Error::io("read log file", path, e))?;
                open = Some((found.file, bytes));
            }
            let bytes = open.as_ref().map_or(&[][..], |(_, bytes)| bytes.as_slice());
            let rest = bytes.get(found.offset..).unwrap_or_default();
            let again = Frame::read(rest, self.files[found.file].identity);
            let Some((_, payload)) = again.filter(|(frame, _)| *frame == found.frame) else {
                let why = "it could be read a moment ago, and now not: the disk is failing";
                return Err(Error::corrupt("log record", path, found.offset as u64, why));
            };
            let (raw_bytes, crc) = (found.frame.raw_bytes as usize, found.frame.payload_crc);
            take(*seq, Payload { bytes: payload.to_vec(), raw_bytes, crc })?;
        }
        Ok(())
    }

    /// Files with anything wrong.
    pub(crate) fn flawed(&self) -> impl Iterator<Item = &FileSurvey> {
        self.files.iter().filter(|file| file.flaw.is_some() || !file.holes.is_empty())
    }
}

/// Hands over every good frame of a file. Gives the holes before and between them.
fn walk(
    bytes: &[u8],
    identity: u64,
    seen: &mut dyn FnMut(usize, Frame, &[u8]),
) -> Vec<(usize, usize)> {
    let (mut at, mut end, mut holes) = (HEADER_BYTES, HEADER_BYTES, Vec::new());
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let Some((frame, payload)) = Frame::read(rest, identity) else {
            at += 8;
            continue;
        };
        if at > end {
            holes.push((end, at));
        }
        seen(at, frame, payload);
        at += frame.bytes();
        end = at;
    }
    holes
}
