//! `a || b` as a function that says what it may come to, as [`functions`](super::functions) do.
//!
//! The operator itself would not: `x || x` of `x || x` of .. in one expression grows within one call, out of sight of what
//! watches batches. It keeps its name, and is worked out by the operator.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr as PhysicalBinary, Column, Literal};

use super::functions::{Cost, check};

/// The rewrite. It changes no plan's meaning.
#[derive(Debug)]
pub(crate) struct CappedConcatenation {
    function: Arc<ScalarUDF>,
}

impl Default for CappedConcatenation {
    fn default() -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { function: Arc::new(ScalarUDF::from(Concatenation { signature })) }
    }
}

impl FunctionRewrite for CappedConcatenation {
    fn name(&self) -> &'static str {
        "capped_concatenation"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
                let (function, args) = (Arc::clone(&self.function), vec![*left, *right]);
                let call = ScalarFunction::new_udf(function, args);
                Ok(Transformed::yes(Expr::ScalarFunction(call)))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}

/// The operator as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Concatenation {
    signature: Signature,
}

impl ScalarUDFImpl for Concatenation {
    fn name(&self) -> &'static str {
        "||"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(names.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = types else { return plan_err!("|| has two sides") };
        let coercer = BinaryTypeCoercer::new(left, &Operator::StringConcat, right);
        let (left, right) = coercer.get_input_types()?;
        Ok(vec![left, right])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [left, right] = types else { return plan_err!("|| has two sides") };
        BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type()
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<_> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let is_nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        check(self.name(), Cost::Concatenated, &args.args, args.number_rows)?;
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        let sides = args.args.into_iter().map(|arg| match arg {
            ColumnarValue::Scalar(value) => Arc::new(Literal::new(value)) as Arc<dyn PhysicalExpr>,
            ColumnarValue::Array(array) => {
                fields.push(Field::new("", array.data_type().clone(), true));
                columns.push(array);
                Arc::new(Column::new("", columns.len() - 1))
            }
        });
        let sides: Vec<_> = sides.collect();
        let Ok([left, right]) = <[Arc<dyn PhysicalExpr>; 2]>::try_from(sides) else {
            return plan_err!("|| has two sides");
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let made = PhysicalBinary::new(left, Operator::StringConcat, right).evaluate(&batch)?;
        match made {
            ColumnarValue::Array(array) if is_constant => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
            made => Ok(made),
        }
    }
}
