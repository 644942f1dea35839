//! The scale subresource: `autoscaling/v1` Scale over a kind's own fields.

use super::{Ctx, Outcome, Part, Tracking, meta, update, update::Patch};
use crate::{error::ApiError, http::body, server::State, store::Key};
use serde_json::{Value, json};
use weft_kinds::{Kind, Scale, decode::Decoded, patch, status};

impl State {
    pub(crate) fn get_scale(&self, kind: &Kind, key: &Key) -> Result<Outcome, ApiError> {
        let paths = paths(kind)?;
        Ok(Outcome::value(200, &scale_of(paths, &self.existing(kind, key)?.value())))
    }

    /// PUT or PATCH of a Scale.
    pub(crate) fn set_scale(
        &self,
        ctx: &mut Ctx,
        kind: &Kind,
        key: &Key,
        change: &ScaleChange,
    ) -> Result<Outcome, ApiError> {
        let paths = paths(kind)?;
        let outcome = self.change(ctx, kind, key, Part::Scale, Tracking::Update, |ctx, old| {
            let scale = scale_of(paths, old);
            let wanted = match change {
                ScaleChange::Put(s) => s.clone(),
                ScaleChange::Patch(Patch::Json(p)) => {
                    patch::json(&scale, p).map_err(|e| status::bad_request(e.to_string()))?
                }
                // A Scale has no lists, so that strategic merge is merge.
                ScaleChange::Patch(Patch::Merge(p) | Patch::Strategic(p)) => {
                    patch::merge(&scale, p).map_err(|e| status::bad_request(e.to_string()))?
                }
            };
            let (wanted, replicas) = checked(wanted, matches!(change, ScaleChange::Put(_)))?;
            if replicas < 0 {
                let error = weft_kinds::FieldError {
                    field: "spec.replicas".into(),
                    kind: weft_kinds::FieldErrorKind::Invalid,
                    bad_value: Some(replicas.into()),
                    detail: "must be greater than or equal to 0".into(),
                };
                return Err(status::invalid(kind, &key.name, &[error]).into());
            }
            let mut new = old.clone();
            new["metadata"]["resourceVersion"] = wanted["metadata"]["resourceVersion"].clone();
            set(&mut new, &paths.spec_replicas, replicas.into());
            update::conform(ctx, kind, new)
        })?;
        let object = serde_json::from_slice(&outcome.object).unwrap_or_default();
        Ok(Outcome::value(outcome.code, &scale_of(paths, &object)))
    }
}

/// The Scale along its type, and its replicas. Go clients leave `replicas` out of a PUT where it
/// is 0; to remove it from the Scale that is there, or to send no `spec`, is a mistake.
fn checked(scale: Value, zero_left_out: bool) -> Result<(Value, i64), ApiError> {
    let spec = scale.get("spec").and_then(Value::as_object);
    let given = spec.is_some_and(|s| match s.get("replicas") {
        None => zero_left_out,
        Some(replicas) => !replicas.is_null(),
    });
    let decoded = Decoded { object: scale, strict: Vec::new() };
    let scale = body::conform_named("autoscaling.v1.Scale", decoded)?;
    if !given {
        return Err(status::bad_request("spec.replicas: Required value").into());
    }
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    Ok((scale, replicas))
}

/// What is asked of a Scale.
pub(crate) enum ScaleChange {
    Put(Value),
    Patch(Patch),
}

fn paths(kind: &Kind) -> Result<&Scale, ApiError> {
    kind.scale.as_ref().ok_or_else(|| status::unknown_resource().into())
}

fn scale_of(paths: &Scale, object: &Value) -> Value {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta(object, "name"),
            "namespace": meta(object, "namespace"),
            "uid": meta(object, "uid"),
            "resourceVersion": meta(object, "resourceVersion"),
            "creationTimestamp": meta(object, "creationTimestamp"),
        },
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": {"replicas": number(&paths.status_replicas)},
    });
    // A definition need not say where the selector is: the empty pointer is the object itself.
    let selector = Some(&paths.selector).filter(|path| !path.is_empty());
    let selector = selector.and_then(|path| object.pointer(path)).unwrap_or(&Value::Null);
    let selector = selector_text(selector);
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// A label selector (or a plain map, of a ReplicationController) as text.
fn selector_text(selector: &Value) -> String {
    // A custom resource has it as text.
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let mut all: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?)))
        .collect();
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = e["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        all.push(match e["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    all.sort();
    all.join(",")
}

/// Sets the value at a pointer below existing or new objects.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for part in pointer.split('/').skip(1) {
        at = &mut at[part];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_a_number_of_32_bits_or_an_error() {
        let put = |spec: Value| checked(json!({"spec": spec}), true).map(|(_, n)| n);
        assert_eq!(put(json!({"replicas": 3})).unwrap(), 3);
        assert_eq!(put(json!({})).unwrap(), 0, "as Go writes 0");
        for bad in [json!("3"), json!(1u64 << 31), json!(u64::MAX), json!(1.5), Value::Null] {
            assert_eq!(put(json!({"replicas": bad})).unwrap_err().code(), 400, "{bad}");
        }
        for bad in [json!({}), json!({"spec": null}), json!({"spec": 5}), json!([])] {
            assert_eq!(checked(bad, true).unwrap_err().code(), 400);
        }
        assert_eq!(checked(json!({"spec": {}}), false).unwrap_err().code(), 400);
    }

    #[test]
    fn selectors_become_text() {
        let s = json!({"matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "t", "operator": "In", "values": ["x", "y"]}, {"key": "z", "operator": "Exists"}]});
        assert_eq!(selector_text(&s), "a=1,b=2,t in (x,y),z");
        assert_eq!(selector_text(&json!({"app": "w"})), "app=w");
        assert_eq!(selector_text(&Value::Null), "");
    }
}
