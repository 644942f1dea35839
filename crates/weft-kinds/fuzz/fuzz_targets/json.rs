//! Any bytes as a JSON body are an object that a create can judge, or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = weft_kinds::decode::json_value(bytes) {
        weft_kinds_fuzz::create(decoded);
    }
});
