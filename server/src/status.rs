//! Errors as the doors say them: one table, so that one error reads the same everywhere.

use tagmill_storage::{Error, Outcome};
use tonic::{Code, Status};

use crate::queries::Failure;

/// The gRPC status of an engine's error.
pub(crate) fn of_storage(error: &Error) -> Status {
    let code = match error {
        Error::Invalid(_) => Code::InvalidArgument,
        Error::Busy { .. } | Error::DiskFull { .. } => Code::ResourceExhausted,
        Error::Gap { .. } => Code::OutOfRange,
        Error::Fenced { .. } => Code::FailedPrecondition,
        Error::Poisoned { .. } | Error::Closed => Code::Unavailable,
        Error::Corrupt { .. } => Code::DataLoss,
        _ => Code::Internal,
    };
    let unknown = match error.outcome() {
        Outcome::NotWritten => "",
        Outcome::Unknown => "; whether the write is on disk is not known",
    };
    Status::new(code, format!("{error}{unknown}"))
}

/// The gRPC status of a statement's error.
pub(crate) fn of_query(error: &tagmill::Error) -> Status {
    use tagmill::Error as Query;
    let code = match error {
        Query::Storage(error) => return of_storage(error),
        // Not a matter of permission: nobody may write through SQL.
        Query::Sql(_) | Query::Setting(_) | Query::ReadOnly(_) => Code::InvalidArgument,
        Query::Limit(_) => Code::ResourceExhausted,
        Query::Timeout(_) => Code::DeadlineExceeded,
        Query::Cancelled => Code::Cancelled,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// The gRPC status of a statement that does not run.
pub(crate) fn of_failure(failure: &Failure) -> Status {
    match failure {
        Failure::Full => Status::resource_exhausted(failure.to_string()),
        Failure::Statement(error) => of_query(error),
    }
}

/// The status of a blocking call that did not return.
pub(crate) fn of_join(error: &tokio::task::JoinError) -> Status {
    Status::internal(format!("a task of the server stopped: {error}"))
}

/// Runs a call of the engine, which may wait for the disk, aside from the streams.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> tagmill_storage::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let result = tokio::task::spawn_blocking(call).await.map_err(|error| of_join(&error))?;
    result.map_err(|error| of_storage(&error))
}
