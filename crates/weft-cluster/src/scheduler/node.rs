//! Nodes and what runs on them, as one batch of placements sees them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::kinds::World;
use crate::pods;
use crate::quantity::milli;
use crate::store::{Id, Object};

/// Resource name to thousandths.
pub(super) type Amounts = BTreeMap<String, i64>;

/// Address (empty: all), protocol and number of a port on the host.
pub(super) type HostPort = (String, String, i32);

pub(super) struct Nodes {
    pub(super) all: Vec<OnNode>,
    /// Bound pods with required anti-affinity: they keep others away.
    pub(super) repellers: Vec<(Arc<Pod>, usize)>,
}

/// One node with its load.
pub(super) struct OnNode {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
    pub(super) allocatable: Amounts,
    pub(super) used: Amounts,
    pub(super) ports: HashSet<HostPort>,
    pub(super) owners: HashMap<String, usize>,
    pub(super) pods: Vec<Arc<Pod>>,
}

impl Nodes {
    pub(super) fn new(world: &World, assumed: &HashMap<Id, String>) -> Self {
        let all: Vec<OnNode> = world.nodes.iter().map(|node| OnNode::new(node)).collect();
        let index: HashMap<String, usize> =
            all.iter().enumerate().map(|(at, node)| (node.name.clone(), at)).collect();
        let mut nodes = Self { all, repellers: Vec::new() };
        for pod in world.pods.iter().filter(|pod| !pods::finished(pod)) {
            let bound = match pods::node(pod) {
                Some(name) => Some(name),
                None if assumed.is_empty() => None,
                None => assumed.get(&pod.id()).map(String::as_str),
            };
            if let Some(at) = bound.and_then(|name| index.get(name)) {
                nodes.add(*at, pod);
            }
        }
        nodes
    }

    /// Counts a pod that was just placed.
    pub(super) fn place(&mut self, pod: &Arc<Pod>, node: &str) {
        if let Some(at) = self.all.iter().position(|one| one.name == node) {
            self.add(at, pod);
        }
    }

    fn add(&mut self, at: usize, pod: &Arc<Pod>) {
        let node = &mut self.all[at];
        for (name, amount) in requests(pod) {
            let used = node.used.entry(name).or_default();
            *used = used.saturating_add(amount);
        }
        node.ports.extend(host_ports(pod));
        if let Some(owner) = pod.controller() {
            *node.owners.entry(owner.uid.clone()).or_default() += 1;
        }
        node.pods.push(pod.clone());
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        let repels = affinity
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_ref());
        if repels.is_some_and(|terms| !terms.is_empty()) {
            self.repellers.push((pod.clone(), at));
        }
    }
}

impl OnNode {
    pub(super) fn new(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let mut taints = spec.taints.unwrap_or_default();
        // A node that is not ready is as good as tainted, also before the taint is there.
        if !is_ready(node) && !taints.iter().any(|taint| taint.key == crate::nodelife::NOT_READY) {
            taints.push(Taint {
                key: crate::nodelife::NOT_READY.into(),
                effect: "NoSchedule".into(),
                ..Taint::default()
            });
        }
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        Self {
            name: node.name().to_owned(),
            labels: node.labels().clone(),
            taints,
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: amounts(allocatable),
            used: Amounts::new(),
            ports: HashSet::new(),
            owners: HashMap::new(),
            pods: Vec::new(),
        }
    }
}

pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let of = |(name, quantity): (&String, &Quantity)| Some((name.clone(), milli(quantity)?));
    quantities.into_iter().flatten().filter_map(of).collect()
}

/// What a pod asks for: its containers together, or the largest init container with the
/// sidecars started before it, whichever is more (KEP-753), and the pod itself.
pub(super) fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of_container(container));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut now = sidecars.clone();
        add(&mut now, &of_container(container));
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = now.clone();
        }
        at_least(&mut peak, &now);
    }
    add(&mut total, &sidecars);
    at_least(&mut total, &peak);
    add(&mut total, &amounts(spec.overhead.as_ref()));
    add(&mut total, &Amounts::from([("pods".to_owned(), 1000)]));
    total
}

fn of_container(container: &Container) -> Amounts {
    let Some(resources) = &container.resources else { return Amounts::new() };
    let mut wanted = amounts(resources.limits.as_ref());
    wanted.extend(amounts(resources.requests.as_ref()));
    wanted
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let held = total.entry(name.clone()).or_default();
        *held = held.saturating_add(*amount);
    }
}

fn at_least(total: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let held = total.entry(name.clone()).or_default();
        *held = (*held).max(*amount);
    }
}

/// Ports of the host that a pod takes. A hostNetwork pod takes those it declares.
pub(super) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let all = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let of = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let number = match port.host_port {
            Some(number) if number > 0 => number,
            _ if spec.host_network == Some(true) => port.container_port,
            _ => return None,
        };
        let address = match port.host_ip.as_deref() {
            None | Some("0.0.0.0" | "::") => String::new(),
            Some(address) => address.to_owned(),
        };
        Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
    };
    all.filter_map(of).collect()
}
