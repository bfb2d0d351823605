//! What an aggregate reads, taken apart: columns of `samples` and of `tags`, and filters over them.
//!
//! # Contract
//! Accepted are `samples`, subqueries and CTEs of it that only select columns, rename them or compute from the tag, filters,
//! and inner joins with `tags` on `tag_id`. All else is refused with an error that says the way out. Of what is accepted
//! nothing is lost: the input's rows are those samples whose tag satisfies every tag filter and whose time every time filter.

use std::sync::Arc;

use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, JoinType, Result, TableReference, plan_err};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Expr, Join, LogicalPlan, Operator};

use crate::relations::Scope;
use crate::relations::samples::Samples;
use crate::relations::tags::Tags;

/// Qualifier of columns of `samples` that are not the tag's.
const SAMPLES: &str = "samples";
/// Qualifier of columns of the tag.
pub(crate) const TAGS: &str = "tags";

/// An input that was understood.
pub(crate) struct Input {
    pub(crate) scope: Scope,
    /// What each column is, in columns of `samples` and `tags`.
    columns: Vec<Expr>,
    schema: Arc<DFSchema>,
    /// Filters over the tag alone, in columns of `tags`.
    pub(crate) tags: Vec<Expr>,
    /// Filters over `ts` alone, its column unqualified.
    pub(crate) times: Vec<Expr>,
}

/// What an expression speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The tag, or nothing at all.
    Tag,
    /// The time of samples.
    Time,
    /// Values or qualities, or several of these.
    Else,
}

impl Input {
    /// Takes the input of an aggregate apart; `name` is the function that needs it.
    pub(crate) fn of(plan: &LogicalPlan, name: &str) -> Result<Self> {
        let mut reader = Reader { name, relations: Vec::new() };
        let part = reader.read(plan)?;
        let Some(scope) = part.scope else {
            return reader.refuse("a relation that is not `samples`");
        };
        reader.check_joined(&part.pairs)?;
        let unite = |expr: &Expr| reader.unite(expr.clone());
        let columns = part.columns.iter().map(unite).collect::<Result<Vec<_>>>()?;
        let (mut tags, mut times) = (Vec::new(), Vec::new());
        for filter in &part.filters {
            let filter = unite(filter)?;
            match subject(&filter) {
                Subject::Tag => tags.push(filter),
                Subject::Time => times.push(unqualified(filter)?),
                Subject::Else => return refuse_filter(name, &filter),
            }
        }
        let schema = Arc::clone(plan.schema());
        Ok(Self { scope, columns, schema, tags, times })
    }

    /// An expression over the input, in columns of `samples` and `tags`.
    pub(crate) fn resolve(&self, expr: Expr) -> Result<Expr> {
        substitute(expr, &self.schema, &self.columns)
    }
}

/// The column of `samples` that an expression is.
pub(crate) fn column_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(column.name.as_str()),
        _ => None,
    }
}

/// What an expression in columns of `samples` and `tags` speaks of.
pub(crate) fn subject(expr: &Expr) -> Subject {
    let columns = expr.column_refs();
    let relation =
        |column: &Column| column.relation.as_ref().map(TableReference::table) == Some(TAGS);
    let foreign = |expr: &Expr| match expr {
        Expr::InSubquery(found) => !found.subquery.outer_ref_columns.is_empty(),
        Expr::Exists(found) => !found.subquery.outer_ref_columns.is_empty(),
        Expr::ScalarSubquery(found) => !found.outer_ref_columns.is_empty(),
        Expr::OuterReferenceColumn(..) => true,
        _ => false,
    };
    if expr.is_volatile() || expr.exists(|part| Ok(foreign(part))).unwrap_or(true) {
        return Subject::Else;
    }
    if columns.iter().all(|column| relation(column)) {
        return Subject::Tag;
    }
    if columns.iter().all(|column| !relation(column) && column.name == "ts") {
        return Subject::Time;
    }
    Subject::Else
}

