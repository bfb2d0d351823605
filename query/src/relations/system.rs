//! `system.segments`, `system.tiers`, `system.damage`, `system.retention`, `system.queries` and `system.settings`: what the database and the session say of themselves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, RecordBatchOptions, StringViewArray,
    TimestampNanosecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tagmill_storage::{
    DamagedPlace, RetentionStatus, SegmentKind, SegmentSummary, Snapshot, TagId, Tier, TierSummary,
};

use super::{Scope, UTC, memory_plan};
use crate::running::Statement;
use crate::settings::Setting;

/// Which relation of the schema `system`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SystemRelation {
    /// Files of sealed samples, as the statement's snapshot has them.
    Segments,
    /// What is stored of each tier in each of them.
    Tiers,
    /// Places of them that cannot be read.
    Damage,
    /// Retention classes, and how far their samples have ended.
    Retention,
    /// Statements that run.
    Queries,
    /// Settings of the session.
    Settings,
}

impl SystemRelation {
    /// Every one of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Segments, Self::Tiers, Self::Damage, Self::Retention, Self::Queries, Self::Settings];

    /// Whether it tells nobody what they must not know, whatever their scope.
    pub(crate) const fn is_for_all(self) -> bool {
        matches!(self, Self::Queries | Self::Settings)
    }

    /// Its name within the schema.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Tiers => "tiers",
            Self::Damage => "damage",
            Self::Retention => "retention",
            Self::Queries => "queries",
            Self::Settings => "settings",
        }
    }

    fn batch(self, scope: &Scope) -> Result<RecordBatch> {
        match self {
            Self::Segments => batch_of(segment_columns(&scope.snapshot.segments())),
            Self::Tiers => batch_of(tier_columns(&scope.snapshot.tiers())),
            Self::Damage => batch_of(damage_columns(&scope.snapshot, &scope.snapshot.damage())),
            Self::Retention => batch_of(retention_columns(&scope.snapshot.retention())),
            Self::Queries => batch_of(query_columns(&scope.running.seen_by(&scope.asker))),
            Self::Settings => settings_batch(&scope.settings.all()),
        }
    }
}

/// A relation of the schema `system`.
#[derive(Debug)]
pub(crate) struct System {
    relation: SystemRelation,
    scope: Scope,
    schema: SchemaRef,
}

impl System {
    /// The relation of one statement.
    pub(crate) fn new(relation: SystemRelation, scope: Scope) -> Self {
        let columns = match relation {
            SystemRelation::Segments => segment_columns(&[]),
            SystemRelation::Tiers => tier_columns(&[]),
            SystemRelation::Damage => damage_columns(&scope.snapshot, &[]),
            SystemRelation::Retention => retention_columns(&[]),
            SystemRelation::Queries => query_columns(&[]),
            SystemRelation::Settings => setting_columns(&[]),
        };
        Self { relation, scope, schema: schema_of(&columns) }
    }
}

#[async_trait]
impl TableProvider for System {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batch = self.relation.batch(&self.scope)?;
        let batch = match projection {
            Some(wanted) => batch.project(wanted)?,
            None => batch,
        };
        memory_plan(batch.schema(), vec![batch], limit)
    }
}

/// Settings as the rows of `system.settings` and of SHOW.
pub(crate) fn settings_batch(settings: &[Setting]) -> Result<RecordBatch> {
    batch_of(setting_columns(settings))
}

fn setting_columns(settings: &[Setting]) -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("name", text(settings.iter().map(|setting| setting.name))),
        ("value", text(settings.iter().map(|setting| setting.value.as_str()))),
        ("default", text(settings.iter().map(|setting| setting.default.as_str()))),
        ("description", text(settings.iter().map(|setting| setting.description))),
    ]
}

fn query_columns(statements: &[Statement]) -> Vec<(&'static str, ArrayRef)> {
    let started = TimestampNanosecondArray::from_iter_values(
        statements.iter().map(|statement| statement.started_ns),
    );
    let state = |statement: &Statement| if statement.is_running { "running" } else { "planning" };
    let elapsed = statements.iter().map(|statement| statement.elapsed_ms);
    vec![
        ("id", Arc::new(UInt64Array::from_iter_values(statements.iter().map(|one| one.id)))),
        ("principal", text(statements.iter().map(|statement| statement.asker.name.as_ref()))),
        ("door", text(statements.iter().map(|statement| statement.asker.door))),
        ("started", Arc::new(started.with_timezone(UTC))),
        ("elapsed_ms", Arc::new(Float64Array::from_iter_values(elapsed))),
        ("state", text(statements.iter().map(state))),
        ("rows", Arc::new(UInt64Array::from_iter_values(statements.iter().map(|one| one.rows)))),
        ("sql", text(statements.iter().map(|statement| statement.sql.as_ref()))),
    ]
}

