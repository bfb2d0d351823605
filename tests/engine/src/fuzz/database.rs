//! A whole database of which one file holds any bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::fuzzing::books::{Checkpoint, seal_manifest, seal_registry};
use tagmill_storage::fuzzing::log::seal_log;
use tagmill_storage::{Engine, Error, Options};

use crate::clock::TestClock;
use crate::observe;

/// A moment after every sample of the golden database.
const NOW_NS: i64 = 1_800_000_000_000_000_000;

/// The golden database: its files by path.
pub fn golden() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let root = golden_folder();
        let mut files = BTreeMap::new();
        for folder in ["", "wal", "segments"] {
            let entries = std::fs::read_dir(root.join(folder)).expect("the golden database");
            for entry in entries {
                let path = entry.expect("a folder").path();
                if path.is_file() && path.extension().is_none_or(|kind| kind != "txt") {
                    let name = path.strip_prefix(&root).expect("it is in there");
                    let name = name.to_str().expect("plain names").to_owned();
                    files.insert(name, std::fs::read(&path).expect("a file"));
                }
            }
        }
        files
    })
}

/// Where the golden database is kept.
pub fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/database/v1")
}

/// Puts the golden database on a simulated disk.
pub fn golden_disk() -> SimDisk {
    let disk = SimDisk::new(1);
    for folder in ["wal", "segments", "trash"] {
        tagmill_storage::disk::Disk::create_dir(&disk, folder).expect("an empty disk");
    }
    for (path, bytes) in golden() {
        disk.replace(path, bytes);
    }
    disk
}

/// A database of which one file holds any bytes, checksums renewed, opens or is refused. One that opens and can be read
/// shows the same rows after it was closed and opened again.
///
/// The first byte chooses the file.
pub fn database(data: &[u8]) {
    let [which, bytes @ ..] = data else { return };
    let paths: Vec<&String> = golden().keys().collect();
    let path = paths[usize::from(*which) % paths.len()];
    let mut bytes = bytes.to_vec();
    if path.starts_with("manifest") {
        seal_manifest(&mut bytes);
    } else if path.starts_with("wal") {
        seal_log(&mut bytes, true);
    } else if path.starts_with("registry") {
        seal_registry(&mut bytes);
    } else if let Some(number) = path.strip_prefix("latest-") {
        let number = number.strip_suffix(".ckpt").unwrap_or_default();
        Checkpoint::seal(&mut bytes, u64::from_str_radix(number, 16).unwrap_or(0));
    }
    let disk = golden_disk();
    disk.replace(path, &bytes);
    let Some(rows) = look(&disk) else { return };
    let again = look(&disk.restart()).expect("what opened once opens again");
    assert_eq!(again.len(), rows.len(), "rows changed by themselves");
    let wrong = crate::model::difference(&rows, &again);
    assert_eq!(wrong, None, "rows changed by themselves");
}

/// Opens the database, reads everything and closes it; `None` if it is refused.
fn look(disk: &SimDisk) -> Option<crate::model::Rows> {
    let clock = Arc::new(TestClock::new(NOW_NS));
    let options = Options { create: false, wal_bytes: 128 << 10, ..Options::default() };
    let engine = match Engine::open_on(Arc::new(disk.clone()), clock, options) {
        Ok(engine) => engine,
        Err(Error::Corrupt { .. } | Error::TooNew { .. } | Error::Invalid(_)) => return None,
        Err(error) => panic!("bad bytes gave {error:?}"),
    };
    let rows = match observe::rows(&engine.snapshot()) {
        Ok(rows) => Some(rows),
        Err(error) => {
            super::check_refusal(&error);
            None
        }
    };
    engine.close().expect("a healthy disk");
    rows
}
