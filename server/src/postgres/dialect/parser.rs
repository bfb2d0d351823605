//! A text in PostgreSQL's words, as a statement that DataFusion plans to the same meaning.
//!
//! # Contract
//! * A rewrite keeps what a statement means. What has no equal here stays as it is, or is refused by name: there is never
//!   another answer instead.
//! * Statements over the catalogs alone are rewritten further ([`super::catalogs`]): tools ask them in forms that nobody
//!   but PostgreSQL plans. No statement that reads a relation of the plant is.
//!
//! # What it does not know
//! Columns and types: it sees words.

use std::ops::ControlFlow;

use datafusion_pg_catalog::pg_catalog::PG_CATALOG_TABLES;
use datafusion_pg_catalog::sql::rules::{
    AliasDuplicatedProjectionRewrite, CurrentUserVariableToSessionUserFunctionCall,
    FixVersionColumnName, PrependUnqualifiedPgTableName, RewritePgCatalogOperator,
    RewriteRegCastToSubquery, SqlStatementRewriteRule,
};
use tagmill::Error;
use tagmill::datafusion::sql::parser::Statement;
use tagmill::datafusion::sql::sqlparser::ast::{
    self, Array, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, ObjectName, Query,
    TableFactor, Value, VisitMut as _, VisitorMut,
};
use tagmill::datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use tagmill::datafusion::sql::sqlparser::parser::{Parser as SqlParser, ParserError};

use super::catalogs;
use super::tree::{call, cast, is_column, last, normal, text, text_of, value};

/// Orders of text that are the order of its bytes, which is the only one here.
const BYTE_ORDERS: [&str; 5] = ["c", "default", "posix", "ucs_basic", "pg_c_utf8"];
/// Schemas whose functions have no other names than they have without.
const SCHEMAS: [&str; 3] = ["pg_catalog", "information_schema", "public"];

/// Reads statements. One is enough for all connections.
pub(super) struct Parser {
    rules: Vec<Box<dyn SqlStatementRewriteRule>>,
}

impl Parser {
    pub(super) fn new() -> Self {
        Self {
            rules: vec![
                Box::new(AliasDuplicatedProjectionRewrite),
                Box::new(PrependUnqualifiedPgTableName),
                Box::new(CurrentUserVariableToSessionUserFunctionCall),
                Box::new(RewritePgCatalogOperator),
                Box::new(RewriteRegCastToSubquery::new()),
                Box::new(FixVersionColumnName),
            ],
        }
    }

    /// The one statement of a text.
    ///
    /// # Errors
    /// [`Error::Sql`] if it cannot be read, is none or several, or has words that mean nothing here.
    pub(super) fn parse(&self, sql: &str) -> tagmill::Result<Statement> {
        let statements = SqlParser::new(&PostgreSqlDialect {})
            .try_with_sql(sql)
            .and_then(|mut parser| parser.parse_statements())
            .map_err(|error| of_parser(&error))?;
        let Ok([mut statement]) = <[ast::Statement; 1]>::try_from(statements) else {
            return Err(Error::Sql("one statement at a time".to_owned()));
        };
        if let ControlFlow::Break(refused) = statement.visit(&mut Words) {
            return Err(Error::Sql(refused));
        }
        for rule in &self.rules {
            statement = rule.rewrite(statement);
        }
        if catalogs::reads_catalogs_alone(&statement) {
            catalogs::rewrite(&mut statement);
        }
        Ok(Statement::Statement(Box::new(statement)))
    }
}

fn of_parser(error: &ParserError) -> Error {
    Error::Sql(error.to_string().replacen("sql parser error: ", "syntax error: ", 1))
}

/// Puts words in place of others that mean the same, and refuses what means nothing here.
struct Words;

