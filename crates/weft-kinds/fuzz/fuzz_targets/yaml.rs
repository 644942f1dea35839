//! Any bytes as a YAML body are an object that a create can judge, or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = weft_kinds::decode::yaml_value(bytes) {
        weft_kinds_fuzz::create(decoded);
    }
});
