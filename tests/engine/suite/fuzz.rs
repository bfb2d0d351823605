//! Replays the corpora of the fuzz targets, and short changes of them.

use std::path::{Path, PathBuf};

use tagmill_engine_tests::fuzz::{TARGETS, Target};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Names the input that broke a claim.
struct Input<'a>(&'a Path);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {}, or a change of it", self.0.display());
        }
    }
}

/// Every input of a target, and of each that many prefixes and flipped bits, evenly spread.
fn replay(name: &str, attempts: usize) {
    let Target { body, .. } = TARGETS.into_iter().find(|target| target.name == name).unwrap();
    let inputs = corpus(name);
    assert!(inputs.len() >= 3, "{name} has a corpus");
    for (path, bytes) in &inputs {
        let _input = Input(path);
        body(bytes);
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(attempts.max(1)).max(1)) {
            if attempts == 0 {
                break;
            }
            body(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            body(&changed);
        }
    }
}

#[test]
fn columns_break_no_claim() {
    replay("column", 60);
}

#[test]
fn chunks_break_no_claim() {
    replay("chunk", 40);
}

#[test]
fn segments_break_no_claim() {
    replay("segment", 40);
}

#[test]
fn blocks_of_rollups_break_no_claim() {
    replay("rollups", 60);
}

#[test]
fn log_records_break_no_claim() {
    replay("wal_record", 60);
}

#[test]
fn log_files_break_no_claim() {
    replay("wal", 40);
}

#[test]
fn manifests_break_no_claim() {
    replay("manifest", 60);
}

#[test]
fn registries_break_no_claim() {
    replay("registry", 60);
}

#[test]
fn checkpoints_break_no_claim() {
    replay("checkpoint", 60);
}

#[test]
fn databases_with_a_strange_file_break_no_claim() {
    replay("database", 4);
}

#[test]
fn steps_break_no_claim() {
    replay("engine", 0);
}

#[test]
fn every_corpus_belongs_to_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_ours = TARGETS.iter().any(|target| target.name == name);
        // The server replays those that are not here.
        let is_the_servers = ["ingest", "lines", "http_body", "postgres"].contains(&name.as_str());
        assert!(is_ours || is_the_servers, "no target {name}");
    }
}
