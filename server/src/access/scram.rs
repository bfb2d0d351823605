//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: a user proves to know a token without sending it.
//!
//! # Contract
//! * What is kept, a [`Verifier`], lets nobody log in. It is written as PostgreSQL writes it in `pg_authid`.
//! * An exchange ends in a proof or in [`Refused`], which does not say why. Channel binding is not offered.
//!
//! # What it does not know
//! Which user, and how messages travel.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::pbkdf2;

use super::token::{Digest, is_same, random, sha256};

/// Rounds of the slow digest. RFC 7677 asks for 4096 at least; a token has 256 random bits, more would gain nothing.
const ROUNDS: u32 = 4_096;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 18;
/// Longest message of a client.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// What is kept of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    rounds: u32,
    salt: Vec<u8>,
    stored_key: Digest,
    server_key: Digest,
}

/// An exchange, after the server's first message.
#[derive(Debug)]
pub struct Exchange {
    verifier: Verifier,
    /// The header of the client's first message, which its last one repeats in base64.
    header: String,
    /// Client's and server's first messages, as what both sign begins.
    messages: String,
    nonce: String,
}

/// The proof is wrong, or a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Verifier {
    /// Of a password in ASCII.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new(password: &str) -> Result<Self, String> {
        let salt: [u8; SALT_BYTES] = random()?;
        Ok(Self::salted(password.as_bytes(), salt.to_vec(), ROUNDS))
    }

    /// What nobody can prove, for a user that is not known: the same for the same name.
    pub fn of_nobody(seed: &[u8; 32], user: &str) -> Self {
        let of = |what: &str| mac(seed, format!("{what} {user}").as_bytes());
        let salt = of("salt")[..SALT_BYTES].to_vec();
        Self { rounds: ROUNDS, salt, stored_key: of("stored"), server_key: of("server") }
    }

    fn salted(password: &[u8], salt: Vec<u8>, rounds: u32) -> Self {
        let mut salted = [0; 32];
        let count = NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, &salt, password, &mut salted);
        let stored_key = sha256(&mac(&salted, b"Client Key"));
        let server_key = mac(&salted, b"Server Key");
        Self { rounds, salt, stored_key, server_key }
    }

    /// `SCRAM-SHA-256$<rounds>:<salt>$<stored key>:<server key>`.
    pub fn to_text(&self) -> String {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|part| STANDARD.encode(part));
        format!("SCRAM-SHA-256${}:{salt}${stored}:{server}", self.rounds)
    }

    /// Reads what [`Self::to_text`] writes.
    pub fn from_text(text: &str) -> Option<Self> {
        let (rounds, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text: &str| Digest::try_from(STANDARD.decode(text).ok()?).ok();
        let (stored_key, server_key) = (key(stored)?, key(server)?);
        let (rounds, salt) = (rounds.parse().ok()?, STANDARD.decode(salt).ok()?);
        Some(Self { rounds, salt, stored_key, server_key })
    }

    /// Takes the client's first message; gives the answer to it.
    ///
    /// # Errors
    /// [`Refused`] if the message is none, or asks for channel binding.
    pub fn begin(self, first: &[u8]) -> Result<(Exchange, String), Refused> {
        let first = text_of(first)?;
        // gs2-header: flag "," [ "a=" authzid ] ","; "y" says that the client could bind and thinks we cannot.
        let mut parts = first.splitn(3, ',');
        let (flag, authorised, bare) = (parts.next(), parts.next(), parts.next());
        let (Some(flag @ ("n" | "y")), Some(""), Some(bare)) = (flag, authorised, bare) else {
            return Err(Refused);
        };
        let own: [u8; NONCE_BYTES] = random().map_err(|_| Refused)?;
        if attribute(bare, 'm').is_some() {
            return Err(Refused); // an extension that must be understood
        }
        let asked = attribute(bare, 'r').filter(|nonce| !nonce.is_empty()).ok_or(Refused)?;
        let nonce = format!("{asked}{}", STANDARD.encode(own));
        let answer = format!("r={nonce},s={},i={}", STANDARD.encode(&self.salt), self.rounds);
        let messages = format!("{bare},{answer}");
        let header = format!("{flag},,");
        Ok((Exchange { verifier: self, header, messages, nonce }, answer))
    }
}

