//! Store and forward into real servers that are killed, by the library and by the command.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use arrow::ipc::reader::StreamReader;
use tagmill_client::{
    BatchBuilder, Destination, ForwardOptions, Forwarder, Piece, Query, TagDef, ValueType,
};
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_storage::disk::sim::Random;
use tagmill_tests::process::{Server, free_address};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tagmill-under-test");
/// Longer than any test waits for anything.
const PATIENCE: Duration = Duration::from_mins(1);
const START_NS: i64 = 1_700_000_000_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;

async fn sql(address: &str, statement: &str) -> RecordBatch {
    let mut query = Query::connect(address).await.unwrap();
    let mut answer = query.execute(statement, HashMap::new()).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = answer.next().await.unwrap() {
        if let Piece::Ipc(part) = piece {
            bytes.extend_from_slice(&part);
        }
    }
    let batches = StreamReader::try_new(bytes.as_slice(), None).unwrap().map(Result::unwrap);
    let mut rows = batches.filter(|batch| batch.num_rows() > 0);
    rows.next().expect("a row")
}

/// The numbers of one row, as floats.
async fn numbers(address: &str, columns: &str, of: &str) -> Vec<f64> {
    let columns: Vec<String> =
        columns.split(", ").map(|column| format!("CAST({column} AS DOUBLE)")).collect();
    let row = sql(address, &format!("SELECT {} FROM {of}", columns.join(", "))).await;
    row.columns().iter().map(|column| column.as_primitive::<Float64Type>().value(0)).collect()
}

/// Two servers killed at any moment, the gateway's process as good as killed too: each sample is there, and a key that every
/// batch writes again has the value of the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_servers_and_gateway_lose_nothing_that_was_stored() {
    let seed = seeds(1)[0];
    println!("seed {seed}");
    let test = "forward::kills_of_servers_and_gateway_lose_nothing_that_was_stored";
    let _case = Case::of("tagmill-tests", test, seed);
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let addresses = [free_address(), free_address()];
    let data = [folder.path().join("a"), folder.path().join("b")];
    let mut servers = [None, None];
    let options = ForwardOptions {
        retry_min: Duration::from_millis(2),
        retry_max: Duration::from_millis(50),
        ..ForwardOptions::new("g", addresses.iter().map(Destination::new).collect())
    };
    let queue = folder.path().join("queue");
    let mut forwarder = Forwarder::open(&queue, options.clone()).await.unwrap();
    let tags = [TagDef::new("g/each", ValueType::I64), TagDef::new("g/same", ValueType::I64)];
    let mut stored = 0;
    for _ in 0..300 {
        match random.below(30) {
            0 | 1 => {
                let which = random.index(2);
                servers[which] = match servers[which].take() {
                    Some(server) => {
                        Server::kill(server);
                        None
                    }
                    None => Some(Server::start(PROGRAM, &data[which], &addresses[which]).await),
                };
            }
            2 => {
                drop(forwarder);
                forwarder = Forwarder::open(&queue, options.clone()).await.unwrap();
            }
            3 => tokio::time::sleep(Duration::from_millis(random.below(40))).await,
            _ => {}
        }
        let aliases = forwarder.define(&tags).await.unwrap();
        assert_eq!(aliases, [1, 2]);
        stored += 1;
        let mut batch = BatchBuilder::new();
        batch.i64(aliases[0], &[START_NS + stored * SECOND_NS], &[stored]).unwrap();
        batch.i64(aliases[1], &[START_NS], &[stored]).unwrap();
        forwarder.append(batch).await.unwrap();
    }
    for (which, server) in servers.iter_mut().enumerate() {
        if server.is_none() {
            *server = Some(Server::start(PROGRAM, &data[which], &addresses[which]).await);
        }
    }
    forwarder.flush(PATIENCE).await.unwrap();
    let status = forwarder.status();
    assert!(status.servers.iter().all(|server| (server.epoch, server.lost_records) == (1, 0)));
    assert!(status.servers.iter().all(|server| server.rejected_samples == 0), "{status:?}");
    forwarder.close().await.unwrap();
    for address in &addresses {
        let columns = "count(*), sum(value_int), min(value_int), max(value_int)";
        let each = numbers(address, columns, "samples WHERE tag = 'g/each'").await;
        let last = stored as f64;
        assert_eq!(each, [last, last * (last + 1.0) / 2.0, 1.0, last]);
        let same =
            numbers(address, "count(*), max(value_int)", "samples WHERE tag = 'g/same'").await;
        assert_eq!(same, [1.0, last]);
    }
}

