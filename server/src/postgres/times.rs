//! Times on the wire.
//!
//! Contract: a timestamp is written in microseconds, rounded down; what that lost is told. The text of one with a zone ends
//! with the offset that the zone had then, to the second where it was not whole minutes.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow_pg::encoder::Encoder;
use bytes::BytesMut;
use chrono::{DateTime, FixedOffset};
use pgwire::api::Type;
use pgwire::api::results::FieldInfo;
use pgwire::error::PgWireResult;
use pgwire::types::ToSqlText;
use pgwire::types::format::FormatOptions;
use postgres_types::{IsNull, ToSql};
use tagmill::arrow::array::timezone::Tz;
use tagmill::arrow::array::{
    Array as _, ArrayRef, AsArray as _, FixedSizeListArray, GenericListArray, OffsetSizeTrait,
    RecordBatch, RecordBatchOptions, TimestampMicrosecondArray,
};
use tagmill::arrow::datatypes::{
    DataType, Field, Schema, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use tagmill::arrow::error::ArrowError;

use super::errors::error;
use super::values::Written;

const NS_PER_US: i64 = 1_000;

/// A batch with its timestamps as the wire has them, shown in the session's zone unless they have one of their own; and
/// whether digits were lost.
pub(super) fn on_the_wire(
    batch: &RecordBatch,
    zone: &Arc<str>,
) -> Result<(RecordBatch, bool), ArrowError> {
    let is_fine = |field: &Arc<Field>| has_ns(field.data_type());
    if !batch.schema_ref().fields().iter().any(is_fine) {
        return Ok((batch.clone(), false));
    }
    let mut has_lost = false;
    let (mut fields, mut columns): (Vec<Arc<Field>>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if !is_fine(field) {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        has_lost |= loses(column);
        let coarse = coarse(column, zone)?;
        let field = Field::clone(field).with_data_type(coarse.data_type().clone());
        fields.push(Arc::new(field));
        columns.push(coarse);
    }
    let schema = Schema::new_with_metadata(fields, batch.schema_ref().metadata().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)?;
    Ok((batch, has_lost))
}

/// The zone in which times are shown: the one that AT TIME ZONE gave them, or else the session's.
fn shown_in(own: &Arc<str>, of_session: &Arc<str>) -> Arc<str> {
    let is_plain = matches!(&**own, "UTC" | "+00:00");
    Arc::clone(if is_plain { of_session } else { own })
}

/// Whether a type has nanoseconds: a time, or a list of such.
fn has_ns(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => true,
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => {
            has_ns(of.data_type())
        }
        _ => false,
    }
}

/// Whether microseconds cannot hold all that is in the rows of a column.
fn loses(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let times = column.as_primitive::<TimestampNanosecondType>();
            times.iter().flatten().any(|ns| ns % NS_PER_US != 0)
        }
        DataType::List(_) => loses(&values_of(column.as_list::<i32>())),
        DataType::LargeList(_) => loses(&values_of(column.as_list::<i64>())),
        DataType::FixedSizeList(..) => loses(column.as_fixed_size_list().values()),
        _ => false,
    }
}

/// What stands in the rows of a list. It may be a part of another, and have more.
fn values_of<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> ArrayRef {
    let offsets = list.value_offsets();
    let (first, end) = (offsets[0].as_usize(), offsets[list.len()].as_usize());
    list.values().slice(first, end - first)
}

/// A column with microseconds in the place of nanoseconds.
fn coarse(column: &ArrayRef, zone: &Arc<str>) -> Result<ArrayRef, ArrowError> {
    let coarse: ArrayRef = match column.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, own) => {
            let times = column.as_primitive::<TimestampNanosecondType>();
            let coarse: TimestampMicrosecondArray = times.unary(|ns| ns.div_euclid(NS_PER_US));
            Arc::new(coarse.with_timezone_opt(own.as_ref().map(|own| shown_in(own, zone))))
        }
        DataType::List(of) => Arc::new(coarse_list(column.as_list::<i32>(), of, zone)?),
        DataType::LargeList(of) => Arc::new(coarse_list(column.as_list::<i64>(), of, zone)?),
        DataType::FixedSizeList(of, size) => {
            let list = column.as_fixed_size_list();
            let values = coarse(list.values(), zone)?;
            let of = Field::clone(of).with_data_type(values.data_type().clone());
            let nulls = list.nulls().cloned();
            Arc::new(FixedSizeListArray::try_new(Arc::new(of), *size, values, nulls)?)
        }
        _ => Arc::clone(column),
    };
    Ok(coarse)
}

