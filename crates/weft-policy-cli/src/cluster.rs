//! The cluster that manifests make: their pods and those of their workloads, with addresses and
//! nodes made up where the manifests have none.

use crate::{Documents, Object, Problem, Step, limits::PODS_MAX};
use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use weft_kube::{cluster_policy::ClusterNetworkPolicy, lower};
use weft_model::{
    Direction, Labels, NamedPort, Namespace, NamespacedName, NodeName, NodePeer, Pod,
};
use weft_policy::{PolicyId, PolicyInput, Reason, RuleId};

/// Pods of one template stand for all its replicas: two, since replicas talk to each other.
const REPLICAS: usize = 2;

/// Where an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Index into [`Documents::sources`].
    pub source: usize,
    /// Number of the document.
    pub document: usize,
    /// Place in a list.
    pub item: Option<usize>,
}

/// Pods that are alike: those of one template, or one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Namespace and name of the workload or pod.
    pub id: NamespacedName,
    /// Its kind.
    pub kind: String,
    /// Its pods.
    pub pods: Vec<NamespacedName>,
}

/// A Service, as far as it leads to pods.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Labels of its pods; empty where it has no selector.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<core::ServicePort>,
}

/// A cluster made of manifests.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// What policy sees.
    pub input: PolicyInput,
    /// The workloads, by namespace and name.
    pub groups: Vec<Group>,
    /// What lowering complained about.
    pub complaints: Vec<Problem>,
    pub(crate) services: BTreeMap<NamespacedName, Service>,
    pub(crate) origins: BTreeMap<PolicyId, Origin>,
    documents: Documents,
}

impl Cluster {
    /// Makes the cluster.
    pub fn of(documents: Documents) -> Result<Self, Problem> {
        let mut cluster = Self { documents, ..Self::default() };
        let objects = std::mem::take(&mut cluster.documents.objects);
        let made = cluster.fill(&objects);
        cluster.documents.objects = objects;
        made.map(|()| cluster)
    }

