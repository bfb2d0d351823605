//! Failed logins, and calls that were refused: how many an address may have.
//!
//! No account is ever locked, which would let anybody lock out anybody; the address that fails too often hears of it late.
//! Whoever has IPv6 has a /64 of it, which counts as one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Failures an address may have at once.
const BURST: u32 = 10;
/// After this time it may have one more.
const EACH: Duration = Duration::from_secs(6);
/// Addresses that are remembered; beyond, the ones that have waited longest are forgotten.
const ADDRESSES_MAX: usize = 10_000;
/// How late an address hears of a failure beyond those.
const LATE: Duration = Duration::from_secs(3);
/// Refusals that are late at once. Those beyond are told at once: they would take places of others.
const LATE_MAX: usize = 256;
/// Tries that were not told one by one are told together so often.
const TOGETHER: Duration = Duration::from_mins(1);
/// Bits of an IPv6 address that say whose it is.
const NETWORK_BITS: u32 = 64;

/// Who has failed how often.
#[derive(Debug)]
pub struct Attempts {
    failed: Mutex<HashMap<IpAddr, Failed>>,
    late: Semaphore,
    pub(super) late_by: Duration,
    untold: Mutex<Untold>,
}

/// Tries that the log has not been told of.
#[derive(Debug, Default)]
struct Untold {
    count: u64,
    told: Option<Instant>,
}

impl Default for Attempts {
    fn default() -> Self {
        let late = Semaphore::new(LATE_MAX);
        Self { failed: Mutex::default(), late, late_by: LATE, untold: Mutex::default() }
    }
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    count: u32,
    since: Instant,
}

impl Failed {
    /// What is left of it at an instant.
    fn at(self, now: Instant) -> Self {
        let waited = now.saturating_duration_since(self.since).as_millis() / EACH.as_millis();
        let forgiven = u32::try_from(waited).unwrap_or(u32::MAX);
        if forgiven == 0 {
            return self;
        }
        Self { count: self.count.saturating_sub(forgiven), since: now }
    }
}

impl Attempts {
    /// Whether an address may try.
    pub fn may(&self, address: IpAddr) -> bool {
        self.may_at(address, Instant::now())
    }

    /// Notes that it failed.
    pub fn failed(&self, address: IpAddr) {
        self.failed_at(address, Instant::now());
    }

    /// Lets a refusal be late, unless too many are.
    pub async fn wait(&self) {
        if let Ok(_place) = self.late.try_acquire() {
            tokio::time::sleep(self.late_by).await;
        }
    }

    /// Counts a try that is not told by itself.
    pub fn suppress(&self) {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).count += 1;
    }

    /// How many tries are to be told together now, if it is time and there are any.
    pub fn take_untold(&self) -> Option<u64> {
        self.take_untold_at(Instant::now())
    }

    fn take_untold_at(&self, now: Instant) -> Option<u64> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let is_early = untold.told.is_some_and(|told| now.duration_since(told) < TOGETHER);
        if untold.count == 0 || is_early {
            return None;
        }
        untold.told = Some(now);
        Some(std::mem::take(&mut untold.count))
    }

    fn may_at(&self, address: IpAddr, now: Instant) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(&network(address)).is_none_or(|known| known.at(now).count < BURST)
    }

    fn failed_at(&self, address: IpAddr, now: Instant) {
        let address = network(address);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= ADDRESSES_MAX && !failed.contains_key(&address) {
            failed.retain(|_, known| known.at(now).count > 0);
            if failed.len() >= ADDRESSES_MAX {
                let oldest = failed.iter().min_by_key(|(_, known)| known.since).map(|(ip, _)| *ip);
                oldest.map(|oldest| failed.remove(&oldest));
            }
        }
        let known = failed.entry(address).or_insert(Failed { count: 0, since: now });
        *known = known.at(now);
        known.count = known.count.saturating_add(1);
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> NETWORK_BITS << NETWORK_BITS;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits_and_others_do_not() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let [eve, bob] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        for _ in 0..BURST {
            assert!(attempts.may_at(eve, now));
            attempts.failed_at(eve, now);
        }
        assert!(!attempts.may_at(eve, now) && attempts.may_at(bob, now));
        assert!(attempts.may_at(eve, now + EACH));
        attempts.failed_at(eve, now + EACH);
        assert!(!attempts.may_at(eve, now + EACH));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_ipv4_within_it_is_ipv4() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for number in 0..BURST {
            attempts.failed_at(address(&format!("2001:db8:0:1::{number:x}")), now);
            attempts.failed_at(address("::ffff:10.0.0.1"), now);
        }
        for (text, may) in [
            ("2001:db8:0:1:ffff::", false),
            ("2001:db8:0:2::1", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.2", true),
        ] {
            assert_eq!(attempts.may_at(address(text), now), may, "{text}");
        }
    }

    #[tokio::test]
    async fn so_many_refusals_are_late_and_no_more() {
        let attempts = Attempts { late_by: Duration::from_hours(1), ..Attempts::default() };
        let soon = Duration::from_millis(5);
        assert!(tokio::time::timeout(soon, attempts.wait()).await.is_err());
        let all = attempts.late.try_acquire_many(u32::try_from(LATE_MAX).unwrap()).unwrap();
        attempts.wait().await;
        drop(all);
        assert!(tokio::time::timeout(soon, attempts.wait()).await.is_err());
    }

    #[test]
    fn what_is_not_told_by_itself_is_told_together() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        assert_eq!(attempts.take_untold_at(now), None);
        attempts.suppress();
        assert_eq!(attempts.take_untold_at(now), Some(1));
        (0..5).for_each(|_| attempts.suppress());
        assert_eq!(attempts.take_untold_at(now), None);
        assert_eq!(attempts.take_untold_at(now + TOGETHER), Some(5));
        assert_eq!(attempts.take_untold_at(now + 2 * TOGETHER), None);
    }

    #[test]
    fn a_crowd_of_addresses_takes_bounded_memory() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..ADDRESSES_MAX + 50 {
            let address = IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(number).unwrap()));
            attempts.failed_at(address, now);
        }
        assert!(attempts.failed.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
