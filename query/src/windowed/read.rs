//! Reads tags and folds them into cells, on a blocking thread: rollups where they say enough, else every sample.
//!
//! One request reads many tags. What lies before and after the range is looked up per tag: only the nearest sample that
//! matters. A tag without any sample before the range's end has no cells.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use tagmill_storage::{
    DamagedPlace, Needs, OnDamage, Point, Qualities, RollupRequest, RollupWindows, Rollups, Rule,
    Scan, ScanBatch, ScanRequest, Snapshot, StateSet, Tag, TagId, TagRollups, TagSelection, Tiers,
    TimeRange, ValueType, Values,
};

use super::axis::Axis;
use super::fold::{Carried, Cell, Fold, Meaning, Share, State};
use crate::error::into_datafusion;
use crate::served::{RAW, ServedCounts, coarsest_tier};

/// A state whose duration is asked for, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// `value` is this number.
    Number(f64),
    /// `value_int` is this number.
    Whole(i64),
    /// `value_text` is this text.
    Text(Arc<str>),
}

/// How much must be known of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What rollups hold of this.
    Rollups(Needs),
    /// Each sample: states and changes of text are in no rollup.
    Samples,
}

/// What is read of every tag.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) snapshot: Snapshot,
    pub(crate) axis: Arc<Axis>,
    pub(crate) targets: Arc<[Target]>,
    pub(crate) detail: Detail,
    /// Whether only cells with samples are wanted, and those whole.
    pub(crate) sampled_only: bool,
    pub(crate) tiers: Tiers,
    pub(crate) damage: OnDamage,
}

/// What EXPLAIN ANALYZE tells of reading.
pub(crate) struct Counts {
    tags: Count,
    /// Samples that were read one by one.
    samples: Count,
    served: ServedCounts,
}

impl Counts {
    pub(crate) fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let counter = |name| MetricBuilder::new(metrics).counter(name, partition);
        let served = ServedCounts::new(metrics, partition);
        Self { tags: counter("tags_read"), samples: counter("samples_read"), served }
    }
}

/// Where cells go.
pub(crate) type Emit<'a> = dyn FnMut(usize, &Cell, &Share) -> ControlFlow<()> + 'a;

impl Reading {
    /// Folds `tags`, ascending, and gives each cell of the tag at a position to `emit`, cells in order.
    pub(crate) fn read(
        &self,
        tags: &[TagId],
        counts: &Counts,
        emit: &mut Emit<'_>,
    ) -> Result<ControlFlow<()>> {
        counts.tags.add(tags.len());
        if self.axis.range().is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let mut parts = Parts::new(self, tags)?;
        let flow = self.fold(tags, &mut parts, emit);
        counts.samples.add(parts.samples);
        if let Source::Rollups(rollups) = &parts.source {
            counts.served.add(rollups.served());
        }
        flow
    }

