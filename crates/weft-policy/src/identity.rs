//! From peers to identities: addresses that every rule of the node treats alike get one number.
//!
//! The unit is not the single selector but the whole `to` or `from` list of a rule (a *peer
//! list*): a list of 5,000 blocks is one identity with 5,000 prefixes, not 5,000 identities.

use crate::{Identity, Owner, World};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};
use weft_model::{
    Direction, IpBlock, NamedPort, NamespaceSet, NodeName, NodePeer, Peer, Pod, PodSet,
};

/// Number of a peer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListId(u32);

/// The peer lists of the node's rules, each once.
#[derive(Debug, Default)]
pub(crate) struct Lists<'a> {
    numbers: HashMap<(Direction, &'a [Peer]), ListId>,
    lists: Vec<(Direction, &'a [Peer])>,
    /// Port names that egress rules use: what they mean is the destination's affair.
    names: BTreeSet<&'a str>,
    /// Whether a rule allows what goes to the own node.
    own_node: bool,
}

impl<'a> Lists<'a> {
    /// The number of a list.
    pub fn number(&mut self, direction: Direction, peers: &'a [Peer]) -> ListId {
        *self.numbers.entry((direction, peers)).or_insert_with(|| {
            self.lists.push((direction, peers));
            ListId(self.lists.len() as u32 - 1)
        })
    }

    /// Notes that destinations must be told apart by what they call `name`.
    pub fn note_name(&mut self, name: &'a str) {
        self.names.insert(name);
    }

    /// Notes that the own node must be told apart.
    pub fn note_own_node(&mut self) {
        self.own_node = true;
    }
}

/// What the rules know of a peer: equal classes are one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Class {
    lists: Vec<ListId>,
    ports: Vec<NamedPort>,
    own_node: bool,
}

/// The identities of a node.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// Longest prefix → identity.
    pub prefixes: BTreeMap<IpNet, Identity>,
    /// Those that a peer list means.
    of_list: Vec<Vec<Identity>>,
    /// The named ports of each (only names that egress rules use).
    pub ports: BTreeMap<Identity, Vec<NamedPort>>,
    /// Those of the node itself.
    pub own_node: Vec<Identity>,
}

impl Identities {
    /// The identities that a list means.
    pub fn of(&self, list: ListId) -> &[Identity] {
        self.of_list.get(list.0 as usize).map_or(&[], Vec::as_slice)
    }
}

/// What happens to the membership of a list at a prefix.
type Edge = (ListId, i32);

/// Finds the identities of every address that a rule means.
pub(crate) fn identify(world: &World<'_>, lists: &Lists<'_>, node: &NodeName) -> Identities {
    let selectors = Selectors::new(world, lists);
    let edges = block_edges(world, lists);
    let mut owned: BTreeMap<IpNet, Arc<Class>> = BTreeMap::new();
    let mut shapes: HashMap<Shape<'_>, Arc<Class>> = HashMap::new();
    for (address, owner) in world.owners() {
        let class = match owner {
            Owner::Pod(pod) => {
                let shape = selectors.shape(pod);
                shapes.entry(shape).or_insert_with(|| Arc::new(selectors.pod(owner))).clone()
            }
            Owner::Dns => Arc::new(selectors.pod(owner)),
            Owner::Node(of) => Arc::new(selectors.node(of, node)),
            Owner::Nobody => continue,
        };
        owned.insert(IpNet::from(address), class);
    }
    number(lists, &edges, &owned)
}

/// Walks all prefixes from the widest inwards and numbers the classes.
fn number(
    lists: &Lists<'_>,
    edges: &BTreeMap<IpNet, Vec<Edge>>,
    owned: &BTreeMap<IpNet, Arc<Class>>,
) -> Identities {
    let mut found = Identities { of_list: vec![Vec::new(); lists.lists.len()], ..<_>::default() };
    let mut numbers: HashMap<Class, Identity> = HashMap::new();
    numbers.insert(Class::default(), Identity::ANY);
    // By address and then length: every prefix comes after those that hold it.
    let all: BTreeSet<IpNet> = edges.keys().chain(owned.keys()).copied().collect();
    let mut around: Vec<(IpNet, Identity)> = Vec::new();
    let mut members: BTreeMap<ListId, i32> = BTreeMap::new();
    for net in all {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&net)) {
            if let Some((left, _)) = around.pop() {
                apply(&mut members, edges.get(&left), -1);
            }
        }
        apply(&mut members, edges.get(&net), 1);
        let mut class = owned.get(&net).map_or_else(Class::default, |c| (**c).clone());
        class.lists.extend(members.iter().filter(|(_, n)| **n > 0).map(|(l, _)| *l));
        class.lists.sort_unstable();
        class.lists.dedup();
        let next = Identity(numbers.len() as u32);
        let identity = *numbers.entry(class).or_insert_with_key(|class| {
            for list in &class.lists {
                found.of_list[list.0 as usize].push(next);
            }
            if !class.ports.is_empty() {
                found.ports.insert(next, class.ports.clone());
            }
            if class.own_node {
                found.own_node.push(next);
            }
            next
        });
        let outer = around.last().map_or(Identity::ANY, |(_, i)| *i);
        if identity != outer {
            found.prefixes.insert(net, identity);
        }
        around.push((net, identity));
    }
    found
}

fn apply(members: &mut BTreeMap<ListId, i32>, edges: Option<&Vec<Edge>>, sign: i32) {
    for (list, change) in edges.into_iter().flatten() {
        *members.entry(*list).or_default() += change * sign;
    }
}

