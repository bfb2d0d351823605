//! Texts of a column as they were sent: plain, in views, or by the keys of a dictionary.
//!
//! Contract: none of them is copied. A few bytes may show a long text many times; what that comes to is for the caller to
//! count before it makes anything of it.

use tagmill::arrow::array::StringViewArray;
use tagmill::arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, StringArray};
use tagmill::arrow::buffer::NullBuffer;

/// The texts of a column.
pub(super) enum Texts {
    Short(StringArray),
    Long(LargeStringArray),
    View(StringViewArray),
    Keyed { keys: Vec<usize>, nulls: Option<NullBuffer>, of: Box<Self> },
}

impl Texts {
    /// Those of an array; none if it holds something else.
    pub(super) fn of(array: &ArrayRef) -> Option<Self> {
        if let Some(keyed) = array.as_any_dictionary_opt() {
            let of = Box::new(Self::of(keyed.values())?);
            let nulls = keyed.keys().nulls().cloned();
            // Where there is no value at all, every key is null.
            let is_empty = keyed.values().is_empty();
            let keys = if is_empty { vec![0; keyed.len()] } else { keyed.normalized_keys() };
            return Some(Self::Keyed { keys, nulls, of });
        }
        let short = array.as_string_opt::<i32>().cloned().map(Self::Short);
        let long = || array.as_string_opt::<i64>().cloned().map(Self::Long);
        let view = || array.as_string_view_opt().cloned().map(Self::View);
        short.or_else(long).or_else(view)
    }

    /// The text of a row; none where it is null.
    pub(super) fn get(&self, row: usize) -> Option<&str> {
        let is_there = |array: &dyn Array| row < array.len() && array.is_valid(row);
        match self {
            Self::Short(texts) => is_there(texts).then(|| texts.value(row)),
            Self::Long(texts) => is_there(texts).then(|| texts.value(row)),
            Self::View(texts) => is_there(texts).then(|| texts.value(row)),
            Self::Keyed { keys, nulls, of } => {
                let key = *keys.get(row)?;
                let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                if is_null { None } else { of.get(key) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tagmill::arrow::array::{DictionaryArray, Int8Array};
    use tagmill::arrow::datatypes::Int8Type;

    use super::*;

    #[test]
    fn a_text_is_the_same_however_it_was_sent() {
        let wanted = [Some("a"), None, Some("bb"), Some("a")];
        let keyed: DictionaryArray<Int8Type> = wanted.into_iter().collect();
        // A key that is there, of a value that is not.
        let values: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None, Some("bb")]));
        let keys = Int8Array::from(vec![0, 1, 2, 0]);
        let arrays: [ArrayRef; 5] = [
            Arc::new(StringArray::from(wanted.to_vec())),
            Arc::new(LargeStringArray::from(wanted.to_vec())),
            Arc::new(StringViewArray::from(wanted.to_vec())),
            Arc::new(keyed),
            Arc::new(DictionaryArray::new(keys, values)),
        ];
        for array in arrays {
            let of = array.data_type().clone();
            let texts = Texts::of(&array).unwrap();
            let found: Vec<_> = (0..4).map(|row| texts.get(row)).collect();
            assert_eq!(found, wanted, "{of}");
            let part = Texts::of(&array.slice(2, 2)).unwrap();
            assert_eq!((part.get(0), part.get(1), part.get(2)), (Some("bb"), Some("a"), None));
        }
        assert!(Texts::of(&(Arc::new(Int8Array::from(vec![1])) as ArrayRef)).is_none());
    }
}
