//! Statements over `pg_catalog` and `information_schema` alone, as tools ask them, in a form that DataFusion plans.
//!
//! # Contract
//! * Only for statements of which [`reads_catalogs_alone`] says so.
//! * Much of what tools look for there is none of: indexes, constraints, policies. A SELECT that draws from a relation
//!   without rows ([`EMPTY`]) has none, whatever it computes from them: it is replaced by one that has its columns, as text,
//!   and its parameters, and no row.
//! * A subquery for one value that hangs on the row around it takes the first of its rows. PostgreSQL refuses several; in
//!   catalogs they are found by their numbers, and there is one.
//!
//! # What it does not know
//! Rows: that [`EMPTY`] relations have none is what [`super::relations`] sees to.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;

use tagmill::datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, FunctionArg, FunctionArgExpr,
    FunctionArguments, GroupByExpr, Ident, JoinOperator, Query, Select, SelectItem, SetExpr,
    Statement, TableFactor, TableWithJoins, Value, Visit as _, VisitMut as _, Visitor, VisitorMut,
};
use tagmill::datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use tagmill::datafusion::sql::sqlparser::parser::Parser as SqlParser;

use super::parser::call;
use super::relations::EMPTY;

/// Schemas of catalogs.
const CATALOGS: [&str; 2] = ["pg_catalog", "information_schema"];
/// Columns of arrays that are null in every row.
const NULL_ARRAYS: [&str; 2] = ["reloptions", "relacl"];
/// Functions in FROM that read no relation.
const FUNCTIONS: [&str; 3] = ["generate_series", "string_to_array", "unnest"];
/// Functions of many rows.
const AGGREGATES: [&str; 14] = [
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

/// Whether a statement reads relations, and no others than those of catalogs.
pub(super) fn reads_catalogs_alone(statement: &Statement) -> bool {
    let mut read = Read::default();
    let ControlFlow::Continue(()) = statement.visit(&mut read);
    let of_catalogs = |name: &Vec<String>| match name.as_slice() {
        [.., schema, _] => CATALOGS.contains(&schema.as_str()),
        _ => false,
    };
    read.relations.retain(|name| name.len() > 1 || !read.named.contains(&name[0]));
    matches!(statement, Statement::Query(_))
        && !read.relations.is_empty()
        && read.relations.iter().all(of_catalogs)
}

/// See the contract of this file.
pub(super) fn rewrite(statement: &mut Statement) {
    let ControlFlow::Continue(()) = statement.visit(&mut Catalogs);
}

/// What a statement reads.
#[derive(Default)]
struct Read {
    /// In lower case, level by level.
    relations: Vec<Vec<String>>,
    /// Names given by WITH.
    named: BTreeSet<String>,
}

impl Visitor for Read {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Infallible> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        self.named.extend(named.map(|table| table.alias.name.value.to_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<Infallible> {
        if let TableFactor::Table { name, args, .. } = table {
            let levels = name.0.iter().filter_map(|part| part.as_ident());
            let levels: Vec<String> = levels.map(|level| level.value.to_lowercase()).collect();
            let last = levels.last().map(String::as_str).unwrap_or_default();
            // With arguments it is a function: one of lists and catalogs, or of the plant.
            let is_of_nobody = FUNCTIONS.contains(&last) || last.starts_with("pg_");
            if args.is_none() || !is_of_nobody {
                self.relations.push(levels);
            }
        }
        ControlFlow::Continue(())
    }
}

struct Catalogs;

impl VisitorMut for Catalogs {
    type Break = Infallible;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        match expr {
            // Grafana's way to the schemas in which a name is looked up.
            Expr::InSubquery { expr: name, subquery, negated }
                if subquery.to_string().contains("current_setting('search_path')") =>
            {
                let list = vec![text("public")];
                *expr = Expr::InList { expr: name.clone(), list, negated: *negated };
            }
            // DBeaver writes the name where the number would be.
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right }
                if is_column(left, "relnamespace") && is_text(right) =>
            {
                let schemas = "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname =";
                let query = SqlParser::new(&PostgreSqlDialect {})
                    .try_with_sql(&format!("{schemas} {right}"))
                    .and_then(|mut parser| parser.parse_query());
                if let Ok(query) = query {
                    **right = Expr::Subquery(query);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        match expr {
            Expr::Subquery(query) if hangs_on_its_row(query) => {
                aggregate(query, |item| call("first_value", [item]));
            }
            // ARRAY (SELECT ..)
            Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("array") => {
                if let FunctionArguments::Subquery(query) = &mut function.args {
                    let mut query = query.clone();
                    if aggregate(&mut query, |item| call("array_agg", [item])) {
                        *expr = Expr::Subquery(query);
                    } else if select_of(&query).is_some_and(is_nothing) {
                        let of = ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None);
                        *expr = null(DataType::Array(of));
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
        if select_of(query).is_some_and(is_nothing) {
            query.order_by = None;
        }
        ControlFlow::Continue(())
    }
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
    match table {
        TableFactor::Table { name, args: None, .. } => {
            let name = name.0.last().and_then(|part| part.as_ident());
            name.is_some_and(|name| EMPTY.contains(&name.value.to_lowercase().as_str()))
        }
        TableFactor::Table { name, args: Some(arguments), .. } => {
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(of))] = arguments.args.as_slice()
            else {
                return false;
            };
            name.to_string() == "unnest" && NULL_ARRAYS.iter().any(|column| is_column(of, column))
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
    let is_grouped =
        !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    if !is_grouped && aggregates(select) {
        return;
    }
    let Some(names) = select.projection.iter().map(name_of).collect::<Option<Vec<_>>>() else {
        return;
    };
    let parameters = parameters_of(select);
    let mut known = BTreeSet::new();
    let item = |mut alias: Ident| {
        // Without quotes a name is one whatever its case.
        if alias.quote_style.is_none() {
            alias = Ident::with_quote('"', alias.value.to_lowercase());
        }
        while !known.insert(alias.value.clone()) {
            alias.value.push('_');
        }
        SelectItem::ExprWithAlias { expr: null(DataType::Text), alias }
    };
    select.projection = names.into_iter().map(item).collect();
    select.from = Vec::new();
    select.distinct = None;
    select.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
    select.having = None;
    // The client sends values for the parameters it has written, wherever they went.
    select.selection = Some(parameters.into_iter().fold(never(), |all, parameter| {
        let parameter = Expr::Value(Value::Placeholder(parameter).with_empty_span());
        Expr::BinaryOp {
            left: Box::new(all),
            op: BinaryOperator::And,
            right: Box::new(Expr::IsNull(Box::new(cast(parameter, DataType::Text)))),
        }
    }));
}

/// Whether [`make_nothing`] made it.
fn is_nothing(select: &Select) -> bool {
    let mut condition = select.selection.as_ref();
    while let Some(Expr::BinaryOp { left, op: BinaryOperator::And, .. }) = condition {
        condition = Some(left);
    }
    select.from.is_empty() && condition == Some(&never())
}

fn never() -> Expr {
    Expr::Value(Value::Boolean(false).with_empty_span())
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
            match table {
                TableFactor::Table { alias: Some(alias), .. }
                | TableFactor::Derived { alias: Some(alias), .. } => {
                    self.drawn_from.insert(alias.name.value.clone());
                }
                TableFactor::Table { name, .. } => {
                    let name = name.0.last().and_then(|part| part.as_ident());
                    self.drawn_from.extend(name.map(|name| name.value.clone()));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
            if let Expr::CompoundIdentifier(levels) = expr
                && let [.., table, _] = levels.as_slice()
            {
                self.spoken_of.insert(table.value.clone());
            }
            ControlFlow::Continue(())
        }
    }
    let mut tables = Tables::default();
    let ControlFlow::Continue(()) = query.visit(&mut tables);
    !tables.spoken_of.is_subset(&tables.drawn_from)
}

/// Wraps the one column of a query without groups in a function of many rows. False, and nothing done, of another query.
fn aggregate(query: &mut Query, wrap: impl FnOnce(Expr) -> Expr) -> bool {
    let is_whole = query.limit_clause.is_none() && query.fetch.is_none();
    let SetExpr::Select(select) = query.body.as_mut() else { return false };
    let is_grouped =
        !matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    if !is_whole
        || is_grouped
        || select.distinct.is_some()
        || aggregates(select)
        || is_nothing(select)
    {
        return false;
    }
    let [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }] =
        select.projection.as_mut_slice()
    else {
        return false;
    };
    *item = wrap(item.clone());
    query.order_by = None;
    true
}

/// Whether a SELECT itself, not one within it, computes something of many rows.
fn aggregates(select: &Select) -> bool {
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
                let name = function.name.to_string().to_lowercase();
                let is_aggregate = AGGREGATES.contains(&name.as_str()) && function.over.is_none();
                self.found |= self.depth == 0 && is_aggregate;
            }
            ControlFlow::Continue(())
        }
    }
    let mut calls = Calls { depth: 0, found: false };
    let ControlFlow::Continue(()) = select.projection.visit(&mut calls);
    let ControlFlow::Continue(()) = select.having.visit(&mut calls);
    calls.found
}

/// `$1` and its like, each once.
fn parameters_of(select: &Select) -> BTreeSet<String> {
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
    let ControlFlow::Continue(()) = select.visit(&mut parameters);
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

fn is_column(expr: &Expr, name: &str) -> bool {
    match expr {
        Expr::Identifier(column) => column.value == name,
        Expr::CompoundIdentifier(levels) => {
            levels.last().is_some_and(|column| column.value == name)
        }
        _ => false,
    }
}

fn is_text(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(&value.value, Value::SingleQuotedString(text) if text.parse::<i64>().is_err()))
}

fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).with_empty_span())
}

