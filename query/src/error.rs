//! Why a statement could not be answered, in words for the person who asked.

use std::borrow::Cow;
use std::time::Duration;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use crate::catalog::RELATIONS;

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes of a message: one may repeat all of a statement, in a form that is longer.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Why a call of this crate failed. Variants are named by what the caller can do about it. None is shown with more than some
/// 4 KiB.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage engine refused or failed.
    #[error(transparent)]
    Storage(#[from] tagmill_storage::Error),
    /// The SQL text is wrong: it does not parse, or names what does not exist, or types do not fit.
    #[error("{}", short(.0))]
    Sql(String),
    /// The statement would change something, or reach outside the database.
    #[error("{}: SQL only reads here; write through append, import or a gateway", short(.0))]
    ReadOnly(String),
    /// A setting that does not exist, or a value it cannot take.
    #[error("{}", short(.0))]
    Setting(String),
    /// The statement is larger than a limit allows.
    #[error("{}", short(.0))]
    Limit(String),
    /// The statement ran longer than `statement_timeout`.
    #[error("the statement took longer than {} ms: narrow it, or SET statement_timeout", .0.as_millis())]
    Timeout(Duration),
    /// Somebody has ended the statement.
    #[error("the statement was ended on request")]
    Cancelled,
    /// The statement needs more memory than the query pool has.
    #[error("{}", short(.0))]
    Memory(String),
    /// The statement is right but failed on the data it met, such as a division by zero.
    #[error("{}", short(.0))]
    Execution(String),
    /// A bug in Tagmill.
    #[error("internal error, please report it: {}", short(.0))]
    Internal(String),
}

/// A message as it is shown.
fn short(message: &str) -> Cow<'_, str> {
    if message.len() <= MESSAGE_BYTES_MAX {
        return Cow::Borrowed(message);
    }
    let mut start = message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned();
    start.push_str(" ..");
    Cow::Owned(start)
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(source) => from_external(source),
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
                Self::from(*inner)
            }
            DataFusionError::Shared(shared) => from_shared(&shared),
            DataFusionError::Collection(errors) => errors
                .into_iter()
                .next()
                .map_or_else(|| Self::Internal("an empty list of errors".to_owned()), Self::from),
            other => from_plain(&other),
        }
    }
}

/// Turns `error` into the form in which a stream of batches carries it.
pub(crate) fn into_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn from_external(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let source = match source.downcast::<Error>() {
        Ok(own) => return *own,
        Err(other) => other,
    };
    match source.downcast::<tagmill_storage::Error>() {
        Ok(storage) => Error::Storage(*storage),
        Err(other) => Error::Execution(other.to_string()),
    }
}

/// A shared error cannot be taken apart, only read.
fn from_shared(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(source) => {
            if let Some(storage) = source.downcast_ref::<tagmill_storage::Error>() {
                return Error::Storage(storage.clone());
            }
            match source.downcast_ref::<Error>() {
                Some(Error::Limit(text)) => Error::Limit(text.clone()),
                Some(Error::Timeout(after)) => Error::Timeout(*after),
                Some(Error::Cancelled) => Error::Cancelled,
                _ => Error::Execution(source.to_string()),
            }
        }
        other => from_plain(other),
    }
}

fn from_plain(error: &DataFusionError) -> Error {
    let text = error.message().into_owned();
    let text = text.split("\n\nbacktrace:").next().unwrap_or_default().trim().to_owned();
    match error {
        DataFusionError::SQL(parser, _) => Error::Sql(parser_text(&parser.to_string())),
        DataFusionError::SchemaError(schema, _) => Error::Sql(schema_text(schema)),
        DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) => {
            Error::Sql(plan_text(text))
        }
        DataFusionError::Configuration(_) => Error::Setting(text),
        DataFusionError::ResourcesExhausted(_) => Error::Memory(text),
        DataFusionError::Internal(_) => Error::Internal(text),
        _ => Error::Execution(text),
    }
}

/// The parser's message without its name.
fn parser_text(text: &str) -> String {
    let text = text.trim_start_matches("sql parser error: ");
    if text.starts_with("recursion limit exceeded") {
        return "the statement nests too deeply".to_owned();
    }
    format!("syntax error: {text}")
}

/// The planner's message; of a relation that does not exist, with those that do.
fn plan_text(text: String) -> String {
    let missing = text.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found"));
    let Some(name) = missing else { return text };
    let name = name.strip_prefix("tagmill.").unwrap_or(name);
    let name = name.strip_prefix("public.").unwrap_or(name);
    let near = crate::near::nearest(name, RELATIONS.into_iter(), 1);
    match near.first() {
        Some(near) => format!("no relation named {name}: did you mean {near}?"),
        None => format!("no relation named {name}: there are {}", RELATIONS.join(", ")),
    }
}

fn schema_text(error: &SchemaError) -> String {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return error.to_string();
    };
    let mut known: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let near = crate::near::nearest(&field.name, known.iter().copied(), 1);
    let hint = match near.first() {
        Some(name) => format!("did you mean {name}?"),
        None => format!("there are {}", known.join(", ")),
    };
    format!("no column named {}: {hint}", field.flat_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::common::Column;

    #[test]
    fn a_storage_error_survives_the_way_through_the_plan() {
        let storage = tagmill_storage::Error::Closed;
        let error = DataFusionError::External(Box::new(storage)).context("while scanning");
        assert!(matches!(Error::from(error), Error::Storage(tagmill_storage::Error::Closed)));
    }

    #[test]
    fn a_long_message_is_cut() {
        let long = "é".repeat(MESSAGE_BYTES_MAX);
        let shown = Error::Sql(long.clone()).to_string();
        assert_eq!(shown, "é".repeat(MESSAGE_BYTES_MAX / 2) + " ..");
        assert!(Error::Internal("x".to_owned() + &long).to_string().len() < 5 << 10);
        assert_eq!(Error::Limit("short".to_owned()).to_string(), "short");
    }

    #[test]
    fn an_unknown_column_offers_the_nearest() {
        let error = DataFusionError::SchemaError(
            Box::new(SchemaError::FieldNotFound {
                field: Box::new(Column::from_name("qualty")),
                valid_fields: vec![Column::from_name("quality"), Column::from_name("ts")],
            }),
            Box::new(None),
        );
        assert_eq!(Error::from(error).to_string(), "no column named qualty: did you mean quality?");
    }
}
