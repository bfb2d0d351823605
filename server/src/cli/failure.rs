//! Why a command stopped, told to a person: what failed, and what to do next.
//!
//! Everything the libraries report ends up here; nothing above this file matches on it.

use std::fmt;

/// Result of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    what: String,
    next: Option<String>,
    is_quiet: bool,
}

impl Failure {
    /// A failure whose text says it all.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), next: None, is_quiet: false }
    }

    /// The reader of our output has gone: nothing to say, but not a success.
    pub(crate) fn closed_pipe() -> Self {
        Self { what: "nobody reads the output".to_owned(), next: None, is_quiet: true }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Puts where it happened before what happened.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// Whether to leave without a word.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.next.as_ref().map_or(Ok(()), |next| write!(f, "\n  next: {next}"))
    }
}

impl std::error::Error for Failure {}

impl From<tagmill_storage::Error> for Failure {
    fn from(error: tagmill_storage::Error) -> Self {
        use tagmill_storage::Error;
        let next = match &error {
            Error::Locked { .. } => Some("use --connect ADDR to go through the server that has it"),
            Error::Busy { .. } => Some("run the command again"),
            Error::Corrupt { .. } => Some("restore the file from a backup; the rest can be read"),
            _ => None,
        };
        Self { what: error.to_string(), next: next.map(str::to_owned), is_quiet: false }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::closed_pipe();
        }
        Self::new(error.to_string())
    }
}

impl From<arrow::error::ArrowError> for Failure {
    fn from(error: arrow::error::ArrowError) -> Self {
        match error {
            arrow::error::ArrowError::IoError(_, io) => io.into(),
            other => Self::new(other.to_string()),
        }
    }
}
