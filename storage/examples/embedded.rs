//! The engine alone, inside another program: define tags, append, read back, seal, reopen.
//!
//! `cargo run -p tagmill-storage --example embedded`

use std::sync::Arc;

use tagmill_storage::{
    Batch, Engine, Options, Qualities, Quality, ScanBlock, ScanRequest, TagColumn, TagDefinition,
    TagSelection, TimeRange, ValueType, Values,
};

const SECOND_NS: i64 = 1_000_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("tagmill-embedded-{}", std::process::id()));
    let result = run(&directory);
    std::fs::remove_dir_all(&directory)?;
    result
}

/// Does all of it in `directory`.
///
/// # Errors
/// What the engine says.
pub fn run(directory: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::open(directory, Options::default())?;

    // Tags have a name, a type that never changes, and attributes that people may edit later.
    let mut pressure = TagDefinition::new("U1/PI-101.PV", ValueType::F64);
    pressure.attributes.unit = Some("bar".into());
    pressure.attributes.labels.insert("area", "U1");
    let ids = engine.define(&[pressure, TagDefinition::new("U1/FQ-101", ValueType::I64)])?;
    let (pressure, total) = (ids[0], ids[1]);

    // A column of one tag: times in any order, a quality for each. It is on disk when the call returns.
    let start = 1_767_225_600 * SECOND_NS; // 2026-01-01
    let column = TagColumn {
        tag: pressure,
        times: vec![start, start + 2 * SECOND_NS, start + SECOND_NS],
        values: Values::F64(vec![2.5, 2.7, 2.6]),
        qualities: Qualities::Each(vec![Quality::GOOD, Quality::BAD, Quality::GOOD]),
    };
    let appended = engine.append(Batch { columns: vec![column], ..Batch::default() })?;
    println!("{} samples are on disk as record {}", appended.accepted, appended.seq);

    // Scan cycles: every tag of a list read at every time.
    let scan = ScanBlock {
        tags: Arc::from([pressure, total]),
        times: (10..20).map(|second| start + second * SECOND_NS).collect(),
        values: (10..20)
            .flat_map(|second| [2.0 + f64::from(second) / 10.0, f64::from(second)])
            .collect(),
        missing: Vec::new(),
        qualities: Qualities::GOOD,
    };
    engine.append(Batch { scans: vec![scan], ..Batch::default() })?;

    // Move the head into a segment, close, and open again: nothing changes.
    engine.seal()?;
    engine.close()?;
    let engine = Engine::open(directory, Options::default())?;
    let snapshot = engine.snapshot();
    let minute = TimeRange::new(start, start + 60 * SECOND_NS);
    let mut rows = 0;
    for batch in snapshot.scan(ScanRequest::new(TagSelection::All, minute)) {
        let batch = batch?;
        let name = &snapshot.registry().get(batch.tag).ok_or("unknown tag")?.name;
        println!("{name}: {} samples, first {:?}", batch.times.len(), batch.values.get(0));
        rows += batch.times.len();
    }
    let latest = snapshot.latest(total).ok_or("no sample")?;
    println!("{rows} samples in that minute; the totaliser stands at {:?}", latest.value);
    engine.close()?;
    Ok(())
}