fn null(of: DataType) -> Expr {
    cast(Expr::Value(Value::Null.with_empty_span()), of)
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

#[cfg(test)]
mod tests {
    use super::super::parser::Parser;

    fn rewritten(sql: &str) -> String {
        Parser::new().parse(sql).unwrap().to_string()
    }

    #[test]
    fn what_draws_from_nothing_has_no_rows() {
        let nothing = "SELECT CAST(NULL AS TEXT) AS \"a\"";
        for (sql, wanted) in [
            (
                "SELECT i.indkey AS A FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid ORDER BY c.oid",
                format!("{nothing} WHERE false"),
            ),
            (
                "SELECT x.a FROM (SELECT unnest(conkey) AS a FROM pg_catalog.pg_constraint WHERE oid = $2) x",
                format!("{nothing} WHERE false AND CAST($2 AS TEXT) IS NULL"),
            ),
            (
                "SELECT oid AS a FROM pg_catalog.pg_class AS c LEFT JOIN (SELECT a FROM pg_index) AS i ON i.a = oid",
                format!(
                    "SELECT oid AS a FROM pg_catalog.pg_class AS c LEFT JOIN ({nothing} WHERE false) AS i ON i.a = oid"
                ),
            ),
            (
                "SELECT ARRAY(SELECT b.rolname FROM pg_auth_members m JOIN pg_roles b ON m.roleid = b.oid) FROM pg_class",
                "SELECT CAST(NULL AS TEXT[]) FROM pg_catalog.pg_class".to_owned(),
            ),
            // A count of nothing is a row.
            (
                "SELECT count(*) FROM pg_catalog.pg_index",
                "SELECT count(*) FROM pg_catalog.pg_index".to_owned(),
            ),
            (
                "SELECT i.*, i.indkey AS keys FROM pg_catalog.pg_index AS i",
                "SELECT i.*, i.indkey AS keys FROM pg_catalog.pg_index AS i".to_owned(),
            ),
        ] {
            assert_eq!(rewritten(sql), wanted);
        }
    }

    #[test]
    fn a_subquery_of_its_row_takes_one() {
        for (sql, wanted) in [
            (
                "SELECT (SELECT n.nspname FROM pg_catalog.pg_namespace AS n WHERE n.oid = c.relnamespace) FROM pg_catalog.pg_class AS c",
                "SELECT (SELECT first_value(n.nspname) FROM pg_catalog.pg_namespace AS n WHERE n.oid = c.relnamespace) FROM pg_catalog.pg_class AS c",
            ),
            (
                "SELECT (SELECT oid FROM pg_catalog.pg_class WHERE relname = 'samples') FROM pg_catalog.pg_am",
                "SELECT (SELECT oid FROM pg_catalog.pg_class WHERE relname = 'samples') FROM pg_catalog.pg_am",
            ),
            (
                "SELECT c.oid FROM pg_catalog.pg_class AS c WHERE c.relnamespace = 'public'",
                "SELECT c.oid FROM pg_catalog.pg_class AS c WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public')",
            ),
        ] {
            assert_eq!(rewritten(sql), wanted);
        }
    }
}