fn segment_columns(segments: &[SegmentSummary]) -> Vec<(&'static str, ArrayRef)> {
    let number = |get: fn(&SegmentSummary) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(segments.iter().map(get)))
    };
    let time = |get: fn(&SegmentSummary) -> i64| -> ArrayRef {
        let times = TimestampNanosecondArray::from_iter_values(segments.iter().map(get));
        Arc::new(times.with_timezone(UTC))
    };
    let kind = |segment: &SegmentSummary| match segment.kind {
        SegmentKind::Base => "base",
        SegmentKind::Late => "late",
    };
    vec![
        ("segment_id", number(|segment| segment.id.0)),
        ("kind", text(segments.iter().map(kind))),
        ("partition", text(segments.iter().map(|segment| segment.partition.as_str()))),
        ("tier", text(segments.iter().map(|segment| segment.tier))),
        ("first_ts", time(|segment| segment.first_ns)),
        ("last_ts", time(|segment| segment.last_ns)),
        ("rows", number(|segment| segment.rows)),
        ("bytes", number(|segment| segment.bytes)),
        ("chunks", number(|segment| segment.chunks)),
        ("tags", number(|segment| segment.tags)),
        ("min_seq", number(|segment| segment.min_seq.0)),
        ("max_seq", number(|segment| segment.max_seq.0)),
        ("file", text(segments.iter().map(|segment| segment.file.as_str()))),
    ]
}

fn tier_columns(tiers: &[TierSummary]) -> Vec<(&'static str, ArrayRef)> {
    let number = |get: fn(&TierSummary) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(tiers.iter().map(get)))
    };
    let time = |get: fn(&TierSummary) -> i64| -> ArrayRef {
        let times = TimestampNanosecondArray::from_iter_values(tiers.iter().map(get));
        Arc::new(times.with_timezone(UTC))
    };
    let names: Vec<String> = tiers.iter().map(|summary| summary.tier.to_string()).collect();
    vec![
        ("segment_id", number(|summary| summary.segment.0)),
        ("tier", text(names.iter().map(String::as_str))),
        ("rollups", number(|summary| summary.rollups)),
        ("runs", number(|summary| summary.runs)),
        ("blocks", number(|summary| summary.blocks)),
        ("bytes", number(|summary| summary.bytes)),
        ("first_ts", time(|summary| summary.first_ns)),
        ("last_ts", time(|summary| summary.last_ns)),
    ]
}

fn damage_columns(snapshot: &Snapshot, places: &[DamagedPlace]) -> Vec<(&'static str, ArrayRef)> {
    // Which tags a lost file held only the file could say.
    let names = |get: fn(&DamagedPlace) -> TagId| -> ArrayRef {
        let name = |place: &DamagedPlace| {
            let tag = snapshot.registry().get(get(place)).filter(|_| !place.is_whole())?;
            Some(tag.name.to_string())
        };
        Arc::new(places.iter().map(name).collect::<StringViewArray>())
    };
    let time = |get: fn(&DamagedPlace) -> i64| -> ArrayRef {
        let times = TimestampNanosecondArray::from_iter_values(places.iter().map(get));
        Arc::new(times.with_timezone(UTC))
    };
    vec![
        ("segment_id", Arc::new(UInt64Array::from_iter_values(places.iter().map(|p| p.segment.0)))),
        ("file", text(places.iter().map(|place| place.file.as_str()))),
        ("first_tag", names(|place| place.first_tag)),
        ("last_tag", names(|place| place.last_tag)),
        ("first_ts", time(|place| place.range.start_ns)),
        ("last_ts", time(|place| place.range.end_ns.saturating_sub(1))),
        ("why", text(places.iter().map(|place| place.why.as_ref()))),
    ]
}

fn retention_columns(classes: &[RetentionStatus]) -> Vec<(&'static str, ArrayRef)> {
    let kept = |times: &mut dyn Iterator<Item = Option<Duration>>| -> ArrayRef {
        let words = times.map(|time| match time {
            None => "forever".to_owned(),
            Some(time) if time.as_secs() % 86_400 == 0 => format!("{}d", time.as_secs() / 86_400),
            Some(time) => format!("{}s", time.as_secs()),
        });
        Arc::new(StringViewArray::from_iter_values(words))
    };
    let from = |ends: &mut dyn Iterator<Item = i64>| -> ArrayRef {
        Arc::new(TimestampNanosecondArray::from_iter_values(ends).with_timezone(UTC))
    };
    let mut columns = vec![
        ("class", text(classes.iter().map(|class| class.class.as_ref()))),
        ("raw", kept(&mut classes.iter().map(|class| class.raw))),
        ("raw_from", from(&mut classes.iter().map(|class| class.horizon_ns))),
    ];
    let names = [
        ("rollup_1m", "rollup_1m_from"),
        ("rollup_15m", "rollup_15m_from"),
        ("rollup_1h", "rollup_1h_from"),
        ("rollup_1d", "rollup_1d_from"),
    ];
    for (tier, (name, from_name)) in Tier::ALL.into_iter().zip(names) {
        let at = tier.index();
        columns.push((name, kept(&mut classes.iter().map(|class| class.tiers[at]))));
        let ends = &mut classes.iter().map(|class| class.tier_horizons_ns[at]);
        columns.push((from_name, from(ends)));
    }
    let paused: Vec<bool> = classes.iter().map(|class| class.is_paused).collect();
    columns.push(("paused", Arc::new(BooleanArray::from(paused))));
    columns
}

fn text<'a>(texts: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringViewArray::from_iter_values(texts))
}

fn schema_of(columns: &[(&'static str, ArrayRef)]) -> SchemaRef {
    let field = |(name, array): &(&'static str, ArrayRef)| {
        let may_be_null = matches!(*name, "first_tag" | "last_tag");
        Field::new(*name, array.data_type().clone(), may_be_null)
    };
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn batch_of(columns: Vec<(&'static str, ArrayRef)>) -> Result<RecordBatch> {
    let schema = schema_of(&columns);
    let rows = columns.first().map_or(0, |(_, array)| array.len());
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
}
