//! Claims defended, on one core: packed families are read at 1 G values a second and written at 40 M or more, sizes
//! stay within those of docs/format/encoding.md, and windows are folded at 0.8 G samples a second.
//!
//! Prints one line a family: the encoding chosen, bytes a value, millions of values a second
//! written and read. Run with `cargo bench -p tagmill-engine-benches --bench encoding`; a word as argument
//! selects families that contain it.

mod windows;

use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tagmill_engine_benches::plant::Noise;
use tagmill_storage::encoding::{self, Effort};
use tagmill_storage::limits::{CHUNK_SAMPLES_MAX, FAST_CHUNK_SAMPLES_MAX};
use tagmill_storage::{Value, ValueType};

/// Chunks of a family: more than the caches nearest to the core hold, as in a real scan.
const CHUNKS: usize = 24;
/// Time spent on each measurement.
const MEASURE: Duration = Duration::from_millis(400);

fn main() -> io::Result<()> {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let mut out = io::stdout().lock();
    let family = "family";
    writeln!(out, "{family:<26} encoding         bytes/value    write M/s     read M/s")?;
    for (family, chunks) in families() {
        if only.as_ref().is_none_or(|only| family.contains(only.as_str())) {
            let light = measure(&chunks, Effort::Light);
            writeln!(out, "{family:<26} {}", light.line())?;
            let last = measure(&chunks, Effort::Final);
            if last.bytes < light.bytes {
                writeln!(out, "{:<26} {}", "  final compaction", last.line())?;
            }
        }
    }
    windows::run(only.as_deref(), &mut out)
}

/// One column of a chunk.
enum Column {
    Times(Vec<i64>),
    Words(ValueType, Vec<u64>),
    Texts(Vec<Arc<str>>),
}

