//! Several SQL statements in one text.
//!
//! Contract: a `;` ends a statement unless it stands in a string, a quoted name, a dollar quote or a comment. Knows no
//! SQL beyond that.

/// A text taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Statements that ended with `;`, without it and without blanks around them.
    pub complete: Vec<String>,
    /// What follows the last `;`.
    pub rest: String,
    /// Whether the rest ends inside a string, a quoted name, a dollar quote or a block comment.
    pub is_open: bool,
}

impl Split {
    /// Takes a text apart.
    pub fn of(text: &str) -> Self {
        let mut split = Self::default();
        let mut start = 0;
        let mut at = 0;
        let mut has_words = false;
        while let Some(piece) = next_piece(text, at) {
            match piece.kind {
                PieceKind::End => {
                    if has_words {
                        split.complete.push(text[start..at].trim().to_owned());
                    }
                    start = piece.end;
                    has_words = false;
                }
                PieceKind::Blank => {}
                PieceKind::Words => has_words = true,
                PieceKind::Open { is_words } => {
                    has_words |= is_words;
                    split.is_open = true;
                }
            }
            at = piece.end;
        }
        if has_words || split.is_open {
            text[start..].trim().clone_into(&mut split.rest);
        }
        split
    }

    /// Every statement, the last one whether it ended with `;` or not.
    pub fn all(mut self) -> Vec<String> {
        if !self.rest.is_empty() {
            self.complete.push(self.rest);
        }
        self.complete
    }
}

/// Comments and blanks, words and quotes, or the end of a statement.
enum PieceKind {
    Blank,
    Words,
    End,
    Open { is_words: bool },
}

struct Piece {
    kind: PieceKind,
    end: usize,
}

fn next_piece(text: &str, at: usize) -> Option<Piece> {
    let rest = text.get(at..)?;
    let first = rest.chars().next()?;
    let close = |found: Option<usize>, kind: PieceKind, is_words: bool| match found {
        Some(length) => Piece { kind, end: at + length },
        None => Piece { kind: PieceKind::Open { is_words }, end: text.len() },
    };
    Some(match first {
        ';' => Piece { kind: PieceKind::End, end: at + 1 },
        '\'' | '"' | '`' => {
            let length = rest[1..].find(first).map(|end| end + 2);
            close(length, PieceKind::Words, true)
        }
        '-' if rest.starts_with("--") => {
            let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
            Piece { kind: PieceKind::Blank, end: at + length }
        }
        '/' if rest.starts_with("/*") => close(block_comment(rest), PieceKind::Blank, false),
        '$' => match dollar_tag(rest) {
            Some(tag) => {
                let length = rest[tag.len()..].find(tag).map(|end| end + 2 * tag.len());
                close(length, PieceKind::Words, true)
            }
            None => Piece { kind: PieceKind::Words, end: at + 1 },
        },
        blank if blank.is_whitespace() => {
            Piece { kind: PieceKind::Blank, end: at + blank.len_utf8() }
        }
        word => Piece { kind: PieceKind::Words, end: at + word.len_utf8() },
    })
}

/// Length of the block comment `rest` begins with; they nest.
fn block_comment(rest: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = rest.get(at..)?;
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += here.chars().next()?.len_utf8();
        }
    }
    None
}

/// The `$tag$` that `rest` begins with; `$1` is a parameter, not a quote.
fn dollar_tag(rest: &str) -> Option<&str> {
    let end = rest.get(1..)?.find('$')? + 2;
    let tag = rest.get(..end)?;
    let name = &tag[1..tag.len() - 1];
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let begins_well = !name.starts_with(|c: char| c.is_ascii_digit());
    (is_name && begins_well).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, complete: &[&str], rest: &str, is_open: bool) {
        let split = Split::of(text);
        assert_eq!(split.complete, complete, "{text}");
        assert_eq!((split.rest.as_str(), split.is_open), (rest, is_open), "{text}");
    }

    #[test]
    fn splits_at_semicolons() {
        check("select 1; select 2", &["select 1"], "select 2", false);
        check("select 1;\n ;;select 2;", &["select 1", "select 2"], "", false);
        check("", &[], "", false);
        check("  -- nothing\n", &[], "", false);
    }

    #[test]
    fn semicolons_in_quotes_and_comments_are_no_end() {
        check("select 'a;b''c;d';x", &["select 'a;b''c;d'"], "x", false);
        check("select \"a;b\" -- c;d\n;", &["select \"a;b\" -- c;d"], "", false);
        check("/* a; /* b; */ c; */ select 1;", &["/* a; /* b; */ c; */ select 1"], "", false);
        check("select $$a;b$$, $x$;$$;$x$;", &["select $$a;b$$, $x$;$$;$x$"], "", false);
        check("select $1; select $2;", &["select $1", "select $2"], "", false);
        check("select 'ü;' ; é;", &["select 'ü;'", "é"], "", false);
    }

    #[test]
    fn says_when_more_is_to_come() {
        check("select 'a;", &[], "select 'a;", true);
        check("select 1; /* b", &["select 1"], "/* b", true);
        check("select 1", &[], "select 1", false);
    }
}
