//! Attributes of tags as people write them: `unit=bar` on the command line, columns of a CSV file, fields of JSON.
//!
//! Contract: an unknown word on the command line is an error; in a file it is skipped and named, since such files
//! come with statistics and comments of their own. A file's key names a tag exactly, or the last levels of its name.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use serde_json::Value as Json;
use tagmill_storage::{TagAttributes, TagDefinition, ValueType};

use super::failure::{Failure, Result};
use super::times::width_ns;

/// Words that name an attribute.
pub const FIELDS: [&str; 12] = [
    "description",
    "unit",
    "stepped",
    "range_low",
    "range_high",
    "max_gap",
    "uncertain_usable",
    "rollover",
    "jitter",
    "reset_value",
    "retention",
    "state_set",
];

/// What a file says about one tag.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Its type, if the file names one of ours.
    pub value_type: Option<ValueType>,
    /// Its attributes.
    pub attributes: TagAttributes,
    /// Codes and labels of its state set.
    pub states: Vec<(u16, String)>,
}

/// What a file says about tags.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TagFile {
    /// By name or by the last levels of names.
    pub entries: BTreeMap<String, Entry>,
    /// Fields that were skipped.
    pub skipped: BTreeSet<String>,
}

impl TagFile {
    /// Reads a `.json` or `.csv` file.
    ///
    /// # Errors
    /// If it cannot be read, names no tags, or a field we know has a value we cannot take.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("read {}: {error}", path.display())))?;
        let is_json = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json"));
        let file = if is_json { Self::of_json(&text) } else { Self::of_csv(&text) };
        let file = file.map_err(|failure| failure.within(path.display()))?;
        if file.entries.is_empty() {
            return Err(Failure::new(format!("{} names no tags", path.display())).next(
                "a CSV file has a column 'tag'; JSON is {\"tags\": {\"NAME\": {\"unit\": ..}}} or a list of objects with 'tag'",
            ));
        }
        Ok(file)
    }

    fn of_json(text: &str) -> Result<Self> {
        let json: Json = serde_json::from_str(text).map_err(|e| Failure::new(e.to_string()))?;
        let mut file = Self::default();
        match json.get("tags").unwrap_or(&json) {
            Json::Object(tags) => {
                for (name, fields) in tags {
                    if let Json::Object(fields) = fields {
                        file.add_json(name, fields)?;
                    }
                }
            }
            Json::Array(tags) => {
                for fields in tags.iter().filter_map(Json::as_object) {
                    let name = fields.get("tag").or_else(|| fields.get("name"));
                    let name = name
                        .and_then(Json::as_str)
                        .ok_or_else(|| Failure::new("an object of the list has no 'tag'"))?;
                    file.add_json(name, fields)?;
                }
            }
            _ => {}
        }
        Ok(file)
    }

    fn add_json(&mut self, name: &str, fields: &serde_json::Map<String, Json>) -> Result<()> {
        let mut entry = Entry::default();
        for (field, value) in fields {
            let text = match value {
                Json::Null => continue,
                Json::String(text) => text.clone(),
                Json::Object(labels) if field == "labels" => {
                    for (key, label) in labels {
                        let label = label.as_str().map_or_else(|| label.to_string(), str::to_owned);
                        entry.attributes.labels.insert(key.as_str(), label);
                    }
                    continue;
                }
                Json::Object(states) if field == "states" => {
                    for (code, label) in states {
                        let pair = code.parse().ok().zip(label.as_str().map(str::to_owned));
                        entry.states.push(pair.ok_or_else(|| {
                            Failure::new(format!(
                                "tag '{name}': states are {{\"CODE\": \"LABEL\"}}"
                            ))
                        })?);
                    }
                    continue;
                }
                other => other.to_string(),
            };
            self.add_field(name, &mut entry, field, &text)?;
        }
        self.entries.insert(name.trim().to_owned(), entry);
        Ok(())
    }

    fn of_csv(text: &str) -> Result<Self> {
        let failed = |error: csv::Error| Failure::new(error.to_string());
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
        let header = reader.headers().map_err(failed)?.clone();
        let is_name = |field: &str| matches!(field.trim(), "tag" | "name");
        let Some(name_at) = header.iter().position(is_name) else {
            return Err(Failure::new("no column 'tag'"));
        };
        let mut file = Self::default();
        for record in reader.records() {
            let record = record.map_err(failed)?;
            let Some(name) = record.get(name_at).map(str::trim).filter(|name| !name.is_empty())
            else {
                continue;
            };
            let mut entry = Entry::default();
            for (at, (field, text)) in header.iter().zip(&record).enumerate() {
                if at != name_at && !text.trim().is_empty() {
                    file.add_field(name, &mut entry, field.trim(), text.trim())?;
                }
            }
            file.entries.insert(name.to_owned(), entry);
        }
        Ok(file)
    }

    fn add_field(&mut self, name: &str, entry: &mut Entry, field: &str, text: &str) -> Result<()> {
        if field == "type" {
            entry.value_type = ValueType::from_name(text);
            if entry.value_type.is_none() {
                self.skipped.insert(format!("type {text}"));
            }
            return Ok(());
        }
        if matches!(field, "tag" | "name") {
            return Ok(());
        }
        match set(&mut entry.attributes, field, text) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.skipped.insert(field.to_owned());
                Ok(())
            }
            Err(why) => Err(Failure::new(format!("tag '{name}': {why}"))),
        }
    }

    /// The same of tags one level deeper: `prefix`, if there is one, comes before every name.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        if prefix.is_empty() {
            return self;
        }
        let deeper = |(name, entry)| (format!("{prefix}/{name}"), entry);
        Self { entries: self.entries.into_iter().map(deeper).collect(), ..self }
    }

    /// Tags the file gives a type: what defines them all.
    pub fn definitions(&self) -> Vec<TagDefinition> {
        let typed = self.entries.iter().filter_map(|(name, entry)| {
            let attributes = entry.attributes.clone();
            Some(TagDefinition { name: name.clone(), value_type: entry.value_type?, attributes })
        });
        typed.collect()
    }

    /// What the file says about a tag: its whole name first, then ever fewer of its last levels.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.find_named(name).map(|(_, entry)| entry)
    }

    /// As [`TagFile::find`], with the name under which the file has it.
    pub fn find_named<'a>(&self, name: &'a str) -> Option<(&'a str, &Entry)> {
        let mut rest = name;
        loop {
            if let Some(entry) = self.entries.get(rest) {
                return Some((rest, entry));
            }
            rest = rest.split_once('/')?.1;
        }
    }

    /// The type the file gives a tag.
    pub fn type_of(&self, name: &str) -> Option<ValueType> {
        self.find(name)?.value_type
    }

    /// The attributes the file gives a tag.
    pub fn attributes_of(&self, name: &str) -> TagAttributes {
        self.find(name).map(|entry| entry.attributes.clone()).unwrap_or_default()
    }
}

