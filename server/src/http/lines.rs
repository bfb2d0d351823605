//! Influx line protocol as samples of tags. Pure: text in, columns out.
//!
//! # Contract
//! * A line that cannot be read, or of which no tag can be named, harms no other line; each is told by its number.
//! * A text is read in pieces, for a few of its bytes may become a column. Of a tag all values of one piece and type go into
//!   one column, in their order.
//! * A line that is too long, or of too many parts, is refused before it is taken apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use influxdb_line_protocol::{FieldValue, ParsedLine, parse_lines, split_lines};
use tagmill_storage::limits::TAG_NAME_BYTES_MAX;
use tagmill_storage::{Values, check_name};

/// Lines of which an error is told; beyond it they are counted.
pub(crate) const ERRORS_MAX: usize = 100;
/// Bytes of an error that is told, for it may repeat its line, and of a name in it.
const ERROR_BYTES_MAX: usize = 256;
const NAME_TOLD_BYTES: usize = 128;
/// Bytes of one line.
const LINE_BYTES_MAX: usize = 256 << 10;
/// Influx tags and fields of one line.
const TAGS_MAX: usize = 256;
const FIELDS_MAX: usize = 1_024;
/// Memory of one column besides its name, and of one sample besides its text.
const COLUMN_BYTES: usize = 336;
const SAMPLE_BYTES: usize = 24;
/// The most memory that a byte of text becomes: a field is written with four, and has a column with the longest of names.
const BYTES_OF_BYTE: usize = (COLUMN_BYTES + SAMPLE_BYTES + TAG_NAME_BYTES_MAX).div_ceil(4);
/// Memory by which one line may go beyond what a piece should take.
const OF_LINE_BYTES_MAX: usize =
    FIELDS_MAX * (COLUMN_BYTES + SAMPLE_BYTES + TAG_NAME_BYTES_MAX) + LINE_BYTES_MAX;
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

    /// What stands around the fields in the names of a line's tags: the same for all of them. `None` is the field's place.
    fn around(
        &self,
        line: &ParsedLine<'_>,
        tags: &BTreeMap<&str, &str>,
    ) -> Result<Vec<Option<String>>, String> {
        let is_named =
            |key: &str| self.parts.iter().any(|part| matches!(part, Part::Tag(k) if k == key));
        let mut around = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let mut text = String::new();
            match part {
                Part::Field => {
                    around.push(None);
                    continue;
                }
                Part::Text(own) => push_levels(&mut text, own),
                Part::Measurement => push_levels(&mut text, line.series.measurement.as_str()),
                Part::Tag(key) => {
                    let value = tags.get(key.as_str());
                    let value = value.ok_or_else(|| format!("it has no Influx tag {key:?}"))?;
                    push_levels(&mut text, value);
                }
                Part::Tags => {
                    for (at, (_, value)) in
                        tags.iter().filter(|(key, _)| !is_named(key)).enumerate()
                    {
                        push_levels(&mut text, if at == 0 { "" } else { "/" });
                        push_levels(&mut text, value);
                    }
                }
            }
            around.push(Some(text));
        }
        Ok(around)
    }
}

/// Adds a part of a name. Where a line has no tags, their place vanishes with one of its slashes.
fn push_levels(name: &mut String, part: &str) {
    for letter in part.chars() {
        if letter != '/' || !name.ends_with('/') {
            name.push(letter);
        }
    }
}

/// The name of a field's tag.
fn name_of(around: &[Option<String>], field: &str) -> Result<String, String> {
    let mut name = String::new();
    for part in around {
        push_levels(&mut name, part.as_deref().unwrap_or(field));
    }
    let name = name.trim_matches('/');
    check_name(name)
        .map_err(|why| format!("its tag would be {:?}: {why}", start_of(name, NAME_TOLD_BYTES)))?;
    Ok(name.to_owned())
}

/// The first bytes of a text.
fn start_of(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
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
    pub(crate) tag: Arc<str>,
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
    /// Of the piece at hand, and how many of those before.
    lines: BTreeSet<usize>,
    before: usize,
}

