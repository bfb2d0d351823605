//! The current value of each tag: the sample of the greatest time, of equal times the newest.
//!
//! Copy-on-write pages of [`PAGE_TAGS`] tags, so that a View holds all of them and a commit copies only what it touches.

use std::sync::Arc;

use super::run::{Run, Span, index};
use crate::limits::PAGE_TAGS;
use crate::tag::{TagId, ValueType};

/// The newest sample of one tag.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) time_ns: i64,
    pub(crate) word: u64,
    pub(crate) quality: u32,
    pub(crate) text: Option<Arc<str>>,
}

impl Entry {
    /// The newest sample of a tag in a run.
    pub(crate) fn newest_in(run: &Run, tag: TagId) -> Option<Self> {
        run.span(tag).map(|span| Self::last_of(run, span))
    }

    fn last_of(run: &Run, span: &Span) -> Self {
        let row = span.end - 1;
        let word = run.words[row];
        let text =
            (span.value_type == ValueType::Text).then(|| Arc::clone(&run.texts[index(word)]));
        let word = if text.is_some() { 0 } else { word };
        Self { time_ns: run.times[row], word, quality: run.qualities.at(row), text }
    }
}

/// The newest sample of every tag.
#[derive(Clone, Debug, Default)]
pub(crate) struct LatestTable {
    pages: Vec<Arc<Vec<Option<Entry>>>>,
    newest_ns: Option<i64>,
}

impl LatestTable {
    pub(crate) fn get(&self, tag: TagId) -> Option<&Entry> {
        self.pages.get(tag.index() / PAGE_TAGS)?.get(tag.index() % PAGE_TAGS)?.as_ref()
    }

    /// The greatest time that was ever in it, whatever became of its sample.
    pub(crate) const fn newest_ns(&self) -> Option<i64> {
        self.newest_ns
    }

    /// Sets or clears one tag, whatever was there.
    pub(crate) fn set(&mut self, tag: TagId, entry: Option<Entry>) {
        self.newest_ns = self.newest_ns.max(entry.as_ref().map(|entry| entry.time_ns));
        *self.slot(tag) = entry;
    }

    /// Takes the samples of a run that is newer than everything seen before.
    pub(crate) fn observe(&mut self, run: &Run) {
        for span in &run.spans {
            let time_ns = run.times[span.end - 1];
            self.newest_ns = self.newest_ns.max(Some(time_ns));
            let slot = self.slot(span.tag);
            if slot.as_ref().is_some_and(|entry| entry.time_ns > time_ns) {
                continue;
            }
            *slot = Some(Entry::last_of(run, span));
        }
    }

    /// Every tag that has a sample, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TagId, &Entry)> {
        let entries = self.pages.iter().enumerate().flat_map(|(page, entries)| {
            entries.iter().enumerate().map(move |(at, entry)| (page * PAGE_TAGS + at, entry))
        });
        entries.filter_map(|(at, entry)| Some((TagId(u32::try_from(at).ok()?), entry.as_ref()?)))
    }

    fn slot(&mut self, tag: TagId) -> &mut Option<Entry> {
        let (page, at) = (tag.index() / PAGE_TAGS, tag.index() % PAGE_TAGS);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, Arc::default);
        }
        let entries = Arc::make_mut(&mut self.pages[page]);
        if entries.len() <= at {
            entries.resize(at + 1, None);
        }
        &mut entries[at]
    }
}
