//! `first(value, ts)`, `last(value, ts)`, `min_time(value, ts)`, `max_time(value, ts)`: one sample picked from many.
//!
//! Rows with a null in either argument do not count; without any other the result is null. Which sample is picked
//! never depends on the order of the rows or on how a plan splits them: equal times fall to the smaller value for
//! `first` and the greater for `last`, equal values to the earlier time. The partial state is the picked (value, ts),
//! so that whatever keeps a first, a last or an extreme with its time can feed it.

use std::cmp::Ordering;
use std::mem::size_of;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray,
    TimestampNanosecondArray,
};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Float64Type, Int64Type, TimestampNanosecondType,
};
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};

use crate::relations::{UTC, utc_time};

/// Which sample is picked, and what of it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pick {
    /// Value at the least time.
    First,
    /// Value at the greatest time.
    Last,
    /// Earliest time of the least value.
    MinTime,
    /// Earliest time of the greatest value.
    MaxTime,
}

impl Pick {
    /// Every one of them.
    pub(crate) const ALL: [Self; 4] = [Self::First, Self::Last, Self::MinTime, Self::MaxTime];

    const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
            Self::MinTime => "min_time",
            Self::MaxTime => "max_time",
        }
    }

    const fn shows_time(self) -> bool {
        matches!(self, Self::MinTime | Self::MaxTime)
    }

    /// How two values compare: zeros of either sign are one value, unless the sign would be shown.
    fn compare<N: ArrowNativeTypeOp>(self, value: N, other: N) -> Ordering {
        if self.shows_time() {
            return value.add_wrapping(N::ZERO).compare(other.add_wrapping(N::ZERO));
        }
        value.compare(other)
    }

    /// Whether a sample is picked over another, given how its value and its time compare with the other's.
    fn prefers(self, value: Ordering, time: Ordering) -> bool {
        match self {
            Self::First => time.then(value) == Ordering::Less,
            Self::Last => time.then(value) == Ordering::Greater,
            Self::MinTime => value.then(time) == Ordering::Less,
            Self::MaxTime => value.reverse().then(time) == Ordering::Less,
        }
    }
}

/// One of the four functions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Extreme {
    pick: Pick,
    signature: Signature,
}

impl Extreme {
    /// The function that picks so.
    pub(crate) fn new(pick: Pick) -> Self {
        Self { pick, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Which sample it picks.
    pub(crate) const fn pick(&self) -> Pick {
        self.pick
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &'static str {
        self.pick.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            _ if self.pick.shows_time() => Ok(utc_time()),
            [value, _] => Ok(value.clone()),
            _ => plan_err!("{} takes a value and a timestamp", self.name()),
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [value, time] = types else {
            return plan_err!("{} takes a value and a timestamp", self.name());
        };
        if !(matches!(time, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
            || time.is_null())
        {
            return plan_err!("{}: the second argument is a timestamp, not {time}", self.name());
        }
        let value = match value {
            DataType::Float16 | DataType::Float32 => DataType::Float64,
            DataType::UInt64 => DataType::UInt64,
            integer if integer.is_integer() => DataType::Int64,
            text if text.is_string() => DataType::Utf8View,
            other => other.clone(),
        };
        Ok(vec![value, utc_time()])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(match value_type(&args) {
            DataType::Float64 => Box::new(One(Picked::<Float64Type>::new(self.pick))),
            DataType::Int64 => Box::new(One(Picked::<Int64Type>::new(self.pick))),
            other => Box::new(AnyPicked::new(self.pick, &other)?),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let Some(value) = args.input_fields.first() else {
            return plan_err!("{} takes a value and a timestamp", self.name());
        };
        let field = |part: &str, data_type: &DataType| {
            Arc::new(Field::new(format_state_name(args.name, part), data_type.clone(), true))
        };
        Ok(vec![field("value", value.data_type()), field("ts", &utc_time())])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        matches!(value_type(&args), DataType::Float64 | DataType::Int64)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(match value_type(&args) {
            DataType::Int64 => Box::new(Picked::<Int64Type>::new(self.pick)),
            _ => Box::new(Picked::<Float64Type>::new(self.pick)),
        })
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

fn value_type(args: &AccumulatorArgs) -> DataType {
    args.expr_fields.first().map_or(DataType::Null, |field| field.data_type().clone())
}

/// The picked sample of each group. `times` holds `None` while a group has no sample.
struct Picked<T: ArrowPrimitiveType> {
    pick: Pick,
    values: Vec<T::Native>,
    times: Vec<Option<i64>>,
}

impl<T: ArrowPrimitiveType> Picked<T> {
    const fn new(pick: Pick) -> Self {
        Self { pick, values: Vec::new(), times: Vec::new() }
    }

    fn grow(&mut self, groups: usize) {
        self.values.resize(groups, T::Native::default());
        self.times.resize(groups, None);
    }

    /// Offers every row to its group.
    fn offer(
        &mut self,
        columns: &[ArrayRef],
        filter: Option<&BooleanArray>,
        group_of: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let (values, times) = columns_of(columns)?;
        let (values, times) =
            (values.as_primitive::<T>(), times.as_primitive::<TimestampNanosecondType>());
        let plain = values.null_count() == 0 && times.null_count() == 0 && filter.is_none();
        for (row, (&value, &time)) in values.values().iter().zip(times.values()).enumerate() {
            let counts = plain
                || (values.is_valid(row)
                    && times.is_valid(row)
                    && filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)));
            if !counts {
                continue;
            }
            let group = group_of(row);
            let better = match self.times[group] {
                None => true,
                Some(best) => {
                    let by_value = self.pick.compare(value, self.values[group]);
                    self.pick.prefers(by_value, time.cmp(&best))
                }
            };
            if better {
                self.values[group] = value;
                self.times[group] = Some(time);
            }
        }
        Ok(())
    }

    fn take(&mut self, emit: EmitTo) -> (ArrayRef, ArrayRef) {
        let values = emit.take_needed(&mut self.values);
        let times = emit.take_needed(&mut self.times);
        let values = values.iter().zip(&times).map(|(&value, time)| time.map(|_| value));
        let values: PrimitiveArray<T> = values.collect();
        let times = TimestampNanosecondArray::from(times).with_timezone(UTC);
        (Arc::new(values), Arc::new(times))
    }

    fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>()
            + self.times.capacity() * size_of::<Option<i64>>()
    }
}

fn columns_of(columns: &[ArrayRef]) -> Result<(&ArrayRef, &ArrayRef)> {
    let [values, times] = columns else {
        return internal_err!("a value and a timestamp were expected");
    };
    Ok((values, times))
}

impl<T: ArrowPrimitiveType + Send> GroupsAccumulator for Picked<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        self.offer(values, opt_filter, |row| group_indices[row])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (values, times) = self.take(emit_to);
        Ok(if self.pick.shows_time() { times } else { values })
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (values, times) = self.take(emit_to);
        Ok(vec![values, times])
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        self.offer(values, None, |row| group_indices[row])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, Array::len);
        let mut each = Self::new(self.pick);
        each.grow(rows);
        each.offer(values, opt_filter, |row| row)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.bytes()
    }
}

/// The picked sample of everything.
struct One<T: ArrowPrimitiveType>(Picked<T>);

impl<T: ArrowPrimitiveType> std::fmt::Debug for One<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("One").field(&self.0.pick).finish()
    }
}

