//! Statements that are no queries: settings, transactions, COPY and what tidies a connection up.

use pgwire::error::PgWireResult;
use tagmill::datafusion::sql::sqlparser::ast;
use tagmill::datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use tagmill::datafusion::sql::sqlparser::parser::Parser;
use tagmill::datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use tagmill::limits::SQL_BYTES_MAX;

use super::errors::{error, of_query};

/// What a statement asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    /// To run the text as a query.
    Query,
    Begin,
    /// The word that is answered.
    Commit,
    Rollback,
    /// SAVEPOINT, RELEASE, and going back to one: nothing was changed since.
    Savepoint(&'static str),
    Set {
        name: String,
        value: String,
        is_local: bool,
    },
    Reset(String),
    Show(String),
    /// Variables and prepared statements to their defaults.
    DiscardAll,
    /// A prepared statement, or all, to be forgotten.
    Deallocate(Option<String>),
    /// The answer to a query as a stream of bytes.
    Copy {
        sql: String,
        format: CopyFormat,
    },
    /// Accepted: there is nothing to do. The words that are answered.
    Nothing(&'static str),
}

/// How COPY writes rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyFormat {
    Text { delimiter: char, null: String },
    Csv { delimiter: char, null: String, has_header: bool },
    Binary,
}

/// Says what one statement asks for. One that is too long is refused, whatever it asks.
pub(super) async fn word_of(sql: &str) -> PgWireResult<Word> {
    if sql.len() > SQL_BYTES_MAX {
        let text =
            format!("the statement has {} bytes, at most {SQL_BYTES_MAX} are taken", sql.len());
        return Err(error("54000", text));
    }
    let is_copy = sql.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("copy"));
    if is_copy {
        // The parser of COPY reads the whole query: on a stack that has room for that.
        return tagmill::with_text(sql, copy).await.map_err(|failure| of_query(&failure))?;
    }
    plain_word_of(sql)
}

fn plain_word_of(sql: &str) -> PgWireResult<Word> {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize() else {
        return Ok(Word::Query); // its error comes from where it is read in full
    };
    let is_code = |token: &Token| !matches!(token, Token::Whitespace(_) | Token::SemiColon);
    let tokens: Vec<Token> = tokens.into_iter().filter(is_code).collect();
    let words: Vec<String> = tokens.iter().map_while(plain).take(6).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let word = match words.as_slice() {
        ["begin", ..] | ["start", "transaction", ..] => Word::Begin,
        ["commit" | "end", ..] => Word::Commit,
        ["rollback", "to", ..] | ["rollback", "transaction" | "work", "to", ..] => {
            Word::Savepoint("ROLLBACK")
        }
        ["rollback" | "abort", ..] => Word::Rollback,
        ["savepoint", ..] => Word::Savepoint("SAVEPOINT"),
        ["release", ..] => Word::Savepoint("RELEASE"),
        ["discard", "all"] => Word::DiscardAll,
        ["discard", ..] => Word::Nothing("DISCARD"),
        ["unlisten", ..] => Word::Nothing("UNLISTEN"),
        ["close", "all"] => Word::Nothing("CLOSE CURSOR ALL"),
        ["deallocate", rest @ ..] => Word::Deallocate(match rest {
            ["all"] | ["prepare", "all"] => None,
            _ => tokens.last().map(text),
        }),
        ["set", "session", "characteristics", ..] | ["set", "transaction", ..] => {
            Word::Nothing("SET")
        }
        // Nobody is anybody else here: what pools send to be sure of that holds already.
        ["set", "session", "authorization", "default"]
        | ["set", "session" | "local", "session", "authorization", "default"]
        | ["set", "role", "none"]
        | ["set", "session" | "local", "role", "none"] => Word::Nothing("SET"),
        ["reset", "role"] | ["reset", "session", "authorization"] => Word::Nothing("RESET"),
        ["set", "names", ..] => {
            let value = tokens.get(2).map_or_else(|| "default".to_owned(), text);
            Word::Set { name: "client_encoding".to_owned(), value, is_local: false }
        }
        ["set", ..] => set(&tokens)?,
        ["reset", ..] => Word::Reset(name_of(&tokens[1..])),
        ["show", "tables" | "columns" | "functions" | "schemas", ..] | ["show", "all"] => {
            Word::Query
        }
        ["show", ..] => Word::Show(name_of(&tokens[1..])),
        _ => Word::Query,
    };
    Ok(word)
}

/// An unquoted word in lower case.
fn plain(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
        _ => None,
    }
}