/// Where blocks begin and where their holes do.
fn block_edges(world: &World<'_>, lists: &Lists<'_>) -> BTreeMap<IpNet, Vec<Edge>> {
    let mut edges: BTreeMap<IpNet, Vec<Edge>> = BTreeMap::new();
    for (n, (_, peers)) in lists.lists.iter().enumerate() {
        let list = ListId(n as u32);
        for peer in *peers {
            match peer {
                Peer::Block(block) => {
                    let Some(holes) = holes(block) else { continue };
                    edges.entry(block.cidr.trunc()).or_default().push((list, 1));
                    for hole in holes {
                        edges.entry(hole).or_default().push((list, -1));
                    }
                }
                Peer::Domain(pattern) => {
                    for address in world.resolved(pattern) {
                        edges.entry(address.into()).or_default().push((list, 1));
                    }
                }
                Peer::Pods(_) | Peer::Nodes(_) => {}
            }
        }
    }
    edges
}

/// The holes of a block that are inside it and inside no other one; `None` where nothing is
/// left of it.
fn holes(block: &IpBlock) -> Option<Vec<IpNet>> {
    let cidr = block.cidr.trunc();
    // Sorted, so that wider ones come before those that they hold.
    let sorted: BTreeSet<IpNet> = block.except.iter().map(IpNet::trunc).collect();
    let mut holes: Vec<IpNet> = Vec::new();
    for hole in sorted {
        if hole.contains(&cidr) {
            return None;
        }
        let covered = holes.last().is_some_and(|h| h.contains(&hole));
        if cidr.contains(&hole) && !covered {
            holes.push(hole);
        }
    }
    Some(holes)
}

/// What selectors can tell of a pod. Pods of one Deployment are alike here, so that selectors
/// are asked once for all of them.
#[derive(PartialEq, Eq, Hash)]
struct Shape<'a> {
    namespace: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    ports: Vec<&'a NamedPort>,
}

/// The selectors of all lists, by where they have to be looked for.
struct Selectors<'w, 'a> {
    world: &'w World<'a>,
    lists: &'w Lists<'w>,
    /// Label keys that a selector looks at.
    keys: HashSet<&'w str>,
    /// Peers that name one namespace, by its name.
    by_namespace: HashMap<&'w str, Vec<(ListId, &'w PodSet)>>,
    /// Peers that select namespaces, by name of the namespaces that they select.
    by_selected: HashMap<&'w str, Vec<(ListId, &'w PodSet)>>,
    nodes: Vec<(ListId, &'w weft_model::Selector)>,
}

impl<'w, 'a> Selectors<'w, 'a> {
    fn new(world: &'w World<'a>, lists: &'w Lists<'w>) -> Self {
        let mut all = Self {
            world,
            lists,
            keys: HashSet::new(),
            by_namespace: HashMap::new(),
            by_selected: HashMap::new(),
            nodes: Vec::new(),
        };
        let mut selecting: HashMap<&NamespaceSet, Vec<(ListId, &PodSet)>> = HashMap::new();
        for (n, (_, peers)) in lists.lists.iter().enumerate() {
            let list = ListId(n as u32);
            for peer in *peers {
                match peer {
                    Peer::Pods(set) => {
                        all.keys.extend(set.pods.keys().map(|k| &**k));
                        match &set.namespaces {
                            NamespaceSet::Name(name) => {
                                all.by_namespace.entry(name).or_default().push((list, set));
                            }
                            selected => selecting.entry(selected).or_default().push((list, set)),
                        }
                    }
                    Peer::Nodes(selector) => all.nodes.push((list, selector)),
                    Peer::Block(_) | Peer::Domain(_) => {}
                }
            }
        }
        for (namespaces, sets) in selecting {
            for name in world.input().namespaces.keys() {
                if world.selects_namespace(namespaces, name) {
                    all.by_selected.entry(name).or_default().extend(&sets);
                }
            }
        }
        all
    }

    fn shape<'p>(&self, pod: &'p Pod) -> Shape<'p> {
        Shape {
            namespace: &pod.id.namespace,
            labels: pod.labels.iter().filter(|(k, _)| self.keys.contains(k)).collect(),
            ports: pod.ports.iter().filter(|p| self.lists.names.contains(&*p.name)).collect(),
        }
    }

    /// The class of a pod, or of the cluster's DNS, without what blocks add to it.
    fn pod(&self, owner: Owner<'_>) -> Class {
        let namespace = match owner {
            Owner::Pod(pod) => &*pod.id.namespace,
            _ => crate::world::DNS_NAMESPACE,
        };
        let of = |map: &HashMap<&str, Vec<(ListId, &'w PodSet)>>| {
            map.get(namespace).cloned().unwrap_or_default()
        };
        let candidates = of(&self.by_namespace).into_iter().chain(of(&self.by_selected));
        let meant = candidates.filter(|(list, set)| {
            let direction = self.lists.lists[list.0 as usize].0;
            self.world.means_pods(set, direction, owner)
        });
        let mut lists: Vec<ListId> = meant.map(|(list, _)| list).collect();
        lists.sort_unstable();
        lists.dedup();
        let named = self.world.named_ports(owner).iter();
        let named = named.filter(|p| self.lists.names.contains(&*p.name));
        let ports: BTreeSet<NamedPort> = named.cloned().collect();
        Class { lists, ports: ports.into_iter().collect(), own_node: false }
    }

    fn node(&self, of: &NodePeer, own: &NodeName) -> Class {
        let meant = self.nodes.iter().filter(|(_, s)| s.matches(&of.labels));
        let mut lists: Vec<ListId> = meant.map(|(list, _)| *list).collect();
        lists.dedup();
        Class { lists, ports: Vec::new(), own_node: self.lists.own_node && of.name == *own }
    }
}
