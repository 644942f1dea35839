//! `metav1.Status` objects with the reasons, codes and texts of the real API.

use serde_json::{Map, Value, json};

use crate::{FieldError, Kind};

/// The code of a Status value; 500 if it has none.
pub fn code(status: &Value) -> u16 {
    status.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).unwrap_or(500)
}

/// A Status of failure.
pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Value {
    with_details(code, reason, message, Value::Null)
}

fn with_details(code: u16, reason: &str, message: impl Into<String>, details: Value) -> Value {
    let mut status = Map::new();
    status.insert("kind".into(), "Status".into());
    status.insert("apiVersion".into(), "v1".into());
    status.insert("metadata".into(), json!({}));
    status.insert("status".into(), "Failure".into());
    status.insert("message".into(), message.into().into());
    status.insert("reason".into(), reason.into());
    if !details.is_null() {
        status.insert("details".into(), details);
    }
    status.insert("code".into(), code.into());
    Value::Object(status)
}

/// `details` that name a resource (or, for Invalid, a kind).
fn details(name: &str, group: &str, kind: &str) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            map.insert(key.into(), value.into());
        }
    }
    map
}

/// 404 for an object.
pub fn not_found(kind: &Kind, name: &str) -> Value {
    with_details(
        404,
        "NotFound",
        format!("{} {name:?} not found", kind.qualified_plural()),
        details(name, &kind.group, &kind.plural).into(),
    )
}

/// 404 for a path that is no resource.
pub fn unknown_resource() -> Value {
    with_details(404, "NotFound", "the server could not find the requested resource", json!({}))
}

/// 409 for a create of what exists.
pub fn already_exists(kind: &Kind, name: &str) -> Value {
    with_details(
        409,
        "AlreadyExists",
        format!("{} {name:?} already exists", kind.qualified_plural()),
        details(name, &kind.group, &kind.plural).into(),
    )
}

/// 409 for an update of an old version.
pub fn conflict(kind: &Kind, name: &str) -> Value {
    conflict_because(
        kind,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// 409 for another reason, such as a failed precondition.
pub fn conflict_because(kind: &Kind, name: &str, why: &str) -> Value {
    with_details(
        409,
        "Conflict",
        format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified_plural()),
        details(name, &kind.group, &kind.plural).into(),
    )
}

/// 422 with a cause per refused field.
pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Value {
    refused_fields(&kind.kind, &kind.group, name, errors)
}

/// 422 for the options of a request, such as `PatchOptions`.
pub fn invalid_options(kind: &str, errors: &[FieldError]) -> Value {
    refused_fields(kind, "meta.k8s.io", "", errors)
}

fn refused_fields(kind: &str, group: &str, name: &str, errors: &[FieldError]) -> Value {
    let causes: Vec<Value> = errors
        .iter()
        .map(|e| json!({"reason": e.kind.reason(), "message": e.body(), "field": e.field}))
        .collect();
    // The same text is said once.
    let mut texts: Vec<String> = Vec::new();
    for error in errors.iter().map(ToString::to_string) {
        if !texts.contains(&error) {
            texts.push(error);
        }
    }
    let text = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let mut details = details(name, group, kind);
    details.insert("causes".into(), causes.into());
    let what = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    with_details(422, "Invalid", format!("{what} {name:?} is invalid: {text}"), details.into())
}

/// 400.
pub fn bad_request(message: impl Into<String>) -> Value {
    failure(400, "BadRequest", message)
}

/// 400 for a body that cannot be decoded as its kind; `why` is a
/// [`DecodeError`](crate::decode::DecodeError) or the joined strict findings.
pub fn undecodable(kind: &Kind, why: impl std::fmt::Display) -> Value {
    bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        kind.kind, kind.version, kind.kind
    ))
}

/// 400 for strict findings (`fieldValidation=Strict`).
pub fn strict(kind: &Kind, findings: &[String]) -> Value {
    undecodable(kind, format_args!("strict decoding error: {}", findings.join(", ")))
}

