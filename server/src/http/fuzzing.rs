//! Bodies of the fuzz targets `lines` and `http_body`. `fuzz/` runs them under libFuzzer, the tests below replay their
//! corpora.
//!
//! # Contract
//! * Panics when a claim breaks. Of any text: every line is taken or refused, once, and no line changes what becomes of
//!   another. Of lines made here: names, values and times are those they were made of. Of bodies: what is unpacked is
//!   what was packed, whole and within its limit; a statement that was read is written and read again to the same.
//! * Needs nothing but the bytes. What lines become is told by a second set of rules, written for this alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use influxdb_line_protocol::split_lines;
use serde_json::json;
use tagmill_storage::{Values, check_name};

use super::body::{Asked, Packed, Parameter, unpacked};
use super::lines::{Column, ERRORS_MAX, Lines, Precision, Template, read};
use crate::fuzzing::Choices;

/// Time of lines that have none.
const NOW_NS: i64 = 7;
/// Letters of names, all of which mean something somewhere.
const LETTERS: [char; 16] =
    ['a', 'b', 'Z', '0', '.', 'é', '-', '_', '/', ' ', ',', '=', '\\', '"', '#', '温'];
/// Letters that keys and values of Influx tags escape.
const OF_KEYS: [char; 4] = [',', ' ', '=', '\\'];
/// What a text may hold besides.
const OF_TEXTS: [char; 8] = ['a', '"', '\\', '\n', ',', ' ', '=', '\u{1}'];
/// Lines that nobody can read.
const NONSENSE: [&str; 8] =
    ["nonsense", "m", "m v=", "m v=1 x", "=", "m,t v=1", "m v=1i2", "m v=1 1 1"];
/// Longest body.
const BYTES_MAX: usize = 16 << 10;
const PARAMETERS_MAX: usize = 16;

/// Any text is read or refused, line by line: its first line is a template, its second a precision. After a byte that no
/// text has come choices, of which lines are made.
pub(super) fn lines(data: &[u8]) {
    if let [0xFF, rest @ ..] = data {
        return made_lines(Choices::new(rest));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, '\n');
    let (Some(name), Some(word), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let (Ok(template), Some(precision)) = (Template::parse(name), Precision::parse(word)) else {
        return;
    };
    assert!(name.contains("{field}"), "a template without its field");
    let whole = read(text, &template, precision, NOW_NS);
    check_lines(&whole);
    let (mut count, mut refused, mut values) = (0, 0, 0);
    for line in split_lines(text) {
        let alone = read(line, &template, precision, NOW_NS);
        assert!(alone.count <= 1, "{line:?} is {} lines", alone.count);
        count += alone.count;
        refused += alone.refused.count();
        values += values_in(&alone);
    }
    assert_eq!((whole.count, whole.refused.count()), (count, refused), "lines change each other");
    assert_eq!(values_in(&whole), values, "lines change each other");
}

fn values_in(read: &Lines) -> usize {
    read.columns.iter().map(|column| column.times.len()).sum()
}

fn check_lines(read: &Lines) {
    let (mut taken, mut tags) = (BTreeSet::<usize>::new(), HashSet::new());
    for Column { tag, times, values, lines } in &read.columns {
        assert!(!times.is_empty(), "an empty column");
        assert_eq!((values.len(), lines.len()), (times.len(), times.len()), "lengths of {tag:?}");
        assert!(lines.is_sorted(), "values in another order");
        assert_eq!(check_name(tag), Ok(()), "{tag:?}");
        assert!(tags.insert((tag, std::mem::discriminant(values))), "two columns of {tag:?}");
        taken.extend(lines);
    }
    let told = &read.refused.first;
    assert_eq!(told.len(), read.refused.count().min(ERRORS_MAX));
    assert!(told.iter().all(|refused| !taken.contains(&refused.line)), "taken and refused");
    assert_eq!(taken.len() + read.refused.count(), read.count, "a line is neither");
}

/// A part of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Text(&'static str),
    Measurement,
    Tags,
    Unit,
    Field,
}

impl Part {
    const ALL: [Self; 8] = [
        Self::Field,
        Self::Measurement,
        Self::Tags,
        Self::Unit,
        Self::Text("/"),
        Self::Text("x"),
        Self::Text(" "),
        Self::Text("//y/"),
    ];

    const fn written(self) -> &'static str {
        match self {
            Self::Text(text) => text,
            Self::Measurement => "{measurement}",
            Self::Tags => "{tags}",
            Self::Unit => "{tag:unit}",
            Self::Field => "{field}",
        }
    }
}

