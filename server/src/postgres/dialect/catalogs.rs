//! Statements over `pg_catalog` and `information_schema` alone, as tools ask them, in a form that DataFusion plans.
//!
//! # Contract
//! * Only for statements of which [`reads_catalogs_alone`] says so.
//! * Much of what tools look for there is none of: indexes, constraints, policies. A SELECT that draws from a relation
//!   without rows ([`EMPTY`]) has none, whatever it computes from them: it is replaced by one that has its columns, all of
//!   them null, and its parameters, and no row.
//! * A subquery for one value that hangs on the row around it takes the first of its rows. PostgreSQL refuses several; in
//!   catalogs they are found by their numbers, and there is one.
//!
//! # What it does not know
//! Rows: that [`EMPTY`] relations have none is what [`super::relations`] sees to.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;

use tagmill::datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, DataType, Expr, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident, JoinOperator, OrderByExpr,
    OrderByKind, Query, Select, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins, Value,
    Visit, VisitMut as _, Visitor, VisitorMut,
};

use super::relations::{EMPTY, NULL_ARRAYS};
use super::tree::{call, cast, is_column, last, normal, text, value};

/// Schemas of catalogs.
const CATALOGS: [&str; 2] = ["pg_catalog", "information_schema"];
/// Functions in FROM that read no relation.
const FUNCTIONS: [&str; 3] = ["generate_series", "string_to_array", "unnest"];
/// Functions of many rows that tools call.
const AGGREGATES: [&str; 15] = [
    "any_value",
    "array_agg",
    "avg",
    "bool_and",
    "bool_or",
    "count",
    "every",
    "first_value",
    "json_agg",
    "jsonb_agg",
    "max",
    "min",
    "string_agg",
    "sum",
    "xmlagg",
];

/// Whether a statement reads relations, and no others than those of catalogs. Of doubt it makes no: a relation without a
/// schema may be one that WITH names, or one of the plant.
pub(super) fn reads_catalogs_alone(statement: &Statement) -> bool {
    #[derive(Default)]
    struct Read {
        catalogs: bool,
        others: bool,
    }
    impl Visitor for Read {
        type Break = Infallible;

        fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<Infallible> {
            let is_one = |name: &str| FUNCTIONS.contains(&name) || name.starts_with("pg_");
            match table {
                TableFactor::Table { name, args: None, .. } => {
                    let schema = name.0.len().checked_sub(2).and_then(|at| name.0[at].as_ident());
                    let schema = schema.map(normal).unwrap_or_default();
                    let is_catalog = CATALOGS.contains(&schema.as_str());
                    self.catalogs |= is_catalog;
                    self.others |= !is_catalog;
                }
                TableFactor::Table { name, .. } | TableFactor::Function { name, .. } => {
                    self.others |= !is_one(&last(name));
                }
                TableFactor::Derived { .. }
                | TableFactor::NestedJoin { .. }
                | TableFactor::UNNEST { .. } => {}
                _ => self.others = true,
            }
            ControlFlow::Continue(())
        }
    }
    let mut read = Read::default();
    let ControlFlow::Continue(()) = statement.visit(&mut read);
    matches!(statement, Statement::Query(_)) && read.catalogs && !read.others
}

/// See the contract of this file.
pub(super) fn rewrite(statement: &mut Statement) {
    let ControlFlow::Continue(()) = statement.visit(&mut Catalogs);
}

struct Catalogs;