/// An expression with its columns' qualifiers left out.
pub(crate) fn unqualified(expr: Expr) -> Result<Expr> {
    let stripped = expr.transform(|part| {
        Ok(match part {
            Expr::Column(column) if column.relation.is_some() => {
                Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(stripped.data)
}

fn refuse_filter<T>(name: &str, filter: &Expr) -> Result<T> {
    let columns: Vec<String> =
        filter.column_refs().iter().map(|column| column.name.clone()).collect();
    let hidden = ["value", "value_int", "value_text", "value_raw", "quality", "good"];
    if let Some(column) = columns.iter().find(|column| hidden.contains(&column.as_str())) {
        return plan_err!(
            "{name} must see every sample to know what holds between them, so a filter on {column} cannot come before it: leave the filter out (what is Bad does not count anyway), filter the result with HAVING, or use SQL's own aggregates"
        );
    }
    plan_err!(
        "{name} takes filters on the tag and bounds of ts, joined by AND, and no correlated ones: not {}",
        unqualified(filter.clone())?
    )
}

/// One relation among those that are joined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Samples,
    Tags,
}

/// What was read of one subtree. Columns are qualified by the number of their relation.
struct Part {
    scope: Option<Scope>,
    columns: Vec<Expr>,
    filters: Vec<Expr>,
    /// Relations that are joined on the tag.
    pairs: Vec<(usize, usize)>,
}

struct Reader<'a> {
    name: &'a str,
    relations: Vec<Relation>,
}

impl Reader<'_> {
    fn refuse<T>(&self, what: &str) -> Result<T> {
        plan_err!(
            "{} reads `samples`, or a subquery that only selects from it, filtered on tag and ts and joined to `tags` on tag_id; here it would read {what}: compute it in a subquery of its own and go on from its result",
            self.name
        )
    }

    fn read(&mut self, plan: &LogicalPlan) -> Result<Part> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.read(&alias.input),
            // Without a limit an order inside changes nothing.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.read(&sort.input),
            LogicalPlan::TableScan(scan) => {
                if scan.fetch.is_some() || !scan.filters.is_empty() {
                    return self.refuse("a limited scan");
                }
                let provider = source_as_provider(&scan.source)?;
                let any = provider.as_ref() as &dyn std::any::Any;
                let (relation, scope) = if let Some(samples) = any.downcast_ref::<Samples>() {
                    (Relation::Samples, Some(samples.scope().clone()))
                } else if any.is::<Tags>() {
                    (Relation::Tags, None)
                } else {
                    return self.refuse(&format!("`{}`", scan.table_name.table()));
                };
                let number = self.relations.len().to_string();
                self.relations.push(relation);
                let fields = scan.projected_schema.fields().iter();
                let columns = fields.map(|field| {
                    Expr::Column(Column::new(
                        Some(TableReference::bare(number.as_str())),
                        field.name(),
                    ))
                });
                let columns = columns.collect();
                Ok(Part { scope, columns, filters: Vec::new(), pairs: Vec::new() })
            }
            LogicalPlan::Projection(projection) => {
                let mut part = self.read(&projection.input)?;
                let columns = projection.expr.iter().map(|expr| {
                    substitute(
                        expr.clone().unalias_nested().data,
                        projection.input.schema(),
                        &part.columns,
                    )
                });
                part.columns = columns.collect::<Result<_>>()?;
                Ok(part)
            }
            LogicalPlan::Filter(filter) => {
                let mut part = self.read(&filter.input)?;
                let predicate = filter.predicate.clone();
                self.filter(&mut part, predicate, filter.input.schema())?;
                Ok(part)
            }
            LogicalPlan::Join(join) => self.read_join(join),
            LogicalPlan::Aggregate(_) => self.refuse("an aggregate"),
            LogicalPlan::Limit(_) => self.refuse("the first rows of a LIMIT"),
            LogicalPlan::Distinct(_) => self.refuse("DISTINCT rows"),
            LogicalPlan::Union(_) => self.refuse("a UNION"),
            LogicalPlan::Window(_) => self.refuse("a window function"),
            _ => self.refuse("something else"),
        }
    }

    fn read_join(&mut self, join: &Join) -> Result<Part> {
        if join.join_type != JoinType::Inner {
            return self.refuse("an outer join");
        }
        let mut part = self.read(&join.left)?;
        let right = self.read(&join.right)?;
        if part.scope.is_some() && right.scope.is_some() {
            return self.refuse("two `samples`");
        }
        for (left, other) in &join.on {
            let left = substitute(left.clone(), join.left.schema(), &part.columns)?;
            let other = substitute(other.clone(), join.right.schema(), &right.columns)?;
            self.equal(&mut part, left, other);
        }
        part.scope = part.scope.or(right.scope);
        part.columns.extend(right.columns);
        part.filters.extend(right.filters);
        part.pairs.extend(right.pairs);
        if let Some(filter) = &join.filter {
            self.filter(&mut part, filter.clone(), &join.schema)?;
        }
        Ok(part)
    }

    /// Adds the parts of a predicate over columns of `schema`.
    fn filter(&self, part: &mut Part, predicate: Expr, schema: &DFSchema) -> Result<()> {
        for conjunct in split_conjunction_owned(predicate) {
            match substitute(conjunct, schema, &part.columns)? {
                Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
                    self.equal(part, *left, *right);
                }
                other => part.filters.push(other),
            }
        }
        Ok(())
    }

    /// Notes that two expressions are equal: how relations are joined, or a filter.
    fn equal(&self, part: &mut Part, left: Expr, right: Expr) {
        match (self.tag_of(&left), self.tag_of(&right)) {
            (Some((one, by)), Some((other, same))) if one != other && by == same => {
                part.pairs.push((one, other));
            }
            _ => part.filters.push(left.eq(right)),
        }
    }

    /// The relation whose tag an expression is, and whether it is the tag's name or number.
    fn tag_of<'b>(&self, expr: &'b Expr) -> Option<(usize, &'b str)> {
        let Expr::Column(column) = expr else { return None };
        let is_tag = matches!(column.name.as_str(), "tag" | "tag_id");
        let number = column.relation.as_ref()?.table().parse().ok()?;
        (is_tag && number < self.relations.len()).then_some((number, column.name.as_str()))
    }

    /// Refuses relations that no equality of tags joins to the others.
    fn check_joined(&self, pairs: &[(usize, usize)]) -> Result<()> {
        let mut group: Vec<usize> = (0..self.relations.len()).collect();
        for &(one, other) in pairs {
            let (from, to) = (group[one], group[other]);
            for member in &mut group {
                if *member == from {
                    *member = to;
                }
            }
        }
        if group.windows(2).any(|pair| pair[0] != pair[1]) {
            return self.refuse("a join on something else than tag_id");
        }
        Ok(())
    }

    /// An expression with every column of the tag as one of `tags`: the joined relations have the same tag in a row.
    fn unite(&self, expr: Expr) -> Result<Expr> {
        let united = expr.transform(|part| {
            let Expr::Column(column) = part else { return Ok(Transformed::no(part)) };
            let number = column.relation.as_ref().and_then(|name| name.table().parse().ok());
            let relation = number.and_then(|number: usize| self.relations.get(number));
            let is_tag = matches!(column.name.as_str(), "tag" | "tag_id");
            let home = if is_tag || relation == Some(&Relation::Tags) { TAGS } else { SAMPLES };
            Ok(Transformed::yes(Expr::Column(Column::new(Some(home), column.name))))
        })?;
        Ok(united.data)
    }
}

/// `expr`, over columns of `schema`, with each column replaced by what it is.
fn substitute(expr: Expr, schema: &DFSchema, columns: &[Expr]) -> Result<Expr> {
    let replaced = expr.transform(|part| {
        let Expr::Column(column) = &part else { return Ok(Transformed::no(part)) };
        let at = schema.index_of_column(column)?;
        let put = columns.get(at).cloned().unwrap_or(part);
        Ok(Transformed::yes(put))
    })?;
    Ok(replaced.data)
}
