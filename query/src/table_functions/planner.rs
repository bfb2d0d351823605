//! From the text of a call to a node, and from the node to what runs.
//!
//! [`CallPlanner`] meets `FROM grid(..)` while a statement is read. It settles which columns come out and leaves the
//! arguments as they are; [`NodePlanner`] computes them when the plan is made, by which time parameters have values and
//! `now()` is a constant. Both see the snapshot of the statement.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::Field;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result, internal_err, plan_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNode,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::arguments::{Arguments, EVENTS, TAGS, TableFunction, type_of};
use super::job::job_plan;
use super::node::TableNode;
use super::{asof_join, grid, history, lttb, m4, windows};
use crate::relations::Scope;
use crate::relations::rows::{RowColumn, schema_of};

/// Reads calls of table functions.
#[derive(Debug)]
pub(crate) struct CallPlanner(pub(crate) Scope);

impl RelationPlanner for CallPlanner {
    fn plan_relation(
        &self,
        relation: ast::TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let ast::TableFactor::Table { name, alias, args: Some(arguments), .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let named = match name.0.as_slice() {
            [ast::ObjectNamePart::Identifier(name)] => context.normalize_ident(name.clone()),
            _ => String::new(),
        };
        let Some(function) = TableFunction::ALL.into_iter().find(|known| known.name() == named)
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let given = arguments.args.iter().map(|argument| given(function, argument, context));
        let bound = function.bind(given.collect::<Result<Vec<_>>>()?)?;
        let node = self.node(function, bound, context)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        let plan = LogicalPlanBuilder::from(plan).alias(function.name())?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

impl CallPlanner {
    fn node(
        &self,
        function: TableFunction,
        bound: Vec<(&'static str, ast::Expr)>,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<TableNode> {
        let mut arguments = Vec::new();
        let mut input = None;
        for (name, expr) in bound {
            if name == EVENTS {
                input = Some(context.plan(events_of(expr)?)?);
                continue;
            }
            let elements = match expr {
                ast::Expr::Array(array) if name == TAGS => array.elem,
                other => vec![other],
            };
            for element in elements {
                let expr = constant(function, name, element, context)?;
                arguments.push((name, typed(name, expr)));
            }
        }
        let schema = match function {
            TableFunction::History => history::schema(),
            TableFunction::Windows => windows::schema(),
            TableFunction::M4 | TableFunction::Lttb => schema_of(&RowColumn::SAMPLES),
            TableFunction::AsofJoin => match &input {
                Some(events) => asof_join::schema(events.schema())?,
                None => return internal_err!("asof_join without events"),
            },
            TableFunction::Grid => {
                let tags = arguments.iter().filter(|(name, _)| *name == TAGS);
                let tags = tags.map(|(name, expr)| (*name, expr));
                let mode = arguments.iter().filter(|(name, _)| *name == "mode");
                let mode = mode.map(|(name, expr)| (*name, expr));
                // Tags and mode say which columns there are, so they must be known this early.
                let settled = SimplifyContext::builder().build();
                let settled = Arguments::evaluate(function, tags.chain(mode), settled)?;
                grid::schema(&self.0, &settled)?
            }
        };
        let schema = Arc::new(DFSchema::try_from(schema)?);
        Ok(TableNode { function, arguments, schema, input, scope: self.0.clone() })
    }
}

/// An argument with its name, if it has one.
fn given(
    function: TableFunction,
    argument: &ast::FunctionArg,
    context: &mut dyn RelationPlannerContext,
) -> Result<(Option<String>, ast::Expr)> {
    let (name, value) = match argument {
        ast::FunctionArg::Unnamed(value) => (None, value),
        ast::FunctionArg::Named { name, arg, .. }
        | ast::FunctionArg::ExprNamed { name: ast::Expr::Identifier(name), arg, .. } => {
            (Some(context.normalize_ident(name.clone())), arg)
        }
        ast::FunctionArg::ExprNamed { name, .. } => {
            return plan_err!("{}: {name} is no name of an argument", function.name());
        }
    };
    match value {
        ast::FunctionArgExpr::Expr(expr) => Ok((name, expr.clone())),
        other => plan_err!("{}: {other} is no argument", function.name()),
    }
}

/// The relation that an argument gives rows from.
fn events_of(expr: ast::Expr) -> Result<ast::TableFactor> {
    let usage =
        "asof_join: events: write a subquery with a column ts, VALUES, or the name of a relation";
    let derived = |subquery| ast::TableFactor::Derived {
        lateral: false,
        subquery,
        alias: None,
        sample: None,
    };
    let text = expr.to_string();
    let inner = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let is_values = |text: &&str| text.get(..6).is_some_and(|w| w.eq_ignore_ascii_case("values"));
    let query = match expr {
        ast::Expr::Subquery(query) => Some(query),
        ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) => {
            parse(&format!("SELECT * FROM {text}"))
        }
        // The grammar takes `(VALUES (1, 'a'), (2, 'b'))` for a tuple that begins with a call of a function VALUES.
        _ => inner.map(str::trim).filter(is_values).and_then(parse),
    };
    query.map(derived).ok_or_else(|| DataFusionError::Plan(usage.to_owned()))
}

fn parse(text: &str) -> Option<Box<ast::Query>> {
    let parser = Parser::new(&GenericDialect {}).try_with_sql(text);
    parser.and_then(|mut parser| parser.parse_query()).ok()
}

/// An argument as an expression without columns.
fn constant(
    function: TableFunction,
    name: &str,
    expr: ast::Expr,
    context: &mut dyn RelationPlannerContext,
) -> Result<Expr> {
    let wrong = |why: &str| DataFusionError::Plan(format!("{}: {name}: {why}", function.name()));
    let varies = "it must be constant: columns and subqueries are not, and text stands in quotes";
    let expr = match context.sql_to_expr(expr, &DFSchema::empty()) {
        Ok(expr) => expr,
        Err(DataFusionError::SchemaError(..)) => return Err(wrong(varies)),
        Err(error) => return Err(wrong(&error.strip_backtrace())),
    };
    let asks = |expr: &Expr| {
        let subquery =
            matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_));
        Ok(subquery || matches!(expr, Expr::Column(_) | Expr::OuterReferenceColumn(..)))
    };
    if expr.exists(asks)? { Err(wrong(varies)) } else { Ok(expr) }
}

/// Gives a parameter the type of the argument it stands for.
fn typed(name: &str, expr: Expr) -> Expr {
    match expr {
        Expr::Placeholder(Placeholder { id, field: None }) => {
            let field = Arc::new(Field::new(name, type_of(name), true));
            Expr::Placeholder(Placeholder::new_with_field(id, Some(field)))
        }
        other => other,
    }
}

/// Plans calls of table functions.
#[derive(Debug)]
pub(crate) struct NodePlanner;

#[async_trait]
impl ExtensionPlanner for NodePlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<TableNode>() else { return Ok(None) };
        let now = session.execution_props().query_execution_start_time;
        let context = SimplifyContext::builder()
            .with_config_options(Arc::clone(session.config().options()))
            .with_query_execution_start_time(now)
            .build();
        let Some(now_ns) = now.and_then(|now| now.timestamp_nanos_opt()) else {
            return internal_err!("the statement has no start time");
        };
        let given = node.arguments.iter().map(|(name, expr)| (*name, expr));
        let arguments = Arguments::evaluate(node.function, given, context)?;
        let schema = Arc::clone(node.schema.inner());
        let call = Call { scope: &node.scope, arguments, schema, now_ns };
        Ok(Some(match node.function {
            TableFunction::History => job_plan(history::plan(&call)?),
            TableFunction::Grid => job_plan(grid::plan(&call)?),
            TableFunction::Windows => job_plan(windows::plan(&call)?),
            TableFunction::M4 => job_plan(m4::plan(&call)?),
            TableFunction::Lttb => job_plan(lttb::plan(&call)?),
            TableFunction::AsofJoin => match inputs.first() {
                Some(events) => asof_join::plan(&call, Arc::clone(events))?,
                None => return internal_err!("asof_join without events"),
            },
        }))
    }
}

/// A call whose arguments are known.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) arguments: Arguments,
    /// The columns that were promised.
    pub(crate) schema: datafusion::arrow::datatypes::SchemaRef,
    pub(crate) now_ns: i64,
}
