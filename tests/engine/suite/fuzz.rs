//! Replays the corpora of the fuzz targets, and every short change of them.

use std::path::Path;

use tagmill_engine_tests::fuzz;

#[test]
fn the_corpus_of_columns_breaks_no_claim() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/column");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 9, "one file for each kind of column");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        fuzz::column(&bytes);
        for at in 0..bytes.len().min(400) {
            fuzz::column(&bytes[..at]);
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                fuzz::column(&changed);
            }
        }
    }
}
