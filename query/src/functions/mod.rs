//! The SQL functions of Tagmill that need no plan of their own.
//!
//! Reading order: [`width`] and [`bucket`] (what a bucket is), [`time_bucket`], [`extreme`] (`first`, `last`,
//! `min_time`, `max_time`), [`quality`] (`severity`, `quality_name`), [`epoch_ns`], [`label`] and [`value_at`]
//! (the ones that depend on the snapshot a statement reads), and the places of [`interval`] functions and of
//! [`gapfill`].

pub(crate) mod bucket;
mod epoch_ns;
pub(crate) mod extreme;
pub(crate) mod gapfill;
pub(crate) mod interval;
pub(crate) mod label;
pub(crate) mod quality;
pub(crate) mod time_bucket;
pub(crate) mod value_at;
pub(crate) mod width;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// The scalar functions that are the same for every statement.
pub(crate) fn scalars() -> Vec<Arc<ScalarUDF>> {
    use quality::{QualityFunction, QualityText};
    vec![
        Arc::new(ScalarUDF::from(time_bucket::TimeBucket::default())),
        Arc::new(ScalarUDF::from(gapfill::TimeBucketGapfill::default())),
        Arc::new(ScalarUDF::from(gapfill::Fill::new(interval::IntervalFunction::Locf))),
        Arc::new(ScalarUDF::from(gapfill::Fill::new(interval::IntervalFunction::Interpolate))),
        Arc::new(ScalarUDF::from(epoch_ns::EpochNs::default())),
        Arc::new(ScalarUDF::from(QualityFunction::new(QualityText::Severity))),
        Arc::new(ScalarUDF::from(QualityFunction::new(QualityText::Name))),
    ]
}

/// The aggregate functions.
pub(crate) fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let picks = extreme::Pick::ALL.into_iter();
    let picks = picks.map(|pick| AggregateUDF::from(extreme::Extreme::new(pick)));
    let intervals = interval::IntervalFunction::ALL.into_iter();
    let intervals = intervals.map(|function| AggregateUDF::from(interval::Interval::new(function)));
    picks.chain(intervals).map(Arc::new).collect()
}
