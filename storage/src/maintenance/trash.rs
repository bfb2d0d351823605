//! Empties the trash: segments that a crash left, and that no manifest names.
//!
//! They are kept until everything that a manifest does name has been read again and found whole: as long as something is
//! missing, they might be what someone looks for.

use super::draft::unlink;
use crate::engine::core::Core;
use crate::segment::name::{SegmentName, TRASH_DIR};

/// Unlinks the segments in the trash if nothing is in quarantine. The caller has verified every live segment.
pub(crate) fn empty(core: &Core) {
    if !core.view().quarantine.places().is_empty() {
        return;
    }
    let names = core.disk.list(TRASH_DIR).unwrap_or_default();
    let names = names.into_iter().filter(|(name, _)| SegmentName::parse(name).is_some());
    let paths: Vec<String> = names.map(|(name, _)| format!("{TRASH_DIR}/{name}")).collect();
    unlink(&core.disk, &paths);
}
