//! Limits on the tree of a statement: how many relations, joins and set operations it comes to.
//!
//! What a WITH defines counts as often as it is named: a few lines that each name the one before twice would otherwise
//! come to a plan of millions of relations.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Query, SetExpr, TableFactor, TableWithJoins, Visit, Visitor,
};

use crate::error::{Error, Result};
use crate::limits::{JOINS_MAX, RELATIONS_MAX, SET_OPERATIONS_MAX};

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
        let (what, most, instead) = if self.joins > JOINS_MAX {
            ("joins", JOINS_MAX, "ask in several statements")
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
}

impl Visitor for Counting {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let here = std::ptr::from_ref(query);
        let defines = self.coming.iter().position(|(coming, _)| std::ptr::eq(*coming, here));
        let defines = defines.map(|at| self.coming.swap_remove(at).1);
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = cte.alias.name.value.to_lowercase();
            self.coming.push((std::ptr::from_ref(cte.query.as_ref()), name));
        }
        let mut weight = Weight::default();
        count_body(&query.body, &mut weight);
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
        let weight = match factor {
            TableFactor::Table { name, args: None, .. } => {
                let name = name.to_string().trim_matches('"').to_lowercase();
                let known = self.names.iter().rev().find(|(known, _)| *known == name);
                known.map_or(Weight { relations: 1, ..Weight::default() }, |(_, weight)| *weight)
            }
            // Their parts are visited themselves.
            TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => Weight::default(),
            _ => Weight { relations: 1, ..Weight::default() },
        };
        self.count(weight)
    }
}

impl Counting {
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

/// Joins and set operations of a query, without those of queries within it. What reads no relation makes one.
fn count_body(body: &SetExpr, weight: &mut Weight) {
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
            }
            SetExpr::Values(_) => weight.relations += 1,
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
        // A name ends with the query that defines it.
        let many = format!("SELECT 1 FROM t{}", ", t".repeat(JOINS_MAX));
        let inner = format!("SELECT * FROM (WITH a AS ({many}) SELECT 1) b, a, a, a");
        checked(&inner).unwrap();
    }
}
