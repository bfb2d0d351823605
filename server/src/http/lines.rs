//! Influx line protocol as samples of tags. Pure: text in, columns out.
//!
//! Contract: a line that cannot be read, or of which no tag can be named, harms no other line; each is told by its
//! number. Of a tag all values of one text go into one column, in their order.

use std::collections::{BTreeMap, BTreeSet};

use influxdb_line_protocol::{FieldValue, ParsedLine, parse_lines, split_lines};
use tagmill_storage::{Values, check_name};

/// Lines of which an error is told; beyond it they are counted.
pub(crate) const ERRORS_MAX: usize = 100;
/// Influx tags and fields of one line.
const TAGS_MAX: usize = 256;
const FIELDS_MAX: usize = 1_024;
/// How a name is made unless the server was told otherwise.
pub(crate) const DEFAULT: &str = "{measurement}/{tags}/{field}";

/// How the name of a tag is made of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Measurement,
    Field,
    /// The values of all Influx tags that have no place of their own, by their keys, with `/` between them.
    Tags,
    /// The value of one.
    Tag(String),
}

impl Template {
    /// Reads a template: `{measurement}`, `{field}`, `{tags}`, `{tag:KEY}` and text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (before, after) = rest.split_once('{').unwrap_or((rest, ""));
            if before.contains('}') {
                return Err(format!("{text:?}: a '}}' without its '{{'"));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            if before.len() == rest.len() {
                break;
            }
            let (word, after) = after
                .split_once('}')
                .ok_or_else(|| format!("{text:?}: a '{{' without its '}}'"))?;
            parts.push(match word.split_once(':') {
                None if word == "measurement" => Part::Measurement,
                None if word == "field" => Part::Field,
                None if word == "tags" => Part::Tags,
                Some(("tag", key)) if !key.is_empty() => Part::Tag(key.to_owned()),
                _ => {
                    return Err(format!(
                        "{{{word}}} is none of {{measurement}}, {{field}}, {{tags}} and {{tag:KEY}}"
                    ));
                }
            });
            rest = after;
        }
        if !parts.contains(&Part::Field) {
            return Err(format!("{text:?}: without {{field}} all fields would be one tag"));
        }
        Ok(Self { parts })
    }

    /// The name of a field's tag.
    fn name(
        &self,
        line: &ParsedLine<'_>,
        tags: &BTreeMap<&str, &str>,
        field: &str,
    ) -> Result<String, String> {
        let is_named =
            |key: &str| self.parts.iter().any(|part| matches!(part, Part::Tag(k) if k == key));
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Measurement => name.push_str(line.series.measurement.as_str()),
                Part::Field => name.push_str(field),
                Part::Tag(key) => {
                    let value = tags.get(key.as_str());
                    name.push_str(value.ok_or_else(|| format!("it has no Influx tag {key:?}"))?);
                }
                Part::Tags => {
                    let others = tags.iter().filter(|(key, _)| !is_named(key));
                    let values: Vec<&str> = others.map(|(_, value)| *value).collect();
                    name.push_str(&values.join("/"));
                }
            }
        }
        // Where a line has no tags, their place vanishes with one of its slashes.
        while name.contains("//") {
            name = name.replace("//", "/");
        }
        let name = name.trim_matches('/').to_owned();
        check_name(&name).map_err(|why| format!("its tag would be {name:?}: {why}"))?;
        Ok(name)
    }
}

/// Unit of the timestamps of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Precision(i64);

impl Precision {
    /// Reads Influx's words for it, of all its versions.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        let unit_ns = match word {
            "" | "ns" | "n" | "nanosecond" => 1,
            "us" | "u" | "microsecond" => 1_000,
            "ms" | "millisecond" => 1_000_000,
            "s" | "second" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        Some(Self(unit_ns))
    }
}

