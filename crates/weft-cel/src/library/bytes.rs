//! Bytes and their base64.

use crate::error::EvalError;
use std::sync::Arc;

/// Decodes standard base64 with padding; line ends between the characters are skipped, as Go
/// does.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let mut bits: u32 = 0;
    let mut count = 0;
    let mut padding = 0;
    for b in text.bytes().filter(|b| !matches!(b, b'\r' | b'\n')) {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if count % 4 >= 2 => {
                padding += 1;
                count += 1;
                bits <<= 6;
                if count % 4 == 0 {
                    let group = bits.to_be_bytes();
                    out.extend_from_slice(&group[1..4 - padding]);
                }
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count % 4 == 0 {
            out.extend_from_slice(&bits.to_be_bytes()[1..]);
            bits = 0;
        }
    }
    (count % 4 == 0 && padding <= 2).then_some(out)
}

/// A JSON value of format `byte`.
pub(crate) fn from_json(text: &str) -> Result<Arc<[u8]>, EvalError> {
    match decode_base64(text) {
        Some(bytes) => Ok(bytes.into()),
        None => Err(EvalError::text(format!("Invalid byte formatted string {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_strict_about_padding() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YWI=", Some(b"ab")),
            ("YWJj", Some(b"abc")),
            ("YWJj\nYQ==", Some(b"abca")),
            ("YQ", None),
            ("YQ=", None),
            ("YQ===", None),
            ("YQ==YQ==", None),
            ("=", None),
            ("Y===", None),
            ("Y-_=", None),
        ] {
            assert_eq!(decode_base64(text).as_deref(), bytes, "{text}");
        }
    }
}
