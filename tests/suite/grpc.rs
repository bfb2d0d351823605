//! The wire, over real sockets: what gateways, administrators and analysts may rely on, and what bad ones get.

#![expect(clippy::unwrap_used, reason = "the panic of a test is its report, in what it calls too")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::ipc::reader::StreamReader;
use tagmill::Database;
use tagmill_client::{
    Admin, BatchBuilder, Cells, Error, Gateway, GatewayOptions, NamedSamples, Piece, Qualities,
    Query, TagDef, Times, ValueType, Values, Writer, v1,
};
use tagmill_proto::v1::client_message::Message as Say;
use tagmill_proto::v1::ingest_client::IngestClient;
use tagmill_proto::v1::server_message::Message as Hear;
use tagmill_proto::v1::{GoAwayReason, NackCode, RejectReason, TagColumn};
use tagmill_server::lifecycle::{ServeOptions, Server};
use tagmill_storage::{Clock, SystemClock};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

const START_NS: i64 = 1_700_000_000_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;
/// Longer than any test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server on a free port.
async fn serve(path: &Path) -> Server {
    serve_on(path, ([127, 0, 0, 1], 0).into()).await
}

async fn serve_on(path: &Path, listen: SocketAddr) -> Server {
    let database = Database::open(path, tagmill::Options::default()).unwrap();
    let options = ServeOptions { listen, ..ServeOptions::default() };
    Server::start(database, options).await.unwrap()
}

/// A stream without the client crate's care.
struct Raw {
    to: mpsc::Sender<v1::ClientMessage>,
    from: Streaming<v1::ServerMessage>,
    welcome: v1::Welcome,
}

fn hello(gateway: &str, epoch: u64) -> v1::Hello {
    v1::Hello { gateway: gateway.into(), epoch, ..v1::Hello::default() }
}