/// Sets one attribute from its text; `label:KEY` and `labels` set labels. False if the word names no attribute.
///
/// # Errors
/// Why the text is no value of that attribute.
pub fn set(attributes: &mut TagAttributes, field: &str, text: &str) -> Result<bool, String> {
    let words = || Some(text.to_owned());
    match field {
        "description" => attributes.description = words(),
        "unit" => attributes.unit = words(),
        "retention" => attributes.retention = words(),
        "state_set" => attributes.state_set = words(),
        "stepped" => attributes.stepped = Some(truth(field, text)?),
        "uncertain_usable" => attributes.uncertain_usable = Some(truth(field, text)?),
        "range_low" => attributes.range_low = Some(number(field, text)?),
        "range_high" => attributes.range_high = Some(number(field, text)?),
        "rollover" => attributes.rollover = Some(number(field, text)?),
        "jitter" => attributes.jitter = Some(number(field, text)?),
        "reset_value" => attributes.reset_value = Some(number(field, text)?),
        "max_gap" => {
            let width = width_ns(text).ok_or_else(|| {
                format!("max_gap is a width such as 90s, 15m or 2h, not '{text}'")
            })?;
            attributes.max_gap_ns = Some(width);
        }
        "max_gap_ns" => {
            let width =
                text.parse().map_err(|_| format!("max_gap_ns is no whole number: '{text}'"))?;
            attributes.max_gap_ns = Some(width);
        }
        "labels" => {
            for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
                let (key, label) = pair.split_once('=').ok_or_else(|| {
                    format!("labels are written key=value;key=value, not '{text}'")
                })?;
                attributes.labels.insert(key.trim(), label.trim());
            }
        }
        _ => match field.strip_prefix("label:").or_else(|| field.strip_prefix("label.")) {
            Some(key) if !key.is_empty() => {
                attributes.labels.insert(key, text);
            }
            _ => return Ok(false),
        },
    }
    Ok(true)
}

/// Unsets one attribute. False if the word names none.
pub fn clear(attributes: &mut TagAttributes, field: &str) -> bool {
    match field {
        "description" => attributes.description = None,
        "unit" => attributes.unit = None,
        "retention" => attributes.retention = None,
        "state_set" => attributes.state_set = None,
        "stepped" => attributes.stepped = None,
        "uncertain_usable" => attributes.uncertain_usable = None,
        "range_low" => attributes.range_low = None,
        "range_high" => attributes.range_high = None,
        "rollover" => attributes.rollover = None,
        "jitter" => attributes.jitter = None,
        "reset_value" => attributes.reset_value = None,
        "max_gap" | "max_gap_ns" => attributes.max_gap_ns = None,
        "labels" => attributes.labels.clear(),
        _ => match field.strip_prefix("label:").or_else(|| field.strip_prefix("label.")) {
            Some(key) => {
                attributes.labels.remove(key);
            }
            None => return false,
        },
    }
    true
}

