//! Names for addresses, kept up with snapshots by their differences, and for reasons.

use std::{collections::HashMap, net::IpAddr, sync::Arc};
use weft_bpf::reason;
use weft_model::{Map, NamespacedName, Node, NodeName, Pod};
use weft_policy::{Reason, Reasons};

/// Who has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// A pod of the pod network.
    Pod(NamespacedName),
    /// A node; pods of the host network are not told apart from it.
    Node(NodeName),
    /// Nobody that is known.
    #[default]
    Nobody,
}

/// The addresses of pods and nodes.
#[derive(Debug, Default)]
pub struct Addresses {
    pods: Map<NamespacedName, Arc<Pod>>,
    nodes: Map<NodeName, Arc<Node>>,
    all: HashMap<IpAddr, Who>,
}

impl Addresses {
    /// Goes on to these pods and nodes. Costs what is different.
    pub fn update(
        &mut self,
        pods: &Map<NamespacedName, Arc<Pod>>,
        nodes: &Map<NodeName, Arc<Node>>,
    ) {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for d in self.pods.diff(pods) {
            let of = |pod: Option<&Arc<Pod>>, all: &mut Vec<(IpAddr, Who)>| {
                let pod = pod.filter(|p| !p.host_network && !p.phase.is_over());
                let who = |p: &Arc<Pod>| Who::Pod(p.id.clone());
                all.extend(pod.into_iter().flat_map(|p| p.addresses.iter().map(|a| (*a, who(p)))));
            };
            of(d.before, &mut gone);
            of(d.after, &mut come);
        }
        for d in self.nodes.diff(nodes) {
            let of = |node: Option<&Arc<Node>>, all: &mut Vec<(IpAddr, Who)>| {
                let routers = |n: &Arc<Node>| -> Vec<IpAddr> {
                    n.pod_cidrs.iter().filter_map(|c| weft_fabric::router_address(*c)).collect()
                };
                all.extend(node.into_iter().flat_map(|n| {
                    let own = n.internal_ips.iter().copied().chain(routers(n));
                    own.map(|a| (a, Who::Node(n.name.clone())))
                }));
            };
            of(d.before, &mut gone);
            of(d.after, &mut come);
        }
        // An address that went from one to another is the other's.
        for (address, who) in gone {
            if self.all.get(&address) == Some(&who) {
                self.all.remove(&address);
            }
        }
        self.all.extend(come);
        (self.pods, self.nodes) = (pods.clone(), nodes.clone());
    }

    /// Who has it.
    pub fn who(&self, address: IpAddr) -> Who {
        self.all.get(&address).cloned().unwrap_or_default()
    }
}

/// Why a flow was judged as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// As policy says.
    Policy(Reason),
    /// The link has no policy value: nobody judges there.
    NoPolicy,
    /// Nobody has judged the pod yet.
    NotJudged,
    /// A packet in the middle of a flow that nobody knows.
    NoConnection,
    /// The transport header cannot be found.
    Unreadable,
    /// The kernel's tables contradict themselves.
    Fault,
    /// A number that means nothing (any more).
    Unknown(u32),
}

impl Why {
    /// What a number stands for.
    pub fn of(number: u32, reasons: Option<&Reasons>) -> Self {
        match number {
            reason::NO_POLICY => Self::NoPolicy,
            reason::UNSELECTED => Self::Policy(Reason::Unselected),
            reason::ITSELF => Self::Policy(Reason::Itself),
            reason::OWN_NODE => Self::Policy(Reason::OwnNode),
            reason::UNKNOWN => Self::NotJudged,
            reason::NO_FLOW => Self::NoConnection,
            reason::UNREADABLE => Self::Unreadable,
            reason::FAULT => Self::Fault,
            other => match reasons.and_then(|r| r.get(other)) {
                Some(reason) => Self::Policy(reason.clone()),
                None => Self::Unknown(other),
            },
        }
    }
}