impl Refusals {
    /// Adds a line, if it is not among them.
    pub(crate) fn add(&mut self, line: usize, error: impl FnOnce() -> String) {
        if self.lines.insert(line) && self.first.len() < ERRORS_MAX {
            let mut error = error();
            if error.len() > ERROR_BYTES_MAX {
                error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
                error.push_str(" ..");
            }
            self.first.push(Refused { line, error });
        }
    }

    /// Adds those of the next piece, whose lines are others.
    pub(crate) fn extend(&mut self, next: Self) {
        self.before += next.count();
        let room = ERRORS_MAX.saturating_sub(self.first.len());
        self.first.extend(next.first.into_iter().take(room));
    }

    /// How many lines.
    pub(crate) fn count(&self) -> usize {
        self.before + self.lines.len()
    }
}

/// What a text holds, or a piece of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lines {
    pub(crate) columns: Vec<Column>,
    pub(crate) refused: Refusals,
    /// Lines in all, without empty ones and comments.
    pub(crate) count: usize,
}

/// The most memory that a piece of a text takes, which should take so many bytes.
pub(crate) fn piece_bytes_max(text_bytes: usize, bytes_max: usize) -> usize {
    text_bytes.saturating_mul(BYTES_OF_BYTE).min(bytes_max + OF_LINE_BYTES_MAX)
}

/// Reads a text as one piece. Lines without a timestamp get the time `now_ns`.
pub(crate) fn read(text: &str, template: &Template, precision: Precision, now_ns: i64) -> Lines {
    Reader::new(text, template, precision, now_ns).piece(usize::MAX).unwrap_or_default()
}

/// Reads a text piece by piece.
pub(crate) struct Reader<'a> {
    lines: Box<dyn Iterator<Item = (usize, &'a str)> + 'a>,
    template: &'a Template,
    precision: Precision,
    now_ns: i64,
}

impl<'a> Reader<'a> {
    /// Lines without a timestamp get the time `now_ns`.
    pub(crate) fn new(
        text: &'a str,
        template: &'a Template,
        precision: Precision,
        now_ns: i64,
    ) -> Self {
        Self { lines: Box::new((1..).zip(split_lines(text))), template, precision, now_ns }
    }

    /// The next lines, until what is made of them takes so many bytes; nothing at the end.
    pub(crate) fn piece(&mut self, bytes_max: usize) -> Option<Lines> {
        let mut piece = Piece::default();
        while piece.bytes < bytes_max
            && let Some((number, text)) = self.lines.next()
        {
            let Some(line) = self.line(text) else { continue };
            piece.lines.count += 1;
            match line {
                Ok((time_ns, fields)) => piece.take(number, time_ns, fields),
                Err(error) => {
                    piece.lines.refused.add(number, || error);
                    piece.bytes += SAMPLE_BYTES;
                }
            }
        }
        (piece.lines.count > 0).then_some(piece.lines)
    }

    /// The time of a line and its fields, by the names of their tags; nothing if it is empty or a comment.
    fn line(&self, text: &str) -> Option<Result<(i64, Fields), String>> {
        let said = without_comments(text);
        if said.is_empty() {
            return None;
        }
        if said.len() > LINE_BYTES_MAX {
            return Some(Err("a line has at most 256 KiB".to_owned()));
        }
        if commas_in(said) > TAGS_MAX + FIELDS_MAX {
            return Some(Err(too_many()));
        }
        let line = parse_lines(text).next()?;
        Some(line.map_err(|error| error.to_string()).and_then(|line| self.fields(&line)))
    }