/// 403.
pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Value {
    with_details(
        403,
        "Forbidden",
        format!("{} {name:?} is forbidden: {why}", kind.qualified_plural()),
        details(name, &kind.group, &kind.plural).into(),
    )
}

/// 401.
pub fn unauthorized() -> Value {
    failure(401, "Unauthorized", "Unauthorized")
}

/// 405.
pub fn method_not_allowed() -> Value {
    failure(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}

/// 410: the version asked for is no longer kept.
pub fn expired(message: impl Into<String>) -> Value {
    failure(410, "Expired", message)
}

/// 410 inside a watch: the version to start from is no longer kept.
pub fn too_old(requested: u64, current: u64) -> Value {
    expired(format!("too old resource version: {requested} ({current})"))
}

/// 413.
pub fn too_large(limit_bytes: usize) -> Value {
    failure(
        413,
        "RequestEntityTooLarge",
        format!("Request entity too large: limit is {limit_bytes}"),
    )
}

/// 415.
pub fn unsupported_media_type(accepted: &[&str]) -> Value {
    failure(
        415,
        "UnsupportedMediaType",
        format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        ),
    )
}

/// 406.
pub fn not_acceptable(accepted: &[&str]) -> Value {
    failure(
        406,
        "NotAcceptable",
        format!("only the following media types are accepted: {}", accepted.join(", ")),
    )
}

/// 500.
pub fn internal(message: impl std::fmt::Display) -> Value {
    with_details(
        500,
        "InternalError",
        format!("Internal error occurred: {message}"),
        json!({"causes": [{"message": message.to_string()}]}),
    )
}

/// 503.
pub fn unavailable(message: impl Into<String>) -> Value {
    failure(503, "ServiceUnavailable", message)
}

/// 504.
pub fn timeout(message: impl Into<String>) -> Value {
    failure(504, "Timeout", message)
}

/// 429, with the seconds to wait.
pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Value {
    with_details(429, "TooManyRequests", message, json!({"retryAfterSeconds": retry_after_seconds}))
}

/// Success of a deletion that leaves nothing to return.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = details(name, &kind.group, &kind.plural);
    details.insert("uid".into(), uid.into());
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
           "details": details})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FieldErrorKind, lookup};

    #[test]
    fn statuses_read_like_those_of_the_real_api() {
        let pods = lookup("", "v1", "pods").expect("row");
        let deployments = lookup("apps", "v1", "deployments").expect("row");
        assert_eq!(
            not_found(deployments, "web"),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                   "message": "deployments.apps \"web\" not found", "reason": "NotFound",
                   "details": {"name": "web", "group": "apps", "kind": "deployments"}, "code": 404})
        );
        assert_eq!(already_exists(pods, "p")["message"], "pods \"p\" already exists");
        assert_eq!(
            conflict(pods, "p")["message"],
            "Operation cannot be fulfilled on pods \"p\": the object has been modified; please apply \
             your changes to the latest version and try again"
        );
        let error = |field: &str| FieldError {
            field: field.to_owned(),
            kind: FieldErrorKind::Required,
            bad_value: None,
            detail: String::new(),
        };
        let invalid_one = invalid(deployments, "d", &[error("spec.selector")]);
        assert_eq!(
            invalid_one["message"],
            "Deployment.apps \"d\" is invalid: spec.selector: Required value"
        );
        assert_eq!(
            invalid_one["details"]["causes"],
            json!([{"reason": "FieldValueRequired", "message": "Required value", "field": "spec.selector"}])
        );
        assert_eq!(
            invalid(pods, "p", &[error("a"), error("b"), error("a")])["message"],
            "Pod \"p\" is invalid: [a: Required value, b: Required value]"
        );
        assert_eq!(
            strict(deployments, &["unknown field \"spec.foo\"".to_owned()])["message"],
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
             unknown field \"spec.foo\""
        );
        assert_eq!(code(&too_old(1, 5)), 410);
        assert_eq!(too_old(1, 5)["reason"], "Expired");
    }
}
