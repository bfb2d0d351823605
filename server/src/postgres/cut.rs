//! Where a message ends in the bytes of a client, and what it says. Pure: no socket, no session.
//!
//! # Contract
//! * A message is cut when all of it is there, wherever the network has broken it up. Nobody waits for one that is longer
//!   than allowed: it is refused as soon as its length is there.
//! * What a message says is read from its own bytes alone. The library that reads may stumble: its panic ends here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Buf as _, BytesMut};
use pgwire::error::PgWireError;
use pgwire::messages::PgWireFrontendMessage;
use pgwire::tokio::server::PgWireMessageServerCodec;
use tokio_util::codec::Decoder as _;

/// Bytes of a message's length, which counts itself.
const LENGTH_BYTES: usize = 4;

/// Why there is no message to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uncut {
    /// Its length is less than that of the length.
    NoLength,
    /// It is that long.
    TooLong(usize),
}

/// How many bytes the first message has, once they are all there. The first one of a connection has no letter before its
/// length; `bytes_max` counts without the letter.
///
/// # Errors
/// If it will not be waited for.
pub(super) fn cut(bytes: &[u8], is_first: bool, bytes_max: usize) -> Result<Option<usize>, Uncut> {
    let at = usize::from(!is_first);
    let Some(mut length) = bytes.get(at..at + LENGTH_BYTES) else { return Ok(None) };
    let length = usize::try_from(length.get_i32()).unwrap_or(0);
    if length < LENGTH_BYTES {
        return Err(Uncut::NoLength);
    }
    if length > bytes_max {
        return Err(Uncut::TooLong(length));
    }
    Ok(Some(at + length).filter(|end| *end <= bytes.len()))
}

/// What a message says; nothing if it cannot be read. The connection must end then: nobody may see what a panic left.
///
/// # Errors
/// Why it is no message.
pub(super) fn decoded<S>(
    codec: &mut PgWireMessageServerCodec<S>,
    message: &mut BytesMut,
) -> Result<Option<PgWireFrontendMessage>, PgWireError> {
    catch_unwind(AssertUnwindSafe(|| codec.decode(message))).unwrap_or(Ok(None))
}

/// Whether the texts of a message that brings a statement are UTF-8. The library that reads them puts U+FFFD in the place of
/// what is not, so that another statement would run.
pub(super) fn is_text(message: &[u8]) -> bool {
    let texts = match message.first() {
        Some(b'Q') => 1,
        // Its name comes before it.
        Some(b'P') => 2,
        _ => return true,
    };
    let body = message.get(1 + LENGTH_BYTES..).unwrap_or_default();
    body.split(|byte| *byte == 0).take(texts).all(|text| std::str::from_utf8(text).is_ok())
}

/// Whether the first answer to a login is as long as it says: the name of a method, with a zero at its end, and as many bytes
/// as are announced, or -1 for none. The library that reads it takes that for granted.
pub(super) fn is_first_answer(body: &[u8]) -> bool {
    let Some(end) = body.iter().position(|byte| *byte == 0) else { return false };
    let mut rest = &body[end + 1..];
    if rest.len() < LENGTH_BYTES {
        return false;
    }
    let length = rest.get_i32();
    length == -1 || usize::try_from(length).is_ok_and(|length| length <= rest.len())
}

#[cfg(test)]
mod tests {
    use pgwire::messages::startup::PasswordMessageFamily;

    use super::*;

    #[test]
    fn a_first_answer_that_passes_is_read() {
        let whole = b"SCRAM-SHA-256\0\0\0\0\x03n,,";
        for length in 0..=whole.len() {
            assert_eq!(is_first_answer(&whole[..length]), length == whole.len(), "{length}");
        }
        for passes in [&whole[..], b"\0\0\0\0\0", b"x\0\xFF\xFF\xFF\xFF", b"x\0\0\0\0\x01ab"] {
            assert!(is_first_answer(passes), "{passes:?}");
            let message = PasswordMessageFamily::Raw(BytesMut::from(passes));
            assert!(message.into_sasl_initial_response().is_ok());
        }
        for wrong in
            [&b"x\0\x7F\xFF\xFF\xFFab"[..], b"x\0\xFF\xFF\xFF\xFE", b"\x01\x02\x03\x04\x05"]
        {
            assert!(!is_first_answer(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_statement_is_text() {
        for good in [
            &b"Q\0\0\0\x09a\xC3\xBCb\0"[..],
            b"P\0\0\0\x10n\0SELECT 1\0\0\x01\0\0\0\xFF",
            b"Q\0\0\0\x05\0",
            b"Q",
            b"B\0\0\0\x08\xFF\0\xFF\0",
            b"",
        ] {
            assert!(is_text(good), "{good:?}");
        }
        for wrong in
            [&b"Q\0\0\0\x07'\xFF\0"[..], b"P\0\0\0\x09\0'\xFF\0\0\0", b"P\0\0\0\x09\xFF\0'\0\0\0"]
        {
            assert!(!is_text(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_message_is_cut_when_all_of_it_is_there() {
        let query = b"Q\0\0\0\x06a\0S\0\0\0\x04";
        for length in 0..7 {
            assert_eq!(cut(&query[..length], false, 6), Ok(None), "{length}");
        }
        assert_eq!(cut(&query[..7], false, 6), Ok(Some(7)));
        assert_eq!(cut(query, false, 6), Ok(Some(7)));
        assert_eq!(cut(&query[1..], true, 6), Ok(Some(6)));
        assert_eq!(cut(&query[..5], false, 5), Err(Uncut::TooLong(6)));
        assert_eq!(cut(b"Q\0\0\0\x03", false, 6), Err(Uncut::NoLength));
        assert_eq!(cut(b"Q\xFF\xFF\xFF\xFF", false, 6), Err(Uncut::NoLength));
    }
}