/// The command on a queue.
fn forward(queue: &Path, address: &str, words: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["forward", "--to", address, "--gateway", "shell", "--queue"]).arg(queue);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn say(child: &mut Child, text: &str) {
    child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
}

/// Ends the input and waits for the command.
fn end(mut child: Child) -> (Output, String) {
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_a_killed_command_wait_in_its_queue() {
    let folder = tempfile::tempdir().unwrap();
    let queue = folder.path().join("queue");
    let address = free_address();
    // Nobody is there. What was read is in the queue half a second later.
    let mut child = forward(&queue, &address, &["--precision", "s"]);
    for second in 0..50 {
        say(
            &mut child,
            &format!("room,site=north temp={second}.5,on=t {}\n", 1_700_000_000 + second),
        );
    }
    let started = Instant::now();
    let stored = |queue: &Path| {
        let entries = std::fs::read_dir(queue).into_iter().flatten().flatten();
        let batches =
            entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "batches"));
        batches.filter_map(|entry| entry.metadata().ok()).map(|entry| entry.len()).sum::<u64>()
    };
    // More than the header of a file: something is stored, and the rest follows half a second later.
    while stored(&queue) < 200 {
        assert!(started.elapsed() < PATIENCE, "nothing is stored");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    child.kill().unwrap();
    child.wait().unwrap();

    let server = Server::start(PROGRAM, &folder.path().join("data"), &address).await;
    let (output, said) = end(forward(&queue, &address, &["--precision", "s"]));
    assert!(output.status.success() && said.contains("all delivered"), "{said}");
    let temp =
        numbers(&address, "count(*), sum(value)", "samples WHERE tag = 'room/north/temp'").await;
    assert_eq!(temp, [50.0, 1_250.0]);
    let on = numbers(&address, "count(*)", "samples WHERE tag = 'room/north/on'").await;
    assert_eq!(on, [50.0]);
    // Once more: there is nothing left to deliver.
    let (output, said) = end(forward(&queue, &address, &[]));
    assert!(output.status.success() && said.contains("0 samples stored; all delivered"), "{said}");
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_is_taken_and_bad_lines_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let server = Server::start(PROGRAM, &folder.path().join("data"), &address).await;
    let define =
        ["write", "old", "2023-11-14T00:00:00Z", "1", "--type", "i64", "--connect", &address];
    assert!(Command::new(PROGRAM).args(define).stdout(Stdio::null()).status().unwrap().success());
    let queue = folder.path().join("queue");
    let mut child = forward(&queue, &address, &["--format", "csv", "--precision", "ms"]);
    say(
        &mut child,
        "tag,time,value,quality\n\
         a,2023-11-14T22:13:20Z,1.5,\n\
         old,1700000000000,7,good\n\
         old,1700000001000,7.5,good\n\
         mode,1700000000000,running,uncertain\n\
         a,yesterday,2,\n\
         a,1700000002000,,bad\n",
    );
    let (output, said) = end(child);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("line 4:") && said.contains("line 6:"), "{said}");
    assert!(said.contains("4 samples stored; all delivered"), "{said}");
    assert!(said.contains("2 lines were left out"), "{said}");
    let old = numbers(&address, "count(*), sum(value_int)", "samples WHERE tag = 'old'").await;
    assert_eq!(old, [2.0, 8.0], "a tag keeps its type");
    let a = numbers(&address, "count(*), sum(value)", "samples WHERE tag = 'a'").await;
    assert_eq!(a, [2.0, 1.5]);
    let mode = "samples WHERE tag = 'mode' AND value_text = 'running' AND NOT good";
    assert_eq!(numbers(&address, "count(*)", mode).await, [1.0]);

    let mut child = forward(&queue, &address, &["--format", "csv"]);
    say(&mut child, "a,2023-11-14T22:13:20Z,1.5\n");
    let (output, said) = end(child);
    assert!(output.status.code() == Some(1) && said.contains("tag,time,value[,quality]"), "{said}");
    server.kill();
}
