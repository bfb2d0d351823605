//! SQL in PostgreSQL's words: its operators and casts, and `pg_catalog`, which its tools look through.
//!
//! [`parser`] reads statements, [`catalogs`] those over catalogs; [`relations`] and [`functions`] are what they find
//! there. [`tree`] has the pieces that statements are rewritten with.

mod catalogs;
mod functions;
mod parser;
mod relations;
mod tree;

use std::sync::Arc;

use datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_pg_catalog::setup_pg_catalog;
use tagmill::datafusion::logical_expr::ScalarUDF;
use tagmill::{Database, Dialect};

use parser::Parser;
use relations::PgCatalog;

/// The PostgreSQL whose words we speak.
pub(super) const VERSION: &str = "16.6";

/// The dialect, for all connections.
///
/// # Errors
/// If the catalogs cannot be set up.
pub async fn new(database: &Database) -> tagmill::Result<Dialect> {
    const SCHEMA: &str = "pg_catalog";
    let parser = Parser::new();
    let set_up = |context: &tagmill::datafusion::prelude::SessionContext, catalog: &str| {
        let failed = |error: &dyn std::fmt::Display| format!("{SCHEMA}: {error}");
        setup_pg_catalog(context, catalog, EmptyContextProvider).map_err(|e| failed(&e))?;
        let catalog = context.catalog(catalog).ok_or_else(|| failed(&"there is no catalog"))?;
        let library = catalog.schema(SCHEMA).ok_or_else(|| failed(&"it was not made"))?;
        let ours = Arc::new(PgCatalog(library));
        catalog.register_schema(SCHEMA, ours).map_err(|e| failed(&e))?;
        functions::add(context);
        Ok(())
    };
    Dialect::new(database, set_up, move |sql| parser.parse(sql)).await
}

/// Functions that tell who is there.
pub(super) fn of_user(name: &str) -> [ScalarUDF; 1] {
    ["session_user"].map(|function| functions::constant(function, name.to_owned()))
}
