//! Places for statements that are being planned: so many at once, and of each asker three fourths of them.
//!
//! # Contract
//! A place is taken until it is dropped, whether or not anybody still waits for the plan: what a thread does is not ended
//! from outside. Whoever keeps all places of its own from coming free keeps none from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::PLANS_MAX;

/// Places of one asker.
const OWN_MAX: usize = PLANS_MAX * 3 / 4;

/// All places.
#[derive(Debug)]
pub(crate) struct PlanPlaces {
    all: Arc<Semaphore>,
    /// Those of each asker that has an id: as many as there are tokens.
    own: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

/// One of them.
pub(crate) type PlanPlace = Vec<OwnedSemaphorePermit>;

impl Default for PlanPlaces {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(PLANS_MAX)), own: Mutex::default() }
    }
}

impl PlanPlaces {
    /// Waits for a place: first among one's own, where nobody else waits for it.
    pub(crate) async fn take(&self, asker: &Arc<str>) -> PlanPlace {
        let mut held = PlanPlace::with_capacity(2);
        if !asker.is_empty() {
            let own = Arc::clone(
                self.own
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(Arc::clone(asker))
                    .or_insert_with(|| Arc::new(Semaphore::new(OWN_MAX))),
            );
            // The semaphores are never closed.
            held.extend(own.acquire_owned().await.ok());
        }
        held.extend(Arc::clone(&self.all).acquire_owned().await.ok());
        held
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_asker_leaves_places_to_others() {
        let places = PlanPlaces::default();
        let (one, other, nobody) = (Arc::from("one"), Arc::from("other"), Arc::from(""));
        let soon = Duration::from_millis(5);
        let mut held = Vec::new();
        for _ in 0..OWN_MAX {
            held.push(places.take(&one).await);
        }
        assert!(tokio::time::timeout(soon, places.take(&one)).await.is_err());
        for _ in OWN_MAX..PLANS_MAX {
            held.push(tokio::time::timeout(soon, places.take(&other)).await.unwrap());
        }
        assert!(tokio::time::timeout(soon, places.take(&nobody)).await.is_err());
        held.clear();
        for _ in 0..PLANS_MAX {
            held.push(tokio::time::timeout(soon, places.take(&nobody)).await.unwrap());
        }
    }
}