    /// What EXPLAIN says of tiers.
    pub(crate) fn tier(&self) -> &'static str {
        match self.windows() {
            None => RAW,
            Some(_) if self.tiers == Tiers::Off => "off",
            Some((_, windows)) => coarsest_tier(&windows),
        }
    }

    /// What is asked of rollups; nothing if samples must be read one by one.
    fn windows(&self) -> Option<(Needs, RollupWindows)> {
        let Detail::Rollups(needs) = self.detail else { return None };
        Some((needs, self.axis.windows()?))
    }

    fn fold(
        &self,
        tags: &[TagId],
        parts: &mut Parts<'_>,
        emit: &mut Emit<'_>,
    ) -> Result<ControlFlow<()>> {
        let Axis { start_ns, end_ns, .. } = *self.axis;
        let mut past = self.snapshot.neighbours(self.damage);
        let mut future = self.snapshot.neighbours(self.damage);
        for (position, &id) in tags.iter().enumerate() {
            let Some(tag) = self.snapshot.registry().get(id) else { continue };
            let first_ns = parts.peek(id)?;
            // Where samples have ended, bounds move inward to whole rollups.
            let left = self.snapshot.cut(id, self.axis.range());
            let start_ns = start_ns.map(|start_ns| left.map_or(start_ns, |left| left.start_ns));
            let end_ns = left.map_or(end_ns, |left| left.end_ns);
            let Some(from_ns) = start_ns.or_else(|| self.start_by(first_ns?)) else { continue };
            let meaning = self.meaning(tag);
            let rule = meaning.rule.clone();
            let mut words = Words::new(self, tag);
            let mut carried = Carried::default();
            if let Some(start_ns) = start_ns {
                let before = past.before(id, start_ns, &rule).map_err(failed)?;
                self.check_skipped(|| past.skipped())?;
                if before.last_ns.is_none() && first_ns.is_none() {
                    continue;
                }
                let is_broken = before.break_ns.is_some();
                let usable =
                    before.usable.map(|point| self.point(&mut words, point)).transpose()?;
                carried = Carried { usable, is_broken };
            }
            let emit = |cell: &Cell, share: &Share| {
                if self.sampled_only && !share.is_sampled {
                    return ControlFlow::Continue(());
                }
                emit(position, cell, share)
            };
            let cells = self.axis.cells_until(from_ns, end_ns);
            let mut fold = Fold::new(meaning, carried, cells, emit);
            while let Some(part) = parts.next_of(id)? {
                let flow = match part {
                    Part::Rollups(found) => {
                        found.rollups.iter().try_for_each(|rollup| fold.absorb(rollup))
                    }
                    Part::Samples(batch) => (0..batch.times.len()).try_for_each(|row| {
                        fold.meet(batch.times[row], usable(&rule, &batch, row, &mut words))
                    }),
                };
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            let next = future.after(id, end_ns).map_err(failed)?;
            self.check_skipped(|| future.skipped())?;
            let next = next.map(|next| {
                let is_usable = rule.is_usable(tag.value_type, next.word, next.quality);
                (next.time_ns, is_usable.then_some(next.word))
            });
            let flow = fold.finish(next);
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Where an open range begins for a tag with this first sample.
    fn start_by(&self, first_ns: i64) -> Option<i64> {
        if self.sampled_only { self.axis.bucket_start(first_ns) } else { Some(first_ns) }
    }

    fn meaning(&self, tag: &Tag) -> Meaning {
        let states = self.targets.iter().enumerate().map(|(at, target)| match target {
            Target::Number(_) if tag.value_type == ValueType::Text => State::Never,
            Target::Number(number) => State::Number(*number),
            Target::Whole(number) => match tag.value_type {
                ValueType::I64 | ValueType::Bool | ValueType::State => {
                    State::Words(vec![number.cast_unsigned()])
                }
                _ => State::Never,
            },
            Target::Text(text) => match tag.value_type {
                ValueType::Text => State::Words(vec![at as u64]),
                ValueType::State => {
                    let labels = self.snapshot.registry().states(tag.state_set());
                    let labels = labels.into_iter().flat_map(StateSet::iter);
                    let codes = labels.filter(|(_, label)| label == &text);
                    State::Words(codes.map(|(code, _)| u64::from(code)).collect())
                }
                _ => State::Never,
            },
        });
        Meaning { value_type: tag.value_type, rule: Rule::of(tag), states: states.collect() }
    }

    fn scan(&self, tags: &[TagId], range: TimeRange) -> Scan {
        let request = ScanRequest::new(TagSelection::Only(tags.into()), range);
        self.snapshot.scan(ScanRequest { damage: self.damage, ..request })
    }

    /// A sample that was found; of text with a word for what it says.
    fn point(&self, words: &mut Words, point: Point) -> Result<(i64, u64)> {
        let Point { time_ns, mut word } = point;
        if words.tag.value_type == ValueType::Text && self.detail == Detail::Samples {
            let mut scan = self.scan(&[words.tag.id], TimeRange::new(time_ns, time_ns + 1));
            if let Some(batch) = scan.next().transpose().map_err(failed)? {
                word = words.of(&batch.values, 0);
            }
        }
        Ok((time_ns, word))
    }

    /// Nothing is left out that was not announced when the statement was planned.
    fn check_skipped(&self, skipped: impl FnOnce() -> Vec<DamagedPlace>) -> Result<()> {
        if self.damage == OnDamage::Fail {
            return Ok(());
        }
        let known = self.snapshot.damage();
        let Some(new) = skipped().into_iter().find(|place| !known.contains(place)) else {
            return Ok(());
        };
        let why = format!(
            "{} turned out to be damaged while it was read ({}): run the statement again, it then says what is left out",
            new.file, new.why
        );
        Err(into_datafusion(crate::Error::Execution(why)))
    }
}

fn failed(error: tagmill_storage::Error) -> datafusion::error::DataFusionError {
    into_datafusion(error.into())
}

/// Part of a tag's samples in the range.
enum Part {
    Rollups(TagRollups),
    Samples(ScanBatch),
}

impl Part {
    fn tag(&self) -> TagId {
        match self {
            Self::Rollups(part) => part.tag,
            Self::Samples(batch) => batch.tag,
        }
    }

    /// Time of its first sample.
    fn first_ns(&self) -> Option<i64> {
        match self {
            Self::Rollups(part) => part.rollups.first().map(|rollup| rollup.first_ns),
            Self::Samples(batch) => batch.times.first().copied(),
        }
    }
}

/// The parts of tag after tag, one looked at ahead.
struct Parts<'a> {
    reading: &'a Reading,
    source: Source,
    ready: Option<Part>,
    /// Samples that were read one by one.
    samples: usize,
}

enum Source {
    Rollups(Box<Rollups>),
    Samples(Box<Scan>),
}

impl<'a> Parts<'a> {
    fn new(reading: &'a Reading, tags: &[TagId]) -> Result<Self> {
        let source = if let Some((needs, windows)) = reading.windows() {
            let (tags, tiers) = (TagSelection::Only(tags.into()), reading.tiers);
            let request = RollupRequest { tags, windows, needs, tiers, damage: reading.damage };
            Source::Rollups(Box::new(reading.snapshot.rollups(request)))
        } else {
            let range = reading.axis.range();
            let only = TagSelection::Only(tags.into());
            reading.snapshot.require_samples(&only, range).map_err(failed)?;
            Source::Samples(Box::new(reading.scan(tags, range)))
        };
        Ok(Self { reading, source, ready: None, samples: 0 })
    }

    /// Time of the first sample of this tag that was not given yet.
    fn peek(&mut self, tag: TagId) -> Result<Option<i64>> {
        if self.ready.is_none() {
            self.ready = match &mut self.source {
                Source::Rollups(rollups) => {
                    let next = rollups.next().transpose().map_err(failed)?;
                    self.reading.check_skipped(|| rollups.skipped())?;
                    next.map(Part::Rollups)
                }
                Source::Samples(scan) => {
                    let next = scan.next().transpose().map_err(failed)?;
                    self.reading.check_skipped(|| scan.skipped())?;
                    self.samples += next.as_ref().map_or(0, |batch| batch.times.len());
                    next.map(Part::Samples)
                }
            };
        }
        Ok(self.ready.as_ref().filter(|part| part.tag() == tag).and_then(Part::first_ns))
    }

    /// The next part, if it is of this tag.
    fn next_of(&mut self, tag: TagId) -> Result<Option<Part>> {
        let is_its = self.peek(tag)?.is_some();
        Ok(if is_its { self.ready.take() } else { None })
    }
}

/// The words of one tag's values. Texts get some: equal for those that follow each other, and for the wanted ones.
struct Words<'a> {
    targets: &'a [Target],
    tag: &'a Tag,
    last: Option<(Arc<str>, u64)>,
    used: u64,
}

