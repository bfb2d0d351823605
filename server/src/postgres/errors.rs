//! Errors and notices as PostgreSQL's clients know them: a severity, a code of five letters, a text.

use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::NoticeResponse;
use tagmill::Error;

use crate::access::Denied;
use crate::queries::Failure;

/// An error that ends the statement.
pub(super) fn error(code: &str, text: impl Into<String>) -> PgWireError {
    of("ERROR", code, text)
}

/// An error that ends the connection.
pub(super) fn fatal(code: &str, text: impl Into<String>) -> PgWireError {
    of("FATAL", code, text)
}

/// Whether an error ends the connection.
pub(super) fn is_fatal(error: &PgWireError) -> bool {
    matches!(error, PgWireError::UserError(info) if info.is_fatal())
}

fn of(severity: &str, code: &str, text: impl Into<String>) -> PgWireError {
    let info = ErrorInfo::new(severity.to_owned(), code.to_owned(), text.into());
    PgWireError::UserError(Box::new(info))
}

/// What a statement met. Codes: appendix A of PostgreSQL's manual.
pub(super) fn of_query(failure: &Error) -> PgWireError {
    let text = failure.to_string();
    let code = match failure {
        Error::Sql(text) if text.starts_with("syntax error") => "42601",
        Error::Sql(text) if text.starts_with("no relation") => "42P01",
        Error::Sql(text) if text.starts_with("no column") => "42703",
        Error::Sql(_) => "42000",
        Error::ReadOnly(_) => "25006",
        Error::Setting(_) => "22023",
        Error::Limit(_) => "54000",
        Error::Timeout(_) | Error::Cancelled => "57014",
        Error::Memory(_) => "53200",
        Error::Execution(_) => "22000",
        Error::Storage(_) => "58000",
        _ => "XX000",
    };
    error(code, text)
}

/// Why a statement does not run.
pub(super) fn of_failure(failure: Failure) -> PgWireError {
    match failure {
        Failure::Full => error("53000", failure.to_string()),
        Failure::Statement(failure) => of_query(&failure),
    }
}

/// Who asks may not.
pub(super) fn of_denied(denied: &Denied) -> PgWireError {
    match denied {
        Denied::Unknown | Denied::Waits => fatal("28000", denied.to_string()),
        Denied::Forbidden(_) => error("42501", denied.to_string()),
    }
}

/// What the asker should know besides.
pub(super) fn notice(text: impl Into<String>) -> PgWireBackendMessage {
    let info = ErrorInfo::new("NOTICE".to_owned(), "00000".to_owned(), text.into());
    PgWireBackendMessage::NoticeResponse(NoticeResponse::from(info))
}
