//! Imports through a server: the same samples as in process, exactly once over a break, and every other command.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use tagmill::Database;
use tagmill_server::cli::import::mapping::{parse_long, parse_wide};
use tagmill_server::cli::import::remote::RemoteSink;
use tagmill_server::cli::import::{Import, run};
use tagmill_server::cli::target::{Door, TargetArgs};
use tagmill_server::lifecycle::{ServeOptions, Server};
use tagmill_storage::Engine;
use tokio::runtime::Runtime;

use super::rules::Breaks;
use super::{NIST_MAP, engine, import_into, stored, write_dirty};

/// A server over a directory, on a port the system chose.
struct Served {
    runtime: Runtime,
    server: Server,
    engine: Arc<Engine>,
}

impl Served {
    fn start(dir: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let database = Database::open(dir, tagmill::Options::default()).unwrap();
        let engine = Arc::clone(database.engine());
        let options =
            ServeOptions { listen: "127.0.0.1:0".parse().unwrap(), ..ServeOptions::default() };
        let server = runtime.block_on(Server::start(database, options)).unwrap();
        Self { runtime, server, engine }
    }

    fn door(&self) -> Door {
        let connect = Some(self.server.address().to_string());
        TargetArgs { connect, ..TargetArgs::default() }.open().unwrap()
    }

    fn sink(&self) -> RemoteSink {
        match self.door() {
            Door::Remote(remote) => RemoteSink::new(remote),
            Door::Local(_) => panic!("an address opens a server"),
        }
    }

    fn stop(self) {
        drop(self.engine);
        self.runtime.block_on(self.server.shutdown()).unwrap();
    }
}

/// A wide file of several batches with every kind of value.
fn write_wide(path: &Path) {
    let mut text = String::from("t,whole,float,mode,on,float__status\n");
    for row in 0..60_000_i64 {
        let mode = ["RUN", "STOP", "UNAVAILABLE"][usize::try_from(row % 3).unwrap()];
        let status = if row % 11 == 0 { "Scan Timeout" } else { "" };
        let time = row * 10 + row % 3;
        writeln!(text, "{time},{row},{row}.25,{mode},{},{status}", row % 2 == 0).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

fn wide(path: &Path) -> Import {
    let mut import = Import::new(path, parse_wide("time=t").unwrap());
    import.times.format = Some("ms".parse().unwrap());
    "wire".clone_into(&mut import.prefix);
    import
}

#[test]
fn through_a_server_a_file_becomes_what_it_becomes_in_process() {
    let dir = tempfile::tempdir().unwrap();
    let (long_path, wide_path) = (dir.path().join("long.parquet"), dir.path().join("wide.csv"));
    write_dirty(&long_path);
    write_wide(&wide_path);
    let imports = [Import::new(&long_path, parse_long(NIST_MAP).unwrap()), wide(&wide_path)];
    let local = engine(&dir.path().join("local"));
    let served = Served::start(&dir.path().join("served"));
    for import in &imports {
        let mut want = import_into(&local, import);
        let mut have = run(import, &mut served.sink(), &|_, _, _| {}).unwrap();
        (want.elapsed, have.elapsed) = Default::default();
        assert_eq!(have, want);
        for tag in want.tags.values().flatten() {
            assert_eq!(stored(&served.engine, tag), stored(&local, tag), "{tag}");
        }
    }
    served.stop();
}

#[test]
fn a_stream_that_breaks_is_taken_up_again_by_either_door() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wide.csv");
    write_wide(&path);
    let import = wide(&path);
    let local = engine(&dir.path().join("local"));
    let want = import_into(&local, &import);
    let served = Served::start(&dir.path().join("served"));
    let broken = run(&import, &mut Breaks::new(served.sink(), 1), &|_, _, _| {});
    assert!(broken.unwrap_err().to_string().contains("broken on purpose"));
    let again = run(&import, &mut served.sink(), &|_, _, _| {}).unwrap();
    assert_eq!((again.batches, again.batches_before), (want.batches, 1));
    served.stop();
    let reopened = engine(&dir.path().join("served"));
    let third = import_into(&reopened, &import);
    assert_eq!((third.batches_before, third.taken), (want.batches, want.taken));
    for tag in want.tags.values().flatten() {
        assert_eq!(stored(&reopened, tag), stored(&local, tag), "{tag}");
    }
}

#[test]
fn a_door_to_a_server_asks_with_settings_and_hears_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.parquet");
    write_dirty(&path);
    let served = Served::start(&dir.path().join("served"));
    let import = Import::new(&path, parse_long(NIST_MAP).unwrap());
    run(&import, &mut served.sink(), &|_, _, _| {}).unwrap();
    let mut door = served.door();
    let names = door.texts("SELECT tag FROM tags ORDER BY tag").unwrap();
    assert_eq!(names, ["M1/load", "M1/mode", "M1/off", "M1/pos", "M2/load"]);
    door.rows("SET timezone = 'Europe/Berlin'", |_| Ok(())).unwrap();
    assert_eq!(door.texts("SHOW timezone").unwrap(), ["Europe/Berlin"]);
    door.rows("RESET timezone", |_| Ok(())).unwrap();
    assert_eq!(door.texts("SHOW timezone").unwrap(), ["UTC"]);
    assert!(door.rows("SET timezone = 'Mars'", |_| Ok(())).is_err());
    assert_eq!(door.texts("SHOW timezone").unwrap(), ["UTC"]);
    let said = door.rows("SELECT nope FROM samples", |_| Ok(())).unwrap_err().to_string();
    assert!(said.contains("nope"), "{said}");
    drop(door);
    served.stop();
}
