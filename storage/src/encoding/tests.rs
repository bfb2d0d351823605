//! What holds for every encoding: values come back bit for bit, part of a column is that part of
//! the whole, and no bytes make a decoder panic. Golden columns pin the bytes themselves.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

mod signals;

use signals::{Noise, dense_signals, signals, texts};

/// A column of any sort, so that one set of laws covers all.
#[derive(Clone, Debug, PartialEq)]
enum Column {
    Times(Vec<i64>),
    Words(ValueType, Vec<u64>),
    Texts(Vec<Arc<str>>),
    Qualities(Vec<u32>),
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Times(v) => v.len(),
            Self::Words(_, v) => v.len(),
            Self::Texts(v) => v.len(),
            Self::Qualities(v) => v.len(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        self.encode_with(Effort::Light)
    }

    fn encode_with(&self, effort: Effort) -> Vec<u8> {
        let mut out = vec![0xEE];
        match self {
            Self::Times(v) => encode_times(v, effort, &mut out),
            Self::Words(value_type, v) => encode_words(*value_type, v, effort, &mut out),
            Self::Texts(v) => encode_texts(v, &mut out),
            Self::Qualities(v) => encode_qualities(v, &mut out),
        }
        assert_eq!(out.remove(0), 0xEE, "encoders append");
        out
    }

    /// Decodes a column of this sort and length, and checks that an error appends nothing.
    fn decode(&self, bytes: &[u8], rows: Range<usize>) -> Result<Self, Malformed> {
        fn checked<T: Clone + PartialEq + std::fmt::Debug>(
            first: &T,
            decode: impl FnOnce(&mut Vec<T>) -> Result<(), Malformed>,
        ) -> Result<Vec<T>, Malformed> {
            let mut out = vec![T::clone(first)];
            let result = decode(&mut out);
            assert_eq!(out.remove(0), *first, "decoders append");
            assert!(result.is_ok() || out.is_empty(), "an error appends nothing");
            result.map(|()| out)
        }
        let count = self.len();
        match self {
            Self::Times(_) => {
                checked(&7, |out| decode_times(bytes, count, rows, out)).map(Self::Times)
            }
            Self::Words(value_type, _) => {
                checked(&7, |out| decode_words(*value_type, bytes, count, rows, out))
                    .map(|words| Self::Words(*value_type, words))
            }
            Self::Texts(_) => {
                checked(&Arc::from("first"), |out| decode_texts(bytes, count, rows, out))
                    .map(Self::Texts)
            }
            Self::Qualities(_) => {
                checked(&7, |out| decode_qualities(bytes, count, rows, out)).map(Self::Qualities)
            }
        }
    }

    fn slice(&self, rows: Range<usize>) -> Self {
        match self {
            Self::Times(v) => Self::Times(v[rows].to_vec()),
            Self::Words(value_type, v) => Self::Words(*value_type, v[rows].to_vec()),
            Self::Texts(v) => Self::Texts(v[rows].to_vec()),
            Self::Qualities(v) => Self::Qualities(v[rows].to_vec()),
        }
    }
}

/// Round trip of either effort, a byte too much refused. Returns the light bytes.
fn check(column: &Column) -> Vec<u8> {
    let light = column.encode();
    check_bytes(column, &light);
    let last = column.encode_with(Effort::Final);
    assert!(last.len() <= light.len(), "effort made it larger");
    if last != light {
        check_bytes(column, &last);
    }
    light
}

fn check_bytes(column: &Column, bytes: &[u8]) {
    let rows = column.len();
    assert_eq!(column.decode(bytes, 0..rows).as_ref(), Ok(column));
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(column.decode(&longer, 0..rows).is_err(), "a byte left over");
}

/// Every signal with its encoding and its bytes, those of the final effort among them.
fn encoded(rows: usize) -> Vec<(&'static str, &'static str, Column, Vec<u8>)> {
    let light = signals(rows).into_iter().map(|(signal, encoding, column)| {
        let bytes = column.encode();
        (signal, encoding, column, bytes)
    });
    let dense = dense_signals(rows).into_iter().map(|(signal, encoding, column)| {
        let bytes = column.encode_with(Effort::Final);
        (signal, encoding, column, bytes)
    });
    light.chain(dense).collect()
}

fn check_parts(column: &Column, bytes: &[u8]) {
    let rows = column.len();
    let marks = [0, 1, rows / 3, 1_023, 1_024, 1_025, 2_048, rows.saturating_sub(1), rows];
    for from in marks {
        for to in marks {
            if from <= to && to <= rows {
                assert_eq!(
                    column.decode(bytes, from..to),
                    Ok(column.slice(from..to)),
                    "{from}..{to}"
                );
            } else {
                assert!(column.decode(bytes, from..to).is_err(), "{from}..{to} of {rows}");
            }
        }
    }
}