impl Column {
    fn rows(&self) -> usize {
        match self {
            Self::Times(times) => times.len(),
            Self::Words(_, words) => words.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    fn encode(&self, effort: Effort, out: &mut Vec<u8>) {
        match self {
            Self::Times(times) => encoding::encode_times(times, effort, out),
            Self::Words(value_type, words) => {
                encoding::encode_words(*value_type, words, effort, out);
            }
            Self::Texts(texts) => encoding::encode_texts(texts, out),
        }
    }

    fn decode(&self, bytes: &[u8], into: &mut Decoded) {
        let Decoded { times, words, texts } = into;
        times.clear();
        words.clear();
        texts.clear();
        let rows = self.rows();
        let result = match self {
            Self::Times(_) => encoding::decode_times(bytes, rows, 0..rows, times),
            Self::Words(value_type, _) => {
                encoding::decode_words(*value_type, bytes, rows, 0..rows, words)
            }
            Self::Texts(_) => encoding::decode_texts(bytes, rows, 0..rows, texts),
        };
        result.expect("our own bytes decode");
    }
}

/// What was measured of a family.
struct Figures {
    encoding: &'static str,
    rows: usize,
    bytes: usize,
    write: f64,
    read: f64,
}

impl Figures {
    fn line(&self) -> String {
        let size = self.bytes as f64 / self.rows as f64;
        let Self { encoding, write, read, .. } = self;
        format!("{encoding:<16} {size:>11.3} {write:>12.0} {read:>12.0}")
    }
}

/// Where columns are decoded to.
#[derive(Default)]
struct Decoded {
    times: Vec<i64>,
    words: Vec<u64>,
    texts: Vec<Arc<str>>,
}

fn measure(chunks: &[Column], effort: Effort) -> Figures {
    let encoded: Vec<Vec<u8>> = chunks
        .iter()
        .map(|chunk| {
            let mut bytes = Vec::new();
            chunk.encode(effort, &mut bytes);
            bytes
        })
        .collect();
    let rows: usize = chunks.iter().map(Column::rows).sum();
    let bytes: usize = encoded.iter().map(Vec::len).sum();
    let mut out = Vec::new();
    let write = rate(rows, || {
        for chunk in chunks {
            out.clear();
            black_box(chunk).encode(effort, &mut out);
            black_box(&out);
        }
    });
    let mut decoded = Decoded::default();
    let read = rate(rows, || {
        for (chunk, bytes) in chunks.iter().zip(&encoded) {
            chunk.decode(black_box(bytes), &mut decoded);
            black_box(&decoded);
        }
    });
    // The commonest: a chunk may differ from its neighbours.
    let name = |bytes: &Vec<u8>| encoding::name(bytes[0]);
    let names: Vec<&str> = encoded.iter().map(name).collect();
    let commonest = names.iter().max_by_key(|n| names.iter().filter(|m| m == n).count());
    Figures { encoding: commonest.copied().unwrap_or_default(), rows, bytes, write, read }
}

/// Millions of rows a second: the best round, since others only show what else the machine did.
fn rate(rows: usize, mut round: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    let begin = Instant::now();
    while begin.elapsed() < MEASURE {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed());
    }
    rows as f64 / best.as_secs_f64() / 1e6
}

/// A process value: a slow drift around its centre, and measurement noise.
fn process(noise: &mut Noise, rows: usize, center: f64, drift: f64, scatter: f64) -> Vec<f64> {
    let mut value = center;
    (0..rows)
        .map(|_| {
            value += noise.normal() * drift + (center - value) * 0.000_5;
            value + noise.normal() * scatter
        })
        .collect()
}

fn chunked(value_type: ValueType, values: impl Iterator<Item = Value>) -> Vec<Column> {
    let words: Vec<u64> = values.map(|value| value.to_word()).collect();
    words.chunks(CHUNK_SAMPLES_MAX).map(|words| Column::Words(value_type, words.to_vec())).collect()
}

fn doubles(values: impl IntoIterator<Item = f64>) -> Vec<Column> {
    chunked(ValueType::F64, values.into_iter().map(Value::F64))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what a device does")]
fn singles(values: impl IntoIterator<Item = f64>) -> Vec<Column> {
    chunked(ValueType::F32, values.into_iter().map(|value| Value::F32(value as f32)))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what a device does")]
fn widened(value: f64) -> f64 {
    f64::from(value as f32)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is what is meant")]
fn rounded(value: f64) -> i64 {
    value.round() as i64
}

/// Ids that last forty rows.
fn batches(rows: usize) -> Vec<Column> {
    let texts: Vec<Arc<str>> = (0..rows / 8)
        .map(|i| Arc::from(format!("batch-{:06}/unit-{}", i / 40, i / 40 % 4)))
        .collect();
    texts.chunks(CHUNK_SAMPLES_MAX).map(|texts| Column::Texts(texts.to_vec())).collect()
}

/// The chunks of a fast tag.
fn large(values: &[f64]) -> Vec<Column> {
    let words: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
    let chunks = words.chunks(FAST_CHUNK_SAMPLES_MAX);
    chunks.map(|words| Column::Words(ValueType::F64, words.to_vec())).collect()
}

fn times(values: impl Iterator<Item = i64>) -> Vec<Column> {
    let times: Vec<i64> = values.collect();
    times.chunks(CHUNK_SAMPLES_MAX).map(|times| Column::Times(times.to_vec())).collect()
}

/// `value` to that many significant digits.
fn digits(value: f64, digits: i32) -> f64 {
    if value == 0.0 {
        return value;
    }
    let power = digits - 1 - value.abs().log10().floor().to_string().parse::<i32>().unwrap_or(0);
    let text = format!("{value:.*}", usize::try_from(power.max(0)).unwrap_or(0));
    text.parse().unwrap_or(value)
}

fn families() -> Vec<(&'static str, Vec<Column>)> {
    let mut noise = Noise(1);
    let n = &mut noise;
    let rows = CHUNKS * CHUNK_SAMPLES_MAX;
    let adc = |counts: Vec<f64>, full: f64| -> Vec<f64> {
        counts.iter().map(|count| count.round() / full * 150.0 - 20.0).collect()
    };
    let adc12 = adc(process(n, rows, 1_800.0, 0.2, 0.6), 4_095.0);
    let adc16 = adc(process(n, rows, 30_000.0, 2.0, 9.0), 65_535.0);
    let loops: Vec<f64> = process(n, rows, 13_000.0, 3.0, 20.0)
        .iter()
        .map(|count| 4.0 + count.round().clamp(0.0, 27_648.0) / 27_648.0 * 16.0)
        .collect();
    let decimals: Vec<f64> =
        process(n, rows, 78.5, 0.02, 0.05).iter().map(|v| (v * 100.0).round() / 100.0).collect();
    let gaps = decimals.iter().enumerate().map(|(i, v)| if i % 900 < 60 { f64::NAN } else { *v });
    let six: Vec<f64> = process(n, rows, 0.7, 0.001, 0.01).iter().map(|v| digits(*v, 6)).collect();
    let counts: Vec<i64> = process(n, rows, 4_000.0, 1.0, 8.0).into_iter().map(rounded).collect();
    let row = || 0..i64::try_from(rows).unwrap_or(i64::MAX);
    let mut families = vec![
        ("12-bit ADC as f32", singles(adc12.iter().copied())),
        ("12-bit ADC as f64", doubles(adc12.iter().copied())),
        ("12-bit ADC, f32 in f64", doubles(adc12.iter().map(|v| widened(*v)))),
        ("16-bit ADC as f32", singles(adc16.iter().copied())),
        ("16-bit ADC, f32 in f64", doubles(adc16.iter().map(|v| widened(*v)))),
        ("4-20 mA as f32", singles(loops.iter().copied())),
        ("two decimals", doubles(decimals.iter().copied())),
        ("two decimals, f32", singles(decimals.iter().copied())),
        ("two decimals, f32 in f64", doubles(decimals.iter().map(|v| widened(*v)))),
        ("two decimals, NaN gaps", doubles(gaps)),
        ("set points", doubles((0..rows).map(|i| [50.0, 55.5, 61.0][i / 3_000 % 3]))),
        ("steady value", doubles((0..rows).map(|_| 0.1 + 0.2))),
        (
            "states",
            chunked(ValueType::State, (0..rows).map(|i| Value::State([0, 1, 1, 3][i / 90 % 4]))),
        ),
        (
            "flags, restless",
            chunked(ValueType::Bool, (0..rows).map(|_| Value::Bool(n.below(2) == 1))),
        ),
        (
            "totaliser, i64",
            chunked(ValueType::I64, row().map(|i| Value::I64(i * 37 + i64::from(n.unit() > 0.5)))),
        ),
        (
            "totaliser, f64",
            doubles((0..rows).scan(1e5, |sum, _| {
                *sum += 0.37 + n.unit() * 0.05;
                Some((*sum * 1_000.0).round() / 1_000.0)
            })),
        ),
        ("six-digit noise", doubles(six)),
        ("full-mantissa noise", doubles(process(n, rows, 40.0, 0.1, 1.0))),
        ("full-mantissa noise, f32", singles(process(n, rows, 40.0, 0.1, 1.0))),
        ("counts, i64", chunked(ValueType::I64, counts.iter().map(|v| Value::I64(*v)))),
        ("batch ids, text", batches(rows)),
        ("two decimals, 100 Hz", large(&decimals)),
    ];
    families.extend(times_of_sources(n, rows));
    families
}

/// Times as sources of different care give them.
fn times_of_sources(n: &mut Noise, rows: usize) -> Vec<(&'static str, Vec<Column>)> {
    let second = 1_000_000_000;
    let start = 1_700_000_000 * second;
    let row = || 0..i64::try_from(rows).unwrap_or(i64::MAX);
    let jitter = |n: &mut Noise, unit: i64, width: u64| -> Vec<i64> {
        row().map(|i| start + i * second + unit * n.below(width) as i64).collect()
    };
    let missed = row().scan(start, |time, _| {
        let cycles = match n.below(100) {
            0 => 40_000 + n.below(1 << 20),
            1..=28 => 2 + n.below(3),
            _ => 1,
        };
        // The scanner's own clock ticks, now a little sooner, now later.
        let ticks = cycles * 960_307 + n.below(4) * n.below(4) * 1_003;
        *time += ticks.cast_signed() * 1_000;
        Some(*time)
    });
    let missed = times(missed);
    vec![
        ("times, 1 s", times(row().map(|i| start + i * second))),
        ("times, 1 s, gaps", times(row().map(|i| start + (i + i / 700 * 13) * second))),
        ("times, ms, 10 ms jitter", times(jitter(n, 1_000_000, 11).into_iter())),
        ("times, us, 2 ms jitter", times(jitter(n, 1_000, 4_000).into_iter())),
        ("times, missed cycles", missed),
        ("times, ns, 1 ms jitter", times(jitter(n, 1, 1_000_000).into_iter())),
    ]
}
