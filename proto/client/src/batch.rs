//! Making batches from plain slices.
//!
//! A [`BatchBuilder`] encodes as it goes: what it holds is what travels. Times on a grid cost nothing, other times are
//! sent as distances where that is shorter.

use bytes::{BufMut, Bytes, BytesMut};
use tagmill_proto::Message;
use tagmill_proto::v1::{ScanBlock, TagColumn};

use crate::definitions::TagSet;
use crate::error::{Error, Result};

/// Field numbers of `Batch` with the wire type of messages.
const COLUMN_KEY: u8 = 2 << 3 | 2;
const SCAN_KEY: u8 = 3 << 3 | 2;
const SEQ_KEY: u8 = 1 << 3;

/// Times of a column, nanoseconds since 1970 UTC.
#[derive(Clone, Copy, Debug)]
pub enum Times<'a> {
    /// One each. They need no order; of equal times the last wins.
    Each(&'a [i64]),
    /// On a grid.
    Grid {
        /// The first.
        base_ns: i64,
        /// Distance of two.
        step_ns: i64,
        /// How many.
        count: u32,
    },
}

/// Values of a column.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Of an f64 tag.
    F64(&'a [f64]),
    /// Of an f32 tag.
    F32(&'a [f32]),
    /// Of an i64 tag.
    I64(&'a [i64]),
    /// Of a bool tag.
    Bool(&'a [bool]),
    /// Codes of a state tag.
    State(&'a [u16]),
    /// Of a text tag, or labels of a state tag.
    Text(&'a [&'a str]),
    /// None: the source had no value. Every quality must be Bad.
    Absent,
}

/// Values of scan cycles: those of the set's tags at the first time, then at the second, and so on.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a> {
    /// times x tags values.
    pub values: &'a [f64],
    /// Flags cells without a sample; empty for none.
    pub missing: &'a [bool],
}

impl<'a> From<&'a [f64]> for Cells<'a> {
    fn from(values: &'a [f64]) -> Self {
        Self { values, missing: &[] }
    }
}

/// Qualities of a column or scan block: OPC UA status codes.
#[derive(Clone, Copy, Debug)]
pub enum Qualities<'a> {
    /// All Good.
    Good,
    /// All this one.
    Uniform(u32),
    /// One each.
    Each(&'a [u32]),
}

/// Samples that will be stored together.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    body: BytesMut,
    samples: u64,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Samples so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Whether it holds no sample.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Encoded bytes so far. The server reads up to 4 MiB unless it was told otherwise.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Adds samples of an f64 tag, all Good.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many values as times.
    pub fn f64(&mut self, alias: u32, times: &[i64], values: &[f64]) -> Result<()> {
        self.column(alias, Times::Each(times), Values::F64(values), Qualities::Good)
    }

    /// Adds samples of an i64 tag, all Good.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many values as times.
    pub fn i64(&mut self, alias: u32, times: &[i64], values: &[i64]) -> Result<()> {
        self.column(alias, Times::Each(times), Values::I64(values), Qualities::Good)
    }

    /// Adds samples of a bool tag, all Good.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many values as times.
    pub fn bool(&mut self, alias: u32, times: &[i64], values: &[bool]) -> Result<()> {
        self.column(alias, Times::Each(times), Values::Bool(values), Qualities::Good)
    }

    /// Adds samples of a text tag, or labels of a state tag, all Good.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many values as times.
    pub fn text(&mut self, alias: u32, times: &[i64], values: &[&str]) -> Result<()> {
        self.column(alias, Times::Each(times), Values::Text(values), Qualities::Good)
    }

    /// Adds samples of one tag.
    ///
    /// # Errors
    /// [`Error::Invalid`] if times, values and qualities differ in number.
    pub fn column(
        &mut self,
        alias: u32,
        times: Times<'_>,
        values: Values<'_>,
        qualities: Qualities<'_>,
    ) -> Result<()> {
        let column = make_column(alias, times, values, qualities)?;
        self.samples += u64::from(column.count);
        self.put(COLUMN_KEY, &column);
        Ok(())
    }

    /// Adds scan cycles of a set at these times.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many values as times x tags.
    pub fn scan(
        &mut self,
        set: &TagSet,
        times: &[i64],
        cells: Cells<'_>,
        qualities: Qualities<'_>,
    ) -> Result<()> {
        let Cells { values, missing } = cells;
        let cells = times.len() * set.len();
        check_count("values", values.len(), cells)?;
        if !missing.is_empty() {
            check_count("flags", missing.len(), cells)?;
        }
        let (quality_codes, quality_counts) = runs(qualities, cells)?;
        let block = ScanBlock {
            set: set.set,
            version: set.version,
            cycles: count_of(times.len())?,
            times_ns: times.to_vec(),
            values: values.to_vec(),
            missing: bits(missing),
            quality_codes,
            quality_counts,
        };
        let absent = missing.iter().filter(|flag| **flag).count();
        self.samples += (cells - absent) as u64;
        self.put(SCAN_KEY, &block);
        Ok(())
    }

    fn put(&mut self, key: u8, message: &impl Message) {
        let length = message.encoded_len();
        self.body.reserve(length + 11);
        self.body.put_u8(key);
        put_varint(&mut self.body, length as u64);
        message.encode(&mut self.body).expect("a BytesMut grows");
    }

    /// The encoded fields of the batch but its number.
    pub(crate) fn into_body(self) -> Bytes {
        self.body.freeze()
    }
}

