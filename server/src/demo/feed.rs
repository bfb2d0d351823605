//! The plant's gateway: reads the instruments in scan cycles and on change, and decides what
//! arrives when.
//!
//! Contract: [`Feed::advance`] lives through some seconds and gives everything that arrives in
//! them as one batch whose tag ids are the signals' numbers. Instruments with troubles are late,
//! Bad, repeated, corrected or silent; what is late waits here until it is due. Same seed, same
//! calls, same batches.
//!
//! It knows neither connection nor database.

use std::collections::BTreeMap;
use std::sync::Arc;

use tagmill_storage::{
    Batch, Qualities, Quality, SECOND_NS, ScanBlock, TagColumn, TagId, Value, ValueType,
};

use super::equipment::Source;
use super::ledger::values_like;
use super::plant::{Plant, Rng};
use super::signals::{Class, Signal, Trouble, signals, single};

/// Seconds of one batch at most: a sample and its repetition never meet in one.
pub const BATCH_S: i64 = 120;
/// How far a value that is reported on change must have moved; states move by 1.
const DEADBAND: f64 = 0.5;

/// The gateway of the simulated plant.
#[derive(Debug)]
pub struct Feed {
    plant: Plant,
    start_ns: i64,
    signals: Arc<[Signal]>,
    cycles: Vec<Cycle>,
    rng: Rng,
    /// Last value shown by each signal, and when.
    shown: Vec<Option<(f64, i64)>>,
    /// Samples on their way, by the second they are due.
    late: BTreeMap<i64, Vec<Sample>>,
    tally: Tally,
}

/// What was not plain in what was sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Samples that arrived minutes or hours after their time.
    pub late: u64,
    /// Samples that replace, or repeat, one that had arrived.
    pub again: u64,
}

/// The tags of one scan class.
#[derive(Debug)]
struct Cycle {
    period_s: i64,
    tags: Arc<[TagId]>,
}

#[derive(Clone, Debug)]
struct Sample {
    signal: usize,
    time_ns: i64,
    value: Value,
    quality: Quality,
}

/// What an instrument shows now.
struct Reading {
    value: f64,
    quality: Quality,
    /// Seconds until it arrives; `None` if it never does.
    delay_s: Option<i64>,
    /// Another sample of the same instant that follows: after so many seconds, with this value.
    again: Option<(i64, f64)>,
}