impl VisitorMut for Catalogs {
    type Break = Infallible;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        // Grafana's way to the schemas in which a name is looked up.
        if let Expr::InSubquery { expr: name, subquery, negated } = expr
            && is_search_path(subquery)
        {
            let list = vec![text("public")];
            *expr = Expr::InList { expr: name.clone(), list, negated: *negated };
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        match expr {
            Expr::Subquery(query) if hangs_on_its_row(query) => {
                aggregate(query, |item, _| call("first_value", [item]));
            }
            // ARRAY (SELECT ..)
            Expr::Function(function) if last(&function.name) == "array" => {
                if let FunctionArguments::Subquery(query) = &mut function.args {
                    let mut query = query.clone();
                    if aggregate(&mut query, array_agg) {
                        *expr = Expr::Subquery(query);
                    } else if select_of(&query).is_some_and(is_nothing) {
                        let of = ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None);
                        *expr = cast(value(Value::Null), DataType::Array(of));
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Infallible> {
        if draws_from_nothing(&select.from) {
            make_nothing(select);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Infallible> {
        // What would be ordered is gone, and with it the columns it is ordered by.
        if select_of(query).is_some_and(is_nothing) && parameters_of(&query.order_by).is_empty() {
            query.order_by = None;
        }
        ControlFlow::Continue(())
    }
}

/// Whether a query takes the search path apart, and reads nothing else.
fn is_search_path(query: &Query) -> bool {
    let Some(select) = select_of(query) else { return false };
    let is_function = |tables: &TableWithJoins| {
        matches!(tables.relation, TableFactor::Table { args: Some(_), .. })
            && tables.joins.is_empty()
    };
    let functions = select.from.iter().filter(|tables| is_function(tables)).count();
    functions > 0
        && functions == select.from.len()
        && query.to_string().contains("current_setting('search_path')")
}

/// Whether there can be no row: one of the relations that each row takes part of has none.
fn draws_from_nothing(from: &[TableWithJoins]) -> bool {
    from.iter().any(|tables| {
        let mut is_empty = has_no_rows(&tables.relation);
        for join in &tables.joins {
            is_empty = match &join.join_operator {
                JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => {
                    is_empty || has_no_rows(&join.relation)
                }
                JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => is_empty,
                JoinOperator::Right(_) | JoinOperator::RightOuter(_) => has_no_rows(&join.relation),
                _ => false,
            };
        }
        is_empty
    })
}

fn has_no_rows(table: &TableFactor) -> bool {
    let is_null = |of: &Expr| NULL_ARRAYS.iter().any(|(_, column)| is_column(of, column));
    match table {
        TableFactor::Table { name, args: None, .. } => EMPTY.contains(&last(name).as_str()),
        TableFactor::Table { name, args: Some(arguments), .. } => {
            matches!(arguments.args.as_slice(),
                [FunctionArg::Unnamed(FunctionArgExpr::Expr(of))] if is_null(of))
                && last(name) == "unnest"
        }
        TableFactor::UNNEST { array_exprs, .. } => {
            matches!(array_exprs.as_slice(), [of] if is_null(of))
        }
        TableFactor::Derived { subquery, .. } => select_of(subquery).is_some_and(is_nothing),
        TableFactor::NestedJoin { table_with_joins, .. } => {
            draws_from_nothing(std::slice::from_ref(table_with_joins))
        }
        _ => false,
    }
}

/// Puts in place of a SELECT one without relations and without rows. One whose columns are not named stays, and so does
/// one that has a row even of nothing, such as a count.
fn make_nothing(select: &mut Select) {
    if grouping(select) == Grouping::Makes {
        return;
    }
    let Some(names) = select.projection.iter().map(name_of).collect::<Option<Vec<_>>>() else {
        return;
    };
    let parameters = parameters_of(select);
    let mut known = BTreeSet::new();
    let item = |name: Ident| {
        let mut alias = Ident::with_quote('"', normal(&name));
        while !known.insert(alias.value.clone()) {
            alias.value.push('_');
        }
        SelectItem::ExprWithAlias { expr: value(Value::Null), alias }
    };
    select.projection = names.into_iter().map(item).collect();
    select.from = Vec::new();
    select.distinct = None;
    select.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
    select.having = None;
    let never = value(Value::Boolean(false));
    select.selection = Some(if parameters.is_empty() {
        never
    } else {
        // The client sends values for the parameters it has written, wherever they went.
        let parameter = |name| cast(value(Value::Placeholder(name)), DataType::Text);
        let kept = call("coalesce", parameters.into_iter().map(parameter));
        let right = Box::new(Expr::IsNull(Box::new(kept)));
        Expr::BinaryOp { left: Box::new(never), op: BinaryOperator::And, right }
    });
}

/// Whether [`make_nothing`] made it.
fn is_nothing(select: &Select) -> bool {
    let is_null = |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { expr: Expr::Value(null), .. } if null.value == Value::Null);
    let condition = match select.selection.as_ref() {
        Some(Expr::BinaryOp { left, op: BinaryOperator::And, .. }) => Some(&**left),
        condition => condition,
    };
    select.from.is_empty()
        && condition == Some(&value(Value::Boolean(false)))
        && select.projection.iter().all(is_null)
}

/// The name of a column of an answer. None of a wildcard, which may be many.
fn name_of(item: &SelectItem) -> Option<Ident> {
    fn of(expr: &Expr) -> Option<&Ident> {
        match expr {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(levels) => levels.last(),
            Expr::Function(function) => function.name.0.last().and_then(|part| part.as_ident()),
            Expr::Cast { expr, .. } | Expr::Nested(expr) => of(expr),
            _ => None,
        }
    }
    match item {
        SelectItem::UnnamedExpr(expr) => {
            Some(of(expr).cloned().unwrap_or_else(|| Ident::with_quote('"', "?column?")))
        }
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
        _ => None,
    }
}

/// Whether a query speaks of a row around it: of a table that it does not draw from.
fn hangs_on_its_row(query: &Query) -> bool {
    #[derive(Default)]
    struct Tables {
        drawn_from: BTreeSet<String>,
        spoken_of: BTreeSet<String>,
    }
    impl Visitor for Tables {
        type Break = Infallible;

        fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<Infallible> {
            let (TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. }) = table
            else {
                return ControlFlow::Continue(());
            };
            self.drawn_from.extend(match (alias, table) {
                (Some(alias), _) => Some(normal(&alias.name)),
                (None, TableFactor::Table { name, .. }) => Some(last(name)),
                _ => None,
            });
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
            if let Expr::CompoundIdentifier(levels) = expr
                && let [.., table, _] = levels.as_slice()
            {
                self.spoken_of.insert(normal(table));
            }
            ControlFlow::Continue(())
        }
    }
    let mut tables = Tables::default();
    let ControlFlow::Continue(()) = query.visit(&mut tables);
    !tables.spoken_of.is_subset(&tables.drawn_from)
}

/// Wraps the one column of a query without groups in a function of many rows, which is told of the order. False, and
/// nothing done, of another query.
fn aggregate(query: &mut Query, wrap: impl FnOnce(Expr, Vec<OrderByExpr>) -> Expr) -> bool {
    let order = match query.order_by.as_ref().map(|order| &order.kind) {
        None => Vec::new(),
        Some(OrderByKind::Expressions(order)) => order.clone(),
        Some(OrderByKind::All(_)) => return false,
    };
    let is_whole = query.limit_clause.is_none() && query.fetch.is_none();
    let SetExpr::Select(select) = query.body.as_mut() else { return false };
    let is_plain = grouping(select) == Grouping::None && select.distinct.is_none();
    if !is_whole || !is_plain || is_nothing(select) {
        return false;
    }
    let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] =
        select.projection.as_mut_slice()
    else {
        return false;
    };
    *item = wrap(item.clone(), order);
    query.order_by = None;
    true
}

/// A list of all, in their order. A number in that order is the column itself.
fn array_agg(item: Expr, mut order: Vec<OrderByExpr>) -> Expr {
    for by in &mut order {
        if matches!(&by.expr, Expr::Value(number) if matches!(number.value, Value::Number(..))) {
            by.expr = item.clone();
        }
    }
    let mut list = call("array_agg", [item]);
    if let Expr::Function(function) = &mut list
        && let FunctionArguments::List(arguments) = &mut function.args
        && !order.is_empty()
    {
        arguments.clauses.push(FunctionArgumentClause::OrderBy(order));
    }
    list
}

/// How the rows of a SELECT come from those that it draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grouping {
    /// Each from one.
    None,
    /// Each from some: none from none.
    Takes,
    /// One from all, also from none.
    Makes,
}

fn grouping(select: &Select) -> Grouping {
    match &select.group_by {
        GroupByExpr::Expressions(keys, more) if more.is_empty() => {
            // Of ROLLUP and its like, and of the key (), there is a row of everything.
            let is_key = |key: &Expr| {
                matches!(key, Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Function(_))
            };
            match keys.as_slice() {
                [] if select.having.is_some() || aggregates(select) => Grouping::Makes,
                [] => Grouping::None,
                keys if keys.iter().all(is_key) => Grouping::Takes,
                _ => Grouping::Makes,
            }
        }
        _ => Grouping::Makes,
    }
}

/// Whether a SELECT itself, not one within it, computes something of many rows.
fn aggregates(select: &Select) -> bool {
    #[derive(Default)]
    struct Calls {
        depth: usize,
        found: bool,
    }
    impl Visitor for Calls {
        type Break = Infallible;

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Infallible> {
            self.depth += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Infallible> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
            if let Expr::Function(function) = expr {
                let is_aggregate = AGGREGATES.contains(&last(&function.name).as_str());
                self.found |= self.depth == 0 && is_aggregate && function.over.is_none();
            }
            ControlFlow::Continue(())
        }
    }
    let mut calls = Calls::default();
    let ControlFlow::Continue(()) = select.projection.visit(&mut calls);
    calls.found
}

/// `$1` and its like, each once.
fn parameters_of(part: &impl Visit) -> BTreeSet<String> {
    struct Parameters(BTreeSet<String>);
    impl Visitor for Parameters {
        type Break = Infallible;

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
            if let Expr::Value(value) = expr
                && let Value::Placeholder(name) = &value.value
            {
                self.0.insert(name.clone());
            }
            ControlFlow::Continue(())
        }
    }
    let mut parameters = Parameters(BTreeSet::new());
    let ControlFlow::Continue(()) = part.visit(&mut parameters);
    parameters.0
}

/// The SELECT that a query is.
fn select_of(query: &Query) -> Option<&Select> {
    match query.body.as_ref() {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(inner) => select_of(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parser::Parser;

    fn rewritten(sql: &str) -> String {
        Parser::new().parse(sql).unwrap().to_string()
    }

    #[test]
    fn what_draws_from_nothing_has_no_rows() {
        let nothing = "SELECT NULL AS \"a\"";
        let left_of = |what: &str| {
            format!(
                "SELECT oid AS a FROM pg_catalog.pg_class AS c LEFT JOIN ({what}) AS i ON i.a = oid"
            )
        };
        for (sql, wanted) in [
            (
                "SELECT i.indkey AS A FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid ORDER BY c.oid",
                format!("{nothing} WHERE false"),
            ),
            (
                "SELECT x.a FROM (SELECT unnest(conkey) AS a FROM pg_catalog.pg_constraint WHERE oid = $2) x WHERE a = $1",
                format!(
                    "{nothing} WHERE false AND coalesce(CAST($1 AS TEXT), CAST($2 AS TEXT)) IS NULL"
                ),
            ),
            (&left_of("SELECT a FROM pg_index"), left_of(&format!("{nothing} WHERE false"))),
            (
                "SELECT ARRAY(SELECT b.rolname FROM pg_auth_members m JOIN pg_roles b ON m.roleid = b.oid) FROM pg_class",
                "SELECT CAST(NULL AS TEXT[]) FROM pg_catalog.pg_class".to_owned(),
            ),
            (
                "SELECT a, a FROM pg_class c, pg_catalog.unnest(c.reloptions) x",
                "SELECT NULL AS \"a\", NULL AS \"a_\" WHERE false".to_owned(),
            ),
            ("SELECT a FROM pg_index GROUP BY a", format!("{nothing} WHERE false")),
        ] {
            assert_eq!(rewritten(sql), wanted, "{sql}");
        }
        for stays in [
            // A count of nothing is a row.
            "SELECT count(*) FROM pg_catalog.pg_index",
            "SELECT \"count\"(*) FROM pg_catalog.pg_index",
            "SELECT 1 FROM pg_catalog.pg_index HAVING true",
            "SELECT indrelid FROM pg_catalog.pg_index GROUP BY ROLLUP (indrelid)",
            "SELECT i.*, i.indkey AS keys FROM pg_catalog.pg_index AS i",
            "SELECT oid FROM pg_catalog.pg_class, (SELECT count(*) AS n WHERE false) AS x",
            "SELECT oid FROM pg_catalog.pg_index AS i RIGHT JOIN pg_catalog.pg_class AS c ON true",
        ] {
            assert_eq!(rewritten(stays), stays);
        }
    }

    #[test]
    fn a_subquery_of_its_row_takes_one() {
        let of_the_row = |what: &str| {
            format!(
                "SELECT (SELECT {what} FROM pg_catalog.pg_namespace AS n WHERE n.oid = c.relnamespace) FROM pg_catalog.pg_class AS c"
            )
        };
        for (sql, wanted) in [
            (of_the_row("n.nspname"), of_the_row("first_value(n.nspname)")),
            (of_the_row("max(n.nspname)"), of_the_row("max(n.nspname)")),
            ("SELECT (SELECT N.oid FROM pg_catalog.pg_class AS n WHERE relname = 'samples') FROM pg_catalog.pg_am".to_owned(),
             "SELECT (SELECT N.oid FROM pg_catalog.pg_class AS n WHERE relname = 'samples') FROM pg_catalog.pg_am".to_owned()),
            ("SELECT ARRAY(SELECT relname FROM pg_catalog.pg_class ORDER BY 1 DESC) FROM pg_catalog.pg_am".to_owned(),
             "SELECT (SELECT array_agg(relname ORDER BY relname DESC) FROM pg_catalog.pg_class) FROM pg_catalog.pg_am".to_owned()),
        ] {
            assert_eq!(rewritten(&sql), wanted);
        }
    }

    #[test]
    fn names_of_schemas_are_looked_up() {
        let path =
            "generate_series(1, 2) AS i, string_to_array(current_setting('search_path'), ',') AS s";
        for (sql, wanted) in [
            (format!("SELECT 1 FROM pg_catalog.pg_class WHERE relname IN (SELECT trim(s[i]) FROM {path})"),
             "SELECT 1 FROM pg_catalog.pg_class WHERE relname IN ('public')"),
            ("SELECT 1 FROM pg_catalog.pg_settings WHERE name IN (SELECT name FROM pg_catalog.pg_settings WHERE setting = current_setting('search_path'))".to_owned(),
             "SELECT 1 FROM pg_catalog.pg_settings WHERE name IN (SELECT name FROM pg_catalog.pg_settings WHERE setting = current_setting('search_path'))"),
            ("SELECT c.oid FROM pg_catalog.pg_class AS c WHERE c.relnamespace = 'public'".to_owned(),
             "SELECT c.oid FROM pg_catalog.pg_class AS c WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public')"),
        ] {
            assert_eq!(rewritten(&sql), wanted);
        }
    }
}
