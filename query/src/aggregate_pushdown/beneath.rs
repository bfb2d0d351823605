//! What an aggregate stands on: a scan of `samples` under projections and joins that depend on the tag alone.
//!
//! # Contract
//! [`Beneath::of`] describes a plan only if its rows are those of the scan, each once, less those of tags that a join
//! leaves out, with columns that are computed from the scan's and from one row a tag. A join is such a one if it is
//! inner (or asks only whether there is a partner), compares `tag_id` or `tag` with a column of a plan over memory, and
//! no tag has two partners. In doubt there is no description, and the plan stays as it is.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringViewArray, UInt32Array, UInt64Array,
    new_null_array,
};
use datafusion::arrow::compute::{cast, concat_batches, filter_record_batch, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result, internal_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use tagmill_storage::{Registry, TagId};

use crate::relations::rows::{RowColumn, schema_of};
use crate::source::{PlainScan, SampleSource};

type Expr = Arc<dyn PhysicalExpr>;

/// Number of the column `ts` in a [`Beneath`]'s own columns.
pub(super) const TIME: usize = 2;
/// How many columns of `samples` come before those of joined plans.
const ROW_COLUMNS: usize = RowColumn::SAMPLES.len();

/// See the module. Expressions are over its own columns: those of `samples`, then those of joined plans.
pub(super) struct Beneath {
    /// What is scanned.
    pub(super) scan: PlainScan,
    /// The columns of the described plan.
    columns: Vec<Expr>,
    /// What was joined, the first first.
    partners: Vec<Partner>,
}

/// One row a tag, or none.
#[derive(Debug)]
struct Partner {
    rows: RecordBatch,
    row_of: HashMap<TagId, u64>,
}

impl Beneath {
    /// What `plan` is, if it is one of those.
    pub(super) fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        if let Some(leaf) = plan.downcast_ref::<DataSourceExec>() {
            let scan = leaf.data_source().downcast_ref::<SampleSource>()?.plain()?;
            let columns = scan.columns.iter().map(|column| {
                let at = RowColumn::SAMPLES.iter().position(|known| known == column)?;
                let schema = schema_of(&RowColumn::SAMPLES);
                Some(Arc::new(Column::new(schema.field(at).name(), at)) as Expr)
            });
            let columns = columns.collect::<Option<_>>()?;
            return Some(Self { scan, columns, partners: Vec::new() });
        }
        if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
            let mut beneath = Self::of(projection.input())?;
            let columns = projection.expr().iter().map(|output| beneath.resolve(&output.expr));
            beneath.columns = columns.collect::<Option<_>>()?;
            return Some(beneath);
        }
        if let Some(gather) = plan.downcast_ref::<CoalescePartitionsExec>() {
            return if gather.fetch().is_some() { None } else { Self::of(gather.input()) };
        }
        Self::of_join(plan.downcast_ref::<HashJoinExec>()?)
    }

    fn of_join(join: &HashJoinExec) -> Option<Self> {
        let [(left_key, right_key)] = join.on() else { return None };
        if join.filter().is_some() || join.fetch().is_some() {
            return None;
        }
        let left_scans = Self::of(join.left());
        let (mut beneath, key, partner, partner_key, scan_is_left) = match left_scans {
            Some(beneath) => (beneath, left_key, join.right(), right_key, true),
            None => (Self::of(join.right())?, right_key, join.left(), left_key, false),
        };
        let shows_partner = match (join.join_type(), scan_is_left) {
            (JoinType::Inner, _) => true,
            (JoinType::LeftSemi, true) | (JoinType::RightSemi, false) => false,
            _ => return None,
        };
        let key = beneath.resolve(key)?;
        let rows = gathered(partner)?;
        let found = partner_key.evaluate(&rows).ok()?.into_array(rows.num_rows()).ok()?;
        let mut row_of = HashMap::new();
        let mut note = |tag: Option<TagId>, row: usize| {
            let taken = tag.and_then(|tag| row_of.insert(tag, row as u64));
            // A second partner doubles the tag's rows.
            taken.is_none() || !shows_partner
        };
        let single = match key.downcast_ref::<Column>()?.index() {
            0 if *found.data_type() == DataType::UInt32 => {
                let found = found.as_primitive::<UInt32Type>();
                found.iter().enumerate().all(|(row, id)| note(id.map(TagId), row))
            }
            1 => {
                let found = cast(&found, &DataType::Utf8View).ok()?;
                let registry = beneath.scan.snapshot.registry();
                let tag_of = |name: Option<&str>| name.and_then(|name| registry.find(name));
                let names = found.as_string_view();
                names.iter().enumerate().all(|(row, name)| note(tag_of(name), row))
            }
            _ => return None,
        };
        if !single {
            return None;
        }
        beneath.keep_tags(&row_of);
        if shows_partner {
            let before = ROW_COLUMNS + beneath.partner_fields().count();
            let fields = rows.schema();
            let mut shown: Vec<Expr> = fields
                .fields()
                .iter()
                .enumerate()
                .map(|(at, field)| Arc::new(Column::new(field.name(), before + at)) as Expr)
                .collect();
            if scan_is_left {
                beneath.columns.append(&mut shown);
            } else {
                shown.append(&mut beneath.columns);
                beneath.columns = shown;
            }
            beneath.partners.push(Partner { rows, row_of });
        }
        if let Some(projection) = &join.projection {
            let kept = projection.iter().map(|&at| beneath.columns.get(at).map(Arc::clone));
            beneath.columns = kept.collect::<Option<_>>()?;
        }
        Some(beneath)
    }

    /// An expression over the described plan as one over its own columns.
    pub(super) fn resolve(&self, expr: &Expr) -> Option<Expr> {
        let resolved = Arc::clone(expr).transform_down(|part| {
            let Some(column) = part.downcast_ref::<Column>() else {
                return Ok(Transformed::no(part));
            };
            let Some(own) = self.columns.get(column.index()) else {
                return internal_err!("no column {column}");
            };
            Ok(Transformed::new(Arc::clone(own), true, TreeNodeRecursion::Jump))
        });
        resolved.data().ok()
    }

    /// Which column of `samples` one of its own columns is, if it is one.
    pub(super) fn row_column(column: &Column) -> Option<RowColumn> {
        RowColumn::SAMPLES.get(column.index()).copied()
    }

    /// Whether one of its own columns is the same for all samples of a tag.
    pub(super) fn is_of_tag(column: &Column) -> bool {
        column.index() >= ROW_COLUMNS
            || matches!(Self::row_column(column), Some(RowColumn::TagId | RowColumn::Tag))
    }

    /// The scan, and what is known of its tags.
    pub(super) fn into_parts(self) -> (PlainScan, Attributes) {
        let own = schema_of(&RowColumn::SAMPLES);
        let own = own.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let fields: Vec<Field> = own.chain(self.partner_fields()).collect();
        let (partners, schema) = (self.partners, Arc::new(Schema::new(fields)));
        (self.scan, Attributes { partners, schema })
    }

    fn partner_fields(&self) -> impl Iterator<Item = Field> {
        let schemas: Vec<SchemaRef> = self.partners.iter().map(|part| part.rows.schema()).collect();
        schemas.into_iter().flat_map(|schema| {
            let fields: Vec<Field> =
                schema.fields().iter().map(|field| field.as_ref().clone()).collect();
            fields
        })
    }

    fn keep_tags(&mut self, row_of: &HashMap<TagId, u64>) {
        let kept = self.scan.parts.iter().map(|part| {
            part.iter().copied().filter(|tag| row_of.contains_key(tag)).collect::<Arc<[TagId]>>()
        });
        let mut kept: Vec<Arc<[TagId]>> = kept.filter(|part| !part.is_empty()).collect();
        if kept.is_empty() {
            kept.push(Arc::from([]));
        }
        self.scan.parts = kept;
    }
}

