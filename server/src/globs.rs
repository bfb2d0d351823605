//! Patterns of names with `*`, as people type them, in the words of SQL.

/// A pattern with `*` as a pattern of LIKE.
pub(crate) fn glob_to_like(glob: &str) -> String {
    let mut like = String::with_capacity(glob.len() + 2);
    for c in glob.chars() {
        match c {
            '*' => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', c]),
            c => like.push(c),
        }
    }
    like
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_star_means_something() {
        assert_eq!(glob_to_like("u1/*_100%"), "u1/%\\_100\\%");
    }
}
