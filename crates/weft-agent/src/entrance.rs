//! From the planner's table for what reaches the stack to the entrances of the netfilter table.

use crate::host_port::{HostEntrances, PodPorts};
use ipnet::IpNet;
use std::{collections::BTreeMap, sync::Arc};
use weft_model::{Balance, Map, Node, Port, Protocol};
use weft_netlink::netfilter::{Delta, Entrance, Fate, Target, Targets};
use weft_services::{Answer, Backend, Frontend, FrontendKind, Group, Outside, ServiceTables};

/// The entrances of this node, and the numbers that groups of backends have in the netfilter
/// table. A group keeps its number as long as an entrance leads to it, and a number is not used
/// again: whoever looks up a slot in the middle of a change never reads another Service's.
#[derive(Debug, Default)]
pub struct Entrances {
    /// The tables that came last.
    outside: Map<Frontend, Arc<Outside>>,
    backends: Map<Group, Arc<[Backend]>>,
    /// The node's own addresses: targets there are local.
    own: Vec<IpNet>,
    groups: BTreeMap<Group, Used>,
    host: HostEntrances,
    last: u32,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    number: u32,
    entrances: usize,
}

impl Entrances {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count + self.host.count()
    }

    /// From the tables that came last (none at first) to these: what changes, for
    /// [`weft_netlink::netfilter::Table::change_nat`]. Costs what is different, and the number
    /// of host ports. `node`: this node.
    pub fn change(
        &mut self,
        tables: &ServiceTables,
        host_ports: &[PodPorts],
        node: Option<&Node>,
    ) -> Delta {
        let mut delta = Delta::default();
        // Groups whose targets are to be set, and those that perhaps nothing leads to any more.
        let (mut set, mut left) = (Vec::new(), Vec::new());
        let before = std::mem::replace(&mut self.outside, tables.outside.clone());
        for difference in before.diff(&tables.outside) {
            let frontend = difference.key;
            let entrance_of =
                |o: Option<&'_ Arc<Outside>>| o.filter(|o| is_entrance(frontend, o)).cloned();
            let (before, after) = (entrance_of(difference.before), entrance_of(difference.after));
            if let Some(group) = after.as_deref().and_then(leads_to) {
                self.groups.entry(group.clone()).or_insert_with(|| {
                    self.last = self.last.wrapping_add(1);
                    set.push(group.clone());
                    Used { number: self.last, entrances: 0 }
                });
            }
            for (outside, more) in [(&after, true), (&before, false)] {
                let Some(outside) = outside else { continue };
                self.count = if more { self.count + 1 } else { self.count - 1 };
                let Some(group) = leads_to(outside) else { continue };
                let Some(used) = self.groups.get_mut(group) else { continue };
                used.entrances = if more { used.entrances + 1 } else { used.entrances - 1 };
                if used.entrances == 0 {
                    left.push(group.clone());
                }
            }
            if before.is_some() || after.is_some() {
                delta.entrances.insert(entrance(frontend), after.map(|o| self.fate(&o)));
            }
        }
        for group in left {
            let is_unused = |used: &&Used| used.entrances == 0;
            if let Some(used) = self.groups.get(&group).filter(is_unused).copied() {
                delta.groups.insert(used.number, None);
                self.groups.remove(&group);
            }
        }
        let before = std::mem::replace(&mut self.backends, tables.groups.clone());
        let own = std::mem::replace(&mut self.own, addresses(node));
        if own == self.own {
            set.extend(before.diff(&tables.groups).map(|difference| difference.key.clone()));
        } else {
            // Other targets are local now.
            set.extend(self.groups.keys().cloned());
        }
        for group in set {
            let Some(used) = self.groups.get(&group) else { continue };
            delta.groups.insert(used.number, self.targets(&group));
        }
        let (outside, last) = (&self.outside, &mut self.last);
        let claimed = |e: &Entrance| claims(outside, e);
        let number = || {
            *last = last.wrapping_add(1);
            *last
        };
        self.host.change(host_ports, node, claimed, number, &mut delta);
        delta
    }

    fn fate(&self, outside: &Outside) -> Fate {
        match &outside.answer {
            Answer::Forward(group) => Fate::Forward {
                group: self.groups.get(group).map_or(0, |used| used.number),
                timeout_s: outside.affinity_timeout_s,
                sources: outside.sources.clone(),
            },
            Answer::Refuse => Fate::Refuse,
            Answer::Drop => Fate::Drop,
        }
    }

    fn targets(&self, group: &Group) -> Option<Targets> {
        let backends = self.backends.get(group)?;
        let target = |b: &Backend| Target {
            addr: b.addr,
            port: b.port.get(),
            here: self.own.iter().any(|net| net.contains(&b.addr)),
        };
        let by_client = group.balance == Balance::Maglev;
        let all = match group.balance {
            Balance::Random => backends.iter().map(target).collect(),
            Balance::Maglev => weft_services::maglev::places(backends).iter().map(target).collect(),
        };
        Some(Targets { protocol: group.protocol.number(), all, by_client })
    }
}

/// Whether a Service has an entrance.
fn claims(outside: &Map<Frontend, Arc<Outside>>, entrance: &Entrance) -> bool {
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|p| p.number() == entrance.protocol);
    let (Some(protocol), Ok(port)) = (protocol, Port::try_from(i32::from(entrance.port))) else {
        return false;
    };
    let frontend = Frontend { addr: entrance.addr, port, protocol };
    outside.get(&frontend).is_some_and(|o| is_entrance(&frontend, o))
}

fn leads_to(outside: &Outside) -> Option<&Group> {
    match &outside.answer {
        Answer::Forward(group) => Some(group),
        Answer::Refuse | Answer::Drop => None,
    }
}

