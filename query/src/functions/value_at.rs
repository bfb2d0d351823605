//! `value_at(tag, ts [, tolerance])`: what a tag shows at an instant, as a number.
//!
//! The value of the sample at `ts`, else the held or drawn one; null where none is known, if the last usable sample is
//! older than the tolerance, and for text tags. Rows are answered tag by tag, times ascending, so that many instants of
//! one tag cost one walk over its samples.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, Float64Array, StringViewArray};
use datafusion::arrow::datatypes::{DataType, TimeUnit, TimestampNanosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use tagmill_storage::{TagId, ValueType};

use super::width::parse_parts;
use crate::pieces::{Known, known_at};
use crate::relations::{Scope, utc_time};
use crate::selection::unknown;
use crate::table_functions::instants::{Look, visit};
use crate::table_functions::readings::{Reader, rule_of};

const USAGE: &str = "value_at takes (tag, ts) or (tag, ts, tolerance)";

/// See the module.
pub(crate) struct ValueAt {
    scope: Scope,
    now_ns: i64,
    signature: Signature,
}

impl ValueAt {
    /// Values as of the snapshot of a statement whose `now()` is `now_ns`.
    pub(crate) fn new(scope: Scope, now_ns: i64) -> Self {
        Self { scope, now_ns, signature: Signature::user_defined(Volatility::Stable) }
    }

    /// Fills `values` for the rows of one tag.
    fn fill(
        &self,
        tag: TagId,
        rows: &mut [(i64, usize)],
        tolerance_ns: Option<i64>,
        values: &mut [Option<f64>],
    ) -> Result<()> {
        let Some(known) = self.scope.snapshot.registry().get(tag) else { return Ok(()) };
        if known.value_type == ValueType::Text {
            return Ok(());
        }
        let rule = rule_of(known);
        // Leaving out what the disk has lost cannot be announced any more while rows are computed.
        let reader = Reader {
            snapshot: self.scope.snapshot.clone(),
            damage: tagmill_storage::OnDamage::Fail,
        };
        rows.sort_unstable();
        let times: Vec<i64> = rows.iter().map(|row| row.0).collect();
        visit(&reader, tag, &rule, &times, Look::BothWays, |index, carry, next| {
            let Some(&(at_ns, row)) = rows.get(index) else { return };
            let next = next.map(|next| next.next(&rule));
            let broken = carry.is_broken();
            let known = known_at(&rule, at_ns, carry.point(), broken, next, self.now_ns);
            let value = match (known, &carry.usable) {
                (Known::Held, Some(held)) => Some(held.number()),
                (Known::Drawn(value), _) => Some(value),
                _ => None,
            };
            let since_ns = carry.usable.as_ref().map(|usable| at_ns.saturating_sub(usable.time_ns));
            let fresh = tolerance_ns.is_none_or(|most| since_ns.is_some_and(|since| since <= most));
            if let Some(slot) = values.get_mut(row) {
                *slot = value.filter(|_| fresh);
            }
        })
    }
}

// A plan never mixes two snapshots, and within one every instance gives the same answers.
impl PartialEq for ValueAt {
    fn eq(&self, other: &Self) -> bool {
        self.scope.snapshot.seq() == other.scope.snapshot.seq() && self.now_ns == other.now_ns
    }
}

impl Eq for ValueAt {}

impl Hash for ValueAt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.scope.snapshot.seq(), self.now_ns).hash(state);
    }
}

impl std::fmt::Debug for ValueAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValueAt").field("now_ns", &self.now_ns).finish_non_exhaustive()
    }
}

impl ScalarUDFImpl for ValueAt {
    fn name(&self) -> &'static str {
        "value_at"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [tag, time, rest @ ..] = types else { return plan_err!("{USAGE}") };
        if !(tag.is_string() || tag.is_null()) {
            return plan_err!("value_at: the tag is a text, not {tag}");
        }
        let is_time = matches!(time, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
        if !(is_time || time.is_string() || time.is_null()) {
            return plan_err!("value_at: ts is a timestamp, not {time}");
        }
        let mut wanted = vec![DataType::Utf8View, utc_time()];
        match rest {
            [] => {}
            [text] if text.is_string() || text.is_null() => wanted.push(DataType::Utf8),
            [DataType::Duration(_)] => wanted.push(DataType::Duration(TimeUnit::Nanosecond)),
            [DataType::Interval(_)] => wanted
                .push(DataType::Interval(datafusion::arrow::datatypes::IntervalUnit::MonthDayNano)),
            [other] => return plan_err!("value_at: the tolerance is a length, not {other}"),
            _ => return plan_err!("{USAGE}"),
        }
        Ok(wanted)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [tags, times, rest @ ..] = args.args.as_slice() else { return exec_err!("{USAGE}") };
        let all_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let count = if all_constant { 1 } else { args.number_rows };
        let tolerance_ns = match rest {
            [] => None,
            [ColumnarValue::Scalar(value)] => tolerance_of(value)?,
            _ => return exec_err!("value_at: the tolerance must be constant"),
        };
        let (tags, times) = (tags.to_array(count)?, times.to_array(count)?);
        let tags: &StringViewArray = tags.as_string_view();
        let times = times.as_primitive::<TimestampNanosecondType>();
        let registry = self.scope.snapshot.registry();
        let mut rows: BTreeMap<TagId, Vec<(i64, usize)>> = BTreeMap::new();
        let mut last: (&str, Option<TagId>) = ("", None);
        for (row, (tag, time)) in tags.iter().zip(times).enumerate() {
            let (Some(tag), Some(time)) = (tag, time) else { continue };
            if tag != last.0 {
                last = (tag, registry.find(tag));
                if last.1.is_none() {
                    self.scope.notices.add(unknown(registry, tag));
                }
            }
            if let Some(id) = last.1 {
                rows.entry(id).or_default().push((time, row));
            }
        }
        let mut values = vec![None; count];
        for (tag, mut rows) in rows {
            self.fill(tag, &mut rows, tolerance_ns, &mut values)?;
        }
        if all_constant {
            let value = values.first().copied().flatten();
            return Ok(ColumnarValue::Scalar(ScalarValue::Float64(value)));
        }
        Ok(ColumnarValue::Array(Arc::new(Float64Array::from(values))))
    }
}

/// The tolerance in nanoseconds; null is none.
fn tolerance_of(value: &ScalarValue) -> Result<Option<i64>> {
    let parts = match value {
        ScalarValue::Utf8(Some(text)) => parse_parts(text),
        ScalarValue::DurationNanosecond(Some(nanos)) => Ok((0, *nanos)),
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            let days = i64::from(interval.days).checked_mul(tagmill_storage::DAY_NS);
            let nanos = days.and_then(|days| days.checked_add(interval.nanoseconds));
            let nanos = nanos.ok_or_else(|| "it is too long".to_owned());
            nanos.map(|nanos| (i64::from(interval.months), nanos))
        }
        other if other.is_null() => return Ok(None),
        other => Err(format!("{other} is no length")),
    };
    match parts {
        Ok((0, nanos)) if nanos >= 0 => Ok(Some(nanos)),
        Ok((0, _)) => exec_err!("value_at: the tolerance must not be below zero"),
        Ok(_) => exec_err!("value_at: months have no length: write the tolerance in days"),
        Err(why) => exec_err!("value_at: tolerance: {why}"),
    }
}
