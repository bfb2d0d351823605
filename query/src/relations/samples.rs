//! `samples`: every sample of every tag, one row each, sorted by (`tag_id`, `ts`).
//!
//! Planning decides what is read: filters over the tag become a list of tags, filters over `ts` a range, and the tags
//! are cut into partitions of about equal work. Running is [`crate::source`]'s.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tagmill_storage::{OnDamage, ScanRequest, Snapshot, TagId, TagSelection, TimeRange};

use super::Scope;
use super::rows::{RowColumn, schema_of};
use crate::beyond_raw::Bounds;
use crate::limits::PARTITION_ROWS_MIN;
use crate::pushdown;
use crate::selection::select;
use crate::source::SampleSource;

/// Groups of tags whose size is asked for when partitions are cut.
const CUT_GROUPS: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Samples {
    scope: Scope,
    schema: SchemaRef,
}

impl Samples {
    /// The relation of one statement.
    pub(crate) fn new(scope: Scope) -> Self {
        Self { scope, schema: schema_of(&RowColumn::SAMPLES) }
    }

    /// What the statement reads.
    pub(crate) const fn scope(&self) -> &Scope {
        &self.scope
    }
}

#[async_trait]
impl TableProvider for Samples {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters.iter().map(|filter| pushdown::support(filter)).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = RowColumn::SAMPLES;
        let columns = match projection {
            Some(wanted) => wanted.iter().filter_map(|&at| all.get(at).copied()).collect(),
            None => all.to_vec(),
        };
        let pushed = pushdown::push(filters);
        let snapshot = &self.scope.snapshot;
        let mut tags = select(snapshot.registry(), &pushed.tags, session, &self.scope.notices)?;
        if pushed.range.is_empty() {
            tags.clear();
        }
        let damage = self.scope.settings.damaged();
        if damage == OnDamage::Skip {
            announce(&self.scope, &TagSelection::Only(tags.as_slice().into()), pushed.range);
        }
        let rows = estimate(snapshot, &tags, pushed.range);
        let wanted =
            if rows < PARTITION_ROWS_MIN { 1 } else { session.config().target_partitions() };
        let parts = cut(snapshot, &tags, pushed.range, wanted.clamp(1, tags.len().max(1)));
        let source = SampleSource::new(snapshot.clone(), columns, parts, pushed.range, rows);
        let source = source.with_damage(damage).with_tiers(self.scope.settings.tiers());
        let source = source.with_bounds(Bounds::of(&self.scope));
        let plan = DataSourceExec::from_data_source(source);
        Ok(match limit {
            Some(_) => plan.with_fetch(limit).unwrap_or(plan),
            None => plan,
        })
    }
}

/// Says which places are left out.
pub(crate) fn announce(scope: &Scope, tags: &TagSelection, range: TimeRange) {
    for place in scope.snapshot.damage_in(tags, range) {
        if !scope.is_whole {
            // Neither file nor other tags are this reader's business.
            let mut own = scope.snapshot.registry().iter().map(|tag| tag.id);
            if own.any(|tag| (place.first_tag..=place.last_tag).contains(&tag)) {
                scope.notices.add(format!("left out: damaged samples of {}", place.range));
            }
            continue;
        }
        let name = |tag| {
            let known = scope.snapshot.registry().get(tag);
            known.map_or_else(|| tag.to_string(), |tag| format!("'{}'", tag.name))
        };
        let whose = if place.is_whole() {
            "every tag".to_owned()
        } else if place.first_tag == place.last_tag {
            format!("tag {}", name(place.first_tag))
        } else {
            format!("tags {} to {}", name(place.first_tag), name(place.last_tag))
        };
        let (range, file, why) = (place.range, &place.file, &place.why);
        scope.notices.add(format!("left out: {whose}, {range}: {file} is damaged: {why}"));
    }
}

/// At most so many samples have these tags in this range.
fn estimate(snapshot: &Snapshot, tags: &[TagId], range: TimeRange) -> u64 {
    if tags.is_empty() {
        return 0;
    }
    snapshot.estimate_rows(&ScanRequest {
        tags: TagSelection::Only(tags.into()),
        range,
        descending: false,
        limit: None,
        values: false,
        qualities: false,
        damage: OnDamage::Skip,
    })
}

/// Cuts tags into `count` runs of about equal rows.
fn cut(snapshot: &Snapshot, tags: &[TagId], range: TimeRange, count: usize) -> Vec<Arc<[TagId]>> {
    if count == 1 {
        return vec![Arc::from(tags)];
    }
    let groups: Vec<&[TagId]> = tags.chunks(tags.len().div_ceil(CUT_GROUPS.max(count))).collect();
    let sizes: Vec<u64> =
        groups.iter().map(|group| estimate(snapshot, group, range).max(1)).collect();
    let total: u64 = sizes.iter().sum();
    let share = total.div_ceil(count as u64).max(1);
    let mut parts: Vec<Vec<TagId>> = vec![Vec::new()];
    let mut before = 0;
    for (group, size) in groups.iter().zip(&sizes) {
        let full = before / share + 1 > parts.len() as u64;
        if full && parts.last().is_some_and(|part| !part.is_empty()) {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.extend_from_slice(group);
        }
        before += size;
    }
    parts.into_iter().map(Arc::from).collect()
}
