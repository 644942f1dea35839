//! From a snapshot and the node's own attachments to what policy is planned from. What did not
//! change is shared with the input before, so that the planner finds the difference.

use super::local::{Links, LocalLink, Owner};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use weft_fabric::router_address;
use weft_model::{Labels, Map, NamespacedName, Node, NodeName, NodePeer, Pod, PodPhase, Snapshot};
use weft_policy::PolicyInput;

/// The cluster's DNS.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Makes inputs, one from the other.
#[derive(Debug)]
pub(super) struct InputMaker {
    node: NodeName,
    /// Whether the node itself answers as the cluster's DNS.
    node_dns: bool,
    /// What the input was made of.
    nodes: Map<NodeName, Arc<Node>>,
    peers: Map<NodeName, Arc<NodePeer>>,
    pods: Map<NamespacedName, Arc<Pod>>,
    links: Links,
    /// The attachments by pod.
    local: BTreeMap<NamespacedName, Vec<Arc<LocalLink>>>,
    /// The latest that is known of attached pods, also of those that the API has no more:
    /// deleted by force, their processes may run on.
    known: BTreeMap<NamespacedName, Arc<Pod>>,
    /// Attached pods that were deleted by force and whose name another node's pod has now.
    ended: BTreeSet<NamespacedName>,
    input: PolicyInput,
}

impl InputMaker {
    /// Nothing seen yet.
    pub(super) fn new(node: NodeName, node_dns: bool) -> Self {
        let (nodes, peers, pods, links) = Default::default();
        let (local, known, ended, input) = Default::default();
        Self { node, node_dns, nodes, peers, pods, links, local, known, ended, input }
    }

    /// The input, and whether it is another than the one before. `routers`: the node's own.
    pub(super) fn make(
        &mut self,
        snapshot: &Snapshot,
        links: &Links,
        routers: &[IpAddr],
    ) -> (&PolicyInput, bool) {
        let before = self.input.clone();
        self.input.generation = snapshot.generation;
        self.input.namespaces = snapshot.namespaces.clone();
        self.input.network_policies = snapshot.network_policies.clone();
        self.input.cluster_policies = snapshot.cluster_policies.clone();
        self.make_nodes(snapshot);
        self.make_pods(snapshot, links);
        let dns = self.dns(snapshot, routers);
        if dns != self.input.dns {
            self.input.dns = dns;
        }
        let same = before.namespaces.same(&self.input.namespaces)
            && before.network_policies.same(&self.input.network_policies)
            && before.cluster_policies.same(&self.input.cluster_policies)
            && before.nodes.same(&self.input.nodes)
            && before.pods.same(&self.input.pods)
            && before.dns == self.input.dns;
        (&self.input, !same)
    }

    /// Whether a pod of this node is known well enough to be judged: its namespace is there, and
    /// it has labels, or never was in the API.
    pub(super) fn is_known(&self, id: &NamespacedName, incarnation: u64) -> bool {
        self.input.namespaces.contains_key(&id.namespace)
            && (incarnation == 0 || self.known.contains_key(id))
    }

    /// A node is known by its router addresses, too: they stand for it towards pods elsewhere,
    /// and for clients outside that it brings to them.
    fn make_nodes(&mut self, snapshot: &Snapshot) {
        let nodes = self.nodes.diff(&snapshot.nodes).map(|d| d.key);
        let peers = self.peers.diff(&snapshot.node_peers).map(|d| d.key);
        let changed: BTreeSet<NodeName> = nodes.chain(peers).cloned().collect();
        for name in changed {
            let Some(peer) = snapshot.node_peers.get(&name) else {
                self.input.nodes.remove(&name);
                continue;
            };
            let node = snapshot.nodes.get(&name);
            let cidrs = node.into_iter().flat_map(|n| &n.pod_cidrs);
            let routers: Vec<IpAddr> = cidrs.filter_map(|c| router_address(*c)).collect();
            let mut peer = NodePeer::clone(peer);
            peer.addresses.extend(routers);
            put(&mut self.input.nodes, name, peer);
        }
        self.nodes = snapshot.nodes.clone();
        self.peers = snapshot.node_peers.clone();
    }

