//! Lines of standard input as samples. Pure: a line in, samples or the reason why not out.

use tagmill_storage::limits::{TIME_MAX_NS, TIME_MIN_NS};
use tagmill_storage::{Quality, Value, check_name};

use crate::cli::import::stamps::of_decimal;
use crate::cli::import::text;
use crate::cli::times;
use crate::http::lines::{self, Precision, Template};

/// Names of the columns of a CSV file.
const COLUMNS: [&str; 4] = ["tag", "time", "value", "quality"];

/// One sample of a named tag.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) tag: String,
    pub(super) time_ns: i64,
    pub(super) said: Said,
    pub(super) quality: Quality,
}

/// What stands in the place of the value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// A value with a type of its own.
    Value(Value),
    /// A text that may be of any type.
    Text(String),
}

/// How lines are read.
#[derive(Debug)]
pub(super) enum Reader {
    /// As Influx line protocol.
    Lines { template: Template, precision: Precision },
    /// As CSV whose first line is a header.
    Csv { unit_ns: i64, header: Option<Header> },
}

/// Positions of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    tag: usize,
    time: usize,
    value: usize,
    quality: Option<usize>,
    columns: usize,
}

/// Why a line gives no samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The line is wrong.
    Line(String),
    /// Nothing can be read at all.
    Header(String),
}

impl Reader {
    /// Reads one line, without its end.
    ///
    /// # Errors
    /// Why it gives no samples.
    pub(super) fn read(&mut self, line: &str, now_ns: i64) -> Result<Vec<Sample>, Refusal> {
        let samples = match self {
            Self::Lines { template, precision } => of_lines(line, template, *precision, now_ns),
            Self::Csv { .. } if line.trim().is_empty() => Ok(Vec::new()),
            Self::Csv { unit_ns, header } => {
                let cells = cells(line).map_err(Refusal::Line)?;
                let Some(header) = header else {
                    *header = Some(Header::of(&cells)?);
                    return Ok(Vec::new());
                };
                header.sample(&cells, *unit_ns).map(|sample| vec![sample])
            }
        };
        let samples = samples.map_err(Refusal::Line)?;
        match samples.iter().find(|s| !(TIME_MIN_NS..TIME_MAX_NS).contains(&s.time_ns)) {
            Some(_) => Err(Refusal::Line(times::TimeProblem::OutOfRange.to_string())),
            None => Ok(samples),
        }
    }
}

fn of_lines(
    line: &str,
    template: &Template,
    precision: Precision,
    now_ns: i64,
) -> Result<Vec<Sample>, String> {
    let read = lines::read(line, template, precision, now_ns);
    if let Some(refused) = read.refused.first.first() {
        return Err(refused.error.clone());
    }
    let mut samples = Vec::with_capacity(read.columns.len());
    for column in read.columns {
        for (at, time_ns) in column.times.into_iter().enumerate() {
            let value = column.values.get(at).ok_or("its value is missing")?;
            let (tag, said, quality) = (column.tag.to_string(), Said::Value(value), Quality::GOOD);
            samples.push(Sample { tag, time_ns, said, quality });
        }
    }
    Ok(samples)
}

fn cells(line: &str) -> Result<Vec<String>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(line.len() + 1)
        .from_reader(line.as_bytes());
    let record = reader.records().next().transpose().map_err(|error| error.to_string())?;
    Ok(record.iter().flatten().map(str::to_owned).collect())
}

impl Header {
    fn of(cells: &[String]) -> Result<Self, Refusal> {
        let names: Vec<&str> =
            cells.iter().map(|cell| cell.trim_start_matches('\u{FEFF}').trim()).collect();
        let at = |column: &str| names.iter().position(|name| name.eq_ignore_ascii_case(column));
        let strange =
            names.iter().find(|name| !COLUMNS.iter().any(|c| c.eq_ignore_ascii_case(name)));
        let [tag, time, value, quality] = COLUMNS.map(at);
        match (tag, time, value, strange) {
            (Some(tag), Some(time), Some(value), None) => {
                Ok(Self { tag, time, value, quality, columns: names.len() })
            }
            _ => Err(Refusal::Header(format!(
                "the first line is {:?}: it must name the columns tag,time,value[,quality]",
                names.join(",")
            ))),
        }
    }

