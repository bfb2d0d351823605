//! `tagmill write`: one sample by hand.

use std::io::Write;

use tagmill_proto::v1;
use tagmill_storage::{
    Batch, Qualities, Quality, TagColumn, TagDefinition, Value, ValueType, Values, check_name,
};

use super::failure::{Failure, Result};
use super::import::cell::{self, Cell, Fit};
use super::import::text::{self, Said};
use super::target::{Door, Local, Remote, TargetArgs, quoted};
use super::times::{self, Zone};
use super::wire::type_to_wire;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  tagmill write unit3/lab/density 2024-03-01T06:00:00Z 0.8423
  tagmill write unit3/lab/density now-2h 0.8419 --quality uncertain
  tagmill write unit3/shift 'now' 'night' --data plant

The sample is on disk when the command ends. An unknown tag is defined: a number makes it f64, true and false
bool, anything else text; --type says otherwise. A sample at the same time again replaces the one there.";

/// Arguments of `tagmill write`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The tag's full name.
    tag: String,
    /// Its source time: 2024-03-01T06:00:00Z, now, or now-2h.
    #[arg(allow_hyphen_values = true)]
    time: String,
    /// Its value; for a state tag the label or the code. With a bad quality it may be empty.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Its quality: good, uncertain, bad, or an OPC UA StatusCode.
    #[arg(long, default_value = "good", value_parser = quality)]
    quality: Quality,
    /// Type of the tag, if it is new: f64, f32, i64, bool, state, text.
    #[arg(long = "type", value_name = "TYPE", value_parser = value_type)]
    value_type: Option<ValueType>,
    /// Zone of a time that names none.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<Zone>,
    #[command(flatten)]
    target: TargetArgs,
}

/// Runs the command.
///
/// # Errors
/// If the words make no sample, or the database refuses it.
pub fn run(args: Args) -> Result<()> {
    check_name(&args.tag).map_err(|why| Failure::new(format!("'{}': {why}", args.tag)))?;
    let time =
        times::parse_argument(&args.time, args.time_zone, times::now_ns()).map_err(Failure::new)?;
    let mut door = args.target.open()?;
    let known = door
        .texts(&format!("SELECT type FROM tags WHERE tag = {}", quoted(&args.tag)))?
        .first()
        .and_then(|name| ValueType::from_name(name));
    let value_type = match (known, args.value_type) {
        (Some(known), Some(said)) if known != said => {
            return Err(Failure::new(format!("tag '{}' is of type {known}, not {said}", args.tag))
                .next("leave --type out, or write to a new tag: a tag's type never changes"));
        }
        (known, said) => known.or(said).unwrap_or_else(|| type_of(&args.value)),
    };
    let sample =
        Sample { tag: args.tag, time, quality: args.quality, value_type, text: args.value };
    match &door {
        Door::Local(local) => sample.write_local(local)?,
        Door::Remote(remote) => sample.write_remote(remote)?,
    }
    if known.is_none() {
        writeln!(std::io::stderr(), "defined tag {} of type {value_type}", sample.tag)?;
    }
    writeln!(
        std::io::stdout(),
        "{}  {}  {}  {}",
        sample.tag,
        args.time_zone.unwrap_or(Zone::UTC).show(time),
        sample.text,
        sample.quality.severity()
    )?;
    door.close()
}

/// One sample on its way.
#[derive(Debug)]
struct Sample {
    tag: String,
    time: i64,
    quality: Quality,
    value_type: ValueType,
    text: String,
}

impl Sample {
    /// The value, if the text is one of the tag's type; a state's label is left to the database.
    fn value(&self) -> Result<Option<Value>> {
        if self.text.trim().is_empty() && self.quality.is_bad() {
            return Ok(Some(cell::blank(self.value_type)));
        }
        match cell::fit(Cell::Text(&self.text), self.value_type, '.') {
            Fit::Value(value, _) => Ok(Some(value)),
            Fit::Refused(_) if self.value_type == ValueType::State => Ok(None),
            Fit::Refused(why) => {
                Err(Failure::new(format!("'{}' for {}: {why}", self.text, self.tag)))
            }
            Fit::NoValue(_) => Err(Failure::new(format!(
                "'{}' is no value for {} of type {}",
                self.text, self.tag, self.value_type
            ))
            .next("a sample without a usable value has --quality bad and an empty value ''")),
        }
    }

