//! What interval functions ought to say of one tag in one stretch of time: [`Weights`], written out from the documents.
//!
//! # Contract
//! * Every rule is said again here, sample by sample and without sharing anything with the engine: pieces and `max_gap`,
//!   what is held or drawn, gaps, changes of value, and what a counter has counted.
//! * Times and whole numbers are exact. Of floats the sum is given with `scale`, the sum of the absolute values that went
//!   into it: an answer may be off by `4 n eps scale`.

use tagmill_storage::{Quality, Severity, TagDefinition, Value, ValueType};

/// One sample, and whether interval functions use it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Source time.
    pub time_ns: i64,
    /// What it says.
    pub value: Value,
    /// Whether it is finite, and Good, or Uncertain where the tag permits that.
    pub is_usable: bool,
}

/// A stretch of time: `start_ns <= t < end_ns`.
pub type Span = (i64, i64);

/// A sum of floats, with what bounds its error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// The sum.
    pub sum: f64,
    /// What rounding took from it.
    lost: f64,
    /// Sum of the absolute values that went into it.
    pub scale: f64,
    /// How many roundings there may have been.
    pub count: u64,
}

impl Sum {
    fn add(&mut self, value: f64, scale: f64) {
        let next = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() {
            (self.sum - next) + value
        } else {
            (value - next) + self.sum
        };
        self.sum = next;
        self.scale += scale;
        self.count += 1;
    }

    /// Both together.
    pub fn pool(&mut self, other: &Self) {
        let (count, scale) = (self.count + other.count, self.scale + other.scale);
        self.add(other.sum, 0.0);
        self.add(other.lost, 0.0);
        (self.count, self.scale) = (count, scale);
    }

    /// The sum as it ought to be.
    pub fn exact(&self) -> f64 {
        self.sum + self.lost
    }

    /// How far off an answer may be; infinite where floats cannot say.
    pub fn slack(&self) -> f64 {
        4.0 * (self.count + 8) as f64 * f64::EPSILON * self.scale
    }
}

/// What interval functions need of a tag in a stretch of time; of several tags, the sums.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// Length of the stretch, for each tag.
    pub length_ns: i128,
    /// How much of it a value is known for.
    pub covered_ns: i128,
    /// How much of that the value 0 is held for.
    pub zero_ns: i128,
    /// Value times nanoseconds.
    pub integral: Sum,
    /// The longest stretch without a sample.
    pub gap_ns: i64,
    /// Usable samples.
    pub usable: u64,
    /// Usable samples with another value than the usable one before.
    pub transitions: u64,
    /// What counters of integers have counted.
    pub whole: i128,
    /// What counters of floats have counted.
    pub real: Sum,
}

impl Weights {
    /// Whether anything is known of the value.
    pub fn is_known(&self) -> bool {
        self.covered_ns > 0 || self.usable > 0
    }

    /// What the counters have counted, of all types.
    pub fn increase(&self) -> Sum {
        let mut all = self.real;
        let whole = self.whole as f64;
        all.add(whole, whole.abs());
        all
    }

    /// Adds what another tag does in the same stretch.
    pub fn pool(&mut self, other: &Self) {
        self.length_ns += other.length_ns;
        self.covered_ns += other.covered_ns;
        self.zero_ns += other.zero_ns;
        self.integral.pool(&other.integral);
        self.gap_ns = self.gap_ns.max(other.gap_ns);
        self.usable += other.usable;
        self.transitions += other.transitions;
        self.whole += other.whole;
        self.real.pool(&other.real);
    }

    /// Of `samples`, all that a tag has, in a stretch of time that ends at the statement's `now()` at the latest.
    pub fn of(tag: &TagDefinition, samples: &[Sample], span: Span) -> Self {
        let length_ns = i128::from(span.1) - i128::from(span.0);
        let mut weights = Self { length_ns, ..Self::default() };
        let first = samples.partition_point(|sample| sample.time_ns < span.0);
        let end = samples.partition_point(|sample| sample.time_ns < span.1);
        // The piece that reaches into the stretch begins at the sample before it.
        for at in first.saturating_sub(1)..end {
            weights.add_piece(tag, &samples[at], samples.get(at + 1), span);
        }
        let mut from_ns = span.0;
        let times = samples[first..end].iter().map(|sample| sample.time_ns);
        for time_ns in times.chain([span.1]) {
            weights.gap_ns = weights.gap_ns.max(time_ns - from_ns);
            from_ns = time_ns;
        }
        let before = samples[..first].iter().rev().find(|sample| sample.is_usable);
        let inside: Vec<&Sample> =
            samples[first..end].iter().filter(|sample| sample.is_usable).collect();
        weights.usable = inside.len() as u64;
        let chain: Vec<&Sample> = before.into_iter().chain(inside).collect();
        let changes = chain.windows(2).filter(|pair| differ(&pair[0].value, &pair[1].value));
        weights.transitions = changes.count() as u64;
        weights.count_up(tag, &chain);
        weights
    }

