//! From the planner's table for what reaches the stack to the entrances of the netfilter table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weft_model::{NodeName, Snapshot};
use weft_netlink::netfilter::{Entrance, Fate, Nat};
use weft_services::{Answer, FrontendKind, Group, ServiceTables};

/// The numbers that groups of backends have in the netfilter table. A group keeps its number
/// as long as it lives, and a number is not used again: whoever looks up a slot in the middle
/// of a change never reads another Service's.
#[derive(Debug, Default)]
pub struct GroupNumbers {
    known: BTreeMap<Group, u32>,
    last: u32,
}

impl GroupNumbers {
    fn of(&mut self, group: &Group) -> u32 {
        if let Some(known) = self.known.get(group) {
            return *known;
        }
        self.last = self.last.wrapping_add(1);
        self.known.insert(group.clone(), self.last);
        self.last
    }
}

/// The entrances of `node`. Cluster addresses are none: clients in the cluster are translated
/// at the socket, and nobody else can use them.
pub fn nat(
    tables: &ServiceTables,
    node: &NodeName,
    snapshot: &Snapshot,
    numbers: &mut GroupNumbers,
) -> Nat {
    let mut nat = Nat::default();
    let mut used: BTreeSet<&Group> = BTreeSet::new();
    let outside = tables.outside.iter().filter(|(_, o)| o.kind != FrontendKind::ClusterIp);
    for (frontend, outside) in outside {
        let entrance = Entrance {
            addr: frontend.addr,
            port: frontend.port.get(),
            protocol: frontend.protocol.number(),
        };
        let fate = match &outside.answer {
            Answer::Forward(group) => {
                used.insert(group);
                Fate::Forward {
                    group: numbers.of(group),
                    timeout_s: outside.affinity_timeout_s,
                    sources: outside.sources.clone(),
                }
            }
            Answer::Refuse => Fate::Refuse,
            Answer::Drop => Fate::Drop,
        };
        nat.entrances.insert(entrance, fate);
    }
    let own = snapshot.nodes.get(node);
    let is_local = |addr: &IpAddr| {
        own.is_some_and(|n| {
            n.internal_ips.contains(addr) || n.pod_cidrs.iter().any(|c| c.contains(addr))
        })
    };
    for group in used {
        let Some(backends) = tables.groups.get(group) else { continue };
        let targets = backends.iter().map(|b| (b.addr, b.port.get()));
        let local = targets.clone().filter(|(addr, _)| is_local(addr));
        nat.local.extend(local.map(|(addr, port)| Entrance {
            addr,
            port,
            protocol: group.protocol.number(),
        }));
        nat.groups.insert(numbers.of(group), targets.collect());
    }
    numbers.known.retain(|group, _| tables.groups.contains_key(group));
    nat
}