/// Values of one tag and type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Column {
    pub(crate) tag: String,
    pub(crate) times: Vec<i64>,
    pub(crate) values: Values,
    /// The line of each.
    pub(crate) lines: Vec<usize>,
}

/// A line that was refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Refused {
    /// Its number, from 1.
    pub(crate) line: usize,
    pub(crate) error: String,
}

/// Lines that were refused, the first of them with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) first: Vec<Refused>,
    lines: BTreeSet<usize>,
}

impl Refusals {
    /// Adds a line, if it is not among them.
    pub(crate) fn add(&mut self, line: usize, error: impl FnOnce() -> String) {
        if self.lines.insert(line) && self.first.len() < ERRORS_MAX {
            self.first.push(Refused { line, error: error() });
        }
    }

    /// How many lines.
    pub(crate) fn count(&self) -> usize {
        self.lines.len()
    }
}

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lines {
    pub(crate) columns: Vec<Column>,
    pub(crate) refused: Refusals,
    /// Lines in all, without empty ones and comments.
    pub(crate) count: usize,
}

/// Reads a text. Lines without a timestamp get the time `now_ns`.
pub(crate) fn read(text: &str, template: &Template, precision: Precision, now_ns: i64) -> Lines {
    let mut read = Lines::default();
    let mut places: BTreeMap<(String, u8), usize> = BTreeMap::new();
    for (number, text) in (1..).zip(split_lines(text)) {
        let Some(line) = parse_lines(text).next() else { continue };
        read.count += 1;
        let taken = line.map_err(|error| error.to_string()).and_then(|line| {
            let time_ns = match line.timestamp {
                None => now_ns,
                Some(time) => time
                    .checked_mul(precision.0)
                    .ok_or_else(|| format!("its time {time} is out of range"))?,
            };
            let tags: BTreeMap<&str, &str> = line
                .series
                .tag_set
                .iter()
                .flatten()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            if tags.len() > TAGS_MAX || line.field_set.len() > FIELDS_MAX {
                return Err(format!("a line has at most {TAGS_MAX} tags and {FIELDS_MAX} fields"));
            }
            // All of a line or nothing.
            let mut fields = Vec::with_capacity(line.field_set.len());
            for (field, value) in &line.field_set {
                fields.push((template.name(&line, &tags, field.as_str())?, value_of(value)?));
            }
            Ok((time_ns, fields))
        });
        match taken {
            Err(error) => read.refused.add(number, || error),
            Ok((time_ns, fields)) => {
                for (tag, value) in fields {
                    let kind = kind_of(&value);
                    let place = *places.entry((tag.clone(), kind)).or_insert_with(|| {
                        let (times, lines, values) = (Vec::new(), Vec::new(), empty(&value));
                        read.columns.push(Column { tag, times, values, lines });
                        read.columns.len() - 1
                    });
                    let column = &mut read.columns[place];
                    column.times.push(time_ns);
                    column.lines.push(number);
                    push(&mut column.values, value);
                }
            }
        }
    }
    read
}

/// One value of a line.
enum One {
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(String),
}

fn value_of(value: &FieldValue<'_>) -> Result<One, String> {
    Ok(match value {
        FieldValue::F64(value) => One::F64(*value),
        FieldValue::I64(value) => One::I64(*value),
        FieldValue::U64(value) => {
            One::I64(i64::try_from(*value).map_err(|_| format!("{value} is beyond 2^63 - 1"))?)
        }
        FieldValue::Boolean(value) => One::Bool(*value),
        FieldValue::String(value) => One::Text(value.as_str().to_owned()),
    })
}

const fn kind_of(value: &One) -> u8 {
    match value {
        One::F64(_) => 0,
        One::I64(_) => 1,
        One::Bool(_) => 2,
        One::Text(_) => 3,
    }
}

const fn empty(value: &One) -> Values {
    match value {
        One::F64(_) => Values::F64(Vec::new()),
        One::I64(_) => Values::I64(Vec::new()),
        One::Bool(_) => Values::Bool(Vec::new()),
        One::Text(_) => Values::Text(Vec::new()),
    }
}

