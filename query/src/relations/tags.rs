//! `tags`: what is known of every tag; joins with `samples` and `latest` on `tag_id`.
//!
//! `labels` is a JSON object of text, `states` a JSON array of {"code", "label"} of a state tag's set. `stepped` and
//! `uncertain_usable` show what holds, defaults included; everything else is null until somebody has said it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, DurationNanosecondArray, Float64Array, RecordBatchOptions,
    StringViewArray, TimestampNanosecondArray, UInt32Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use serde_json::json;
use tagmill_storage::{Registry, Tag, TagAttributes, TagId, ValueType};

use super::{Scope, UTC, memory_plan, utc_time};
use crate::limits::BATCH_ROWS;
use crate::pushdown;
use crate::selection::select;

/// See the module.
#[derive(Debug)]
pub(crate) struct Tags {
    scope: Scope,
    schema: SchemaRef,
}

impl Tags {
    /// The relation of one statement.
    pub(crate) fn new(scope: Scope) -> Self {
        let text = |name, nullable| Field::new(name, DataType::Utf8View, nullable);
        let number = |name| Field::new(name, DataType::Float64, true);
        let flag = |name| Field::new(name, DataType::Boolean, false);
        let schema = Schema::new(vec![
            Field::new("tag_id", DataType::UInt32, false),
            text("tag", false),
            text("description", true),
            text("unit", true),
            text("type", false),
            flag("stepped"),
            number("range_low"),
            number("range_high"),
            Field::new("max_gap", DataType::Duration(TimeUnit::Nanosecond), true),
            flag("uncertain_usable"),
            number("rollover"),
            text("labels", false),
            text("states", true),
            text("retention", true),
            Field::new("created", utc_time(), false),
        ]);
        Self { scope, schema: Arc::new(schema) }
    }
}

#[async_trait]
impl TableProvider for Tags {
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
        Ok(filters.iter().map(|filter| pushdown::support_of_tags(filter)).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(wanted) => Arc::new(self.schema.project(wanted)?),
            None => Arc::clone(&self.schema),
        };
        let registry = self.scope.snapshot.registry();
        let pushed = pushdown::push(filters);
        let mut ids = select(registry, &pushed.tags, session, &self.scope.notices)?;
        ids.truncate(limit.unwrap_or(usize::MAX));
        let mut batches = Vec::new();
        for part in ids.chunks(BATCH_ROWS) {
            batches.push(batch_of(registry, part, &schema)?);
        }
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(Arc::clone(&schema)));
        }
        memory_plan(schema, batches, limit)
    }
}

fn batch_of(registry: &Registry, ids: &[TagId], schema: &SchemaRef) -> Result<RecordBatch> {
    let tags: Vec<&Tag> =
        ids.iter().filter_map(|&id| registry.get(id)).map(AsRef::as_ref).collect();
    let columns = schema.fields().iter().map(|field| column(registry, &tags, field.name()));
    let options = RecordBatchOptions::new().with_row_count(Some(tags.len()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options)?)
}

fn column(registry: &Registry, tags: &[&Tag], name: &str) -> ArrayRef {
    let number = |get: fn(&TagAttributes) -> Option<f64>| -> ArrayRef {
        Arc::new(tags.iter().map(|tag| get(&tag.attributes)).collect::<Float64Array>())
    };
    let text = |get: fn(&TagAttributes) -> Option<&str>| -> ArrayRef {
        Arc::new(tags.iter().map(|tag| get(&tag.attributes)).collect::<StringViewArray>())
    };
    let flag = |get: fn(&Tag) -> bool| -> ArrayRef {
        Arc::new(tags.iter().map(|tag| Some(get(tag))).collect::<BooleanArray>())
    };
    match name {
        "tag_id" => Arc::new(UInt32Array::from_iter_values(tags.iter().map(|tag| tag.id.0))),
        "tag" => {
            Arc::new(StringViewArray::from_iter_values(tags.iter().map(|tag| tag.name.as_ref())))
        }
        "description" => text(|known| known.description.as_deref()),
        "unit" => text(|known| known.unit.as_deref()),
        "type" => {
            let names = tags.iter().map(|tag| tag.value_type.name());
            Arc::new(StringViewArray::from_iter_values(names))
        }
        "stepped" => flag(Tag::is_stepped),
        "range_low" => number(|known| known.range_low),
        "range_high" => number(|known| known.range_high),
        "max_gap" => Arc::new(
            tags.iter().map(|tag| tag.attributes.max_gap_ns).collect::<DurationNanosecondArray>(),
        ),
        "uncertain_usable" => flag(|tag| tag.attributes.uncertain_usable.unwrap_or(false)),
        "rollover" => number(|known| known.rollover),
        "labels" => {
            let labels = tags.iter().map(|tag| {
                let labels = tag.attributes.labels.iter();
                let pairs = labels.map(|(key, label)| (key.to_string(), json!(label.as_ref())));
                serde_json::Value::Object(pairs.collect()).to_string()
            });
            Arc::new(StringViewArray::from_iter_values(labels))
        }
        "states" => {
            Arc::new(tags.iter().map(|tag| states_of(registry, tag)).collect::<StringViewArray>())
        }
        "retention" => text(|known| known.retention.as_deref()),
        _ => {
            let created = tags.iter().map(|tag| tag.created_ns);
            Arc::new(TimestampNanosecondArray::from_iter_values(created).with_timezone(UTC))
        }
    }
}

/// The states of a state tag as JSON, in the order of their codes.
fn states_of(registry: &Registry, tag: &Tag) -> Option<String> {
    if tag.value_type != ValueType::State {
        return None;
    }
    let mut states: Vec<_> = registry.states(tag.state_set())?.iter().collect();
    states.sort_by_key(|&(code, _)| code);
    let states = states.iter().map(|(code, label)| json!({"code": code, "label": label.as_ref()}));
    Some(states.collect::<serde_json::Value>().to_string())
}
