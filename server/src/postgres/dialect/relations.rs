//! The relations of `pg_catalog`: the library's, with what tools look for and it lacks, and without rows of things that are
//! not there.

use std::sync::Arc;

use async_trait::async_trait;
use tagmill::arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use tagmill::arrow::datatypes::{DataType, Field, Schema};
use tagmill::datafusion::catalog::{SchemaProvider, TableProvider};
use tagmill::datafusion::common::ScalarValue;
use tagmill::datafusion::datasource::empty::EmptyTable;
use tagmill::datafusion::datasource::{MemTable, ViewTable, provider_as_source};
use tagmill::datafusion::error::Result;
use tagmill::datafusion::logical_expr::{LogicalPlanBuilder, col, lit};

use crate::postgres::variables::every;

/// Relations that have no rows. PostgreSQL's own of some, such as the indexes of its catalogs, are of relations that are
/// not here; of others there is nothing at all.
pub(super) const EMPTY: [&str; 26] = [
    "pg_attrdef",
    "pg_auth_members",
    "pg_collation",
    "pg_constraint",
    "pg_db_role_setting",
    "pg_default_acl",
    "pg_enum",
    "pg_event_trigger",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_foreign_table",
    "pg_index",
    "pg_inherits",
    "pg_largeobject_metadata",
    "pg_partitioned_table",
    "pg_policy",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_rewrite",
    "pg_roles",
    "pg_sequence",
    "pg_statistic_ext",
    "pg_subscription",
    "pg_trigger",
    "pg_user_mapping",
];

/// Columns of text arrays, null in all rows, which the library lacks or has as text: of rights and options, which nothing
/// here has.
pub(super) const NULL_ARRAYS: [(&str, &str); 7] = [
    ("pg_attribute", "attacl"),
    ("pg_attribute", "attoptions"),
    ("pg_class", "relacl"),
    ("pg_class", "reloptions"),
    ("pg_namespace", "nspacl"),
    ("pg_proc", "proacl"),
    ("pg_type", "typacl"),
];

/// `pg_catalog` over the library's.
#[derive(Debug)]
pub(super) struct PgCatalog(pub(super) Arc<dyn SchemaProvider>);

#[async_trait]
impl SchemaProvider for PgCatalog {
    fn table_names(&self) -> Vec<String> {
        self.0.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(table) = self.0.table(name).await? else { return Ok(None) };
        let name = name.to_ascii_lowercase();
        if name == "pg_settings" {
            return Ok(Some(Arc::new(settings()?)));
        }
        if EMPTY.contains(&name.as_str()) {
            return Ok(Some(Arc::new(EmptyTable::new(table.schema()))));
        }
        let arrays: Vec<&str> = NULL_ARRAYS
            .into_iter()
            .filter(|(of, _)| *of == name)
            .map(|(_, column)| column)
            .collect();
        if arrays.is_empty() {
            return Ok(Some(table));
        }
        let texts = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        let null = lit(ScalarValue::try_from(&texts)?);
        let schema = table.schema();
        let mut columns = Vec::new();
        for field in schema.fields() {
            let is_array = arrays.contains(&field.name().as_str());
            let column = if is_array { null.clone() } else { col(field.name()) };
            columns.push(column.alias(field.name()));
        }
        let missing = arrays.iter().filter(|column| schema.index_of(column).is_err());
        columns.extend(missing.map(|column| null.clone().alias(*column)));
        let plan = LogicalPlanBuilder::scan(name, provider_as_source(table), None)?;
        Ok(Some(Arc::new(ViewTable::new(plan.project(columns)?.build()?, None))))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.table_exist(name)
    }
}

/// Columns of `pg_settings` that are text, before the two that are not.
const SETTINGS: [&str; 15] = [
    "name",
    "setting",
    "unit",
    "category",
    "short_desc",
    "extra_desc",
    "context",
    "vartype",
    "source",
    "min_val",
    "max_val",
    "enumvals",
    "boot_val",
    "reset_val",
    "sourcefile",
];

/// `pg_settings`: PostgreSQL's variables as they are in a new session, such as `current_setting` tells them.
fn settings() -> Result<MemTable> {
    let all = every();
    let text_of = |column: &str| -> StringArray {
        let value = |(name, value, is_fixed): &(&'static str, &'static str, bool)| match column {
            "name" => Some(*name),
            "setting" | "boot_val" | "reset_val" => Some(*value),
            "context" => Some(if *is_fixed { "internal" } else { "user" }),
            "vartype" => Some("string"),
            "source" => Some("default"),
            _ => None,
        };
        all.iter().map(value).collect()
    };
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for name in SETTINGS {
        fields.push(Field::new(name, DataType::Utf8, true));
        columns.push(Arc::new(text_of(name)));
    }
    for (name, of) in [("sourceline", DataType::Int32), ("pending_restart", DataType::Boolean)] {
        columns.push(new_null_array(&of, all.len()));
        fields.push(Field::new(name, of, true));
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    MemTable::try_new(schema, vec![vec![batch]])
}
