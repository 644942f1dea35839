//! Any JSON as a schema, and any JSON as an object of it: no panic, pruning and defaulting are
//! idempotent. The input is a list of schema, object and old object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use weft_crd::definition::{Version, validate};

fuzz_target!(|data: &[u8]| {
    let Ok(input) = serde_json::from_slice::<Value>(data) else { return };
    let (schema, mut object, old) = (&input[0], input[1].clone(), &input[2]);
    let definition = json!({
        "metadata": {"name": "a.b.c"},
        "spec": {"group": "b.c", "scope": "Cluster", "names": {"plural": "a", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}}]},
        "status": {"storedVersions": ["v1"]},
    });
    validate(&definition, None);
    let Some(version) = Version::of(&definition, "v1") else { return };
    version.schema().prune(&mut object);
    let pruned = object.clone();
    assert!(version.schema().prune(&mut object).is_empty());
    assert_eq!(object, pruned);
    version.schema().default(&mut object);
    let defaulted = object.clone();
    version.schema().default(&mut object);
    assert_eq!(object, defaulted);
    version.validate(&object, Some(old), &mut Vec::new());
    version.validate(&object, None, &mut Vec::new());
});
