//! Who an address belongs to, and which policies select a pod.

use crate::{Diagnostic, PolicyInput};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};
use weft_model::{
    ClusterNetworkPolicy, Direction, DomainPattern, IpBlock, Labels, NamedPort, NamespaceSet,
    NetworkPolicy, NodePeer, Peer, Pod, PodSet, Port, Protocol, Tier,
};

/// Namespace and label by which people's egress rules name the cluster's DNS.
pub(crate) const DNS_NAMESPACE: &str = "kube-system";
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
/// What CoreDNS's own manifests call its ports.
const DNS_PORTS: [(&str, Protocol); 2] = [("dns", Protocol::Udp), ("dns-tcp", Protocol::Tcp)];
const DNS_PORT: i32 = 53;

/// Who an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A pod of the pod network that is not over.
    Pod(&'a Pod),
    /// The cluster's DNS, whoever answers.
    Dns,
    /// A node; pods of the host network are not told apart from it (the second of the two
    /// behaviours that the NetworkPolicy documentation permits for them).
    Node(&'a NodePeer),
    /// Nobody that is known: it matches no selector.
    Nobody,
}

/// A [`PolicyInput`] with what is needed to look things up in it.
#[derive(Debug)]
pub struct World<'a> {
    input: &'a PolicyInput,
    owners: HashMap<IpAddr, Owner<'a>>,
    dns_labels: Labels,
    dns_ports: Vec<NamedPort>,
    by_namespace: BTreeMap<&'a str, Vec<&'a NetworkPolicy>>,
    admin: Vec<&'a ClusterNetworkPolicy>,
    baseline: Vec<&'a ClusterNetworkPolicy>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> World<'a> {
    /// Looks around.
    pub fn new(input: &'a PolicyInput) -> Self {
        let mut owners = HashMap::with_capacity(input.pods.len() * 2);
        let mut diagnostics = Vec::new();
        for pod in input.pods.values().filter(|p| has_own_network(p)) {
            for address in &pod.addresses {
                match owners.entry(*address) {
                    std::collections::hash_map::Entry::Vacant(free) => {
                        free.insert(Owner::Pod(pod));
                    }
                    std::collections::hash_map::Entry::Occupied(taken) => {
                        if let Owner::Pod(owner) = taken.get() {
                            diagnostics.push(Diagnostic::SharedAddress {
                                address: *address,
                                owner: owner.id.clone(),
                                loser: pod.id.clone(),
                            });
                        }
                    }
                }
            }
        }
        for node in input.nodes.values() {
            for address in &node.addresses {
                owners.entry(*address).or_insert(Owner::Node(node));
            }
        }
        // A node may answer DNS at an address that is its own: it is the DNS then.
        owners.extend(input.dns.iter().map(|a| (*a, Owner::Dns)));
        let mut by_namespace: BTreeMap<&str, Vec<&NetworkPolicy>> = BTreeMap::new();
        for policy in input.network_policies.values() {
            by_namespace.entry(&policy.id.namespace).or_default().push(policy);
        }
        let tier = |tier| {
            let all = input.cluster_policies.values().map(Arc::as_ref);
            let mut of_tier: Vec<&ClusterNetworkPolicy> = all.filter(|p| p.tier == tier).collect();
            // Equal priorities are left to us by the API: the order of names, so that the
            // answer is the same everywhere.
            of_tier.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
            of_tier
        };
        let (admin, baseline) = (tier(Tier::Admin), tier(Tier::Baseline));
        let (dns_labels, dns_ports) = (dns_labels(), dns_ports());
        Self { input, owners, dns_labels, dns_ports, by_namespace, admin, baseline, diagnostics }
    }

    /// What it was made of.
    pub fn input(&self) -> &'a PolicyInput {
        self.input
    }

    /// What is wrong with the input.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Who `address` belongs to.
    pub fn owner(&self, address: IpAddr) -> Owner<'a> {
        self.owners.get(&address).copied().unwrap_or(Owner::Nobody)
    }

    /// Every address with a known owner.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (IpAddr, Owner<'a>)> {
        self.owners.iter().map(|(a, o)| (*a, *o))
    }

    /// The NetworkPolicies that select `pod` and say something about `direction`, by name.
    pub fn network_policies(
        &self,
        pod: &Pod,
        direction: Direction,
    ) -> impl Iterator<Item = &'a NetworkPolicy> {
        let of_namespace = self.by_namespace.get(&*pod.id.namespace).into_iter().flatten();
        let of_namespace = of_namespace.filter(move |p| p.rules(direction).is_some());
        of_namespace
            .copied()
            .filter(|p| p.pods.matches(&pod.labels))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Whether a NetworkPolicy is in audit mode, by itself or with its namespace.
    pub fn in_audit_mode(&self, policy: &NetworkPolicy) -> bool {
        let namespace = self.input.namespaces.get(&policy.id.namespace);
        policy.audit || namespace.is_some_and(|n| n.audit)
    }

    /// The ClusterNetworkPolicies of a tier that apply to `pod` and have rules for `direction`,
    /// the strongest first.
    pub fn cluster_policies(
        &self,
        tier: Tier,
        pod: &Pod,
        direction: Direction,
    ) -> impl Iterator<Item = &'a ClusterNetworkPolicy> {
        let all = match tier {
            Tier::Admin => &self.admin,
            Tier::Baseline => &self.baseline,
        };
        let with_rules = all.iter().filter(move |p| !p.rules(direction).is_empty());
        let applying = with_rules.filter(|p| self.contains(&p.subject, pod)).copied();
        applying.collect::<Vec<_>>().into_iter()
    }

    /// Whether `pod`, which has a network of its own, is one of `set`.
    pub fn contains(&self, set: &PodSet, pod: &Pod) -> bool {
        self.selects(set, &pod.id.namespace, &pod.labels)
    }

    fn selects(&self, set: &PodSet, namespace: &str, labels: &Labels) -> bool {
        self.selects_namespace(&set.namespaces, namespace) && set.pods.matches(labels)
    }

    /// Whether a namespace of this name is one of `set`.
    pub fn selects_namespace(&self, set: &NamespaceSet, namespace: &str) -> bool {
        match set {
            NamespaceSet::Name(name) => **name == *namespace,
            NamespaceSet::Selected(selector) => {
                let known = self.input.namespaces.get(namespace);
                known.is_some_and(|n| selector.matches(&n.labels))
            }
        }
    }

    /// Whether `peer`, of a rule of `direction`, means `address` and its `owner`.
    pub fn means(
        &self,
        peer: &Peer,
        direction: Direction,
        address: IpAddr,
        owner: Owner<'_>,
    ) -> bool {
        match peer {
            Peer::Pods(set) => self.means_pods(set, direction, owner),
            Peer::Block(block) => in_block(block, address),
            Peer::Nodes(selector) => {
                matches!(owner, Owner::Node(node) if selector.matches(&node.labels))
            }
            Peer::Domain(pattern) => self.resolved(pattern).any(|a| a == address),
        }
    }

    /// Whether pods by selector are `owner`.
    pub(crate) fn means_pods(&self, set: &PodSet, direction: Direction, owner: Owner<'_>) -> bool {
        match owner {
            Owner::Pod(pod) => self.contains(set, pod),
            // As a source it is the node, whose own traffic is judged by its mark.
            Owner::Dns => {
                direction == Direction::Egress && self.selects(set, DNS_NAMESPACE, &self.dns_labels)
            }
            Owner::Node(_) | Owner::Nobody => false,
        }
    }

    /// The ports that their owner has names for.
    pub fn named_ports<'s>(&'s self, owner: Owner<'s>) -> &'s [NamedPort] {
        match owner {
            Owner::Pod(pod) => &pod.ports,
            Owner::Dns => &self.dns_ports,
            Owner::Node(_) | Owner::Nobody => &[],
        }
    }

    /// The addresses that names of this pattern resolved to.
    pub(crate) fn resolved<'s>(
        &'s self,
        pattern: &'s DomainPattern,
    ) -> impl Iterator<Item = IpAddr> + 's {
        let names = self.input.names.iter().filter(|(name, _)| pattern.matches(name));
        names.flat_map(|(_, addresses)| addresses.iter().copied())
    }
}

/// The labels of the cluster's DNS.
pub(crate) fn dns_labels() -> Labels {
    Labels::from_iter([DNS_LABEL])
}

/// The named ports of the cluster's DNS.
pub(crate) fn dns_ports() -> Vec<NamedPort> {
    let port = Port::try_from(DNS_PORT).into_iter();
    let ports = port.flat_map(|port| {
        DNS_PORTS.map(|(name, protocol)| NamedPort { name: name.into(), protocol, port })
    });
    ports.collect()
}

/// Whether policy can see `pod` by its address: it has a network of its own, and that is not
/// another one's by now.
pub(crate) fn has_own_network(pod: &Pod) -> bool {
    !pod.host_network && !pod.phase.is_over()
}

/// Whether `address` is in `block` and in none of its holes.
pub(crate) fn in_block(block: &IpBlock, address: IpAddr) -> bool {
    block.cidr.contains(&address) && !block.except.iter().any(|e| e.contains(&address))
}
