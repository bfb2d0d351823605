//! Write-ahead log: an acknowledged batch is in here before it is anywhere else.
//!
//! # Contract
//! * A record is one batch or one change, wholly there after a crash or not at all. Seqs are contiguous.
//! * [`writer::WalWriter::sync`] makes every record written before durable. A failed write or sync has an unknown outcome:
//!   the log is then poisoned and refuses writes until reopened; nothing retries a sync.
//! * Replay yields each record once, in order, and tells a torn tail (ends there) from rot (an error that names the range).
//!
//! # What it does not know
//! Which tags exist, what a run means, when to seal.
//!
//! # Reading order
//! [`record`] (one record's bytes), [`file`] (frames in files), [`writer`], [`replay`]. Bytes: `docs/format/wal.md`.

pub(crate) mod file;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod survey;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
