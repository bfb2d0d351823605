//! What the plant has sent, kept in plain vectors: the second opinion the demo checks the
//! database's answers against.
//!
//! Contract: batches are taken in the order of their arrival; after [`Ledger::settle`] each tag's
//! samples ascend in time and of several samples at one instant only the last to arrive is left.
//!
//! It shares no code with the engine but the nouns of a batch.

use std::sync::Arc;

use tagmill_storage::{Batch, Quality, Severity, Value, Values};

/// Samples of one tag. The vectors are as long as `times`; one of `numbers` and `texts` is empty.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// Source times, nanoseconds.
    pub times: Vec<i64>,
    /// Values of every type but text.
    pub numbers: Vec<f64>,
    /// Values of a text tag.
    pub texts: Vec<Arc<str>>,
    /// Qualities.
    pub qualities: Vec<Quality>,
}

impl Track {
    /// Positions with `start_ns <= time < end_ns`, once settled.
    pub fn within(&self, (start_ns, end_ns): (i64, i64)) -> std::ops::Range<usize> {
        let at = |ns| self.times.partition_point(|&time| time < ns);
        at(start_ns)..at(end_ns)
    }

    /// What SQL calls `value`: null when Bad or not finite.
    pub fn value(&self, index: usize) -> Option<f64> {
        let number = *self.numbers.get(index)?;
        (self.severity(index) != Severity::Bad && number.is_finite()).then_some(number)
    }

    /// Severity of a sample's quality.
    pub fn severity(&self, index: usize) -> Severity {
        self.qualities[index].severity()
    }

    fn push(&mut self, time_ns: i64, value: Value, quality: Quality) {
        self.times.push(time_ns);
        self.qualities.push(quality);
        match value {
            Value::F64(x) => self.numbers.push(x),
            Value::F32(x) => self.numbers.push(f64::from(x)),
            Value::I64(x) => self.numbers.push(x as f64),
            Value::Bool(x) => self.numbers.push(f64::from(u8::from(x))),
            Value::State(x) => self.numbers.push(f64::from(x)),
            Value::Text(x) => self.texts.push(x),
        }
    }

    fn settle(&mut self) {
        if self.times.is_sorted_by(|a, b| a < b) {
            return;
        }
        let mut order: Vec<usize> = (0..self.times.len()).collect();
        // Stable: samples of one instant stay in the order they arrived in.
        order.sort_by_key(|&index| self.times[index]);
        let last = order.len().saturating_sub(1);
        let kept: Vec<usize> = (0..order.len())
            .filter(|&at| at == last || self.times[order[at]] != self.times[order[at + 1]])
            .map(|at| order[at])
            .collect();
        self.times = kept.iter().map(|&index| self.times[index]).collect();
        self.qualities = kept.iter().map(|&index| self.qualities[index]).collect();
        if self.texts.is_empty() {
            self.numbers = kept.iter().map(|&index| self.numbers[index]).collect();
        } else {
            self.texts = kept.iter().map(|&index| Arc::clone(&self.texts[index])).collect();
        }
    }
}

/// Samples of all tags.
#[derive(Clone, Debug)]
pub struct Ledger {
    tracks: Vec<Track>,
    arrived: u64,
}

impl Ledger {
    /// A ledger of so many tags.
    pub fn new(tags: usize) -> Self {
        Self { tracks: vec![Track::default(); tags], arrived: 0 }
    }

    /// Enters a batch whose tag ids are the signals' numbers.
    ///
    /// # Panics
    /// If its columns are not as long as their times, or a tag is none of the ledger's.
    pub fn take(&mut self, batch: &Batch) {
        for column in &batch.columns {
            let track = &mut self.tracks[column.tag.index()];
            for (index, &time_ns) in column.times.iter().enumerate() {
                let value = column.values.get(index).expect("a column has a value for each time");
                track.push(time_ns, value, column.qualities.at(index));
            }
            self.arrived += column.times.len() as u64;
        }
        for scan in &batch.scans {
            let width = scan.tags.len();
            for (place, tag) in scan.tags.iter().enumerate() {
                let track = &mut self.tracks[tag.index()];
                for (cycle, &time_ns) in scan.times.iter().enumerate() {
                    let cell = cycle * width + place;
                    if scan.missing.get(cell) != Some(&true) {
                        track.push(time_ns, Value::F64(scan.values[cell]), scan.qualities.at(cell));
                        self.arrived += 1;
                    }
                }
            }
        }
    }

    /// Puts samples in order; of one instant the last to arrive stays.
    pub fn settle(&mut self) {
        self.tracks.iter_mut().for_each(Track::settle);
    }

    /// One tag's samples.
    pub fn track(&self, signal: usize) -> &Track {
        &self.tracks[signal]
    }

    /// Samples that arrived, repetitions and corrections included.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Samples that are left whose quality is Uncertain, and those whose quality is Bad.
    pub fn untrusted(&self) -> [usize; 2] {
        [Severity::Uncertain, Severity::Bad].map(|severity| {
            let qualities = self.tracks.iter().flat_map(|track| &track.qualities);
            qualities.filter(|quality| quality.severity() == severity).count()
        })
    }

    /// Samples that are left: one for each tag and instant.
    pub fn rows(&self) -> u64 {
        self.tracks.iter().map(|track| track.times.len() as u64).sum()
    }
}

/// Number of samples a batch holds, cells without one left out.
pub fn samples(batch: &Batch) -> u64 {
    let missing: usize = batch
        .scans
        .iter()
        .map(|scan| scan.missing.iter().filter(|&&missing| missing).count())
        .sum();
    (batch.len() - missing) as u64
}

/// An empty column's values that can hold a value like this one.
pub fn values_like(value: &Value) -> Values {
    Values::empty(value.value_type())
}

#[cfg(test)]
mod tests {
    use tagmill_storage::{Qualities, ScanBlock, TagColumn, TagId};

    use super::*;

    #[test]
    fn the_last_to_arrive_wins_an_instant() {
        let column = |times: Vec<i64>, values: Vec<f64>| TagColumn {
            tag: TagId(1),
            times,
            values: Values::F64(values),
            qualities: Qualities::GOOD,
        };
        let mut ledger = Ledger::new(2);
        let columns = vec![column(vec![30, 10, 30], vec![1.0, 2.0, 3.0])];
        ledger.take(&Batch { columns, ..Batch::default() });
        let columns = vec![column(vec![10, 20], vec![4.0, f64::NAN])];
        let scans = vec![ScanBlock {
            tags: Arc::from([TagId(0), TagId(1)]),
            times: vec![40, 50],
            values: vec![5.0, 6.0, 7.0, 8.0],
            missing: vec![false, true, false, false],
            qualities: Qualities::Uniform(Quality::BAD),
        }];
        let batch = Batch { columns, scans, ..Batch::default() };
        assert_eq!(samples(&batch), 5);
        ledger.take(&batch);
        assert_eq!(ledger.arrived(), 8);
        ledger.settle();
        assert_eq!(ledger.rows(), 6);
        assert_eq!(ledger.untrusted(), [0, 3]);
        assert_eq!(ledger.track(0).times, [40, 50]);
        let track = ledger.track(1);
        assert_eq!(track.times, [10, 20, 30, 50]);
        let values: Vec<_> = (0..4).map(|index| track.value(index)).collect();
        assert_eq!(values, [Some(4.0), None, Some(3.0), None]);
        assert_eq!(track.within((10, 30)), 0..2);
    }
}
