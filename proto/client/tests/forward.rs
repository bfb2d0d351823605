//! Store and forward against servers that fail: whoever dies, each record reaches each server once and in order.

#![expect(clippy::unwrap_used, reason = "the panic of a test is its report, in what it calls too")]

mod fake;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fake::{Disk, Fake};
use tagmill_client::{
    BatchBuilder, Destination, Error, ForwardOptions, Forwarder, Full, TagDef, ValueType,
};

/// Longer than any test waits for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// Repeatable numbers; the seed is printed.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let told = std::env::var("TAGMILL_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = told.unwrap_or_else(|| u64::from(now.subsec_nanos()));
        println!("seed {seed}: repeat it with TAGMILL_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn options(servers: &[&Fake]) -> ForwardOptions {
    // Known by number: the address is another one in each test.
    let to = (1..).zip(servers).map(|(number, fake)| Destination {
        name: format!("server {number}"),
        ..Destination::new(fake.address.to_string())
    });
    ForwardOptions {
        capacity_bytes: 1 << 20,
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(20),
        ..ForwardOptions::new("g", to.collect())
    }
}

async fn open(folder: &Path, options: &ForwardOptions) -> (Forwarder, u32) {
    let forwarder = Forwarder::open(folder, options.clone()).await.unwrap();
    let aliases = forwarder.define(&[TagDef::new("g/x", ValueType::I64)]).await.unwrap();
    assert_eq!(aliases, [1], "an alias stays");
    (forwarder, aliases[0])
}

/// A batch that holds one value.
fn batch(alias: u32, value: i64) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    batch.i64(alias, &[1_700_000_000_000_000_000 + value], &[value]).unwrap();
    batch
}

