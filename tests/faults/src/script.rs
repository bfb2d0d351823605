//! What a victim does, decided by a seed alone: [`Script`].
//!
//! # Contract
//! * Step n of a seed is the same in every process, whatever became of the steps before it: the one who checks draws the
//!   same steps again and needs nothing from the victim but which of them were acknowledged.
//! * Tags are numbered from 0 by their place in [`Script::definitions`]; the engine's own ids are found by name.

use std::collections::VecDeque;
use std::time::Duration;

use tagmill_engine_tests::workload::{self, Timeline};
use tagmill_storage::disk::sim::Random;
use tagmill_storage::{Batch, Options, TagDefinition, TagId, TimeRange, ValueType};

/// Tags of a script: each value type twice, and each style at least once.
const TAGS: usize = 12;

/// One thing to do.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Write samples, as one of the gateways or as nobody.
    Append { batch: Batch, gateway: Option<usize> },
    /// Delete samples.
    Delete { tags: Vec<TagId>, range: TimeRange },
    /// Define tags, known ones or not.
    Define(Vec<(TagId, TagDefinition)>),
    /// Move the head into segments.
    Seal,
    /// Make everything durable.
    Sync,
    /// Read everything.
    Look,
    /// Close and open again.
    Reopen,
}

/// The steps of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    random: Random,
    timeline: Timeline,
    samples_max: usize,
    first: usize,
    drawn: VecDeque<Step>,
    /// The tags, by number.
    pub(crate) definitions: Vec<TagDefinition>,
    /// Wall clock of every process that runs it.
    pub(crate) now_ns: i64,
    /// How the database is opened.
    pub(crate) options: Options,
}

impl Script {
    /// The script of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6661_756C_7473);
        let timeline = Timeline::draw(&mut random);
        let definitions = (0..TAGS).map(|n| workload::definition(&mut random, n)).collect();
        let options = Options {
            head_bytes: [64 << 10, 256 << 10][random.index(2)],
            wal_bytes: [64 << 10, 128 << 10][random.index(2)],
            seal_age: Duration::from_millis([20, 200, 3_600_000][random.index(3)]),
            busy_wait: Duration::from_millis(100),
            ..Options::default()
        };
        let now_ns = timeline.at_ns.saturating_add(timeline.step_ns.saturating_mul(100_000));
        let samples_max = [10, 60, 300][random.index(3)];
        let (first, drawn) = (0, VecDeque::new());
        Self { random, timeline, samples_max, first, drawn, definitions, now_ns, options }
    }

    /// Step `number`. Steps are asked for in ascending order, or near it.
    ///
    /// # Panics
    /// If it was let go by [`Self::forget_before`].
    pub(crate) fn step(&mut self, number: usize) -> Step {
        while self.first + self.drawn.len() <= number {
            let step = self.draw();
            self.drawn.push_back(step);
        }
        self.drawn[number.checked_sub(self.first).expect("steps are not asked for again")].clone()
    }

    /// Lets steps go that are not needed any more.
    pub(crate) fn forget_before(&mut self, number: usize) {
        while self.first < number && self.drawn.pop_front().is_some() {
            self.first += 1;
        }
    }

    fn draw(&mut self) -> Step {
        let random = &mut self.random;
        let tag = |number: usize| TagId(u32::try_from(number).expect("a dozen tags"));
        match random.below(40) {
            0..=2 => {
                let tags = (0..=random.index(3)).map(|_| tag(random.index(TAGS))).collect();
                let reach = random.below(self.timeline.reach_ns.unsigned_abs()) as i64;
                let start = self.timeline.at_ns.saturating_sub(reach);
                let span = [1, self.timeline.step_ns.saturating_mul(7), i64::MAX / 4];
                let span = span[random.index(3)];
                Step::Delete { tags, range: TimeRange::new(start, start.saturating_add(span)) }
            }
            3 => {
                let number = random.index(TAGS);
                Step::Define(vec![(tag(number), self.definitions[number].clone())])
            }
            4..=6 => Step::Seal,
            7..=8 => Step::Sync,
            9..=10 => Step::Look,
            11 => Step::Reopen,
            _ => {
                let types = self.definitions.iter().enumerate();
                let types: Vec<(TagId, ValueType)> =
                    types.map(|(n, definition)| (tag(n), definition.value_type)).collect();
                let most = self.samples_max;
                let batch = workload::batch(random, &mut self.timeline, &types, most);
                let gateway = (!random.once_in(3)).then(|| random.index(workload::GATEWAYS.len()));
                Step::Append { batch, gateway }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_steps() {
        let (mut one, mut other) = (Script::new(7), Script::new(7));
        for number in 0..50 {
            let step = format!("{:?}", one.step(number));
            one.forget_before(number);
            assert_eq!(step, format!("{:?}", other.step(number)));
        }
        assert_eq!(format!("{:?}", one.step(60)), format!("{:?}", other.step(60)));
    }
}
