//! Limits on words and signs, before anything is built of them.
//!
//! A chain of operators becomes a tree as deep as the chain is long, and so does a chain of UNION. Chains are counted by
//! how strongly they bind: a comparison ends a chain of sums, an AND or OR ends a chain of comparisons.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Error, Result};
use crate::limits::{
    OPERATORS_MAX, SET_OPERATIONS_MAX, SQL_BYTES_MAX, SQL_NESTING_MAX, SQL_TOKENS_MAX,
};

/// Checks the length of a text.
pub(crate) fn check_length(sql: &str) -> Result<()> {
    let bytes = sql.len();
    if bytes > SQL_BYTES_MAX {
        let text = format!("the statement has {bytes} bytes, at most {SQL_BYTES_MAX} are taken");
        return Err(Error::Limit(text));
    }
    Ok(())
}

/// Checks the words and signs of a text, white space left out.
pub(crate) fn check<'a>(tokens: impl ExactSizeIterator<Item = &'a Token>) -> Result<()> {
    let count = tokens.len();
    if count > SQL_TOKENS_MAX {
        let text = format!(
            "the statement has {count} words and signs, at most {SQL_TOKENS_MAX} are taken"
        );
        return Err(Error::Limit(text));
    }
    let mut open = vec![Chains::default()];
    let mut set_operations = 0;
    for token in tokens {
        let kind = kind_of(token);
        set_operations += usize::from(kind == Kind::SetOperation);
        if set_operations > SET_OPERATIONS_MAX {
            let text = format!(
                "the statement has more than {SET_OPERATIONS_MAX} of UNION, INTERSECT and EXCEPT: \
                 write one query with IN or OR"
            );
            return Err(Error::Limit(text));
        }
        if open.last_mut().is_some_and(|chains| chains.next(kind) > OPERATORS_MAX) {
            let text = format!(
                "the statement has a chain of more than {OPERATORS_MAX} operators: \
                 write long chains of OR as IN (..)"
            );
            return Err(Error::Limit(text));
        }
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => open.push(Chains::default()),
            Token::RParen | Token::RBracket | Token::RBrace if open.len() > 1 => {
                open.pop();
            }
            _ => {}
        }
        if open.len() > SQL_NESTING_MAX + 1 {
            let text = format!("the statement nests deeper than {SQL_NESTING_MAX} parentheses");
            return Err(Error::Limit(text));
        }
    }
    Ok(())
}

/// What a token does to the chain it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// AND, OR.
    Boolean,
    /// `=`, LIKE, IS ..
    Comparison,
    /// `+`, `||`, `::` and every other sign.
    Sign,
    /// UNION, INTERSECT, EXCEPT: begins anew, too.
    SetOperation,
    /// Begins anew.
    Break,
    /// Belongs to an operand.
    Operand,
}

/// Operators since the last that binds less strongly.
#[derive(Clone, Copy, Debug, Default)]
struct Chains {
    boolean: usize,
    comparison: usize,
    sign: usize,
}

impl Chains {
    /// How long the chain of the next token is with it.
    fn next(&mut self, kind: Kind) -> usize {
        match kind {
            Kind::Operand => 0,
            Kind::Sign => {
                self.sign += 1;
                self.sign
            }
            Kind::Comparison => {
                *self = Self { comparison: self.comparison + 1, sign: 0, ..*self };
                self.comparison
            }
            Kind::Boolean => {
                *self = Self { boolean: self.boolean + 1, comparison: 0, sign: 0 };
                self.boolean
            }
            Kind::SetOperation | Kind::Break => {
                *self = Self::default();
                0
            }
        }
    }
}

fn kind_of(token: &Token) -> Kind {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word_kind(&word.value),
        Token::Word(_)
        | Token::Number(..)
        | Token::Char(_)
        | Token::Period
        | Token::Placeholder(_)
        | Token::LParen
        | Token::RParen
        | Token::LBrace
        | Token::RBrace
        | Token::RBracket
        | Token::Whitespace(_)
        | Token::EOF => Kind::Operand,
        Token::Comma | Token::SemiColon => Kind::Break,
        Token::Eq
        | Token::DoubleEq
        | Token::Neq
        | Token::Lt
        | Token::Gt
        | Token::LtEq
        | Token::GtEq
        | Token::Spaceship => Kind::Comparison,
        token if is_text(token) => Kind::Operand,
        // Every other sign, and `[`: a subscript is an operator that binds most strongly.
        _ => Kind::Sign,
    }
}

