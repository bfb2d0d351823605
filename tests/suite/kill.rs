//! `kill -9` in the middle of ingest: a real server, real gateways that stream, reconnect and resume, and a log of
//! acknowledgements that the gateways keep. After each kill every acknowledged batch is there, and none in part. The kills
//! come at any moment, or, by `strace`, at a system call that also may fail instead.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampNanosecondType};
use arrow::ipc::reader::StreamReader;
use tagmill_client::{
    Admin, BatchBuilder, Gateway, GatewayOptions, Piece, Query, TagDef, ValueType,
};
use tagmill_engine_tests::observe;
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_engine_tests::tally::Tally;
use tagmill_storage::disk::sim::Random;
use tagmill_storage::{DAY_NS, Engine, Options, SECOND_NS, Snapshot, Value};
use tagmill_tests::process::{Server, free_address, refused};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tagmill-under-test");
const GATEWAYS: usize = 3;
const TAGS: usize = 8;
const KILLS: usize = 50;
/// Servers that are killed at a system call, or that meet a failing one.
const POINTS: u64 = 60;
/// Batches after which one of them has done enough, and how long it may take.
const ENOUGH: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(3);
const BASE_NS: i64 = 1_767_225_600 * SECOND_NS;
const STEP_NS: i64 = 10_000_000;

fn name(gateway: usize, tag: usize) -> String {
    format!("kill/gateway {gateway}/tag {tag}")
}

/// What batch `number` (from 1) writes: tag, time and value, in order. Small whole numbers, so that sums are exact.
fn samples(gateway: usize, number: u64) -> Vec<(usize, i64, i64)> {
    let mut random = Random::new(number * 31 + gateway as u64);
    let at = |number: u64| BASE_NS + number.cast_signed() * STEP_NS;
    let mut small = || random.below(1_000).cast_signed();
    let mut samples: Vec<_> = (0..TAGS).map(|tag| (tag, at(number), small())).collect();
    // A correction of an earlier sample, and now and then a late one: their order decides what is there.
    let corrected = number.saturating_sub(1 + number % 7).max(1);
    samples.push((1 + usize::try_from(number % 7).unwrap(), at(corrected), small()));
    if number.is_multiple_of(10) {
        let late = BASE_NS - DAY_NS + (number % 300).cast_signed() * STEP_NS;
        samples.push((3, late, small()));
    }
    samples
}

type Rows = BTreeMap<(usize, i64), i64>;

/// What one gateway has written, as far as is known.
#[derive(Debug, Default)]
struct Written {
    batches: u64,
    rows: Rows,
}

impl Written {
    fn advance(&mut self, gateway: usize, batches: u64) {
        assert!(self.batches <= batches, "gateway {gateway}: {} became {batches}", self.batches);
        for number in self.batches + 1..=batches {
            let samples = samples(gateway, number);
            self.rows.extend(samples.into_iter().map(|(tag, time, value)| ((tag, time), value)));
        }
        self.batches = batches;
    }
}

/// Batches that are whole in these rows: those whose first sample is there.
fn count_batches(rows: &Rows) -> u64 {
    rows.range((0, BASE_NS)..(1, i64::MIN)).count() as u64
}

