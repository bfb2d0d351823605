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

#[cfg(test)]
mod tests {
    use super::*;

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
