//! The interval functions as names and types: `time_avg`, `integral`, `percent_good`, `largest_gap`,
//! `duration_in_state`, `transitions`, `increase`, `rate`.
//!
//! They need to know what holds before and after the rows of a group, which no aggregate is told. So these only hold a
//! place while a statement is planned; [`crate::windowed`] puts the real thing there before anything runs.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};

use datafusion::arrow::datatypes::FieldRef;

/// One of the interval functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum IntervalFunction {
    TimeAvg,
    Integral,
    PercentGood,
    LargestGap,
    DurationInState,
    Transitions,
    Increase,
    Rate,
    /// What is held at the start of a bucket. Written as a function of an aggregate, see [`super::gapfill`].
    Locf,
    /// What is drawn at the start of a bucket; likewise.
    Interpolate,
}

impl IntervalFunction {
    /// Every aggregate among them.
    pub(crate) const ALL: [Self; 8] = [
        Self::TimeAvg,
        Self::Integral,
        Self::PercentGood,
        Self::LargestGap,
        Self::DurationInState,
        Self::Transitions,
        Self::Increase,
        Self::Rate,
    ];

    /// Its name in SQL.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TimeAvg => "time_avg",
            Self::Integral => "integral",
            Self::PercentGood => "percent_good",
            Self::LargestGap => "largest_gap",
            Self::DurationInState => "duration_in_state",
            Self::Transitions => "transitions",
            Self::Increase => "increase",
            Self::Rate => "rate",
            Self::Locf => "locf",
            Self::Interpolate => "interpolate",
        }
    }

    /// How it is written.
    pub(crate) const fn usage(self) -> &'static str {
        match self {
            Self::TimeAvg => "time_avg(value)",
            Self::Integral => "integral(value) or integral(value, '1 hour')",
            Self::PercentGood => "percent_good(value)",
            Self::LargestGap => "largest_gap(ts)",
            Self::DurationInState => "duration_in_state(value_text, 'RUN')",
            Self::Transitions => "transitions(value)",
            Self::Increase => "increase(value)",
            Self::Rate => "rate(value) or rate(value, '1 hour')",
            Self::Locf => "locf(avg(value)) or locf(avg(value), '10 min')",
            Self::Interpolate => "interpolate(avg(value)) or interpolate(avg(value), '10 min')",
        }
    }
}

/// The function as the planner knows it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Interval {
    /// Which one.
    pub(crate) function: IntervalFunction,
    signature: Signature,
}

impl Interval {
    /// The place of `function`.
    pub(crate) fn new(function: IntervalFunction) -> Self {
        Self { function, signature: Signature::user_defined(Volatility::Stable) }
    }

    fn misplaced<T>(&self) -> Result<T> {
        plan_err!(
            "{} works in a SELECT over samples, with or without GROUP BY, and not as a window function or elsewhere",
            self.name()
        )
    }
}

impl AggregateUDFImpl for Interval {
    fn name(&self) -> &'static str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match self.function {
            IntervalFunction::LargestGap => DataType::Duration(TimeUnit::Nanosecond),
            IntervalFunction::Transitions => DataType::Int64,
            IntervalFunction::Increase if types == [DataType::Int64] => DataType::Int64,
            _ => DataType::Float64,
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        use IntervalFunction::{DurationInState, Integral, Rate};
        // Which column the first argument is, the analyzer checks.
        match (self.function, types) {
            (DurationInState, [value, state]) => Ok(vec![value.clone(), state.clone()]),
            (DurationInState, _) => plan_err!("write {}", self.function.usage()),
            (_, [value]) => Ok(vec![value.clone()]),
            (Integral | Rate, [value, width]) if is_width(width) => {
                Ok(vec![value.clone(), width.clone()])
            }
            _ => plan_err!("write {}", self.function.usage()),
        }
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.misplaced()
    }

    fn state_fields(&self, _: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.misplaced()
    }
}

/// Whether a type is one of widths.
pub(crate) fn is_width(data_type: &DataType) -> bool {
    data_type.is_string() || matches!(data_type, DataType::Interval(_) | DataType::Duration(_))
}
