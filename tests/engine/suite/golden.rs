//! A whole database of every released format, kept as files: every later version opens it and finds the same in it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::fuzz::database::{golden, golden_disk, golden_folder};
use tagmill_engine_tests::observe;
use tagmill_storage::disk::Disk;
use tagmill_storage::disk::real::RealDisk;
use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::{
    Batch, Engine, Options, Origin, Qualities, Quality, SECOND_NS, Snapshot, TagColumn,
    TagDefinition, TagEdit, TagId, TimeRange, Value, ValueType, Values,
};

const START_NS: i64 = 1_767_225_600 * SECOND_NS;
const NOW_NS: i64 = START_NS + 30 * 86_400 * SECOND_NS;

fn options() -> Options {
    Options { wal_bytes: 128 << 10, background_compaction: false, ..Options::default() }
}

fn open(disk: Arc<dyn Disk>) -> Engine {
    Engine::open_on(disk, Arc::new(TestClock::new(NOW_NS)), options()).unwrap()
}

/// `rows` samples of a tag from `start` on, one a second.
fn column(tag: TagId, value_type: ValueType, start: i64, rows: i64) -> TagColumn {
    let mut values = Values::empty(value_type);
    let mut each = Vec::new();
    for row in 0..rows {
        let number = u16::try_from((start + row * row) % 97).unwrap();
        values.push(match value_type {
            ValueType::F64 if number == 13 => Value::F64(f64::from_bits(0x7FF8_0000_0000_0007)),
            ValueType::F64 => Value::F64(f64::from(number) / 10.0 - 2.0),
            ValueType::F32 if number == 13 => Value::F32(-0.0),
            ValueType::F32 => Value::F32(f32::from(number) * 150.0 / 4_095.0),
            ValueType::I64 => Value::I64(1_000_000 + row * 7 + i64::from(number)),
            ValueType::Bool => Value::Bool(number % 5 == 0),
            ValueType::State => Value::State(number / 60),
            ValueType::Text => Value::Text(format!("Charge {}", number / 30).into()),
        });
        each.push(if number == 20 { Quality::BAD_NOT_CONNECTED } else { Quality::GOOD });
    }
    let times = (start..start + rows).map(|second| START_NS + second * SECOND_NS).collect();
    TagColumn { tag, times, values, qualities: Qualities::Each(each) }
}

/// A database with something in every kind of file: base and late segments, a delete, and records that are not sealed.
fn write(engine: &Engine) {
    let definitions: Vec<TagDefinition> = (0..18)
        .map(|number| {
            let value_type = ValueType::ALL[number % 6];
            let mut tag = TagDefinition::new(format!("U1/{value_type}-{number}"), value_type);
            tag.attributes.unit = (number % 2 == 0).then(|| "°C".to_owned());
            tag.attributes.labels.insert("area".to_owned(), format!("A{}", number / 6));
            tag.attributes.state_set = (number % 6 == 4).then(|| "motor".to_owned());
            tag
        })
        .collect();
    let tags = engine.define(&definitions).unwrap();
    engine.grow_states("motor", &["STOP".to_owned(), "RUN".to_owned()]).unwrap();
    engine.define_aliases("gw-1", &[(7, tags[0]), (8, tags[17])]).unwrap();
    let session = engine.open_session("gw-1", 3).unwrap();
    let mut seq = 0;
    let mut send = |columns: Vec<TagColumn>| {
        seq += 1;
        let (gateway, session) = (Arc::from("gw-1"), session.generation);
        let origin = Some(Origin { gateway, epoch: 3, seq, session });
        engine.append(Batch { columns, origin, ..Batch::default() }).unwrap();
    };
    let typed = || tags.iter().copied().zip(ValueType::ALL.into_iter().cycle());
    // The first tags get chunks of their own, the others share packed ones.
    send(typed().take(6).map(|(tag, kind)| column(tag, kind, 0, 260)).collect());
    send(typed().skip(6).map(|(tag, kind)| column(tag, kind, 50, 20)).collect());
    engine.seal().unwrap();
    engine.delete(&tags[..3], TimeRange::new(START_NS, START_NS + 9 * SECOND_NS), "me").unwrap();
    // Corrections, late samples and newer ones.
    send(typed().step_by(2).map(|(tag, kind)| column(tag, kind, 5, 30)).collect());
    send(typed().map(|(tag, kind)| column(tag, kind, 90_000, 10)).collect());
    engine.seal().unwrap();
    let name = Some("U1/renamed".to_owned());
    engine.edit_tag(tags[9], TagEdit { name, attributes: None }).unwrap();
    engine.delete_tag(tags[11], "me").unwrap();
    engine.delete(&tags[12..], TimeRange::new(START_NS, START_NS + 60 * SECOND_NS), "me").unwrap();
    send(typed().take(9).map(|(tag, kind)| column(tag, kind, 255, 12)).collect());
}

