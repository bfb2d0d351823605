//! Limits on the tree of a statement: how many relations, joins, set operations and grouping sets it comes to.
//!
//! What a WITH defines counts as often as it is named: a few lines that each name the one before twice would otherwise
//! come to a plan of millions of relations. Names are told apart as DataFusion does it, or a spelling would hide one.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, GroupByExpr, Ident, ObjectName, ObjectNamePart,
    PipeOperator, Query, Select, SetExpr, TableFactor, TableFunctionArgs, TableWithJoins, Visit,
    Visitor,
};

use crate::error::{Error, Result};
use crate::limits::{
    GROUPING_PARTS_MAX, GROUPING_SETS_MAX, JOINS_MAX, JOINS_NAMED_MAX, RELATIONS_MAX,
    SET_OPERATIONS_MAX,
};

/// Checks a statement that was parsed.
pub(crate) fn check(statement: &Statement) -> Result<()> {
    let statement = match statement {
        Statement::Explain(explain) => return check(&explain.statement),
        Statement::Statement(statement) => statement.as_ref(),
        // Refused for other reasons.
        _ => return Ok(()),
    };
    let mut counting = Counting { open: vec![Frame::default()], ..Counting::default() };
    match statement.visit(&mut counting) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// What a query comes to, with all that it names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weight {
    relations: usize,
    joins: usize,
    set_operations: usize,
}

impl Weight {
    fn add(&mut self, other: Self) {
        self.relations = self.relations.saturating_add(other.relations);
        self.joins = self.joins.saturating_add(other.joins);
        self.set_operations = self.set_operations.saturating_add(other.set_operations);
    }

    fn check(self) -> Result<()> {
        let (what, most, instead) = if self.joins > JOINS_NAMED_MAX {
            ("joins", JOINS_NAMED_MAX, "ask in several statements")
        } else if self.set_operations > SET_OPERATIONS_MAX {
            ("of UNION, INTERSECT and EXCEPT", SET_OPERATIONS_MAX, "write one query with IN or OR")
        } else if self.relations > RELATIONS_MAX {
            ("relations", RELATIONS_MAX, "ask in several statements")
        } else {
            return Ok(());
        };
        Err(Error::Limit(format!(
            "the statement comes to more than {most} {what}, with what WITH defines counted as often \
             as it is named: {instead}"
        )))
    }
}

/// A query whose end was not seen yet.
#[derive(Debug, Default)]
struct Frame {
    weight: Weight,
    /// How many names were known before it.
    names_before: usize,
    /// If it is what a WITH defines: the name.
    defines: Option<String>,
}

#[derive(Debug, Default)]
struct Counting {
    open: Vec<Frame>,
    /// What WITH has defined, inner names last.
    names: Vec<(String, Weight)>,
    /// Definitions whose query is still to come: where it lies in the tree, and its name.
    coming: Vec<(*const Query, String)>,
    /// Joins as they are written, each once.
    joins_written: usize,
}