    fn fields(&self, line: &ParsedLine<'_>) -> Result<(i64, Fields), String> {
        let time_ns = match line.timestamp {
            None => self.now_ns,
            Some(time) => time
                .checked_mul(self.precision.0)
                .ok_or_else(|| format!("its time {time} is out of range"))?,
        };
        let tags = line.series.tag_set.iter().flatten();
        let tags: BTreeMap<&str, &str> =
            tags.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if tags.len() > TAGS_MAX || line.field_set.len() > FIELDS_MAX {
            return Err(too_many());
        }
        // All of a line or nothing.
        let around = self.template.around(line, &tags)?;
        let mut fields = Vec::with_capacity(line.field_set.len());
        for (field, value) in &line.field_set {
            fields.push((name_of(&around, field.as_str())?, value_of(value)?));
        }
        Ok((time_ns, fields))
    }
}

fn too_many() -> String {
    format!("a line has at most {TAGS_MAX} tags and {FIELDS_MAX} fields")
}

/// A line without the space and the comments before it.
fn without_comments(line: &str) -> &str {
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n']);
        if !rest.starts_with('#') {
            return rest;
        }
        rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
    }
}

/// Commas of a line, but those that are escaped or within texts: no less than it has tags and fields beyond the first.
fn commas_in(line: &str) -> usize {
    let (mut commas, mut before, mut is_series, mut is_text) = (0, b' ', true, false);
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'"' if is_text => is_text = false,
            _ if is_text => {}
            // Texts are values of fields, which come after a space.
            b'"' => is_text = !is_series && before == b'=',
            b' ' => is_series = false,
            b',' => commas += 1,
            _ => {}
        }
        before = byte;
    }
    commas
}

/// Lines that were read, and the memory they take.
#[derive(Default)]
struct Piece {
    lines: Lines,
    /// The column of a tag for each type, one more than its place.
    places: BTreeMap<Arc<str>, [usize; 4]>,
    bytes: usize,
}

impl Piece {
    /// Takes the fields of a line.
    fn take(&mut self, number: usize, time_ns: i64, fields: Fields) {
        for (name, value) in fields {
            let kind = kind_of(&value);
            let known = self.places.get(name.as_str()).map_or(0, |places| places[kind]);
            let place = if known > 0 { known - 1 } else { self.add_column(&name, &value) };
            let column = &mut self.lines.columns[place];
            column.times.push(time_ns);
            column.lines.push(number);
            self.bytes += SAMPLE_BYTES + value.text_bytes();
            push(&mut column.values, value);
        }
    }

    /// Begins a column of a tag for values of a type.
    fn add_column(&mut self, name: &str, value: &One) -> usize {
        let known = self.places.get_key_value(name).map(|(known, _)| Arc::clone(known));
        let tag = known.unwrap_or_else(|| Arc::from(name));
        let place = self.lines.columns.len();
        self.places.entry(Arc::clone(&tag)).or_default()[kind_of(value)] = place + 1;
        let (times, lines, values) = (Vec::new(), Vec::new(), empty(value));
        self.lines.columns.push(Column { tag, times, values, lines });
        self.bytes += COLUMN_BYTES + name.len();
        place
    }
}

/// Fields of a line, by the names of their tags.
type Fields = Vec<(String, One)>;

/// One value of a line.
enum One {
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(Arc<str>),
}

impl One {
    /// Memory of its text, with what keeps it.
    fn text_bytes(&self) -> usize {
        match self {
            Self::Text(text) => SAMPLE_BYTES + text.len(),
            _ => 0,
        }
    }
}

fn value_of(value: &FieldValue<'_>) -> Result<One, String> {
    Ok(match value {
        FieldValue::F64(value) => One::F64(*value),
        FieldValue::I64(value) => One::I64(*value),
        FieldValue::U64(value) => {
            One::I64(i64::try_from(*value).map_err(|_| format!("{value} is beyond 2^63 - 1"))?)
        }
        FieldValue::Boolean(value) => One::Bool(*value),
        FieldValue::String(value) => One::Text(Arc::from(value.as_str())),
    })
}

