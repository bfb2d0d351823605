//! What is known of the exported tags, as `_tags.json`: the form that `tagmill tags import` and `import --tags` read.
//!
//! Contract: type, attributes and the labels of states come back exactly. A folder that is exported into day by day
//! keeps the tags of earlier exports.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use tagmill_storage::{Registry, StateSet, Tag};

use super::folder::{Folder, TAGS_FILE};
use crate::cli::attributes::TagFile;
use crate::cli::failure::{Failure, Result};

/// Field that tells our own file from another one of this name.
const MARK: &str = "tagmill_export";

/// Writes what is known of `tags` beside their samples.
///
/// # Errors
/// If the folder holds a file of this name that is not ours and may not be replaced, or the disk refuses.
pub fn write(folder: &Folder, registry: &Registry, tags: &[Arc<Tag>], force: bool) -> Result<()> {
    let mut all = earlier(folder, force)?;
    for tag in tags {
        all.insert(tag.name.to_string(), describe(tag, registry.states(tag.state_set())));
    }
    let text = format!("{:#}\n", json!({ MARK: 1, "tags": all }));
    folder.write(TAGS_FILE, text.as_bytes())
}

/// The tags an earlier export into this folder has described.
fn earlier(folder: &Folder, force: bool) -> Result<Map<String, Json>> {
    let path = folder.path().join(TAGS_FILE);
    let Ok(bytes) = std::fs::read(&path) else {
        return Ok(Map::new());
    };
    let json = serde_json::from_slice::<Json>(&bytes).unwrap_or_default();
    match json {
        Json::Object(mut fields) if fields.contains_key(MARK) => match fields.remove("tags") {
            Some(Json::Object(tags)) => Ok(tags),
            _ => Ok(Map::new()),
        },
        _ if force => Ok(Map::new()),
        _ => Err(Failure::new(format!("{} exists and is no export's", path.display()))
            .next("name another folder, or replace it with --overwrite")),
    }
}

/// Reads what an export has written beside its samples; `None` if there is no such file, or one that is no export's.
///
/// # Errors
/// If the file is ours, but cannot be understood.
pub fn read(folder: &Path) -> Result<Option<TagFile>> {
    let path = folder.join(TAGS_FILE);
    let Ok(bytes) = std::fs::read(&path) else {
        return Ok(None);
    };
    let is_ours = serde_json::from_slice::<Json>(&bytes).is_ok_and(|json| json.get(MARK).is_some());
    if is_ours { TagFile::read(&path).map(Some) } else { Ok(None) }
}

fn describe(tag: &Tag, states: Option<&StateSet>) -> Json {
    let known = &tag.attributes;
    let mut fields = Map::new();
    let mut add = |field: &str, value: Option<Json>| {
        if let Some(value) = value {
            fields.insert(field.to_owned(), value);
        }
    };
    let text = |text: &Option<String>| text.clone().map(Json::from);
    add("type", Some(tag.value_type.name().into()));
    add("description", text(&known.description));
    add("unit", text(&known.unit));
    add("stepped", known.stepped.map(Json::from));
    add("range_low", known.range_low.map(number));
    add("range_high", known.range_high.map(number));
    add("max_gap_ns", known.max_gap_ns.map(Json::from));
    add("uncertain_usable", known.uncertain_usable.map(Json::from));
    add("rollover", known.rollover.map(number));
    add("jitter", known.jitter.map(number));
    add("reset_value", known.reset_value.map(number));
    add("retention", text(&known.retention));
    add("state_set", text(&known.state_set));
    add(
        "labels",
        (!known.labels.is_empty()).then(|| {
            let pairs =
                known.labels.iter().map(|(key, label)| (key.to_string(), json!(label.as_ref())));
            Json::Object(pairs.collect())
        }),
    );
    let states = states.map(|states| {
        let labels = states.iter().map(|(code, label)| (code.to_string(), label.as_ref().into()));
        labels.collect::<Map<String, Json>>()
    });
    add("states", states.filter(|states| !states.is_empty()).map(Json::Object));
    Json::Object(fields)
}

/// A number that comes back to the bit: as a text where reading it as JSON would round it.
fn number(value: f64) -> Json {
    let text = json!(value).to_string();
    let back = serde_json::from_str::<f64>(&text);
    let is_exact = back.is_ok_and(|back| back.to_bits() == value.to_bits());
    if is_exact { json!(value) } else { value.to_string().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_to_the_bit() {
        let mut x = 0x3FB9_9999_9999_999A_u64;
        for _ in 0..10_000 {
            x = x.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            for value in [f64::from_bits(x), -0.0, 5e-324, 1e300] {
                if value.is_finite() {
                    let json: Json = serde_json::from_str(&number(value).to_string()).unwrap();
                    let text = json.as_str().map_or_else(|| json.to_string(), str::to_owned);
                    assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
                }
            }
        }
    }
}