    fn write_local(&self, local: &Local) -> Result<()> {
        let value = self.value()?;
        let engine = local.engine();
        let definition = TagDefinition::new(self.tag.clone(), self.value_type);
        let tag = *engine
            .define(&[definition])?
            .first()
            .ok_or_else(|| Failure::new("the tag was not defined"))?;
        let value = if let Some(value) = value {
            value
        } else {
            let snapshot = engine.snapshot();
            let set = snapshot.registry().get(tag).map(|tag| tag.state_set().to_owned());
            let label = std::slice::from_ref(&self.text);
            let codes = engine.grow_states(&set.unwrap_or_default(), label)?;
            Value::State(codes.first().copied().unwrap_or_default())
        };
        let mut values = Values::empty(self.value_type);
        values.push(value);
        let column = TagColumn {
            tag,
            times: vec![self.time],
            values,
            qualities: Qualities::Uniform(self.quality),
        };
        let appended = engine.append(Batch { columns: vec![column], ..Batch::default() })?;
        match appended.rejects.first() {
            Some(reject) => Err(Failure::new(format!("refused: {}", reject.reason))),
            None => Ok(()),
        }
    }

    fn write_remote(&self, remote: &Remote) -> Result<()> {
        let mut column = v1::TagColumn {
            count: 1,
            base_ns: self.time,
            quality_codes: vec![self.quality.0],
            quality_counts: vec![1],
            ..v1::TagColumn::default()
        };
        match self.value()? {
            Some(Value::F64(value)) => column.f64 = vec![value],
            Some(Value::F32(value)) => column.f32 = vec![value],
            Some(Value::I64(value)) => column.i64 = vec![value],
            Some(Value::Bool(value)) => column.bools = vec![value],
            Some(Value::State(code)) => column.states = vec![u32::from(code)],
            Some(Value::Text(_)) | None => column.texts = vec![self.text.as_str().into()],
        }
        let column = v1::NamedColumn {
            name: self.tag.clone(),
            r#type: type_to_wire(self.value_type).into(),
            column: Some(column),
        };
        let request = v1::WriteRequest {
            key: String::new(),
            durability: v1::Durability::Synced.into(),
            batch: Some(v1::NamedBatch { columns: vec![column] }),
        };
        let answer = remote.block_on(async {
            let mut ingest = v1::ingest_client::IngestClient::new(remote.channel().await?);
            ingest.write(request).await.map_err(|status| remote.failure(&status))
        })?;
        match answer.into_inner().rejects.first() {
            Some(reject) => Err(Failure::new(format!("refused: {}", reject.detail))),
            None => Ok(()),
        }
    }
}

/// The type a new tag gets from its first value; a number is f64, since the next one may have a fraction.
fn type_of(value: &str) -> ValueType {
    match text::read(value, '.') {
        Said::Whole(_) | Said::Number(_) => ValueType::F64,
        Said::Truth(_) => ValueType::Bool,
        Said::Empty | Said::Marker | Said::NumberMarker | Said::Words => ValueType::Text,
    }
}

fn value_type(text: &str) -> Result<ValueType, String> {
    ValueType::from_name(text)
        .ok_or_else(|| "types are f64, f32, i64, bool, state, text".to_owned())
}

fn quality(words: &str) -> Result<Quality, String> {
    let is_known = ["good", "uncertain", "bad"].iter().any(|w| w.eq_ignore_ascii_case(words));
    let is_number = words.starts_with(|c: char| c.is_ascii_digit());
    if is_known || is_number && words.len() <= 10 {
        return Ok(text::quality(words, false));
    }
    Err("a quality is good, uncertain, bad, or a StatusCode such as 0x80740000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value_type: ValueType, text: &str, quality: Quality) -> Sample {
        Sample { tag: "t".into(), time: 0, quality, value_type, text: text.into() }
    }

    #[test]
    fn the_type_follows_from_the_first_value() {
        assert_eq!(type_of("5"), ValueType::F64);
        assert_eq!(type_of("true"), ValueType::Bool);
        assert_eq!(type_of("night"), ValueType::Text);
    }

    #[test]
    fn values_are_checked() {
        let value = |value_type, text| sample(value_type, text, Quality::GOOD).value();
        assert_eq!(value(ValueType::I64, "5").unwrap(), Some(Value::I64(5)));
        assert!(value(ValueType::I64, "5.5").is_err());
        assert!(value(ValueType::F64, "").unwrap_err().to_string().contains("--quality bad"));
        assert_eq!(value(ValueType::State, "RUN").unwrap(), None);
        assert_eq!(value(ValueType::State, "3").unwrap(), Some(Value::State(3)));
        let bad = sample(ValueType::I64, "", Quality::BAD);
        assert_eq!(bad.value().unwrap(), Some(Value::I64(0)));
    }

    #[test]
    fn qualities_are_words_or_codes() {
        assert_eq!(quality("Bad"), Ok(Quality::BAD));
        assert_eq!(quality("0x80740000"), Ok(Quality::BAD_TYPE_MISMATCH));
        assert!(quality("soso").is_err());
    }
}