/// A token without its quotes.
fn text(token: &Token) -> String {
    match token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `a.b`, or words with spaces between them such as TIME ZONE.
fn name_of(tokens: &[Token]) -> String {
    let mut name = String::new();
    for token in tokens {
        let is_joined = name.is_empty() || name.ends_with('.') || *token == Token::Period;
        if !is_joined {
            name.push(' ');
        }
        name.push_str(&text(token));
    }
    name
}

/// SET [SESSION | LOCAL] name { = | TO } value [, ..], SET TIME ZONE value.
fn set(tokens: &[Token]) -> PgWireResult<Word> {
    let usage = || error("42601", "syntax error: write SET name = value");
    let mut rest = &tokens[1..];
    let first = rest.first().and_then(plain);
    let is_local = first.as_deref() == Some("local");
    if is_local || first.as_deref() == Some("session") {
        rest = &rest[1..];
    }
    let two: Vec<String> = rest.iter().map_while(plain).take(2).collect();
    let (name, values) = if two == ["time", "zone"] {
        ("timezone".to_owned(), &rest[2..])
    } else {
        let is_sign = |token: &Token| *token == Token::Eq || plain(token).as_deref() == Some("to");
        let sign = rest.iter().position(is_sign).filter(|sign| *sign > 0).ok_or_else(usage)?;
        (name_of(&rest[..sign]), &rest[sign + 1..])
    };
    if values.is_empty() {
        return Err(usage());
    }
    let mut value = String::new();
    for token in values {
        match token {
            Token::Comma => value.push_str(", "),
            other => value.push_str(&text(other)),
        }
    }
    Ok(Word::Set { name, value, is_local })
}

/// COPY { relation | (query) } TO STDOUT [WITH] (options).
fn copy(sql: &str) -> PgWireResult<Word> {
    let wrong = |what: String| error("42601", what);
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).map_err(|error| {
        wrong(error.to_string().replacen("sql parser error", "syntax error", 1))
    })?;
    let statement = statements.pop().filter(|_| statements.is_empty());
    let Some(ast::Statement::Copy { source, to, target, options, legacy_options, .. }) = statement
    else {
        return Err(wrong("syntax error: write COPY (query) TO STDOUT".to_owned()));
    };
    if !to || target != ast::CopyTarget::Stdout {
        let text = "COPY only writes to STDOUT here; load with 'tagmill import' or a gateway";
        return Err(error("0A000", text));
    }
    let sql = match source {
        ast::CopySource::Query(query) => query.to_string(),
        ast::CopySource::Table { table_name, columns } if columns.is_empty() => {
            format!("SELECT * FROM {table_name}")
        }
        ast::CopySource::Table { table_name, columns } => {
            let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
            format!("SELECT {} FROM {table_name}", columns.join(", "))
        }
    };
    let mut asked = Asked::default();
    for option in options {
        match option {
            ast::CopyOption::Format(name) => asked.format = name.value.to_lowercase(),
            ast::CopyOption::Header(has) => asked.has_header = has,
            ast::CopyOption::Delimiter(delimiter) => asked.delimiter = Some(delimiter),
            ast::CopyOption::Null(null) => asked.null = Some(null),
            ast::CopyOption::Encoding(name) if name.to_lowercase().starts_with("utf") => {}
            other => return Err(error("0A000", format!("COPY does not take {other} here"))),
        }
    }
    for option in legacy_options {
        match option {
            ast::CopyLegacyOption::Binary => "binary".clone_into(&mut asked.format),
            ast::CopyLegacyOption::Delimiter(delimiter) => asked.delimiter = Some(delimiter),
            ast::CopyLegacyOption::Null(null) => asked.null = Some(null),
            ast::CopyLegacyOption::Csv(options) => {
                "csv".clone_into(&mut asked.format);
                asked.has_header |= options.contains(&ast::CopyLegacyCsvOption::Header);
            }
            other => return Err(error("0A000", format!("COPY does not take {other} here"))),
        }
    }
    Ok(Word::Copy { sql, format: asked.format()? })
}

/// What the options of COPY say.
#[derive(Debug, Default)]
struct Asked {
    format: String,
    has_header: bool,
    delimiter: Option<char>,
    null: Option<String>,
}