const fn kind_of(value: &One) -> usize {
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
        (Values::Text(values), One::Text(value)) => values.push(value),
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
            let names: Vec<&str> = columns.iter().map(|column| &*column.tag).collect();
            assert_eq!(names, wanted, "{template}");
            assert_eq!(columns[0].times, [5]);
        }
        assert_eq!(&*of("m f=1", DEFAULT).columns[0].tag, "m/f");
        assert_eq!(&*of("//m//,t=/a/,u=// f/=1", DEFAULT).columns[0].tag, "m/a/f");
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
        assert_eq!((&*column.tag, &column.times[..]), ("m/a/v", &[1, 3, 7][..]));
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
    fn a_text_is_read_in_pieces_of_bounded_memory() {
        let tag = "n".repeat(400);
        let fields: Vec<String> = (0..1_000).map(|field| field.to_string() + "=1").collect();
        let line = "m,t=".to_owned() + &tag + " " + &fields.join(",");
        let text = vec![line; 40].join("\n");
        let template = Template::parse("{field}/{tags}").unwrap();
        let mut reader = Reader::new(&text, &template, Precision(1), 7);
        let (mut lines, mut pieces) = (0, 0);
        while let Some(piece) = reader.piece(1 << 20) {
            assert_eq!(piece.columns.len(), 1_000);
            // Each begins its columns anew, and a sample takes less than its column.
            assert!((1..=20).contains(&piece.count), "{} lines", piece.count);
            assert!(piece.columns.iter().all(|column| column.times.len() == piece.count));
            (lines, pieces) = (lines + piece.count, pieces + 1);
        }
        assert_eq!(lines, 40);
        assert!(pieces > 2, "{pieces} pieces");
        let same = read(&text, &template, Precision(1), 7);
        assert_eq!((same.columns.len(), same.count), (1_000, 40));
        assert!(piece_bytes_max(100, 8 << 20) < 25_000);
        assert!(piece_bytes_max(8 << 20, 8 << 20) < 10 << 20);
    }

    #[test]
    fn a_line_that_is_too_much_is_refused_before_it_is_read() {
        let fields = |count: usize| {
            let fields: Vec<String> = (0..count).map(|field| format!("f{field}=1")).collect();
            "m ".to_owned() + &fields.join(",")
        };
        assert_eq!(of(&fields(FIELDS_MAX), DEFAULT).columns.len(), FIELDS_MAX);
        for (wrong, why) in [
            (fields(FIELDS_MAX + 1), "1024 fields"),
            (fields(2_000), "1024 fields"),
            ("m".to_owned() + &",t=\"".repeat(2_000) + " v=1", "1024 fields"),
            ("# v=\"\n".to_owned() + &fields(2_000) + ",x=\"", "1024 fields"),
            ("m v=\"".to_owned() + &"x".repeat(LINE_BYTES_MAX) + "\"", "256 KiB"),
        ] {
            let read = of(&(wrong + "\nm v=1"), DEFAULT);
            assert_eq!((read.columns.len(), read.refused.count()), (1, 1), "{why}");
            assert!(read.refused.first[0].error.contains(why), "{:?}", read.refused);
        }
        // Within a text commas are as many as they like.
        let text = "m,a\\,=b v=\"".to_owned() + &",\\\",".repeat(5_000) + "\",w=1";
        assert_eq!(of(&text, DEFAULT).columns.len(), 2);
        assert_eq!(commas_in(&text), 2);
    }

    #[test]
    fn errors_are_short_and_told_of_the_first_lines() {
        let long = "m,t=".to_owned() + &"é".repeat(9_000) + " v=1";
        let read = of(&vec![long; 300].join("\n"), DEFAULT);
        assert_eq!((read.refused.count(), read.refused.first.len()), (300, ERRORS_MAX));
        assert!(read.refused.first.iter().all(|refused| refused.error.len() < 2 * ERROR_BYTES_MAX));
        let mut all = Refusals::default();
        all.add(1, || "first".to_owned());
        all.extend(read.refused);
        assert_eq!((all.count(), all.first.len(), all.first[0].line), (301, ERRORS_MAX, 1));
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
