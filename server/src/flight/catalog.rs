//! What there is: schemas, relations, types, and what this server can do. As the caller may know it.

use std::sync::LazyLock;

use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables, Nullable,
    Searchable, SqlInfo, SqlSupportedTransaction, XdbcDataType,
};
use tagmill::arrow::array::{AsArray, RecordBatch};
use tagmill::arrow::compute::cast;
use tagmill::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tonic::Status;

use super::answer::{of_flight, plain_schema};
use super::{DOOR, Door};
use crate::access::Principal;
use crate::queries::session_of;
use crate::status::{of_failure, of_query};

/// The one catalog.
const CATALOG: &str = "tagmill";
/// Whatever can be selected from.
const TABLE: &str = "VIEW";

pub(super) fn catalogs(query: CommandGetCatalogs) -> Result<RecordBatch, Status> {
    let mut catalogs = query.into_builder();
    catalogs.append(CATALOG);
    catalogs.build().map_err(|error| of_flight(&error))
}

pub(super) async fn schemas(
    door: &Door,
    principal: &Principal,
    query: CommandGetDbSchemas,
) -> Result<RecordBatch, Status> {
    let mut schemas = query.into_builder();
    let sql = "SELECT DISTINCT table_schema, '' FROM information_schema.tables ORDER BY 1";
    for (schema, _) in pairs(door, principal, sql).await? {
        schemas.append(CATALOG, schema);
    }
    schemas.build().map_err(|error| of_flight(&error))
}

pub(super) async fn tables(
    door: &Door,
    principal: &Principal,
    query: CommandGetTables,
) -> Result<RecordBatch, Status> {
    let with_columns = query.include_schema;
    let mut tables = query.into_builder();
    let sql = "SELECT table_schema, table_name FROM information_schema.tables ORDER BY 1, 2";
    for (schema, table) in pairs(door, principal, sql).await? {
        let columns: SchemaRef = if with_columns {
            let sql = format!("SELECT * FROM \"{schema}\".\"{table}\"");
            plain_schema(&door.described(principal, &sql).await?.0)
        } else {
            SchemaRef::new(Schema::empty())
        };
        let appended = tables.append(CATALOG, schema, table, TABLE, &columns);
        appended.map_err(|error| of_flight(&error))?;
    }
    tables.build().map_err(|error| of_flight(&error))
}

/// Two columns of texts.
async fn pairs(
    door: &Door,
    principal: &Principal,
    sql: &'static str,
) -> Result<Vec<(String, String)>, Status> {
    let session = session_of(&door.database, principal, DOOR);
    let mut session = session.map_err(|error| of_query(&error))?;
    let (admission, principal) = (door.admission.clone(), principal.clone());
    let answering = async move {
        let begun = admission.run(&principal, &mut session, sql, Vec::new()).await;
        let (answer, _place) = begun.map_err(|failure| of_failure(&failure))?;
        answer.collect().await.map_err(|error| of_query(&error))
    };
    let mut pairs = Vec::new();
    for batch in door.there(answering).await? {
        let text = |at: usize| cast(batch.column(at), &DataType::Utf8);
        let wrong = |error| Status::internal(format!("the catalog cannot be read: {error}"));
        let (firsts, seconds) = (text(0).map_err(wrong)?, text(1).map_err(wrong)?);
        let (firsts, seconds) = (firsts.as_string::<i32>(), seconds.as_string::<i32>());
        for (first, second) in firsts.iter().zip(seconds) {
            pairs.push((
                first.unwrap_or_default().to_owned(),
                second.unwrap_or_default().to_owned(),
            ));
        }
    }
    Ok(pairs)
}

pub(super) fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch, Status> {
    let mut types = query.into_builder();
    types.append(TABLE);
    types.build().map_err(|error| of_flight(&error))
}

/// Columns of the list of primary keys.
pub(super) fn primary_keys() -> SchemaRef {
    let text = |name, may_be_null| Field::new(name, DataType::Utf8, may_be_null);
    SchemaRef::new(Schema::new(vec![
        text("catalog_name", true),
        text("db_schema_name", true),
        text("table_name", false),
        text("column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("key_name", true),
    ]))
}

/// Columns of the lists of foreign keys.
pub(super) fn foreign_keys() -> SchemaRef {
    let text = |name, may_be_null| Field::new(name, DataType::Utf8, may_be_null);
    SchemaRef::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

/// What this server is and can do.
pub(super) fn sql_info() -> &'static SqlInfoData {
    &SQL_INFO
}

static SQL_INFO: LazyLock<SqlInfoData> = LazyLock::new(|| {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Tagmill");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, false);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.build().unwrap_or_else(|error| unreachable!("what is known of the server: {error}"))
});

/// Types of columns and values.
pub(super) fn type_info() -> &'static XdbcTypeInfoData {
    &TYPE_INFO
}

static TYPE_INFO: LazyLock<XdbcTypeInfoData> = LazyLock::new(|| {
    let of = |name: &str, code: XdbcDataType, size: i32| XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type: code,
        column_size: Some(size),
        nullable: Nullable::NullabilityNullable,
        case_sensitive: true,
        searchable: Searchable::Full,
        local_type_name: Some(name.to_owned()),
        sql_data_type: code,
        ..XdbcTypeInfo::default()
    };
    let mut types = XdbcTypeInfoDataBuilder::new();
    types.append(of("BOOLEAN", XdbcDataType::XdbcBit, 1));
    types.append(of("INTEGER", XdbcDataType::XdbcInteger, 32));
    types.append(of("BIGINT", XdbcDataType::XdbcBigint, 64));
    types.append(of("REAL", XdbcDataType::XdbcReal, 24));
    types.append(of("DOUBLE", XdbcDataType::XdbcDouble, 53));
    types.append(of("VARCHAR", XdbcDataType::XdbcVarchar, 1 << 20));
    types.append(of("TIMESTAMP", XdbcDataType::XdbcTimestamp, 9));
    types.build().unwrap_or_else(|error| unreachable!("types of columns: {error}"))
});
