//! Events: at most a bounded number waiting, equal ones counted in one object.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Events waiting for the API; what comes on top is dropped: events are best effort.
const QUEUE_MAX: usize = 256;
/// Different events remembered for counting.
const REMEMBERED_MAX: usize = 1024;
/// The same event is written at most this often; further ones only count.
const REPEAT_SECONDS_MIN: i64 = 5;

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For the record.
    Normal,
    /// Somebody may want to act.
    Warning,
}

#[derive(Debug)]
struct Item {
    about: ObjectReference,
    severity: Severity,
    reason: String,
    message: String,
}

/// Where events go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Item>);

impl Events {
    /// Starts the writer.
    pub fn start(client: kube::Client, node: String) -> Self {
        let (tx, rx) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write(client, node, rx));
        Self(tx)
    }

    /// Tells of something that happened to a pod or to one of its containers.
    pub fn emit(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let message: String = message.into().chars().take(1024).collect();
        tracing::debug!(pod = ?pod.metadata.name, reason, message, "event");
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|c| {
                let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
                let list = if init.into_iter().any(|i| i.name == c) {
                    "initContainers"
                } else {
                    "containers"
                };
                format!("spec.{list}{{{c}}}")
            }),
        };
        let _ = self.0.try_send(Item { about, severity, reason: reason.into(), message });
    }
}

struct Seen {
    name: String,
    count: i32,
    written: Timestamp,
}

async fn write(client: kube::Client, node: String, mut rx: mpsc::Receiver<Item>) {
    let mut seen: HashMap<(Option<String>, Option<String>, String, String), Seen> = HashMap::new();
    while let Some(item) = rx.recv().await {
        let now = Timestamp::now();
        let ns = item.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(client.clone(), &ns);
        let about = &item.about;
        let key = (
            about.uid.clone(),
            about.field_path.clone(),
            item.reason.clone(),
            item.message.clone(),
        );
        if seen.len() >= REMEMBERED_MAX {
            seen.clear();
        }
        if let Some(s) = seen.get_mut(&key) {
            s.count = s.count.saturating_add(1);
            if now.duration_since(s.written).as_secs() < REPEAT_SECONDS_MIN {
                continue;
            }
            s.written = now;
            let body = json!({"count": s.count, "lastTimestamp": Time(now)});
            let patched = api.patch(&s.name, &PatchParams::default(), &Patch::Merge(&body)).await;
            if patched.is_ok() {
                continue;
            }
        }
        let pod = about.name.clone().unwrap_or_default();
        let name = format!("{pod}.{:x}", now.as_nanosecond());
        let severity = if item.severity == Severity::Normal { "Normal" } else { "Warning" };
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(ns),
                ..Default::default()
            },
            involved_object: item.about,
            reason: Some(item.reason),
            message: Some(item.message),
            type_: Some(severity.into()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(node.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(node.clone()),
            ..Default::default()
        };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                seen.insert(key, Seen { name, count: 1, written: now });
            }
            Err(e) => tracing::debug!("event: {e}"),
        }
    }
}