impl VisitorMut for Words {
    type Break = String;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<String> {
        for table in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = normal(&table.alias.name);
            if PG_CATALOG_TABLES.contains(&name.as_str()) {
                return ControlFlow::Break(format!(
                    "WITH {name}: that is a relation of pg_catalog; choose another name"
                ));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<String> {
        if let TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } =
            table
        {
            strip(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<String> {
        match expr {
            Expr::Function(function) => strip(&mut function.name),
            Expr::Collate { expr: inner, collation } => {
                if !BYTE_ORDERS.contains(&last(collation).to_lowercase().as_str()) {
                    return ControlFlow::Break(format!(
                        "there is no collation {collation}: text is compared by its bytes; leave COLLATE away, or write COLLATE \"C\""
                    ));
                }
                *expr = Expr::Nested(inner.clone());
            }
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                let escape = escape_char.as_ref().filter(|escape| {
                    !matches!(&escape.value, Value::SingleQuotedString(text) if text == "\\")
                });
                if let Some(escape) = escape {
                    let arguments = [(**pattern).clone(), Expr::Value(escape.clone())];
                    **pattern = call("like_escape", arguments);
                    *escape_char = None;
                }
            }
            Expr::AnyOp { left, compare_op, right, .. } => match elements(right) {
                Ok(Some(list)) if *compare_op == BinaryOperator::Eq => {
                    *expr = in_list(left, list, false);
                }
                Ok(Some(list)) => **right = array(list),
                Ok(None) => {}
                Err(refused) => return ControlFlow::Break(refused),
            },
            Expr::AllOp { left, compare_op, right } => match elements(right) {
                Ok(Some(list)) if *compare_op == BinaryOperator::NotEq => {
                    *expr = in_list(left, list, true);
                }
                Ok(Some(list)) => **right = array(list),
                Ok(None) => {}
                Err(refused) => return ControlFlow::Break(refused),
            },
            // DBeaver writes the name where the number would be.
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right }
                if is_column(left, "relnamespace") && is_name(right) =>
            {
                let regnamespace = ObjectName::from(vec![ast::Ident::new("regnamespace")]);
                **right = cast((**right).clone(), DataType::Custom(regnamespace, Vec::new()));
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr: inner,
                data_type: DataType::Array(_),
                ..
            } => match text_of(inner).map(elements_of_text) {
                Some(Ok(list)) => **inner = array(list),
                Some(Err(refused)) => return ControlFlow::Break(refused),
                None => {}
            },
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Whether an expression is a text, and not a number in one.
fn is_name(expr: &Expr) -> bool {
    text_of(expr).is_some_and(|text| text.parse::<i64>().is_err())
}

/// Functions stand without the name of their schema.
fn strip(name: &mut ObjectName) {
    if let [schema, _] = name.0.as_slice()
        && schema.as_ident().is_some_and(|schema| SCHEMAS.contains(&normal(schema).as_str()))
    {
        name.0.remove(0);
    }
}

/// `x = ANY (list)` or `x <> ALL (list)`: what IN means, with nulls too.
fn in_list(left: &Expr, list: Vec<Expr>, negated: bool) -> Expr {
    if list.is_empty() {
        return value(Value::Boolean(negated));
    }
    Expr::InList { expr: Box::new(left.clone()), list, negated }
}

fn array(elem: Vec<Expr>) -> Expr {
    Expr::Array(Array { elem, named: true })
}

/// The elements of an array that stands in the text: `ARRAY[..]`, `'{..}'`, `'{..}'::T[]`. None of one that does not.
///
/// # Errors
/// A text that is no array, or has more than one dimension.
fn elements(array: &Expr) -> Result<Option<Vec<Expr>>, String> {
    if let Some(text) = text_of(array) {
        return elements_of_text(text).map(Some);
    }
    match array {
        Expr::Nested(inner) => elements(inner),
        Expr::Array(array) => Ok(Some(array.elem.clone())),
        Expr::Cast {
            expr: inner,
            data_type:
                DataType::Array(
                    ArrayElemTypeDef::SquareBracket(of, None) | ArrayElemTypeDef::Parenthesis(of),
                ),
            ..
        } => {
            let typed = |element| cast(element, (**of).clone());
            Ok(elements(inner)?.map(|list| list.into_iter().map(typed).collect()))
        }
        _ => Ok(None),
    }
}

/// The elements of an array of one dimension in PostgreSQL's text, such as `{a,"b, c",NULL}`.
///
/// Source: <https://www.postgresql.org/docs/16/arrays.html#ARRAYS-IO>
fn elements_of_text(whole: &str) -> Result<Vec<Expr>, String> {
    let refused =
        || format!("'{whole}' is no array of one dimension, such as '{{a,\"b, c\",NULL}}'");
    let inner = whole.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let inner = inner.ok_or_else(refused)?;
    let mut found = Vec::new();
    if inner.trim().is_empty() {
        return Ok(found);
    }
    let mut rest = inner.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let is_quoted = rest.next_if_eq(&'"').is_some();
        let mut element = String::new();
        loop {
            match rest.peek() {
                None if is_quoted => return Err(refused()),
                None => break,
                Some('"') if is_quoted => break,
                Some(',') if !is_quoted => break,
                Some('{' | '}' | '"') if !is_quoted => return Err(refused()),
                Some('\\') => {
                    rest.next();
                    element.push(rest.next().ok_or_else(refused)?);
                }
                Some(_) => element.extend(rest.next()),
            }
        }
        if is_quoted {
            rest.next();
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
        } else {
            element.truncate(element.trim_end().len());
            if element.is_empty() {
                return Err(refused());
            }
        }
        let is_null = !is_quoted && element.eq_ignore_ascii_case("null");
        found.push(if is_null { value(Value::Null) } else { text(&element) });
        match rest.next() {
            None => return Ok(found),
            Some(',') => {}
            Some(_) => return Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> String {
        Parser::new().parse(sql).unwrap().to_string()
    }

    #[test]
    fn words_of_postgresql_keep_their_meaning() {
        for (sql, wanted) in [
            ("SELECT 1 WHERE a = ANY (ARRAY[1, NULL])", "SELECT 1 WHERE a IN (1, NULL)"),
            (
                "SELECT 1 WHERE a <> ALL ('{x, \"y, z\",null}')",
                "SELECT 1 WHERE a NOT IN ('x', 'y, z', NULL)",
            ),
            (
                "SELECT 1 WHERE a = ANY (('{1,2}')::int[])",
                "SELECT 1 WHERE a IN (CAST('1' AS INT), CAST('2' AS INT))",
            ),
            ("SELECT 1 WHERE a = ANY (E'{1}')", "SELECT 1 WHERE a IN ('1')"),
            ("SELECT 1 WHERE a = ANY ('{}')", "SELECT 1 WHERE false"),
            ("SELECT 1 WHERE a > ALL ('{1,2}')", "SELECT 1 WHERE a > ALL(ARRAY['1', '2'])"),
            ("SELECT 1 WHERE a = ANY (SELECT b FROM t)", "SELECT 1 WHERE a = ANY(SELECT b FROM t)"),
            ("SELECT 1 WHERE a = ANY ($1)", "SELECT 1 WHERE a = ANY($1)"),
            ("SELECT '{\"a\\\"b\", c}'::text[]", "SELECT ARRAY['a\"b', 'c']::TEXT[]"),
            (
                "SELECT 1 WHERE a LIKE b || '%' ESCAPE '/'",
                "SELECT 1 WHERE a LIKE like_escape(b || '%', '/')",
            ),
            (
                "SELECT 1 WHERE a NOT ILIKE 'x' ESCAPE ''",
                "SELECT 1 WHERE a NOT ILIKE like_escape('x', '')",
            ),
            ("SELECT a COLLATE \"C\" FROM t", "SELECT (a) FROM t"),
            (
                "SELECT pg_catalog.max(a), nowhere.max(a) FROM pg_catalog.unnest(b)",
                "SELECT max(a), nowhere.max(a) FROM unnest(b)",
            ),
            // What is neither cast nor compared is a text.
            ("SELECT '{1,2'", "SELECT '{1,2'"),
        ] {
            assert_eq!(rewritten(sql), wanted, "{sql}");
        }
    }

    #[test]
    fn what_would_mean_something_else_is_refused() {
        for (sql, why) in [
            ("SELECT a FROM t ORDER BY a COLLATE \"de_DE\"", "compared by its bytes"),
            ("SELECT 1 WHERE a = ANY ('{1,2')", "no array of one dimension"),
            ("SELECT 1 WHERE a <> ALL ('{{1},{2}}')", "no array of one dimension"),
            ("SELECT 1 WHERE a = ANY ('{a,,b}')", "no array of one dimension"),
            ("SELECT 'x'::text[]", "no array of one dimension"),
            (
                "WITH PG_settings AS (SELECT tag FROM tags) SELECT * FROM pg_settings",
                "choose another name",
            ),
            ("SELECT 1; SELECT 2", "one statement at a time"),
        ] {
            let refused = Parser::new().parse(sql).unwrap_err().to_string();
            assert!(refused.contains(why), "{sql}: {refused}");
        }
    }

    #[test]
    fn statements_over_the_plant_are_not_rewritten_like_those_over_catalogs() {
        let of_the_row = "(SELECT t.tag FROM tags AS t WHERE t.tag <> c.relname)";
        for sql in [
            "SELECT t.tag, (SELECT s.value FROM samples AS s WHERE s.tag = t.tag) AS v FROM tags AS t",
            "SELECT (SELECT max(samples.value) FROM samples)",
            "SELECT (SELECT w.value FROM pg_catalog.pg_class AS c WHERE c.relname = w.tag) FROM grid('a') AS w",
            "SELECT (SELECT w.value FROM pg_catalog.pg_class AS c WHERE c.relname = w.tag) FROM LATERAL grid('a') AS w",
            "SELECT t.*, c.relname FROM tags AS t JOIN pg_catalog.pg_class AS c ON unit = relname",
            "WITH w AS (SELECT tag FROM tags) SELECT (SELECT tag FROM w) FROM pg_catalog.pg_index AS i",
            &format!(
                "WITH tags AS (SELECT * FROM tags) SELECT {of_the_row} FROM pg_catalog.pg_class AS c"
            ),
            &format!(
                "WITH \"TAGS\" AS (SELECT 1) SELECT {of_the_row} FROM pg_catalog.pg_class AS c"
            ),
        ] {
            assert_eq!(rewritten(sql), sql);
        }
    }
}
