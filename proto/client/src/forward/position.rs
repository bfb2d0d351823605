//! How far one server has come: which epoch its numbers belong to, and which record is behind them.
//!
//! # Contract
//! * The seq of a record in the epoch is its number less [`Position::base`]; so whatever dies, a record that is sent again
//!   has the number that it had.
//! * An epoch is on disk before it is used.
//! * A position that cannot be read is lost, and said to be; it is never guessed.
//!
//! The bytes are described in `docs/format/forward-queue.md`.

use bytes::{Buf, BufMut};

use super::checksum::crc32;
use super::folder::{Folder, failure};
use super::frames::NUMBER_MAX;
use crate::error::Result;

const MAGIC: [u8; 8] = *b"TMPOS\r\n\x1a";
const VERSION: u16 = 1;
/// Length without the names.
const FIXED_BYTES: usize = 64;
/// Names are at most this long.
pub(super) const NAME_BYTES_MAX: usize = 512;

/// How far one server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The epoch of its numbers.
    pub(super) epoch: u64,
    /// The record before the first of the epoch.
    pub(super) base: u64,
    /// Every record up to this one is on the server's disk, or was given up.
    pub(super) acked: u64,
    /// Which database it was.
    pub(super) incarnation: u64,
    /// Records that were given up: removed before the server had them, or damaged.
    pub(super) lost: u64,
}

/// A position as its file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// There is none.
    None,
    /// This one.
    Position(Position),
    /// It cannot be read.
    Damaged,
    /// It belongs to this gateway and server, to another one than was asked for.
    Foreign(String, String),
}

/// Name of the file of a server's position.
pub(super) fn file_name(server: &str) -> String {
    // FNV-1a: names are of people, the file system need not like them. The name itself is in the file.
    let hash = server.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    format!("{hash:016x}.position")
}

/// A position's bytes.
pub(super) fn encode(position: &Position, gateway: &str, server: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED_BYTES + gateway.len() + server.len());
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(u16::try_from(gateway.len()).unwrap_or(u16::MAX));
    out.put_u16_le(u16::try_from(server.len()).unwrap_or(u16::MAX));
    out.put_bytes(0, 2);
    out.put_u64_le(position.epoch);
    out.put_u64_le(position.base);
    out.put_u64_le(position.acked);
    out.put_u64_le(position.incarnation);
    out.put_u64_le(position.lost);
    out.put_bytes(0, FIXED_BYTES - 4 - out.len());
    let crc = crc32(0, &[&out, gateway.as_bytes(), server.as_bytes()]);
    out.put_u32_le(crc);
    out.put_slice(gateway.as_bytes());
    out.put_slice(server.as_bytes());
    out
}

/// Reads a position's bytes; `Err` holds the version of a later program.
pub(super) fn decode(bytes: &[u8], gateway: &str, server: &str) -> Result<Stored, u16> {
    let Some((mut fixed, names)) = bytes.split_at_checked(FIXED_BYTES) else {
        return Ok(Stored::Damaged);
    };
    let (head, mut crc) = fixed.split_at(FIXED_BYTES - 4);
    if head[..8] != MAGIC || crc.get_u32_le() != crc32(0, &[head, names]) {
        return Ok(Stored::Damaged);
    }
    fixed.advance(8);
    let version = fixed.get_u16_le();
    if version > VERSION {
        return Err(version);
    }
    let gateway_bytes = usize::from(fixed.get_u16_le());
    let server_bytes = usize::from(fixed.get_u16_le());
    let mut reserved = u64::from(fixed.get_u16_le());
    let [epoch, base, acked, incarnation, lost] = [(); 5].map(|()| fixed.get_u64_le());
    reserved |= u64::from(fixed.get_u32_le());
    let is_sane = epoch > 0
        && base <= acked
        && acked.max(lost) <= NUMBER_MAX
        && reserved == 0
        && names.len() == gateway_bytes + server_bytes;
    if !is_sane {
        return Ok(Stored::Damaged);
    }
    let (its_gateway, its_server) = names.split_at(gateway_bytes);
    if (its_gateway, its_server) != (gateway.as_bytes(), server.as_bytes()) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        return Ok(Stored::Foreign(text(its_gateway), text(its_server)));
    }
    Ok(Stored::Position(Position { epoch, base, acked, incarnation, lost }))
}

/// Reads the position of a server.
///
/// # Errors
/// [`crate::Error::Queue`], also if a later program wrote it.
pub(super) fn load(folder: &Folder, gateway: &str, server: &str) -> Result<Stored> {
    let name = file_name(server);
    let Some(bytes) = folder.read(&name)? else { return Ok(Stored::None) };
    decode(&bytes, gateway, server).map_err(|version| {
        let why = format!(
            "it has format {version}, which a later version of this program wrote: upgrade"
        );
        failure("read", &folder.path().join(name), &why)
    })
}

/// Writes the position of a server; durable when it returns.
///
/// # Errors
/// [`crate::Error::Queue`]; then the old one is there, or the new one.
pub(super) fn save(
    folder: &Folder,
    position: &Position,
    gateway: &str,
    server: &str,
) -> Result<()> {
    let _held = folder.held()?;
    folder.replace(&file_name(server), &encode(position, gateway, server))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: Position =
        Position { epoch: 7, base: 40, acked: 90, incarnation: 0x0123_4567_89AB_CDEF, lost: 3 };

    #[test]
    fn a_position_is_read_as_it_was_written_or_not_at_all() {
        let good = encode(&POSITION, "boiler", "plant:7410");
        let read = |bytes: &[u8]| decode(bytes, "boiler", "plant:7410").unwrap();
        assert_eq!(read(&good), Stored::Position(POSITION));
        for at in 0..good.len() {
            assert_eq!(read(&good[..at]), Stored::Damaged, "cut at {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(read(&bad), Stored::Damaged, "byte {at}, bit {bit}");
            }
        }
        let foreign = Stored::Foreign("boiler".into(), "plant:7410".into());
        assert_eq!(decode(&good, "boiler", "other").unwrap(), foreign);
        assert_eq!(decode(&good, "boile", "rplant:7410").unwrap(), foreign);
    }

    #[test]
    fn a_position_of_a_later_program_is_not_taken_for_damage() {
        let mut bytes = encode(&POSITION, "g", "s");
        bytes[8] = 2;
        let crc = crc32(0, &[&bytes[..60], b"gs"]);
        bytes.splice(60..64, crc.to_le_bytes());
        assert_eq!(decode(&bytes, "g", "s"), Err(2));
    }

    #[test]
    fn a_file_takes_the_place_of_the_one_before() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        assert_eq!(load(&folder, "g", "s").unwrap(), Stored::None);
        for acked in 40..50 {
            save(&folder, &Position { acked, ..POSITION }, "g", "s").unwrap();
        }
        let want = Stored::Position(Position { acked: 49, ..POSITION });
        assert_eq!(load(&folder, "g", "s").unwrap(), want);
        assert_ne!(file_name("s"), file_name("t"));
        folder.release();
        assert!(
            save(&folder, &POSITION, "g", "s").is_err(),
            "a queue that was let go is not written"
        );
    }
}