impl Raw {
    async fn open(server: &Server, hello: v1::Hello) -> Result<Self, Status> {
        let address = format!("http://{}", server.address());
        let mut client = IngestClient::connect(address).await.unwrap();
        let (to, messages) = mpsc::channel(64);
        let say = |message| v1::ClientMessage { message: Some(message) };
        to.send(say(Say::Hello(hello))).await.unwrap();
        let mut from = client.stream(ReceiverStream::new(messages)).await?.into_inner();
        match from.message().await?.and_then(|answer| answer.message) {
            Some(Hear::Welcome(welcome)) => Ok(Self { to, from, welcome }),
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Opens a stream and defines tags of these types: aliases from 1, names "t1" and on.
    async fn with_tags(server: &Server, gateway: &str, types: &[ValueType]) -> Self {
        let mut raw = Self::open(server, hello(gateway, 1)).await.unwrap();
        let tag = |(alias, value_type): (u32, &ValueType)| v1::TagDefinition {
            alias,
            name: format!("{gateway}/t{alias}"),
            r#type: (*value_type).into(),
            attributes: None,
        };
        let tags = (1..).zip(types).map(tag).collect();
        raw.say(Say::DefineTags(v1::DefineTags { id: 1, tags })).await;
        let Hear::Defined(defined) = raw.hear().await.unwrap() else { panic!("not defined") };
        assert_eq!((defined.id, defined.rejects.len()), (1, 0));
        raw
    }

    async fn say(&self, message: Say) {
        self.to.send(v1::ClientMessage { message: Some(message) }).await.unwrap();
    }

    async fn batch(&self, seq: u64, columns: Vec<TagColumn>) {
        self.say(Say::Batch(v1::Batch { seq, columns, scans: Vec::new() })).await;
    }

    /// The next answer but credits.
    async fn hear(&mut self) -> Result<Hear, Status> {
        loop {
            let answer = tokio::time::timeout(PATIENCE, self.from.message());
            let answer = answer.await.expect("an answer in time")?;
            let answer = answer.ok_or_else(|| Status::cancelled("the stream ended"))?;
            match answer.message.expect("a message") {
                Hear::Credit(_) => {}
                answer => return Ok(answer),
            }
        }
    }

    async fn ack(&mut self) -> v1::Ack {
        match self.hear().await.unwrap() {
            Hear::Ack(ack) => ack,
            other => panic!("no ack but {other:?}"),
        }
    }
}

/// `values` at consecutive seconds from `second`.
fn floats(alias: u32, second: i64, values: &[f64]) -> TagColumn {
    TagColumn {
        alias,
        count: u32::try_from(values.len()).unwrap(),
        base_ns: START_NS + second * SECOND_NS,
        step_ns: SECOND_NS,
        f64: values.to_vec(),
        ..TagColumn::default()
    }
}

async fn ask(server: &Server, sql: &str) -> Result<(Vec<RecordBatch>, Vec<String>), Error> {
    let mut query = Query::connect(&server.address().to_string()).await?;
    let mut answer = query.execute(sql, HashMap::new()).await?;
    let (mut ipc, mut notices, mut is_finished) = (Vec::new(), Vec::new(), false);
    while let Some(piece) = answer.next().await? {
        match piece {
            Piece::Ipc(bytes) => ipc.extend_from_slice(&bytes),
            Piece::Notice(notice) => notices.push(notice),
            Piece::Finished { .. } => is_finished = true,
        }
    }
    assert!(is_finished);
    let batches = StreamReader::try_new(ipc.as_slice(), None).unwrap();
    Ok((batches.map(Result::unwrap).collect(), notices))
}

/// The one number that `sql` answers.
async fn number(server: &Server, sql: &str) -> i64 {
    let (batches, _) = ask(server, sql).await.unwrap();
    let batch = batches.iter().find(|batch| batch.num_rows() == 1).expect("one row");
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

async fn samples(server: &Server) -> i64 {
    number(server, "SELECT count(*) FROM samples").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_sends_and_sql_answers() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let address = server.address().to_string();
    let gateway = Gateway::connect(&address, GatewayOptions::new("g")).await.unwrap();
    let defs = [
        TagDef::new("a", ValueType::F64).unit("bar"),
        TagDef::new("b", ValueType::I64),
        TagDef::new("mode", ValueType::State),
        TagDef::new("batch", ValueType::Text),
    ];
    let aliases = gateway.define(&defs).await.unwrap();
    assert_eq!(gateway.define(&defs).await.unwrap(), aliases);
    let set = gateway.define_set(&aliases[..2]).await.unwrap();
    let times: Vec<i64> = (0..1_000).map(|i| START_NS + i * SECOND_NS).collect();
    for round in 0..5 {
        let times: Vec<i64> = times.iter().map(|t| t + round * 1_000 * SECOND_NS).collect();
        let mut batch = BatchBuilder::new();
        let values: Vec<f64> = (0..2_000).map(f64::from).collect();
        batch.scan(&set, &times, Cells::from(values.as_slice()), Qualities::Good).unwrap();
        batch.text(aliases[2], &times[..2], &["RUN", "STOP"]).unwrap();
        batch.text(aliases[3], &times[..1], &["B-17"]).unwrap();
        let bad = Qualities::Uniform(0x8000_0000);
        batch.column(aliases[3], Times::Each(&times[1..2]), Values::Absent, bad).unwrap();
        gateway.send(batch).await.unwrap();
    }
    let summary = gateway.flush().await.unwrap();
    assert_eq!(summary.rejects, []);
    assert_eq!(summary.accepted_samples, 5 * 2_004);
    assert_eq!(summary.acked.0, 5);
    assert_eq!(samples(&server).await, 5 * 2_004);
    let sum = "SELECT sum(value_int) FROM samples WHERE tag = 'b'";
    assert_eq!(number(&server, sum).await, 5 * 1_000 * 1_000);
    let stops = "SELECT count(*) FROM samples WHERE tag = 'mode' AND value_text = 'STOP'";
    assert_eq!(number(&server, stops).await, 5);
    let bad = "SELECT count(*) FROM samples WHERE tag = 'batch' AND NOT good";
    assert_eq!(number(&server, bad).await, 5);
    gateway.close().await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_applied_once_and_gaps_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let mut raw = Raw::with_tags(&server, "g", &[ValueType::F64]).await;
    assert_eq!(raw.welcome.mark, 0);
    for seq in 1..=3 {
        raw.batch(seq, vec![floats(1, seq.cast_signed() * 10, &[1.0, 2.0])]).await;
    }
    let mut accepted = 0;
    loop {
        let ack = raw.ack().await;
        assert_eq!(ack.seq, ack.durable_seq);
        accepted += ack.accepted_samples;
        if ack.seq == 3 {
            break;
        }
    }
    assert_eq!(accepted, 6);

    raw.batch(3, vec![floats(1, 1_000, &[9.0])]).await;
    let ack = raw.ack().await;
    assert_eq!((ack.seq, ack.accepted_samples), (3, 0), "acknowledged, not applied");

    raw.batch(6, vec![floats(1, 50, &[1.0])]).await;
    raw.batch(7, vec![floats(1, 60, &[1.0])]).await;
    assert_eq!(raw.hear().await.unwrap(), Hear::Gap(v1::Gap { expected: 4 }));
    raw.batch(4, Vec::new()).await;
    assert_eq!(raw.ack().await.seq, 4, "an empty batch takes its number; 7 was not told again");

    drop(raw);
    let mut raw = Raw::open(&server, hello("g", 1)).await.unwrap();
    assert_eq!((raw.welcome.mark, raw.welcome.aliases), (4, 1));
    raw.batch(5, vec![floats(1, 70, &[1.0])]).await;
    let ack = raw.ack().await;
    assert_eq!((ack.seq, ack.accepted_samples), (5, 1), "aliases outlive the stream");
    assert_eq!(samples(&server).await, 7);

    let mut raw = Raw::open(&server, hello("g", 2)).await.unwrap();
    assert_eq!(raw.welcome.mark, 0, "a new epoch counts from the start");
    raw.say(Say::Flush(v1::Flush { id: 8 })).await;
    assert_eq!(raw.ack().await.seq, 0);
    assert_eq!(raw.hear().await.unwrap(), Hear::Flushed(v1::Flushed { id: 8 }));
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_stream_of_a_gateway_wins() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let mut older = Raw::with_tags(&server, "g", &[ValueType::F64]).await;
    older.batch(1, vec![floats(1, 0, &[1.0])]).await;
    assert_eq!(older.ack().await.seq, 1);
    let mut newer = Raw::open(&server, hello("g", 2)).await.unwrap();
    let Hear::GoAway(away) = older.hear().await.unwrap() else { panic!("no go-away") };
    assert_eq!(away.reason(), GoAwayReason::Fenced);
    assert!(older.hear().await.is_err(), "and the stream ends");
    newer.batch(1, vec![floats(1, 1, &[1.0])]).await;
    assert_eq!(newer.ack().await.seq, 1);
    let refused = Raw::open(&server, hello("g", 1)).await.err().expect("an older epoch is refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for (gateway, epoch) in [("", 1), ("a\nb", 1), ("write/x", 1), ("h", 0)] {
        let refused = Raw::open(&server, hello(gateway, epoch)).await.err().expect("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{gateway:?}");
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_samples_are_left_out_by_name_and_the_rest_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let mut raw = Raw::with_tags(&server, "g", &[ValueType::F64, ValueType::I64]).await;
    let now = SystemClock::default().wall_ns();
    let future = TagColumn {
        alias: 1,
        count: 2,
        times_ns: vec![now, now + 3_600 * SECOND_NS],
        f64: vec![1.0; 2],
        ..TagColumn::default()
    };
    let columns = vec![
        floats(77, 0, &[1.0, 2.0]),
        floats(2, 0, &[1.0]),
        future,
        TagColumn { count: 9, ..floats(1, 0, &[1.0]) },
        floats(1, 100, &[1.0; 5]),
        TagColumn { times_ns: vec![-1], ..floats(1, 0, &[1.0]) },
    ];
    raw.batch(1, columns).await;
    let ack = raw.ack().await;
    assert_eq!((ack.seq, ack.accepted_samples), (1, 6));
    let mut rejects: Vec<_> =
        ack.rejects.iter().map(|r| (r.part, r.alias, r.first, r.count, r.reason())).collect();
    rejects.sort_unstable();
    let expected = [
        (0, 77, 0, 2, RejectReason::UnknownAlias),
        (1, 2, 0, 1, RejectReason::WrongType),
        (2, 1, 1, 1, RejectReason::Future),
        (3, 1, 0, 9, RejectReason::Malformed),
        (5, 1, 0, 1, RejectReason::OutOfRange),
    ];
    assert_eq!(rejects, expected);
    assert!(ack.rejects.iter().all(|reject| reject.seq == 1 && !reject.detail.is_empty()));

    let ahead = (now - START_NS) / SECOND_NS + 3_600;
    raw.batch(2, vec![floats(1, ahead, &[1.0; 3]), floats(1, 0, &[1.0])]).await;
    raw.batch(3, vec![floats(1, 0, &[1.0])]).await;
    let Hear::Nack(nack) = raw.hear().await.unwrap() else { panic!("no nack") };
    assert_eq!((nack.seq, nack.code(), nack.retriable), (2, NackCode::Clock, true));
    raw.batch(2, vec![floats(1, 200, &[1.0])]).await;
    raw.batch(3, vec![floats(1, 201, &[1.0])]).await;
    while raw.ack().await.seq < 3 {}
    assert_eq!(samples(&server).await, 8);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_definitions_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let address = server.address().to_string();
    let gateway = Gateway::connect(&address, GatewayOptions::new("g")).await.unwrap();
    let defs = [
        TagDef::new("a\u{7}b", ValueType::F64),
        TagDef::new("fine", ValueType::F64),
        TagDef::new("x".repeat(600), ValueType::F64),
        TagDef::new("typeless", ValueType::Unspecified),
        TagDef::new("a/../b", ValueType::F64),
    ];
    let answers = gateway.try_define(&defs).await.unwrap();
    let is_defined: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(is_defined, [false, true, false, false, false]);
    let again = gateway.define(&[TagDef::new("fine", ValueType::Text)]).await.unwrap_err();
    assert!(again.to_string().contains("type"), "{again}");
    let mut writer = Writer::connect(&address).await.unwrap();
    let answer = writer.define(&defs).await.unwrap();
    assert_eq!((answer.defined, answer.rejects.len()), (1, 4));
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_or_no_protobuf_is_refused_and_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let address = server.address();
    let mut good = Raw::with_tags(&server, "good", &[ValueType::F64]).await;

    let mut long = Raw::with_tags(&server, "long", &[ValueType::F64]).await;
    long.batch(1, vec![floats(1, 0, &vec![1.0; 5 << 17])]).await;
    let refused = long.hear().await.expect_err("5 MiB are refused");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    let gateway = Gateway::connect(&address.to_string(), GatewayOptions::new("g")).await.unwrap();
    let mut batch = BatchBuilder::new();
    let times: Vec<i64> = (0..5 << 17).map(|i| START_NS + i * i).collect();
    batch.f64(1, &times, &vec![1.0; times.len()]).unwrap();
    let refused = gateway.send(batch).await.unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");

    // A batch that ends in the middle of a field, one without a number, and a stream without hello.
    for batch in [&[0x08, 0x01, 0x12, 0x7F, 0x01][..], &[]] {
        let refused = send_bytes(&server, "cut", batch).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let mut client = IngestClient::connect(format!("http://{address}")).await.unwrap();
    let flush = v1::ClientMessage { message: Some(Say::Flush(v1::Flush { id: 1 })) };
    let mut from = client.stream(tokio_stream::iter([flush])).await.unwrap().into_inner();
    assert_eq!(from.message().await.unwrap_err().code(), Code::FailedPrecondition);

    // Connections that break off: garbage, and the beginning of a frame.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frame = [&preface[..], &[0, 0, 200, 1, 4, 0, 0, 0, 1, 0x83]].concat();
    for bytes in [&[0xFF; 100][..], &frame, &preface[..10]] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
    }

    good.batch(1, vec![floats(1, 0, &[1.0])]).await;
    assert_eq!(good.ack().await.seq, 1);
    assert_eq!(samples(&server).await, 1);
    server.shutdown().await.unwrap();
}

/// Says hello, then sends these bytes as a batch; gives the error.
async fn send_bytes(server: &Server, gateway: &str, batch: &[u8]) -> Status {
    use tagmill_proto::view::{self, client_message::Message};

    let address = format!("http://{}", server.address());
    let mut client = view::ingest_client::IngestClient::connect(address).await.unwrap();
    let say = |message| view::ClientMessage { message: Some(message) };
    let batch = Message::Batch(batch.to_vec().into());
    let messages = [say(Message::Hello(hello(gateway, 1))), say(batch)];
    let mut from = client.stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
    loop {
        match from.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_outlives_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let mut server = serve(&path).await;
    let address = server.address();
    let options =
        GatewayOptions { retry_max: Duration::from_millis(500), ..GatewayOptions::new("g") };
    let gateway = Gateway::connect(&address.to_string(), options).await.unwrap();
    let alias = gateway.define(&[TagDef::new("a", ValueType::F64)]).await.unwrap()[0];
    for round in 0..30_i64 {
        if round % 10 == 5 {
            server.shutdown().await.unwrap();
            server = serve_on(&path, address).await;
        }
        let mut batch = BatchBuilder::new();
        let times: Vec<i64> = (0..100).map(|i| START_NS + (round * 100 + i) * SECOND_NS).collect();
        batch.f64(alias, &times, &[0.5; 100]).unwrap();
        gateway.send(batch).await.unwrap();
    }
    let summary = tokio::time::timeout(PATIENCE, gateway.flush()).await.unwrap().unwrap();
    assert_eq!((summary.acked.0, summary.rejects.len()), (30, 0));
    assert_eq!(samples(&server).await, 3_000);
    assert_eq!(gateway.epoch(), 1);

    // Another database at the same address: what is not on disk there goes there, from the start.
    server.shutdown().await.unwrap();
    let server = serve_on(&folder.path().join("other"), address).await;
    let mut batch = BatchBuilder::new();
    batch.f64(alias, &[START_NS], &[0.5]).unwrap();
    gateway.send(batch).await.unwrap();
    let summary = tokio::time::timeout(PATIENCE, gateway.flush()).await.unwrap().unwrap();
    assert_eq!((summary.acked.0, gateway.epoch()), (31, 2));
    assert_eq!(samples(&server).await, 1);
    gateway.close().await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_client_says_so_and_a_missing_server_too() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let address = server.address().to_string();
    let first = Gateway::connect(&address, GatewayOptions::new("g")).await.unwrap();
    let alias = first.define(&[TagDef::new("a", ValueType::F64)]).await.unwrap()[0];
    let second = Gateway::connect(&address, GatewayOptions::new("g")).await.unwrap();
    let mut batch = BatchBuilder::new();
    batch.f64(alias, &[START_NS], &[0.5]).unwrap();
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Err(error) = first.send(batch.clone()).await {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(matches!(ended.await.unwrap(), Error::Fenced { .. }));
    assert!(second.flush().await.is_ok());
    drop(second);
    server.shutdown().await.unwrap();
    let refused = Gateway::connect(&address, GatewayOptions::new("g")).await.unwrap_err();
    assert!(matches!(refused, Error::Unreachable { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_is_marked_if_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let address = server.address().to_string();
    let options = GatewayOptions { mark_disconnect: true, ..GatewayOptions::new("g") };
    let gateway = Gateway::connect(&address, options).await.unwrap();
    let defs = [TagDef::new("a", ValueType::F64), TagDef::new("silent", ValueType::Text)];
    let aliases = gateway.define(&defs).await.unwrap();
    let mut batch = BatchBuilder::new();
    batch.f64(aliases[0], &[START_NS], &[7.5]).unwrap();
    gateway.send(batch).await.unwrap();
    gateway.close().await.unwrap();
    let marks = "SELECT count(*) FROM samples WHERE tag = 'a' AND value = 7.5 \
                 AND quality_name(quality) LIKE 'Uncertain%'";
    let appeared = tokio::time::timeout(PATIENCE, async {
        while number(&server, marks).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    appeared.await.unwrap();
    assert_eq!(samples(&server).await, 2);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_before_the_sync_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let durability = v1::Durability::Interval.into();
    let mut raw = Raw::open(&server, v1::Hello { durability, ..hello("g", 1) }).await.unwrap();
    raw.batch(1, Vec::new()).await;
    let mut ack = raw.ack().await;
    assert_eq!(ack.seq, 1);
    while ack.durable_seq < 1 {
        ack = raw.ack().await;
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_write_by_names_is_applied_once_per_key() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let mut writer = Writer::connect(&server.address().to_string()).await.unwrap();
    let mut batch = NamedSamples::default();
    let times = Times::Each(&[START_NS, START_NS + 1]);
    batch.column("new/f64", times, Values::F64(&[1.0, 2.0]), Qualities::Good).unwrap();
    let state = TagDef::new("new/mode", ValueType::State);
    batch.typed_column(&state, times, Values::Text(&["RUN", "STOP"]), Qualities::Good).unwrap();
    batch.column("bad\u{1}name", times, Values::F64(&[1.0, 2.0]), Qualities::Good).unwrap();
    let first = writer.write("key-1", batch.clone()).await.unwrap();
    assert_eq!((first.accepted_samples, first.repeated, first.durable), (4, false, true));
    let rejects: Vec<_> = first.rejects.iter().map(|r| (r.part, r.reason())).collect();
    assert_eq!(rejects, [(2, RejectReason::BadDefinition)]);
    let second = writer.write("key-1", batch.clone()).await.unwrap();
    assert_eq!((second.accepted_samples, second.repeated), (0, true));
    let other = writer.write("key-2", batch.clone()).await.unwrap();
    assert_eq!((other.accepted_samples, other.repeated), (4, false));
    let keyless = writer.write("", batch).await.unwrap();
    assert_eq!((keyless.accepted_samples, keyless.repeated), (4, false));
    assert_eq!(samples(&server).await, 4, "the same keys, written again");

    let mut wrong = NamedSamples::default();
    wrong.column("new/f64", times, Values::Text(&["a", "b"]), Qualities::Good).unwrap();
    let answer = writer.write("", wrong).await.unwrap();
    assert_eq!(answer.accepted_samples, 0);
    assert_eq!(answer.rejects[0].reason(), RejectReason::WrongType);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_edited_renamed_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let address = server.address().to_string();
    let mut raw = Raw::with_tags(&server, "g", &[ValueType::F64, ValueType::F64]).await;
    raw.batch(1, vec![floats(1, 0, &[1.0; 10]), floats(2, 0, &[1.0; 10])]).await;
    assert_eq!(raw.ack().await.accepted_samples, 20);

    let mut admin = Admin::connect(&address).await.unwrap();
    let set = v1::TagAttributes {
        unit: Some("bar".into()),
        description: Some("a tag".into()),
        ..v1::TagAttributes::default()
    };
    let name = || "g/t1".to_owned();
    let edit = v1::EditTagRequest { name: name(), set: Some(set), ..Default::default() };
    admin.edit_tag(edit).await.unwrap();
    let clear = vec!["description".into()];
    admin.edit_tag(v1::EditTagRequest { name: name(), clear, ..Default::default() }).await.unwrap();
    let edited = "SELECT count(*) FROM tags WHERE unit = 'bar' AND description IS NULL";
    assert_eq!(number(&server, edited).await, 1);
    admin.rename_tag("g/t1", "renamed").await.unwrap();
    let missing = admin.rename_tag("g/t1", "again").await.unwrap_err();
    assert!(missing.to_string().contains("g/t1"), "{missing}");

    let range = |tags: &[&str], dry_run| v1::DeleteRangeRequest {
        tags: tags.iter().map(ToString::to_string).collect(),
        from_ns: Some(START_NS),
        to_ns: Some(START_NS + 4 * SECOND_NS),
        dry_run,
    };
    let dry = admin.delete_range(range(&["*"], true)).await.unwrap();
    assert_eq!(dry.tags, 2);
    assert!(dry.rows_estimate >= 8, "{dry:?}");
    assert_eq!(samples(&server).await, 20);
    admin.delete_range(range(&["ren*"], false)).await.unwrap();
    assert_eq!(samples(&server).await, 16);
    assert!(admin.delete_range(range(&["nothing*"], false)).await.is_err());
    assert!(!admin.seal().await.unwrap().is_empty());
    assert_eq!(samples(&server).await, 16);
    admin.delete_tag("renamed").await.unwrap();
    assert_eq!(samples(&server).await, 10);
    raw.batch(2, vec![floats(1, 0, &[1.0]), floats(2, 20, &[1.0])]).await;
    let ack = raw.ack().await;
    assert_eq!((ack.accepted_samples, ack.rejects[0].reason()), (1, RejectReason::UnknownTag));
    admin.set_states("modes", HashMap::from([(7, "RUN".into())])).await.unwrap();
    assert!(admin.set_states("modes", HashMap::from([(7, "STOP".into())])).await.is_err());
    assert!(admin.set_states("modes", HashMap::from([(70_000, "X".into())])).await.is_err());
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_errors_and_notices_come_through() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let mut raw = Raw::with_tags(&server, "g", &[ValueType::F64]).await;
    raw.batch(1, vec![floats(1, 0, &vec![0.25; 100_000])]).await;
    raw.ack().await;
    let refused = ask(&server, "SELECT nonsense FROM samples").await.unwrap_err();
    let Error::Server { code, message } = refused else { panic!("{refused}") };
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("nonsense"), "{message}");
    let refused = ask(&server, "DROP TABLE samples").await.unwrap_err();
    assert!(matches!(refused, Error::Server { code: Code::InvalidArgument, .. }), "{refused}");
    let (batches, notices) =
        ask(&server, "SELECT * FROM samples WHERE tag = 'g/t2'").await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    assert!(notices.iter().any(|notice| notice.contains("g/t1")), "{notices:?}");
    let (batches, _) = ask(&server, "SELECT * FROM samples").await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100_000);

    let address = server.address().to_string();
    let mut query = Query::connect(&address).await.unwrap();
    let settings = HashMap::from([("nonsense".to_owned(), "1".to_owned())]);
    let refused = query.execute("SELECT 1", settings).await.expect_err("refused");
    assert!(refused.to_string().contains("no setting named nonsense"), "{refused}");
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_address_needs_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path(), tagmill::Options::default()).unwrap();
    let listen = ([0, 0, 0, 0], 0).into();
    let options = ServeOptions { listen, ..ServeOptions::default() };
    let refused = Server::start(database.clone(), options.clone()).await.expect_err("refused");
    assert!(refused.to_string().contains("--insecure-no-auth"), "{refused}");
    let options = ServeOptions { insecure_no_auth: true, ..options };
    let server = Server::start(database, options).await.unwrap();
    assert_ne!(server.address().port(), 0);
    server.shutdown().await.unwrap();
}