async fn append(forwarder: &Forwarder, values: std::ops::Range<i64>) {
    for value in values {
        forwarder.append(batch(1, value)).await.unwrap();
    }
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

fn all(values: std::ops::Range<i64>) -> Vec<i64> {
    values.collect()
}

/// One server, and an older state of it that was kept.
struct Victim {
    fake: Fake,
    backup: Disk,
}

impl Victim {
    async fn start(incarnation: u64) -> Self {
        let fake = Fake::start(incarnation).await;
        let backup = fake.disk();
        Self { fake, backup }
    }

    fn suffer(&mut self, random: &mut Random) {
        match random.below(7) {
            0 => self.fake.kill(),
            1 => self.fake.set_away(true),
            2 | 3 => self.fake.set_away(false),
            4 => self.fake.lose_answers_after(random.below(20)),
            5 => self.backup = self.fake.disk(),
            _ => {
                let incarnation = random.below(u64::MAX);
                self.fake.restore(self.backup.clone(), incarnation);
            }
        }
    }
}

/// What was answered is there once and in order; what was asked for when the process died, once or not at all.
fn check(values: &[i64], stored: &[i64], perhaps: &[i64]) {
    let certain: Vec<i64> =
        values.iter().copied().filter(|value| !perhaps.contains(value)).collect();
    assert_eq!(certain, stored, "every record once, in order");
    assert!(values.is_sorted_by(|a, b| a < b), "{values:?}");
}

/// Random kills on both sides, servers that lose answers, go away, and come back as they were some time ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_each_server_gets_each_record_once_and_in_order() {
    let mut random = Random::seeded();
    for _ in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let mut victims = [Victim::start(1).await, Victim::start(2).await];
        let servers = [&victims[0].fake, &victims[1].fake];
        // Small files, and room for all of it: a restored server gets what it lacks again.
        let options = ForwardOptions { capacity_bytes: 128 << 10, ..options(&servers) };
        let (mut forwarder, mut alias) = open(folder.path(), &options).await;
        let (mut stored, mut perhaps) = (Vec::new(), Vec::new());
        let mut value = 0;
        for _ in 0..400 {
            value += 1;
            match random.below(48) {
                0 => {
                    drop(forwarder);
                    (forwarder, alias) = open(folder.path(), &options).await;
                }
                1 => {
                    forwarder.close().await.unwrap();
                    (forwarder, alias) = open(folder.path(), &options).await;
                }
                2 => {
                    // The process dies while it appends.
                    let pause = Duration::from_micros(random.below(2_000));
                    let done = tokio::time::timeout(pause, forwarder.append(batch(alias, value)));
                    match done.await {
                        Ok(done) => {
                            done.unwrap();
                            stored.push(value);
                        }
                        Err(_) => perhaps.push(value),
                    }
                    drop(forwarder);
                    (forwarder, alias) = open(folder.path(), &options).await;
                }
                3..=10 => {
                    let victim = usize::try_from(random.below(2)).unwrap();
                    victims[victim].suffer(&mut random);
                }
                11..=13 => tokio::time::sleep(Duration::from_millis(random.below(20))).await,
                _ => {
                    forwarder.append(batch(alias, value)).await.unwrap();
                    stored.push(value);
                }
            }
        }
        for victim in &victims {
            victim.fake.set_away(false);
        }
        // A server that was restored a moment ago is heard of when the connection to it has ended.
        let has_all = |victim: &Victim| {
            let values = victim.fake.disk().values;
            stored.iter().all(|value| values.contains(value))
        };
        until("all that was stored", || victims.iter().all(has_all)).await;
        forwarder.flush(PATIENCE).await.unwrap();
        let status = forwarder.status();
        for (victim, server) in victims.iter().zip(&status.servers) {
            assert_eq!(
                (server.acked, server.waiting_records, server.lost_records),
                (status.last, 0, 0)
            );
            assert_eq!((server.epoch, victim.fake.offences()), (1, vec![]));
            check(&victim.fake.disk().values, &stored, &perhaps);
        }
        forwarder.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_holds_its_records_and_delays_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (here, away) = (Fake::start(1).await, Fake::start(2).await);
    away.set_away(true);
    let options = options(&[&here, &away]);
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 0..50).await;
    until("the one that is there has all", || here.disk().values.len() == 50).await;
    let refused = forwarder.flush(Duration::from_millis(20)).await.unwrap_err().to_string();
    assert!(refused.contains("server 2 lacks 50 records"), "{refused}");
    let status = forwarder.status();
    assert_eq!((status.servers[0].connected, status.servers[1].connected), (true, false));
    assert_eq!((status.servers[1].waiting_records, status.servers[1].lost_records), (50, 0));
    until("the reason is told", || forwarder.status().servers[1].last_error.is_some()).await;
    drop(forwarder);
    away.set_away(false);
    let (forwarder, _) = open(folder.path(), &options).await;
    forwarder.flush(PATIENCE).await.unwrap();
    assert_eq!(away.disk().values, all(0..50));
    assert_eq!(here.disk().values, all(0..50));
    assert_eq!(forwarder.status().servers[1].last_error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_does_what_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let (here, away) = (Fake::start(1).await, Fake::start(2).await);
    away.set_away(true);
    let options = ForwardOptions {
        capacity_bytes: 64 << 10,
        when_full: Full::Refuse,
        ..options(&[&here, &away])
    };
    let (forwarder, _) = open(folder.path(), &options).await;
    let mut count = 0;
    let refused = loop {
        match forwarder.append(batch(1, count)).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 10_000);
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(refused.to_string().contains(&folder.path().display().to_string()), "{refused}");
    assert!(forwarder.status().bytes <= 64 << 10);
    forwarder.close().await.unwrap();

    // The same queue, told to wait: it goes on when the server is back, and nothing is lost.
    let waits = ForwardOptions { when_full: Full::Block, ..options.clone() };
    let (forwarder, _) = open(folder.path(), &waits).await;
    {
        let appending = append(&forwarder, count..count + 100);
        tokio::pin!(appending);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut appending).await.is_err());
        away.set_away(false);
        tokio::time::timeout(PATIENCE, appending).await.unwrap();
    }
    forwarder.flush(PATIENCE).await.unwrap();
    assert_eq!(
        (here.disk().values, away.disk().values),
        (all(0..count + 100), all(0..count + 100))
    );
    forwarder.close().await.unwrap();

    // Told to drop, it keeps the newest, and says how many a server will never get.
    away.set_away(true);
    let drops = ForwardOptions { when_full: Full::DropOldest, ..options };
    let (forwarder, _) = open(folder.path(), &drops).await;
    let (before, after) = (count + 100, 4 * count);
    for first in (before..after).step_by(50) {
        // Slowly enough for the one that is there.
        let end = after.min(first + 50);
        append(&forwarder, first..end).await;
        let acked = || i64::try_from(forwarder.status().servers[0].acked.0).unwrap();
        until("the one that is there has all", || acked() == end).await;
    }
    let lost = forwarder.status().servers[1].lost_records;
    assert!(lost > 0 && forwarder.status().servers[0].lost_records == 0);
    away.set_away(false);
    forwarder.flush(PATIENCE).await.unwrap();
    let lost = i64::try_from(lost).unwrap();
    let kept: Vec<i64> = (0..before).chain(before + lost..after).collect();
    assert_eq!(away.disk().values, kept, "a beginning, a hole that is counted, and the rest");
    assert_eq!(here.disk().values, all(0..after));
    let server = &forwarder.status().servers[1];
    assert_eq!((server.epoch, server.lost_records), (2, u64::try_from(lost).unwrap()));
    let notices = forwarder.take_notices().join("\n");
    assert!(notices.contains("dropped") && notices.contains("new epoch"), "{notices}");
    assert_eq!((here.offences(), away.offences()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_queue_frees_an_append_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let away = Fake::start(1).await;
    away.set_away(true);
    let options = ForwardOptions { capacity_bytes: 64 << 10, ..options(&[&away]) };
    let (forwarder, _) = open(folder.path(), &options).await;
    let stored = AtomicU64::new(0);
    let appending = async {
        for value in 0..10_000 {
            forwarder.append(batch(1, value)).await.unwrap();
            stored.fetch_add(1, Ordering::SeqCst);
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(1_500), appending).await.is_err());
    drop(forwarder);
    let (forwarder, _) = open(folder.path(), &options).await;
    let last = forwarder.status().last.0;
    assert!(last >= stored.load(Ordering::SeqCst), "what was answered is there");
}

/// A server that comes back as it was some time ago gets again what it lacks, and nothing else, under the old numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_server_gets_again_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let (fake, other) = (Fake::start(1).await, Fake::start(2).await);
    let options = options(&[&fake, &other]);
    let (mut forwarder, _) = open(folder.path(), &options).await;
    let empty = fake.disk();
    append(&forwarder, 0..50).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let half = fake.disk();
    append(&forwarder, 50..100).await;
    forwarder.flush(PATIENCE).await.unwrap();
    for (incarnation, backup) in (10..).zip([half.clone(), empty.clone(), half, empty]) {
        if incarnation > 11 {
            // Restored while the gateway is not there.
            forwarder.close().await.unwrap();
            fake.restore(backup, incarnation);
            (forwarder, _) = open(folder.path(), &options).await;
        } else {
            fake.restore(backup, incarnation);
        }
        until("what it lacks", || fake.disk().values.len() >= 100).await;
        forwarder.flush(PATIENCE).await.unwrap();
        assert_eq!(fake.disk().values, all(0..100));
        let notices = forwarder.take_notices().join("\n");
        assert!(
            notices.contains("another database") && notices.contains("going back"),
            "{notices}"
        );
    }
    append(&forwarder, 100..110).await;
    forwarder.flush(PATIENCE).await.unwrap();
    assert_eq!((fake.disk().values, other.disk().values), (all(0..110), all(0..110)));
    let status = forwarder.status();
    assert!(status.servers.iter().all(|server| (server.epoch, server.lost_records) == (1, 0)));
    assert_eq!((fake.offences(), other.offences()), (vec![], vec![]));
}

