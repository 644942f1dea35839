//! Subresources of pods that are only created: binding and eviction.

use super::{Ctx, Outcome, Part, Tracking, delete::DeleteOptions, meta, update};
use crate::{
    error::ApiError,
    server::State,
    store::{Key, Scope},
};
use serde_json::{Value, json};
use weft_kinds::{Kind, lookup, status};

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

    /// POST `pods/{name}/eviction`: a delete that a disruption budget can refuse.
    pub(crate) fn evict(
        &self,
        ctx: &Ctx,
        kind: &Kind,
        key: &Key,
        eviction: &Value,
    ) -> Result<Outcome, ApiError> {
        let name = meta(eviction, "name");
        if !name.is_empty() && name != &*key.name {
            return Err(
                status::bad_request("name in URL does not match name in Eviction object").into()
            );
        }
        let options = DeleteOptions::parse(&eviction["deleteOptions"])?;
        let pod = self.existing(kind, key)?.value();
        // What does not run, or is going already, is no loss.
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let idle = matches!(phase, "Succeeded" | "Failed" | "Pending");
        if !idle && !pod["metadata"]["deletionTimestamp"].is_string() {
            self.check_budgets(kind, &pod)?;
        }
        self.delete(ctx, kind, key, &options)?;
        let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(Outcome::value(201, &done))
    }
}

impl State {
    /// Whether the budgets of this pod's namespace can spare it. They are judged by the pods
    /// that there are now: no controller's count is needed, and none can be late.
    fn check_budgets(&self, kind: &Kind, pod: &Value) -> Result<(), ApiError> {
        let budgets = lookup("policy", "v1", "poddisruptionbudgets").expect("invariant: a row");
        let scope =
            Scope { namespace: Some(meta(pod, "namespace").into()), selector: Default::default() };
        let all = |kind| -> Result<Vec<Value>, ApiError> {
            let listing = self.store.list(self.table(kind), &scope, None, None, 0)?;
            Ok(listing.items.iter().map(|(_, e)| e.value()).collect())
        };
        let mut own = all(budgets)?;
        own.retain(|b| selected(&b["spec"]["selector"], pod));
        let budget = match own.as_slice() {
            [] => return Ok(()),
            [one] => one,
            _ => {
                return Err(status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                )
                .into());
            }
        };
        let spec = &budget["spec"];
        let healthy = |pod: &Value| {
            let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
            pod["status"]["conditions"].as_array().is_some_and(|l| l.iter().any(ready))
                && !pod["metadata"]["deletionTimestamp"].is_string()
        };
        let running =
            |pod: &Value| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let mut pods = all(kind)?;
        pods.retain(|p| running(p) && selected(&spec["selector"], p));
        let expected = pods.len() as i64;
        let current = pods.iter().filter(|p| healthy(p)).count() as i64;
        let part = |v: &Value| amount(v, expected);
        let desired = match (part(&spec["maxUnavailable"]), part(&spec["minAvailable"])) {
            (Some(gone), _) => (expected - gone).max(0),
            (None, Some(least)) => least,
            (None, None) => 1,
        };
        // One that is not ready counts for nothing, once the others are enough (or always).
        let always = spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if !healthy(pod) && (always || current >= desired) || current > desired {
            return Ok(());
        }
        let name = meta(budget, "name");
        let mut refused = status::failure(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        );
        refused["details"] = json!({"causes": [{"reason": "DisruptionBudget", "message": format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        )}]});
        Err(refused.into())
    }
}

/// A number, or a share of all, rounded up.
fn amount(value: &Value, of: i64) -> Option<i64> {
    match value {
        Value::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            Some(percent.clamp(0, 100).saturating_mul(of).saturating_add(99) / 100)
        }
        number => number.as_i64(),
    }
}

/// Whether a label selector selects the object; an empty one selects everything, none nothing.
fn selected(selector: &Value, object: &Value) -> bool {
    let Some(selector) = selector.as_object() else { return false };
    let label = |key: &str| object["metadata"]["labels"][key].as_str();
    let equal = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let rules = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    equal.into_iter().all(|(k, v)| label(k) == v.as_str())
        && rules.into_iter().all(|rule| {
            let has = label(rule["key"].as_str().unwrap_or_default());
            let among = || {
                let values = rule["values"].as_array().into_iter().flatten();
                has.is_some_and(|has| values.into_iter().any(|v| v == has))
            };
            match rule["operator"].as_str() {
                Some("In") => among(),
                Some("NotIn") => !among(),
                Some("Exists") => has.is_some(),
                Some("DoesNotExist") => has.is_none(),
                _ => false,
            }
        })
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
