//! Which column of a file is what: the texts of `--map` and `--wide`, parsed.
//!
//! `tag=machine+tag,time=ts,value=value` names columns by their headers; a backslash before `,`, `+`, `=` or `\`
//! takes it literally. Knows nothing of the file itself.

use std::str::FromStr;

/// The shape of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One sample a row.
    Long {
        /// Columns whose texts, joined by `/`, name the tag.
        tag: Vec<String>,
        /// Column of the time.
        time: String,
        /// Column of the value.
        value: String,
        /// Column of the quality.
        quality: Option<String>,
    },
    /// One instant a row, one tag a column.
    Wide {
        /// Column of the time.
        time: String,
        /// Columns whose texts come before the column's name in the tag's name.
        tag: Vec<String>,
    },
}

/// Parses the text of `--map`.
///
/// # Errors
/// A sentence naming the word that is missing or not understood.
pub fn parse_long(text: &str) -> Result<Layout, String> {
    let mut words = Words::read(text, &["tag", "time", "value", "quality"])?;
    Ok(Layout::Long {
        tag: words.take("tag"),
        time: words.one("time", text)?,
        value: words.one("value", text)?,
        quality: words.maybe("quality", text)?,
    })
    .and_then(|layout| match &layout {
        Layout::Long { tag, .. } if tag.is_empty() => {
            Err(format!("'{text}' does not say tag=COLUMN: a long file names its tag in a column"))
        }
        _ => Ok(layout),
    })
}

/// Parses the text of `--wide`.
///
/// # Errors
/// A sentence naming the word that is missing or not understood.
pub fn parse_wide(text: &str) -> Result<Layout, String> {
    let mut words = Words::read(text, &["time", "tag"])?;
    Ok(Layout::Wide { time: words.one("time", text)?, tag: words.take("tag") })
}

/// Pairs of `word=COLUMN+COLUMN`.
struct Words(Vec<(String, Vec<String>)>);

impl Words {
    fn read(text: &str, known: &[&str]) -> Result<Self, String> {
        let mut words = Vec::new();
        for part in split(text, ',') {
            let mut sides = split(&part, '=').into_iter();
            let (Some(word), Some(columns), None) = (sides.next(), sides.next(), sides.next())
            else {
                return Err(format!("'{part}' is not of the form word=COLUMN"));
            };
            let word = word.trim().to_owned();
            if !known.contains(&word.as_str()) {
                return Err(format!("'{word}' is not one of {}", known.join(", ")));
            }
            if words.iter().any(|(seen, _)| *seen == word) {
                return Err(format!("'{word}' is said twice"));
            }
            let columns: Vec<String> = split(&columns, '+').iter().map(|c| unescape(c)).collect();
            if columns.iter().any(String::is_empty) {
                return Err(format!("'{part}' names an empty column"));
            }
            words.push((word, columns));
        }
        Ok(Self(words))
    }

    fn take(&mut self, word: &str) -> Vec<String> {
        let at = self.0.iter().position(|(seen, _)| seen == word);
        at.map(|at| self.0.swap_remove(at).1).unwrap_or_default()
    }

    fn maybe(&mut self, word: &str, text: &str) -> Result<Option<String>, String> {
        let mut columns = self.take(word);
        let last = columns.pop();
        if columns.is_empty() { Ok(last) } else { Err(format!("'{text}': {word} is one column")) }
    }

    fn one(&mut self, word: &str, text: &str) -> Result<String, String> {
        self.maybe(word, text)?.ok_or_else(|| format!("'{text}' does not say {word}=COLUMN"))
    }
}

/// Splits at `separator` where no backslash stands before it; backslashes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut is_escaped = false;
    for c in text.chars() {
        if c == separator && !is_escaped {
            parts.push(String::new());
            continue;
        }
        is_escaped = c == '\\' && !is_escaped;
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, chars.as_str().chars().next()) {
            ('\\', Some(',' | '+' | '=' | '\\')) => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

/// A layout given by `--map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongArgument(pub Layout);

impl FromStr for LongArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_long(text).map(Self)
    }
}

/// A layout given by `--wide`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WideArgument(pub Layout);

impl FromStr for WideArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_wide(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_long_layout() {
        let want = Layout::Long {
            tag: vec!["machine".into(), "tag".into()],
            time: "ts".into(),
            value: "value".into(),
            quality: None,
        };
        assert_eq!(parse_long("tag=machine+tag,time=ts,value=value"), Ok(want));
    }

    #[test]
    fn reads_a_wide_layout_with_escapes() {
        let want = Layout::Wide { time: "t,s".into(), tag: vec!["a+b=c".into(), "d\\e".into()] };
        assert_eq!(parse_wide(r"time=t\,s,tag=a\+b\=c+d\\e"), Ok(want));
        assert_eq!(parse_wide("time=ts"), Ok(Layout::Wide { time: "ts".into(), tag: vec![] }));
    }

    #[test]
    fn says_what_is_missing() {
        for (text, part) in [
            ("time=ts,value=v", "tag="),
            ("tag=a,value=v", "time="),
            ("tag=a,time=b,time=c,value=v", "twice"),
            ("tag=a,times=b,value=v", "'times'"),
            ("tag=a,time=,value=v", "empty"),
            ("tag", "word=COLUMN"),
            ("tag=a,time=b+c,value=v", "one column"),
        ] {
            let said = parse_long(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