impl Visitor for Counting {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let here = std::ptr::from_ref(query);
        let defines = self.coming.iter().position(|(coming, _)| std::ptr::eq(*coming, here));
        let defines = defines.map(|at| self.coming.swap_remove(at).1);
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = normal(&cte.alias.name);
            self.coming.push((std::ptr::from_ref(cte.query.as_ref()), name));
        }
        let mut weight = Weight::default();
        if let Err(error) = count_body(&query.body, &mut weight) {
            return ControlFlow::Break(error);
        }
        count_pipes(&query.pipe_operators, &mut weight);
        self.joins_written += weight.joins;
        if self.joins_written > JOINS_MAX {
            let text =
                format!("the statement has more than {JOINS_MAX} joins: ask in several statements");
            return ControlFlow::Break(Error::Limit(text));
        }
        self.open.push(Frame { weight, names_before: self.names.len(), defines });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Error> {
        let Some(Frame { weight, names_before, defines }) = self.open.pop() else {
            return ControlFlow::Continue(());
        };
        self.names.truncate(names_before);
        if let Err(error) = weight.check() {
            return ControlFlow::Break(error);
        }
        match defines {
            Some(name) => self.names.push((name, weight)),
            None => return self.count(weight),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Error> {
        let is_call = matches!(
            factor,
            TableFactor::Table { args: Some(_), .. }
                | TableFactor::Function { .. }
                | TableFactor::TableFunction { .. }
        );
        if is_call {
            factor.visit(&mut NoFixedTypes)?;
        }
        let weight = match factor {
            TableFactor::Table { name, args: None, .. } => {
                let known = self.weight_of(&key(name));
                known.unwrap_or(Weight { relations: 1, ..Weight::default() })
            }
            // A table function may read what it is given the name of.
            TableFactor::Table { args: Some(TableFunctionArgs { args, .. }), .. }
            | TableFactor::Function { args, .. } => {
                let mut weight = Weight { relations: 1, ..Weight::default() };
                for known in args.iter().filter_map(name_in).filter_map(|key| self.weight_of(&key))
                {
                    weight.add(known);
                }
                weight
            }
            // Their parts are visited themselves.
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => Weight::default(),
            _ => Weight { relations: 1, ..Weight::default() },
        };
        self.count(weight)
    }
}

impl Counting {
    /// Of what WITH defines under a name, if it does.
    fn weight_of(&self, key: &str) -> Option<Weight> {
        let known = self.names.iter().rev().find(|(known, _)| known == key);
        known.map(|(_, weight)| *weight)
    }

    /// Adds to the query that is open.
    fn count(&mut self, weight: Weight) -> ControlFlow<Error> {
        let Some(frame) = self.open.last_mut() else { return ControlFlow::Continue(()) };
        frame.weight.add(weight);
        match frame.weight.check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// Arguments of table functions are worked out while a plan is made, before it can be checked. Types of a fixed size, whose
/// values may not fit into memory, have no place there at all.
struct NoFixedTypes;

impl Visitor for NoFixedTypes {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        let is_fixed = match expr {
            Expr::Cast { data_type, .. } => {
                let text = data_type.to_string();
                let mut brackets = text.split('[').skip(1);
                brackets.any(|size| size.starts_with(|first: char| first.is_ascii_digit()))
            }
            Expr::Function(call) => {
                let name = key(&call.name).to_lowercase();
                ["arrow_cast", "arrow_try_cast"].contains(&name.as_str())
            }
            _ => false,
        };
        if !is_fixed {
            return ControlFlow::Continue(());
        }
        let text =
            "arguments of a table function have no types of a fixed size: leave out the type";
        ControlFlow::Break(Error::Limit(text.to_owned()))
    }
}

/// A name as DataFusion knows it: small letters, unless it is quoted.
fn normal(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

/// What DataFusion looks for among the names of WITH. A dot between names and one within a name are the same to it.
fn key(name: &ObjectName) -> String {
    joined(name.0.iter().filter_map(ObjectNamePart::as_ident))
}

fn joined<'a>(parts: impl Iterator<Item = &'a Ident>) -> String {
    parts.map(normal).collect::<Vec<_>>().join(".")
}

/// If an argument is a name: what to look for.
fn name_in(argument: &FunctionArg) -> Option<String> {
    let (FunctionArg::Unnamed(value)
    | FunctionArg::Named { arg: value, .. }
    | FunctionArg::ExprNamed { arg: value, .. }) = argument;
    match value {
        FunctionArgExpr::Expr(Expr::Identifier(name)) => Some(normal(name)),
        FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts)) => Some(joined(parts.iter())),
        _ => None,
    }
}

/// Joins and set operations of a query, without those of queries within it. What reads no relation makes one.
fn count_body(body: &SetExpr, weight: &mut Weight) -> Result<()> {
    let mut bodies = vec![body];
    while let Some(body) = bodies.pop() {
        match body {
            SetExpr::SetOperation { left, right, .. } => {
                weight.set_operations += 1;
                bodies.extend([left.as_ref(), right.as_ref()]);
            }
            SetExpr::Select(select) => {
                weight.joins += select.from.len().saturating_sub(1);
                weight.relations += usize::from(select.from.is_empty());
                for table in &select.from {
                    count_joins(table, weight);
                }
                check_groups(select)?;
            }
            SetExpr::Values(_) => weight.relations += 1,
            _ => {}
        }
    }
    Ok(())
}

/// What follows a query after `|>`. Queries within are visited themselves.
fn count_pipes(pipes: &[PipeOperator], weight: &mut Weight) {
    for pipe in pipes {
        match pipe {
            PipeOperator::Join(join) => {
                weight.joins += 1;
                if let TableFactor::NestedJoin { table_with_joins, .. } = &join.relation {
                    count_joins(table_with_joins, weight);
                }
            }
            PipeOperator::Union { queries, .. }
            | PipeOperator::Intersect { queries, .. }
            | PipeOperator::Except { queries, .. } => weight.set_operations += queries.len(),
            _ => {}
        }
    }
}

