//! A token: its text, and what is kept of it.
//!
//! `tgm_<8 hexadecimal digits>_<43 letters>`: a mark by which scanners find leaked ones, a public id, and 256 random bits in
//! base64url. A secret of that many bits needs no slow digest: SHA-256 of it is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};

/// What every token begins with.
const MARK: &str = "tgm_";
const ID_DIGITS: usize = 8;
const SECRET_BYTES: usize = 32;

/// SHA-256 of a token's secret.
pub type Digest = [u8; 32];

/// A new token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// All of it, shown once.
    pub text: String,
    /// What is kept.
    pub digest: Digest,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Token {
    /// Draws one.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn draw() -> Result<Self, String> {
        let id: [u8; ID_DIGITS / 2] = random()?;
        let id = hex(&id);
        let secret: [u8; SECRET_BYTES] = random()?;
        let text = format!("{MARK}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        Ok(Self { id, text, digest: sha256(&secret) })
    }
}

/// The id of a token, and the digest of its secret; nothing if the text is none.
pub fn parse(text: &str) -> Option<(&str, Digest)> {
    let (id, secret) = text.strip_prefix(MARK)?.split_once('_')?;
    if id.len() != ID_DIGITS || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let secret = URL_SAFE_NO_PAD.decode(secret).ok()?;
    (secret.len() == SECRET_BYTES).then(|| (id, sha256(&secret)))
}

/// What may be told of a text that somebody typed: of a token in it its id alone, and nothing after that.
pub fn without_secret(text: &str) -> &str {
    let Some(at) = text.find(MARK) else { return text };
    let id = at + MARK.len();
    text.get(..id + ID_DIGITS).or_else(|| text.get(..id)).unwrap_or_default()
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Random bytes of the system.
///
/// # Errors
/// If there are none.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(bytes)
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut all = [0; 32];
    all.copy_from_slice(digest.as_ref());
    all
}

/// Whether two digests are equal, in a time that does not tell where they differ.
pub fn is_same(a: &Digest, b: &Digest) -> bool {
    // A random key makes what is compared byte by byte unpredictable.
    let Ok(key) = random::<32>() else { return false };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    ring::hmac::verify(&key, a, ring::hmac::sign(&key, b).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_token_that_was_typed_elsewhere_its_id_alone_is_told() {
        let token = Token::draw().unwrap();
        let id = format!("{MARK}{}", token.id);
        assert_eq!(without_secret(&token.text), id);
        assert_eq!(without_secret(&token.text[..token.text.len() - 5]), id, "not even a whole one");
        assert_eq!(without_secret(&format!("me:{}", token.text)), format!("me:{id}"));
        for (typed, told) in [("grafana", "grafana"), ("tgm_1", MARK), ("tgm_1234567\u{e4}", MARK)]
        {
            assert_eq!(without_secret(typed), told);
        }
    }

    #[test]
    fn a_token_reads_as_it_was_drawn() {
        let token = Token::draw().unwrap();
        let (id, digest) = parse(&token.text).unwrap();
        assert_eq!(id, token.id);
        assert!(is_same(&digest, &token.digest));
        assert_eq!(token.text.len(), 4 + 8 + 1 + 43);
        let other = Token::draw().unwrap();
        assert!(!is_same(&digest, &other.digest));
        for wrong in ["", "tgm_", "tgm_1234567_x", "tgm_zzzzzzzz_x", "xyz", &token.text[1..]] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
        assert!(parse(&format!("{}A", token.text)).is_none());
    }
}
