//! Where a request of HTTP or gRPC carries its token: the header `authorization` (RFC 9110, section 11.6.2).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use tonic::codegen::http::{HeaderMap, header};

/// Base64 with its padding or without, as ADBC writes it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The token of `Bearer`, of Influx's `Token`, or the password of `Basic`.
pub(crate) fn token_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" | "token" => Some(rest.to_owned()),
        "basic" => {
            let pair = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
            pair.split_once(':').map(|(_, password)| password.to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        token_of(&headers)
    }

    #[test]
    fn finds_the_token_wherever_clients_put_it() {
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("Token abc ").as_deref(), Some("abc"));
        for wrong in ["abc", "Basic abc", "Digest x", "Basic ="] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(token_of(&HeaderMap::new()), None);
    }

    #[test]
    fn a_password_is_found_however_its_base64_ends() {
        for user in ["a", "ab", "abc"] {
            let padded = BASE64.encode(format!("{user}:x:y"));
            for written in [padded.as_str(), padded.trim_end_matches('=')] {
                assert_eq!(of(&format!("Basic {written}")).as_deref(), Some("x:y"), "{written}");
            }
        }
    }
}
