//! Words kept aside, bit for bit: what an encoding of floats cannot compute.
//!
//! # Contract
//! The bytes are the number of words as a varint, their rows, ascending, and the words, both as integer vectors.

use std::ops::Range;

use super::{index, integers};
use crate::bytes::{Malformed, Reader, put_varint};

/// Some rows of a column, or of one vector, and their words.
#[derive(Debug, Default)]
pub(super) struct Aside {
    rows: Vec<u64>,
    words: Vec<u64>,
}

impl Aside {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.words.clear();
    }

    pub(super) fn push(&mut self, row: u64, word: u64) {
        self.rows.push(row);
        self.words.push(word);
    }

    /// Rows kept aside, ascending.
    pub(super) fn rows(&self) -> &[u64] {
        &self.rows
    }

    /// Appends those of a vector whose first row is `start`.
    pub(super) fn append(&mut self, other: &Self, start: u64) {
        self.rows.extend(other.rows.iter().map(|row| row + start));
        self.words.extend_from_slice(&other.words);
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_varint(out, self.rows.len() as u64);
        integers::encode(&self.rows, out);
        integers::encode(&self.words, out);
    }

    /// Bytes that [`Self::write`] appends for one vector, closely.
    pub(super) fn estimate(&self) -> usize {
        if self.is_empty() {
            return 1;
        }
        2 + integers::estimate(&self.rows) + integers::estimate(&self.words)
    }

    /// Reads what was kept aside of `count` rows.
    pub(super) fn read(&mut self, reader: &mut Reader<'_>, count: usize) -> Result<(), Malformed> {
        self.clear();
        let aside = reader.length(count)?;
        if aside == 0 {
            return Ok(());
        }
        integers::decode(reader, aside, &(0..aside), &mut self.rows)?;
        integers::decode(reader, aside, &(0..aside), &mut self.words)?;
        if self.rows.iter().all(|row| index(*row) < count) {
            Ok(())
        } else {
            Err(Malformed("a word kept aside lies outside its rows"))
        }
    }

    /// Moves past what was kept aside of one vector of `len` rows.
    pub(super) fn skip(reader: &mut Reader<'_>, len: usize) -> Result<(), Malformed> {
        let aside = reader.length(len)?;
        for _ in 0..if aside > 0 { 2 } else { 0 } {
            integers::skip_vector(reader, aside)?;
        }
        Ok(())
    }

    /// Overwrites the words of `rows`, which are `out`.
    pub(super) fn put_back(&self, rows: &Range<usize>, out: &mut [u64]) {
        for (row, word) in self.rows.iter().zip(&self.words) {
            let row = index(*row);
            if rows.contains(&row) {
                out[row - rows.start] = *word;
            }
        }
    }
}
