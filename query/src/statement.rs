//! SQL text before it is planned: cut into statements, kept within bounds, and the few that need no plan recognised.
//!
//! SET, SHOW and RESET are parsed here against the allow-list of [`crate::settings`]. Everything else goes to the
//! planner if its first words say that it reads.

use std::collections::VecDeque;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::error::{Error, Result};
use crate::guard::tokens;

/// What a statement asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// To change a setting.
    Set { name: String, value: String },
    /// To show a setting, or all.
    Show(String),
    /// To give a setting, or all, its default.
    Reset(String),
    /// To plan and run the text.
    Query,
}

/// The statements of a text, separated by semicolons outside quotes and comments. Empty ones are left out.
pub fn statements(sql: &str) -> Vec<&str> {
    let bytes = sql.as_bytes();
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut blank = true;
    while at < bytes.len() {
        let rest = &sql[at..];
        let skip = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment_length(rest)
        } else if rest.starts_with(['\'', '"', '`']) {
            blank = false;
            quoted_length(rest)
        } else if rest.starts_with('$') {
            blank = false;
            dollar_length(rest)
        } else if rest.starts_with(';') {
            if !blank {
                found.push(sql[start..at].trim());
            }
            (start, blank) = (at + 1, true);
            1
        } else {
            let c = rest.chars().next().map_or(1, char::len_utf8);
            blank &= rest.starts_with(char::is_whitespace);
            c
        };
        at += skip;
    }
    if !blank {
        found.push(sql[start..].trim());
    }
    found
}

/// Length of a comment; comments nest.
fn comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a quoted piece. A doubled quote ends one piece and begins the next, which comes to the same.
fn quoted_length(text: &str) -> usize {
    let quote = text.chars().next().unwrap_or('\'');
    text[1..].find(quote).map_or(text.len(), |end| end + 2)
}

/// Length of `$tag$ .. $tag$`, or 1 for a dollar that opens none.
fn dollar_length(text: &str) -> usize {
    let Some(end) = text[1..].find('$').map(|end| end + 2) else { return 1 };
    let mark = &text[..end];
    let name = &mark[1..end - 1];
    if name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(|c| c.is_alphanumeric() || c == '_')
    {
        return 1;
    }
    text[end..].find(mark).map_or(text.len(), |close| end + close + mark.len())
}

/// Checks the size of one statement and says what it asks for.
pub(crate) fn request_of(sql: &str) -> Result<Request> {
    tokens::check_length(sql)?;
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize()
        .map_err(|error| Error::Sql(format!("syntax error: {error}")))?;
    let mut tokens: VecDeque<Token> =
        tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    tokens::check(tokens.iter())?;
    while tokens.back() == Some(&Token::SemiColon) {
        tokens.pop_back();
    }
    if tokens.contains(&Token::SemiColon) {
        return Err(Error::Sql(
            "one statement at a time: split the text at its semicolons".to_owned(),
        ));
    }
    let words: Vec<String> = tokens.iter().map_while(word).take(2).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] if tokens.is_empty() => Err(Error::Sql("there is no statement".to_owned())),
        ["set", ..] => set_of(tokens),
        ["reset", ..] => Ok(Request::Reset(name_of(tokens.into_iter().skip(1))?)),
        [
            "show",
            "tables" | "columns" | "functions" | "create" | "databases" | "schemas" | "catalogs",
        ] => Ok(Request::Query),
        ["show", ..] => Ok(Request::Show(name_of(tokens.into_iter().skip(1))?)),
        _ => Ok(Request::Query),
    }
}

/// An unquoted word in lower case.
fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
        _ => None,
    }
}

/// SET [SESSION] name {= | TO} value, SET TIME ZONE value.
fn set_of(mut tokens: VecDeque<Token>) -> Result<Request> {
    let usage = || Error::Sql("syntax error: write SET name = value".to_owned());
    tokens.pop_front();
    if tokens.front().and_then(word).as_deref() == Some("session") {
        tokens.pop_front();
    }
    let zone = tokens.iter().map_while(word).take(2).collect::<Vec<_>>() == ["time", "zone"];
    let name = if zone {
        tokens.drain(..2);
        "timezone".to_owned()
    } else {
        let is_sign = |token: &Token| *token == Token::Eq || word(token).as_deref() == Some("to");
        let sign = tokens.iter().position(is_sign).ok_or_else(usage)?;
        let name = name_of(tokens.drain(..sign))?;
        tokens.pop_front();
        name
    };
    let minus = tokens.front() == Some(&Token::Minus);
    if minus {
        tokens.pop_front();
    }
    let value = match (tokens.pop_front(), tokens.is_empty()) {
        (Some(Token::SingleQuotedString(text)), true) => text,
        (Some(Token::Word(word)), true) => word.value,
        (Some(Token::Number(number, _)), true) => number,
        _ => return Err(usage()),
    };
    let value = if minus { format!("-{value}") } else { value };
    Ok(Request::Set { name, value })
}

