//! The cluster that manifests make: their pods and those of their workloads, with addresses and
//! nodes made up where the manifests have none.

use crate::{
    Documents, Object, Problem, Step,
    addresses::{Inventor, Named},
    fields,
    limits::PODS_MAX,
    line::steps,
    live::workload_of,
    origin::{Origin, judged},
};
use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use weft_kube::{cluster_policy::ClusterNetworkPolicy, lower};
use weft_model::{Labels, NamedPort, Namespace, NamespacedName, NodeName, NodePeer, Pod};
use weft_policy::{PolicyId, PolicyInput};

/// Pods of one template stand for all its replicas: two, since replicas talk to each other.
const REPLICAS: usize = 2;

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
    /// What is not judged as it is written: what the API would refuse, drop or not understand. An
    /// answer about this cluster is not to be relied on while there is any.
    pub complaints: Vec<Problem>,
    /// Somebody outside, an address of each family.
    pub(crate) outside: Vec<IpAddr>,
    pub(crate) services: BTreeMap<NamespacedName, Service>,
    pub(crate) origins: BTreeMap<PolicyId, Origin>,
    pub(crate) documents: Documents,
}

impl Cluster {
    /// Makes the cluster.
    pub fn of(documents: Documents) -> Result<Self, Problem> {
        let named = Named::of([&documents]);
        Self::among(documents, named)
    }

    /// Makes two that are compared: what is invented for one is named in neither.
    pub fn pair(before: Documents, after: Documents) -> Result<(Self, Self), Problem> {
        let named = Named::of([&before, &after]);
        Ok((Self::among(before, named.clone())?, Self::among(after, named)?))
    }

    fn among(documents: Documents, named: Named) -> Result<Self, Problem> {
        let mut cluster = Self { documents, ..Self::default() };
        let mut inventor = Inventor::new(named);
        cluster.outside = inventor.outside();
        let objects = std::mem::take(&mut cluster.documents.objects);
        let made = cluster.fill(&objects, &mut inventor);
        cluster.documents.objects = objects;
        made.map(|()| cluster)
    }

    /// The same with somebody outside who is known: an address of each family.
    pub fn with_outside(mut self, addresses: Vec<IpAddr>) -> Self {
        if !addresses.is_empty() {
            self.outside = addresses;
        }
        self
    }

    /// What it was made of.
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// The complaints as texts, each once.
    pub fn problems(&self) -> Vec<String> {
        let mut texts: Vec<String> = self.complaints.iter().map(Problem::to_string).collect();
        let mut seen = HashSet::new();
        texts.retain(|t| seen.insert(t.clone()));
        texts
    }

    fn fill(&mut self, objects: &[Object], inventor: &mut Inventor) -> Result<(), Problem> {
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
        self.make_nodes(inventor);
        for object in of_kind(&["Pod"]) {
            self.add_group(object, object.value.clone(), 1, inventor)?;
        }
        for object in of_kind(&["Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"])
        {
            self.add_group(object, object.value["spec"]["template"].clone(), REPLICAS, inventor)?;
        }
        for object in of_kind(&["DaemonSet"]) {
            let nodes = self.input.nodes.len().min(REPLICAS);
            self.add_group(object, object.value["spec"]["template"].clone(), nodes, inventor)?;
        }
        for object in of_kind(&["Job"]) {
            self.add_group(object, object.value["spec"]["template"].clone(), 1, inventor)?;
        }
        for object in of_kind(&["CronJob"]) {
            let template = &object.value["spec"]["jobTemplate"]["spec"]["template"];
            self.add_group(object, template.clone(), 1, inventor)?;
        }
        self.groups.sort_by(|a, b| (&a.id, &a.kind).cmp(&(&b.id, &b.kind)));
        self.groups.dedup_by(|next, group| {
            let same = (&next.id, &next.kind) == (&group.id, &group.kind);
            if same {
                group.pods.append(&mut next.pods);
            }
            same
        });
        for object in of_kind(&["Service"]) {
            self.add_service(object)?;
        }
        for otherwise in [DNS_V4, DNS_V6] {
            // Where the manifests do not say.
            if !self.input.dns.iter().any(|a| a.is_ipv4() == otherwise.is_ipv4()) {
                self.input.dns.insert(otherwise);
            }
        }
        for object in objects {
            self.not_judged(object);
        }
        for object in of_kind(&["NetworkPolicy"]).filter(|o| judged(o)) {
            self.check(object, &fields::NETWORK_POLICY);
            let mut policy: networking::NetworkPolicy = self.typed(object)?;
            policy.metadata.namespace.get_or_insert_with(|| "default".to_owned());
            let Some(policy) = self.lowered(object, lower::network_policy(&policy)) else {
                continue;
            };
            self.namespace(&policy.id.namespace.clone());
            self.origin(PolicyId::Network(policy.id.clone()), object)?;
            self.input.network_policies.insert(policy.id.clone(), Arc::new(policy));
        }
        for object in of_kind(&["ClusterNetworkPolicy"]).filter(|o| judged(o)) {
            self.check(object, &fields::CLUSTER_NETWORK_POLICY);
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
            let path = steps(&complaint.field);
            let problem = self.documents.problem(object, &path, &complaint);
            self.complaints.push(problem);
        }
        lowered.value
    }

    /// A namespace that is used exists, as it must before anything can be created in it.
    fn namespace(&mut self, name: &Arc<str>) {
        if !self.input.namespaces.contains_key(name) {
            let labels = Labels::from_iter([(NAME_LABEL, &**name)]);
            let made = Namespace { name: name.clone(), labels, audit: false };
            self.input.namespaces.insert(name.clone(), Arc::new(made));
        }
    }

    fn make_nodes(&mut self, inventor: &mut Inventor) {
        if !self.input.nodes.is_empty() {
            return;
        }
        for n in 1..=REPLICAS {
            let Ok(name) = format!("node-{n}").parse::<NodeName>() else { continue };
            let labels = Labels::from_iter([("kubernetes.io/hostname", name.as_str())]);
            let peer = NodePeer { name: name.clone(), labels, addresses: inventor.node() };
            self.input.nodes.insert(name, Arc::new(peer));
        }
    }

    /// Adds the pods of a template (a whole Pod is its own).
    fn add_group(
        &mut self,
        object: &Object,
        template: Value,
        count: usize,
        inventor: &mut Inventor,
    ) -> Result<(), Problem> {
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
            self.place(&mut pod, n, inventor);
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
        // Pods that a cluster made belong together as their template's pods do.
        let (kind, name) = match workload_of(&object.value) {
            Some(workload) if object.kind() == "Pod" => workload,
            _ => (object.kind().to_owned(), name),
        };
        self.groups.push(Group { id: NamespacedName::new(namespace, &name), kind, pods });
        Ok(())
    }

    /// Gives a pod the node and the addresses that it does not have.
    fn place(&self, pod: &mut Pod, replica: usize, inventor: &mut Inventor) {
        let count = self.input.nodes.len().max(1);
        let node = self.input.nodes.values().nth(replica % count);
        if pod.node.is_none() {
            pod.node = node.map(|n| n.name.clone());
        }
        if pod.host_network {
            let node = pod.node.as_ref().and_then(|n| self.input.nodes.get(n));
            pod.addresses = node.map(|n| n.addresses.clone()).unwrap_or_default();
        } else if pod.addresses.is_empty() {
            pod.addresses = inventor.pod();
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
