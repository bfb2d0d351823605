//! Body of the fuzz target `postgres`: what a client may send, before and after its login. `fuzz/` runs it under
//! libFuzzer, the test below replays its corpus.
//!
//! # Contract
//! * Panics when a claim breaks. Messages are the same however the network breaks them up; each is as long as it says;
//!   nobody waits for more bytes than are allowed; what was read is written and read again to the same. An array that
//!   passes takes memory in proportion to its bytes. A first answer to a login that passes is read.
//! * Panics of the library that reads messages are caught as in the server, and are no findings.
//! * Needs nothing but the bytes.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::{BufMut as _, BytesMut};
use pgwire::api::{ClientInfo as _, DefaultClient, PgWireConnectionState};
use pgwire::messages::PgWireFrontendMessage;
use pgwire::messages::startup::PasswordMessageFamily;
use pgwire::tokio::server::PgWireMessageServerCodec;
use postgres_types::{FromSql, ToSql as _, Type};

use super::arrays::check_array;
use super::cut::{Uncut, cut, decoded, is_first_answer};
use crate::fuzzing::{Choices, may_panic};

/// Letters that begin messages, and one that does not.
const LETTERS: &[u8] = b"QPBDECHSXpdcf?";

/// How a client's bytes end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// More of a message would have to come.
    Within,
    Between,
    Refused(Uncut),
}

/// Any bytes are messages or refused. The first byte says what they are.
pub(super) fn messages(data: &[u8]) {
    let [kind, rest @ ..] = data else { return };
    match kind % 4 {
        kind @ 0..=1 => any_bytes(kind == 0, rest),
        2 => made_messages(Choices::new(rest)),
        _ => arrays(rest),
    }
}

/// The next bytes say how long messages may be, and in which pieces they come.
fn any_bytes(is_first: bool, data: &[u8]) {
    let [limit, piece, rest @ ..] = data else { return };
    if is_first_answer(rest) {
        let answer = PasswordMessageFamily::Raw(BytesMut::from(rest));
        answer.into_sasl_initial_response().expect("it is as long as it says");
    }
    let (bytes_max, piece) = (16 * (1 + usize::from(*limit)), 1 + usize::from(*piece));
    let (whole, end) = cut_all(rest, is_first, bytes_max, rest.len());
    assert_eq!(cut_all(rest, is_first, bytes_max, piece), (whole.clone(), end), "in pieces");
    let mut is_first = is_first;
    for message in whole {
        let Some(read) = read(is_first, &message) else { return };
        check_again(is_first, &read);
        is_first = false;
    }
}

/// All messages of some bytes, which come in pieces.
fn cut_all(bytes: &[u8], is_first: bool, bytes_max: usize, piece: usize) -> (Vec<Vec<u8>>, End) {
    let (mut messages, mut is_first) = (Vec::new(), is_first);
    let (mut buffer, mut pieces) = (BytesMut::new(), bytes.chunks(piece.max(1)));
    loop {
        let header = 4 + usize::from(!is_first);
        match cut(&buffer, is_first, bytes_max) {
            Ok(Some(end)) => {
                assert!((header..=header - 4 + bytes_max).contains(&end), "{end} bytes");
                assert!(end <= buffer.len(), "bytes that nobody has sent");
                let message = buffer.split_to(end);
                let mut says = [0; 4];
                says.copy_from_slice(&message[header - 4..header]);
                let says = says.into_iter().fold(0, |sum, byte| sum * 256 + usize::from(byte));
                assert_eq!(end - (header - 4), says, "another length");
                messages.push(message.to_vec());
                is_first = false;
            }
            Ok(None) => {
                assert!(buffer.len() < header - 4 + bytes_max.max(4), "it waits for too much");
                let Some(piece) = pieces.next() else {
                    let end = if buffer.is_empty() { End::Between } else { End::Within };
                    return (messages, end);
                };
                buffer.extend_from_slice(piece);
            }
            Err(why) => return (messages, End::Refused(why)),
        }
    }
}

