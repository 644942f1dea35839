//! Writes a pod's status, the latest wins; and deletes the pod once its last status is written.

use crate::ctx::Ctx;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Waits between attempts while the API does not answer.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest of them.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What to write.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// The status; `None`: nothing yet.
    pub status: Option<PodStatus>,
    /// Delete the object afterwards.
    pub delete: bool,
}

/// Runs until the pod is deleted or the sender is dropped. `namespace/name/uid` name the pod;
/// `known` is the status that the API has.
pub async fn run(ctx: Arc<Ctx>, pod: Arc<Pod>, mut jobs: watch::Receiver<Job>) {
    let meta = &pod.metadata;
    let ns = meta.namespace.as_deref().unwrap_or("default");
    let (Some(name), Some(uid)) = (&meta.name, &meta.uid) else { return };
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), ns);
    let mut known = serde_json::to_value(&pod.status).unwrap_or_default();
    let mut retry = RETRY_MIN;
    let mut failed = false;
    loop {
        if failed {
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_MAX);
        } else if jobs.changed().await.is_err() {
            return;
        }
        let job = jobs.borrow_and_update().clone();
        let wanted = serde_json::to_value(&job.status).unwrap_or_default();
        failed = false;
        if !wanted.is_null() && wanted != known {
            match write(&api, name, uid, &wanted, &known).await {
                Ok(Written::Yes) => {
                    known = wanted;
                    retry = RETRY_MIN;
                }
                Ok(Written::Gone) => return,
                Err(e) => {
                    tracing::warn!(pod = name, "status: {e}");
                    failed = true;
                }
            }
        }
        if job.delete && !failed {
            match delete(&api, name, uid).await {
                Ok(()) => return,
                Err(e) => {
                    tracing::warn!(pod = name, "delete: {e}");
                    failed = true;
                }
            }
        }
    }
}

enum Written {
    Yes,
    Gone,
}

async fn write(
    api: &Api<Pod>,
    name: &str,
    uid: &str,
    wanted: &Value,
    known: &Value,
) -> kube::Result<Written> {
    // The UID makes the patch fail for a new pod of the same name.
    let body = json!({"metadata": {"uid": uid}, "status": merge_patch(known, wanted)});
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&body)).await {
        Ok(_) => Ok(Written::Yes),
        Err(kube::Error::Api(s)) if s.code == 404 => Ok(Written::Gone),
        Err(kube::Error::Api(s)) if s.code == 409 || s.code == 422 => {
            // Somebody else's pod by now?
            match api.get_opt(name).await? {
                Some(p) if p.metadata.uid.as_deref() == Some(uid) => Err(kube::Error::Api(s)),
                _ => Ok(Written::Gone),
            }
        }
        Err(e) => Err(e),
    }
}

async fn delete(api: &Api<Pod>, name: &str, uid: &str) -> kube::Result<()> {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..Default::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        // Gone, or replaced by a namesake.
        Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => Ok(()),
        Err(e) => Err(e),
    }
}

/// The JSON merge patch (RFC 7386) from one status to another: only what differs.
pub fn merge_patch(from: &Value, to: &Value) -> Value {
    let (Value::Object(a), Value::Object(b)) = (from, to) else { return to.clone() };
    let mut out = serde_json::Map::new();
    for (k, v) in b {
        match a.get(k) {
            Some(old) if old == v => {}
            Some(old @ Value::Object(_)) => {
                out.insert(k.clone(), merge_patch(old, v));
            }
            _ => {
                out.insert(k.clone(), v.clone());
            }
        }
    }
    for k in a.keys().filter(|k| !b.contains_key(*k)) {
        out.insert(k.clone(), Value::Null);
    }
    Value::Object(out)
}

/// Now, in the whole seconds that Kubernetes' times have.
pub fn now_seconds() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_difference_is_sent() {
        let a = json!({"phase": "Pending", "podIP": "1", "reason": "x", "o": {"a": 1, "b": 2}});
        let b = json!({"phase": "Running", "podIP": "1", "list": [1], "o": {"a": 1, "b": 3}});
        let p = merge_patch(&a, &b);
        assert_eq!(p, json!({"phase": "Running", "list": [1], "o": {"b": 3}, "reason": null}));
        assert_eq!(merge_patch(&Value::Null, &b), b);
    }
}
