//! Samples and the batches they arrive in.
//!
//! A sample is (time, value, quality) of one tag. Numbers of every type travel as 64-bit *words* inside the engine
//! ([`Value::to_word`]), so that one code path moves them all; text travels as shared strings.

use std::sync::Arc;

use crate::quality::Quality;
use crate::tag::{TagId, ValueType};

/// One value of a tag.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// 64-bit float.
    F64(f64),
    /// 32-bit float.
    F32(f32),
    /// 64-bit signed integer.
    I64(i64),
    /// True or false.
    Bool(bool),
    /// Code of a state set.
    State(u16),
    /// Text.
    Text(Arc<str>),
}

impl Value {
    /// The value's type.
    pub const fn value_type(&self) -> ValueType {
        match self {
            Self::F64(_) => ValueType::F64,
            Self::F32(_) => ValueType::F32,
            Self::I64(_) => ValueType::I64,
            Self::Bool(_) => ValueType::Bool,
            Self::State(_) => ValueType::State,
            Self::Text(_) => ValueType::Text,
        }
    }

    /// The value of a numeric type that `word` stands for; text has no words and reads as empty.
    pub fn from_word(value_type: ValueType, word: u64) -> Self {
        match value_type {
            ValueType::F64 => Self::F64(f64::from_bits(word)),
            ValueType::F32 => Self::F32(f32_of(word)),
            ValueType::I64 => Self::I64(word.cast_signed()),
            ValueType::Bool => Self::Bool(word != 0),
            ValueType::State => Self::State(state_of(word)),
            ValueType::Text => Self::Text(Arc::from("")),
        }
    }

    /// The 64 bits that stand for this value; 0 for text.
    pub fn to_word(&self) -> u64 {
        match self {
            Self::F64(value) => value.to_bits(),
            Self::F32(value) => u64::from(value.to_bits()),
            Self::I64(value) => value.cast_unsigned(),
            Self::Bool(value) => u64::from(*value),
            Self::State(code) => u64::from(*code),
            Self::Text(_) => 0,
        }
    }
}

/// The f32 in the low half of a word.
#[expect(clippy::cast_possible_truncation, reason = "an f32 word holds its bits in the low half")]
pub(crate) fn f32_of(word: u64) -> f32 {
    f32::from_bits(word as u32)
}

/// The state code in the low bits of a word.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a state word holds its code in the low 16 bits"
)]
pub(crate) fn state_of(word: u64) -> u16 {
    word as u16
}

