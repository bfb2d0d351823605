//! The last word on a segment that was written before its place in the order was known.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::Seq;
use crate::segment::layout::{FOOTER_BYTES, encode_footer, encode_header};
use crate::segment::{SegmentKind, SegmentMeta};

/// Writes kind and seqs into a complete segment that no manifest names yet, and syncs the file.
///
/// # Errors
/// If the disk refuses; the caller then removes the file.
pub(crate) fn settle(
    disk: &dyn Disk,
    meta: &mut SegmentMeta,
    kind: SegmentKind,
    seqs: (Seq, Seq),
) -> Result<()> {
    meta.kind = kind;
    (meta.min_seq, meta.max_seq) = seqs;
    let path = disk.root().join(meta.path());
    let io = |source| Error::io("settle segment", &path, source);
    let file = disk.open_writable(&meta.path()).map_err(io)?;
    file.write_at(0, &encode_header(meta)).map_err(io)?;
    file.write_at(meta.file_bytes - FOOTER_BYTES as u64, &encode_footer(meta)).map_err(io)?;
    file.sync().map_err(io)
}
