//! Samples of one tag on their way into and out of chunks: [`Series`] borrows them, [`SeriesBuf`] owns them.
//!
//! Numbers travel as words (see [`crate::sample`]); text has no words and travels as shared strings.

use std::ops::Range;
use std::sync::Arc;

use crate::tag::{TagId, ValueType};

/// Borrowed samples of one tag, times strictly ascending.
///
/// Text tags have one of `texts` per row and no `words`; all others the other way round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Series<'a> {
    /// Whose samples.
    pub tag: TagId,
    /// Type of the tag's values.
    pub value_type: ValueType,
    /// Source times, nanoseconds since 1970 UTC.
    pub times: &'a [i64],
    /// Values of a tag that is not text.
    pub words: &'a [u64],
    /// Values of a text tag.
    pub texts: &'a [Arc<str>],
    /// One quality per row.
    pub qualities: &'a [u32],
}

impl<'a> Series<'a> {
    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The samples at these positions.
    pub(crate) fn slice(&self, rows: Range<usize>) -> Series<'a> {
        let is_text = self.value_type == ValueType::Text;
        Series {
            tag: self.tag,
            value_type: self.value_type,
            times: &self.times[rows.clone()],
            words: if is_text { &[] } else { &self.words[rows.clone()] },
            texts: if is_text { &self.texts[rows.clone()] } else { &[] },
            qualities: &self.qualities[rows],
        }
    }

    /// Bytes of all texts; 0 for other types.
    pub(crate) fn text_bytes(&self) -> usize {
        self.texts.iter().map(|text| text.len()).sum()
    }

    /// Panics unless the columns fit each other: that would be our bug.
    pub(crate) fn check(&self) {
        let is_text = self.value_type == ValueType::Text;
        assert_eq!(self.words.len(), if is_text { 0 } else { self.len() }, "words of {}", self.tag);
        assert_eq!(self.texts.len(), if is_text { self.len() } else { 0 }, "texts of {}", self.tag);
        assert_eq!(self.qualities.len(), self.len(), "qualities of {}", self.tag);
        debug_assert!(self.times.is_sorted_by(|a, b| a < b), "times of {}", self.tag);
    }
}

/// Owned samples of one tag: what reading gives. Columns that were not asked for stay empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeriesBuf {
    /// Whose samples.
    pub tag: TagId,
    /// Type of the tag's values.
    pub value_type: ValueType,
    /// Source times, nanoseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// Values of a tag that is not text.
    pub words: Vec<u64>,
    /// Values of a text tag.
    pub texts: Vec<Arc<str>>,
    /// Qualities.
    pub qualities: Vec<u32>,
}

impl SeriesBuf {
    /// No samples yet.
    pub(crate) const fn new(tag: TagId, value_type: ValueType) -> Self {
        Self {
            tag,
            value_type,
            times: Vec::new(),
            words: Vec::new(),
            texts: Vec::new(),
            qualities: Vec::new(),
        }
    }

    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    /// Adds samples after those there are.
    pub(crate) fn append(&mut self, more: Series<'_>) {
        self.times.extend_from_slice(more.times);
        self.words.extend_from_slice(more.words);
        self.texts.extend_from_slice(more.texts);
        self.qualities.extend_from_slice(more.qualities);
    }

    /// Leaves out the first samples.
    pub(crate) fn drop_front(&mut self, rows: usize) {
        fn drop_rows<T>(column: &mut Vec<T>, rows: usize) {
            column.drain(..rows.min(column.len()));
        }
        drop_rows(&mut self.times, rows);
        drop_rows(&mut self.words, rows);
        drop_rows(&mut self.texts, rows);
        drop_rows(&mut self.qualities, rows);
    }

    /// Leaves out all samples, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.drop_front(self.len());
    }

    /// The samples, borrowed. All columns must have been read.
    pub(crate) fn as_series(&self) -> Series<'_> {
        Series {
            tag: self.tag,
            value_type: self.value_type,
            times: &self.times,
            words: &self.words,
            texts: &self.texts,
            qualities: &self.qualities,
        }
    }
}