/// Values of one tag, in the order of their times.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 64-bit floats.
    F64(Vec<f64>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit signed integers.
    I64(Vec<i64>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Codes of a state set.
    State(Vec<u16>),
    /// Texts.
    Text(Vec<Arc<str>>),
}

impl Values {
    /// No values of this type yet.
    pub const fn empty(value_type: ValueType) -> Self {
        match value_type {
            ValueType::F64 => Self::F64(Vec::new()),
            ValueType::F32 => Self::F32(Vec::new()),
            ValueType::I64 => Self::I64(Vec::new()),
            ValueType::Bool => Self::Bool(Vec::new()),
            ValueType::State => Self::State(Vec::new()),
            ValueType::Text => Self::Text(Vec::new()),
        }
    }

    /// Type of the values.
    pub const fn value_type(&self) -> ValueType {
        match self {
            Self::F64(_) => ValueType::F64,
            Self::F32(_) => ValueType::F32,
            Self::I64(_) => ValueType::I64,
            Self::Bool(_) => ValueType::Bool,
            Self::State(_) => ValueType::State,
            Self::Text(_) => ValueType::Text,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::State(v) => v.len(),
            Self::Text(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<Value> {
        Some(match self {
            Self::F64(v) => Value::F64(*v.get(index)?),
            Self::F32(v) => Value::F32(*v.get(index)?),
            Self::I64(v) => Value::I64(*v.get(index)?),
            Self::Bool(v) => Value::Bool(*v.get(index)?),
            Self::State(v) => Value::State(*v.get(index)?),
            Self::Text(v) => Value::Text(Arc::clone(v.get(index)?)),
        })
    }

    /// Appends one value.
    ///
    /// # Panics
    /// If the value is of another type.
    pub fn push(&mut self, value: Value) {
        match (self, value) {
            (Self::F64(v), Value::F64(x)) => v.push(x),
            (Self::F32(v), Value::F32(x)) => v.push(x),
            (Self::I64(v), Value::I64(x)) => v.push(x),
            (Self::Bool(v), Value::Bool(x)) => v.push(x),
            (Self::State(v), Value::State(x)) => v.push(x),
            (Self::Text(v), Value::Text(x)) => v.push(x),
            (values, value) => {
                panic!("a {} among {} values", value.value_type(), values.value_type())
            }
        }
    }

    /// Values from words and texts, the engine's inner form: `texts` for text, else `words`.
    pub(crate) fn from_parts(value_type: ValueType, words: Vec<u64>, texts: Vec<Arc<str>>) -> Self {
        match value_type {
            ValueType::F64 => Self::F64(words.into_iter().map(f64::from_bits).collect()),
            ValueType::F32 => Self::F32(words.into_iter().map(f32_of).collect()),
            ValueType::I64 => Self::I64(words.into_iter().map(u64::cast_signed).collect()),
            ValueType::Bool => Self::Bool(words.into_iter().map(|w| w != 0).collect()),
            ValueType::State => Self::State(words.into_iter().map(state_of).collect()),
            ValueType::Text => Self::Text(texts),
        }
    }
}

/// Qualities of consecutive samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Qualities {
    /// All have this one.
    Uniform(Quality),
    /// One each, in the order of their times.
    Each(Vec<Quality>),
}

impl Qualities {
    /// All Good.
    pub const GOOD: Self = Self::Uniform(Quality::GOOD);

    /// The quality at `index`.
    ///
    /// # Panics
    /// If there is one each and `index` is past them.
    pub fn at(&self, index: usize) -> Quality {
        match self {
            Self::Uniform(quality) => *quality,
            Self::Each(each) => each[index],
        }
    }

    /// Whether this can describe `count` samples.
    pub fn fits(&self, count: usize) -> bool {
        match self {
            Self::Uniform(_) => true,
            Self::Each(each) => each.len() == count,
        }
    }
}

/// Samples of one tag within a batch. Times need no order; the last position of an instant wins.
#[derive(Clone, Debug, PartialEq)]
pub struct TagColumn {
    /// Whose samples.
    pub tag: TagId,
    /// Source times, nanoseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// One value for each time, of the tag's type.
    pub values: Values,
    /// One quality for each time.
    pub qualities: Qualities,
}

/// `k` scan cycles over `n` tags: every tag read at every time. For numeric tags only.
///
/// Values are f64 and must be exact in the tag's own type: an i64 tag takes whole numbers up to 2^53, a bool tag 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanBlock {
    /// The `n` tags.
    pub tags: Arc<[TagId]>,
    /// Source times of the `k` cycles.
    pub times: Vec<i64>,
    /// `k * n` values, one cycle after the other.
    pub values: Vec<f64>,
    /// Cells that hold no sample: `k * n` flags, or empty for none.
    pub missing: Vec<bool>,
    /// One quality for each cell, in the order of the values.
    pub qualities: Qualities,
}

/// Samples written together: one WAL record, wholly there after a crash or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Samples per tag.
    pub columns: Vec<TagColumn>,
    /// Scan cycles.
    pub scans: Vec<ScanBlock>,
    /// Who sent it and as which of its batches, for exactly-once; `None` for callers that need no such thing.
    pub origin: Option<Origin>,
    /// What the acknowledgement promises.
    pub durability: Durability,
}

impl Batch {
    /// Number of cells, missing ones included.
    pub fn len(&self) -> usize {
        let columns: usize = self.columns.iter().map(|c| c.times.len()).sum();
        columns + self.scans.iter().map(|s| s.values.len()).sum::<usize>()
    }

    /// Whether it holds no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A batch's place in its gateway's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The gateway's own name.
    pub gateway: Arc<str>,
    /// Raised by the gateway when it loses its queue.
    pub epoch: u64,
    /// Contiguous from 1 within (gateway, epoch).
    pub seq: u64,
    /// The session that sends it, from [`crate::Engine::open_session`]; a newer session of the gateway fences it.
    pub session: u64,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The batch is on disk.
    #[default]
    Synced,
    /// The batch is written; the disk has it within a second or 64 MiB of log. Not visible to queries before.
    Interval,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// Sequence number of its record; of the newest durable record if it was a repetition.
    pub seq: crate::Seq,
    /// Samples taken.
    pub accepted: u64,
    /// Whether the gateway had sent this batch before and nothing was applied now.
    pub repeated: bool,
    /// Whether the disk has it (always, unless [`Durability::Interval`] was asked).
    pub durable: bool,
    /// What was left out, and why. The rest was taken.
    pub rejects: Vec<Reject>,
}

/// Consecutive samples of one tag that were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Whose samples.
    pub tag: TagId,
    /// Position of the column, or of the scan block after all columns.
    pub part: usize,
    /// First refused position within the column, or first refused cycle of the scan block.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Why.
    pub reason: RejectReason,
}

/// Why samples were refused. Sending them again will not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// No such tag, or it was deleted.
    UnknownTag,
    /// The values are not of the tag's type, or not exact in it.
    TypeMismatch,
    /// More than five minutes ahead of the server's clock.
    Future,
    /// Before 1970 or after 2260.
    OutOfRange,
    /// Before the horizon of the tag's retention class: such samples have ended.
    TooLate,
    /// Times, values, qualities or flags differ in number.
    LengthMismatch,
    /// A text value is longer than 64 KiB.
    TooLong,
}

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UnknownTag => "no such tag",
            Self::TypeMismatch => "values are not of the tag's type, or not exact in it",
            Self::Future => "time is more than 5 minutes ahead of the server's clock",
            Self::OutOfRange => "time is before 1970 or after 2260",
            Self::TooLate => "time is before the horizon of the tag's retention class",
            Self::LengthMismatch => "times, values, qualities or flags differ in number",
            Self::TooLong => "a text value is longer than 64 KiB",
        })
    }
}
