//! What to do next: state in, task out. Pure.

use std::time::Duration;

use crate::limits::{FOLD_AGE, FOLD_ROWS, FOLD_RUNS};
use crate::options::Options;

/// What the engine looks like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Situation {
    pub(super) head_bytes: u64,
    pub(super) wal_bytes: u64,
    pub(super) has_rows: bool,
    pub(super) unfolded_runs: usize,
    pub(super) unfolded_rows: usize,
    pub(super) unfolded_age: Option<Duration>,
    pub(super) unsealed_age: Option<Duration>,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Rest,
    Fold,
    Seal,
}

/// A seal starts at half of the head, so that appends rarely have to wait for it.
pub(super) fn plan(now: &Situation, options: &Options) -> Task {
    let is_full = now.head_bytes >= options.head_bytes / 2;
    let is_old = now.unsealed_age.is_some_and(|age| age >= options.seal_age);
    if (now.has_rows && (is_full || is_old)) || now.wal_bytes >= options.wal_bytes {
        return Task::Seal;
    }
    let is_due = now.unfolded_age.is_some_and(|age| age >= FOLD_AGE);
    let is_many = now.unfolded_rows >= FOLD_ROWS || now.unfolded_runs >= FOLD_RUNS;
    if now.unfolded_runs > 0 && (is_due || is_many) {
        return Task::Fold;
    }
    Task::Rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_starts_its_task() {
        let options = Options { head_bytes: 1 << 20, wal_bytes: 1 << 20, ..Options::default() };
        let rest = Situation { has_rows: true, unfolded_runs: 2, ..Situation::default() };
        assert_eq!(plan(&rest, &options), Task::Rest);
        let old = Some(Duration::from_secs(1_000_000));
        let cases = [
            (Situation { head_bytes: 1 << 19, ..rest }, Task::Seal),
            (Situation { head_bytes: 1 << 19, has_rows: false, ..rest }, Task::Rest),
            (Situation { wal_bytes: 1 << 20, has_rows: false, ..rest }, Task::Seal),
            (Situation { unsealed_age: old, ..rest }, Task::Seal),
            (Situation { unfolded_age: old, ..rest }, Task::Fold),
            (Situation { unfolded_rows: FOLD_ROWS, ..rest }, Task::Fold),
            (Situation { unfolded_runs: FOLD_RUNS, ..rest }, Task::Fold),
            (Situation { unfolded_age: old, unfolded_runs: 0, ..rest }, Task::Rest),
        ];
        for (situation, task) in cases {
            assert_eq!(plan(&situation, &options), task, "{situation:?}");
        }
    }
}
