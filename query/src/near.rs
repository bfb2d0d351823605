//! Names that a mistyped one may have meant.
//!
//! Distance counts inserted, deleted, replaced and swapped characters, upper and lower case alike. It knows nothing
//! of tags: the caller says which names exist.

/// The `count` names nearest to `wanted`, nearest first; none that differ in more than a third of it.
pub(crate) fn nearest<'a>(
    wanted: &str,
    names: impl Iterator<Item = &'a str>,
    count: usize,
) -> Vec<String> {
    let wanted: Vec<char> = wanted.to_lowercase().chars().collect();
    let mut limit = (wanted.len() / 3).clamp(1, 6);
    let mut found: Vec<(usize, &str)> = Vec::new();
    for name in names {
        // Bytes bound characters from above, so this skips most of a long registry without looking.
        if name.len() + limit < wanted.len() || name.len() > 4 * (wanted.len() + limit) {
            continue;
        }
        let candidate: Vec<char> = name.to_lowercase().chars().collect();
        let Some(distance) = distance_within(&wanted, &candidate, limit) else { continue };
        found.push((distance, name));
        found.sort_unstable();
        if found.len() > count {
            found.truncate(count);
            limit = found.last().map_or(limit, |worst| worst.0);
        }
    }
    // Far ones beside a near one only distract.
    let best = found.first().map_or(0, |&(distance, _)| distance);
    found.retain(|&(distance, _)| distance <= best + 1);
    found.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Edit distance of two texts, or nothing if it is above `limit`.
fn distance_within(left: &[char], right: &[char], limit: usize) -> Option<usize> {
    if left.len().abs_diff(right.len()) > limit {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, &a) in left.iter().enumerate() {
        let mut current = Vec::with_capacity(right.len() + 1);
        current.push(row + 1);
        for (column, &b) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(a != b);
            let mut best = replaced.min(previous[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && left[row - 1] == b && a == right[column - 1];
            if swapped {
                best = best.min(before[column - 1] + 1);
            }
            current.push(best);
        }
        if current.iter().min().is_some_and(|&least| least > limit) {
            return None;
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous.last().copied().filter(|&distance| distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_what_was_probably_meant() {
        let names = ["U1/TT-101", "U1/TT-102", "U2/TT-101", "U1/flow"];
        assert_eq!(nearest("u1/tt-101", names.into_iter(), 1), ["U1/TT-101"]);
        assert_eq!(nearest("U1/TT-10", names.into_iter(), 2), ["U1/TT-101", "U1/TT-102"]);
        assert_eq!(nearest("U1/lfow", names.into_iter(), 3), ["U1/flow"]);
        assert!(nearest("pressure", names.into_iter(), 3).is_empty());
        assert!(nearest("", names.into_iter(), 3).is_empty());
    }
}
