//! Which form a vector gets, and whether words are kept aside.
//!
//! # Contract
//! Every form is measured exactly, all words of it. Patches are searched only where a sample shows
//! that most words are much closer together than all are. A plan changes sizes, never values.

use super::super::packing::{WIDTH_MAX, width_of};
use super::{Form, Header, SLOPE_SHIFT, residuals};
use crate::bytes::varint_bytes;
use crate::limits::VECTOR_ROWS;

/// Vectors of fewer rows are not searched for patches: two patches cost what they would save.
const PATCH_ROWS_MIN: usize = 32;
/// At most one row in so many is a patch.
const PATCH_SHARE: usize = 8;
/// Rows looked at to see whether patches could pay.
const SAMPLE_ROWS: usize = 32;

/// How a vector will be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) header: Header,
    /// Whether some words lie outside `base .. base + 2^width`.
    pub(super) patched: bool,
    /// Size, an estimate if patched.
    pub(super) bytes: usize,
}

/// A header of that form for `words`, base and width still to be found.
fn start(form: Form, words: &[u64]) -> Header {
    let first = words.first().copied().unwrap_or(0);
    let slope = match form {
        Form::Plain | Form::Delta => 0,
        Form::DeltaOfDelta => words.get(1).map_or(0, |second| second.wrapping_sub(first)),
        Form::Line => slope_of(words),
    };
    Header { form, width: 0, base: 0, first, slope }
}

/// Slope of the least-squares line, in units of `2^-SLOPE_SHIFT` a row.
#[expect(clippy::cast_possible_truncation, reason = "a float cast saturates; any slope is correct")]
fn slope_of(words: &[u64]) -> u64 {
    let Some(&first) = words.first() else { return 0 };
    let rows = words.len() as f64;
    let middle = (rows - 1.0) / 2.0;
    let (mut sum, mut index) = (0.0, 0.0);
    for word in words {
        sum += (index - middle) * (word.wrapping_sub(first) as i64 as f64);
        index += 1.0;
    }
    let scale = rows * (rows * rows - 1.0) / 12.0;
    if scale == 0.0 {
        return 0;
    }
    ((sum / scale * f64::from(1 << SLOPE_SHIFT)).round() as i64).cast_unsigned()
}

/// Least word, read as two's complement, and bits of the distance to the greatest.
fn span(words: &[u64]) -> (u64, u32) {
    let (mut least, mut greatest) = (i64::MAX, i64::MIN);
    for &word in words {
        least = least.min(word as i64);
        greatest = greatest.max(word as i64);
    }
    if words.is_empty() {
        return (0, 0);
    }
    (least.cast_unsigned(), width_of(greatest.cast_unsigned().wrapping_sub(least.cast_unsigned())))
}

/// The smallest way to write `words`, at most [`VECTOR_ROWS`] of them.
pub(super) fn best(words: &[u64], may_patch: bool) -> Plan {
    assert!(words.len() <= VECTOR_ROWS);
    let mut buffer = [0; VECTOR_ROWS];
    let residual = &mut buffer[..words.len()];
    let mut least: Option<Plan> = None;
    let mut calmest: Option<(u32, Header)> = None;
    for form in Form::ALL {
        if words.len() < 2 && form != Form::Plain {
            continue;
        }
        let mut header = start(form, words);
        residuals(header, words, 0, residual);
        let body = &residual[form.lead().min(words.len())..];
        (header.base, header.width) = span(body);
        let bytes = header.bytes(words.len());
        if least.is_none_or(|plan| bytes < plan.bytes) {
            least = Some(Plan { header, patched: false, bytes });
        }
        if header.width == 0 {
            break;
        }
        if may_patch && words.len() >= PATCH_ROWS_MIN {
            let (middle, width) = calm(body);
            if calmest.is_none_or(|(calm, _)| width < calm) {
                calmest = Some((width, Header { base: middle, ..header }));
            }
        }
    }
    let best = least.expect("the plain form is always tried");
    match calmest {
        Some((width, header)) if width < best.header.width => {
            residuals(header, words, header.base, residual);
            match plan_patches(header, residual) {
                Some(patched) if patched.bytes < best.bytes => patched,
                _ => best,
            }
        }
        _ => best,
    }
}

/// Middle of the ordinary words, and the bits that hold these: a look at [`SAMPLE_ROWS`] of them.
fn calm(words: &[u64]) -> (u64, u32) {
    let mut sample = [0; SAMPLE_ROWS];
    let step = (words.len() / SAMPLE_ROWS).max(1);
    for (to, from) in sample.iter_mut().zip(words.iter().step_by(step)) {
        *to = *from as i64;
    }
    sample.sort_unstable();
    let (low, high) = (sample[2].cast_unsigned(), sample[SAMPLE_ROWS - 3].cast_unsigned());
    let range = high.wrapping_sub(low);
    (low.wrapping_add(range / 2), width_of(range))
}

/// The cheapest window around `header.base` that leaves few enough words outside.
fn plan_patches(header: Header, residual: &[u64]) -> Option<Plan> {
    let distance = |word: u64| word.wrapping_sub(header.base) as i64;
    let reach = |word: u64| width_of(distance(word).unsigned_abs());
    let mut counts = [0_usize; WIDTH_MAX as usize + 1];
    for &word in residual {
        counts[reach(word) as usize] += 1;
    }
    let farthest = counts.iter().rposition(|&count| count > 0)?;
    let mut outside = 0;
    let mut best: Option<(usize, usize)> = None;
    for limit in (0..farthest).rev() {
        outside += counts[limit + 1];
        if outside * PATCH_SHARE > residual.len() {
            break;
        }
        let width = if limit == 0 { 0 } else { limit + 1 };
        // A patch: ten bits of position at most, and its distance.
        let bits = residual.len() * width + outside * (10 + farthest + 1);
        if best.is_none_or(|(least, _)| bits < least) {
            best = Some((bits, limit));
        }
    }
    let (bits, limit) = best?;
    let (mut least, mut greatest) = (i64::MAX, i64::MIN);
    for &word in residual.iter().filter(|&&word| reach(word) as usize <= limit) {
        least = least.min(distance(word));
        greatest = greatest.max(distance(word));
    }
    let base = header.base.wrapping_add(least.cast_unsigned());
    let width = width_of(greatest.cast_unsigned().wrapping_sub(least.cast_unsigned()));
    let header = Header { width, base, ..header };
    // Two headers and the count.
    let extra = 2 * (2 + varint_bytes(base)) + 2;
    let packed = Header { width: 0, ..header }.bytes(0) + bits.div_ceil(8);
    Some(Plan { header, patched: true, bytes: packed + extra })
}
