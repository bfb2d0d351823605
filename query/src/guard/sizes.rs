//! Sizes of what arrays show: what a piece of something larger holds besides does not count.

use std::ops::Range;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::DataType;

/// Bytes that a batch shows.
pub(crate) fn bytes_of(batch: &RecordBatch) -> u64 {
    let bytes = |column: &ArrayRef| match column.as_string_view_opt() {
        Some(views) => views.total_buffer_bytes_used() + 16 * views.len(),
        None => column
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| column.get_array_memory_size()),
    };
    batch.columns().iter().map(bytes).sum::<usize>() as u64
}

/// What the rows of an array come to.
#[derive(Debug)]
pub(crate) enum Sizes {
    /// So many rows of one size.
    Same { each: u64, rows: u64 },
    /// Row by row.
    Each(Vec<u64>),
}

impl Sizes {
    /// Bytes of texts, and of all that lies in lists.
    pub(crate) fn bytes(array: &dyn Array) -> Self {
        Self::of(array, &|leaf| match leaf.data_type() {
            DataType::Utf8 => lengths(leaf.as_string::<i32>().offsets()),
            DataType::LargeUtf8 => lengths(leaf.as_string::<i64>().offsets()),
            DataType::Binary => lengths(leaf.as_binary::<i32>().offsets()),
            DataType::LargeBinary => lengths(leaf.as_binary::<i64>().offsets()),
            DataType::Utf8View => {
                Self::Each(leaf.as_string_view().lengths().map(u64::from).collect())
            }
            DataType::BinaryView => {
                Self::Each(leaf.as_binary_view().lengths().map(u64::from).collect())
            }
            other => {
                let rows = leaf.len() as u64;
                let each = match (other.primitive_width(), other) {
                    (Some(width), _) => width as u64,
                    (None, DataType::Boolean | DataType::Null) => 1,
                    // A form that is seldom met: the mean of what it holds.
                    _ => (leaf.get_array_memory_size() as u64).div_ceil(rows.max(1)),
                };
                Self::Same { each, rows }
            }
        })
    }

    /// Values in lists, and in lists within them.
    pub(crate) fn values(array: &dyn Array) -> Self {
        Self::of(array, &|leaf| Self::Same { each: 1, rows: leaf.len() as u64 })
    }

    fn of(array: &dyn Array, of_leaf: &dyn Fn(&dyn Array) -> Self) -> Self {
        match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Self::of(list.values(), of_leaf).grouped(list.offsets())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                Self::of(list.values(), of_leaf).grouped(list.offsets())
            }
            DataType::Map(..) => {
                let map = array.as_map();
                Self::of(map.entries(), of_leaf).grouped(map.offsets())
            }
            DataType::FixedSizeList(_, length) => {
                let inner = Self::of(array.as_fixed_size_list().values(), of_leaf);
                let length = usize::try_from(*length).unwrap_or_default();
                let sums = (0..array.len()).map(|row| inner.sum(row * length..(row + 1) * length));
                Self::Each(sums.collect())
            }
            DataType::Struct(_) => {
                let columns = array.as_struct().columns();
                let columns: Vec<_> =
                    columns.iter().map(|column| Self::of(column, of_leaf)).collect();
                let row = |row: usize| columns.iter().map(|sizes| sizes.sum(row..row + 1)).sum();
                Self::Each((0..array.len()).map(row).collect())
            }
            _ => of_leaf(array),
        }
    }

    /// Of lists, when these are the sizes of what lies in them.
    fn grouped<T: Copy + TryInto<usize>>(&self, offsets: &[T]) -> Self {
        let at = |offset: T| offset.try_into().unwrap_or_default();
        let sums = offsets.windows(2).map(|ends| self.sum(at(ends[0])..at(ends[1])));
        Self::Each(sums.collect())
    }

    fn sum(&self, rows: Range<usize>) -> u64 {
        match self {
            Self::Same { each, .. } => each.saturating_mul(rows.len() as u64),
            Self::Each(sizes) => sizes.get(rows).unwrap_or_default().iter().sum(),
        }
    }

    /// Of all rows.
    pub(crate) fn total(&self) -> u64 {
        match self {
            Self::Same { each, rows } => each.saturating_mul(*rows),
            Self::Each(sizes) => sizes.iter().sum(),
        }
    }

    /// Of the largest row.
    pub(crate) fn largest(&self) -> u64 {
        match self {
            Self::Same { rows: 0, .. } => 0,
            Self::Same { each, .. } => *each,
            Self::Each(sizes) => sizes.iter().copied().max().unwrap_or(0),
        }
    }
}

fn lengths<T: Copy + TryInto<u64>>(offsets: &[T]) -> Sizes {
    let at = |offset: T| offset.try_into().unwrap_or_default();
    Sizes::Each(offsets.windows(2).map(|ends| at(ends[1]) - at(ends[0])).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Int64Array, ListArray, StringArray};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn a_list_within_a_list_counts_with_all_that_lies_in_it() {
        let lists = |lengths: &[usize]| {
            let lists = lengths.iter().map(|&length| Some(vec![Some(1); length]));
            ListArray::from_iter_primitive::<Int64Type, _, _>(lists)
        };
        let lists = lists(&[2, 0, 5]);
        assert_eq!(Sizes::values(&lists).largest(), 5);
        assert_eq!(Sizes::bytes(&lists).total(), 56);
        assert_eq!(Sizes::bytes(&lists.slice(0, 2)).total(), 16);
        let field = Arc::new(datafusion::arrow::datatypes::Field::new_list_field(
            lists.data_type().clone(),
            true,
        ));
        let offsets = datafusion::arrow::buffer::OffsetBuffer::from_lengths([1, 2]);
        let nested = ListArray::new(field, offsets, Arc::new(lists), None);
        assert_eq!((Sizes::values(&nested).largest(), Sizes::values(&nested).total()), (5, 7));
    }

    #[test]
    fn a_piece_counts_what_it_shows() {
        let texts = StringArray::from(vec!["a", "", "four"]);
        assert_eq!((Sizes::bytes(&texts).largest(), Sizes::bytes(&texts).total()), (4, 5));
        assert_eq!(Sizes::bytes(&texts.slice(0, 2)).largest(), 1);
        assert_eq!(Sizes::bytes(&Int64Array::from(vec![1, 2])).total(), 16);
        assert_eq!(Sizes::bytes(&Int64Array::from(Vec::<i64>::new())).largest(), 0);
    }
}