/// The encoded batch: its number, then `body`.
pub(crate) fn numbered(seq: u64, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(body.len() + 11);
    bytes.put_u8(SEQ_KEY);
    put_varint(&mut bytes, seq);
    bytes.extend_from_slice(body);
    bytes.freeze()
}

/// One column as it travels, for [`BatchBuilder`] and for unary writes.
pub(crate) fn make_column(
    alias: u32,
    times: Times<'_>,
    values: Values<'_>,
    qualities: Qualities<'_>,
) -> Result<TagColumn> {
    let mut column = TagColumn { alias, ..TagColumn::default() };
    let count = match times {
        Times::Each(times) => {
            put_times(&mut column, times);
            times.len()
        }
        Times::Grid { base_ns, step_ns, count } => {
            column.base_ns = base_ns;
            column.step_ns = step_ns;
            count as usize
        }
    };
    column.count = count_of(count)?;
    let (codes, counts) = runs(qualities, count)?;
    (column.quality_codes, column.quality_counts) = (codes, counts);
    let found = match values {
        Values::F64(v) => {
            column.f64 = v.to_vec();
            v.len()
        }
        Values::F32(v) => {
            column.f32 = v.to_vec();
            v.len()
        }
        Values::I64(v) => {
            column.i64 = v.to_vec();
            v.len()
        }
        Values::Bool(v) => {
            column.bools = v.to_vec();
            v.len()
        }
        Values::State(v) => {
            column.states = v.iter().copied().map(u32::from).collect();
            v.len()
        }
        Values::Text(v) => {
            column.texts = v.iter().map(|text| (*text).to_owned()).collect();
            v.len()
        }
        Values::Absent => {
            if column.quality_codes.is_empty() || column.quality_codes.iter().any(|q| q >> 31 == 0)
            {
                return Err(Error::Invalid("samples without a value must all be Bad".into()));
            }
            count
        }
    };
    check_count("values", found, count)?;
    Ok(column)
}

/// The shortest of the three forms of times.
fn put_times(column: &mut TagColumn, times: &[i64]) {
    let [first, rest @ ..] = times else { return };
    column.base_ns = *first;
    let deltas: Option<Vec<i64>> =
        times.windows(2).map(|pair| pair[1].checked_sub(pair[0])).collect();
    let Some(deltas) = deltas else {
        (column.base_ns, column.times_ns) = (0, times.to_vec());
        return;
    };
    let step = deltas.first().copied().unwrap_or(0);
    if deltas.iter().all(|delta| *delta == step) {
        column.step_ns = step;
        return;
    }
    let bytes: usize = deltas.iter().map(|delta| varint_len(zigzag(*delta))).sum();
    if bytes < rest.len() * 7 {
        column.time_deltas_ns = deltas;
    } else {
        (column.base_ns, column.times_ns) = (0, times.to_vec());
    }
}

