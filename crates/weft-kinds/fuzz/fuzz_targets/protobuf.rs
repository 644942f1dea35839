//! Any bytes as a protobuf body are an object that a create can judge, or an error. The envelope
//! is made here half of the time, so that the fuzzer gets at the objects.
#![no_main]

use weft_kinds::{decode::Decoded, protobuf};

const KINDS: [(&str, &str); 6] = [
    ("v1", "Pod"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("v1", "DeleteOptions"),
];

fn envelope((version, kind): (&str, &str), raw: &[u8]) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
        out
    };
    let meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
    [protobuf::MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let body = match KINDS.get(usize::from(*first)) {
        Some(kind) => envelope(*kind, rest),
        None => bytes.to_vec(),
    };
    if let Ok(decoded) = protobuf::decode(&body) {
        weft_kinds_fuzz::create(Decoded { object: decoded.object, strict: Vec::new() });
    }
});
