//! How fast a server is caught up with. Pure: whoever asks brings the time.

use std::time::Duration;

/// A bucket of samples that fills at a rate, up to what one second brings.
///
/// A batch goes as a whole while anything is in the bucket, and may leave it in debt: so a batch that is larger than the
/// bucket is sent, too, and the rate holds on average.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Samples a second; 0: no limit.
    rate: u64,
    samples: f64,
    /// When it was looked at last, since some instant that never changes.
    at: Duration,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(rate: Option<u64>) -> Self {
        let rate = rate.unwrap_or_default();
        Self { rate, samples: rate as f64, at: Duration::ZERO }
    }

    /// Whether there is no limit.
    pub(super) fn is_open(&self) -> bool {
        self.rate == 0
    }

    /// How long to wait before the next batch may go; none if it may go now.
    pub(super) fn wait(&mut self, now: Duration) -> Option<Duration> {
        if self.is_open() {
            return None;
        }
        let rate = self.rate as f64;
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        self.samples = (self.samples + passed.as_secs_f64() * rate).min(rate);
        let missing = 1.0_f64.min(rate) - self.samples;
        (missing > 0.0).then(|| Duration::from_secs_f64((missing / rate).max(1e-3)))
    }

    /// A batch of so many samples goes.
    pub(super) fn take(&mut self, samples: u32) {
        self.samples -= f64::from(samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::random::Random;

    /// However the batches are cut, over any time no more goes than the rate, one bucket and one batch.
    #[test]
    fn the_rate_holds_on_average_and_is_used() {
        let mut random = Random::seeded();
        let _case = random.case();
        for _ in 0..50 {
            let rate = 1 + random.below(5_000);
            let largest = 1 + random.below(20_000);
            let mut bucket = Bucket::new(Some(rate));
            let (mut now, mut sent) = (Duration::ZERO, 0);
            for _ in 0..200 {
                let mut turns = 0;
                while let Some(wait) = bucket.wait(now) {
                    now += wait;
                    turns += 1;
                    assert!(turns < 3, "what it says to wait is enough");
                }
                let samples = 1 + random.below(largest);
                bucket.take(u32::try_from(samples).unwrap());
                sent += samples;
                let most = (now.as_secs_f64() + 1.0) * rate as f64 + largest as f64;
                assert!(sent as f64 <= most + 1.0, "{sent} in {now:?} at {rate}");
                let least = now.as_secs_f64() * rate as f64 * 0.9 - rate as f64;
                assert!(sent as f64 >= least, "only {sent} in {now:?} at {rate}");
            }
        }
    }

    #[test]
    fn without_a_rate_nothing_waits_and_a_clock_that_stands_still_is_no_harm() {
        let mut open = Bucket::new(None);
        open.take(u32::MAX);
        assert_eq!(open.wait(Duration::ZERO), None);
        let mut bucket = Bucket::new(Some(10));
        let now = Duration::from_secs(5);
        assert_eq!(bucket.wait(now), None);
        bucket.take(20);
        let wait = bucket.wait(now).unwrap();
        assert_eq!(bucket.wait(Duration::from_secs(4)).unwrap(), wait);
    }
}
