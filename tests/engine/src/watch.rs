//! Readers that run beside the writers and judge every snapshot they get.
//!
//! # Contract
//! A [`Watch`] reads each snapshot twice, with time in between: it must not change. It keeps the seq and a digest of what
//! it saw; [`Watch::check`] holds these against what the rows were at that seq.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tagmill_storage::disk::sim::Random;
use tagmill_storage::{Engine, Seq};

use crate::model::{digest, pairs};
use crate::observe;

/// Threads that read an engine.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    readers: Vec<JoinHandle<Vec<(Seq, u64)>>>,
}

impl Watch {
    /// Starts `readers` threads on `engine`.
    pub fn start(engine: &Arc<Engine>, readers: u64, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let readers = (0..readers).map(|number| {
            let (engine, stop) = (Arc::clone(engine), Arc::clone(&stop));
            std::thread::spawn(move || watch(&engine, &stop, Random::new(seed ^ number)))
        });
        let readers = readers.collect();
        Self { stop, readers }
    }

    /// Ends the readers and judges what they saw by `history`: seq and digest after each change, in order.
    ///
    /// # Panics
    /// If a snapshot changed, went back, or showed what never was.
    pub fn check(self, history: &[(Seq, u64)]) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let mut checked = 0;
        for reader in self.readers {
            let seen = reader.join().expect("a reader found a fault");
            for (seq, digest) in &seen {
                let last = history.partition_point(|(at, _)| at <= seq);
                let (at, _) = history[..last].last().expect("history begins with the open");
                let mut states = history[..last].iter().rev().take_while(|(other, _)| other == at);
                let is_known = states.any(|(_, state)| state == digest);
                assert!(is_known, "at seq {seq}, after the change at {at}: it never was so");
            }
            checked += seen.len();
        }
        checked
    }
}

fn watch(engine: &Engine, stop: &AtomicBool, mut random: Random) -> Vec<(Seq, u64)> {
    let mut seen: Vec<(Seq, u64)> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let snapshot = engine.snapshot();
        let read = || observe::read(&snapshot, &observe::everything()).expect("rows can be read");
        let first = digest(pairs(&read()));
        std::thread::sleep(Duration::from_micros(random.below(3_000)));
        assert_eq!(digest(pairs(&read())), first, "the snapshot of seq {} changed", snapshot.seq());
        let before = seen.last().map_or(Seq(0), |last| last.0);
        assert!(before <= snapshot.seq(), "the newest snapshot went back");
        seen.push((snapshot.seq(), first));
    }
    seen
}