/// Codes and lengths of the runs of equal qualities.
fn runs(qualities: Qualities<'_>, count: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    match qualities {
        Qualities::Good | Qualities::Uniform(0) => Ok((Vec::new(), Vec::new())),
        Qualities::Uniform(code) => Ok((vec![code], Vec::new())),
        Qualities::Each(each) => {
            check_count("qualities", each.len(), count)?;
            let (mut codes, mut counts) = (Vec::new(), Vec::new());
            for run in each.chunk_by(|a, b| a == b) {
                codes.push(run[0]);
                counts.push(count_of(run.len())?);
            }
            if codes == [0] { Ok((Vec::new(), Vec::new())) } else { Ok((codes, counts)) }
        }
    }
}

/// Flags as bits, lowest first; none if no flag is set.
fn bits(flags: &[bool]) -> Bytes {
    if !flags.contains(&true) {
        return Bytes::new();
    }
    let byte = |flags: &[bool]| {
        flags.iter().enumerate().fold(0_u8, |byte, (bit, flag)| byte | u8::from(*flag) << bit)
    };
    flags.chunks(8).map(byte).collect::<Vec<u8>>().into()
}

fn check_count(what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Invalid(format!("found {found} {what}, expected {expected}")))
}

fn count_of(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| Error::Invalid("a column has too many samples".into()))
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_proto::v1::Batch;

    #[test]
    fn what_is_built_is_what_protobuf_reads() {
        let mut builder = BatchBuilder::new();
        builder.f64(1, &[10, 20, 30], &[1.5, -0.0, f64::NAN]).unwrap();
        builder.i64(2, &[10, 21, 30], &[1, i64::MIN, 3]).unwrap();
        builder.text(3, &[i64::MIN, i64::MAX], &["RUN", ""]).unwrap();
        let set = TagSet { set: 9, version: 7, tags: 2 };
        let missing = &[false, true, false, false];
        let cells = Cells { values: &[1.0, 2.0, 3.0, 4.0], missing };
        builder.scan(&set, &[1, 2], cells, Qualities::Each(&[0, 0, 5, 5])).unwrap();
        assert_eq!(builder.samples(), 11);
        let bytes = numbered(300, &builder.into_body());
        let batch = Batch::decode(bytes).unwrap();
        assert_eq!(batch.seq, 300);
        let [a, b, c] = &batch.columns[..] else { panic!("three columns") };
        assert_eq!((a.base_ns, a.step_ns, a.count), (10, 10, 3));
        assert_eq!(a.f64[1].to_bits(), (-0.0_f64).to_bits());
        assert_eq!((b.base_ns, &b.time_deltas_ns[..]), (10, &[11, 9][..]));
        assert_eq!(c.times_ns, [i64::MIN, i64::MAX]);
        let scan = &batch.scans[0];
        assert_eq!((scan.set, scan.version, scan.cycles), (9, 7, 2));
        assert_eq!(&scan.missing[..], [0b10]);
        assert_eq!((&scan.quality_codes[..], &scan.quality_counts[..]), (&[0, 5][..], &[2, 2][..]));
    }

    #[test]
    fn lengths_that_differ_are_refused() {
        let mut builder = BatchBuilder::new();
        assert!(builder.f64(1, &[1, 2], &[1.0]).is_err());
        let times = Times::Each(&[1]);
        assert!(builder.column(1, times, Values::Absent, Qualities::Good).is_err());
        assert!(builder.column(1, times, Values::F64(&[1.0]), Qualities::Each(&[])).is_err());
        let set = TagSet { set: 1, version: 1, tags: 2 };
        assert!(builder.scan(&set, &[1], Cells::from(&[1.0][..]), Qualities::Good).is_err());
        assert!(builder.is_empty());
        builder.column(1, times, Values::Absent, Qualities::Uniform(0x8000_0000)).unwrap();
        assert_eq!(builder.samples(), 1);
    }
}
