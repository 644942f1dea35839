//! Subresources of pods and service accounts that are only created: binding, eviction, token.

use super::{Ctx, Outcome, Part, Tracking, delete::DeleteOptions, later, meta, update};
use crate::{auth::Bound, error::ApiError, server::State, store::Key};
use serde_json::{Value, json};
use weft_kinds::{Kind, lookup, status};

/// Kubernetes' default life of a requested token, and the least that it accepts.
const TOKEN_SECONDS: i64 = 3600;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

impl State {
    /// POST `pods/{name}/binding`: puts an unassigned pod onto a node.
    pub(crate) fn bind(
        &self,
        ctx: &mut Ctx,
        kind: &Kind,
        key: &Key,
        binding: &Value,
    ) -> Result<Outcome, ApiError> {
        let node = binding["target"]["name"].as_str().unwrap_or_default();
        if node.is_empty() {
            let missing = weft_kinds::FieldError {
                field: "target.name".into(),
                kind: weft_kinds::FieldErrorKind::Required,
                bad_value: None,
                detail: String::new(),
            };
            return Err(status::invalid(kind, &key.name, &[missing]).into());
        }
        let now = ctx.now_text();
        self.change(ctx, kind, key, Part::Binding, Tracking::Done, |ctx, old| {
            let uid = meta(binding, "uid");
            if !uid.is_empty() && uid != meta(old, "uid") {
                return Err(
                    status::conflict_because(kind, &key.name, "Precondition failed: UID").into()
                );
            }
            if old["metadata"]["deletionTimestamp"].is_string() {
                let why =
                    format!("pod {} is being deleted, cannot be assigned to a host", key.name);
                return Err(status::conflict_because(kind, &key.name, &why).into());
            }
            let assigned = old["spec"]["nodeName"].as_str().unwrap_or_default();
            if !assigned.is_empty() {
                let why = format!("pod {} is already assigned to node {assigned:?}", key.name);
                return Err(status::conflict_because(kind, &key.name, &why).into());
            }
            let mut pod = old.clone();
            pod["spec"]["nodeName"] = node.into();
            if let Some(given) = binding["metadata"]["annotations"].as_object() {
                for (k, v) in given {
                    pod["metadata"]["annotations"][k.as_str()] = v.clone();
                }
            }
            set_condition(&mut pod, "PodScheduled", &now);
            update::conform(ctx, kind, pod)
        })?;
        let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(Outcome::value(201, &done))
    }

    /// POST `pods/{name}/eviction`. Disruption budgets are stored, not enforced.
    pub(crate) fn evict(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        key: &Key,
        eviction: &Value,
    ) -> Result<Outcome, ApiError> {
        let options = DeleteOptions::parse(&eviction["deleteOptions"])?;
        self.delete(ctx, kind, key, &options)?;
        let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(Outcome::value(201, &done))
    }

    /// Whether the service account of a token and the pod that it is bound to are still those
    /// that it was made for.
    pub(crate) fn alive(&self, bound: &Bound<'_>) -> bool {
        let same = |plural: &str, (name, uid): (&str, &str)| {
            let kind = lookup("", "v1", plural).expect("invariant: a row");
            let entry = self.store.get(self.table(kind), &Key::new(bound.namespace, name));
            entry.is_some_and(|e| meta(&e.value(), "uid") == uid)
        };
        same("serviceaccounts", bound.account) && bound.pod.is_none_or(|pod| same("pods", pod))
    }

    /// POST `serviceaccounts/{name}/token`.
    pub(crate) fn token(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        key: &Key,
        request: &Value,
    ) -> Result<Outcome, ApiError> {
        let account = self.existing(kind, key)?.value();
        let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(TOKEN_SECONDS);
        if seconds < TOKEN_SECONDS_MIN {
            return Err(status::failure(
                422,
                "Invalid",
                format!("TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {seconds}: may not specify a duration less than 10 minutes"),
            )
            .into());
        }
        if seconds > TOKEN_SECONDS_MAX {
            return Err(status::failure(
                422,
                "Invalid",
                format!("TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Too long: may not specify a duration larger than 2^32 seconds, got {seconds}"),
            )
            .into());
        }
        let until = later(ctx.now, seconds);
        let mut bound = json!({
            "namespace": &*key.namespace,
            "serviceaccount": {"name": &*key.name, "uid": meta(&account, "uid")},
        });
        let object = &request["spec"]["boundObjectRef"];
        if object["kind"] == "Pod" {
            let name = object["name"].as_str().unwrap_or_default();
            let pods = lookup("", "v1", "pods").expect("invariant: pods have a row");
            let pod = self.existing(pods, &Key::new(&key.namespace, name))?.value();
            bound["pod"] = json!({"name": name, "uid": meta(&pod, "uid")});
        }
        let audiences = match &request["spec"]["audiences"] {
            Value::Array(a) if !a.is_empty() => a.clone(),
            _ => vec![json!(crate::auth::AUDIENCE)],
        };
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
            "metadata": {"name": &*key.name, "namespace": &*key.namespace, "creationTimestamp": ctx.now_text()},
            "spec": {"audiences": audiences, "expirationSeconds": seconds},
            "status": {
                "token": self.auth.issue(&key.namespace, &key.name, claims),
                "expirationTimestamp": super::time_text(until),
            },
        });
        if object.is_object() {
            answer["spec"]["boundObjectRef"] = object.clone();
        }
        Ok(Outcome::value(201, &answer))
    }
}

/// Sets a condition to True, in place where it exists.
fn set_condition(pod: &mut Value, kind: &str, now: &str) {
    let condition =
        json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(list) = pod["status"]["conditions"].as_array_mut() {
        match list.iter_mut().find(|c| c["type"] == kind) {
            Some(c) => *c = condition,
            None => list.push(condition),
        }
    }
}