fn count_joins(table: &TableWithJoins, weight: &mut Weight) {
    let mut tables = vec![table];
    while let Some(table) = tables.pop() {
        weight.joins += table.joins.len();
        let factors = table.joins.iter().map(|join| &join.relation);
        for factor in std::iter::once(&table.relation).chain(factors) {
            if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
                tables.push(table_with_joins);
            }
        }
    }
}

/// Refuses grouping sets that are too many, or too large where each has its own copy of what is grouped by.
fn check_groups(select: &Select) -> Result<()> {
    let GroupByExpr::Expressions(groups, _) = &select.group_by else { return Ok(()) };
    // A name that is grouped by may stand for what is selected under it.
    let parts = count_parts(&select.projection) + count_parts(groups);
    let (mut sets, mut most_names) = (1_usize, 0_usize);
    for group in groups {
        let (count, names) = match group {
            Expr::Cube(lists) => {
                let names = lists.iter().map(Vec::len).sum();
                let doublings = u32::try_from(names).unwrap_or(u32::MAX);
                (1_usize.checked_shl(doublings).unwrap_or(usize::MAX), names)
            }
            Expr::Rollup(lists) => {
                let names: usize = lists.iter().map(Vec::len).sum();
                (names + 1, names)
            }
            Expr::GroupingSets(lists) => {
                (lists.len(), lists.iter().map(Vec::len).max().unwrap_or(0))
            }
            _ => (1, 1),
        };
        sets = sets.saturating_mul(count);
        most_names += names;
    }
    let parts = sets.saturating_mul(most_names).saturating_mul(parts);
    if sets > GROUPING_SETS_MAX || (sets > 1 && parts > GROUPING_PARTS_MAX) {
        return Err(Error::Limit(format!(
            "CUBE, ROLLUP and GROUPING SETS come to too many or too large groups, at most \
             {GROUPING_SETS_MAX} sets are taken: group by less at once"
        )));
    }
    Ok(())
}