    /// What it was made of.
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    fn fill(&mut self, objects: &[Object]) -> Result<(), Problem> {
        let of_kind = |kinds: &'static [&'static str]| {
            objects.iter().filter(move |o| kinds.contains(&o.kind()))
        };
        for object in of_kind(&["Namespace"]) {
            let mut namespace: core::Namespace = self.typed(object)?;
            let name = namespace.metadata.name.clone().unwrap_or_default();
            // As the API does on every one.
            let labels = namespace.metadata.labels.get_or_insert_default();
            labels.insert(NAME_LABEL.to_owned(), name);
            let namespace = lower::labelled_namespace(&namespace).value;
            self.input.namespaces.extend(namespace.map(|n| (n.name.clone(), Arc::new(n))));
        }
        for name in ALWAYS_THERE {
            self.namespace(&name.into());
        }
        for object in of_kind(&["Node"]) {
            let node: core::Node = self.typed(object)?;
            let node = self.lowered(object, lower::node_peer(&node));
            self.input.nodes.extend(node.map(|n| (n.name.clone(), Arc::new(n))));
        }
        self.make_nodes();
        for object in of_kind(&["Pod"]) {
            self.add_group(object, object.value.clone(), 1)?;
        }
        for object in of_kind(&["Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"])
        {
            self.add_group(object, object.value["spec"]["template"].clone(), REPLICAS)?;
        }
        for object in of_kind(&["DaemonSet"]) {
            let nodes = self.input.nodes.len().min(REPLICAS);
            self.add_group(object, object.value["spec"]["template"].clone(), nodes)?;
        }
        for object in of_kind(&["Job"]) {
            self.add_group(object, object.value["spec"]["template"].clone(), 1)?;
        }
        for object in of_kind(&["CronJob"]) {
            let template = &object.value["spec"]["jobTemplate"]["spec"]["template"];
            self.add_group(object, template.clone(), 1)?;
        }
        self.groups.sort_by(|a, b| (&a.id, &a.kind).cmp(&(&b.id, &b.kind)));
        self.input.dns = [DNS_V4, DNS_V6].into();
        for object in of_kind(&["Service"]) {
            self.add_service(object)?;
        }
        for object in of_kind(&["NetworkPolicy"]).filter(|o| o.group() == "networking.k8s.io") {
            let mut policy: networking::NetworkPolicy = self.typed(object)?;
            policy.metadata.namespace.get_or_insert_with(|| "default".to_owned());
            let Some(policy) = self.lowered(object, lower::network_policy(&policy)) else {
                continue;
            };
            self.namespace(&policy.id.namespace.clone());
            self.origin(PolicyId::Network(policy.id.clone()), object)?;
            self.input.network_policies.insert(policy.id.clone(), Arc::new(policy));
        }
        for object in of_kind(&["ClusterNetworkPolicy"]) {
            if object.group() != "policy.networking.k8s.io" {
                continue;
            }
            let policy: ClusterNetworkPolicy = self.typed(object)?;
            let policy = lower::cluster_network_policy(&policy);
            let Some(policy) = self.lowered(object, policy) else { continue };
            let id = PolicyId::Cluster { tier: policy.tier, name: policy.name.clone() };
            self.origin(id, object)?;
            self.input.cluster_policies.insert(policy.name.clone(), Arc::new(policy));
        }
        Ok(())
    }

    fn typed<T: DeserializeOwned>(&self, object: &Object) -> Result<T, Problem> {
        serde_json::from_value(object.value.clone())
            .map_err(|e| self.documents.problem(object, &[], format!("{}: {e}", object.kind())))
    }

    fn lowered<T>(&mut self, object: &Object, lowered: lower::Lowered<T>) -> Option<T> {
        for complaint in lowered.diagnostics {
            let problem = self.documents.problem(object, &[], complaint);
            self.complaints.push(problem);
        }
        lowered.value
    }

    fn origin(&mut self, id: PolicyId, object: &Object) -> Result<(), Problem> {
        let Object { source, document, item, .. } = *object;
        match self.origins.insert(id.clone(), Origin { source, document, item }) {
            None => Ok(()),
            Some(first) => {
                let first = &self.documents.sources[first.source].name;
                let message = format!("{id} is already in {first}");
                Err(self.documents.problem(object, &[], message))
            }
        }
    }

    /// A namespace that is used exists, as it must before anything can be created in it.
    fn namespace(&mut self, name: &Arc<str>) {
        if !self.input.namespaces.contains_key(name) {
            let labels = Labels::from_iter([(NAME_LABEL, &**name)]);
            let made = Namespace { name: name.clone(), labels, audit: false };
            self.input.namespaces.insert(name.clone(), Arc::new(made));
        }
    }

    fn make_nodes(&mut self) {
        if !self.input.nodes.is_empty() {
            return;
        }
        for n in 1..=REPLICAS as u8 {
            let Ok(name) = format!("node-{n}").parse::<NodeName>() else { continue };
            let labels = Labels::from_iter([("kubernetes.io/hostname", name.as_str())]);
            let addresses = vec![
                Ipv4Addr::new(172, 31, 0, n).into(),
                Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, u16::from(n)).into(),
            ];
            let peer = NodePeer { name: name.clone(), labels, addresses };
            self.input.nodes.insert(name, Arc::new(peer));
        }
    }

    /// Adds the pods of a template (a whole Pod is its own).
    fn add_group(&mut self, object: &Object, template: Value, count: usize) -> Result<(), Problem> {
        let meta = &object.value["metadata"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let name = match &meta["name"] {
            Value::String(name) => name.clone(),
            _ => text(&meta["generateName"]).trim_end_matches('-').to_owned(),
        };
        if name.is_empty() {
            return Err(self.documents.problem(object, &[Step::Key("metadata")], "has no name"));
        }
        let namespace = meta["namespace"].as_str().unwrap_or("default");
        let id = NamespacedName::new(namespace, &name);
        self.namespace(&id.namespace);
        let mut pods = Vec::new();
        for n in 0..count {
            let whole = object.kind() == "Pod";
            let pod_name = if whole { name.clone() } else { format!("{name}-{n}") };
            let mut pod = json!({
                "metadata": {"namespace": namespace, "name": pod_name},
                "spec": template["spec"],
                "status": if whole { template["status"].clone() } else { Value::Null },
            });
            pod["metadata"]["labels"] = template["metadata"]["labels"].clone();
            if object.kind() == "StatefulSet" {
                // As its controller does on every pod.
                pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] = json!(pod_name);
                pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] = json!(n.to_string());
            }
            let pod: core::Pod = serde_json::from_value(pod)
                .map_err(|e| self.documents.problem(object, &[], format!("{id}: {e}")))?;
            let Some(mut pod) = self.lowered(object, lower::pod(&pod)) else { continue };
            self.place(&mut pod, n);
            if pods.len() + self.input.pods.len() >= PODS_MAX {
                return Err(self.documents.problem(
                    object,
                    &[],
                    format!("more than {PODS_MAX} pods"),
                ));
            }
            pods.push(pod.id.clone());
            if let Some(first) = self.input.pods.insert(pod.id.clone(), Arc::new(pod)) {
                let message = format!("there are two pods {}", first.id);
                return Err(self.documents.problem(object, &[], message));
            }
        }
        self.groups.push(Group { id, kind: object.kind().to_owned(), pods });
        Ok(())
    }

    /// Gives a pod the node and the addresses that it does not have.
    fn place(&mut self, pod: &mut Pod, replica: usize) {
        let count = self.input.nodes.len().max(1);
        let node = self.input.nodes.values().nth(replica % count);
        if pod.node.is_none() {
            pod.node = node.map(|n| n.name.clone());
        }
        if pod.host_network {
            let node = pod.node.as_ref().and_then(|n| self.input.nodes.get(n));
            pod.addresses = node.map(|n| n.addresses.clone()).unwrap_or_default();
        } else if pod.addresses.is_empty() {
            let [high, low] = (self.input.pods.len() as u16 + 2).to_be_bytes();
            let last = u16::from_be_bytes([high, low]);
            pod.addresses = vec![
                Ipv4Addr::new(10, 244, high, low).into(),
                Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, last).into(),
            ];
        }
    }

    fn add_service(&mut self, object: &Object) -> Result<(), Problem> {
        let service: core::Service = self.typed(object)?;
        let spec = service.spec.unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let id = NamespacedName::new(namespace, name);
        if (namespace, name) == ("kube-system", "kube-dns") {
            let given = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
            let given: Vec<IpAddr> = given.filter_map(|a| a.parse().ok()).collect();
            self.input.dns.extend(given);
        }
        let selector = spec.selector.unwrap_or_default().into_iter().collect();
        self.services.insert(id, Service { selector, ports: spec.ports.unwrap_or_default() });
        Ok(())
    }

    /// Where a policy, or one of its rules, stands: file and line.
    pub fn place_of(
        &self,
        policy: &PolicyId,
        rule: Option<(Direction, usize)>,
    ) -> Option<(Arc<str>, usize)> {
        let origin = self.origins.get(policy)?;
        let path = match rule {
            Some((direction, index)) => {
                let list = match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                vec![Step::Key("spec"), Step::Key(list), Step::Item(index)]
            }
            None => vec![Step::Key("metadata"), Step::Key("name")],
        };
        let Origin { source, document, item } = *origin;
        let line = self.documents.line_at(source, document, item, &path)?;
        Some((self.documents.sources[source].name.clone(), line))
    }

    /// Where what decided stands.
    pub fn place_of_reason(&self, reason: &Reason) -> Option<(Arc<str>, usize)> {
        match reason {
            Reason::Rule(RuleId { policy, direction, index }) => {
                self.place_of(policy, Some((*direction, *index)))
            }
            Reason::Isolated(policies) => {
                self.place_of(&PolicyId::Network(policies.first()?.clone()), None)
            }
            _ => None,
        }
    }

    /// What a pod calls a port.
    pub(crate) fn named_port<'p>(pod: &'p Pod, name: &str) -> Option<&'p NamedPort> {
        pod.ports.iter().find(|p| *p.name == *name)
    }
}

/// The namespaces that every cluster has.
const ALWAYS_THERE: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
/// The label that the API puts on every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Where DNS is asked in a cluster whose manifests do not say.
const DNS_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
const DNS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10));
