//! What is read of objects that are many or large: a pod of a real cluster is ten kilobytes as
//! the API sends it, most of them managed fields, environments and conditions, and every node
//! reads all pods. What is not named here is skipped by the parser and never allocated.

use crate::lower::{self, Lowered};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope, api::core::v1 as core,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use weft_model::Pod;

/// Pods that hold addresses: those that are over do not, and theirs may be another pod's. The
/// scheduler's own watch selects the same.
pub(crate) const LIVING_PODS: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// A pod with nothing in it but what lowering reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchedPod(core::Pod);

impl WatchedPod {
    /// The pod of the model; `None` where it cannot be read.
    pub fn model(&self) -> Option<Pod> {
        self.lower().value
    }

    pub(crate) fn lower(&self) -> Lowered<Pod> {
        lower::pod(&self.0)
    }
}

impl k8s_openapi::Resource for WatchedPod {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Pod";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = NamespaceResourceScope;
}

impl k8s_openapi::Metadata for WatchedPod {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.0.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

#[derive(Deserialize)]
struct PodObject {
    #[serde(default)]
    metadata: Meta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<Annotations>,
}

/// The one that is looked at.
#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "weft.dev/socket-lb")]
    socket_lb: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    ports: Option<Vec<core::ContainerPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<core::PodIP>>,
}

impl<'de> Deserialize<'de> for WatchedPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PodObject { metadata, spec, status } = PodObject::deserialize(deserializer)?;
        let annotation = metadata.annotations.and_then(|a| a.socket_lb);
        let annotations = annotation.map(|a| [(lower::SOCKET_LB.to_owned(), a)].into());
        let metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            labels: metadata.labels,
            annotations,
            ..ObjectMeta::default()
        };
        let container = |c: Container| core::Container {
            restart_policy: c.restart_policy,
            ports: c.ports,
            ..core::Container::default()
        };
        let spec = spec.map(|s| core::PodSpec {
            node_name: s.node_name,
            host_network: s.host_network,
            containers: s.containers.into_iter().map(container).collect(),
            init_containers: Some(s.init_containers.into_iter().map(container).collect()),
            ..core::PodSpec::default()
        });
        let status = status.map(|s| core::PodStatus {
            phase: s.phase,
            pod_ip: s.pod_ip,
            pod_ips: s.pod_ips,
            ..core::PodStatus::default()
        });
        Ok(Self(core::Pod { metadata, spec, status }))
    }
}

/// A CustomResourceDefinition, as far as it says whether its kind is served.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct WatchedDefinition {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: DefinitionSpec,
    #[serde(default)]
    status: DefinitionStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct DefinitionSpec {
    #[serde(default)]
    versions: Vec<DefinitionVersion>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct DefinitionVersion {
    name: String,
    served: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct DefinitionStatus {
    #[serde(default)]
    conditions: Vec<DefinitionCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct DefinitionCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl WatchedDefinition {
    /// Whether objects of this version can be asked for: the API serves a kind from the moment
    /// that it is `Established`.
    pub(crate) fn serves(&self, version: &str) -> bool {
        let is = |c: &DefinitionCondition| c.kind == "Established" && c.status == "True";
        self.status.conditions.iter().any(is)
            && self.spec.versions.iter().any(|v| v.served && v.name == version)
    }
}

impl k8s_openapi::Resource for WatchedDefinition {
    const API_VERSION: &'static str = "apiextensions.k8s.io/v1";
    const GROUP: &'static str = "apiextensions.k8s.io";
    const KIND: &'static str = "CustomResourceDefinition";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "customresourcedefinitions";
    type Scope = ClusterResourceScope;
}

impl k8s_openapi::Metadata for WatchedDefinition {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_slim_pod_is_lowered_as_a_whole_one() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": "web-0", "uid": "u1", "resourceVersion": "7",
                "labels": {"app": "web"},
                "annotations": {"weft.dev/socket-lb": "disabled", "other": "long"},
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]},
            "spec": {"nodeName": "n1", "hostNetwork": false,
                "containers": [{"name": "a", "image": "i", "env": [{"name": "X", "value": "y"}],
                    "ports": [{"name": "http", "containerPort": 8080},
                              {"name": "bad", "containerPort": 0}]}],
                "initContainers": [
                    {"name": "once", "ports": [{"name": "no", "containerPort": 1}]},
                    {"name": "side", "restartPolicy": "Always",
                     "ports": [{"name": "yes", "containerPort": 2, "protocol": "UDP"}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "192.0.2.1",
                "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "conditions": []}
        });
        let whole: core::Pod = serde_json::from_value(object.clone()).expect("a pod");
        let slim: WatchedPod = serde_json::from_value(object).expect("a pod");
        let lowered = slim.lower();
        assert_eq!(lowered, lower::pod(&whole));
        let pod = lowered.value.expect("a pod");
        assert!(pod.sockets_alone && pod.incarnation == Pod::incarnation_of("u1"));
        assert_eq!((pod.addresses.len(), pod.ports.len()), (2, 2));
        assert_eq!(slim.0.metadata.resource_version.as_deref(), Some("7"));
        // As the API sends one that was just made.
        let bare: WatchedPod =
            serde_json::from_value(json!({"metadata": {"name": "a"}})).expect("a pod");
        assert!(bare.model().expect("a pod").addresses.is_empty());
    }

    #[test]
    fn a_kind_is_served_when_its_definition_is_established() {
        let of = |established: &str, version: &str, served: bool| -> WatchedDefinition {
            serde_json::from_value(json!({
                "metadata": {"name": "x"},
                "spec": {"group": "g", "versions": [{"name": version, "served": served, "schema": {}}]},
                "status": {"conditions": [{"type": "NamesAccepted", "status": "True"},
                                          {"type": "Established", "status": established}]}
            }))
            .expect("a definition")
        };
        assert!(of("True", "v1", true).serves("v1"));
        assert!(!of("False", "v1", true).serves("v1"));
        assert!(!of("True", "v2", true).serves("v1"));
        assert!(!of("True", "v1", false).serves("v1"));
        let new: WatchedDefinition = serde_json::from_value(json!({})).expect("just made");
        assert!(!new.serves("v1"));
    }
}
