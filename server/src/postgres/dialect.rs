//! SQL in PostgreSQL's words: its operators and casts, and `pg_catalog`, which its tools look through.

use std::sync::Arc;

use datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_pg_catalog::setup_pg_catalog;
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use tagmill::arrow::datatypes::DataType;
use tagmill::datafusion::common::ScalarValue;
use tagmill::datafusion::error::DataFusionError;
use tagmill::datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use tagmill::datafusion::sql::parser::Statement;
use tagmill::{Database, Dialect, Error};

use super::variables::known;

/// The PostgreSQL whose words we speak.
pub(super) const VERSION: &str = "16.6";

/// The dialect, for all connections.
///
/// # Errors
/// If the catalogs cannot be set up.
pub async fn new(database: &Database) -> tagmill::Result<Dialect> {
    let parser = PostgresCompatibilityParser::new();
    let parse = move |sql: &str| {
        let statements = parser.parse(sql).map_err(|error| {
            let text = error.to_string();
            Error::Sql(text.replacen("sql parser error: ", "syntax error: ", 1))
        })?;
        match <[_; 1]>::try_from(statements) {
            Ok([statement]) => Ok(Statement::Statement(Box::new(statement))),
            Err(_) => Err(Error::Sql("one statement at a time".to_owned())),
        }
    };
    let set_up = |context: &tagmill::datafusion::prelude::SessionContext, catalog: &str| {
        setup_pg_catalog(context, catalog, EmptyContextProvider)
            .map_err(|error| format!("pg_catalog: {error}"))?;
        let version = format!("PostgreSQL {VERSION} (Tagmill {})", env!("CARGO_PKG_VERSION"));
        context.register_udf(constant("version", version));
        context.register_udf(current_setting());
        context.register_udf(unlock_all());
        context.register_udf(to_regtype());
        Ok(())
    };
    Dialect::new(database, set_up, parse).await
}

/// Functions that tell who is there.
pub(super) fn of_user(name: &str) -> [ScalarUDF; 1] {
    ["session_user"].map(|function| constant(function, name.to_owned()))
}

/// `current_setting(name)`: what PostgreSQL's clients ask of in queries, as it is in a new session.
fn current_setting() -> ScalarUDF {
    let call = Arc::new(move |arguments: &[ColumnarValue]| {
        let ColumnarValue::Scalar(name) = &arguments[0] else {
            return Err(DataFusionError::Plan("current_setting takes a name".to_owned()));
        };
        let name = name.try_as_str().flatten().unwrap_or_default();
        let value = known(name).ok_or_else(|| {
            DataFusionError::Plan(format!("there is no setting {name:?} to ask for in a query"))
        })?;
        Ok(ColumnarValue::Scalar(ScalarValue::Utf8(Some(value.to_owned()))))
    });
    create_udf("current_setting", vec![DataType::Utf8], DataType::Utf8, Volatility::Stable, call)
}

/// `pg_advisory_unlock_all()`: there are no locks, and pools of connections ask that none is left.
fn unlock_all() -> ScalarUDF {
    let call = Arc::new(|_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Null)));
    let name = "pg_advisory_unlock_all";
    create_udf(name, Vec::new(), DataType::Null, Volatility::Volatile, call)
}

/// `to_regtype(name)`: clients ask whether there are types of extensions, and there are none.
fn to_regtype() -> ScalarUDF {
    let call = Arc::new(|_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Int32(None))));
    create_udf("to_regtype", vec![DataType::Utf8], DataType::Int32, Volatility::Stable, call)
}

/// A function of nothing that always says the same.
fn constant(name: &str, value: String) -> ScalarUDF {
    let value = ScalarValue::Utf8(Some(value));
    let call = Arc::new(move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone())));
    create_udf(name, Vec::new(), DataType::Utf8, Volatility::Stable, call)
}