/// What is the same for all samples of a tag: its id, its name, and what was joined to it.
#[derive(Debug)]
pub(super) struct Attributes {
    partners: Vec<Partner>,
    /// All of a [`Beneath`]'s own columns.
    schema: SchemaRef,
}

impl Attributes {
    /// A row for each of these tags. Columns that samples differ in are null.
    pub(super) fn rows(&self, registry: &Registry, tags: &[TagId]) -> Result<RecordBatch> {
        let names = tags.iter().map(|&tag| registry.get(tag).map(|tag| tag.name.as_ref()));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(tags.iter().map(|tag| tag.0))),
            Arc::new(names.collect::<StringViewArray>()),
        ];
        let differing = self.schema.fields().iter().take(ROW_COLUMNS).skip(columns.len());
        columns.extend(differing.map(|field| new_null_array(field.data_type(), tags.len())));
        for Partner { rows, row_of } in &self.partners {
            let each: UInt64Array = tags.iter().map(|tag| row_of.get(tag).copied()).collect();
            columns.extend(take_record_batch(rows, &each)?.columns().iter().map(Arc::clone));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(tags.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

/// Every row of a plan over memory; `None` for any other plan, and if a row cannot be computed now.
fn gathered(plan: &Arc<dyn ExecutionPlan>) -> Option<RecordBatch> {
    if let Some(leaf) = plan.downcast_ref::<DataSourceExec>() {
        let memory = leaf.data_source().downcast_ref::<MemorySourceConfig>()?;
        if leaf.fetch().is_some() {
            return None;
        }
        let all = concat_batches(&memory.original_schema(), memory.partitions().iter().flatten());
        return match memory.projection() {
            Some(kept) => all.ok()?.project(kept).ok(),
            None => all.ok(),
        };
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let rows = gathered(projection.input())?;
        let columns = projection.expr().iter().map(|output| {
            let value = output.expr.evaluate(&rows).ok()?;
            value.into_array(rows.num_rows()).ok()
        });
        let columns = columns.collect::<Option<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        return RecordBatch::try_new_with_options(plan.schema(), columns, &options).ok();
    }
    let filter = plan.downcast_ref::<FilterExec>()?;
    if filter.fetch().is_some() {
        return None;
    }
    let rows = gathered(filter.input())?;
    let holds = filter.predicate().evaluate(&rows).ok()?.into_array(rows.num_rows()).ok()?;
    let kept = filter_record_batch(&rows, holds.as_boolean_opt()?).ok()?;
    match filter.projection() {
        Some(columns) => kept.project(columns).ok(),
        None => Some(kept),
    }
}
