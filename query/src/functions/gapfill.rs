//! `time_bucket_gapfill`, `locf` and `interpolate` as names and types.
//!
//! Rows that are not there cannot be made by a function of rows. So these only hold a place while a statement is planned;
//! [`crate::windowed`] puts the real thing there before anything runs.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::interval::{IntervalFunction, is_width};
use super::time_bucket::TimeBucket;
use crate::relations::utc_time;

/// Name of the group key that has a row for every bucket.
pub(crate) const GAPFILL: &str = "time_bucket_gapfill";

/// The group key.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimeBucketGapfill {
    signature: Signature,
}

impl Default for TimeBucketGapfill {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Stable) }
    }
}

impl ScalarUDFImpl for TimeBucketGapfill {
    fn name(&self) -> &'static str {
        GAPFILL
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(utc_time())
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        TimeBucket::default().coerce_types(types)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        plan_err!("{GAPFILL} works as a key of GROUP BY in a SELECT over samples only")
    }
}

/// `locf` or `interpolate`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fill {
    /// Which of the two.
    pub(crate) function: IntervalFunction,
    signature: Signature,
}

impl Fill {
    /// The place of `function`.
    pub(crate) fn new(function: IntervalFunction) -> Self {
        Self { function, signature: Signature::user_defined(Volatility::Stable) }
    }
}

impl ScalarUDFImpl for Fill {
    fn name(&self) -> &'static str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [_] => Ok(types.to_vec()),
            [_, width] if is_width(width) => Ok(types.to_vec()),
            _ => plan_err!("write {}", self.function.usage()),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        plan_err!(
            "{} fills the gaps of a SELECT that groups by {GAPFILL}, in its select list or HAVING",
            self.name()
        )
    }
}
