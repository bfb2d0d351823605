//! [`Dialect`]: SQL as the clients of another system write it, and what they look for.
//!
//! # Contract
//! * A statement of a dialect is parsed by it and then goes the way of every other: the same checks that it only reads, the
//!   same snapshot, the same limits.
//! * Schemas of a dialect stand beside ours and hide none of them. They describe ours as these are when the dialect is
//!   made; relations are fixed.
//!
//! # What it does not know
//! Which system it is: who makes one brings parser, functions and schemas along.

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider, SchemaProvider,
};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;

use crate::catalog::{CATALOG, Schemas, catalogs};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::running::Asker;
use crate::selection::Notices;
use crate::settings::Settings;

/// Turns a text into a statement.
type Parse = dyn Fn(&str) -> Result<Statement> + Send + Sync;

/// Parser, functions and schemas of another system's clients. One is enough for all its sessions.
pub struct Dialect {
    base: SessionState,
    schemas: Schemas,
    parse: Arc<Parse>,
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialect").field("schemas", &self.schemas.keys()).finish_non_exhaustive()
    }
}

impl Dialect {
    /// A dialect of a database. `set_up` adds functions and, in the catalog of that name, schemas to a context whose
    /// relations have the names and columns of the database's, and no rows.
    ///
    /// # Errors
    /// [`Error::Internal`] if something cannot be set up.
    pub async fn new(
        database: &Database,
        set_up: impl FnOnce(&SessionContext, &str) -> Result<(), String>,
        parse: impl Fn(&str) -> Result<Statement> + Send + Sync + 'static,
    ) -> Result<Self> {
        let described = described(database).await?;
        let own: Vec<String> = described.schema_names();
        let list = MemoryCatalogProviderList::new();
        list.register_catalog(CATALOG.to_owned(), Arc::clone(&described) as Arc<_>);
        let state = SessionStateBuilder::new_from_existing(database.base_state().clone())
            .with_catalog_list(Arc::new(list))
            .build();
        let context = SessionContext::new_with_state(state);
        set_up(&context, CATALOG).map_err(Error::Internal)?;
        let added = described.schema_names().into_iter().filter(|name| !own.contains(name));
        let schemas = added.filter_map(|name| described.schema(&name).map(|schema| (name, schema)));
        Ok(Self { base: context.state(), schemas: schemas.collect(), parse: Arc::new(parse) })
    }

    /// The same with other functions in place of those of their names: for one session, say.
    ///
    /// # Errors
    /// [`Error::Internal`] if a function cannot be added.
    pub fn with(&self, functions: impl IntoIterator<Item = ScalarUDF>) -> Result<Self> {
        let mut base = self.base.clone();
        for function in functions {
            base.register_udf(Arc::new(function))?;
        }
        Ok(Self { base, schemas: self.schemas.clone(), parse: Arc::clone(&self.parse) })
    }

    /// What every statement's planning starts from.
    pub(crate) fn base(&self) -> &SessionState {
        &self.base
    }

    /// Its schemas with their names.
    pub(crate) fn schemas(&self) -> impl Iterator<Item = (String, Arc<dyn SchemaProvider>)> {
        self.schemas.iter().map(|(name, schema)| (name.clone(), Arc::clone(schema)))
    }

    /// The statement of a text.
    pub(crate) fn parse(&self, sql: &str) -> Result<Statement> {
        (self.parse)(sql)
    }
}

/// A catalog with the names and columns of ours. It holds no snapshot.
async fn described(database: &Database) -> Result<Arc<MemoryCatalogProvider>> {
    let scope = database.scope(Notices::default(), Settings::default(), Asker::default(), None);
    let described = Arc::new(MemoryCatalogProvider::new());
    let Some(catalog) = catalogs(&scope, None).catalog(CATALOG) else { return Ok(described) };
    for name in catalog.schema_names() {
        let Some(schema) = catalog.schema(&name) else { continue };
        let tables = Arc::new(MemorySchemaProvider::new());
        for table_name in schema.table_names() {
            let Some(table) = schema.table(&table_name).await? else { continue };
            tables.register_table(table_name, Arc::new(EmptyTable::new(table.schema())))?;
        }
        described.register_schema(&name, tables)?;
    }
    Ok(described)
}