#[test]
fn signals_come_back_whole_and_in_part_in_their_encoding() {
    for rows in [2_500, 8_192] {
        for (signal, encoding, column, bytes) in encoded(rows) {
            check_bytes(&column, &bytes);
            assert_eq!(name(bytes[0]), encoding, "{signal} of {rows} rows: {} bytes", bytes.len());
            check_parts(&column, &bytes);
        }
    }
}

#[test]
fn prefixes_are_refused() {
    for (signal, _, column, bytes) in encoded(1_100) {
        for cut in 0..bytes.len() {
            assert!(
                column.decode(&bytes[..cut], 0..column.len()).is_err(),
                "{signal}: {cut} bytes"
            );
        }
    }
}

#[test]
fn flipped_bits_give_an_error_or_a_value() {
    let dense = encoded(1_100).into_iter().filter(|(_, encoding, ..)| encoding.contains("pco"));
    for (_, _, column, mut bytes) in encoded(300).into_iter().chain(dense) {
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Whether an error or a value comes out is the checksum's business; `decode` checks the
            // rest.
            drop(column.decode(&bytes, 0..column.len()));
            drop(column.decode(&bytes, 100..101));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// Many bytes wrong at once, most of all in the head, where the sizes of tables stand.
#[test]
fn damaged_dense_columns_give_an_error_or_a_value() {
    let mut noise = Noise::new(11);
    for rows in [260, 1_100, 5_000] {
        for (_, _, column) in dense_signals(rows) {
            let good = column.encode_with(Effort::Final);
            for _ in 0..150 {
                let mut bytes = good.clone();
                let near = if noise.below(2) == 0 { 40 } else { bytes.len() };
                for _ in 0..=noise.below(6) {
                    let at = noise.below(near.min(bytes.len()) as u64);
                    bytes[usize::try_from(at).unwrap()] = noise.below(256).to_le_bytes()[0];
                }
                drop(column.decode(&bytes, 0..rows));
            }
        }
    }
}

#[test]
fn short_and_long_columns() {
    for rows in [0, 1, 2, 3, 5, 31, 32, 33, 255, 1_023, 1_024, 1_025, 4_097] {
        for (_, _, column) in signals(rows) {
            check(&column);
        }
        for (_, _, column) in dense_signals(rows) {
            check(&column);
        }
    }
    let (_, _, times) = &signals(COLUMN_ROWS_MAX)[1];
    check(times);
    let mut out = Vec::new();
    assert!(decode_times(&times.encode(), COLUMN_ROWS_MAX + 1, 0..1, &mut out).is_err());
}

#[test]
fn a_wrong_count_is_refused() {
    for (signal, encoding, _, bytes) in encoded(1_500) {
        if ["constant", "step"].contains(&encoding) || signal == "times_with_gaps" {
            // No bits a row, so these say nothing of the number of rows; their parent does.
            continue;
        }
        for rows in [1_000, 1_400, 3_000] {
            let (_, _, other, _) = encoded(rows).into_iter().find(|(s, ..)| *s == signal).unwrap();
            assert!(other.decode(&bytes, 0..rows).is_err(), "{signal} read as {rows} rows");
        }
    }
}

#[test]
fn times_that_do_not_ascend_are_refused() {
    let decode = |bytes: &[u8]| decode_times(bytes, 3, 0..3, &mut Vec::new());
    // Start 0, step 0.
    assert!(decode(&[code::TIMES_STEP, 0, 0]).is_err());
    // Start 0, step 2^63: the third time overflows.
    let mut bytes = vec![code::TIMES_STEP, 0];
    crate::bytes::put_varint(&mut bytes, 1 << 63);
    assert!(decode(&bytes).is_err());
    // Start 0, tick 1, a plain vector of width 0: all equal.
    assert!(decode(&[code::TIMES_DELTA, 0, 1, 0, 0, 0]).is_err());
    let extremes = Column::Times(vec![i64::MIN, -1, 0, i64::MAX]);
    check(&extremes);
}

#[test]
fn values_too_great_for_their_type_are_refused() {
    let mut bytes = vec![code::CONSTANT];
    crate::bytes::put_zigzag(&mut bytes, 65_536);
    let decode = |value_type| decode_words(value_type, &bytes, 3, 0..3, &mut Vec::new());
    assert!(decode(ValueType::I64).is_ok());
    assert!(decode(ValueType::State).is_err());
    assert!(decode(ValueType::Bool).is_err());
    assert!(decode_qualities(&bytes, 3, 0..3, &mut Vec::new()).is_ok());
    crate::bytes::put_zigzag(&mut bytes, 0);
    bytes.splice(1.., [0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);
    assert!(decode_qualities(&bytes, 3, 0..3, &mut Vec::new()).is_err());
}

#[test]
fn columns_nest_no_deeper_than_they_are_written() {
    // Runs of runs: one run of three rows whose column says runs.
    let bytes = [code::RUNS, 1, 0, 0, 4, code::RUNS];
    assert!(decode_words(ValueType::I64, &bytes, 3, 0..3, &mut Vec::new()).is_err());
    // Ranks of ranks.
    let bytes = [code::RANKS, 1, code::RANKS, 1];
    assert!(decode_words(ValueType::I64, &bytes, 3, 0..3, &mut Vec::new()).is_err());
    // Integers are no encoding of floats, nor decimals of integers.
    for (value_type, code) in [(ValueType::F64, code::INTEGERS), (ValueType::I64, code::DECIMAL)] {
        assert!(decode_words(value_type, &[code, 0, 0, 0], 1, 0..1, &mut Vec::new()).is_err());
    }
}

#[test]
fn equal_texts_share_memory_and_bombs_are_refused() {
    let column = texts(["RUN", "STOP", "RUN"]);
    let Ok(Column::Texts(back)) = column.decode(&column.encode(), 0..3) else { panic!("texts") };
    assert!(Arc::ptr_eq(&back[0], &back[2]));
    // A text that compresses 1,000-fold beyond a MiB is stored as it is; below, it may be
    // compressed.
    let huge = "x".repeat(3 << 20);
    let bytes = check(&texts([&huge]));
    assert_eq!(name(bytes[0]), "dictionary");
    assert_eq!(name(check(&texts([&huge[..1 << 20]]))[0]), "dictionary+zstd");
    let mut bomb = vec![code::TEXT_ZSTD, 1, 0, 0];
    crate::bytes::put_zigzag(&mut bomb, 1 << 30);
    let frame = zstd::bulk::compress(&vec![0; 1 << 24], 1).unwrap();
    crate::bytes::put_varint(&mut bomb, frame.len() as u64);
    bomb.extend(&frame);
    bomb.extend([code::CONSTANT, 0]);
    let result = decode_texts(&bomb, 1, 0..1, &mut Vec::new());
    assert_eq!(result, Err(Malformed("texts grow too much when decompressed")));
}

/// Words of every class a float has, and of the signals between.
fn any_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<f64>().prop_map(f64::to_bits),
        (-100_000_i32..100_000, 0_i32..4)
            .prop_map(|(v, p)| (f64::from(v) / 10_f64.powi(p)).to_bits()),
        prop::sample::select(vec![
            0.0_f64,
            -0.0,
            f64::NAN,
            -f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            5e-324,
            f64::MAX,
        ])
        .prop_map(f64::to_bits),
        prop::sample::select(vec![0x7FF0_0000_0000_0001_u64, 0xFFF8_0000_0000_1234, 1, u64::MAX]),
    ]
}

const NUMERIC: [ValueType; 5] =
    [ValueType::F64, ValueType::F32, ValueType::I64, ValueType::Bool, ValueType::State];

fn any_type() -> impl Strategy<Value = ValueType> {
    prop::sample::select(NUMERIC.to_vec())
}

/// Words of few distinct values in pieces, so that runs, ranks, patches and exceptions meet in one
/// column.
fn patchwork() -> impl Strategy<Value = Column> {
    let piece = (any_word(), any_word(), 1_usize..600, 0_u8..4);
    (any_type(), prop::collection::vec(piece, 0..8)).prop_map(|(value_type, pieces)| {
        let mut noise = Noise::new(1);
        let mut all = Vec::new();
        for (a, b, rows, sort) in pieces {
            all.extend((0..rows as u64).map(|i| match sort {
                0 => a,
                1 => a.wrapping_add(i.wrapping_mul(b % 1_000)),
                2 => *noise.pick(&[a, b]),
                _ => a.wrapping_add(noise.below(b % 5_000 + 1)),
            }));
        }
        let kind = Kind::of(value_type);
        let fit = |word: u64| if kind.max() == u64::MAX { word } else { word % (kind.max() + 1) };
        Column::Words(value_type, all.into_iter().map(fit).collect())
    })
}

fn any_quality() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(0x8000_0000), any::<u32>()]
}