fn push(values: &mut Values, value: One) {
    match (values, value) {
        (Values::F64(values), One::F64(value)) => values.push(value),
        (Values::I64(values), One::I64(value)) => values.push(value),
        (Values::Bool(values), One::Bool(value)) => values.push(value),
        (Values::Text(values), One::Text(value)) => values.push(value.into()),
        // A column has the type of the value that began it, and is found by it.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, template: &str) -> Lines {
        read(text, &Template::parse(template).unwrap(), Precision(1), 7)
    }

    #[test]
    fn names_come_from_the_template() {
        let text = "boiler,unit=U1,area=north temp=80.5,on=t 5";
        for (template, wanted) in [
            (DEFAULT, ["boiler/north/U1/temp", "boiler/north/U1/on"]),
            ("{tag:unit}/{field}", ["U1/temp", "U1/on"]),
            (
                "p/{tag:unit}.{measurement}/{tags}/{field}",
                ["p/U1.boiler/north/temp", "p/U1.boiler/north/on"],
            ),
        ] {
            let columns = of(text, template).columns;
            let names: Vec<&str> = columns.iter().map(|column| column.tag.as_str()).collect();
            assert_eq!(names, wanted, "{template}");
            assert_eq!(columns[0].times, [5]);
        }
        assert_eq!(of("m f=1", DEFAULT).columns[0].tag, "m/f");
        for wrong in ["", "x", "{tags}", "{field", "field}", "{field}{x}", "{tag:}{field}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_bad_line_harms_no_other() {
        let text = "m,t=a v=1 1\nnonsense\n# a comment\n\nm,t=.. v=1 2\nm,t=a v=2 3\nm,t=a v=\"x\",w=1i 4\n\
                    m v=18446744073709551615u 5\nm,t=a v=3";
        let read = of(text, DEFAULT);
        assert_eq!(read.count, 7);
        let lines: Vec<usize> = read.refused.first.iter().map(|refused| refused.line).collect();
        assert_eq!(lines, [2, 5, 8], "{:?}", read.refused);
        let column = &read.columns[0];
        assert_eq!((column.tag.as_str(), &column.times[..]), ("m/a/v", &[1, 3, 7][..]));
        assert_eq!(column.values, Values::F64(vec![1.0, 2.0, 3.0]));
        assert_eq!(column.lines, [1, 6, 9]);
        // Of another type it is another column: the engine says what it thinks of that.
        assert_eq!(read.columns[1].values, Values::Text(vec!["x".into()]));
    }

    #[test]
    fn times_have_their_unit() {
        let template = Template::parse(DEFAULT).unwrap();
        for (word, unit_ns) in
            [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("", 1)]
        {
            let precision = Precision::parse(word).unwrap();
            assert_eq!(read("m v=1 3", &template, precision, 0).columns[0].times, [3 * unit_ns]);
        }
        assert!(Precision::parse("fortnight").is_none());
        let far = format!("m v=1 {}", i64::MAX);
        let read = read(&far, &template, Precision::parse("s").unwrap(), 0);
        assert!(read.columns.is_empty() && read.refused.count() == 1);
    }

    #[test]
    fn any_text_is_read_or_refused() {
        let mut state = 1_u64;
        for _ in 0..2_000 {
            let mut text = String::new();
            for _ in 0..40 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let letters =
                    ["a", "=", ",", " ", "\"", "\\", "\n", "1", "i", "u", "t", "-", "é", "#", "."];
                text.push_str(letters[usize::try_from(state >> 33).unwrap() % letters.len()]);
            }
            let read = of(&text, DEFAULT);
            for column in &read.columns {
                assert_eq!(
                    (column.times.len(), column.lines.len()),
                    (column.values.len(), column.values.len())
                );
            }
        }
    }
}
