//! Records and files of the write-ahead log.

use tagmill_storage::fuzzing::log::{Record, replay_log, seal_log, write_log};
use tagmill_storage::limits;

use super::{check_refusal, empty_disk};

/// Bytes of a log file in these tests: room for a few records.
const FILE_BYTES: u64 = 1 << 10;

/// Any bytes are a record or refused; a record is written and read again to the same.
///
/// An odd first byte says that the next four are the length before compression.
pub fn record(data: &[u8]) {
    let [form, rest @ ..] = data else { return };
    let (stored, raw_bytes) = match rest {
        [a, b, c, d, stored @ ..] if form % 2 == 1 => {
            let claimed = u32::from_le_bytes([*a, *b, *c, *d]);
            (stored, usize::try_from(claimed).expect("32 bits"))
        }
        _ => (rest, rest.len()),
    };
    if let Ok(record) = Record::decode(8, stored, raw_bytes) {
        assert!(record.rows() <= limits::BATCH_SAMPLES_MAX, "{} rows", record.rows());
        check_again(&record);
    }
}

fn check_again(record: &Record) {
    let (stored, raw_bytes) = record.encode();
    let again = Record::decode(8, &stored, raw_bytes).expect("our own bytes decode");
    assert_eq!(again.rows(), record.rows());
    // Compared as bytes: attributes may hold a NaN, which equals nothing.
    assert_eq!(again.encode(), (stored, raw_bytes));
}

/// Any log files replay or are refused; what replays is contiguous, and is written and replayed again to the same.
///
/// The first byte is the floor. Each file: a byte of flags (1: renew checksums, 2: claim its own length), its length in
/// two bytes, its bytes.
pub fn files(data: &[u8]) {
    let [floor, rest @ ..] = data else { return };
    let (disk, shared) = empty_disk();
    shared.create_dir("wal").expect("an empty disk");
    let mut rest = rest;
    for number in 0..4 {
        let [flags, low, high, after @ ..] = rest else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (file, after) = after.split_at(length);
        let mut file = file.to_vec();
        let name = if flags & 1 == 1 { seal_log(&mut file, flags & 2 == 2) } else { None };
        let name = name.unwrap_or_else(|| format!("wal/{:016x}-{number:016x}.wal", number + 1));
        disk.replace(&name, &file);
        rest = after;
    }
    let records = match replay_log(&shared, u64::from(*floor)) {
        Ok(records) => records,
        Err(error) => return check_refusal(&error),
    };
    let Some((first, _)) = records.first() else { return };
    let first = *first;
    let seqs = records.iter().map(|(seq, _)| *seq);
    assert!(seqs.eq(first..first + records.len() as u64), "the records are not contiguous");
    let (_, other) = empty_disk();
    other.create_dir("wal").expect("an empty disk");
    write_log(&other, FILE_BYTES, first, &records).expect("a healthy disk");
    let again = replay_log(&other, first - 1).expect("our own log replays");
    assert_eq!(again.len(), records.len());
    for ((seq, record), (seq_again, record_again)) in records.iter().zip(&again) {
        assert_eq!((seq, record.encode()), (seq_again, record_again.encode()));
    }
}
