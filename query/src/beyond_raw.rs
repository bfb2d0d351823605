//! [`Bounds`]: what a statement does about the bounds of windows where samples have ended and rollups are left.
//!
//! A rollup cannot be cut: bounds move inward to whole ones, and the asker is told; or, with `tagmill.strict`, the
//! statement is refused. Which windows can be answered for at all is the engine's to know ([`Snapshot::cut`]).

use std::collections::HashSet;

use datafusion::common::Result;
use tagmill_storage::{Rfc3339, Snapshot, TagId, TimeRange};

use crate::error::into_datafusion;
use crate::relations::Scope;
use crate::selection::Notices;

/// What is done about bounds that cut a rollup.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    notices: Notices,
    is_strict: bool,
}

impl Bounds {
    /// As the session has it.
    pub(crate) fn of(scope: &Scope) -> Self {
        Self { notices: scope.notices.clone(), is_strict: scope.settings.is_strict() }
    }

    /// Says, once for each retention class of these tags, where a range is cut.
    ///
    /// # Errors
    /// If it is and must not be.
    pub(crate) fn check(
        &self,
        snapshot: &Snapshot,
        tags: impl Iterator<Item = TagId>,
        range: TimeRange,
    ) -> Result<()> {
        if snapshot.left_from().is_none_or(|left_ns| range.end_ns <= left_ns) {
            return Ok(());
        }
        let mut classes = HashSet::new();
        for tag in tags.filter_map(|tag| snapshot.registry().get(tag)) {
            let class = tag.attributes.retention.as_deref();
            if !classes.insert(class) {
                continue;
            }
            let Some(left) = snapshot.cut(tag.id, range) else { continue };
            let whose = match class {
                Some(class) => format!("tags of retention class '{class}'"),
                None => "tags of the default retention class".to_owned(),
            };
            let cut = if left.is_empty() {
                "nothing of the range is".to_owned()
            } else if left.start_ns > range.start_ns {
                format!("the range begins at {}", Rfc3339(left.start_ns))
            } else {
                format!("the range ends at {}", Rfc3339(left.end_ns))
            };
            let why =
                format!("where samples of {whose} have ended only whole rollups are left: {cut}");
            if self.is_strict {
                let why = format!("{why}; tagmill.strict lets no bound move");
                return Err(into_datafusion(crate::Error::Execution(why)));
            }
            self.notices.add(why);
        }
        Ok(())
    }
}
