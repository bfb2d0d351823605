//! What an engine shows, read whole and held against the model.
//!
//! # Contract
//! Every reading also checks what a scan promises of its form: tags and times in order, one tag a batch, 1 to 8,192 rows.

use std::collections::BTreeMap;

use tagmill_storage::{
    Engine, Latest, Result, ScanBatch, ScanRequest, Snapshot, TagId, TagSelection, TimeRange,
    limits,
};

use crate::model::{Cell, Key, Model, Rows, difference, same};
use crate::workload::{GATEWAYS, STATE_SETS};

/// Everything of every tag, ascending.
pub fn everything() -> ScanRequest {
    ScanRequest::new(TagSelection::All, TimeRange::ALL)
}

/// The rows of a scan, in its order.
///
/// # Panics
/// If the scan breaks its form.
pub fn read(snapshot: &Snapshot, request: &ScanRequest) -> Result<Vec<(Key, Cell)>> {
    let mut found: Vec<(Key, Cell)> = Vec::new();
    for batch in snapshot.scan(request.clone()) {
        let batch = batch?;
        check_form(&batch, request);
        if let Some(((tag, time), _)) = found.last() {
            let next = batch.times[0];
            let in_order = if request.descending { next < *time } else { next > *time };
            assert!(batch.tag > *tag || (batch.tag == *tag && in_order), "batches out of order");
        }
        for (index, time) in batch.times.iter().enumerate() {
            let value = batch.values.get(index);
            let value = value.unwrap_or(tagmill_storage::Value::Bool(false));
            found.push(((batch.tag, *time), (value, batch.qualities.at(index))));
        }
    }
    Ok(found)
}

fn check_form(batch: &ScanBatch, request: &ScanRequest) {
    let rows = batch.times.len();
    assert!((1..=limits::CHUNK_SAMPLES_MAX).contains(&rows), "a batch of {rows} rows");
    let in_order = batch.times.is_sorted_by(|a, b| if request.descending { a > b } else { a < b });
    assert!(in_order, "times of {} out of order", batch.tag);
    assert!(batch.times.iter().all(|time| request.range.contains(*time)), "rows out of range");
    assert_eq!(batch.values.len(), if request.values { rows } else { 0 });
    assert!(batch.qualities.fits(rows), "qualities do not fit");
    if !request.qualities {
        assert_eq!(batch.qualities, tagmill_storage::Qualities::GOOD);
    }
}

/// All rows by key.
pub fn rows(snapshot: &Snapshot) -> Result<Rows> {
    Ok(read(snapshot, &everything())?.into_iter().collect())
}

/// What differs between a model and what a snapshot shows, whose `rows` were read before.
pub fn compare(model: &Model, snapshot: &Snapshot, rows: &Rows) -> Option<String> {
    difference(&model.rows, rows)
        .map(|difference| format!("scan: {difference}"))
        .or_else(|| compare_latest(model, snapshot))
        .or_else(|| compare_tags(model, snapshot))
        .or_else(|| compare_states(model, snapshot))
}

fn compare_latest(model: &Model, snapshot: &Snapshot) -> Option<String> {
    model.tags.keys().find_map(|tag| {
        let expected = model.latest(*tag);
        let found = snapshot.latest(*tag);
        let equal = match (&expected, &found) {
            (None, None) => true,
            (Some((time, cell)), Some(latest)) => {
                *time == latest.time_ns && same(cell, &cell_of(latest))
            }
            _ => false,
        };
        (!equal).then(|| format!("latest of {tag}: expected {expected:?}, found {found:?}"))
    })
}

fn cell_of(latest: &Latest) -> Cell {
    (latest.value.clone(), latest.quality)
}

/// What differs between the tags of a model and those a snapshot knows.
pub fn compare_tags(model: &Model, snapshot: &Snapshot) -> Option<String> {
    let registry = snapshot.registry();
    for (id, tag) in &model.tags {
        let definition = &tag.definition;
        let Some(found) = registry.get(*id) else {
            return Some(format!("tag {id} {:?} is not known", definition.name));
        };
        if found.name.as_ref() != definition.name
            || found.value_type != definition.value_type
            || (!found.is_deleted() && found.attributes != definition.attributes)
        {
            return Some(format!("tag {id}: expected {definition:?}, found {found:?}"));
        }
        if !definition.name.is_empty() && registry.find(&definition.name) != Some(*id) {
            return Some(format!("the name {:?} does not lead to {id}", definition.name));
        }
    }
    let listed: Vec<TagId> = registry.iter().map(|tag| tag.id).collect();
    let missing = model.live().find(|(id, _)| !listed.contains(id));
    let unnamed = listed.iter().find(|id| registry.get(**id).is_none_or(|tag| tag.is_deleted()));
    missing
        .map(|(id, _)| format!("tag {id} is not listed"))
        .or_else(|| unnamed.map(|id| format!("deleted tag {id} is listed")))
}

/// What differs between the state sets of a model and those a snapshot knows.
pub fn compare_states(model: &Model, snapshot: &Snapshot) -> Option<String> {
    for set in STATE_SETS {
        let expected = model.states.get(set).cloned().unwrap_or_default();
        let found = snapshot.registry().states(set);
        let found: BTreeMap<u16, String> = found
            .map(|set| set.iter().map(|(code, label)| (code, label.to_string())).collect())
            .unwrap_or_default();
        if found != expected {
            return Some(format!("state set {set}: expected {expected:?}, found {found:?}"));
        }
    }
    None
}

/// What differs between a model and what an engine knows of its gateways.
pub fn compare_gateways(model: &Model, engine: &Engine) -> Option<String> {
    let marks = engine.gateways();
    for gateway in GATEWAYS {
        let expected = model.marks.get(gateway).copied();
        let mark = marks.iter().find(|mark| mark.gateway.as_ref() == gateway);
        let found = mark.map(|mark| (mark.epoch, mark.seq));
        if found != expected {
            return Some(format!("mark of {gateway}: expected {expected:?}, found {found:?}"));
        }
        let expected = model.aliases.get(gateway).cloned().unwrap_or_default();
        let found: BTreeMap<u32, TagId> =
            engine.aliases(gateway).iter().map(|(alias, tag)| (*alias, *tag)).collect();
        if found != expected {
            return Some(format!("aliases of {gateway}: expected {expected:?}, found {found:?}"));
        }
    }
    None
}