/// All that a database shows, as lines.
fn describe(engine: &Engine, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let registry = snapshot.registry();
    for id in (0..registry.len()).map(|id| TagId(u32::try_from(id).unwrap())) {
        let tag = registry.get(id).unwrap();
        let (name, kind, unit) = (&tag.name, tag.value_type, &tag.attributes.unit);
        let (set, labels) = (&tag.attributes.state_set, &tag.attributes.labels);
        writeln!(text, "tag {id} {name:?} {kind} {unit:?} {set:?} {labels:?}").unwrap();
        let latest = snapshot.latest(id);
        let latest = latest.map(|l| (l.time_ns, bits(&l.value), l.quality.0));
        writeln!(text, "latest {id} {latest:?}").unwrap();
    }
    for (code, label) in registry.states("motor").unwrap().iter() {
        writeln!(text, "state motor {code} {label}").unwrap();
    }
    let aliases: BTreeSet<_> = engine.aliases("gw-1").iter().map(|(a, t)| (*a, *t)).collect();
    writeln!(text, "aliases {aliases:?}").unwrap();
    for mark in engine.gateways() {
        writeln!(text, "mark {} {} {}", mark.gateway, mark.epoch, mark.seq).unwrap();
    }
    for ((tag, time_ns), (value, quality)) in observe::rows(snapshot).unwrap() {
        writeln!(text, "{tag} {time_ns} {} {:08x}", bits(&value), quality.0).unwrap();
    }
    text
}

/// A value to its last bit.
fn bits(value: &Value) -> String {
    match value {
        Value::F64(value) => format!("{:016x}", value.to_bits()),
        Value::F32(value) => format!("{:08x}", value.to_bits()),
        other => format!("{other:?}"),
    }
}

fn expected() -> String {
    let engine = open(Arc::new(SimDisk::new(1)));
    write(&engine);
    let text = describe(&engine, &engine.snapshot());
    engine.close().unwrap();
    text
}

/// What the golden database shows. `UPDATE_GOLDEN=1` writes the database if it is missing, and nothing else: a released
/// one never changes.
fn shows() -> &'static str {
    static SHOWS: OnceLock<String> = OnceLock::new();
    SHOWS.get_or_init(|| {
        let folder = golden_folder();
        write_if_missing(&folder);
        std::fs::read_to_string(folder.join("shows.txt")).unwrap()
    })
}

fn write_if_missing(folder: &Path) {
    if std::env::var_os("UPDATE_GOLDEN").is_none() || folder.exists() {
        return;
    }
    let disk = SimDisk::new(1);
    let engine = open(Arc::new(disk.clone()));
    write(&engine);
    engine.close().unwrap();
    for (path, _) in disk.files() {
        let target = folder.join(&path);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, disk.bytes(&path).unwrap()).unwrap();
    }
    std::fs::write(folder.join("shows.txt"), expected()).unwrap();
}

#[test]
fn the_golden_database_opens_and_shows_what_it_always_showed() {
    let shows = shows();
    assert!(shows == expected(), "the same steps show something else today");
    let names: Vec<&str> = golden().keys().map(String::as_str).collect();
    for kind in ["manifest-", "registry.log", "latest-", "wal/", "segments/"] {
        assert!(names.iter().any(|name| name.starts_with(kind)), "no {kind} in {names:?}");
    }
    let disk = golden_disk();
    let engine = open(Arc::new(disk.clone()));
    let snapshot = engine.snapshot();
    let kinds: BTreeSet<String> =
        snapshot.segments().iter().map(|segment| segment.kind.to_string()).collect();
    assert!(kinds.iter().eq(["base", "late"]), "{kinds:?}");
    assert!(snapshot.head().rows > 0, "some records are not sealed");
    assert!(describe(&engine, &snapshot) == shows, "the golden database shows something else");
    // It goes on as any other, and what today's version makes of it shows the same.
    engine.seal().unwrap();
    assert!(describe(&engine, &engine.snapshot()) == shows, "a seal changed what it shows");
    engine.close().unwrap();
    let engine = open(Arc::new(disk.restart()));
    assert!(describe(&engine, &engine.snapshot()) == shows, "a reopen changed what it shows");
    engine.close().unwrap();
}

#[test]
fn the_golden_database_opens_on_a_real_disk() {
    let (folder, shows) = (tempfile::tempdir().unwrap(), shows());
    let root = folder.path().join("data");
    for name in ["wal", "segments", "trash"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    for (path, bytes) in golden() {
        std::fs::write(root.join(path), bytes).unwrap();
    }
    let engine = open(Arc::new(RealDisk::open(&root, false).unwrap()));
    assert!(
        describe(&engine, &engine.snapshot()) == shows,
        "the golden database shows something else"
    );
    engine.close().unwrap();
}
