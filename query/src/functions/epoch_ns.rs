//! `epoch_ns(ts)`: nanoseconds since 1970 UTC, exact, for clients whose timestamps are coarser.

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimestampNanosecondType};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

use crate::relations::utc_time;

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct EpochNs {
    signature: Signature,
}

impl Default for EpochNs {
    fn default() -> Self {
        Self { signature: Signature::exact(vec![utc_time()], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for EpochNs {
    fn name(&self) -> &'static str {
        "epoch_ns"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [times] = args.args.as_slice() else {
            return exec_err!("epoch_ns takes one timestamp");
        };
        let times = times.to_array(args.number_rows)?;
        let times = times.as_primitive::<TimestampNanosecondType>();
        Ok(ColumnarValue::Array(Arc::new(times.reinterpret_cast::<Int64Type>())))
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        Ok(inputs.first().map_or(SortProperties::Unordered, |input| input.sort_properties))
    }
}
