//! Questions that are answered and forgotten: may I, who am I.

use super::{Ctx, Outcome};
use crate::{
    auth::{AUDIENCE, Bound},
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
        mut object: Value,
    ) -> Result<Outcome, ApiError> {
        let user = json!({"username": ctx.identity.user, "groups": ctx.identity.groups});
        object["status"] = match &*kind.kind {
            "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => {
                json!({"allowed": true, "reason": "everything is allowed here"})
            }
            "SelfSubjectRulesReview" => json!({
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": false,
            }),
            "SelfSubjectReview" => json!({"userInfo": user}),
            "TokenReview" => {
                let token = object["spec"]["token"].as_str().unwrap_or_default();
                let wanted: Vec<&str> = match object["spec"]["audiences"].as_array() {
                    Some(list) if !list.is_empty() => {
                        list.iter().filter_map(Value::as_str).collect()
                    }
                    _ => vec![AUDIENCE],
                };
                let alive = |bound: &Bound<'_>| self.alive(bound);
                match self.auth.bearer(token, ctx.now.as_second(), &wanted, &alive) {
                    Some(who) => json!({"authenticated": true, "audiences": wanted,
                        "user": {"username": who.user, "groups": who.groups}}),
                    None => json!({"user": {}, "error": "the token is not known"}),
                }
            }
            _ => return Err(status::method_not_allowed().into()),
        };
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        Ok(Outcome::value(201, &object))
    }
}
