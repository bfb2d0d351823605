//! What a token may make in a day: tags, names of gateways, idempotency keys and more. Each of them is kept for ever, so
//! that whoever makes them up without end would fill the memory.
//!
//! Contract: a [`Share`] is taken before the work; what was not spent of it when it is dropped is given back. Days are of
//! UTC, counts of this run of the server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

const DAY_S: i64 = 86_400;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Made {
    /// Tags that were made known.
    Tags,
    /// Names that gateways send under.
    Gateways,
    /// Idempotency keys.
    Keys,
    /// Aliases, and tags of tag sets.
    Places,
    /// Labels of states.
    Labels,
}

/// How much each token has made today.
#[derive(Debug, Default)]
pub struct Shares {
    today: Mutex<Today>,
}

#[derive(Debug, Default)]
struct Today {
    day: i64,
    used: HashMap<(Arc<str>, Made), u64>,
}

/// What somebody may make now.
#[derive(Debug)]
#[must_use = "a share that is not held is given back"]
pub struct Share<'a> {
    shares: &'a Shares,
    /// Whose it is, and of which day; nobody's if nothing is counted.
    of: Option<(Arc<str>, Made, i64)>,
    count: u64,
    spent: u64,
}

impl Shares {
    /// Takes so many, or as many as are left of `most`; without a bound all of them.
    pub(super) fn take(
        &self,
        (id, made): (&Arc<str>, Made),
        wanted: u64,
        most: Option<u64>,
        now_s: i64,
    ) -> Share<'_> {
        let Some(most) = most else {
            return Share { shares: self, of: None, count: wanted, spent: 0 };
        };
        let day = now_s.div_euclid(DAY_S);
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != day {
            *today = Today { day, used: HashMap::new() };
        }
        let used = today.used.entry((Arc::clone(id), made)).or_default();
        let count = wanted.min(most.saturating_sub(*used));
        *used += count;
        Share { shares: self, of: Some((Arc::clone(id), made, day)), count, spent: 0 }
    }
}

impl Share<'_> {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// So many were made of it.
    pub fn spend(&mut self, count: u64) {
        self.spent = self.spent.saturating_add(count).min(self.count);
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let Some((id, made, day)) = self.of.take() else { return };
        let mut today = self.shares.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day == day
            && let Some(used) = today.used.get_mut(&(id, made))
        {
            *used = used.saturating_sub(self.count - self.spent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_spent_is_given_back_and_the_next_day_begins_anew() {
        let (shares, id) = (Shares::default(), Arc::from("a1"));
        let take = |made, wanted, now_s| shares.take((&id, made), wanted, Some(5), now_s);
        let mut first = take(Made::Tags, 3, 10);
        first.spend(1);
        assert_eq!(take(Made::Tags, 9, 10).count(), 2, "while the first is held");
        drop(first);
        assert_eq!(take(Made::Tags, 9, 10).count(), 4);
        assert_eq!(take(Made::Keys, 9, 10).count(), 5, "counted by itself");
        let mut old = take(Made::Tags, 9, DAY_S - 1);
        let mut new = take(Made::Tags, 5, DAY_S);
        new.spend(5);
        old.spend(1);
        drop((old, new));
        assert_eq!(take(Made::Tags, 1, DAY_S).count(), 0, "of the day before nothing comes back");
        assert_eq!(shares.take((&id, Made::Tags), 1 << 40, None, DAY_S).count(), 1 << 40);
    }
}