/// A server that comes back as it was before what the queue still holds gets all that is left, and the loss is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restored_server_lacks_and_nobody_has_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(1).await;
    let options = ForwardOptions { capacity_bytes: 64 << 10, ..options(&[&fake]) };
    let (forwarder, _) = open(folder.path(), &options).await;
    let empty = fake.disk();
    append(&forwarder, 0..10).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let backup = fake.disk();
    append(&forwarder, 10..2_000).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let oldest = i64::try_from(forwarder.status().oldest.0).unwrap();
    assert!(oldest > 100, "what every server has gives room: {oldest}");
    fake.restore(backup, 2);
    append(&forwarder, 2_000..2_010).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let first = i64::try_from(forwarder.status().servers[0].lost_records).unwrap() + 10;
    // Room may have been made meanwhile, but not so much.
    assert!(first >= oldest - 1 && first < 2_000, "{first} of {oldest}");
    let kept: Vec<i64> = (0..10).chain(first..2_010).collect();
    assert_eq!(fake.disk().values, kept);
    assert_eq!(forwarder.status().servers[0].epoch, 2);
    // The epoch stays, over restarts too.
    drop(forwarder);
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 2_010..2_020).await;
    forwarder.flush(PATIENCE).await.unwrap();
    assert_eq!(fake.disk().values.len(), kept.len() + 10);
    // An empty one in its place knows nothing of the epoch: everything that it does not get is counted.
    fake.restore(empty, 3);
    until("what is kept", || fake.disk().values.last() == Some(&2_019)).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let lost = usize::try_from(forwarder.status().servers[0].lost_records).unwrap();
    assert!(lost > 100);
    let kept = all(i64::try_from(lost).unwrap()..2_020);
    assert_eq!(fake.disk().values, kept);
    assert_eq!(fake.offences(), Vec::<String>::new());
}

