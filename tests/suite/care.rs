//! Backup, restore, verify and salvage by the command line: each once, as a person would.

use std::path::Path;
use std::process::{Command, Output};

use tagmill_tests::process::{Server, free_address};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tagmill-under-test");

fn run(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn well(words: &[&str]) -> String {
    let output = run(words);
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    said(&output)
}

/// Ends with exit code 1 and gives what was said.
fn badly(words: &[&str]) -> String {
    let output = run(words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}", said(&output));
    said(&output)
}

fn count(data: &str) -> String {
    well(&["sql", "--data", data, "--format", "csv", "-c", "SELECT count(*) AS n FROM samples"])
}

fn write(data: &str, second: u32) {
    let time = format!("2026-01-01T00:00:{second:02}Z");
    well(&["write", "U1/TI-1", &time, "20.5", "--data", data]);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The largest file of a folder.
fn largest(folder: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_backup_is_taken_verified_restored_and_its_damage_found() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let (data, folder, again) = (path("data"), path("backup"), path("again"));
    let (data, folder, again) = (text(&data), text(&folder), text(&again));
    (0..5).for_each(|second| write(data, second));
    assert!(well(&["backup", folder, "--data", data, "--copy"]).contains("1 segments"));
    assert!(well(&["verify", folder]).contains("0 damaged"));
    assert!(well(&["restore", folder, again]).contains("verified"));
    assert_eq!(count(again), count(data));
    assert!(badly(&["restore", folder, again]).contains("not empty"));
    assert!(badly(&["sql", "--data", folder, "-c", "SELECT 1"]).contains("tagmill restore"));

    let segment = largest(&path("backup").join("segments"));
    flip(&segment, 70);
    let found = badly(&["verify", folder]);
    assert!(found.contains("U1/TI-1") && found.contains("2026-01-01T00:00:00Z"), "{found}");
    let third = path("third");
    assert!(badly(&["restore", folder, text(&third)]).contains("tagmill verify"));
    let fourth = path("fourth");
    let accepted = badly(&["restore", folder, text(&fourth), "--accept-damage"]);
    assert!(accepted.contains("quarantine"), "{accepted}");
    let query = "SELECT count(*) AS n FROM samples";
    let sql = ["sql", "--data", text(&fourth), "-c"];
    let failed = badly(&[&sql[..], &[query]].concat());
    assert!(failed.contains("U1/TI-1") && failed.contains("segments/"), "{failed}");
    let skipping = format!("SET tagmill.damaged = skip; {query}");
    let skipped = well(&[&sql[..], &[&skipping]].concat());
    assert!(skipped.contains("left out") && skipped.contains("U1/TI-1"), "{skipped}");
    let listed =
        well(&[&sql[..], &["SELECT segment_id, first_tag, file FROM system.damage"]].concat());
    assert!(listed.contains("U1/TI-1"), "{listed}");
    assert!(well(&["salvage", text(&fourth), "--drop", "1"]).contains("--yes"));
    assert!(well(&["salvage", text(&fourth), "--drop", "1", "--yes"]).contains("given up"));
    well(&["verify", text(&fourth)]);
    assert!(count(text(&fourth)).contains('0'));
}

#[test]
fn a_log_with_a_bad_middle_is_salvaged() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    (0..5).for_each(|second| write(text(&data), second));
    assert!(well(&["salvage", text(&data)]).contains("nothing to salvage"));
    let log = largest(&data.join("wal"));
    flip(&log, 64 + 44); // in the payload of the first record
    let failed = badly(&["sql", "--data", text(&data), "-c", "SELECT 1"]);
    assert!(failed.contains("tagmill salvage"), "{failed}");
    badly(&["verify", text(&data)]);
    let planned = well(&["salvage", text(&data)]);
    assert!(planned.contains("lost: records 1 to 1") && planned.contains("--yes"), "{planned}");
    badly(&["verify", text(&data)]);
    assert!(well(&["salvage", text(&data), "--yes"]).contains("done:"));
    well(&["verify", text(&data)]);
    count(text(&data));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_backed_up_only_where_it_was_allowed() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, address) = (scratch.path().join("data"), free_address());
    write(text(&data), 1);
    let server = Server::start(PROGRAM, &data, &address).await;
    let refused = badly(&["backup", "plant", "--connect", &address]);
    assert!(refused.contains("--backups"), "{refused}");
    assert!(well(&["verify", "--connect", &address]).contains("0 damaged"));
    server.kill();
}