/// Sends until told to stop.
async fn stream(gateway: Arc<Gateway>, number: usize, aliases: Vec<u32>, stop: Arc<AtomicBool>) {
    let mut random = Random::new(number as u64);
    for batch in 1.. {
        let mut builder = BatchBuilder::new();
        for (tag, time, value) in samples(number, batch) {
            builder.f64(aliases[tag], &[time], &[value as f64]).unwrap();
        }
        gateway.send(builder).await.unwrap();
        tokio::time::sleep(Duration::from_micros(random.below(2_000))).await;
        if stop.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// Gateways that stream until they are closed, through every end of the server.
struct Fleet {
    stop: Arc<AtomicBool>,
    gateways: Vec<Arc<Gateway>>,
    senders: Vec<tokio::task::JoinHandle<()>>,
}

impl Fleet {
    async fn connect(address: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut gateways, mut senders) = (Vec::new(), Vec::new());
        for number in 0..GATEWAYS {
            let options = GatewayOptions {
                retry_min: Duration::from_millis(2),
                retry_max: Duration::from_millis(20),
                ..GatewayOptions::new(format!("gateway {number}"))
            };
            let gateway = Arc::new(Gateway::connect(address, options).await.unwrap());
            let tags: Vec<_> =
                (0..TAGS).map(|tag| TagDef::new(name(number, tag), ValueType::F64)).collect();
            let aliases = gateway.define(&tags).await.unwrap();
            let sending = stream(Arc::clone(&gateway), number, aliases, Arc::clone(&stop));
            senders.push(tokio::spawn(sending));
            gateways.push(gateway);
        }
        Self { stop, gateways, senders }
    }

    /// Batches that each of them knows to be durable.
    fn acked(&self) -> Vec<u64> {
        self.gateways.iter().map(|gateway| gateway.acked().0).collect()
    }

    /// Sends what is left. Gives how many batches each has sent.
    async fn close(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        for sender in self.senders {
            sender.await.unwrap();
        }
        let mut acked = Vec::new();
        for gateway in self.gateways {
            let summary = Arc::into_inner(gateway).unwrap().close().await.unwrap();
            assert_eq!(summary.rejected_samples, 0, "{:?}", summary.rejects);
            acked.push(summary.acked.0);
        }
        acked
    }
}

fn rows_of(snapshot: &Snapshot, gateway: usize) -> Rows {
    let registry = snapshot.registry();
    let ids: Vec<_> = (0..TAGS).map(|tag| registry.find(&name(gateway, tag))).collect();
    let mut found = Rows::new();
    for ((id, time), (value, _)) in observe::rows(snapshot).unwrap() {
        let Some(tag) = ids.iter().position(|known| *known == Some(id)) else { continue };
        let Value::F64(value) = value else { panic!("a value of another type") };
        found.insert((tag, time), format!("{value}").parse().unwrap());
    }
    found
}

/// Opens the dead server's directory and looks at everything.
fn check_directory(data: &Path, written: &mut [Written], acked: &[u64]) {
    let engine = Engine::open(data, Options { create: false, ..Options::default() }).unwrap();
    let snapshot = engine.snapshot();
    for (gateway, written) in written.iter_mut().enumerate() {
        let found = rows_of(&snapshot, gateway);
        let batches = count_batches(&found);
        assert!(batches >= acked[gateway], "{batches} of {} acknowledged", acked[gateway]);
        written.advance(gateway, batches);
        assert_eq!(found, written.rows, "gateway {gateway} after {batches} batches");
        for tag in 0..TAGS {
            let id = snapshot.registry().find(&name(gateway, tag));
            let latest = id.and_then(|id| snapshot.latest(id));
            let newest = written.rows.range((tag, i64::MIN)..(tag + 1, i64::MIN)).next_back();
            let newest = newest.map(|((_, time), value)| (*time, Value::F64(*value as f64)));
            assert_eq!(latest.map(|latest| (latest.time_ns, latest.value)), newest);
        }
    }
    engine.close().unwrap();
}

async fn sql(address: &str, statement: &str) -> Vec<RecordBatch> {
    let mut query = Query::connect(address).await.unwrap();
    let mut answer = query.execute(statement, HashMap::new()).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = answer.next().await.unwrap() {
        if let Piece::Ipc(part) = piece {
            bytes.extend_from_slice(&part);
        }
    }
    StreamReader::try_new(bytes.as_slice(), None).unwrap().map(Result::unwrap).collect()
}

/// Asks the restarted server, while the gateways go on: one statement sees one instant.
async fn check_server(address: &str, written: &mut [Written], acked: &[u64]) {
    let statement = format!(
        "SELECT tag, count(*) AS n, count(*) FILTER (WHERE ts >= to_timestamp_nanos({BASE_NS})) \
         AS regular, sum(value) AS total FROM samples WHERE tag LIKE 'kill/%' GROUP BY tag"
    );
    let mut found: BTreeMap<String, (i64, i64, f64)> = BTreeMap::new();
    for batch in sql(address, &statement).await {
        let tags = arrow::compute::cast(&batch["tag"], &arrow::datatypes::DataType::Utf8).unwrap();
        let n = batch["n"].as_primitive::<Int64Type>();
        let regular = batch["regular"].as_primitive::<Int64Type>();
        let total = batch["total"].as_primitive::<Float64Type>();
        for (at, tag) in tags.as_string::<i32>().iter().enumerate() {
            let counts = (n.value(at), regular.value(at), total.value(at));
            found.insert(tag.unwrap().to_owned(), counts);
        }
    }
    for (gateway, written) in written.iter_mut().enumerate() {
        let batches = found.get(&name(gateway, 0)).map_or(0, |counts| counts.1.unsigned_abs());
        assert!(batches >= acked[gateway], "{batches} of {} acknowledged", acked[gateway]);
        written.advance(gateway, batches);
        for tag in 0..TAGS {
            let rows: Vec<_> = written.rows.range((tag, i64::MIN)..(tag + 1, i64::MIN)).collect();
            let total: i64 = rows.iter().map(|(_, value)| **value).sum();
            let counts = found.get(&name(gateway, tag)).copied().unwrap_or_default();
            let (n, _, sum) = counts;
            assert_eq!(n, i64::try_from(rows.len()).unwrap(), "rows of {}", name(gateway, tag));
            assert_eq!(sum.to_bits(), (total as f64).to_bits(), "sum of {}", name(gateway, tag));
        }
    }
}

/// Every row and the latest of every tag by SQL, when nobody writes any more.
async fn check_all_by_sql(address: &str, written: &[Written]) {
    let mut found: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    let statement = "SELECT tag, ts, value FROM samples WHERE tag LIKE 'kill/%' ORDER BY tag, ts";
    let mut latest = Vec::new();
    for (statement, is_latest) in
        [(statement, false), ("SELECT tag, ts, value FROM latest ORDER BY tag", true)]
    {
        for batch in sql(address, statement).await {
            let utf8 = arrow::datatypes::DataType::Utf8;
            let tags = arrow::compute::cast(&batch["tag"], &utf8).unwrap();
            let times = batch["ts"].as_primitive::<TimestampNanosecondType>();
            let values = batch["value"].as_primitive::<Float64Type>();
            for (at, tag) in tags.as_string::<i32>().iter().enumerate() {
                let sample = (times.value(at), values.value(at));
                if is_latest {
                    latest.push((tag.unwrap().to_owned(), sample));
                } else {
                    found.entry(tag.unwrap().to_owned()).or_default().push(sample);
                }
            }
        }
    }
    let mut expected: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    for (gateway, written) in written.iter().enumerate() {
        for ((tag, time), value) in &written.rows {
            expected.entry(name(gateway, *tag)).or_default().push((*time, *value as f64));
        }
    }
    assert!(found == expected, "SQL and the model differ");
    let newest: Vec<_> =
        expected.into_iter().map(|(tag, rows)| (tag, rows[rows.len() - 1])).collect();
    assert_eq!(latest, newest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_lose_nothing_that_was_acknowledged() {
    let seed = seeds(1)[0];
    println!("seed {seed}");
    let _case =
        Case::of("tagmill-tests", "kill::fifty_kills_lose_nothing_that_was_acknowledged", seed);
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let address = free_address();
    let mut server = Server::start(PROGRAM, &data, &address).await;
    let fleet = Fleet::connect(&address).await;
    let mut written: Vec<Written> = (0..GATEWAYS).map(|_| Written::default()).collect();
    let started = Instant::now();
    for kill in 0..KILLS {
        if random.once_in(2) {
            let address = address.clone();
            let pause = Duration::from_millis(random.below(60));
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                // The kill may come before the answer, or even before the call.
                if let Ok(mut admin) = Admin::connect(&address).await {
                    admin.seal().await.ok();
                }
            });
        }
        tokio::time::sleep(Duration::from_micros(random.below(120_000))).await;
        let acked = fleet.acked();
        server.kill();
        if kill % 2 == 0 {
            check_directory(&data, &mut written, &acked);
        }
        server = Server::start(PROGRAM, &data, &address).await;
        check_server(&address, &mut written, &acked).await;
    }
    let acked = fleet.close().await;
    check_server(&address, &mut written, &acked).await;
    check_all_by_sql(&address, &written).await;
    server.kill();
    check_directory(&data, &mut written, &acked);
    let batches: Vec<u64> = written.iter().map(|written| written.batches).collect();
    assert_eq!(batches, acked, "what was sent last");
    println!("{KILLS} kills, {batches:?} batches in {:?}", started.elapsed());
}

/// A kind of system calls of the server, and what becomes of which of them.
fn injection(random: &mut Random) -> (&'static str, String) {
    const CALLS: [(&str, u64); 7] = [
        ("fdatasync", 40),
        ("fsync", 8),
        ("pwrite64", 60),
        ("openat", 60),
        ("unlink,unlinkat", 4),
        ("fallocate", 3),
        ("pread64", 8),
    ];
    let (calls, most) = CALLS[random.index(CALLS.len())];
    let nth = 1 + random.below(most);
    let fate = match random.below(5) {
        0 | 1 => "signal=KILL",
        2 => "error=EIO",
        3 => "error=ENOSPC",
        // Not for ever: a loop that tries an interrupted call again would never end.
        _ => return (calls, format!("error=EINTR:when={nth}")),
    };
    let often = if random.once_in(2) { "" } else { "+" };
    (calls, format!("{fate}:when={nth}{often}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_and_errors_at_system_calls_lose_nothing_that_was_acknowledged() {
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        println!("SKIPPED kills at system calls: there is no strace");
        return;
    }
    let tally = Tally::new("server_at_system_calls");
    tally.seed();
    let seed = seeds(1)[0];
    let test = "kill::kills_and_errors_at_system_calls_lose_nothing_that_was_acknowledged";
    let _case = Case::of("tagmill-tests", test, seed);
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let address = free_address();
    let server = Server::start(PROGRAM, &data, &address).await;
    let fleet = Fleet::connect(&address).await;
    server.kill();
    let mut written: Vec<Written> = (0..GATEWAYS).map(|_| Written::default()).collect();
    let mut ended = 0;
    for point in 0..POINTS {
        let (calls, fate) = injection(&mut random);
        println!("point {point}: {calls} {fate}");
        let (at, of, gateways) = (data.clone(), address.clone(), fleet.gateways.clone());
        let acked = move || gateways.iter().map(|gateway| gateway.acked().0).sum::<u64>();
        let enough = acked() + ENOUGH;
        let run = move || {
            let did_enough = || acked() >= enough;
            Server::run_injected(PROGRAM, &at, &of, (calls, &fate), did_enough, PATIENCE)
        };
        ended += u64::from(tokio::task::spawn_blocking(run).await.unwrap());
        check_directory(&data, &mut written, &fleet.acked());
        tally.add(1);
    }
    tally.note("ended", ended);
    let server = Server::start(PROGRAM, &data, &address).await;
    let acked = fleet.close().await;
    check_server(&address, &mut written, &acked).await;
    check_all_by_sql(&address, &written).await;
    server.kill();
    assert!(ended > POINTS / 10, "only {ended} of {POINTS} points were met");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let address = free_address();
    let server = Server::start(PROGRAM, &data, &address).await;
    let other = free_address();
    let (status, said) = refused(PROGRAM, &data, &other);
    assert!(!status.success());
    assert!(said.contains("open in another process"), "{said}");
    assert_eq!(sql(&address, "SELECT 1 AS one").await.len(), 1, "the first goes on");
    server.kill();
    Server::start(PROGRAM, &data, &address).await.kill();
}
