//! Counts the samples of a tag that come at an instant it has had before: those that merge.
//!
//! Contract: exact until all trackers of an import together remember [`Budget::LIMIT`] entries; from then on what
//! they count is a lower bound and says so. Times that only rise cost next to nothing: they are kept as runs of equal
//! distances, and turned into a set only for a tag whose times step back.

use std::collections::HashSet;

/// What all trackers of an import together may remember.
#[derive(Debug, Default)]
pub struct Budget {
    used: usize,
}

impl Budget {
    /// Entries, of 12 to 20 bytes each.
    pub const LIMIT: usize = 24 << 20;

    /// Whether counts are lower bounds.
    pub const fn is_spent(&self) -> bool {
        self.used >= Self::LIMIT
    }
}

/// How a time stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Later than all before.
    Forward,
    /// Earlier than the latest, and new as far as is remembered.
    Back,
    /// An instant that was there before.
    Repeat,
}

/// The times one tag has had.
#[derive(Debug, Default)]
pub struct Tracker {
    first: i64,
    last: Option<i64>,
    count: usize,
    runs: Vec<(i64, u32)>,
    seen: Option<HashSet<i64>>,
}

impl Tracker {
    /// Adds a time.
    pub fn add(&mut self, time: i64, budget: &mut Budget) -> Step {
        let Some(last) = self.last else {
            (self.first, self.last, self.count) = (time, Some(time), 1);
            return Step::Forward;
        };
        if time > last {
            self.last = Some(time);
            self.remember(time, time.wrapping_sub(last), budget);
            return Step::Forward;
        }
        if self.seen.is_none() {
            self.expand(budget);
        }
        let is_new = match &mut self.seen {
            Some(seen) if budget.is_spent() => !seen.contains(&time),
            Some(seen) => seen.insert(time),
            None => true,
        };
        budget.used += usize::from(is_new);
        if is_new && time < last { Step::Back } else { Step::Repeat }
    }

    fn remember(&mut self, time: i64, distance: i64, budget: &mut Budget) {
        if budget.is_spent() {
            return;
        }
        self.count += 1;
        if let Some(seen) = &mut self.seen {
            seen.insert(time);
            budget.used += 1;
        } else if let Some((_, count)) =
            self.runs.last_mut().filter(|(d, count)| *d == distance && *count < u32::MAX)
        {
            *count += 1;
        } else {
            self.runs.push((distance, 1));
            budget.used += 1;
        }
    }

    fn expand(&mut self, budget: &mut Budget) {
        if budget.used + self.count > Budget::LIMIT {
            budget.used = Budget::LIMIT;
            return;
        }
        let mut seen = HashSet::with_capacity(self.count);
        let mut time = self.first;
        seen.insert(time);
        for (distance, count) in std::mem::take(&mut self.runs) {
            for _ in 0..count {
                time = time.wrapping_add(distance);
                seen.insert(time);
            }
        }
        budget.used += seen.len();
        self.seen = Some(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_forward_back_and_repeat_apart() {
        use Step::{Back, Forward, Repeat};

        let (mut tracker, mut budget) = (Tracker::default(), Budget::default());
        let steps: Vec<_> = [10, 20, 30, 45, 25, 25, 20, 45, 60, 60, 10, 5]
            .into_iter()
            .map(|time| tracker.add(time, &mut budget))
            .collect();
        assert_eq!(
            steps,
            [
                Forward, Forward, Forward, Forward, Back, Repeat, Repeat, Repeat, Forward, Repeat,
                Repeat, Back
            ]
        );
    }

    #[test]
    fn a_grid_costs_one_run() {
        let (mut tracker, mut budget) = (Tracker::default(), Budget::default());
        for time in 0..100_000 {
            assert_eq!(tracker.add(time * 1_000, &mut budget), Step::Forward);
        }
        assert_eq!(tracker.runs.len(), 1);
        assert_eq!(tracker.add(500_000, &mut budget), Step::Repeat);
        assert_eq!(tracker.add(500_001, &mut budget), Step::Back);
    }
}