impl Feed {
    /// The gateway at the first second of the history, which begins at `start_ns`.
    pub fn new(seed: u64, start_ns: i64) -> Self {
        let signals: Arc<[Signal]> = signals().into();
        let cycles = Class::SCANNED.map(|class| {
            let tags = signals.iter().zip(0u32..).filter(|(signal, _)| signal.class == class);
            Cycle { period_s: class.period_s(), tags: tags.map(|(_, id)| TagId(id)).collect() }
        });
        Self {
            plant: Plant::new(seed),
            start_ns,
            shown: vec![None; signals.len()],
            signals,
            cycles: cycles.into(),
            rng: Rng::new(seed, 100),
            late: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    /// Every tag, by its number.
    pub fn signals(&self) -> &Arc<[Signal]> {
        &self.signals
    }

    /// The tag sets of the scan cycles.
    pub fn tag_sets(&self) -> impl Iterator<Item = &Arc<[TagId]>> {
        self.cycles.iter().map(|cycle| &cycle.tags)
    }

    /// What was not plain so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The plant itself.
    pub fn plant(&self) -> &Plant {
        &self.plant
    }

    /// First second not yet lived through.
    pub fn now_s(&self) -> i64 {
        self.plant.now_s()
    }

    /// Lives through so many seconds, at most [`BATCH_S`], and gives what arrives in them.
    ///
    /// # Panics
    /// If asked for more than a batch.
    pub fn advance(&mut self, seconds: i64) -> Batch {
        assert!(seconds <= BATCH_S, "{seconds} s do not fit a batch");
        let mut scans: Vec<Block> =
            self.cycles.iter().map(|cycle| Block::new(&cycle.tags)).collect();
        let mut columns = Columns::default();
        for _ in 0..seconds {
            let second = self.plant.now_s();
            self.plant.step();
            for (index, block) in scans.iter_mut().enumerate() {
                if second % self.cycles[index].period_s == 0 {
                    self.scan(second, block);
                }
            }
            self.watch(second, &mut columns);
        }
        let not_due = self.late.split_off(&self.plant.now_s());
        for sample in std::mem::replace(&mut self.late, not_due).into_values().flatten() {
            columns.push(sample);
        }
        let scans = scans.into_iter().filter_map(Block::finish).collect();
        Batch { columns: columns.finish(), scans, ..Batch::default() }
    }

    /// Everything that is still on its way arrives now.
    pub fn drain(&mut self) -> Batch {
        let mut columns = Columns::default();
        for sample in std::mem::take(&mut self.late).into_values().flatten() {
            columns.push(sample);
        }
        Batch { columns: columns.finish(), ..Batch::default() }
    }

    /// What a gateway says when it connects: the present value of everything it reports on change.
    pub fn introduce(&mut self) -> Batch {
        let second = self.plant.now_s() - 1;
        let mut columns = Columns::default();
        let signals = Arc::clone(&self.signals);
        for (index, signal) in signals.iter().enumerate() {
            if signal.class == Class::Change {
                let value = signal.resolve(self.plant.unit(signal.unit).read(signal.source));
                self.shown[index] = Some((value, second));
                // After any change of this second.
                let time_ns = self.start_ns + second * SECOND_NS + SECOND_NS - 1_000_000;
                let value = self.typed(index, value);
                columns.push(Sample { signal: index, time_ns, value, quality: Quality::GOOD });
            }
        }
        Batch { columns: columns.finish(), ..Batch::default() }
    }

    /// Nobody watched until `now_s`.
    pub fn skip_to(&mut self, now_s: i64) {
        self.plant.skip_to(now_s);
    }

    /// One scan cycle.
    fn scan(&mut self, second: i64, block: &mut Block) {
        let time_ns = self.start_ns + second * SECOND_NS;
        block.times.push(time_ns);
        for place in 0..block.tags.len() {
            let index = block.tags[place].index();
            let reading = self.observe(index, second);
            self.follow_up(index, time_ns, second, &reading);
            block.push(&reading);
        }
    }

    /// The signals that report changes.
    fn watch(&mut self, second: i64, columns: &mut Columns) {
        for index in 0..self.signals.len() {
            let signal = &self.signals[index];
            if signal.class != Class::Change {
                continue;
            }
            let before = self.shown[index];
            let value = signal.resolve(self.plant.unit(signal.unit).read(signal.source));
            let quiet = before.is_some_and(|(shown, at_s)| {
                (shown - value).abs() < DEADBAND && second - at_s < signal.class.period_s()
            });
            if quiet {
                continue;
            }
            let bounces = before.is_some() && matches!(signal.source, Source::Valve(_));
            let reading = self.observe(index, second);
            let jitter_ns = whole(self.rng.unit() * 900.0) * 1_000_000;
            let time_ns = self.start_ns + second * SECOND_NS + jitter_ns;
            self.follow_up(index, time_ns, second, &reading);
            if reading.delay_s != Some(0) {
                continue;
            }
            if bounces {
                // A limit switch that bounces: two values at one instant, the later one holds.
                let value = Value::State(1);
                self.tally.again += 1;
                columns.push(Sample { signal: index, time_ns, value, quality: Quality::GOOD });
            }
            let value = self.typed(index, reading.value);
            columns.push(Sample { signal: index, time_ns, value, quality: reading.quality });
        }
    }

    /// What a signal shows at this second, its troubles included.
    fn observe(&mut self, index: usize, second: i64) -> Reading {
        let signal = &self.signals[index];
        let mut value = self.plant.unit(signal.unit).read(signal.source);
        if signal.noise > 0.0 {
            value += signal.noise * self.rng.bell();
        }
        let mut reading = Reading {
            value: signal.resolve(value),
            quality: Quality::GOOD,
            delay_s: Some(0),
            again: None,
        };
        for fault in signal.faults.iter().filter(|fault| fault.is_on(second)) {
            match fault.trouble {
                Trouble::Stuck => {
                    reading.value = self.shown[index].map_or(reading.value, |(shown, _)| shown);
                }
                Trouble::Reports(quality) => reading.quality = quality,
                Trouble::Flickers(quality) if second % 360 < 40 => reading.quality = quality,
                Trouble::Late(delay_s) => reading.delay_s = Some(delay_s),
                Trouble::Straggles if self.rng.unit() < 0.05 => {
                    reading.delay_s = Some(180 + whole(self.rng.unit() * 360.0));
                }
                Trouble::Flickers(_) | Trouble::Straggles => {}
                Trouble::Silent => reading.delay_s = None,
                Trouble::Corrected(delay_s, factor) => {
                    reading.again = Some((delay_s, signal.resolve(reading.value * factor)));
                }
                Trouble::Repeated(delay_s) => reading.again = Some((delay_s, reading.value)),
            }
        }
        if reading.quality.is_bad() {
            let float = matches!(signal.definition.value_type, ValueType::F64 | ValueType::F32);
            reading.value = if float { f64::NAN } else { 0.0 };
        } else {
            self.shown[index] = Some((reading.value, second));
        }
        reading
    }

    /// Sends on its way what does not arrive with the reading's own batch.
    fn follow_up(&mut self, signal: usize, time_ns: i64, second: i64, reading: &Reading) {
        let quality = reading.quality;
        let late = reading.delay_s.filter(|&delay_s| delay_s > 0).map(|d| (d, reading.value));
        self.tally.late += u64::from(late.is_some());
        self.tally.again += u64::from(reading.again.is_some());
        for (delay_s, value) in late.into_iter().chain(reading.again) {
            let value = self.typed(signal, value);
            let sample = Sample { signal, time_ns, value, quality };
            self.late.entry(second + delay_s).or_default().push(sample);
        }
    }

    fn typed(&self, index: usize, value: f64) -> Value {
        let signal = &self.signals[index];
        match signal.definition.value_type {
            ValueType::F64 => Value::F64(value),
            ValueType::F32 => Value::F32(single(value)),
            ValueType::I64 => Value::I64(whole(value)),
            ValueType::Bool => Value::Bool(value != 0.0),
            ValueType::State => Value::State(u16::try_from(whole(value)).unwrap_or_default()),
            ValueType::Text => Value::Text(self.plant.unit(signal.unit).batch_id().into()),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "counts and delays of the simulation are small"
)]
fn whole(value: f64) -> i64 {
    value as i64
}

/// Scan cycles in the making. Flags and qualities are kept only once one differs from the usual.
struct Block {
    tags: Arc<[TagId]>,
    times: Vec<i64>,
    values: Vec<f64>,
    missing: Vec<bool>,
    qualities: Vec<Quality>,
}

impl Block {
    fn new(tags: &Arc<[TagId]>) -> Self {
        Self {
            tags: Arc::clone(tags),
            times: Vec::new(),
            values: Vec::new(),
            missing: Vec::new(),
            qualities: Vec::new(),
        }
    }

    fn push(&mut self, reading: &Reading) {
        let absent = reading.delay_s != Some(0);
        if absent || !self.missing.is_empty() {
            self.missing.resize(self.values.len(), false);
            self.missing.push(absent);
        }
        if reading.quality != Quality::GOOD || !self.qualities.is_empty() {
            self.qualities.resize(self.values.len(), Quality::GOOD);
            self.qualities.push(reading.quality);
        }
        self.values.push(reading.value);
    }

    fn finish(self) -> Option<ScanBlock> {
        let qualities = match self.qualities {
            each if each.is_empty() => Qualities::GOOD,
            each => Qualities::Each(each),
        };
        let Self { tags, times, values, missing, .. } = self;
        (!times.is_empty()).then_some(ScanBlock { tags, times, values, missing, qualities })
    }
}

/// Columns in the making, one for each tag.
#[derive(Default)]
struct Columns(BTreeMap<usize, TagColumn>);

impl Columns {
    fn push(&mut self, sample: Sample) {
        let column = self.0.entry(sample.signal).or_insert_with(|| TagColumn {
            tag: TagId(u32::try_from(sample.signal).expect("a plant has few tags")),
            times: Vec::new(),
            values: values_like(&sample.value),
            qualities: Qualities::Each(Vec::new()),
        });
        column.times.push(sample.time_ns);
        column.values.push(sample.value);
        if let Qualities::Each(each) = &mut column.qualities {
            each.push(sample.quality);
        }
    }

    fn finish(self) -> Vec<TagColumn> {
        let columns = self.0.into_values().map(|mut column| {
            let good = (0..column.times.len()).all(|at| column.qualities.at(at) == Quality::GOOD);
            if good {
                column.qualities = Qualities::GOOD;
            }
            column
        });
        columns.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::equipment::DAY_S;
    use super::super::ledger::{Ledger, samples};
    use super::*;

    const START_NS: i64 = 1_700_000_000 * SECOND_NS;

    /// Arrivals of the first seconds of the history, and where each signal is.
    fn run(seconds: i64) -> (Feed, Ledger) {
        let mut feed = Feed::new(7, START_NS);
        let mut ledger = Ledger::new(feed.signals().len());
        while feed.now_s() < seconds {
            ledger.take(&feed.advance(BATCH_S));
        }
        (feed, ledger)
    }

    fn find(feed: &Feed, name: &str) -> usize {
        feed.signals().iter().position(|s| s.definition.name == name).unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_batches() {
        let (mut one, mut two) = (Feed::new(7, START_NS), Feed::new(7, START_NS));
        for _ in 0..5 {
            assert_eq!(one.advance(60), two.advance(60));
        }
    }

    #[test]
    fn every_class_keeps_its_rate() {
        let (feed, mut ledger) = run(1_200);
        ledger.settle();
        let rows = |name: &str| ledger.track(find(&feed, name)).times.len();
        assert_eq!(rows("U2/feed/FIC-101.PV"), 1_200);
        assert_eq!(rows("U2/reactor/TIC-301.SP"), 240);
        assert_eq!(rows("U2/reactor/M-301.VIB"), 120);
        assert_eq!(rows("U2/reactor/M-301.STATE"), 2);
        assert!((2..800).contains(&rows("U2/feed/ZT-101.PV")));
        let batch = Feed::new(7, START_NS).advance(BATCH_S);
        assert!((9_000..13_000).contains(&samples(&batch)), "{}", samples(&batch));
    }

    #[test]
    fn troubles_arrive_as_they_should() {
        let mut feed = Feed::new(7, START_NS);
        let mut ledger = Ledger::new(feed.signals().len());
        let mut sent = 0;
        while feed.now_s() < DAY_S {
            let batch = feed.advance(BATCH_S);
            sent += samples(&batch);
            ledger.take(&batch);
        }
        ledger.take(&feed.drain());
        assert!(feed.drain().is_empty());
        assert!((6_000_000..9_000_000).contains(&sent), "{sent}");
        let late = find(&feed, "U3/cooling/TIC-501.PV");
        // The stretch that was late arrived after newer samples.
        assert!(!ledger.track(late).times.is_sorted());
        let arrived = ledger.arrived();
        ledger.settle();
        assert_eq!(arrived - ledger.rows(), feed.tally().again);
        assert!(feed.tally().late > 6 * 540);
        assert_eq!(ledger.track(late).times.len(), 17_280);

        let bad = |name: &str| {
            let track = ledger.track(find(&feed, name));
            track.qualities.iter().filter(|q| q.is_bad()).count()
        };
        assert_eq!(bad("U1/column/TI-415.PV"), 324);
        assert_eq!(bad("U3/cooling/FI-502.PV"), 170 * 8);
        assert_eq!(bad("U2/column/TI-415.PV"), 0);
        let stuck = ledger.track(find(&feed, "U2/reactor/TI-314.PV"));
        let held = stuck.within((START_NS + 21_600 * SECOND_NS, START_NS + 41_400 * SECOND_NS));
        assert_eq!(held.len(), 3_960);
        assert!(stuck.numbers[held].windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits()));
        let silent = ledger.track(find(&feed, "U2/utilities/JI-601.PV"));
        assert_eq!(silent.times.len(), 17_280 - 360);
        let counter = &ledger.track(find(&feed, "U1/feed/FQ-101.CNT")).numbers;
        assert!(counter.windows(2).filter(|pair| pair[1] < pair[0]).count() >= 3);
        assert!(ledger.track(find(&feed, "U1/reactor/BATCH.ID")).texts.len() > 100);
    }

    #[test]
    fn a_gateway_that_connects_says_what_holds() {
        let (mut feed, _) = run(120);
        feed.skip_to(100_000);
        let _ = feed.advance(1);
        let batch = feed.introduce();
        assert_eq!(batch.columns.len(), 54);
        let trip =
            batch.columns.iter().find(|c| c.tag.index() == find(&feed, "U3/cooling/K-501.STATE"));
        assert_eq!(trip.unwrap().values.get(0), Some(Value::State(2)));
        assert!(batch.columns.iter().all(|column| column.times.len() == 1));
    }
}