/// Cluster addresses are none: TCP and UDP of the cluster's clients are translated at the socket,
/// or at the pod's link where they passed no hook, and nobody outside has a way to such an address.
/// The node's own processes have no link, so their SCTP, which passes no hook either, is
/// translated here.
fn is_entrance(frontend: &Frontend, outside: &Outside) -> bool {
    outside.kind != FrontendKind::ClusterIp || frontend.protocol == Protocol::Sctp
}

fn entrance(frontend: &Frontend) -> Entrance {
    Entrance {
        addr: frontend.addr,
        port: frontend.port.get(),
        protocol: frontend.protocol.number(),
    }
}

fn addresses(node: Option<&Node>) -> Vec<IpNet> {
    let of = |n: &Node| {
        let own = n.internal_ips.iter().copied().map(IpNet::from);
        own.chain(n.pod_cidrs.iter().copied()).collect()
    };
    node.map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;
    use weft_model::{IpFamily, NamespacedName, TrafficPolicy};
    use weft_netlink::netfilter::Nat;

    fn port(number: i32) -> Port {
        Port::try_from(number).expect("port")
    }

    fn node() -> Node {
        Node {
            name: "node1".parse().expect("name"),
            internal_ips: Vec::new(),
            pod_cidrs: vec!["10.0.1.0/24".parse().expect("prefix")],
            zone: None,
            ready: true,
            eligible: true,
        }
    }

    fn frontend(n: u8) -> Frontend {
        let addr = IpAddr::from([192, 0, 2, n]);
        Frontend { addr, port: port(80), protocol: Protocol::Tcp }
    }

    fn group(n: u8) -> Group {
        Group {
            service: service(n),
            port: "p".into(),
            protocol: Protocol::Tcp,
            family: IpFamily::V4,
            policy: TrafficPolicy::Cluster,
            balance: if n == 3 { Balance::Maglev } else { Balance::Random },
        }
    }

    fn service(n: u8) -> NamespacedName {
        NamespacedName { namespace: "default".into(), name: format!("s{n}").into() }
    }

    /// Some frontends, of which each leads to a group, or not; groups with some backends.
    fn tables() -> impl Strategy<Value = ServiceTables> {
        let frontends = proptest::collection::btree_map(0..6u8, (0..5u8, any::<bool>()), 0..6);
        let backends = proptest::collection::btree_set(0..4u8, 1..4);
        let groups = proptest::collection::vec(backends, 4);
        (frontends, groups).prop_map(|(frontends, groups)| {
            let mut tables = ServiceTables::default();
            for (n, (to, cluster_ip)) in frontends {
                let forward = Answer::Forward(group(to));
                let outside = Outside {
                    service: service(to),
                    kind: [FrontendKind::NodePort, FrontendKind::ClusterIp]
                        [usize::from(cluster_ip)],
                    answer: if to == 4 { Answer::Refuse } else { forward },
                    affinity_timeout_s: None,
                    sources: None,
                };
                if let Answer::Forward(group) = &outside.answer {
                    let all = groups[usize::from(to)].iter();
                    let all = all.map(|b| Backend {
                        addr: IpAddr::from([10, 0, b % 2, *b]),
                        port: port(8080),
                    });
                    tables.groups.insert(group.clone(), all.collect::<Vec<_>>().into());
                }
                tables.outside.insert(frontend(n), outside.into());
            }
            tables
        })
    }

    #[test]
    fn cluster_addresses_are_entrances_for_sctp_alone() {
        let mut tables = ServiceTables::default();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let at = Frontend { protocol, ..frontend(1) };
            let outside = Outside {
                service: service(1),
                kind: FrontendKind::ClusterIp,
                answer: Answer::Refuse,
                affinity_timeout_s: None,
                sources: None,
            };
            tables.outside.insert(at, outside.into());
        }
        let delta = Entrances::default().change(&tables, &[], None);
        let protocols: Vec<u8> = delta.entrances.keys().map(|e| e.protocol).collect();
        assert_eq!(protocols, [132]);
    }

    /// Without the numbers of groups, which have a history.
    fn meaning(nat: &Nat) -> BTreeMap<Entrance, (String, Option<Targets>)> {
        let of = |fate: &Fate| match fate {
            Fate::Forward { group, .. } => ("forward".to_owned(), nat.groups.get(group).cloned()),
            other => (format!("{other:?}"), None),
        };
        nat.entrances.iter().map(|(e, fate)| (*e, of(fate))).collect()
    }

    proptest! {
        #[test]
        fn changes_lead_where_all_at_once_leads(
            history in proptest::collection::vec((tables(), any::<bool>()), 1..8)
        ) {
            let (mut entrances, mut nat) = (Entrances::default(), Nat::default());
            let mut numbers = BTreeMap::new();
            for (tables, here) in history {
                let node = here.then(node);
                nat.apply(&entrances.change(&tables, &[], node.as_ref()));
                let mut anew = Nat::default();
                anew.apply(&Entrances::default().change(&tables, &[], node.as_ref()));
                prop_assert_eq!(meaning(&nat), meaning(&anew));
                prop_assert_eq!(nat.groups.len(), anew.groups.len());
                prop_assert_eq!(nat.entrances.len(), entrances.count());
                for (group, used) in &entrances.groups {
                    let known = numbers.entry(used.number).or_insert_with(|| group.clone());
                    prop_assert_eq!(&*known, group, "a number is used again");
                }
                prop_assert_eq!(entrances.change(&tables, &[], node.as_ref()), Delta::default());
            }
        }
    }
}
