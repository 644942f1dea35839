//! Any patch of any of the three types makes an object that a create could judge, or is refused;
//! none makes it deeper or larger without end.
#![no_main]

use serde_json::{Value, json};
use std::sync::LazyLock;
use weft_kinds::{DEPTH_MAX, decode, decode::Decoded, deeper_than, patch};

static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"a": "b"}, "finalizers": ["x/y"]},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                    "env": [{"name": "A", "value": "1"}]},
                {"name": "d", "image": "i"}]}}}})
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let Ok(given) = decode::json_value(rest) else { return };
    let kind = weft_kinds::lookup("apps", "v1", "deployments").expect("a row");
    let patched = match first % 3 {
        0 => patch::json(&OBJECT, &given.object),
        1 => patch::merge(&OBJECT, &given.object),
        _ => patch::strategic(&kind, &OBJECT, &given.object),
    };
    if let Ok(object) = patched {
        // The parser stops at 128 levels, a JSON patch before.
        assert!(!deeper_than(&object, DEPTH_MAX + 128));
        weft_kinds_fuzz::create(Decoded { object, strict: Vec::new() });
    }
});
