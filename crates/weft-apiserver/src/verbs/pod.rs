//! Subresources of pods that are only created: binding and eviction.

use super::{Ctx, Outcome, Part, Tracking, delete::DeleteOptions, meta, update};
use crate::{error::ApiError, server::State, store::Key};
use serde_json::{Value, json};
use weft_kinds::{Kind, status};

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