fn coarse_list<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    of: &Arc<Field>,
    zone: &Arc<str>,
) -> Result<GenericListArray<O>, ArrowError> {
    let values = coarse(list.values(), zone)?;
    let of = Field::clone(of).with_data_type(values.data_type().clone());
    let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
    GenericListArray::try_new(Arc::new(of), offsets, values, nulls)
}

/// Writes a time that has a zone, or a list of such, which must not be null. Whether it was one.
pub(super) fn encode_times<E: Encoder>(
    encoder: &mut E,
    column: &ArrayRef,
    row: usize,
    shown: &FieldInfo,
) -> PgWireResult<bool> {
    let of = match column.data_type() {
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => {
            of.data_type()
        }
        other => other,
    };
    let DataType::Timestamp(unit, Some(zone)) = of else { return Ok(false) };
    let zone = zone
        .parse::<Tz>()
        .map_err(|failure| error("XX000", format!("cannot show times in {zone}: {failure}")))?;
    let times = match column.data_type() {
        DataType::List(_) => column.as_list::<i32>().value(row),
        DataType::LargeList(_) => column.as_list::<i64>().value(row),
        DataType::FixedSizeList(..) => column.as_fixed_size_list().value(row),
        _ => {
            encoder.encode_field(&stamp_of(column, *unit, row, zone), shown)?;
            return Ok(true);
        }
    };
    let stamps = (0..times.len()).map(|at| stamp_of(&times, *unit, at, zone));
    encoder.encode_field(&stamps.collect::<Vec<_>>(), shown)?;
    Ok(true)
}

/// A time of a column as it is shown in a zone. Nothing if it is null or so far away that it has no date.
fn stamp_of(times: &ArrayRef, unit: TimeUnit, row: usize, zone: Tz) -> Option<Stamp> {
    if times.is_null(row) {
        return None;
    }
    let time = match unit {
        TimeUnit::Second => {
            times.as_primitive::<TimestampSecondType>().value_as_datetime_with_tz(row, zone)
        }
        TimeUnit::Millisecond => {
            times.as_primitive::<TimestampMillisecondType>().value_as_datetime_with_tz(row, zone)
        }
        TimeUnit::Microsecond => {
            times.as_primitive::<TimestampMicrosecondType>().value_as_datetime_with_tz(row, zone)
        }
        TimeUnit::Nanosecond => {
            times.as_primitive::<TimestampNanosecondType>().value_as_datetime_with_tz(row, zone)
        }
    };
    time.map(|time| Stamp(time.fixed_offset()))
}

/// An instant, and the offset it is shown with. The library's own text knows whole hours alone.
#[derive(Clone, Copy, Debug)]
struct Stamp(DateTime<FixedOffset>);

impl ToSql for Stamp {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Written {
        self.0.to_sql(of, out)
    }

    fn accepts(of: &Type) -> bool {
        <DateTime<FixedOffset> as ToSql>::accepts(of)
    }

    postgres_types::to_sql_checked!();
}

impl ToSqlText for Stamp {
    fn to_sql_text(&self, _: &Type, out: &mut BytesMut, _: &FormatOptions) -> Written {
        write!(out, "{}", self.0.format("%Y-%m-%d %H:%M:%S%.6f"))?;
        let east = self.0.offset().local_minus_utc();
        let sign = if east < 0 { '-' } else { '+' };
        let (minutes, seconds) = (east.unsigned_abs() / 60, east.unsigned_abs() % 60);
        write!(out, "{sign}{:02}", minutes / 60)?;
        if minutes % 60 != 0 || seconds != 0 {
            write!(out, ":{:02}", minutes % 60)?;
        }
        if seconds != 0 {
            write!(out, ":{seconds:02}")?;
        }
        Ok(IsNull::No)
    }
}

#[cfg(test)]
mod tests {
    use pgwire::api::portal::Format;
    use pgwire::api::results::DataRowEncoder;
    use tagmill::arrow::array::{ListArray, TimestampNanosecondArray};
    use tagmill::arrow::buffer::OffsetBuffer;

    use super::super::values::{encode_row, fields_of};
    use super::*;

    /// The first second of March 2026, in nanoseconds.
    const MARCH: i64 = 1_772_323_200_000_000_000;

    /// The only value of a column, as it is written in a session with a zone.
    fn written(column: ArrayRef, zone: &str, format: &Format) -> Vec<u8> {
        let batch = RecordBatch::try_from_iter([("ts", column)]).unwrap();
        let (batch, _) = on_the_wire(&batch, &Arc::from(zone)).unwrap();
        let fields = Arc::new(fields_of(&batch.schema(), format).unwrap());
        let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
        let row = encode_row(&mut encoder, &batch, 0, &fields).unwrap();
        row.data[4..].to_vec() // its length stands before it
    }

