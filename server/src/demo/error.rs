//! Why the demo stopped.

/// Result of a step of the demo.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server could not be reached, or refused.
    #[error(transparent)]
    Client(#[from] tagmill_client::Error),
    /// The database could not be opened.
    #[error(transparent)]
    Database(#[from] tagmill::Error),
    /// The server could not be started or stopped.
    #[error(transparent)]
    Server(#[from] crate::lifecycle::Error),
    /// The server's answer is no Arrow stream.
    #[error("the server's answer cannot be read: {0}")]
    Answer(#[from] arrow::error::ArrowError),
    /// The report could not be written.
    #[error(transparent)]
    Output(#[from] std::io::Error),
    /// The directory does not suit, or the server took less than it was sent.
    #[error("{what}")]
    Unfit {
        /// What is wrong.
        what: String,
        /// What to do next.
        next: String,
    },
}
