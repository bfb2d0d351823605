//! `label(tag, 'area')`: the value of a label of a tag, null if the tag has no such label or does not exist.
//!
//! A function of the tag's name alone, as of the snapshot the statement reads: a filter over it becomes a set of tags
//! before anything is scanned, and it may be a group key.

use std::hash::{Hash, Hasher};

use datafusion::arrow::array::{Array, AsArray, StringViewArray, UInt32Builder};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use tagmill_storage::Snapshot;

/// See the module.
pub(crate) struct Label {
    snapshot: Snapshot,
    signature: Signature,
}

impl Label {
    /// The labels as they are in `snapshot`.
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let types = vec![DataType::Utf8View, DataType::Utf8];
        Self { snapshot, signature: Signature::exact(types, Volatility::Stable) }
    }

    fn find(&self, tag: &str, key: &str) -> Option<&str> {
        let registry = self.snapshot.registry();
        let tag = registry.get(registry.find(tag)?)?;
        tag.attributes.labels.get(key)
    }
}

// A plan never mixes two snapshots, and within one every instance gives the same answers.
impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        self.snapshot.seq() == other.snapshot.seq()
    }
}

impl Eq for Label {}

impl Hash for Label {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.snapshot.seq().hash(state);
    }
}

impl std::fmt::Debug for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Label").field("seq", &self.snapshot.seq()).finish_non_exhaustive()
    }
}

impl ScalarUDFImpl for Label {
    fn name(&self) -> &'static str {
        "label"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [tags, key] = args.args.as_slice() else {
            return exec_err!("label takes a tag and the name of a label");
        };
        let key = match key {
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(key))) => key.as_str(),
            ColumnarValue::Scalar(_) => {
                return Ok(ColumnarValue::Scalar(ScalarValue::Utf8View(None)));
            }
            ColumnarValue::Array(_) => {
                return exec_err!("label: the name of the label must be constant");
            }
        };
        let tags = tags.to_array(args.number_rows)?;
        let tags: &StringViewArray = tags.as_string_view();
        // Samples come tag by tag, so the name is mostly that of the row before.
        let mut found: Vec<&str> = Vec::new();
        let mut rows = UInt32Builder::with_capacity(tags.len());
        let mut last: (Option<&str>, Option<u32>) = (None, None);
        for tag in tags {
            if tag != last.0 {
                let value = tag.and_then(|tag| self.find(tag, key));
                let at = u32::try_from(found.len()).ok();
                last = (tag, value.and(at));
                found.extend(value);
            }
            rows.append_option(last.1);
        }
        let found = StringViewArray::from_iter_values(found);
        Ok(ColumnarValue::Array(take(&found, &rows.finish(), None)?))
    }
}