/// Flips a bit of a record in the one file of batches.
fn damage(folder: &Path, record: u64) {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let path = files
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "batches"))
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let mut at = 64;
    for _ in 1..record {
        let payload_bytes: [u8; 4] = bytes[at + 8..at + 12].try_into().unwrap();
        let length = 40 + usize::try_from(u32::from_le_bytes(payload_bytes)).unwrap();
        at += length.next_multiple_of(8);
    }
    bytes[at + 41] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// A server that comes back as it was before the epoch: nobody knows what it has of the one before, so it gets all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_restored_to_before_an_epoch_gets_all_that_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(1).await;
    let options = options(&[&fake]);
    let empty = fake.disk();
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 0..20).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let backup = fake.disk();
    fake.set_away(true);
    append(&forwarder, 20..100).await;
    forwarder.close().await.unwrap();
    damage(folder.path(), 50);
    fake.set_away(false);
    let (forwarder, _) = open(folder.path(), &options).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let sound: Vec<i64> = (0..49).chain(50..100).collect();
    assert_eq!(fake.disk().values, sound);
    let server = forwarder.status().servers.remove(0);
    assert_eq!((server.epoch, server.lost_records), (2, 1));
    for (incarnation, before) in [(2, backup), (3, empty)] {
        let had = before.values.clone();
        fake.restore(before, incarnation);
        until("what it lacks", || fake.disk().values.last() == Some(&99)).await;
        forwarder.flush(PATIENCE).await.unwrap();
        let want: Vec<i64> = had.into_iter().chain(sound.clone()).collect();
        assert_eq!(fake.disk().values, want, "what it may have it gets again");
        assert_eq!(forwarder.status().servers[0].lost_records, 1);
        let notices = forwarder.take_notices().join("\n");
        assert!(notices.contains("knows nothing of epoch"), "{notices}");
    }
    assert_eq!(fake.offences(), Vec::<String>::new());
}

