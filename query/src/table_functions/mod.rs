//! The table functions: relations that are computed from samples of some tags, by what a historian means.
//!
//! # Contract
//! * Arguments may be named, parameters and `now()`. They are constant once the plan is made.
//! * A statement reads one snapshot, and has one `now()`, in all its calls.
//! * Rows come from a blocking thread as they are asked for; memory does not grow with the range of time.
//!
//! # Reading order
//! [`arguments`] (names and values), [`selection`] (which tags), [`planner`] (from text to [`node`] to what runs),
//! [`job`] (how it runs). Then what is made of pieces, arithmetic alone: [`mean`], [`condition`], [`stretches`]; and [`readings`], which reads samples, [`instants`] for many instants. Then the functions:
//! [`history`], [`grid`], [`windows`], [`m4`], [`lttb`], [`asof_join`].

mod arguments;
mod asof_join;
mod condition;
mod grid;
mod history;
pub(crate) mod instants;
mod job;
mod lttb;
mod m4;
mod mean;
mod node;
pub(crate) mod planner;
pub(crate) mod readings;
mod selection;
mod stretches;
mod windows;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::SessionStateBuilder;
use tagmill_storage::{
    OnDamage, Qualities, ScanBatch, Snapshot, TagId, TagSelection, TimeRange, ValueType, Values,
};

use crate::relations::Scope;
use crate::relations::rows::RowBuilder;
use crate::relations::samples::announce;
use planner::{Call, CallPlanner};
use readings::{Reader, Reading};

/// Makes the table functions known to a statement.
pub(crate) fn register(state: SessionStateBuilder, scope: &Scope) -> SessionStateBuilder {
    state.with_relation_planners(vec![Arc::new(CallPlanner(scope.clone()))])
}

/// The tags of a call that exist, in the order they are asked for.
fn known_tags(call: &Call) -> Result<Vec<TagId>> {
    let registry = call.scope.snapshot.registry();
    let arguments = &call.arguments;
    let selected = selection::select(registry, &arguments.tags()?, &call.scope.notices);
    let selected = selected.map_err(|why| arguments.wrong(arguments::TAGS, why))?;
    Ok(selected.into_iter().filter_map(|tag| tag.id).collect())
}

/// The tags of a call that have a curve, ascending. Texts have none, and are named in a notice.
fn chart_tags(call: &Call) -> Result<Vec<TagId>> {
    let registry = call.scope.snapshot.registry();
    let mut tags = known_tags(call)?;
    tags.retain(|id| {
        let Some(tag) = registry.get(*id) else { return false };
        if tag.value_type == ValueType::Text {
            call.scope.notices.add(format!("'{}' is text, which has no curve", tag.name));
        }
        tag.value_type != ValueType::Text
    });
    tags.sort_unstable();
    Ok(tags)
}

/// Gives samples of one tag to a builder of rows.
fn send_readings(snapshot: &Snapshot, tag: TagId, all: Vec<Reading>, rows: &mut RowBuilder) {
    let Some(known) = snapshot.registry().get(tag).filter(|_| !all.is_empty()) else { return };
    let mut values = Values::empty(known.value_type);
    let times = all.iter().map(|reading| reading.time_ns).collect();
    let qualities = Qualities::Each(all.iter().map(|reading| reading.quality).collect());
    for reading in all {
        values.push(reading.value);
    }
    rows.push(ScanBatch { tag, times, values, qualities });
}

impl Call<'_> {
    /// Reads for this call. What the disk has lost is named first, wherever it lies: values come from far away.
    fn reader(&self, tags: &[TagId]) -> Reader {
        let damage = self.scope.settings.damaged();
        if damage == OnDamage::Skip {
            announce(self.scope, &TagSelection::Only(tags.into()), TimeRange::ALL);
        }
        Reader { snapshot: self.scope.snapshot.clone(), damage }
    }
}
