//! `system.segments` and `system.settings`: what the database and the session say of themselves.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, RecordBatchOptions, StringViewArray, TimestampNanosecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tagmill_storage::{SegmentKind, SegmentSummary};

use super::{Scope, UTC, memory_plan};
use crate::settings::Setting;

/// Which relation of the schema `system`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SystemRelation {
    /// Files of sealed samples, as the statement's snapshot has them.
    Segments,
    /// Settings of the session.
    Settings,
}

impl SystemRelation {
    /// Every one of them.
    pub(crate) const ALL: [Self; 2] = [Self::Segments, Self::Settings];

    /// Its name within the schema.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Settings => "settings",
        }
    }

    fn batch(self, scope: &Scope) -> Result<RecordBatch> {
        match self {
            Self::Segments => batch_of(segment_columns(&scope.snapshot.segments())),
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

fn text<'a>(texts: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringViewArray::from_iter_values(texts))
}

fn schema_of(columns: &[(&'static str, ArrayRef)]) -> SchemaRef {
    let field = |(name, array): &(&'static str, ArrayRef)| {
        Field::new(*name, array.data_type().clone(), false)
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
