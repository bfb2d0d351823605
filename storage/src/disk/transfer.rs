//! What an operating system leaves to its caller: to go on after an interrupted call, a short read or a short write.
//!
//! # Contract
//! * [`super::real`] and [`super::sim`] both move their bytes through these loops, so that the simulation tests them.
//! * A read fills its buffer and a write takes all of its bytes, or there is an error.
//! * A quota and a file-size limit are a full disk to the engine.

use std::io::{self, ErrorKind};

use crate::planted::{self, Bug};

/// Makes `call` again for as long as it is interrupted.
pub(super) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if is_interrupted(&error) => {}
            other => return other.map_err(full_error),
        }
    }
}

/// Fills `buffer` from `offset` by as many calls of `read` as it takes.
pub(super) fn read_whole(
    offset: u64,
    buffer: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match read(offset + done as u64, &mut buffer[done..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(error) if is_interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `bytes` at `offset` by as many calls of `write` as it takes.
pub(super) fn write_whole(
    offset: u64,
    bytes: &[u8],
    mut write: impl FnMut(u64, &[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match write(offset + done as u64, &bytes[done..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) if planted::is(Bug::ShortWriteTakenForWhole) => return Ok(()),
            Ok(count) => done += count,
            Err(error) if is_interrupted(&error) => {}
            Err(error) => return Err(full_error(error)),
        }
    }
    Ok(())
}

fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == ErrorKind::Interrupted && !planted::is(Bug::InterruptedCallFails)
}

/// A quota and a file-size limit are a full disk to the caller: nothing is wrong, and it may pass.
fn full_error(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            io::Error::new(ErrorKind::StorageFull, error)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of one call after the other.
    fn script(answers: &[Option<usize>]) -> impl FnMut(usize) -> io::Result<usize> + '_ {
        let mut answers = answers.iter();
        move |wanted| match answers.next() {
            Some(Some(count)) => Ok(*count),
            Some(None) => Err(ErrorKind::Interrupted.into()),
            None => Ok(wanted),
        }
    }

    #[test]
    fn short_and_interrupted_calls_are_continued() {
        let source: Vec<u8> = (0..100).collect();
        for answers in [&[][..], &[Some(1)], &[None, Some(7), None, None, Some(91)]] {
            let mut next = script(answers);
            let mut target = vec![0; 100];
            let mut write = |at: u64, part: &[u8]| {
                let count = next(part.len())?;
                let at = usize::try_from(at - 5).unwrap();
                target[at..at + count].copy_from_slice(&part[..count]);
                Ok(count)
            };
            write_whole(5, &source, &mut write).unwrap();
            assert_eq!(target, source);
            let mut next = script(answers);
            let mut found = vec![0; 100];
            let read = |at: u64, part: &mut [u8]| {
                let count = next(part.len())?;
                let at = usize::try_from(at - 5).unwrap();
                part[..count].copy_from_slice(&source[at..at + count]);
                Ok(count)
            };
            read_whole(5, &mut found, read).unwrap();
            assert_eq!(found, source);
        }
    }

    #[test]
    fn an_end_and_a_full_disk_are_told() {
        let ended = read_whole(0, &mut [0; 4], |_, _| Ok(0)).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::UnexpectedEof);
        let stuck = write_whole(0, &[0; 4], |_, _| Ok(0)).unwrap_err();
        assert_eq!(stuck.kind(), ErrorKind::WriteZero);
        for kind in [ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge, ErrorKind::StorageFull] {
            let full = write_whole(0, &[0; 4], |_, _| Err(kind.into())).unwrap_err();
            assert_eq!(full.kind(), ErrorKind::StorageFull);
            let full = uninterrupted(|| -> io::Result<()> { Err(kind.into()) }).unwrap_err();
            assert_eq!(full.kind(), ErrorKind::StorageFull);
        }
    }

    #[test]
    fn an_interrupted_call_is_made_again() {
        let mut next = script(&[None, None, Some(3)]);
        assert_eq!(uninterrupted(|| next(9)).unwrap(), 3);
    }
}
