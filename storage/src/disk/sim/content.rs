//! What one simulated file holds: in the page cache, on the medium, and between the two.
//!
//! # Contract
//! A sync applies the pending changes to the medium one by one; it never copies the cache, so that a change which was
//! dropped stays lost. A crash decides for each pending change whether, and how much of it, reached the medium.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Random;

const PAGE_BYTES: usize = 4_096;
const SECTOR_BYTES: u64 = 512;

/// Sparse bytes: pages that were never written are zero and take no memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
    length: u64,
}

impl Content {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` from `offset`; bytes past the end read as zero, which the caller must not let happen.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        for (page, within, span) in pages_of(offset, buffer.len()) {
            let target = &mut buffer[span];
            match self.pages.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[within..within + target.len()]),
                None => target.fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.put(offset, bytes);
        self.length = self.length.max(offset + bytes.len() as u64);
    }

    /// Changes bytes but not the length: data whose size update got lost.
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, span) in pages_of(offset, bytes.len()) {
            let source = &bytes[span];
            let target = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(target)[within..within + source.len()].copy_from_slice(source);
        }
    }

    pub(super) fn set_length(&mut self, length: u64) {
        let (page, within) = place(length);
        self.pages.retain(|at, _| *at < page || (*at == page && within > 0));
        if let Some(bytes) = self.pages.get_mut(&page) {
            Arc::make_mut(bytes)[within..].fill(0);
        }
        self.length = length;
    }

    pub(super) fn flip(&mut self, at: u64, mask: u8) {
        let mut byte = [0];
        self.read(at, &mut byte);
        byte[0] ^= mask;
        self.put(at, &byte);
    }
}

/// A change that no sync has covered yet.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    Length(u64),
}

/// How a crash treats the pending changes of one file, or of all names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    All,
    None,
    Prefix(usize),
    Subset,
}

impl Fate {
    pub(super) fn draw(random: &mut Random, count: usize) -> Self {
        match random.below(5) {
            0 => Self::All,
            1 => Self::None,
            2 => Self::Prefix(random.index(count + 1)),
            _ => Self::Subset,
        }
    }

    pub(super) fn keeps(self, index: usize, random: &mut Random) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Prefix(count) => index < count,
            Self::Subset => random.below(2) == 0,
        }
    }
}

/// One file, whatever names it has.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    cache: Content,
    medium: Content,
    pending: Vec<Change>,
}

impl Inode {
    pub(super) fn cache(&self) -> &Content {
        &self.cache
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.cache.write(offset, bytes);
        self.pending.push(Change::Write { offset, bytes: bytes.into() });
    }

    pub(super) fn set_length(&mut self, length: u64) {
        self.cache.set_length(length);
        self.pending.push(Change::Length(length));
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { offset, bytes } => self.medium.write(offset, &bytes),
                Change::Length(length) => self.medium.set_length(length),
            }
        }
    }

    /// A failed sync: some changes reached the medium, the rest is dropped though the cache still shows it.
    pub(super) fn sync_partly(&mut self, random: &mut Random) {
        self.settle(random);
    }

    /// The power goes: the cache is what the medium has.
    pub(super) fn crash(&mut self, random: &mut Random) {
        self.settle(random);
        self.cache = self.medium.clone();
    }

    pub(super) fn flip(&mut self, at: u64, mask: u8) {
        self.cache.flip(at, mask);
        self.medium.flip(at, mask);
    }

    /// Puts these bytes in place of all others, at rest.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        *self = Self::default();
        self.write(0, bytes);
        self.sync();
    }

    /// Overlapping changes keep their order, as a page cache keeps them; everything else is free.
    fn settle(&mut self, random: &mut Random) {
        let pending = std::mem::take(&mut self.pending);
        let fate = Fate::draw(random, pending.len());
        let tears = random.below(4) != 0;
        for (index, change) in pending.into_iter().enumerate() {
            let kept = fate.keeps(index, random);
            match change {
                Change::Length(length) if kept => self.medium.set_length(length),
                Change::Length(_) => {}
                Change::Write { offset, bytes } => {
                    let end = offset + bytes.len() as u64;
                    let resized = if random.below(8) == 0 { !kept } else { kept };
                    if resized {
                        self.medium.length = self.medium.length.max(end);
                    }
                    if kept && tears && random.below(2) == 0 {
                        self.put_torn(offset, &bytes, random);
                    } else if kept {
                        self.medium.put(offset, &bytes);
                    }
                }
            }
        }
        self.medium.set_length(self.medium.length);
    }

    fn put_torn(&mut self, offset: u64, bytes: &[u8], random: &mut Random) {
        match random.below(4) {
            0 => self.medium.put(offset, &bytes[..random.index(bytes.len() + 1)]),
            1 => {
                let cut = random.index(bytes.len() + 1);
                self.medium.put(offset + cut as u64, &bytes[cut..]);
            }
            _ => {
                let mut from = 0;
                while from < bytes.len() {
                    let at = offset + from as u64;
                    let sector = usize::try_from(SECTOR_BYTES - at % SECTOR_BYTES).unwrap_or(1);
                    let to = (from + sector).min(bytes.len());
                    if random.below(2) == 0 {
                        self.medium.put(at, &bytes[from..to]);
                    }
                    from = to;
                }
            }
        }
    }
}

/// The page of an offset, and the place within that page.
fn place(offset: u64) -> (u64, usize) {
    let page = PAGE_BYTES as u64;
    (offset / page, usize::try_from(offset % page).unwrap_or(0))
}

/// The pages that `length` bytes from `offset` touch: page, place within it, span of the caller's bytes.
fn pages_of(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        if from >= length {
            return None;
        }
        let (page, within) = place(offset + from as u64);
        let to = length.min(from + PAGE_BYTES - within);
        let span = from..to;
        from = to;
        Some((page, within, span))
    })
}