/// What a message says. Nothing: the connection would end.
fn read(is_first: bool, message: &[u8]) -> Option<PgWireFrontendMessage> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let mut client = DefaultClient::<()>::new(address, false);
    client.set_state(if is_first {
        PgWireConnectionState::AwaitingStartup
    } else {
        PgWireConnectionState::ReadyForQuery
    });
    let mut codec = PgWireMessageServerCodec::new(client);
    let mut bytes = BytesMut::from(message);
    may_panic(|| decoded(&mut codec, &mut bytes)).ok().flatten()
}

fn check_again(is_first: bool, message: &PgWireFrontendMessage) {
    let mut written = BytesMut::new();
    if message.encode(&mut written).is_err() {
        return; // letters that were no UTF-8 have become longer than a message may be
    }
    assert_eq!(cut(&written, is_first, usize::MAX), Ok(Some(written.len())), "{message:?}");
    let again = read(is_first, &written).expect("what was written is read");
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
}

/// Messages made of choices are cut where they were put together.
fn made_messages(mut choices: Choices<'_>) {
    let (piece, is_first) = (1 + choices.below(64), choices.below(2) == 0);
    let (mut made, mut stream, mut bytes_max) = (Vec::new(), Vec::new(), 4);
    for number in 0..=choices.below(8) {
        let mut message = Vec::new();
        if number > 0 || !is_first {
            message.push(choices.of(LETTERS));
        }
        let body: Vec<u8> = (0..choices.below(40)).map(|_| choices.byte()).collect();
        let length = 4 + body.len();
        bytes_max = bytes_max.max(length);
        message.put_i32(i32::try_from(length).expect("it is short"));
        message.extend(body);
        stream.extend_from_slice(&message);
        made.push(message);
    }
    let too_long = bytes_max + 1;
    let end = match choices.below(4) {
        0 => End::Between,
        1 => {
            stream.push(b'Q');
            End::Within
        }
        2 => {
            stream.push(b'Q');
            stream.put_i32(i32::try_from(too_long).expect("it is short"));
            End::Refused(Uncut::TooLong(too_long))
        }
        _ => {
            stream.push(b'Q');
            stream.put_i32(-1);
            End::Refused(Uncut::NoLength)
        }
    };
    assert_eq!(cut_all(&stream, is_first, bytes_max, piece), (made, end));
}

/// Any bytes as an array, and an array made of them.
fn arrays(data: &[u8]) {
    if check_array(data).is_ok() {
        let most = data.len() / 4;
        check_elements::<Vec<Option<i64>>>(&Type::INT8_ARRAY, data, most, Vec::len);
        check_elements::<Vec<Option<f64>>>(&Type::FLOAT8_ARRAY, data, most, Vec::len);
        check_elements::<Vec<Option<bool>>>(&Type::BOOL_ARRAY, data, most, Vec::len);
        check_elements::<Vec<Option<String>>>(&Type::TEXT_ARRAY, data, most, Vec::len);
    }
    let of = |word: &[u8; 8]| Some(i64::from_le_bytes(*word)).filter(|value| value % 5 != 0);
    let values: Vec<Option<i64>> = data.as_chunks().0.iter().map(of).collect();
    let mut written = BytesMut::new();
    values.to_sql(&Type::INT8_ARRAY, &mut written).expect("an array");
    assert_eq!(check_array(&written), Ok(()), "an array that is one");
    let again = Vec::<Option<i64>>::from_sql(&Type::INT8_ARRAY, &written).expect("our own array");
    assert_eq!(again, values);
}

fn check_elements<'a, T: FromSql<'a>>(
    of: &Type,
    data: &'a [u8],
    most: usize,
    len: fn(&T) -> usize,
) {
    if let Ok(values) = T::from_sql(of, data) {
        assert!(len(&values) <= most, "{} elements of {} bytes", len(&values), data.len());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_of_messages_breaks_no_claim() {
        crate::fuzzing::replay("postgres", 60, super::messages);
    }
}
