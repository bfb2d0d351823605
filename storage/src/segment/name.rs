//! Names of segment files: `segments/raw-20260101-0000000000000007.seg`.
//!
//! A name carries tier, UTC day of the first sample and id, so that a listing sorts by age. The manifest, not the name,
//! decides what a file is; the name only tells orphans from foreign files.

use crate::SegmentId;
use crate::time::Rfc3339;

/// Folder of the segments.
pub(crate) const SEGMENTS_DIR: &str = "segments";
/// Folder of files that no manifest names: emptied when everything else has verified.
pub(crate) const TRASH_DIR: &str = "trash";
/// Folder of damaged files that are kept for people: nothing in it is ever removed.
pub(crate) const ASIDE_DIR: &str = "quarantine";

/// Names of the tiers, by number: raw, then those of [`crate::tier::Tier`].
const TIERS: [&str; 5] = ["raw", "1m", "15m", "1h", "1d"];

/// What the name of a segment file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentName {
    /// 0 is raw, else the number of a tier.
    pub tier: u8,
    /// UTC day of the first sample, `yyyymmdd`.
    pub day: String,
    /// The segment's id.
    pub id: SegmentId,
}

impl SegmentName {
    /// The name of a file whose first sample is at `first_ns`.
    pub(crate) fn new(tier: u8, first_ns: i64, id: SegmentId) -> Self {
        Self { tier, day: day_of(first_ns), id }
    }

    /// Reads a file name without its folder; `None` if no segment is called so.
    pub(crate) fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(".seg")?.split('-');
        let (tier, day, id) = (parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let shape = parts.next().is_none()
            && (day.len() == 8 && day.bytes().all(|b| b.is_ascii_digit()))
            && (id.len() == 16 && id.bytes().all(is_hex));
        if !shape {
            return None;
        }
        let tier = u8::try_from(TIERS.iter().position(|name| *name == tier)?).ok()?;
        let id = SegmentId(u64::from_str_radix(id, 16).ok()?);
        Some(Self { tier, day: day.to_owned(), id })
    }

    /// The path relative to the database directory.
    pub(crate) fn path(&self) -> String {
        let Self { tier, day, id } = self;
        format!("{SEGMENTS_DIR}/{}-{day}-{:016x}.seg", tier_name(*tier), id.0)
    }

    /// The name in a path, without its folder.
    pub(crate) fn in_path(path: &str) -> &str {
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// Name of a tier: `raw`, `1m`, `15m`, `1h`, `1d`.
///
/// # Panics
/// If there is no such tier; tiers from a disk are checked when they are read.
pub(crate) fn tier_name(tier: u8) -> &'static str {
    TIERS[usize::from(tier)]
}

/// Whether a tier of this number exists.
pub(crate) fn is_tier(tier: u8) -> bool {
    usize::from(tier) < TIERS.len()
}

/// UTC day of an instant, `yyyymmdd`.
pub(crate) fn day_of(time_ns: i64) -> String {
    Rfc3339(time_ns).to_string().chars().take(10).filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::Tier;

    #[test]
    fn a_name_reads_back() {
        let name = SegmentName::new(0, 1_767_225_600_000_000_000, SegmentId(0xAB));
        assert_eq!(name.path(), "segments/raw-20260101-00000000000000ab.seg");
        assert_eq!(SegmentName::parse("raw-20260101-00000000000000ab.seg"), Some(name));
        assert_eq!(SegmentName::new(0, -1, SegmentId(0)).day, "19691231");
        for tier in Tier::ALL {
            assert_eq!(tier_name(tier.code()), tier.to_string());
        }
    }

    #[test]
    fn foreign_names_are_foreign() {
        let good = "raw-20260101-00000000000000ab";
        let cases = [
            good.to_owned(),
            format!("{good}.seg.tmp"),
            format!("{good}-1.seg"),
            good.replace("raw", "2m") + ".seg",
            good.replace("ab", "AB") + ".seg",
            good.replace("00ab", "ab") + ".seg",
            good.replace("2026", "+026") + ".seg",
            ".seg".to_owned(),
            "raw-äääa-00000000000000ab.seg".to_owned(),
        ];
        for name in cases {
            assert_eq!(SegmentName::parse(&name), None, "{name}");
        }
    }
}