    fn make_pods(&mut self, snapshot: &Snapshot, links: &Links) {
        let mut changed: BTreeSet<NamespacedName> =
            self.pods.diff(&snapshot.pods).map(|d| d.key.clone()).collect();
        if !self.links.same(links) {
            let before = std::mem::take(&mut self.local);
            for link in links.values() {
                if let Owner::Pod { id, .. } = &link.owner {
                    self.local.entry(id.clone()).or_default().push(link.clone());
                }
            }
            let other = |id: &&NamespacedName| before.get(*id) != self.local.get(*id);
            changed.extend(before.keys().chain(self.local.keys()).filter(other).cloned());
            self.known.retain(|id, _| self.local.contains_key(id));
            self.ended.retain(|id| self.local.contains_key(id));
            self.links = links.clone();
        }
        for id in changed {
            match self.pod(&id, snapshot.pods.get(&id)) {
                Some(Made::Shared(pod)) => drop(self.input.pods.insert(id, pod)),
                Some(Made::New(pod)) => put(&mut self.input.pods, id, pod),
                None => drop(self.input.pods.remove(&id)),
            }
        }
        self.pods = snapshot.pods.clone();
    }

    /// A pod as it is judged, and as others see it.
    fn pod(&mut self, id: &NamespacedName, seen: Option<&Arc<Pod>>) -> Option<Made> {
        let Some(links) = self.local.get(id) else {
            let pod = seen?;
            // One of this node that has no link (any more): its address is free, or another
            // pod's already.
            let stale = pod.node.as_ref() == Some(&self.node)
                && !pod.host_network
                && !pod.addresses.is_empty();
            return Some(if stale {
                Made::New(Pod { addresses: Vec::new(), ..Pod::clone(pod) })
            } else {
                Made::Shared(pod.clone())
            });
        };
        let is_it = |pod: &&Arc<Pod>| {
            links.iter().any(|l| match &l.owner {
                Owner::Pod { incarnation, .. } => {
                    *incarnation == 0 || *incarnation == pod.incarnation
                }
                Owner::Nobody | Owner::Forgotten => false,
            })
        };
        let seed = || links.iter().find_map(|l| l.seed.as_ref());
        // A pod of this name runs elsewhere. Where the one here was seen before, it was deleted by
        // force and waits for its DEL: the name, and what others know of it, is that of the new
        // one. Else the picture may be of before the one here was made.
        let ended = || {
            self.ended.contains(id)
                || self.pods.get(id).filter(is_it).is_some()
                || (self.known.get(id).filter(is_it).is_none() && seed().is_none())
        };
        let elsewhere = |p: &&Arc<Pod>| p.node.as_ref().is_some_and(|n| *n != self.node);
        if let Some(new) = seen.filter(|p| !is_it(p)).filter(elsewhere)
            && ended()
        {
            self.known.remove(id);
            self.ended.insert(id.clone());
            return Some(Made::Shared(new.clone()));
        }
        self.ended.remove(id);
        let latest = seen.filter(is_it).or(self.known.get(id).filter(is_it)).or_else(seed);
        let latest = latest.cloned();
        let mut pod = match &latest {
            Some(pod) => Pod::clone(pod),
            None => unlabelled(id.clone()),
        };
        pod.addresses = links.iter().flat_map(|l| l.ips.iter().copied()).collect();
        pod.node = Some(self.node.clone());
        // It has a link: so it has a network of its own, and addresses that are in use.
        (pod.host_network, pod.phase) = (false, PodPhase::Running);
        match latest {
            Some(latest) => drop(self.known.insert(id.clone(), latest)),
            None => drop(self.known.remove(id)),
        }
        Some(Made::New(pod))
    }

    fn dns(&self, snapshot: &Snapshot, routers: &[IpAddr]) -> BTreeSet<IpAddr> {
        let (namespace, name) = DNS_SERVICE;
        let service = snapshot.services.get(&NamespacedName::new(namespace, name));
        let mut dns: BTreeSet<IpAddr> =
            service.into_iter().flat_map(|s| s.cluster_ips.iter().copied()).collect();
        if self.node_dns {
            dns.extend(routers);
        }
        dns
    }
}