const CODES: [u8; 18] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 32, 33];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_words_round_trip(
        column in patchwork(),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let bytes = check(&column);
        let (from, to) = (from.index(column.len() + 1), to.index(column.len() + 1));
        if from <= to {
            prop_assert_eq!(column.decode(&bytes, from..to), Ok(column.slice(from..to)));
        }
    }

    #[test]
    fn any_floats_round_trip(
        mut all in prop::collection::vec(any_word(), 0..2_200),
        half in any::<bool>(),
    ) {
        let value_type = if half { ValueType::F32 } else { ValueType::F64 };
        if half {
            for word in &mut all {
                *word >>= 32;
            }
        }
        check(&Column::Words(value_type, all));
    }

    #[test]
    fn any_times_round_trip(
        steps in prop::collection::vec(1_i64..5_000_000_000, 0..2_200),
        start in -1_i64 << 62..1 << 62,
        tick in prop::sample::select(vec![1_i64, 1_000, 1_000_000]),
    ) {
        let times = steps.iter().scan(start, |time, step| {
            *time += (step / tick).max(1) * tick;
            Some(*time)
        });
        check(&Column::Times(times.collect()));
    }

    #[test]
    fn times_of_few_steps_round_trip(
        common in prop::collection::vec(1_i64..1 << 44, 1..300),
        choices in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..100), 0..2_200),
        from in any::<prop::sample::Index>(),
    ) {
        let mut time = -7_i64;
        let times = choices.iter().enumerate().map(|(row, (choice, luck))| {
            let strays = if *luck == 0 { row as i64 } else { 0 };
            time += common[choice.index(common.len())] + strays;
            time
        });
        let column = Column::Times(times.collect());
        let bytes = check(&column);
        let from = from.index(column.len() + 1);
        let rows = from..column.len().min(from + 700);
        prop_assert_eq!(column.decode(&bytes, rows.clone()), Ok(column.slice(rows)));
    }

    #[test]
    fn any_texts_round_trip(
        all in prop::collection::vec("[a-c]{0,3}|\\PC{0,20}", 0..300),
    ) {
        let column = texts(&all);
        let bytes = check(&column);
        check_parts(&column, &bytes);
    }

    #[test]
    fn any_qualities_round_trip(
        all in prop::collection::vec(any_quality(), 0..1_500),
    ) {
        check(&Column::Qualities(all));
    }

    /// Bytes of no encoder: a known code, then anything. Must return, whatever it returns.
    #[test]
    fn any_bytes_decode_or_fail(
        code in prop::sample::select(CODES.to_vec()),
        small in any::<bool>(),
        rest in prop::collection::vec(any::<u8>(), 0..200),
        count in 0_usize..3_000,
    ) {
        let mut bytes = vec![code];
        // Small bytes pass for headers more often.
        bytes.extend(rest.iter().map(|byte| if small { byte % 5 } else { *byte }));
        let rows = count / 3..count;
        for value_type in NUMERIC {
            drop(Column::Words(value_type, vec![0; count]).decode(&bytes, rows.clone()));
        }
        drop(Column::Times(vec![0; count]).decode(&bytes, rows.clone()));
        drop(Column::Qualities(vec![0; count]).decode(&bytes, rows.clone()));
        drop(Column::Texts(vec![Arc::from(""); count]).decode(&bytes, rows));
    }
}

