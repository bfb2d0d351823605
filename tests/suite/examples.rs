//! The examples run, and show what they say they show.

#[path = "../../storage/examples/embedded.rs"]
#[expect(dead_code, unreachable_pub, reason = "an example has a main, a module has none")]
mod embedded;

/// The engine's example checks nothing by itself: an error is what would fail it. What it leaves must be readable.
#[test]
fn the_embedded_engine_keeps_what_its_example_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("plant");
    embedded::run(&directory).unwrap();
    let options = tagmill_storage::Options { create: false, ..Default::default() };
    let engine = tagmill_storage::Engine::open(&directory, options).unwrap();
    let snapshot = engine.snapshot();
    let rows: u64 = snapshot.segments().iter().map(|segment| segment.rows).sum();
    assert_eq!((snapshot.registry().len(), rows), (2, 23));
}
