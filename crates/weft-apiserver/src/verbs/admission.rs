//! What kube-apiserver's mutating admission does to a new pod: its service account with the
//! token's volume, its priority, and how long it stays on a node that is gone.

use super::meta;
use crate::{
    error::ApiError,
    server::State,
    store::{Key, Scope},
};
use serde_json::{Value, json};
use weft_kinds::{Kind, lookup, status};

/// Where containers find their service account.
const ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ACCOUNT_VOLUME: &str = "kube-api-access-";
const DEFAULT_ACCOUNT: &str = "default";
/// An hour, and what tells the kubelet's own requests from others.
const TOKEN_SECONDS: i64 = 3607;
/// Seconds that a pod tolerates a node that is not ready or unreachable.
const TOLERATION_SECONDS: u32 = 300;
/// Classes that every cluster has, though this one stores them only if somebody does.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

impl State {
    /// Completes a pod that is created.
    pub(super) fn admit(&self, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
        if kind.group.is_empty() && kind.kind == "Pod" && object["spec"].is_object() {
            self.admit_priority(kind, object)?;
            let mirror = &object["metadata"]["annotations"]["kubernetes.io/config.mirror"];
            if !mirror.is_string() {
                self.admit_account(kind, object)?;
            }
            tolerate_for_a_while(&mut object["spec"]);
        }
        Ok(())
    }

    fn admit_account(&self, kind: &Kind, pod: &mut Value) -> Result<(), ApiError> {
        let given = |key: &str| pod["spec"][key].as_str().unwrap_or_default().to_owned();
        let name = match (given("serviceAccountName"), given("serviceAccount")) {
            (name, _) if !name.is_empty() => name,
            (_, old) if !old.is_empty() => old,
            _ => DEFAULT_ACCOUNT.to_owned(),
        };
        for key in ["serviceAccountName", "serviceAccount"] {
            pod["spec"][key] = name.as_str().into();
        }
        let namespace = meta(pod, "namespace").to_owned();
        let accounts = lookup("", "v1", "serviceaccounts").expect("invariant: a row");
        let account = match self.store.get(self.table(accounts), &Key::new(&namespace, &name)) {
            Some(entry) => entry.value(),
            // A controller makes it together with the namespace: the pod need not lose that race,
            // and where no controller runs there are no tokens.
            None if name == DEFAULT_ACCOUNT => return Ok(()),
            None => {
                let why = format!(
                    "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
                );
                return Err(status::forbidden(kind, meta(pod, "name"), &why).into());
            }
        };
        let wanted = [&pod["spec"], &account]
            .into_iter()
            .find_map(|o| o["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if wanted {
            mount_account(pod);
        }
        let secrets = |o: &Value| o["imagePullSecrets"].as_array().is_some_and(|l| !l.is_empty());
        if !secrets(&pod["spec"]) && secrets(&account) {
            pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        Ok(())
    }

    /// Resolves the class to a number.
    fn admit_priority(&self, kind: &Kind, pod: &mut Value) -> Result<(), ApiError> {
        let classes = lookup("scheduling.k8s.io", "v1", "priorityclasses");
        let table = self.table(classes.expect("invariant: a row"));
        let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
        let stored = |name: &str| self.store.get(table, &Key::new("", name)).map(|e| e.value());
        let system = || SYSTEM_CLASSES.iter().find(|(n, _)| *n == name);
        let class = if !name.is_empty() {
            stored(&name).or_else(|| {
                system().map(|(name, value)| json!({"metadata": {"name": name}, "value": value}))
            })
        } else {
            self.default_class(table)
        };
        let refused = |why: &str| Err(status::forbidden(kind, meta(pod, "name"), why).into());
        let (priority, policy) = match &class {
            Some(class) => (
                class["value"].as_i64().unwrap_or(0),
                class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority").to_owned(),
            ),
            None if name.is_empty() => (0, "PreemptLowerPriority".to_owned()),
            None => return refused(&format!("no PriorityClass with name {name} was found")),
        };
        if pod["spec"]["priority"].as_i64().is_some_and(|given| given != priority) {
            return refused(
                "the integer value of priority must not be provided in pod spec; priority admission controller computes it from the given PriorityClass name",
            );
        }
        if let Some(class) = &class {
            pod["spec"]["priorityClassName"] = meta(class, "name").into();
        }
        pod["spec"]["priority"] = priority.into();
        if !pod["spec"]["preemptionPolicy"].is_string() {
            pod["spec"]["preemptionPolicy"] = policy.into();
        }
        Ok(())
    }

    /// The class of pods that name none: of several defaults the lowest.
    fn default_class(&self, table: crate::store::Table) -> Option<Value> {
        let all = self.store.list(table, &Scope::default(), None, None, 0).ok()?;
        all.items
            .into_iter()
            .map(|(_, e)| e.value())
            .filter(|c| c["globalDefault"] == true)
            .min_by_key(|c| c["value"].as_i64())
    }
}

/// What the DefaultTolerationSeconds plugin adds.
fn tolerate_for_a_while(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = spec["tolerations"].as_array().into_iter().flatten().any(|item| {
            let field = |name| item[name].as_str().unwrap_or_default();
            (field("key") == key || field("key").is_empty())
                && matches!(field("effect"), "NoExecute" | "")
        });
        if !tolerated {
            let item = json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": TOLERATION_SECONDS});
            append(spec, "tolerations", item);
        }
    }
}

/// Mounts the token into every container that has nothing there.
fn mount_account(pod: &mut Value) {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let there = volumes
        .filter_map(|v| v["name"].as_str())
        .find(|name| name.starts_with(ACCOUNT_VOLUME))
        .map(str::to_owned);
    let name = there.clone().unwrap_or_else(|| super::create::generate(ACCOUNT_VOLUME));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers {
            let mounts = container["volumeMounts"].as_array();
            if mounts.into_iter().flatten().any(|m| m["mountPath"] == ACCOUNT_DIR) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": ACCOUNT_DIR});
            append(container, "volumeMounts", mount);
            mounted = true;
        }
    }
    if mounted && there.is_none() {
        let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt",
                "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}});
        append(&mut pod["spec"], "volumes", volume);
    }
}

/// Adds an item to a list that may be absent.
fn append(object: &mut Value, list: &str, item: Value) {
    match object.get_mut(list).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => object[list] = json!([item]),
    }
}
