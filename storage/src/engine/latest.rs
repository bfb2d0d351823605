//! Keeps latest samples true when what was newest goes, without a lock held while segments are read.
//!
//! # Contract
//! * A change of the View after which the newest samples of some tags must be looked for is first made on a copy, and
//!   looked at there. Under the lock it is made on the View that is then current, and takes over what was found if nothing
//!   has happened to old samples meanwhile ([`View::edition`]); else it is looked at anew.
//! * Batches that come meanwhile change nothing of that: their rows are in memory, and are taken into account.
//! * A tag whose newest rows cannot be read has no latest sample, is `stale`, and is tried again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::core::{Core, lock};
use crate::head::latest::Entry;
use crate::planted::{self, Bug};
use crate::scan::newest::{self, Newest};
use crate::scan::snapshot::{Snapshot, View};
use crate::tag::TagId;

/// Makes a change, and says of which tags the newest samples must be looked for.
pub(crate) type Change<'a> = dyn FnMut(&mut View) -> BTreeSet<TagId> + 'a;

/// How often a change of maintenance is looked at without a lock; one delete after the other must not keep it for ever.
const ROUNDS: usize = 3;

/// What was found for a change on a copy of the View.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    /// The copy, without what was found.
    view: Arc<View>,
    tags: BTreeSet<TagId>,
    newest: Newest,
}

impl Ahead {
    fn of(view: View, tags: BTreeSet<TagId>) -> Self {
        let view = Arc::new(view);
        let newest = newest::find(&Snapshot { view: Arc::clone(&view) }, &tags);
        Self { view, tags, newest }
    }

    /// The View as it would be.
    pub(crate) fn view(&self) -> View {
        let mut view = View::clone(&self.view);
        view.take_newest(self.clone());
        view
    }

    /// Whether it holds for the same change of this View, which concerns these tags.
    pub(crate) fn holds(&self, current: &View, tags: &BTreeSet<TagId>) -> bool {
        current.edition == self.view.edition && tags.is_subset(&self.tags)
    }
}

impl Core {
    /// Makes a change on a copy of the View, and looks. Takes no lock.
    pub(crate) fn look_ahead(&self, change: &mut Change<'_>) -> Ahead {
        let mut view = View::clone(&self.view());
        let tags = change(&mut view);
        Ahead::of(view, tags)
    }

    /// Shows a change of maintenance that was looked at before. No run is folded or sealed meanwhile: its thread is the
    /// caller's.
    pub(crate) fn show(&self, mut ahead: Ahead, change: &mut Change<'_>) {
        for round in 1.. {
            let install = lock(&self.install);
            let current = self.view();
            let mut next = View::clone(&current);
            let tags = change(&mut next);
            if ahead.holds(&current, &tags) {
                next.take_newest(ahead);
            } else if round < ROUNDS {
                drop(install);
                ahead = self.look_ahead(change);
                continue;
            } else {
                next.renew_latest(tags);
            }
            next.edition += 1;
            return self.swap(next);
        }
    }

    /// Tries again to find latest samples that could not be read.
    pub(crate) fn renew_stale(&self) {
        if !self.view().stale.is_empty() {
            let mut change = |view: &mut View| BTreeSet::clone(&view.stale);
            self.show(self.look_ahead(&mut change), &mut change);
        }
    }
}

impl View {
    /// Finds the latest samples of tags anew.
    pub(crate) fn renew_latest(&mut self, tags: BTreeSet<TagId>) {
        self.take_newest(Ahead::of(self.clone(), tags));
    }

    /// Takes over what was found.
    pub(crate) fn take_newest(&mut self, ahead: Ahead) {
        let Ahead { view, tags, newest } = ahead;
        if tags.is_empty() || planted::is(Bug::LatestNotRenewed) {
            return;
        }
        for (tag, found) in newest.entries {
            let later = self.head.runs.iter().filter(|run| run.min_seq > view.durable_seq);
            let later = later.filter_map(|run| Entry::newest_in(run, tag));
            let is_newer = |entry: &Option<Entry>, later: &Entry| {
                entry.as_ref().is_none_or(|entry| entry.time_ns <= later.time_ns)
            };
            let entry =
                later.fold(
                    found,
                    |entry, later| {
                        if is_newer(&entry, &later) { Some(later) } else { entry }
                    },
                );
            self.latest.set(tag, entry);
        }
        if !self.stale.is_empty() || !newest.unread.is_empty() {
            let stale = Arc::make_mut(&mut self.stale);
            stale.retain(|tag| !tags.contains(tag));
            stale.extend(newest.unread);
        }
    }
}
