//! [`Draft`]: files that are written before an edit names them.
//!
//! # Contract
//! What an edit did not come to name is unlinked when the draft is dropped; what stays then, after a crash or because the
//! disk refuses, is moved to the trash by the next open. Files that an edit names, or may name, are to be kept.

use std::sync::Arc;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::segment::name::SEGMENTS_DIR;
use crate::segment::writer::{SegmentPlan, SegmentWriter};

/// Files that no manifest names yet.
#[derive(Debug)]
pub(crate) struct Draft {
    disk: Arc<dyn Disk>,
    paths: Vec<String>,
}

impl Draft {
    /// Without a file.
    pub(crate) fn new(disk: &Arc<dyn Disk>) -> Self {
        Self { disk: Arc::clone(disk), paths: Vec::new() }
    }

    /// Takes a file of this name, which is about to be made.
    pub(crate) fn add(&mut self, path: String) {
        self.paths.push(path);
    }

    /// Begins a segment.
    pub(crate) fn begin(&mut self, plan: SegmentPlan) -> Result<SegmentWriter> {
        self.add(plan.path());
        SegmentWriter::create(self.disk.as_ref(), plan)
    }

    /// Makes the names of the segments durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let synced = self.disk.sync_dir(SEGMENTS_DIR);
        synced.map_err(|e| Error::io("sync folder", SEGMENTS_DIR, e))
    }

    /// What an edit says of them: they are kept if it was made, or may have been.
    pub(crate) fn decide<T>(mut self, edited: Result<T>) -> Result<T> {
        if matches!(edited, Ok(_) | Err(Error::Poisoned { .. })) {
            self.paths.clear();
        }
        edited
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        unlink(&self.disk, &self.paths);
    }
}

/// Unlinks files that nobody needs, as far as the disk lets go of them.
pub(crate) fn unlink(disk: &Arc<dyn Disk>, paths: &[String]) {
    for path in paths {
        match disk.remove(path) {
            Ok(()) | Err(_) => {}
        }
    }
}
