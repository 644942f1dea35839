//! Tokens of service accounts: what they are bound to, and TokenRequest.

use super::{Ctx, Outcome, later, meta, time_text};
use crate::{auth::Bound, error::ApiError, server::State, store::Key};
use serde_json::{Value, json};
use weft_kinds::{Kind, lookup, status};

/// Kubernetes' default life of a requested token, and what it accepts.
const TOKEN_SECONDS: i64 = 3600;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

impl State {
    /// Whether the service account of a token and the object that it is bound to are still those
    /// that it was made for.
    pub(crate) fn alive(&self, bound: &Bound<'_>) -> bool {
        let same = |plural: &str, namespace: &str, name: &str, uid: &str| {
            let kind = lookup("", "v1", plural).expect("invariant: a row");
            let entry = self.store.get(self.table(kind), &Key::new(namespace, name));
            entry.is_some_and(|e| meta(&e.value(), "uid") == uid)
        };
        let (name, uid) = bound.account;
        same("serviceaccounts", bound.namespace, name, uid)
            && bound.object.is_none_or(|(plural, name, uid)| {
                same(plural, if plural == "nodes" { "" } else { bound.namespace }, name, uid)
            })
    }

    /// POST `serviceaccounts/{name}/token`.
    pub(crate) fn token(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        key: &Key,
        request: &Value,
    ) -> Result<Outcome, ApiError> {
        for (field, want) in [("name", &*key.name), ("namespace", &*key.namespace)] {
            let given = meta(request, field);
            if !given.is_empty() && given != want {
                let why = format!("must match the service account {field} if specified");
                return Err(invalid(
                    &key.name,
                    &format!("metadata.{field}: Invalid value: {given:?}: {why}"),
                ));
            }
        }
        let account = self.existing(kind, key)?.value();
        let (given, uid) = (meta(request, "uid"), meta(&account, "uid"));
        if !given.is_empty() && given != uid {
            let why = format!(
                "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
            );
            return Err(conflict("TokenRequest.authentication.k8s.io", &key.name, &why));
        }
        let spec = &request["spec"];
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(TOKEN_SECONDS);
        if seconds < TOKEN_SECONDS_MIN {
            let why = "may not specify a duration less than 10 minutes";
            return Err(invalid(
                "",
                &format!("spec.expirationSeconds: Invalid value: {seconds}: {why}"),
            ));
        }
        if seconds > TOKEN_SECONDS_MAX {
            let why = "may not specify a duration larger than 2^32 seconds";
            return Err(invalid(
                "",
                &format!("spec.expirationSeconds: Invalid value: {seconds}: {why}"),
            ));
        }
        let mut bound = json!({
            "namespace": &*key.namespace,
            "serviceaccount": {"name": &*key.name, "uid": uid},
        });
        if spec["boundObjectRef"].is_object() {
            self.bind_token(key, &spec["boundObjectRef"], &mut bound)?;
        }
        let audiences = match &spec["audiences"] {
            Value::Array(a) if !a.is_empty() => a.clone(),
            _ => vec![json!(crate::auth::AUDIENCE)],
        };
        let until = later(ctx.now, seconds);
        let claims = json!({
            "aud": audiences,
            "iat": ctx.now.as_second(),
            "nbf": ctx.now.as_second(),
            "exp": until.as_second(),
            "kubernetes.io": bound,
        });
        let mut answer = json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": uid,
                "creationTimestamp": ctx.now_text()},
            "spec": {"audiences": audiences, "expirationSeconds": seconds,
                "boundObjectRef": spec["boundObjectRef"]},
            "status": {
                "token": self.auth.issue(&key.namespace, &key.name, claims),
                "expirationTimestamp": time_text(until),
            },
        });
        // The real API writes null here.
        if !spec["boundObjectRef"].is_object() {
            answer["spec"]["boundObjectRef"] = Value::Null;
        }
        Ok(Outcome::value(201, &answer))
    }

    /// Notes the object that the token ends with.
    fn bind_token(&self, key: &Key, wanted: &Value, bound: &mut Value) -> Result<(), ApiError> {
        let text = |field: &str| wanted[field].as_str().unwrap_or_default();
        let (plural, claim, namespace) = match (text("apiVersion"), text("kind")) {
            ("v1" | "", "Pod") => ("pods", "pod", &*key.namespace),
            ("v1" | "", "Secret") => ("secrets", "secret", &*key.namespace),
            ("v1" | "", "Node") => ("nodes", "node", ""),
            (version, kind) => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                let why =
                    format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
                return Err(status::bad_request(why).into());
            }
        };
        let (name, given) = (text("name"), text("uid"));
        let kind = lookup("", "v1", plural).expect("invariant: a row");
        let object = self.existing(kind, &Key::new(namespace, name))?.value();
        let uid = meta(&object, "uid");
        if plural == "pods" {
            let runs_as = object["spec"]["serviceAccountName"].as_str().unwrap_or("default");
            if runs_as != &*key.name {
                return Err(status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    key.name
                ))
                .into());
            }
            let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
            if !node.is_empty() {
                let nodes = lookup("", "v1", "nodes").expect("invariant: a row");
                bound["node"] = json!({"name": node});
                if let Ok(node) = self.existing(nodes, &Key::new("", node)) {
                    bound["node"]["uid"] = meta(&node.value(), "uid").into();
                }
            }
        }
        if !given.is_empty() && given != uid {
            let why = format!(
                "the UID in the bound object reference ({given}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(conflict(&kind.kind, name, &why));
        }
        bound[claim] = json!({"name": name, "uid": uid});
        Ok(())
    }
}

fn invalid(name: &str, why: &str) -> ApiError {
    let message = format!("TokenRequest.authentication.k8s.io {name:?} is invalid: {why}");
    status::failure(422, "Invalid", message).into()
}

fn conflict(resource: &str, name: &str, why: &str) -> ApiError {
    let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
    status::failure(409, "Conflict", message).into()
}
