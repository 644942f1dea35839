//! Questions that are answered and forgotten: may I, who am I.

use super::{Ctx, Outcome};
use crate::{
    auth::{AUDIENCE, Bound, Presented},
    error::ApiError,
    server::State,
};
use serde_json::{Value, json};
use weft_kinds::{Kind, status};

impl State {
    /// Answers a review. The lab's users may do everything.
    pub(crate) fn review(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        namespace: Option<&str>,
        mut object: Value,
    ) -> Result<Outcome, ApiError> {
        object["status"] = match &*kind.kind {
            "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => {
                access(kind, &object, namespace)?;
                json!({"allowed": true, "reason": "everything is allowed here"})
            }
            "SelfSubjectRulesReview" => {
                if object["spec"]["namespace"].as_str().is_none_or(str::is_empty) {
                    return Err(status::bad_request("no namespace on request").into());
                }
                json!({
                    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                    "incomplete": false,
                })
            }
            "SelfSubjectReview" => json!({"userInfo": ctx.identity.user_info()}),
            "TokenReview" => self.token_review(ctx, &object["spec"])?,
            _ => return Err(status::method_not_allowed().into()),
        };
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        Ok(Outcome::value(201, &object))
    }
    fn token_review(&self, ctx: &Ctx, spec: &Value) -> Result<Value, ApiError> {
        let token = spec["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            let why = "token is required for TokenReview in authentication";
            return Err(status::bad_request(why).into());
        }
        let wanted: Vec<&str> = match spec["audiences"].as_array() {
            Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).collect(),
            _ => vec![AUDIENCE],
        };
        let alive = |bound: &Bound<'_>| self.alive(bound);
        let now = ctx.now.as_second();
        let given = Presented { token, now, audiences: &wanted, alive: &alive };
        Ok(match self.auth.bearer(given) {
            Some((who, audiences)) => {
                json!({"authenticated": true, "audiences": audiences, "user": who.user_info()})
            }
            None => json!({"user": {}, "error": "invalid bearer token"}),
        })
    }
}

/// Whether a question about access can be answered.
fn access(kind: &Kind, review: &Value, namespace: Option<&str>) -> Result<(), ApiError> {
    let spec = &review["spec"];
    let given = |key: &str| spec[key].is_object();
    let mut errors = Vec::new();
    let mut wrong = |field: &str, detail: &str| {
        errors.push(weft_kinds::FieldError {
            field: field.to_owned(),
            kind: weft_kinds::FieldErrorKind::Invalid,
            bad_value: Some(
                spec.get(field.trim_start_matches("spec.")).cloned().unwrap_or_default(),
            ),
            detail: detail.to_owned(),
        });
    };
    if given("resourceAttributes") == given("nonResourceAttributes") {
        let field = if given("resourceAttributes") {
            "spec.nonResourceAttributes"
        } else {
            "spec.resourceAttributes"
        };
        wrong(
            field,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
    }
    let nobody = spec["user"].as_str().is_none_or(str::is_empty)
        && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if kind.kind != "SelfSubjectAccessReview" && nobody {
        wrong("spec.user", "at least one of user or group must be specified");
    }
    if !errors.is_empty() {
        return Err(status::invalid(kind, "", &errors).into());
    }
    if let Some(namespace) = namespace {
        let asked = spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
        if asked != namespace {
            return Err(status::bad_request(format!(
                "spec.resourceAttributes.namespace must match namespace: {namespace}"
            ))
            .into());
        }
    }
    Ok(())
}
