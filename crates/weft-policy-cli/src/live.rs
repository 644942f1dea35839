//! A cluster that runs: its objects, and manifests put over them as `kubectl apply` would.

use crate::{Documents, Object, Source};
use serde_json::Value;
use std::{collections::HashSet, sync::OnceLock};

/// What makes pods.
const WORKLOADS: [&str; 7] = [
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
];
/// Label by which a Deployment tells its ReplicaSets apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// The workload that a pod belongs to, by kind and name: a ReplicaSet of a Deployment counts as
/// that Deployment.
pub(crate) fn workload_of(pod: &Value) -> Option<(String, String)> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|o| o["controller"] == true)?;
    let (kind, name) = (owner["kind"].as_str()?, owner["name"].as_str()?);
    let hash = pod["metadata"]["labels"][TEMPLATE_HASH].as_str();
    let deployment = hash.and_then(|h| name.strip_suffix(h)?.strip_suffix('-'));
    Some(match (kind, deployment) {
        ("ReplicaSet", Some(deployment)) => ("Deployment".to_owned(), deployment.to_owned()),
        _ => (kind.to_owned(), name.to_owned()),
    })
}

/// Group, kind, namespace and name.
type Key = (String, String, String, String);

fn key(object: &Object) -> Key {
    let meta = &object.value["metadata"];
    let text = |v: &Value, otherwise: &str| v.as_str().unwrap_or(otherwise).to_owned();
    let namespaced = !matches!(object.kind(), "Namespace" | "Node" | "ClusterNetworkPolicy");
    let namespace = if namespaced { text(&meta["namespace"], "default") } else { String::new() };
    (object.group().to_owned(), object.kind().to_owned(), namespace, text(&meta["name"], ""))
}

impl Documents {
    /// Objects that an API gave out; `name` stands for the file in what is said about them.
    pub fn of_objects(name: &str, objects: Vec<Value>) -> Self {
        let objects = objects.into_iter().enumerate().map(|(document, value)| Object {
            source: 0,
            document,
            item: None,
            value,
        });
        let source = Source { name: name.into(), text: "".into() };
        Self { sources: vec![source], objects: objects.collect(), lines: vec![OnceLock::new()] }
    }

    /// These objects with those of `files` put over them: what has the same kind, namespace and
    /// name is replaced, and a workload takes the place of its own pods.
    pub fn with(&self, files: &Self) -> Self {
        let replaced: HashSet<Key> = files.objects.iter().map(key).collect();
        let rolled: HashSet<Key> = replaced
            .iter()
            .filter(|(_, kind, ..)| WORKLOADS.contains(&kind.as_str()))
            .map(|(_, kind, namespace, name)| {
                (String::new(), kind.clone(), namespace.clone(), name.clone())
            })
            .collect();
        let stays = |object: &&Object| {
            let own = key(object);
            let belongs = || {
                let (kind, name) = workload_of(&object.value)?;
                Some((String::new(), kind, own.2.clone(), name))
            };
            let goes = object.kind() == "Pod" && belongs().is_some_and(|w| rolled.contains(&w));
            !goes && !replaced.contains(&own)
        };
        let mut both = Self {
            sources: [&self.sources[..], &files.sources].concat(),
            objects: self.objects.iter().filter(stays).cloned().collect(),
            lines: [&self.lines[..], &files.lines].concat(),
        };
        let moved = files.objects.iter().cloned().map(|mut object| {
            object.source += self.sources.len();
            object
        });
        both.objects.extend(moved);
        both
    }

    /// These alone, of a kind.
    pub fn of_kind(mut self, kind: &str) -> Self {
        self.objects.retain(|o| o.kind() == kind);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cluster, compare};
    use serde_json::json;
    use weft_model::IpFamilies;

    fn pod(name: &str, ip: &str, app: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "default",
                "labels": {"app": app, "pod-template-hash": "abc"},
                "ownerReferences": [
                    {"kind": "ReplicaSet", "name": format!("{app}-abc"), "controller": true},
                ],
            },
            "spec": {"nodeName": "n"},
            "status": {"podIPs": [{"ip": ip}], "phase": "Running"},
        })
    }

    fn policy(name: &str, app: &str) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "default", "uid": "1"},
            "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]},
        })
    }

    fn files(text: &str) -> Documents {
        Documents::parse(vec![Source { name: "a.yaml".into(), text: text.into() }]).expect("YAML")
    }

    #[test]
    fn files_are_put_over_a_cluster() {
        let live = Documents::of_objects(
            "cluster",
            vec![
                pod("web-abc-1", "10.0.0.1", "web"),
                pod("web-abc-2", "10.0.0.2", "web"),
                pod("db-abc-1", "10.0.0.3", "db"),
                policy("db", "db"),
                policy("web", "web"),
            ],
        );
        let change = files(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db}\nspec:\n  \
             podSelector: {matchLabels: {app: db}}\n  ingress: [{ports: [{port: 5432}]}]\n",
        );
        let after = live.with(&change);
        assert_eq!(after.objects.len(), 5);
        let (before, after) = Cluster::pair(live.clone(), after).expect("readable");
        assert_eq!(before.groups.len(), 2, "{:?}", before.groups);
        assert_eq!(
            (before.groups[1].id.to_string(), before.groups[1].pods.len()),
            ("default/web".to_owned(), 2)
        );
        let differences = compare(&before, &after, IpFamilies::Ipv4).expect("small");
        let text = differences.text();
        assert_eq!(
            text,
            "+ default/web → default/db  TCP/5432\n+ outside → default/db  TCP/5432\n"
        );
        let rule = after.place_of(
            &weft_policy::PolicyId::Network(weft_model::NamespacedName::new("default", "db")),
            Some((weft_model::Direction::Ingress, 0)),
        );
        assert_eq!(rule, Some(("a.yaml".into(), 6)));
        // A workload stands for its pods as they will be.
        let rolled = files(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: \
             {metadata: {labels: {app: other}}, spec: {}}}\n",
        );
        let after = Cluster::of(live.with(&rolled)).expect("readable");
        let pods: Vec<String> = after.input.pods.keys().map(ToString::to_string).collect();
        assert_eq!(pods, ["default/db-abc-1", "default/web-0", "default/web-1"]);
    }
}