/// Expressions within something, and those within them.
fn count_parts<T: Visit>(of: &T) -> usize {
    struct Parts(usize);
    impl Visitor for Parts {
        type Break = ();

        fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }
    }
    let mut parts = Parts(0);
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = of.visit(&mut parts);
    parts.0
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    fn checked(sql: &str) -> Result<()> {
        let mut statements = DFParser::parse_sql(sql).unwrap();
        check(&statements.pop_front().unwrap())
    }

    #[test]
    fn joins_and_set_operations_are_bounded_however_they_are_written() {
        for link in [", t", " CROSS JOIN t", " JOIN t ON true", " LEFT JOIN t USING (a)"] {
            let text = |count| format!("SELECT 1 FROM t{}", link.repeat(count));
            checked(&text(JOINS_MAX)).unwrap();
            assert!(checked(&text(JOINS_MAX + 1)).is_err(), "{link}");
            assert!(checked(&format!("EXPLAIN {}", text(JOINS_MAX + 1))).is_err(), "{link}");
        }
        let nested = format!("SELECT 1 FROM t, (t{})", " CROSS JOIN t".repeat(JOINS_MAX));
        assert!(checked(&nested).is_err());
        let twice = "(SELECT 1 FROM t, t, t, t, t, t, t, t, t, t)";
        assert!(checked(&format!("SELECT {twice}, {twice}")).is_err());
        let unions = format!("SELECT 1{}", " UNION SELECT 1".repeat(SET_OPERATIONS_MAX + 1));
        assert!(checked(&unions).is_err());
    }

    /// Each line names the one before twice, in a join, in a UNION and in subqueries.
    #[test]
    fn what_with_defines_counts_as_often_as_it_is_named() {
        for double in [
            "SELECT a.x FROM {0} a, {0} b",
            "SELECT x FROM {0} UNION ALL SELECT x FROM {0}",
            "SELECT (SELECT max(x) FROM {0}) + (SELECT min(x) FROM {0}) AS x",
            "SELECT x FROM (SELECT x FROM {0}) c WHERE x IN (SELECT x FROM \"{0}\")",
            "SELECT x FROM asof_join(events => {0}) UNION ALL SELECT x FROM asof_join({0}, 'a')",
        ] {
            let levels = |first: &str, count: usize| {
                let names: Vec<String> = (0..count).map(|level| format!("l{level}")).collect();
                let lines = names
                    .windows(2)
                    .map(|pair| format!(", {} AS ({})", pair[1], double.replace("{0}", &pair[0])));
                let lines: String = lines.collect();
                format!("WITH l0 AS ({first}){lines} SELECT * FROM {}", names[count - 1])
            };
            for first in ["SELECT 1 AS x FROM t", "SELECT 1 AS x", "VALUES (1)"] {
                checked(&levels(first, 4)).unwrap();
                assert!(checked(&levels(first, 40)).is_err(), "{first}: {double}");
            }
        }
        // A name is found as DataFusion finds it, however it is spelled.
        let heavy = format!("SELECT 1 FROM t{}", ", t".repeat(JOINS_MAX));
        for (defined, named) in
            [("`a`", "a"), ("A", "`a`"), ("\"a\"\"b\"", "\"a\"\"b\""), ("\"a.b\"", "a.B")]
        {
            let text = |count| {
                let names = vec![format!("SELECT * FROM {named}"); count].join(" UNION ALL ");
                format!("WITH {defined} AS ({heavy}) {names}")
            };
            checked(&text(3)).unwrap();
            assert!(checked(&text(9)).is_err(), "{defined}");
        }
        let light =
            "SELECT * FROM \"A1\" UNION ALL SELECT * FROM \"A1\" UNION ALL SELECT * FROM a1";
        let shadowed = |count| {
            let names = vec![light; count].join(" UNION ALL ");
            format!("WITH \"A1\" AS ({heavy}), a1 AS (SELECT 1) {names}")
        };
        checked(&shadowed(1)).unwrap();
        assert!(checked(&shadowed(3)).is_err());
        // Joins that are named again may be more than those that are written.
        let joined = "SELECT 1 FROM t, t, t";
        let nine = ["SELECT * FROM a"; 9].join(" UNION ALL ");
        checked(&format!("WITH a AS ({joined}) {nine}")).unwrap();
        // A name ends with the query that defines it.
        let many = format!("SELECT 1{}", " UNION SELECT 1".repeat(SET_OPERATIONS_MAX));
        let inner = format!("SELECT * FROM (WITH a AS ({many}) SELECT 1) b, a, a, a");
        checked(&inner).unwrap();
    }

    #[test]
    fn pipes_count_as_what_they_stand_for() {
        let text = |link: &str, count| format!("SELECT 1 FROM t{}", link.repeat(count));
        for (link, most) in [
            (" |> CROSS JOIN t", JOINS_MAX),
            (" |> UNION ALL (SELECT 1 FROM t)", SET_OPERATIONS_MAX),
            (" |> EXCEPT DISTINCT (SELECT 1 FROM t)", SET_OPERATIONS_MAX),
        ] {
            checked(&text(link, most)).unwrap();
            assert!(checked(&text(link, most + 1)).is_err(), "{link}");
        }
    }

    #[test]
    fn grouping_sets_are_bounded() {
        let names = |count| {
            let names: Vec<String> = (0..count).map(|at| format!("c{at}")).collect();
            names.join(", ")
        };
        let text = |sets: &str| format!("SELECT count(*) FROM t GROUP BY {sets}");
        checked(&text(&format!("CUBE({})", names(12)))).unwrap();
        checked(&text(&format!("ROLLUP({})", names(100)))).unwrap();
        checked(&text(&names(300))).unwrap();
        let large = format!("CUBE({}, a{})", names(11), " + 1".repeat(100));
        for sets in [
            format!("CUBE({})", names(30)),
            format!("CUBE({}), c12", names(70)),
            format!("CUBE({}), CUBE(a, b, c, d, e, f, g)", names(6)),
            format!("ROLLUP({}), ROLLUP({})", names(70), names(70)),
            large,
        ] {
            assert!(checked(&text(&sets)).is_err(), "{sets}");
        }
    }

    #[test]
    fn table_functions_take_no_types_of_a_fixed_size() {
        for argument in
            ["NULL::INT[9][9]", "cardinality(1 + CAST(NULL AS INT[9]))", "\"arrow_cast\"(1, 'x')"]
        {
            let sql = format!("SELECT * FROM t, generate_series(1, {argument})");
            assert!(checked(&sql).is_err(), "{argument}");
        }
        checked("SELECT * FROM generate_series(1, 2::INT), t WHERE x = NULL::INT[9]").unwrap();
    }
}