/// A dotted name, or two words such as TIME ZONE.
fn name_of(tokens: impl Iterator<Item = Token>) -> Result<String> {
    let mut name = String::new();
    for token in tokens {
        match token {
            Token::Word(word) => {
                if !name.is_empty() && !name.ends_with('.') {
                    name.push(' ');
                }
                name.push_str(&word.value);
            }
            Token::Period => name.push('.'),
            other => {
                return Err(Error::Sql(format!("syntax error: {other} in the name of a setting")));
            }
        }
    }
    if name.is_empty() {
        return Err(Error::Sql("syntax error: the name of a setting is missing".to_owned()));
    }
    Ok(name)
}

/// Refuses a parsed statement that does not read.
pub(crate) fn check_reads(statement: &Statement) -> Result<()> {
    let statement = match statement {
        Statement::Explain(explain) => return check_reads(&explain.statement),
        Statement::Statement(statement) => statement.as_ref(),
        other => return Err(Error::ReadOnly(first_words(&other.to_string()))),
    };
    match statement {
        ast::Statement::Query(_)
        | ast::Statement::ExplainTable { .. }
        | ast::Statement::ShowTables { .. }
        | ast::Statement::ShowColumns { .. }
        | ast::Statement::ShowFunctions { .. } => Ok(()),
        ast::Statement::Explain { statement, .. } => {
            check_reads(&Statement::Statement(statement.clone()))
        }
        other => Err(Error::ReadOnly(first_words(&other.to_string()))),
    }
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{SQL_BYTES_MAX, SQL_TOKENS_MAX};

    #[test]
    fn cuts_at_semicolons_that_mean_it() {
        let text = "SELECT ';' AS \"a;b\" -- c;d\n; ;/* x; /* y; */ z; */\nSELECT $$;$$, 'it''s;' ; -- end";
        assert_eq!(
            statements(text),
            ["SELECT ';' AS \"a;b\" -- c;d", "/* x; /* y; */ z; */\nSELECT $$;$$, 'it''s;'",]
        );
        assert_eq!(statements("SELECT $1; SELECT 'Ü'"), ["SELECT $1", "SELECT 'Ü'"]);
        assert!(statements(" ; -- nothing\n;").is_empty());
        assert_eq!(statements("SELECT 'open; "), ["SELECT 'open;"]);
    }

    #[test]
    fn recognises_what_concerns_settings() {
        let set = |name: &str, value: &str| Request::Set { name: name.into(), value: value.into() };
        for (text, want) in [
            ("SET timezone = 'Europe/Berlin'", set("timezone", "Europe/Berlin")),
            ("set session tagmill.max_rows to 10;", set("tagmill.max_rows", "10")),
            ("SET TIME ZONE UTC", set("timezone", "UTC")),
            ("SHOW ALL", Request::Show("ALL".into())),
            ("SHOW TIME ZONE", Request::Show("TIME ZONE".into())),
            ("RESET tagmill.max_rows", Request::Reset("tagmill.max_rows".into())),
            ("SHOW TABLES", Request::Query),
            ("SELECT 1;", Request::Query),
        ] {
            assert_eq!(request_of(text).unwrap(), want, "{text}");
        }
        for text in ["", " -- x", "SELECT 1; SELECT 2", "SET a b", "SET = 3", "SHOW", "SELECT 'x"] {
            assert!(matches!(request_of(text), Err(Error::Sql(_))), "{text}");
        }
    }

    #[test]
    fn refuses_texts_beyond_the_limits() {
        let long = format!("SELECT '{}'", "x".repeat(SQL_BYTES_MAX));
        let many = format!("SELECT 1{}", ", 1".repeat(SQL_TOKENS_MAX));
        let deep = format!("SELECT {}1{}", "(".repeat(65), ")".repeat(65));
        for text in [long, many, deep] {
            assert!(matches!(request_of(&text), Err(Error::Limit(_))));
        }
    }
}