/// An epoch is on disk before it is used: who dies after the first batch of it goes on in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_was_used_is_known_after_any_death() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(1).await;
    let options = ForwardOptions { capacity_bytes: 64 << 10, ..options(&[&fake]) };
    fake.set_mute(true);
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 0..10).await;
    until("the first epoch is used", || fake.disk().values.len() == 10).await;
    drop(forwarder);
    fake.set_mute(false);
    let (forwarder, _) = open(folder.path(), &options).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let backup = fake.disk();
    assert_eq!((&backup.values, backup.gateways["g"].epoch), (&all(0..10), 1));

    append(&forwarder, 10..2_000).await;
    forwarder.flush(PATIENCE).await.unwrap();
    fake.set_mute(true);
    fake.restore(backup, 2);
    until("the second epoch is used", || fake.disk().gateways["g"].epoch == 2).await;
    drop(forwarder);
    fake.set_mute(false);
    let (forwarder, _) = open(folder.path(), &options).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let server = &forwarder.status().servers[0];
    let first = 10 + i64::try_from(server.lost_records).unwrap();
    assert_eq!((server.epoch, server.ended), (2, false));
    assert_eq!(fake.disk().values, (0..10).chain(first..2_000).collect::<Vec<i64>>());
}

/// Without its position a server gets everything that is kept once more, in an epoch of its own: nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_position_begins_a_new_epoch_above_the_servers() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(1).await;
    let options = options(&[&fake]);
    for (life, damage) in [false, true, false, true].into_iter().enumerate() {
        let (forwarder, _) = open(folder.path(), &options).await;
        let first = i64::try_from(forwarder.status().last.0).unwrap();
        append(&forwarder, first..first + 10).await;
        forwarder.flush(PATIENCE).await.unwrap();
        let epoch = forwarder.status().servers[0].epoch;
        assert_eq!(fake.disk().gateways["g"].epoch, epoch);
        let values = fake.disk().values;
        assert_eq!(
            values[values.len() - usize::try_from(first + 10).unwrap()..],
            all(0..first + 10)
        );
        if life > 0 {
            let notices = forwarder.take_notices().join("\n");
            assert!(notices.contains("from before"), "{notices}");
        }
        forwarder.close().await.unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let position =
            files.into_iter().find(|path| path.extension().is_some_and(|e| e == "position"));
        if damage {
            std::fs::write(position.unwrap(), b"nonsense").unwrap();
        } else {
            std::fs::remove_file(position.unwrap()).unwrap();
        }
    }
    assert_eq!(fake.offences(), Vec::<String>::new());
}