    fn text(column: ArrayRef, zone: &str) -> String {
        String::from_utf8(written(column, zone, &Format::UnifiedText)).unwrap()
    }

    fn time(ns: i64) -> ArrayRef {
        Arc::new(TimestampNanosecondArray::from(vec![ns]).with_timezone("UTC"))
    }

    #[test]
    fn times_are_rounded_down_and_what_is_lost_is_told() {
        let zone = Arc::from("UTC");
        for (ns, us, lost) in
            [(1_000, 1, false), (1_999, 1, true), (-1, -1, true), (-1_000, -1, false)]
        {
            let times = TimestampNanosecondArray::from(vec![Some(ns), None]).with_timezone("UTC");
            let batch = RecordBatch::try_from_iter([("ts", Arc::new(times) as ArrayRef)]).unwrap();
            let (wire, has_lost) = on_the_wire(&batch, &zone).unwrap();
            let column = wire.column(0).as_primitive::<TimestampMicrosecondType>();
            assert_eq!((column.value(0), column.is_null(1), has_lost), (us, true, lost), "{ns}");
        }
    }

    /// Lists of so many of these times, one after the other.
    fn lists(times: Vec<i64>, lengths: &[usize]) -> ArrayRef {
        let times = TimestampNanosecondArray::from(times).with_timezone("UTC");
        let of = Arc::new(Field::new_list_field(times.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
        Arc::new(ListArray::new(of, offsets, Arc::new(times), None))
    }

    #[test]
    fn times_in_lists_are_shown_as_others_are() {
        let list = lists(vec![MARCH, MARCH + 1_500], &[2]);
        let shown = "{2026-03-01 05:30:00.000000+05:30,2026-03-01 05:30:00.000001+05:30}";
        assert_eq!(text(list, "Asia/Kolkata"), shown);
        // What a part of a column leaves out is not lost.
        for (lengths, at, want) in [(&[1, 1], 0, false), (&[1, 1], 1, true), (&[2, 0], 1, false)] {
            let part = lists(vec![MARCH, MARCH + 1], lengths).slice(at, 1);
            let batch = RecordBatch::try_from_iter([("list", part)]).unwrap();
            let (wire, has_lost) = on_the_wire(&batch, &Arc::from("UTC")).unwrap();
            assert_eq!((wire.num_rows(), has_lost), (1, want), "{lengths:?} {at}");
        }
        let plain = tagmill::arrow::compute::cast(
            &lists(vec![MARCH + 1], &[1]),
            &DataType::new_fixed_size_list(time(0).data_type().clone(), 1, true),
        );
        let batch = RecordBatch::try_from_iter([("list", plain.unwrap())]).unwrap();
        assert!(on_the_wire(&batch, &Arc::from("UTC")).unwrap().1, "in a list of one length, too");
    }

    #[test]
    fn a_zone_that_a_statement_asks_for_is_kept() {
        for (own, want) in [
            ("UTC", "2026-03-01 05:30:00.000000+05:30"),
            ("+00:00", "2026-03-01 05:30:00.000000+05:30"),
            ("Europe/Berlin", "2026-03-01 01:00:00.000000+01"),
            ("America/New_York", "2026-02-28 19:00:00.000000-05"),
        ] {
            let times = TimestampNanosecondArray::from(vec![MARCH]).with_timezone(own);
            assert_eq!(text(Arc::new(times), "Asia/Kolkata"), want, "{own}");
        }
        let plain = TimestampNanosecondArray::from(vec![MARCH]);
        assert_eq!(text(Arc::new(plain), "Asia/Kolkata"), "2026-03-01 00:00:00.000000");
    }

    #[test]
    fn the_text_of_a_time_has_its_whole_offset() {
        // The first of January 1890: clocks showed the time of their place.
        let old = -2_524_521_600_000_000_000;
        for (ns, zone, want) in [
            (MARCH, "UTC", "2026-03-01 00:00:00.000000+00"),
            (MARCH + 123_456_789, "Europe/Berlin", "2026-03-01 01:00:00.123456+01"),
            (MARCH, "America/New_York", "2026-02-28 19:00:00.000000-05"),
            (MARCH, "Asia/Kolkata", "2026-03-01 05:30:00.000000+05:30"),
            (MARCH, "America/St_Johns", "2026-02-28 20:30:00.000000-03:30"),
            (old, "Europe/Berlin", "1890-01-01 00:53:28.000000+00:53:28"),
            (old, "America/St_Johns", "1889-12-31 20:29:08.000000-03:30:52"),
        ] {
            assert_eq!(text(time(ns), zone), want);
            let binary = written(time(ns), zone, &Format::UnifiedBinary);
            assert_eq!(binary, written(time(ns), "UTC", &Format::UnifiedBinary), "{zone}");
        }
    }
}
