//! Which system calls a victim makes on its database: read from a trace.

use std::collections::BTreeMap;
use std::path::Path;

/// Calls that touch files. What the engine does not use is simply never seen.
const CALLS: [&str; 19] = [
    "openat",
    "pread64",
    "read",
    "pwrite64",
    "write",
    "pwritev",
    "fdatasync",
    "fsync",
    "fallocate",
    "ftruncate",
    "rename",
    "renameat",
    "renameat2",
    "unlinkat",
    "mkdirat",
    "flock",
    "statx",
    "newfstatat",
    "getdents64",
];

/// One call of one thread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site {
    /// Name of the call.
    pub(super) call: String,
    /// Path below the database directory by which calls are counted; `None` to count every call of the thread.
    pub(super) path: Option<String>,
    /// Which of them, from 1.
    pub(super) when: u64,
}

/// What to trace, for `strace -e`.
pub(super) fn expression() -> String {
    format!("trace={}", CALLS.join(","))
}

/// The calls on files below `data` in a trace made with `-f -y`, each once.
pub(super) fn sites(trace: &str, data: &Path) -> Vec<Site> {
    let data = data.display().to_string();
    let mut by_thread: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut by_path: BTreeMap<(&str, &str, String), u64> = BTreeMap::new();
    // Calls of each kind that the first thread makes while the program is loaded: not to be hit.
    let mut loading: BTreeMap<&str, u64> = BTreeMap::new();
    let mut found = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        if !CALLS.contains(&call) {
            continue; // the second half of a call, or the end of a process
        }
        let in_thread = by_thread.entry((thread, call)).or_default();
        *in_thread += 1;
        let Some(path) = target(arguments, &data) else {
            if found.is_empty() {
                *loading.entry(call).or_default() += 1;
            }
            continue;
        };
        let on_path = by_path.entry((thread, call, path.clone())).or_default();
        *on_path += 1;
        let has_fixed_name = !path.is_empty() && path != "." && !path.starts_with("wal/");
        let (path, when) = if has_fixed_name { (Some(path), *on_path) } else { (None, *in_thread) };
        if path.is_some() || when > loading.get(call).copied().unwrap_or(0) {
            found.push(Site { call: call.to_owned(), path, when });
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The path below `data` that a call is about: the name beside a folder's handle, or the file of a handle.
fn target(arguments: &str, data: &str) -> Option<String> {
    let (_, rest) = arguments.split_once('<')?;
    let (handle, rest) = rest.split_once('>')?;
    let below = handle.strip_suffix(" (deleted)").unwrap_or(handle).strip_prefix(data)?;
    let below = below.trim_start_matches('/');
    let named = rest.strip_prefix(", \"").and_then(|rest| rest.split_once('"'));
    match named {
        // With `-s 0` contents show as an empty text; names of files are never cut.
        Some((name, _)) if !name.is_empty() && below.is_empty() => Some(name.to_owned()),
        _ => Some(below.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_gives_the_calls_on_the_database() {
        let trace = "\
7 openat(AT_FDCWD</x>, \"/lib/libc.so\", O_RDONLY) = 3</lib/libc.so>
7 openat(3</t/data>, \"registry.log\", O_RDWR|O_CREAT, 0600) = 4</t/data/registry.log>
7 pwrite64(4</t/data/registry.log>, \"\"..., 64, 0) = 64
8 pwrite64(5</t/data/wal/1-2.wal>, \"\"..., 64, 0 <unfinished ...>
7 fdatasync(4</t/data/registry.log>) = 0
8 <... pwrite64 resumed>) = 64
8 pwrite64(5</t/data/wal/1-2.wal>, \"\"..., 64, 64) = 64
7 fsync(6</t/data>) = 0
7 +++ exited with 0 +++
";
        let found = sites(trace, Path::new("/t/data"));
        let site = |call: &str, path: Option<&str>, when| Site {
            call: call.into(),
            path: path.map(Into::into),
            when,
        };
        let expected = [
            site("fdatasync", Some("registry.log"), 1),
            site("fsync", None, 1),
            site("openat", Some("registry.log"), 1),
            site("pwrite64", None, 1),
            site("pwrite64", None, 2),
            site("pwrite64", Some("registry.log"), 1),
        ];
        assert_eq!(found, expected);
    }
}
