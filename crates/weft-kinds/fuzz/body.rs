//! What becomes of a body after its syntax: the way of every create and update.

use serde_json::{Value, json};
use weft_kinds::{decode, decode::Decoded, default, strategy, table, validate};

/// Takes a decoded body through everything that a create does, as the kind that it says it is,
/// or as a Pod.
pub fn create(mut decoded: Decoded) {
    let text = |key: &str| decoded.object[key].as_str().unwrap_or_default().to_owned();
    let said = weft_kinds::lookup_version(&text("apiVersion"), &text("kind"));
    let Some(kind) = said.or_else(|| weft_kinds::lookup("", "v1", "pods")) else { return };
    if decode::conform(&kind, &mut decoded).is_err() {
        return;
    }
    let mut object = decoded.object;
    let once = object.clone();
    let mut again = Decoded { object: object.clone(), strict: Vec::new() };
    decode::conform(&kind, &mut again).expect("what is conformed conforms");
    assert_eq!(again.object, once, "conforming is done once");
    assert!(again.strict.is_empty());
    default(&kind, &mut object);
    strategy::prepare_create(&kind, &mut object);
    default(&kind, &mut object);
    validate(&kind, &object, None);
    validate(&kind, &object, Some(&once));
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    table::cells(&kind, &object, now);
    for patch in [json!({"metadata": {"labels": {"a": null}}}), once] {
        let _ = weft_kinds::patch::strategic(&kind, &object, &patch);
        let _ = weft_kinds::patch::merge(&object, &patch);
    }
    let _: Value = object;
}
