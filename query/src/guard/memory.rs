//! Memory of one statement: its own share of what all have.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// A pool that takes from another, and never more than its share.
///
/// Operators of one statement share fairly among themselves; those that can spill do when the share or the common pool is
/// used up.
#[derive(Debug)]
pub(crate) struct StatementPool {
    own: FairSpillPool,
    common: Arc<dyn MemoryPool>,
    share_bytes: usize,
}

impl StatementPool {
    /// A share of a pool.
    pub(crate) fn new(common: Arc<dyn MemoryPool>, share_bytes: usize) -> Self {
        Self { own: FairSpillPool::new(share_bytes), common, share_bytes }
    }
}

impl fmt::Display for StatementPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement({}) of {}", self.share_bytes, self.common)
    }
}

impl MemoryPool for StatementPool {
    fn name(&self) -> &'static str {
        "statement"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
        self.common.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
        self.common.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.common.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.common.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.own.try_grow(reservation, additional)?;
        self.common
            .try_grow(reservation, additional)
            .inspect_err(|_| self.own.shrink(reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.share_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_its_share_and_gives_it_back() {
        let common: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(150));
        let pool =
            || -> Arc<dyn MemoryPool> { Arc::new(StatementPool::new(Arc::clone(&common), 100)) };
        let (first, second) = (pool(), pool());
        let of_first = MemoryConsumer::new("a").register(&first);
        let of_second = MemoryConsumer::new("b").register(&second);
        of_first.try_grow(100).unwrap();
        assert!(of_first.try_grow(1).is_err(), "beyond its share");
        assert!(of_second.try_grow(60).is_err(), "beyond what is left");
        of_second.try_grow(50).unwrap();
        assert_eq!((first.reserved(), second.reserved(), common.reserved()), (100, 50, 150));
        drop(of_first);
        of_second.try_grow(50).unwrap();
        drop(of_second);
        assert_eq!((first.reserved(), second.reserved(), common.reserved()), (0, 0, 0));
    }
}