/// A pod of the input.
enum Made {
    /// As the snapshot has it.
    Shared(Arc<Pod>),
    /// Changed.
    New(Pod),
}

/// A pod of which nothing but its name is known.
fn unlabelled(id: NamespacedName) -> Pod {
    Pod {
        id,
        labels: Labels::default(),
        node: None,
        addresses: Vec::new(),
        host_network: false,
        phase: PodPhase::Running,
        ports: Vec::new(),
        incarnation: 0,
        sockets_alone: false,
    }
}

/// Stores a value unless an equal one is there, so that the map stays the same one.
fn put<K: Ord + Clone, V: PartialEq>(map: &mut Map<K, Arc<V>>, key: K, value: V) {
    if map.get(&key).is_none_or(|old| **old != value) {
        map.insert(key, Arc::new(value));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::pod, *};
    use crate::policy::local::tests::link;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn maker() -> InputMaker {
        InputMaker::new("n1".parse().expect("name"), true)
    }

    fn snapshot(pods: Vec<Pod>) -> Snapshot {
        let pods = pods.into_iter().map(|p| (p.id.clone(), Arc::new(p))).collect();
        Snapshot { generation: 3, pods, ..Snapshot::default() }
    }

    fn links(all: Vec<LocalLink>) -> Links {
        all.into_iter().map(|l| (l.name.clone(), Arc::new(l))).collect()
    }

    fn id(name: &str) -> NamespacedName {
        NamespacedName::new("ns", name)
    }

    #[test]
    fn the_node_s_pods_have_the_addresses_of_their_links() {
        let mut maker = maker();
        let far = pod("far", &[], "n2", "10.0.2.1");
        let old = pod("old", &[], "n1", "10.0.1.5");
        let host = Pod { host_network: true, ..pod("host", &[], "n1", "192.0.2.1") };
        let new = Pod { addresses: Vec::new(), ..pod("new", &[("app", "new")], "n1", "10.0.1.1") };
        let new = Pod { incarnation: 7, ..new };
        let s = snapshot(vec![far.clone(), old, host.clone(), new]);
        // The address was `old`'s, which the API has not heard of yet.
        let all = links(vec![link("wv1", 3, "10.0.1.5", "new")]);
        let (input, changed) = maker.make(&s, &all, &[]);
        assert!(changed);
        let of = |name| input.pods[&id(name)].addresses.clone();
        assert_eq!(of("far"), far.addresses);
        assert_eq!(of("host"), host.addresses);
        assert!(of("old").is_empty());
        assert_eq!(of("new"), [ip("10.0.1.5")]);
        // What belongs to others is shared.
        assert!(Arc::ptr_eq(&input.pods[&id("far")], &s.pods[&id("far")]));
        let (_, changed) = maker.make(&Snapshot { generation: 4, ..s.clone() }, &all, &[]);
        assert!(!changed);
        // Detached: as if it was not there yet.
        let (input, changed) = maker.make(&s, &Links::new(), &[]);
        assert!(changed && input.pods[&id("new")].addresses.is_empty());
    }

    #[test]
    fn an_attached_pod_keeps_what_was_known_of_it() {
        let mut maker = maker();
        let all = links(vec![link("wv1", 3, "10.0.1.5", "a")]);
        let label = |input: &PolicyInput| input.pods[&id("a")].labels.get("app").map(str::to_owned);
        // One of that name before it, and what ADD saw.
        let earlier = Pod { incarnation: 1, ..pod("a", &[("app", "earlier")], "n2", "10.0.2.2") };
        let mut seeded = link("wv1", 3, "10.0.1.5", "a");
        seeded.seed = Some(Arc::new(pod("a", &[("app", "seed")], "n1", "10.0.1.5")));
        let (input, _) = maker.make(&snapshot(vec![earlier]), &links(vec![seeded]), &[]);
        assert_eq!(label(input).as_deref(), Some("seed"));
        let live = Pod { incarnation: 7, ..pod("a", &[("app", "live")], "n1", "10.0.1.5") };
        let (input, _) = maker.make(&snapshot(vec![live]), &all, &[]);
        assert_eq!(label(input).as_deref(), Some("live"));
        // Deleted by force, and another one made of its name.
        let (input, _) = maker.make(&snapshot(vec![]), &all, &[]);
        assert_eq!(label(input).as_deref(), Some("live"));
        let here = Pod { incarnation: 8, ..pod("a", &[("app", "next")], "n1", "10.0.1.5") };
        let live = Pod { incarnation: 7, ..pod("a", &[("app", "live")], "n1", "10.0.1.5") };
        let (input, _) = maker.make(&snapshot(vec![here]), &all, &[]);
        assert_eq!(label(input).as_deref(), Some("live"), "it waits for its own ADD");
        maker.make(&snapshot(vec![live]), &all, &[]);
        // Elsewhere: its name and labels stand for the address that others send to.
        for name in ["elsewhere", "relabelled"] {
            let other = Pod { incarnation: 9, ..pod("a", &[("app", name)], "n2", "10.0.2.9") };
            let (input, _) = maker.make(&snapshot(vec![other]), &all, &[]);
            assert_eq!(label(input).as_deref(), Some(name));
            assert_eq!(input.pods[&id("a")].addresses, [ip("10.0.2.9")]);
            assert!(!maker.is_known(&id("a"), 7), "nobody says what applies to the one here");
        }
    }

    #[test]
    fn a_pod_is_judged_when_its_namespace_and_labels_are_known() {
        let mut maker = maker();
        let all = links(vec![link("wv1", 3, "10.0.1.5", "a")]);
        let live = Pod { incarnation: 7, ..pod("a", &[], "n1", "10.0.1.5") };
        let mut s = snapshot(vec![live]);
        maker.make(&s, &all, &[]);
        assert!(!maker.is_known(&id("a"), 7), "its namespace is not known");
        let namespace =
            weft_model::Namespace { name: "ns".into(), labels: Labels::default(), audit: false };
        s.namespaces.insert("ns".into(), Arc::new(namespace));
        maker.make(&s, &all, &[]);
        assert!(maker.is_known(&id("a"), 7));
        // A restarted agent that finds a link whose pod the API has no more.
        let mut later = InputMaker::new("n1".parse().expect("name"), true);
        later.make(&Snapshot { pods: Map::new(), ..s }, &all, &[]);
        assert!(!later.is_known(&id("a"), 7));
        assert!(later.is_known(&id("static"), 0));
    }

    #[test]
    fn nodes_have_their_routers_and_dns_answers_there() {
        let mut maker = maker();
        let name: NodeName = "n1".parse().expect("name");
        let node = Node {
            name: name.clone(),
            internal_ips: vec![ip("192.0.2.1")],
            pod_cidrs: vec!["10.0.1.0/24".parse().expect("range")],
            zone: None,
            ready: true,
            eligible: true,
        };
        let peer = NodePeer {
            name: name.clone(),
            labels: Labels::default(),
            addresses: vec![ip("192.0.2.1"), ip("198.51.100.1")],
        };
        let mut s = snapshot(Vec::new());
        s.nodes.insert(name.clone(), Arc::new(node.clone()));
        s.node_peers.insert(name.clone(), Arc::new(peer));
        let (input, _) = maker.make(&s, &Links::new(), &[ip("10.0.1.1")]);
        let all = ["192.0.2.1", "198.51.100.1", "10.0.1.1"].map(ip);
        assert_eq!(input.nodes[&name].addresses, all);
        assert_eq!(input.dns, [ip("10.0.1.1")].into());
        let moved = Node { pod_cidrs: vec!["10.0.9.0/24".parse().expect("range")], ..node };
        s.nodes.insert(name.clone(), Arc::new(moved));
        let (input, changed) = maker.make(&s, &Links::new(), &[ip("10.0.9.1")]);
        assert!(changed && input.nodes[&name].addresses.contains(&ip("10.0.9.1")));
        s.node_peers.remove(&name);
        assert!(maker.make(&s, &Links::new(), &[]).0.nodes.is_empty());
    }
}