impl Exchange {
    /// Takes the client's last message; gives the answer that proves the server to the client.
    ///
    /// # Errors
    /// [`Refused`] if the proof is wrong.
    pub fn finish(self, last: &[u8]) -> Result<String, Refused> {
        let last = text_of(last)?;
        let (without_proof, proof) = last.rsplit_once(",p=").ok_or(Refused)?;
        let proof = Digest::try_from(STANDARD.decode(proof).map_err(|_| Refused)?);
        let proof = proof.map_err(|_| Refused)?;
        let is_ours = attribute(without_proof, 'c') == Some(&STANDARD.encode(&self.header))
            && attribute(without_proof, 'r') == Some(&self.nonce);
        let signed = format!("{},{without_proof}", self.messages);
        let signature = mac(&self.verifier.stored_key, signed.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, other)| *byte ^= other);
        if !is_same(&sha256(&client_key), &self.verifier.stored_key) || !is_ours {
            return Err(Refused);
        }
        let own = mac(&self.verifier.server_key, signed.as_bytes());
        Ok(format!("v={}", STANDARD.encode(own)))
    }
}

fn text_of(message: &[u8]) -> Result<&str, Refused> {
    let message = Some(message).filter(|message| message.len() <= MESSAGE_BYTES_MAX);
    std::str::from_utf8(message.ok_or(Refused)?).map_err(|_| Refused)
}

/// The value of `name=value` in a message.
fn attribute(message: &str, name: char) -> Option<&str> {
    message.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn mac(key: &[u8], message: &[u8]) -> Digest {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut all = [0; 32];
    all.copy_from_slice(hmac::sign(&key, message).as_ref());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3: user "user", password "pencil".
    #[test]
    fn computes_what_the_rfc_shows() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::salted(b"pencil", salt, 4_096);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server_first = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let exchange = Exchange {
            verifier,
            header: "n,,".to_owned(),
            messages: format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{server_first}"),
            nonce: nonce.to_owned(),
        };
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let answer = exchange.finish(last.as_bytes()).unwrap();
        assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    /// What a client does.
    fn prove(password: &str, answer: &str, bare: &str, header: &str) -> String {
        let salt = STANDARD.decode(attribute(answer, 's').unwrap()).unwrap();
        let rounds = attribute(answer, 'i').unwrap().parse().unwrap();
        let mut salted = [0; 32];
        let count = NonZeroU32::new(rounds).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, &salt, password.as_bytes(), &mut salted);
        let nonce = attribute(answer, 'r').unwrap();
        let without = format!("c={},r={nonce}", STANDARD.encode(header));
        let mut proof = mac(&salted, b"Client Key");
        let signature = mac(&sha256(&proof), format!("{bare},{answer},{without}").as_bytes());
        proof.iter_mut().zip(signature).for_each(|(byte, other)| *byte ^= other);
        format!("{without},p={}", STANDARD.encode(proof))
    }

    #[test]
    fn the_right_password_alone_gets_through() {
        let verifier = Verifier::new("open sesame").unwrap();
        let text = verifier.to_text();
        assert_eq!(Verifier::from_text(&text).as_ref(), Some(&verifier));
        for (password, header, is_right) in [
            ("open sesame", "n,,", true),
            ("open sesame", "y,,", true),
            ("open sesamf", "n,,", false),
            ("", "n,,", false),
        ] {
            let bare = "n=,r=abc";
            let first = format!("{header}{bare}");
            let (exchange, answer) = verifier.clone().begin(first.as_bytes()).unwrap();
            let last = prove(password, &answer, bare, header);
            assert_eq!(exchange.finish(last.as_bytes()).is_ok(), is_right, "{password} {header}");
        }
        // A header that was changed on the way.
        let (exchange, answer) = verifier.clone().begin(b"y,,n=,r=abc").unwrap();
        let last = prove("open sesame", &answer, "n=,r=abc", "n,,");
        assert_eq!(exchange.finish(last.as_bytes()), Err(Refused));
        for first in [
            "",
            "n,,",
            "p=tls-server-end-point,,n=,r=a",
            "n,a=admin,n=,r=a",
            "n,,n=,r=",
            "n,,m=x,n=,r=a",
        ] {
            assert!(verifier.clone().begin(first.as_bytes()).is_err(), "{first:?}");
        }
        for last in ["", "p=", ",p=AAAA", "c=biws,r=abc"] {
            let (exchange, _) = verifier.clone().begin(b"n,,n=,r=abc").unwrap();
            assert_eq!(exchange.finish(last.as_bytes()), Err(Refused), "{last:?}");
        }
    }

    #[test]
    fn nobody_looks_like_somebody() {
        let nobody = Verifier::of_nobody(&[7; 32], "eve");
        assert_eq!(nobody, Verifier::of_nobody(&[7; 32], "eve"));
        assert_ne!(nobody, Verifier::of_nobody(&[7; 32], "eva"));
        let known = Verifier::new("x").unwrap();
        assert_eq!((nobody.rounds, nobody.salt.len()), (known.rounds, known.salt.len()));
    }
}
