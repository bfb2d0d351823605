//! Brings one file from one directory to another.
//!
//! # Contract
//! A file has its final name only when all its bytes are durable. The name itself is durable when its folder is synced.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::disk::Disk;
use crate::error::{Error, Result};

/// Bytes of one read and write.
const SLICE_BYTES: usize = 1 << 20;
/// Ending of a file that is being written.
pub(crate) const PART: &str = ".part";

/// How a file came to be where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brought {
    Linked,
    Copied,
}

/// Brings `path` from `source` to `target` under the same name, by a link if that is allowed and possible.
pub(crate) fn bring(
    source: &Arc<dyn Disk>,
    target: &Arc<dyn Disk>,
    path: &str,
    may_link: bool,
) -> Result<Brought> {
    if may_link && link(source, target, path) {
        return Ok(Brought::Linked);
    }
    let file = source.open(path).map_err(|e| Error::io("open", path, e))?;
    let length = file.len().map_err(|e| Error::io("read", path, e))?;
    copy_prefix(source, target, path, length)?;
    Ok(Brought::Copied)
}

/// Copies the first `length` bytes of a file, in place of what the target has under that name.
pub(crate) fn copy_prefix(
    source: &Arc<dyn Disk>,
    target: &Arc<dyn Disk>,
    path: &str,
    length: u64,
) -> Result<()> {
    let from = source.open(path).map_err(|e| Error::io("open", path, e))?;
    write(target, path, |to| {
        let mut buffer = vec![0; SLICE_BYTES];
        let mut offset = 0;
        while offset < length {
            let left = usize::try_from(length - offset).unwrap_or(SLICE_BYTES);
            let slice = &mut buffer[..left.min(SLICE_BYTES)];
            from.read_at(offset, slice).map_err(|e| Error::io("read", path, e))?;
            to(slice)?;
            offset += slice.len() as u64;
        }
        Ok(())
    })
}

/// Writes a file of these bytes, in place of what has its name.
pub(crate) fn put(target: &Arc<dyn Disk>, path: &str, bytes: &[u8]) -> Result<()> {
    write(target, path, |to| to(bytes))
}

fn write(
    target: &Arc<dyn Disk>,
    path: &str,
    fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let part = format!("{path}{PART}");
    let refused = |e: io::Error| Error::io("write", target.root().join(path), e);
    match target.remove(&part) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
    }
    let new = target.create(&part, 0).map_err(refused)?;
    let mut offset = 0;
    let filled = fill(&mut |bytes| {
        new.write_at(offset, bytes).map_err(refused)?;
        offset += bytes.len() as u64;
        Ok(())
    });
    let done = filled.and_then(|()| new.sync().map_err(refused));
    let done = done.and_then(|()| target.rename(&part, path).map_err(refused));
    done.inspect_err(|_| drop(target.remove(&part)))
}

/// Whether both have one and the same file under this name.
pub(crate) fn is_shared(source: &Arc<dyn Disk>, target: &Arc<dyn Disk>, path: &str) -> bool {
    match (source.as_real(), target.as_real()) {
        (Some(source), Some(target)) => source.shares(path, target).unwrap_or(false),
        _ => false,
    }
}

/// Whether the file could be linked.
fn link(source: &Arc<dyn Disk>, target: &Arc<dyn Disk>, path: &str) -> bool {
    match (source.as_real(), target.as_real()) {
        (Some(source), Some(target)) => source.link_to(path, target).is_ok(),
        _ => false,
    }
}
