//! The call of a table function as a node of a plan: its arguments are expressions until the plan is made.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use super::arguments::TableFunction;
use crate::relations::Scope;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct TableNode {
    pub(crate) function: TableFunction,
    /// Arguments with the names of their parameters; `tags` may come several times.
    pub(crate) arguments: Vec<(&'static str, Expr)>,
    /// The columns it gives, settled when the statement is read.
    pub(crate) schema: DFSchemaRef,
    /// The rows it works on, if it takes any.
    pub(crate) input: Option<LogicalPlan>,
    /// What the statement reads.
    pub(crate) scope: Scope,
}

impl TableNode {
    /// What tells two calls of one statement apart: all of them read the same.
    fn call(&self) -> (TableFunction, &[(&'static str, Expr)], &DFSchemaRef, Option<&LogicalPlan>) {
        (self.function, &self.arguments, &self.schema, self.input.as_ref())
    }
}

impl PartialEq for TableNode {
    fn eq(&self, other: &Self) -> bool {
        self.call() == other.call()
    }
}

impl Eq for TableNode {}

impl Hash for TableNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.call().hash(state);
    }
}

impl PartialOrd for TableNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            return Some(Ordering::Equal);
        }
        let order = (self.function, &self.arguments)
            .partial_cmp(&(other.function, &other.arguments))
            .filter(|order| order.is_ne());
        order.or_else(|| self.input.partial_cmp(&other.input)).filter(|order| order.is_ne())
    }
}

impl UserDefinedLogicalNodeCore for TableNode {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.input.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.arguments.iter().map(|(_, expr)| expr.clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:", self.function.name())?;
        for (name, expr) in &self.arguments {
            write!(f, " {name}={expr}")?;
        }
        Ok(())
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        if exprs.len() != self.arguments.len() || inputs.len() != self.inputs().len() {
            return internal_err!("{} lost an argument", self.function.name());
        }
        let names = self.arguments.iter().map(|(name, _)| *name);
        Ok(Self {
            function: self.function,
            arguments: names.zip(exprs).collect(),
            schema: Arc::clone(&self.schema),
            input: inputs.into_iter().next(),
            scope: self.scope.clone(),
        })
    }
}