    fn add_piece(
        &mut self,
        tag: &TagDefinition,
        from: &Sample,
        next: Option<&Sample>,
        (start_ns, end_ns): Span,
    ) {
        let most_ns = tag.attributes.max_gap_ns.unwrap_or(i64::MAX);
        let until_ns = match next {
            Some(next) if next.time_ns - from.time_ns > most_ns => return,
            Some(next) => next.time_ns,
            None => from.time_ns.saturating_add(most_ns),
        };
        let (start_ns, end_ns) = (start_ns.max(from.time_ns), end_ns.min(until_ns));
        if !from.is_usable || start_ns >= end_ns {
            return;
        }
        let part_ns = end_ns - start_ns;
        self.covered_ns += i128::from(part_ns);
        let value = number(&from.value);
        self.zero_ns += if value == 0.0 { i128::from(part_ns) } else { 0 };
        let to = next.filter(|next| next.is_usable && !is_stepped(tag));
        let to = to.map(|next| number(&next.value));
        let mean = to.map_or(value, |to| {
            let whole_ns = (until_ns - from.time_ns) as f64;
            let along = ((start_ns - from.time_ns) as f64 + part_ns as f64 / 2.0) / whole_ns;
            value * (1.0 - along) + to * along
        });
        let part_ns = part_ns as f64;
        self.integral.add(mean * part_ns, (value.abs() + to.unwrap_or(0.0).abs()) * part_ns);
    }

    /// What a counter has counted from the first of these on, one usable sample after the other.
    fn count_up(&mut self, tag: &TagDefinition, chain: &[&Sample]) {
        let attributes = &tag.attributes;
        let (jitter, reset) =
            (attributes.jitter.unwrap_or(0.0), attributes.reset_value.unwrap_or(0.0));
        let Some((mut kept, later)) = chain.split_first() else { return };
        let mut last_ns = kept.time_ns;
        for sample in later {
            let is_far = attributes.max_gap_ns.is_some_and(|most| sample.time_ns - last_ns > most);
            last_ns = sample.time_ns;
            if is_far {
                kept = sample;
                continue;
            }
            if let (Some(from), Some(to)) = (whole(&kept.value), whole(&sample.value)) {
                let step = to - from;
                let modulus = attributes.rollover.map(nearest);
                self.whole += match modulus {
                    _ if step >= 0 => step,
                    Some(modulus) if -2 * step > modulus => step + modulus,
                    _ if -step <= nearest(jitter.floor()) => continue,
                    _ => to - nearest(reset),
                };
            } else {
                let (from, to) = (number(&kept.value), number(&sample.value));
                let step = to - from;
                let by = match attributes.rollover {
                    _ if step >= 0.0 => step,
                    Some(modulus) if -step > modulus / 2.0 => step + modulus,
                    _ if -step <= jitter => continue,
                    _ => to - reset,
                };
                let more = reset.abs() + attributes.rollover.unwrap_or(0.0);
                self.real.add(by, from.abs() + to.abs() + more);
            }
            kept = sample;
        }
    }
}

/// Whether a value holds until the next sample.
fn is_stepped(tag: &TagDefinition) -> bool {
    let is_float = matches!(tag.value_type, ValueType::F64 | ValueType::F32);
    tag.attributes.stepped.unwrap_or(!is_float)
}

/// Whether interval functions use a sample.
pub fn is_usable(tag: &TagDefinition, value: &Value, quality: Quality) -> bool {
    let takes = match quality.severity() {
        Severity::Good => true,
        Severity::Uncertain => tag.attributes.uncertain_usable == Some(true),
        Severity::Bad => false,
    };
    takes && number(value).is_finite()
}

/// The number that `value` shows; 0 for text.
fn number(value: &Value) -> f64 {
    match value {
        Value::F64(value) => *value,
        Value::F32(value) => f64::from(*value),
        Value::I64(value) => *value as f64,
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::State(code) => f64::from(*code),
        Value::Text(_) => 0.0,
    }
}

/// The integer of a type that counts in integers.
fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::I64(value) => Some(i128::from(*value)),
        Value::Bool(value) => Some(i128::from(*value)),
        Value::State(code) => Some(i128::from(*code)),
        // Texts count nothing, whatever they say.
        Value::Text(_) => Some(0),
        Value::F64(_) | Value::F32(_) => None,
    }
}

/// The integer that an attribute of a counter of integers stands for.
fn nearest(number: f64) -> i128 {
    format!("{:.0}", number.round()).parse().unwrap_or(0)
}

#[expect(clippy::float_cmp, reason = "whether it changed at all is the question")]
fn differ(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::F64(_) | Value::F32(_), _) => number(one) != number(other),
        _ => one != other,
    }
}
