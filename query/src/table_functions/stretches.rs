//! Stretches of time from changes: arithmetic, no SQL. Merges those a short gap apart and drops those that are too short.
//!
//! A stretch is opened, told what values it meets, and closed; it comes out once nothing can be merged into it any more.
//! `K` is what two stretches must share to be merged: the value they show, or nothing for a condition.

/// A stretch of time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stretch<K> {
    pub(crate) start_ns: i64,
    pub(crate) end_ns: i64,
    pub(crate) key: K,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
    /// Whether it was so already when the range began.
    pub(crate) cut: bool,
    /// Whether it still is so at the end.
    pub(crate) open: bool,
}

/// Which stretches come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Shorter ones are left out.
    pub(crate) min_ns: i64,
    /// Two are one if no more lies between them.
    pub(crate) merge_ns: i64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stretches<K> {
    keep: Keep,
    current: Option<Stretch<K>>,
    waiting: Option<Stretch<K>>,
}

impl<K: Clone + PartialEq> Stretches<K> {
    pub(crate) fn new(keep: Keep) -> Self {
        Self { keep, current: None, waiting: None }
    }

    /// The stretch that is open now.
    pub(crate) fn current(&self) -> Option<&Stretch<K>> {
        self.current.as_ref()
    }

    /// Opens a stretch. What can no longer be merged comes out.
    pub(crate) fn open(&mut self, start_ns: i64, key: K, cut: bool, out: &mut Vec<Stretch<K>>) {
        let (least, greatest) = (f64::INFINITY, f64::NEG_INFINITY);
        let fresh = Stretch { start_ns, end_ns: start_ns, key, least, greatest, cut, open: false };
        let near = |waiting: &Stretch<K>| {
            let apart_ns = start_ns.saturating_sub(waiting.end_ns);
            waiting.key == fresh.key && apart_ns <= self.keep.merge_ns
        };
        // Without a merge gap stretches that touch stay apart: one of them was closed for a reason.
        let merged = self.waiting.take_if(|waiting| self.keep.merge_ns > 0 && near(waiting));
        if merged.is_none() {
            self.flush(out);
        }
        self.current = Some(merged.unwrap_or(fresh));
    }

    /// Tells the open stretch of a value.
    pub(crate) fn meet(&mut self, value: f64) {
        if let Some(current) = &mut self.current {
            current.least = current.least.min(value);
            current.greatest = current.greatest.max(value);
        }
    }

    /// Closes the open stretch, if there is one.
    pub(crate) fn close(&mut self, end_ns: i64) {
        if let Some(current) = self.current.take() {
            self.waiting = Some(Stretch { end_ns, ..current });
        }
    }

    /// Ends everything. A stretch that is open stays so.
    pub(crate) fn finish(&mut self, end_ns: i64, out: &mut Vec<Stretch<K>>) {
        if let Some(current) = self.current.take() {
            self.waiting = Some(Stretch { end_ns, open: true, ..current });
        }
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<Stretch<K>>) {
        let Some(done) = self.waiting.take() else { return };
        let length_ns = done.end_ns.saturating_sub(done.start_ns);
        if length_ns > 0 && length_ns >= self.keep.min_ns {
            out.push(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_storage::disk::sim::Random;

    fn kept(keep: Keep, pieces: &[(i64, i64, u8)]) -> Vec<(i64, i64, u8)> {
        let (mut all, mut out) = (Stretches::new(keep), Vec::new());
        for &(start, end, key) in pieces {
            all.open(start, key, false, &mut out);
            all.close(end);
        }
        all.finish(i64::MAX, &mut out);
        out.iter().map(|it| (it.start_ns, it.end_ns, it.key)).collect()
    }

    #[test]
    fn merges_first_and_drops_then() {
        let pieces = [(0, 4, 1), (6, 10, 1), (20, 24, 1), (26, 30, 2)];
        let keep = |min_ns, merge_ns| Keep { min_ns, merge_ns };
        assert_eq!(kept(keep(0, 0), &pieces), pieces);
        assert_eq!(kept(keep(0, 2), &pieces), [(0, 10, 1), (20, 24, 1), (26, 30, 2)]);
        assert_eq!(kept(keep(5, 2), &pieces), [(0, 10, 1)]);
        assert_eq!(kept(keep(5, 0), &pieces), []);
    }

    #[test]
    fn what_is_open_at_the_end_is_flagged() {
        let (mut all, mut out) = (Stretches::new(Keep { min_ns: 0, merge_ns: 0 }), Vec::new());
        all.open(5, (), true, &mut out);
        all.meet(3.0);
        all.meet(-1.0);
        all.finish(9, &mut out);
        let want = Stretch {
            start_ns: 5,
            end_ns: 9,
            key: (),
            least: -1.0,
            greatest: 3.0,
            cut: true,
            open: true,
        };
        assert_eq!(out, [want]);
    }

    /// The result is that of merging a list of stretches pair by pair until nothing changes.
    #[test]
    fn equals_merging_pair_by_pair() {
        let mut random = Random::new(4);
        for _ in 0..500 {
            let mut at = 0;
            let mut pieces = Vec::new();
            for _ in 0..random.below(20) {
                let start = at + 1 + random.below(8).cast_signed();
                at = start + 1 + random.below(8).cast_signed();
                pieces.push((start, at, u8::from(random.once_in(2))));
            }
            let (min_ns, merge_ns) =
                (random.below(12).cast_signed(), random.below(6).cast_signed());
            let mut naive = pieces.clone();
            let near = |a: &(i64, i64, u8), b: &(i64, i64, u8)| a.2 == b.2 && b.0 - a.1 <= merge_ns;
            while let Some(i) = naive.windows(2).position(|w| merge_ns > 0 && near(&w[0], &w[1])) {
                naive[i].1 = naive[i + 1].1;
                naive.remove(i + 1);
            }
            naive.retain(|it| it.1 - it.0 >= min_ns);
            assert_eq!(kept(Keep { min_ns, merge_ns }, &pieces), naive, "{pieces:?}");
        }
    }
}
