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

use datafusion_pg_catalog::sql::rules::{
    AliasDuplicatedProjectionRewrite, CurrentUserVariableToSessionUserFunctionCall,
    FixVersionColumnName, PrependUnqualifiedPgTableName, ResolveUnqualifiedIdentifier,
    RewriteArrayAnyAllOperation, RewritePgCatalogOperator, RewriteRegCastToSubquery,
    SqlStatementRewriteRule, StripCallableQualifier,
};
use tagmill::Error;
use tagmill::datafusion::sql::parser::Statement;
use tagmill::datafusion::sql::sqlparser::ast::{
    self, Array, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Value,
    VisitMut as _, VisitorMut,
};
use tagmill::datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use tagmill::datafusion::sql::sqlparser::parser::{Parser as SqlParser, ParserError};

use super::catalogs;

/// Orders of text that are the order of its bytes, which is the only one here.
const BYTE_ORDERS: [&str; 5] = ["c", "default", "posix", "ucs_basic", "pg_c_utf8"];

/// Reads statements. One is enough for all connections.
pub(super) struct Parser {
    of_all: Vec<Box<dyn SqlStatementRewriteRule>>,
    of_catalogs: [Box<dyn SqlStatementRewriteRule>; 1],
}

impl Parser {
    pub(super) fn new() -> Self {
        Self {
            of_all: vec![
                Box::new(AliasDuplicatedProjectionRewrite),
                Box::new(RewriteArrayAnyAllOperation),
                Box::new(PrependUnqualifiedPgTableName),
                Box::new(StripCallableQualifier),
                Box::new(CurrentUserVariableToSessionUserFunctionCall),
                Box::new(RewritePgCatalogOperator),
                Box::new(RewriteRegCastToSubquery::new()),
                Box::new(FixVersionColumnName),
            ],
            of_catalogs: [Box::new(ResolveUnqualifiedIdentifier)],
        }
    }

    /// The one statement of a text.
    ///
    /// # Errors
    /// [`Error::Sql`] if it cannot be read, is none or several, or orders text otherwise than by its bytes.
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
        for rule in &self.of_all {
            statement = rule.rewrite(statement);
        }
        if catalogs::reads_catalogs_alone(&statement) {
            for rule in &self.of_catalogs {
                statement = rule.rewrite(statement);
            }
            catalogs::rewrite(&mut statement);
        }
        Ok(Statement::Statement(Box::new(statement)))
    }
}

fn of_parser(error: &ParserError) -> Error {
    Error::Sql(error.to_string().replacen("sql parser error: ", "syntax error: ", 1))
}