impl<'a> Words<'a> {
    fn new(reading: &'a Reading, tag: &'a Tag) -> Self {
        let targets = &reading.targets;
        Self { targets, tag, last: None, used: targets.len() as u64 }
    }

    fn of(&mut self, values: &Values, row: usize) -> u64 {
        match values {
            Values::F64(values) => values[row].to_bits(),
            Values::F32(values) => u64::from(values[row].to_bits()),
            Values::I64(values) => values[row].cast_unsigned(),
            Values::Bool(values) => u64::from(values[row]),
            Values::State(codes) => u64::from(codes[row]),
            Values::Text(texts) => self.of_text(&texts[row]),
        }
    }

    fn of_text(&mut self, text: &Arc<str>) -> u64 {
        if let Some((last, word)) = &self.last
            && last == text
        {
            return *word;
        }
        let wanted = self.targets.iter().position(
            |target| matches!(target, Target::Text(wanted) if wanted.as_ref() == text.as_ref()),
        );
        let word = wanted.map_or_else(
            || {
                self.used += 1;
                self.used
            },
            |at| at as u64,
        );
        self.last = Some((Arc::clone(text), word));
        word
    }
}

/// The word of a row, if the tag's rule lets it be used.
fn usable(rule: &Rule, batch: &ScanBatch, row: usize, words: &mut Words) -> Option<u64> {
    let quality = match &batch.qualities {
        Qualities::Uniform(quality) => *quality,
        Qualities::Each(each) => each[row],
    };
    let value_type = batch.values.value_type();
    // Only texts that count get words: those between two of them must not part them.
    if value_type == ValueType::Text && !rule.is_usable(value_type, 0, quality) {
        return None;
    }
    let word = words.of(&batch.values, row);
    rule.is_usable(value_type, word, quality).then_some(word)
}
