//! What the operating system says: memory and processor time of this process, bytes of a directory by kind of file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Bytes of memory in use now, and the most there ever were; 0 where the system does not say.
pub fn memory_bytes() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let bytes = |name| field(name).unwrap_or(0) * 1024;
    (bytes("VmRSS:"), bytes("VmHWM:"))
}

/// Seconds that all threads of this process have had a processor; 0 where the system does not say. Where other programs run
/// beside a benchmark it says what the work costs, and the clock what became of it.
pub fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything: of the fields from the third on, the 14th and the 15th of all.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// Bytes of all files below `folder`, by kind: the folder they are in, or the beginning of their name.
///
/// # Errors
/// If the folder cannot be read.
pub fn bytes_by_kind(folder: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut kinds = BTreeMap::new();
    let mut open = vec![(folder.to_path_buf(), None)];
    while let Some((path, kind)) = open.pop() {
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let first = name.split(['-', '.']).next().unwrap_or_default().to_owned();
            let kind = kind.clone().unwrap_or(first);
            if entry.file_type()?.is_dir() {
                open.push((entry.path(), Some(kind)));
            } else {
                *kinds.entry(kind).or_insert(0) += entry.metadata()?.len();
            }
        }
    }
    Ok(kinds)
}