impl Asked {
    fn format(self) -> PgWireResult<CopyFormat> {
        let Self { format, has_header, delimiter, null } = self;
        let is_plain =
            |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !"\\\r\n\"".contains(c);
        if let Some(wrong) = delimiter.filter(|c| !is_plain(*c)) {
            return Err(error("22023", format!("COPY cannot use {wrong:?} as the delimiter")));
        }
        match format.as_str() {
            "" | "text" if has_header => {
                Err(error("0A000", "COPY writes a header with FORMAT csv alone"))
            }
            "" | "text" => Ok(CopyFormat::Text {
                delimiter: delimiter.unwrap_or('\t'),
                null: null.unwrap_or_else(|| "\\N".to_owned()),
            }),
            "csv" => Ok(CopyFormat::Csv {
                delimiter: delimiter.unwrap_or(','),
                null: null.unwrap_or_default(),
                has_header,
            }),
            "binary" if delimiter.is_none() && null.is_none() && !has_header => {
                Ok(CopyFormat::Binary)
            }
            "binary" => Err(error("22023", "COPY in FORMAT binary takes no other option")),
            other => Err(error("22023", format!("COPY writes text, csv or binary, not {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str, is_local: bool) -> Word {
        Word::Set { name: name.to_owned(), value: value.to_owned(), is_local }
    }

    #[test]
    fn tells_what_clients_send() {
        for (sql, want) in [
            ("BEGIN", Word::Begin),
            ("begin isolation level read committed;", Word::Begin),
            ("START TRANSACTION READ ONLY", Word::Begin),
            ("END", Word::Commit),
            ("ROLLBACK", Word::Rollback),
            ("ROLLBACK TO SAVEPOINT x", Word::Savepoint("ROLLBACK")),
            ("SET extra_float_digits = 3", set("extra_float_digits", "3", false)),
            ("SET application_name = 'a; b'", set("application_name", "a; b", false)),
            (
                "SET SESSION search_path TO public, \"$user\"",
                set("search_path", "public, $user", false),
            ),
            ("SET LOCAL tagmill.tiers = off", set("tagmill.tiers", "off", true)),
            ("set time zone 'Europe/Berlin'", set("timezone", "Europe/Berlin", false)),
            ("SET extra_float_digits = -5", set("extra_float_digits", "-5", false)),
            ("SET NAMES 'utf8'", set("client_encoding", "utf8", false)),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Word::Nothing("SET")),
            ("SHOW transaction isolation level", Word::Show("transaction isolation level".into())),
            ("SHOW tagmill.tiers", Word::Show("tagmill.tiers".into())),
            ("SHOW ALL", Word::Query),
            ("RESET ALL", Word::Reset("ALL".into())),
            ("DISCARD ALL", Word::DiscardAll),
            ("DEALLOCATE ALL", Word::Deallocate(None)),
            ("DEALLOCATE \"S_1\"", Word::Deallocate(Some("S_1".into()))),
            ("SELECT 'BEGIN'", Word::Query),
            ("-- SET\nSELECT 1", Word::Query),
            ("SELECT 'open", Word::Query),
        ] {
            assert_eq!(plain_word_of(sql).unwrap(), want, "{sql}");
        }
        for sql in ["SET", "SET x", "SET = 3", "SET x ="] {
            assert!(plain_word_of(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn a_pool_may_ask_to_be_itself_again() {
        let npgsql = "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;\
            SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP";
        let words = tagmill::statements(npgsql).into_iter().map(|sql| plain_word_of(sql).unwrap());
        let want = [
            Word::Nothing("SET"),
            Word::Reset("ALL".into()),
            Word::Nothing("CLOSE CURSOR ALL"),
            Word::Nothing("UNLISTEN"),
            Word::Query,
            Word::Nothing("DISCARD"),
            Word::Nothing("DISCARD"),
        ];
        assert_eq!(words.collect::<Vec<_>>(), want);
        for (sql, tag) in [
            ("set local session authorization default", "SET"),
            ("SET SESSION SESSION AUTHORIZATION DEFAULT", "SET"),
            ("SET ROLE NONE", "SET"),
            ("SET SESSION ROLE NONE", "SET"),
            ("RESET SESSION AUTHORIZATION", "RESET"),
            ("RESET ROLE;", "RESET"),
        ] {
            assert_eq!(plain_word_of(sql).unwrap(), Word::Nothing(tag), "{sql}");
        }
        for sql in ["SET ROLE boss", "SET SESSION AUTHORIZATION boss"] {
            assert!(plain_word_of(sql).is_err(), "{sql}");
        }
    }

    #[tokio::test]
    async fn copies_to_standard_output_alone() {
        let csv =
            |delimiter, has_header| CopyFormat::Csv { delimiter, null: String::new(), has_header };
        for (sql, query, format) in [
            ("COPY (SELECT 1) TO STDOUT WITH (FORMAT csv, HEADER)", "SELECT 1", csv(',', true)),
            (
                "COPY tags TO STDOUT (FORMAT csv, DELIMITER ';')",
                "SELECT * FROM tags",
                csv(';', false),
            ),
            (
                "COPY tags (tag, unit) TO STDOUT CSV HEADER",
                "SELECT tag, unit FROM tags",
                csv(',', true),
            ),
            ("COPY (SELECT 1) TO STDOUT WITH BINARY", "SELECT 1", CopyFormat::Binary),
            (
                "COPY (SELECT 1) TO STDOUT",
                "SELECT 1",
                CopyFormat::Text { delimiter: '\t', null: "\\N".to_owned() },
            ),
        ] {
            let want = Word::Copy { sql: query.to_owned(), format };
            assert_eq!(word_of(sql).await.unwrap(), want, "{sql}");
        }
        for sql in [
            "COPY tags FROM STDIN",
            "COPY (SELECT 1) TO '/tmp/x'",
            "COPY (SELECT 1) TO PROGRAM 'sh'",
            "COPY (SELECT 1) TO STDOUT (FORMAT parquet)",
            "COPY (SELECT 1) TO STDOUT (FORMAT csv, DELIMITER 'a')",
            "COPY",
            &format!("COPY (SELECT {}1) TO STDOUT", "1+".repeat(200_000)),
            &format!("COPY (SELECT {}1) TO STDOUT", "1+".repeat(20_000)),
            &format!("COPY (SELECT {}1{}) TO STDOUT", "(".repeat(60), ")".repeat(59)),
        ] {
            assert!(word_of(sql).await.is_err(), "{sql}");
        }
    }
}
