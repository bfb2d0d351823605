//! One column of a chunk, of any kind.

use std::sync::Arc;

use tagmill_storage::ValueType;
use tagmill_storage::encoding::{
    Effort, decode_qualities, decode_texts, decode_times, decode_words, encode_words,
};

/// Any bytes read as any kind of column give values or are refused, and give as many values as were asked for. What was
/// read as words is written and read again to the same words.
///
/// The first byte chooses the kind, the next two the number of rows.
pub fn column(data: &[u8]) {
    let [kind, low, high, bytes @ ..] = data else { return };
    let count = usize::from(u16::from_le_bytes([*low, *high]));
    let rows = 0..count;
    match usize::from(*kind) % 9 {
        6 => {
            let mut times: Vec<i64> = Vec::new();
            if decode_times(bytes, count, rows, &mut times).is_ok() {
                assert_eq!(times.len(), count);
                assert!(times.is_sorted_by(|a, b| a < b), "times must ascend");
            }
        }
        7 => {
            let mut texts: Vec<Arc<str>> = Vec::new();
            if decode_texts(bytes, count, rows, &mut texts).is_ok() {
                assert_eq!(texts.len(), count);
            }
        }
        8 => {
            let mut qualities: Vec<u32> = Vec::new();
            if decode_qualities(bytes, count, rows, &mut qualities).is_ok() {
                assert_eq!(qualities.len(), count);
            }
        }
        number => words(ValueType::ALL[number.min(4)], bytes, count),
    }
}

fn words(value_type: ValueType, bytes: &[u8], count: usize) {
    let mut words = Vec::new();
    if decode_words(value_type, bytes, count, 0..count, &mut words).is_err() {
        assert!(words.is_empty(), "a refused column leaves nothing behind");
        return;
    }
    assert_eq!(words.len(), count);
    for effort in [Effort::Light, Effort::Final] {
        let (mut written, mut again) = (Vec::new(), Vec::new());
        encode_words(value_type, &words, effort, &mut written);
        let read = decode_words(value_type, &written, count, 0..count, &mut again);
        read.expect("our own bytes decode");
        assert_eq!(again, words);
    }
}
