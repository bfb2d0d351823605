//! Which tags a statement means: filters over the tag are evaluated against the registry of its snapshot.
//!
//! Every filter is evaluated as it stands on a small batch of (`tag_id`, `tag`), so that whatever DataFusion can compute is
//! exact here too. Where the filters name tags outright, only those are looked at. A name that no tag has gives a
//! notice with near ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{
    ArrayRef, AsArray, BooleanArray, RecordBatch, StringViewArray, UInt32Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{Result, ScalarValue, ToDFSchema};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{Guarantee, LiteralGuarantee};
use tagmill_storage::{Registry, Tag, TagId};

use crate::limits::{BATCH_ROWS, NEAR_NAMES_MAX, NOTICES_MAX};
use crate::near::nearest;

/// What a statement has to say besides its answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notices(Arc<Mutex<Vec<String>>>);

impl Notices {
    /// Adds a notice unless it was given already or there are enough.
    pub(crate) fn add(&self, notice: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < NOTICES_MAX && !all.contains(&notice) {
            all.push(notice);
        }
    }

    /// Every notice so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The live tags, ascending, for which all of `filters` hold.
pub(crate) fn select(
    registry: &Registry,
    filters: &[Expr],
    session: &dyn Session,
    notices: &Notices,
) -> Result<Vec<TagId>> {
    let Some(filter) = conjunction(filters.iter().cloned()) else {
        return Ok(registry.iter().map(|tag| tag.id).collect());
    };
    let schema = schema();
    let filter = session.create_physical_expr(filter, &Arc::clone(&schema).to_dfschema()?)?;
    let named = named_tags(registry, &filter, notices);
    let mut selected = Vec::new();
    let mut keep = |tags: &[&Tag]| -> Result<()> {
        let mask = evaluate(&filter, &schema, tags)?;
        selected.extend(
            tags.iter().zip(&mask).filter(|(_, kept)| *kept == Some(true)).map(|(tag, _)| tag.id),
        );
        Ok(())
    };
    let live: Vec<&Tag> = match named {
        Some(ids) => {
            let tags = ids.iter().filter_map(|&id| registry.get(id)).map(AsRef::as_ref);
            tags.filter(|tag: &&Tag| !tag.is_deleted()).collect()
        }
        None => registry.iter().map(AsRef::as_ref).collect(),
    };
    for part in live.chunks(BATCH_ROWS) {
        keep(part)?;
    }
    Ok(selected)
}

/// The two columns a filter over tags may use.
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("tag_id", DataType::UInt32, false),
        Field::new("tag", DataType::Utf8View, false),
    ]))
}

fn evaluate(
    filter: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
    tags: &[&Tag],
) -> Result<BooleanArray> {
    let ids: ArrayRef = Arc::new(UInt32Array::from_iter_values(tags.iter().map(|tag| tag.id.0)));
    let names: ArrayRef =
        Arc::new(StringViewArray::from_iter_values(tags.iter().map(|tag| tag.name.as_ref())));
    let batch = RecordBatch::try_new(Arc::clone(schema), vec![ids, names])?;
    let mask = filter.evaluate(&batch)?.into_array(batch.num_rows())?;
    Ok(mask.as_boolean().clone())
}

/// The tags among which every match must be, if the filter names them.
fn named_tags(
    registry: &Registry,
    filter: &Arc<dyn PhysicalExpr>,
    notices: &Notices,
) -> Option<BTreeSet<TagId>> {
    let mut named: Option<BTreeSet<TagId>> = None;
    for guarantee in LiteralGuarantee::analyze(filter) {
        if guarantee.guarantee != Guarantee::In {
            continue;
        }
        let by_name = guarantee.column.name == "tag";
        let mut ids = BTreeSet::new();
        for literal in &guarantee.literals {
            match literal {
                ScalarValue::UInt32(Some(id)) if !by_name => {
                    ids.insert(TagId(*id));
                }
                ScalarValue::Utf8View(Some(name))
                | ScalarValue::Utf8(Some(name))
                | ScalarValue::LargeUtf8(Some(name))
                    if by_name =>
                {
                    match registry.find(name) {
                        Some(id) => {
                            ids.insert(id);
                        }
                        None => notices.add(unknown(registry, name)),
                    }
                }
                // A literal of another type: the guarantee says nothing that can be used.
                _ => return named,
            }
        }
        named = Some(match named {
            Some(before) => before.intersection(&ids).copied().collect(),
            None => ids,
        });
    }
    named
}

/// The notice for a name that no tag has.
pub(crate) fn unknown(registry: &Registry, name: &str) -> String {
    let near = nearest(name, registry.iter().map(|tag| tag.name.as_ref()), NEAR_NAMES_MAX);
    if near.is_empty() {
        return format!("no tag is named '{name}'; SELECT tag FROM tags lists them");
    }
    let near: Vec<String> = near.iter().map(|name| format!("'{name}'")).collect();
    format!("no tag is named '{name}'; did you mean {}?", near.join(" or "))
}