/// A call of a function.
pub(super) fn call(name: &str, arguments: impl IntoIterator<Item = Expr>) -> Expr {
    let unnamed = |argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        args: FunctionArguments::List(FunctionArgumentList {
            args: arguments.into_iter().map(unnamed).collect(),
            duplicate_treatment: None,
            clauses: Vec::new(),
        }),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Words for which there are others that mean the same.
struct Words;

impl VisitorMut for Words {
    type Break = String;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<String> {
        match expr {
            Expr::Collate { expr: inner, collation } => {
                let name = collation.0.last().and_then(|part| part.as_ident());
                let name = name.map(|name| name.value.to_lowercase()).unwrap_or_default();
                if !BYTE_ORDERS.contains(&name.as_str()) {
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
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                if let Some(list) = elements(right) {
                    *expr = in_list(left, list, false);
                }
            }
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
                if let Some(list) = elements(right) {
                    *expr = in_list(left, list, true);
                }
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr: inner,
                data_type: DataType::Array(_),
                ..
            } => {
                if let Some(list) = text_of(inner).and_then(elements_of_text) {
                    **inner = Expr::Array(Array { elem: list, named: true });
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// `x = ANY (list)` or `x <> ALL (list)`: what IN means, with nulls too.
fn in_list(left: &Expr, list: Vec<Expr>, negated: bool) -> Expr {
    if list.is_empty() {
        return Expr::Value(Value::Boolean(negated).with_empty_span());
    }
    Expr::InList { expr: Box::new(left.clone()), list, negated }
}

/// The elements of an array that stands in the text: `ARRAY[..]`, `'{..}'`, `'{..}'::T[]`.
fn elements(array: &Expr) -> Option<Vec<Expr>> {
    match array {
        Expr::Nested(inner) => elements(inner),
        Expr::Array(array) => Some(array.elem.clone()),
        Expr::Value(_) => text_of(array).and_then(elements_of_text),
        Expr::Cast { expr: inner, data_type: DataType::Array(of), .. } => {
            let (ArrayElemTypeDef::SquareBracket(of, None) | ArrayElemTypeDef::Parenthesis(of)) =
                of
            else {
                return None;
            };
            let cast = |element: Expr| Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(element),
                data_type: (**of).clone(),
                array: false,
                format: None,
            };
            Some(elements(inner)?.into_iter().map(cast).collect())
        }
        _ => None,
    }
}

fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// The elements of an array of one dimension in PostgreSQL's text, such as `{a,"b, c",NULL}`. None if it is another text.
///
/// Source: <https://www.postgresql.org/docs/16/arrays.html#ARRAYS-IO>
fn elements_of_text(text: &str) -> Option<Vec<Expr>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut found = Vec::new();
    if inner.trim().is_empty() {
        return Some(found);
    }
    let mut rest = inner.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let is_quoted = rest.next_if_eq(&'"').is_some();
        let mut element = String::new();
        loop {
            match rest.peek() {
                None if is_quoted => return None,
                None => break,
                Some('"') if is_quoted => break,
                Some(',') if !is_quoted => break,
                Some('{' | '}' | '"') if !is_quoted => return None,
                Some('\\') => {
                    rest.next();
                    element.push(rest.next()?);
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
                return None;
            }
        }
        let is_null = !is_quoted && element.eq_ignore_ascii_case("null");
        let value = if is_null { Value::Null } else { Value::SingleQuotedString(element) };
        found.push(Expr::Value(value.with_empty_span()));
        match rest.next() {
            None => return Some(found),
            Some(',') => {}
            Some(_) => return None,
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
                "SELECT 1 WHERE a = ANY ('{1,2}'::int[])",
                "SELECT 1 WHERE a IN (CAST('1' AS INT), CAST('2' AS INT))",
            ),
            ("SELECT 1 WHERE a = ANY ('{}')", "SELECT 1 WHERE false"),
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
            // What is no array stays what it is.
            ("SELECT '{1,2'", "SELECT '{1,2'"),
            ("SELECT '{{1},{2}}'::int[]", "SELECT '{{1},{2}}'::INT[]"),
        ] {
            assert_eq!(rewritten(sql), wanted);
        }
        let refused =
            Parser::new().parse("SELECT a FROM t ORDER BY a COLLATE \"de_DE\"").unwrap_err();
        assert!(refused.to_string().contains("compared by its bytes"), "{refused}");
    }

    #[test]
    fn statements_over_the_plant_are_not_rewritten_like_those_over_catalogs() {
        for sql in [
            "SELECT t.tag, (SELECT s.value FROM samples AS s WHERE s.tag = t.tag) AS v FROM tags AS t",
            "SELECT (SELECT max(samples.value) FROM samples)",
            "SELECT (SELECT w.value FROM pg_catalog.pg_class AS c WHERE c.relname = w.tag) FROM grid('a') AS w",
            "SELECT t.*, c.relname FROM tags AS t JOIN pg_catalog.pg_class AS c ON unit = relname",
            "WITH w AS (SELECT tag FROM tags) SELECT (SELECT tag FROM w) FROM pg_catalog.pg_index AS i",
        ] {
            assert_eq!(rewritten(sql), sql);
        }
    }
}
