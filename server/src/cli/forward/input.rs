//! Lines of standard input, read on a thread of their own.
//!
//! Contract: a line comes with its number and the time at which it was read. One that is none (too long, no UTF-8) comes as
//! the reason why, and the next ones follow it. An error of the system comes in the place of a line, too, and is the last.
//!
//! What it does not know: what a line means, and where it goes.

use std::io::{BufRead, Read};

use tokio::sync::mpsc;

use crate::cli::failure::Result;
use crate::cli::times;

/// How much is read ahead of the queue.
const LINES_AHEAD: usize = 4_096;
/// Longest line.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// A line as it was read.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) read_ns: i64,
    pub(super) text: Result<String, String>,
}

/// Reads standard input on a thread of its own, which ends with the input or the process.
pub(super) fn read_input() -> Result<mpsc::Receiver<Line>> {
    let (lines, read) = mpsc::channel(LINES_AHEAD);
    let reading = move || {
        let mut input = std::io::stdin().lock();
        read_lines(&mut input, |line| lines.blocking_send(line).is_ok());
    };
    std::thread::Builder::new().name("tagmill-input".into()).spawn(reading)?;
    Ok(read)
}

/// Hands on one line after the other, as long as they are taken. An error ends them, in the place of a line.
fn read_lines(input: &mut impl BufRead, mut take: impl FnMut(Line) -> bool) {
    for number in 1.. {
        let (text, is_last) = match next_line(input) {
            Ok(Some(text)) => (text, false),
            Ok(None) => return,
            Err(error) => (Err(format!("standard input cannot be read any more: {error}")), true),
        };
        if !take(Line { number, read_ns: times::now_ns(), text }) || is_last {
            return;
        }
    }
}

/// The next line without its end; an error instead of a line that is none. `None` at the end.
fn next_line(input: &mut impl BufRead) -> std::io::Result<Option<Result<String, String>>> {
    let mut bytes = Vec::new();
    if input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() != Some(&b'\n') && bytes.len() as u64 == LINE_BYTES_MAX {
        // The rest of it is passed over, however long it is.
        while input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? > 0 {
            if bytes.last() == Some(&b'\n') {
                break;
            }
            bytes.clear();
        }
        return Ok(Some(Err(format!("it is longer than {LINE_BYTES_MAX} bytes"))));
    }
    let Ok(mut text) = String::from_utf8(bytes) else {
        return Ok(Some(Err("it is no UTF-8".to_owned())));
    };
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(Some(Ok(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_they_end() {
        let long = "x".repeat(usize::try_from(LINE_BYTES_MAX).unwrap() * 2 + 5);
        let text = format!("a\r\n\n{long}\nb\n\u{e9}\nlast");
        let mut bytes = text.into_bytes();
        let at = bytes.iter().position(|byte| *byte == 0xC3).unwrap();
        bytes[at] = 0xFF;
        let mut input = bytes.as_slice();
        let lines: Vec<_> = std::iter::from_fn(|| next_line(&mut input).unwrap()).collect();
        assert_eq!((lines[0].as_deref(), lines[1].as_deref()), (Ok("a"), Ok("")));
        assert!(lines[2].as_ref().unwrap_err().contains("longer"));
        assert_eq!(lines[3].as_deref(), Ok("b"));
        assert!(lines[4].as_ref().unwrap_err().contains("UTF-8"));
        assert_eq!((lines[5].as_deref(), lines.len()), (Ok("last"), 6));
    }

    /// A disk or a terminal that gives an error.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }

    /// What was cut off is not taken for all: whoever counts lines that were left out counts the error.
    #[test]
    fn an_error_is_told_in_the_place_of_a_line_and_ends_them() {
        let bytes: &[u8] = b"a\nb\nhalf";
        let mut input = std::io::BufReader::new(bytes.chain(Broken));
        let mut texts = Vec::new();
        read_lines(&mut input, |line| {
            texts.push((line.number, line.text));
            true
        });
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert_eq!(texts[1], (2, Ok("b".to_owned())));
        let (number, text) = &texts[2];
        assert!(*number == 3 && text.as_ref().unwrap_err().contains("gone"), "{texts:?}");
    }
}