/// Where golden columns lie.
fn golden(signal: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/encoding");
    PathBuf::from(folder).join(format!("{signal}.hex"))
}

/// Columns written by every release must decode for ever, and today's encoder must still write
/// them.
///
/// `UPDATE_GOLDEN=1` writes only files that are missing: a released golden file never changes. If
/// an encoder finds a smaller column, keep the old file under a new name and decode both.
#[test]
fn golden_columns_decode_and_are_written_again() {
    for (signal, encoding, column, written) in encoded(1_100) {
        let path = golden(signal);
        if !path.exists() && std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, to_hex(&written)).unwrap();
        }
        let hex = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let bytes = from_hex(&hex);
        assert_eq!(name(bytes[0]), encoding, "{signal}");
        assert_eq!(
            column.decode(&bytes, 0..column.len()).as_ref(),
            Ok(&column),
            "{signal} decodes"
        );
        assert_eq!(written, bytes, "{signal} is written otherwise than before");
    }
}

/// A code without a golden column could change its meaning and nobody would notice.
#[test]
fn every_code_has_a_golden_column() {
    let golden = encoded(1_100).into_iter().map(|(signal, ..)| {
        let hex = std::fs::read_to_string(golden(signal)).unwrap();
        from_hex(&hex)[0]
    });
    assert_eq!(golden.collect::<BTreeSet<u8>>(), BTreeSet::from(CODES));
}

#[test]
fn the_format_page_lists_every_code() {
    let known = (0..=u8::MAX).map(|code| (code, name(code).to_owned()));
    let known: Vec<_> = known.filter(|(_, name)| name != "unknown").collect();
    assert_eq!(crate::fields::tests::numbered("encoding", "Codes"), known);
    assert!(known.iter().map(|(code, _)| *code).eq(CODES));
}

/// Lines of 32 bytes.
fn to_hex(bytes: &[u8]) -> String {
    let mut hex = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(hex, "{byte:02x}").unwrap();
        }
        hex.push('\n');
    }
    hex
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect()
}
