//! The node of a logical plan in which interval functions are computed.
//!
//! Its input has one row per tag: the tag's number, then the group keys that depend on the tag. Its output has the columns
//! of the aggregate it stands for: the group keys in their order, then one column per function.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use datafusion::common::{DFSchemaRef, Result, plan_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::functions::interval::IntervalFunction;
use crate::relations::Scope;

/// A group key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A column of the input.
    Tag(usize),
    /// The bucket of the time.
    Bucket,
}

/// The column of `samples` that a function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Argument {
    Value,
    ValueInt,
    ValueText,
    Ts,
}

/// One interval function of the SELECT.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub(crate) struct Call {
    pub(crate) function: IntervalFunction,
    pub(crate) argument: Argument,
    /// The width of `per`, or the state.
    pub(crate) constant: Option<Expr>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct WindowedAggregate {
    pub(crate) scope: Scope,
    pub(crate) input: LogicalPlan,
    pub(crate) keys: Vec<Key>,
    /// Arguments of `time_bucket` but the timestamp.
    pub(crate) bucket: Option<Vec<Expr>>,
    /// Whether rows shall fill gaps: then both ends of the range must be said.
    pub(crate) is_gapfill: bool,
    /// Whether only buckets with samples are wanted, and those whole: of an open range too.
    pub(crate) sampled_only: bool,
    pub(crate) calls: Vec<Call>,
    /// Filters over the column `ts`, all of which must hold.
    pub(crate) times: Vec<Expr>,
    pub(crate) schema: DFSchemaRef,
}

/// What makes a node what it is, but the snapshot.
type Parts<'a> =
    (&'a LogicalPlan, &'a [Key], &'a Option<Vec<Expr>>, [bool; 2], &'a [Call], &'a [Expr]);

impl WindowedAggregate {
    fn parts(&self) -> Parts<'_> {
        let Self { input, keys, bucket, is_gapfill, sampled_only, calls, times, .. } = self;
        (input, keys, bucket, [*is_gapfill, *sampled_only], calls, times)
    }
}

// A plan never mixes two snapshots.
impl PartialEq for WindowedAggregate {
    fn eq(&self, other: &Self) -> bool {
        self.scope.snapshot.seq() == other.scope.snapshot.seq()
            && self.parts() == other.parts()
            && self.schema == other.schema
    }
}

impl Eq for WindowedAggregate {}

impl Hash for WindowedAggregate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.scope.snapshot.seq().hash(state);
        self.parts().hash(state);
        self.schema.hash(state);
    }
}

impl PartialOrd for WindowedAggregate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.parts()
            .partial_cmp(&other.parts())
            .filter(|&order| order != Ordering::Equal || self == other)
    }
}

impl fmt::Debug for WindowedAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowedAggregate").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl UserDefinedLogicalNodeCore for WindowedAggregate {
    fn name(&self) -> &'static str {
        "WindowedAggregate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    // The filters speak of a column that the input does not have, so no rule may look at them.
    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let names: Vec<&str> = self.calls.iter().map(|call| call.function.name()).collect();
        write!(f, "WindowedAggregate: {}", names.join(", "))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (true, Ok([input])) = (exprs.is_empty(), <[LogicalPlan; 1]>::try_from(inputs)) else {
            return plan_err!("WindowedAggregate has one input");
        };
        Ok(Self { input, ..self.clone() })
    }

    fn necessary_children_exprs(&self, _: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}