/// A value, floats by their bits.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    F64(u64),
    I64(i64),
    Bool(bool),
    Text(String),
}

/// Tag and number of its type, to time, value and line.
type Told = BTreeMap<(String, u8), Vec<(i64, Value, usize)>>;

/// Lines, and what they should become.
struct Made {
    parts: Vec<Part>,
    unit_ns: i64,
    text: String,
    told: Told,
    refused: Vec<usize>,
    count: usize,
}

fn made_lines(mut choices: Choices<'_>) {
    let mut parts: Vec<Part> = (0..choices.below(6)).map(|_| choices.of(&Part::ALL)).collect();
    parts.push(Part::Field);
    let (word, unit_ns) = choices.of(&[
        ("ns", 1),
        ("u", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ]);
    let (text, told, refused) = (String::new(), Told::new(), Vec::new());
    let mut made = Made { parts, unit_ns, text, told, refused, count: 0 };
    for number in 1..=24 {
        if choices.is_over() {
            break;
        }
        match choices.below(8) {
            0 => made.text.push_str(choices.of(&["", "  ", "# a comment", "\t"])),
            1 => {
                made.text.push_str(choices.of(&NONSENSE));
                made.refused.push(number);
                made.count += 1;
            }
            _ => made.line(number, &mut choices),
        }
        made.text.push('\n');
    }
    let written: String = made.parts.iter().map(|part| part.written()).collect();
    let template = Template::parse(&written).expect("our own template");
    let precision = Precision::parse(word).expect("our own precision");
    let read = read(&made.text, &template, precision, NOW_NS);
    check_lines(&read);
    let lines: Vec<usize> = read.refused.first.iter().map(|refused| refused.line).collect();
    assert_eq!((read.count, lines), (made.count, made.refused), "{:?}", made.text);
    assert_eq!(told_by(&read), made.told, "{:?} by {written:?}", made.text);
}

impl Made {
    /// Writes a line that can be read, and remembers what it says.
    fn line(&mut self, number: usize, choices: &mut Choices<'_>) {
        self.count += 1;
        let measurement = name(choices).replace('#', "c");
        let mut line = vec![escaped(&measurement, &[',', ' ', '\\'])];
        let mut tags = BTreeMap::new();
        for _ in 0..choices.below(4) {
            let key = if choices.below(2) == 0 { "unit".to_owned() } else { name(choices) };
            let value = name(choices);
            line.extend([
                ",".into(),
                escaped(&key, &OF_KEYS),
                "=".into(),
                escaped(&value, &OF_KEYS),
            ]);
            tags.insert(key, value);
        }
        let mut fields = Vec::new();
        for at in 0..=choices.below(3) {
            let key = name(choices);
            let (written, value) = value(choices);
            let before = if at == 0 { " " } else { "," };
            line.extend([before.into(), escaped(&key, &OF_KEYS), "=".into(), written]);
            fields.push(self.tag(&measurement, &tags, &key).zip(value));
        }
        let time = match choices.below(3) {
            0 => Some(NOW_NS),
            more => {
                let time = choices.word().cast_signed() >> (if more == 1 { 40 } else { 0 });
                line.push(format!(" {time}"));
                time.checked_mul(self.unit_ns)
            }
        };
        self.text.extend(line);
        // All of a line or nothing.
        let fields: Option<Vec<_>> = fields.into_iter().collect();
        let Some((time, fields)) = time.zip(fields) else { return self.refused.push(number) };
        for (tag, value) in fields {
            self.told.entry((tag, kind(&value))).or_default().push((time, value, number));
        }
    }

    /// The tag of a field, if it has one.
    fn tag(
        &self,
        measurement: &str,
        tags: &BTreeMap<String, String>,
        field: &str,
    ) -> Option<String> {
        let has_unit = self.parts.contains(&Part::Unit);
        let others = tags.iter().filter(|(key, _)| !has_unit || *key != "unit");
        let others = others.map(|(_, value)| value.as_str()).collect::<Vec<_>>().join("/");
        let mut name = String::new();
        for part in &self.parts {
            name.push_str(match part {
                Part::Text(text) => text,
                Part::Measurement => measurement,
                Part::Tags => &others,
                Part::Unit => tags.get("unit")?,
                Part::Field => field,
            });
        }
        let levels: Vec<&str> = name.split('/').filter(|level| !level.is_empty()).collect();
        Some(levels.join("/")).filter(|name| check_name(name).is_ok())
    }
}

/// A name as lines may have it: not empty, and without a backslash at its end.
fn name(choices: &mut Choices<'_>) -> String {
    let mut name = choices.text(&LETTERS, 4);
    if name.is_empty() || name.ends_with('\\') {
        name.push('n');
    }
    name
}

fn escaped(text: &str, letters: &[char]) -> String {
    let mut written = String::new();
    for letter in text.chars() {
        if letters.contains(&letter) {
            written.push('\\');
        }
        written.push(letter);
    }
    written
}

/// A value as it is written, and what it is; nothing if no tag can hold it.
fn value(choices: &mut Choices<'_>) -> (String, Option<Value>) {
    match choices.below(6) {
        0 => {
            let value = Some(f64::from_bits(choices.word())).filter(|value| value.is_finite());
            let value = value.unwrap_or(0.5);
            let written =
                if choices.below(2) == 0 { format!("{value}") } else { format!("{value:e}") };
            (written, Some(Value::F64(value.to_bits())))
        }
        1 => {
            let value = f64::from(i16::from_le_bytes([choices.byte(), choices.byte()])) / 8.0;
            (format!("{value}"), Some(Value::F64(value.to_bits())))
        }
        2 => {
            let value = choices.word().cast_signed();
            (format!("{value}i"), Some(Value::I64(value)))
        }
        3 => {
            let value = choices.word();
            (format!("{value}u"), i64::try_from(value).ok().map(Value::I64))
        }
        4 => {
            let (written, value) = choices.of(&[
                ("t", true),
                ("T", true),
                ("true", true),
                ("True", true),
                ("TRUE", true),
                ("f", false),
                ("F", false),
                ("false", false),
                ("False", false),
                ("FALSE", false),
            ]);
            (written.to_owned(), Some(Value::Bool(value)))
        }
        _ => {
            let text = choices.text(&OF_TEXTS, 6);
            (format!("\"{}\"", escaped(&text, &['"', '\\'])), Some(Value::Text(text)))
        }
    }
}

const fn kind(value: &Value) -> u8 {
    match value {
        Value::F64(_) => 0,
        Value::I64(_) => 1,
        Value::Bool(_) => 2,
        Value::Text(_) => 3,
    }
}

/// What was read, in the words of what was made.
fn told_by(read: &Lines) -> Told {
    let mut told = Told::new();
    for Column { tag, times, values, lines } in &read.columns {
        let values: Vec<Value> = match values {
            Values::F64(values) => values.iter().map(|v| Value::F64(v.to_bits())).collect(),
            Values::I64(values) => values.iter().copied().map(Value::I64).collect(),
            Values::Bool(values) => values.iter().copied().map(Value::Bool).collect(),
            Values::Text(values) => values.iter().map(|v| Value::Text(v.to_string())).collect(),
            other => panic!("lines hold no {other:?}"),
        };
        let place = told.entry((tag.to_string(), kind(&values[0]))).or_default();
        for ((time, value), line) in times.iter().zip(values).zip(lines) {
            place.push((*time, value, *line));
        }
    }
    told
}

/// Any body is read or refused. The first byte says what it is.
pub(super) fn body(data: &[u8]) {
    let [kind, rest @ ..] = data else { return };
    match kind % 4 {
        0 => packed(rest),
        1 => unpacks_to_what_was_packed(rest),
        2 => statement(rest),
        _ => made_statement(Choices::new(rest)),
    }
}

/// More room changes nothing but what was too long.
fn packed(body: &[u8]) {
    let less = unpacked(Some("gzip"), body, BYTES_MAX);
    let more = unpacked(Some("gzip"), body, 2 * BYTES_MAX);
    match (less, more) {
        (Ok(less), Ok(more)) => {
            assert!(less.len() <= BYTES_MAX, "{} bytes", less.len());
            assert_eq!(less, more);
        }
        (Err(Packed::TooLong(_)), Ok(more)) => assert!(more.len() > BYTES_MAX),
        (Err(Packed::TooLong(_)), Err(Packed::TooLong(_)))
        | (Err(Packed::TooLong(_) | Packed::Damaged(_)), Err(Packed::Damaged(_))) => {}
        (less, more) => panic!("{less:?}, with more room {more:?}"),
    }
    let plain = unpacked(None, body, BYTES_MAX);
    assert_eq!(plain.ok().as_deref(), Some(body).filter(|body| body.len() <= BYTES_MAX));
}

/// The first bytes say how often the rest is repeated, where a second part of the packed body begins, and where it is cut.
fn unpacks_to_what_was_packed(data: &[u8]) {
    let [times, split, cut, rest @ ..] = data else { return };
    let text = rest.repeat(1 + usize::from(*times) % 64);
    let share = |of: usize, byte: u8| of * usize::from(byte) / 256;
    let (first, second) = text.split_at(share(text.len(), *split));
    let mut body = packed_by_gzip(first);
    let seam = body.len();
    body.extend(packed_by_gzip(second));
    match unpacked(Some("gzip"), &body, BYTES_MAX) {
        Ok(found) => assert!(found == text && text.len() <= BYTES_MAX, "another text"),
        Err(Packed::TooLong(_)) => assert!(text.len() > BYTES_MAX, "{} bytes", text.len()),
        Err(other) => panic!("our own bytes: {other}"),
    }
    let cut = share(body.len(), *cut);
    // What was cut between its parts cannot be told from a whole one.
    if cut != seam && cut != 0 {
        let found = unpacked(Some("gzip"), &body[..cut], BYTES_MAX);
        assert!(found.is_err(), "a body that was cut at {cut} of {} is whole", body.len());
    }
}

fn packed_by_gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

fn statement(body: &[u8]) {
    let text = Asked::of_text(body);
    assert_eq!(text.ok().map(|asked| asked.sql.into_bytes()), {
        std::str::from_utf8(body).ok().map(|text| text.as_bytes().to_vec())
    });
    let Ok(asked) = Asked::of_json(body, PARAMETERS_MAX) else { return };
    assert!(asked.parameters.len() <= PARAMETERS_MAX);
    let written: Vec<serde_json::Value> = asked.parameters.iter().map(written).collect();
    let Asked { sql, settings, .. } = &asked;
    let written = json!({ "sql": sql, "parameters": written, "settings": settings }).to_string();
    let again = Asked::of_json(written.as_bytes(), PARAMETERS_MAX).expect("our own JSON");
    check_same(&again, &asked);
}

fn check_same(found: &Asked, wanted: &Asked) {
    assert_eq!((&found.sql, &found.settings), (&wanted.sql, &wanted.settings));
    // By their text: it tells one zero from the other.
    let text = |asked: &Asked| format!("{:?}", asked.parameters);
    assert_eq!(text(found), text(wanted));
}

fn written(parameter: &Parameter) -> serde_json::Value {
    match parameter {
        Parameter::Null => json!(null),
        Parameter::Bool(value) => json!(value),
        Parameter::I64(value) => json!(value),
        Parameter::F64(value) => json!(value),
        Parameter::Text(value) => json!(value),
    }
}

fn made_statement(mut choices: Choices<'_>) {
    let letters = ['a', '"', '\\', '\n', '\u{1}', '{', '/', 'é', '温', '\u{1F600}'];
    let sql = choices.text(&letters, 20);
    let (mut parameters, mut written) = (Vec::new(), Vec::new());
    for _ in 0..choices.below(PARAMETERS_MAX + 2) {
        let parameter = match choices.below(5) {
            0 => Parameter::Null,
            1 => Parameter::Bool(choices.below(2) == 1),
            2 => Parameter::I64(choices.word().cast_signed()),
            3 => {
                let value = f64::from_bits(choices.word());
                Parameter::F64(if value.is_finite() { value } else { -0.0 })
            }
            _ => Parameter::Text(choices.text(&letters, 8)),
        };
        written.push(match &parameter {
            // All digits there are, and none of the library's doing.
            Parameter::F64(value) => format!("{value:e}"),
            other => self::written(other).to_string(),
        });
        parameters.push(parameter);
    }
    let mut settings = HashMap::new();
    for _ in 0..choices.below(3) {
        settings.insert(choices.text(&letters, 3), choices.text(&letters, 3));
    }
    let (count, list) = (parameters.len(), written.join(" , "));
    let (text, set) = (json!(sql), json!(settings));
    let body = format!("{{\"sql\":{text},\"parameters\":[ {list} ],\"settings\":{set}}}");
    match Asked::of_json(body.as_bytes(), PARAMETERS_MAX) {
        Ok(asked) => check_same(&asked, &Asked { sql, parameters, settings }),
        Err(why) => assert!(count > PARAMETERS_MAX, "{body}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::fuzzing::replay;

    #[test]
    fn the_corpus_of_lines_breaks_no_claim() {
        replay("lines", 40, super::lines);
    }

    #[test]
    fn the_corpus_of_bodies_breaks_no_claim() {
        replay("http_body", 60, super::body);
    }
}