impl<T: ArrowPrimitiveType + Send> One<T> {
    fn scalars(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.grow(1);
        // Window frames ask again and again, so what was picked stays.
        let mut copy = Picked::<T> {
            pick: self.0.pick,
            values: self.0.values.clone(),
            times: self.0.times.clone(),
        };
        let (values, times) = copy.take(EmitTo::All);
        Ok(vec![ScalarValue::try_from_array(&values, 0)?, ScalarValue::try_from_array(&times, 0)?])
    }
}

impl<T: ArrowPrimitiveType + Send> Accumulator for One<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.grow(1);
        self.0.offer(values, None, |_| 0)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let at = usize::from(self.0.pick.shows_time());
        Ok(self.scalars()?.swap_remove(at))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.scalars()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

/// The picked sample of everything, for values of any type.
#[derive(Debug)]
struct AnyPicked {
    pick: Pick,
    value: ScalarValue,
    time: Option<i64>,
}

impl AnyPicked {
    fn new(pick: Pick, data_type: &DataType) -> Result<Self> {
        Ok(Self { pick, value: ScalarValue::try_from(data_type)?, time: None })
    }
}

impl Accumulator for AnyPicked {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (values, times) = columns_of(values)?;
        let times = times.as_primitive::<TimestampNanosecondType>();
        for (row, time) in times.iter().enumerate() {
            let Some(time) = time.filter(|_| values.is_valid(row)) else { continue };
            // Only a row that may win on its time needs its value looked at.
            let by_time = self.time.map(|best| time.cmp(&best));
            let hopeless = matches!(
                (self.pick, by_time),
                (Pick::First, Some(Ordering::Greater)) | (Pick::Last, Some(Ordering::Less))
            );
            if hopeless {
                continue;
            }
            let mut value = ScalarValue::try_from_array(values, row)?;
            let better = match by_time {
                None => true,
                Some(by_time) => self.pick.prefers(value.try_cmp(&self.value)?, by_time),
            };
            if better {
                // Without this a text would keep the whole batch it came from.
                value.compact();
                self.value = value;
                self.time = Some(time);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let at = usize::from(self.pick.shows_time());
        Ok(self.state()?.swap_remove(at))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.value.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let time = ScalarValue::TimestampNanosecond(self.time, Some(Arc::from(UTC)));
        Ok(vec![self.value.clone(), time])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}