    fn sample(&self, cells: &[String], unit_ns: i64) -> Result<Sample, String> {
        if cells.len() != self.columns {
            return Err(format!("it has {} cells, the header {}", cells.len(), self.columns));
        }
        let [tag, time, value] = [self.tag, self.time, self.value].map(|at| cells[at].as_str());
        check_name(tag).map_err(|why| format!("tag {tag:?}: {why}"))?;
        let is_number = time.trim().starts_with(|c: char| c.is_ascii_digit() || c == '-')
            && !time.trim().get(1..).unwrap_or_default().contains(['-', ':']);
        let instant =
            if is_number { of_decimal(time.trim(), unit_ns) } else { times::parse(time, None) };
        let time_ns = instant.map_err(|why| format!("time {time:?}: {why}"))?.ns;
        let quality = self.quality.map_or(Quality::GOOD, |at| text::quality(&cells[at], false));
        let said = Said::Text(value.to_owned());
        Ok(Sample { tag: tag.to_owned(), time_ns, said, quality })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv() -> Reader {
        Reader::Csv { unit_ns: 1_000_000_000, header: None }
    }

    fn text(tag: &str, time_ns: i64, value: &str, quality: Quality) -> Sample {
        Sample { tag: tag.into(), time_ns, said: Said::Text(value.into()), quality }
    }

    #[test]
    fn csv_is_read_by_its_header() {
        let mut reader = csv();
        assert_eq!(reader.read("\u{FEFF}time, tag,Value,quality", 0), Ok(vec![]));
        let want = text("a/b", 1_700_000_000_000_000_000, "1,5", Quality::GOOD);
        assert_eq!(reader.read("2023-11-14T22:13:20Z,a/b,\"1,5\",", 0), Ok(vec![want.clone()]));
        assert_eq!(reader.read("1700000000,a/b,\"1,5\",good", 0), Ok(vec![want]));
        let want = text("x", 1_500_000_000, "", Quality::BAD);
        assert_eq!(reader.read("1.5,x,,bad", 0), Ok(vec![want]));
        assert_eq!(reader.read("", 0), Ok(vec![]));
        for (wrong, why) in [
            ("1,x,2", "3 cells"),
            ("1,,2,", "tag \"\""),
            ("yesterday,x,2,", "time \"yesterday\""),
            ("2023-11-14 22:13:20,x,2,", "no zone"),
            ("-5,x,2,", "before 1970"),
            ("9999999999999,x,2,", "before 1970"),
        ] {
            let Err(Refusal::Line(said)) = reader.read(wrong, 0) else { panic!("{wrong}") };
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }

    #[test]
    fn a_header_that_is_none_ends_it() {
        for wrong in ["1700000000,a,5", "tag,time", "tag,time,value,unit", ""] {
            let refused = csv().read(wrong, 0);
            let is_empty = wrong.is_empty() && refused == Ok(vec![]);
            assert!(is_empty || matches!(refused, Err(Refusal::Header(_))), "{wrong}: {refused:?}");
        }
    }

    #[test]
    fn line_protocol_keeps_its_types() {
        let template = Template::parse(lines::DEFAULT).unwrap();
        let precision = Precision::parse("ms").unwrap();
        let mut reader = Reader::Lines { template, precision };
        let samples = reader.read("m,u=1 a=1i,b=t,c=\"x y\",d=0.5 7", 0).unwrap();
        let values: Vec<_> = samples.iter().map(|sample| sample.said.clone()).collect();
        let want = [Value::I64(1), Value::Bool(true), Value::Text("x y".into()), Value::F64(0.5)];
        assert_eq!(values, want.map(Said::Value));
        assert!(samples.iter().all(|sample| sample.time_ns == 7_000_000));
        assert_eq!(samples[0].tag, "m/1/a");
        assert_eq!(reader.read("m a=1", 9).unwrap()[0].time_ns, 9);
        assert_eq!(reader.read("# remark", 0), Ok(vec![]));
        assert!(matches!(reader.read("nonsense", 0), Err(Refusal::Line(_))));
        assert!(matches!(reader.read("m a=1 -1", 0), Err(Refusal::Line(_))));
    }
}