/// The attributes that are said, as `field` and text, in the words of [`set`].
pub fn said(attributes: &TagAttributes) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut add = |field: &str, text: Option<String>| {
        out.extend(text.map(|text| (field.to_owned(), text)));
    };
    let shown = |number: Option<f64>| number.map(|number| number.to_string());
    add("description", attributes.description.clone());
    add("unit", attributes.unit.clone());
    add("stepped", attributes.stepped.map(|truth| truth.to_string()));
    add("range_low", shown(attributes.range_low));
    add("range_high", shown(attributes.range_high));
    add("max_gap", attributes.max_gap_ns.map(|width| format!("{width}ns")));
    add("uncertain_usable", attributes.uncertain_usable.map(|truth| truth.to_string()));
    add("rollover", shown(attributes.rollover));
    add("jitter", shown(attributes.jitter));
    add("reset_value", shown(attributes.reset_value));
    add("retention", attributes.retention.clone());
    add("state_set", attributes.state_set.clone());
    for (key, label) in attributes.labels.iter() {
        add(&format!("label:{key}"), Some(label.to_string()));
    }
    out
}

/// What to say when a word names no attribute.
pub fn unknown(field: &str) -> Failure {
    Failure::new(format!("'{field}' is no attribute of a tag"))
        .next(format!("attributes are {}, label:KEY", FIELDS.join(", ")))
}

/// Several `KEY=VALUE` pairs from the command line.
///
/// # Errors
/// If one is not of that form, or not an attribute.
pub fn of_pairs(pairs: &[String]) -> Result<TagAttributes> {
    let mut attributes = TagAttributes::default();
    let mut seen = HashSet::new();
    for pair in pairs {
        let (field, text) = pair
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("'{pair}' is not of the form attribute=value")))?;
        if !seen.insert(field) {
            return Err(Failure::new(format!("'{field}' is said twice")));
        }
        if !set(&mut attributes, field.trim(), text.trim()).map_err(Failure::new)? {
            return Err(unknown(field));
        }
    }
    Ok(attributes)
}

fn truth(field: &str, text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("{field} is true or false, not '{text}'")),
    }
}

fn number(field: &str, text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{field} is no number: '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_json_with_statistics_around() {
        let text = r#"{"dataset": "x", "tags": {"P-PDG": {"unit": "Pa", "description": "Pressure",
            "type": "double", "distinct": 7, "unit2": null, "labels": {"area": "U1"},
            "states": {"0": "STOP", "7": "RUN"}}}}"#;
        let file = TagFile::of_json(text).unwrap();
        let entry = file.find("WELL-1/P-PDG").unwrap();
        assert_eq!(entry.attributes.unit.as_deref(), Some("Pa"));
        assert_eq!(&entry.attributes.labels["area"], "U1");
        assert_eq!(entry.value_type, None);
        assert_eq!(entry.states, [(0, "STOP".to_owned()), (7, "RUN".to_owned())]);
        assert!(TagFile::of_json(r#"{"tags": {"M": {"states": {"on": "RUN"}}}}"#).is_err());
        assert_eq!(file.clone().under("A").find("A/P-PDG"), Some(entry));
        assert_eq!(file.skipped, BTreeSet::from(["distinct".into(), "type double".into()]));
        assert_eq!(file.find("WELL-1/T"), None);
    }

    #[test]
    fn reads_csv_and_lists() {
        let csv = "tag,unit,type,label:area,max_gap\na/b,bar,f64,U1,90s\na/c,,,,\n";
        let file = TagFile::of_csv(csv).unwrap();
        assert_eq!(file.type_of("a/b"), Some(ValueType::F64));
        assert_eq!(file.attributes_of("a/b").max_gap_ns, Some(90_000_000_000));
        assert_eq!(file.attributes_of("a/c"), TagAttributes::default());
        let list = r#"[{"tag": "t", "stepped": true, "range_high": 5.5}]"#;
        let entry = TagFile::of_json(list).unwrap().entries["t"].clone();
        assert_eq!(
            (entry.attributes.stepped, entry.attributes.range_high),
            (Some(true), Some(5.5))
        );
        assert!(TagFile::of_csv("unit\nbar\n").is_err());
        assert!(TagFile::of_csv("tag,stepped\na,maybe\n").unwrap_err().to_string().contains("'a'"));
    }

    #[test]
    fn pairs_round_trip() {
        let pairs =
            ["unit=bar", "stepped=true", "range_low=-1.5", "label:area=U1", "max_gap=5000000000ns"];
        let pairs: Vec<String> = pairs.map(str::to_owned).to_vec();
        let attributes = of_pairs(&pairs).unwrap();
        let mut back: Vec<String> =
            said(&attributes).into_iter().map(|(field, text)| format!("{field}={text}")).collect();
        let mut want = pairs;
        back.sort();
        want.sort();
        assert_eq!(back, want);
        assert!(of_pairs(&["colour=red".to_owned()]).is_err());
        let mut cleared = attributes;
        for field in ["unit", "stepped", "range_low", "max_gap", "label:area"] {
            assert!(clear(&mut cleared, field));
        }
        assert_eq!(cleared, TagAttributes::default());
    }
}
