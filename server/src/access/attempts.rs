//! Failed logins: how many an address may have.
//!
//! No account is ever locked, which would let anybody lock out anybody; the address that fails too often waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures an address may have at once.
const BURST: u32 = 10;
/// After this time it may have one more.
const EACH: Duration = Duration::from_secs(6);
/// Addresses that are remembered; beyond, the ones that have waited longest are forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Who has failed how often.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: Mutex<HashMap<IpAddr, Failed>>,
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

    fn may_at(&self, address: IpAddr, now: Instant) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(&address).is_none_or(|known| known.at(now).count < BURST)
    }

    fn failed_at(&self, address: IpAddr, now: Instant) {
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
    fn a_crowd_of_addresses_takes_bounded_memory() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..ADDRESSES_MAX + 50 {
            let address = IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(number).unwrap()));
            attempts.failed_at(address, now);
        }
        assert!(attempts.failed.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