/// Records that were sent and are gone from disk leave their numbers: what comes later is not taken for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_records_that_are_gone_are_not_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(1).await;
    let options = options(&[&fake]);
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 0..20).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let position = |end: &str| {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| path.extension().is_some_and(|e| e == end)).unwrap()
    };
    forwarder.close().await.unwrap();
    // As the folder was some time ago, and with the position of then: a copy that was put back.
    let (batches, at) = (position("batches"), position("position"));
    let older = std::fs::read(&at).unwrap();
    let bytes = std::fs::read(&batches).unwrap();
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 20..30).await;
    forwarder.flush(PATIENCE).await.unwrap();
    forwarder.close().await.unwrap();
    std::fs::write(&batches, &bytes).unwrap();
    std::fs::write(&at, &older).unwrap();
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 100..115).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let want: Vec<i64> = (0..30).chain(100..115).collect();
    assert_eq!(fake.disk().values, want, "in a new epoch, none is taken for another");
    assert_eq!(forwarder.status().servers[0].epoch, 2);
    forwarder.close().await.unwrap();

    // Cut short alone: the position knows what was acknowledged.
    std::fs::write(&batches, &bytes[..200]).unwrap();
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 200..205).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let want: Vec<i64> = (0..30).chain(100..115).chain(200..205).collect();
    assert_eq!(fake.disk().values, want);
    assert!(!forwarder.take_notices().is_empty());
    assert_eq!(fake.offences(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_never_taken_holds_nothing_up_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (picky, small) = (Fake::start(1).await, Fake::start(2).await);
    picky.set_poison(3);
    small.set_batch_bytes_max(500);
    let options = options(&[&picky, &small]);
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 0..5).await;
    let mut long = BatchBuilder::new();
    let values: Vec<i64> = (5..205).map(|value| value << 40).collect();
    long.i64(1, &values, &values).unwrap();
    forwarder.append(long).await.unwrap();
    append(&forwarder, 5..10).await;
    forwarder.flush(PATIENCE).await.unwrap();
    let expected: Vec<i64> = (0..3).chain(4..5).chain(values).chain(5..10).collect();
    assert_eq!(picky.disk().values, expected);
    assert_eq!(small.disk().values, all(0..10));
    let summaries = forwarder.summaries();
    assert_eq!(summaries[0].acks.rejects[0].detail, "3 is poison");
    assert_eq!(summaries[0].acks.rejects[0].ticket.0, 4);
    assert_eq!(summaries[1].acks.rejects[0].ticket.0, 6);
    let emptied =
        forwarder.status().servers.iter().map(|server| server.emptied_batches).sum::<u64>();
    assert_eq!(emptied, 2);
    let limit = ForwardOptions { batch_bytes_max: 100, ..options.clone() };
    forwarder.close().await.unwrap();
    let (forwarder, _) = open(folder.path(), &limit).await;
    let mut long = BatchBuilder::new();
    long.i64(1, &[1 << 60; 50], &[1 << 60; 50]).unwrap();
    assert!(matches!(forwarder.append(long).await, Err(Error::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_delays_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(1).await;
    fake.set_away(true);
    let options = ForwardOptions { rate: Some(200), ..options(&[&fake]) };
    let (forwarder, _) = open(folder.path(), &options).await;
    append(&forwarder, 0..400).await;
    let started = Instant::now();
    fake.set_away(false);
    forwarder.flush(PATIENCE).await.unwrap();
    // What one second brings goes at once, the rest takes another.
    assert!(started.elapsed() > Duration::from_millis(900), "{:?}", started.elapsed());
    assert_eq!(fake.disk().values, all(0..400));
}

#[tokio::test]
async fn a_folder_is_one_gateways_and_options_must_make_sense() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(1).await;
    let good = options(&[&fake]);
    let (forwarder, _) = open(folder.path(), &good).await;
    let second = Forwarder::open(folder.path(), good.clone()).await.unwrap_err().to_string();
    assert!(second.contains("another program"), "{second}");
    forwarder.append(batch(1, 1)).await.unwrap();
    forwarder.flush(PATIENCE).await.unwrap();
    forwarder.close().await.unwrap();
    let other = ForwardOptions { gateway: "h".into(), ..good.clone() };
    let foreign = Forwarder::open(folder.path(), other).await.unwrap_err().to_string();
    assert!(foreign.contains("gateway g"), "{foreign}");
    for wrong in [
        ForwardOptions { gateway: String::new(), ..good.clone() },
        ForwardOptions { to: Vec::new(), ..good.clone() },
        ForwardOptions { to: vec![good.to[0].clone(), good.to[0].clone()], ..good.clone() },
        ForwardOptions { capacity_bytes: 1_000, ..good.clone() },
        ForwardOptions { rate: Some(0), ..good.clone() },
    ] {
        let refused = Forwarder::open(folder.path(), wrong).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    }
}

/// Another program under the same name takes over: the queue stops there and says so, and goes on elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_copied_stops_where_the_copy_went_on() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fake = Fake::start(1).await;
    let options = options(&[&fake]);
    let (forwarder, _) = open(first.path(), &options).await;
    append(&forwarder, 0..5).await;
    forwarder.flush(PATIENCE).await.unwrap();
    forwarder.close().await.unwrap();
    let (other, _) = open(second.path(), &options).await;
    append(&other, 5..10).await;
    other.flush(PATIENCE).await.unwrap();
    other.close().await.unwrap();
    let (forwarder, _) = open(first.path(), &options).await;
    append(&forwarder, 10..15).await;
    let refused = forwarder.flush(PATIENCE).await.unwrap_err().to_string();
    assert!(refused.contains("another program uses the name"), "{refused}");
    assert!(forwarder.status().servers[0].ended);
    assert_eq!(fake.disk().values, all(0..10));
}