fn is_text(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
    )
}

fn word_kind(word: &str) -> Kind {
    const BOOLEAN: [&str; 3] = ["AND", "OR", "XOR"];
    const COMPARISON: [&str; 10] =
        ["IS", "LIKE", "ILIKE", "SIMILAR", "RLIKE", "IN", "BETWEEN", "NOT", "ANY", "ISNULL"];
    const SIGN: [&str; 4] = ["AT", "COLLATE", "DIV", "OVERLAPS"];
    const SET_OPERATION: [&str; 4] = ["UNION", "INTERSECT", "EXCEPT", "MINUS"];
    const BREAK: [&str; 19] = [
        "SELECT", "FROM", "WHERE", "GROUP", "ORDER", "HAVING", "QUALIFY", "WINDOW", "JOIN", "ON",
        "USING", "WHEN", "THEN", "ELSE", "LIMIT", "OFFSET", "CASE", "END", "WITH",
    ];
    let is_one = |words: &[&str]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    if is_one(&BOOLEAN) {
        Kind::Boolean
    } else if is_one(&COMPARISON) {
        Kind::Comparison
    } else if is_one(&SIGN) {
        Kind::Sign
    } else if is_one(&SET_OPERATION) {
        Kind::SetOperation
    } else if is_one(&BREAK) {
        Kind::Break
    } else {
        Kind::Operand
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn checked(sql: &str) -> Result<()> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().unwrap();
        let tokens: Vec<Token> =
            tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
        check(tokens.iter())
    }

    #[test]
    fn chains_of_every_kind_are_bounded_and_long_lists_are_not() {
        let most = OPERATORS_MAX;
        for (first, link) in [
            ("SELECT 1", " + 1"),
            ("SELECT 'a'", " || 'a'"),
            ("SELECT true", " OR true"),
            ("SELECT true", " AND x = 1"),
            ("SELECT 1", " = 1"),
            ("SELECT 1", "::int"),
            ("SELECT a", "[1]"),
            ("SELECT a", " IS NULL"),
            ("SELECT a", " AT TIME ZONE 'UTC'"),
            ("SELECT ", "- "),
            ("SELECT ", "NOT "),
        ] {
            let text = |count| format!("{first}{}", link.repeat(count));
            checked(&text(most)).unwrap();
            let error = checked(&text(most + 1)).unwrap_err();
            assert!(matches!(error, Error::Limit(_)), "{link}: {error}");
        }
        checked(&format!("SELECT 1{}", ", a + 1".repeat(800))).unwrap();
        checked(&format!("SELECT x IN (1{})", ", 1".repeat(2_000))).unwrap();
        checked(&format!("SELECT CASE{} END", " WHEN a = 1 THEN b + 1".repeat(400))).unwrap();
        // Two hundred comparisons joined by OR are one chain of two hundred.
        checked(&format!("SELECT x = 1 + 2{}", " OR x = 1 + 2".repeat(200))).unwrap();
    }

    #[test]
    fn parentheses_and_set_operations_are_bounded() {
        let nested = |depth| format!("SELECT {}1{}", "(".repeat(depth), ")".repeat(depth));
        checked(&nested(SQL_NESTING_MAX)).unwrap();
        assert!(checked(&nested(SQL_NESTING_MAX + 1)).is_err());
        for word in ["UNION ALL", "intersect", "EXCEPT"] {
            let text = |count| format!("SELECT 1{}", format!(" {word} SELECT 1").repeat(count));
            checked(&text(SET_OPERATIONS_MAX)).unwrap();
            assert!(checked(&text(SET_OPERATIONS_MAX + 1)).is_err(), "{word}");
        }
        // What closes and opens nothing is the parser's to refuse.
        checked("SELECT )))) + 1").unwrap();
    }
}
