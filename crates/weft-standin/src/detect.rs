//! What a client speaks, from the first bytes that it sends.

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A TLS ClientHello.
    Tls,
    /// HTTP/2 with prior knowledge (RFC 9113 section 3.4).
    Http2,
    /// HTTP/1.
    Http1,
    /// The Redis protocol, inline or RESP.
    Redis,
    /// Anything else.
    Other,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const METHODS: [&[u8]; 9] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
];

/// Decides, or `None` where more bytes may still decide otherwise.
pub(crate) fn detect(bytes: &[u8]) -> Option<Kind> {
    match bytes {
        [] | [0x16] | [b'*'] => return None,
        // Record type handshake, version 3.x.
        [0x16, 0x03, ..] => return Some(Kind::Tls),
        [b'*', b'0'..=b'9', ..] => return Some(Kind::Redis),
        _ => {}
    }
    if bytes.starts_with(PREFACE) {
        return Some(Kind::Http2);
    }
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Some(Kind::Http1);
    }
    let ping = bytes.len() >= 5
        && bytes[..4].eq_ignore_ascii_case(b"PING")
        && matches!(bytes[4], b'\r' | b'\n' | b' ');
    if ping {
        return Some(Kind::Redis);
    }
    let open = PREFACE.starts_with(bytes)
        || METHODS.iter().any(|method| method.starts_with(bytes))
        || (bytes.len() < 5 && b"PING"[..bytes.len().min(4)].eq_ignore_ascii_case(bytes));
    if open { None } else { Some(Kind::Other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds() {
        for (bytes, kind) in [
            (&b""[..], None),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Kind::Tls)),
            (b"\x16\x05", Some(Kind::Other)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Some(Kind::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nS", None),
            (b"PRI * HTTP/3", Some(Kind::Other)),
            (b"P", None),
            (b"GET", None),
            (b"GET ", Some(Kind::Http1)),
            (b"DELETE /x HTTP/1.1", Some(Kind::Http1)),
            (b"GETTING", Some(Kind::Other)),
            (b"PIN", None),
            (b"PING", None),
            (b"PING\r\n", Some(Kind::Redis)),
            (b"ping\n", Some(Kind::Redis)),
            (b"PINGS", Some(Kind::Other)),
            (b"*", None),
            (b"*1\r\n$4\r\nPING\r\n", Some(Kind::Redis)),
            (b"*x", Some(Kind::Other)),
            (b"hello\n", Some(Kind::Other)),
            (b"\n", Some(Kind::Other)),
        ] {
            assert_eq!(detect(bytes), kind, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        /// A decision is final: more bytes never change it; and a few bytes always decide.
        #[test]
        fn more_bytes_do_not_change_a_decision(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[A-Z* ]{0,30}".prop_map(String::into_bytes),
                Just(PREFACE.to_vec()),
            ],
            more in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let first = detect(&bytes);
            if bytes.len() >= PREFACE.len() {
                prop_assert!(first.is_some());
            }
            if first.is_some() {
                let longer = [bytes, more].concat();
                prop_assert_eq!(detect(&longer), first);
            }
        }
    }
}
