//! Pod ranges of nodes: one per family out of the cluster's, first free first.
//!
//! The nodes themselves are the journal: what a node's spec says is allocated, whoever wrote
//! it; a range is free again when its node is gone. An allocated range never moves (the API
//! forbids it too).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::action::{About, Action, Plan, Severity};
use crate::config::Config;
use crate::error::Error;
use crate::kinds::{Kind, World};
use crate::store::Object;

/// Bits between the cluster's range and a node's: 2^16 nodes, as many as Kubernetes allows.
const BITS_MAX: u8 = 16;

/// Whether the settings make sense.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    for (at, cidr) in config.pod_cidrs.iter().enumerate() {
        let wrong = |reason| Err(Error::PodCidr { cidr: *cidr, reason });
        let mask = mask(config, cidr);
        if mask < cidr.prefix_len() || mask > cidr.max_prefix_len() {
            return wrong("the node mask lies outside the range");
        }
        if mask - cidr.prefix_len() > BITS_MAX {
            return wrong("the range holds more than 65536 nodes");
        }
        if config.pod_cidrs[..at].iter().any(|other| is_v4(other) == is_v4(cidr)) {
            return wrong("more than one range of this family");
        }
    }
    Ok(())
}

fn is_v4(cidr: &IpNet) -> bool {
    matches!(cidr, IpNet::V4(_))
}

fn mask(config: &Config, cidr: &IpNet) -> u8 {
    if is_v4(cidr) { config.node_mask_v4 } else { config.node_mask_v6 }
}

/// Ranges for every node that has none, in the order of the nodes' creation.
pub(crate) fn plan(world: &World, config: &Config, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut bare: Vec<&Node> =
        world.nodes.iter().map(AsRef::as_ref).filter(|node| ranges(node).is_empty()).collect();
    if bare.is_empty() || config.pod_cidrs.is_empty() {
        return plan;
    }
    bare.sort_by_key(|node| (node.created_seconds(), node.name().to_owned()));
    let taken: Vec<IpNet> = world.nodes.iter().flat_map(|node| ranges(node)).collect();
    let mut pools: Vec<Pool> =
        config.pod_cidrs.iter().map(|cidr| Pool::new(*cidr, mask(config, cidr), &taken)).collect();
    for node in bare {
        let given: Option<Vec<IpNet>> = pools.iter_mut().map(Pool::next).collect();
        let Some(given) = given else {
            let about =
                About { kind: Kind::Node, meta: &node.metadata, component: "weft-cluster", now };
            plan.push(Action::event(
                &about,
                Severity::Warning,
                "CIDRNotAvailable",
                "every pod range of the cluster is in use",
            ));
            continue;
        };
        let texts: Vec<String> = given.iter().map(IpNet::to_string).collect();
        plan.push(Action::merge(
            Kind::Node,
            &node.metadata,
            None,
            json!({
                "metadata": {"uid": node.uid()},
                "spec": {"podCIDR": texts[0], "podCIDRs": texts},
            }),
        ));
    }
    plan
}

/// The pod ranges a node has.
fn ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.iter());
    let unique: BTreeSet<IpNet> = all.filter_map(|text| text.parse().ok()).collect();
    unique.into_iter().collect()
}

/// Free node ranges of one family. Numbers a node's range by its place in the cluster's.
struct Pool {
    cidr: IpNet,
    mask: u8,
    taken: BTreeSet<u32>,
    from: u32,
}

impl Pool {
    fn new(cidr: IpNet, mask: u8, taken: &[IpNet]) -> Self {
        let cidr = cidr.trunc();
        let mut pool = Self { cidr, mask, taken: BTreeSet::new(), from: 0 };
        for net in taken {
            if net.contains(&cidr) {
                pool.taken.extend(0..pool.len());
            } else if cidr.contains(net) {
                let (first, last) = (pool.number(net.network()), pool.number(net.broadcast()));
                pool.taken.extend(first..=last);
            }
        }
        pool
    }

    fn len(&self) -> u32 {
        1 << (self.mask - self.cidr.prefix_len())
    }

    fn next(&mut self) -> Option<IpNet> {
        while self.from < self.len() {
            let number = self.from;
            self.from += 1;
            if !self.taken.contains(&number) {
                return Some(self.range(number));
            }
        }
        None
    }

    fn number(&self, address: IpAddr) -> u32 {
        let (base, bits) = (to_bits(self.cidr.network()), to_bits(address));
        u32::try_from((bits - base) >> self.shift())
            .expect("invariant: a range has at most 2^16 nodes")
    }

    fn range(&self, number: u32) -> IpNet {
        let bits = to_bits(self.cidr.network()) | (u128::from(number) << self.shift());
        let fits = "invariant: check() has compared mask and family";
        match self.cidr {
            IpNet::V4(_) => {
                let bits = u32::try_from(bits).expect(fits);
                Ipv4Net::new(bits.into(), self.mask).expect(fits).into()
            }
            IpNet::V6(_) => Ipv6Net::new(bits.into(), self.mask).expect(fits).into(),
        }
    }

    fn shift(&self) -> u8 {
        self.cidr.max_prefix_len() - self.mask
    }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::action::Verb;

    fn config() -> Config {
        Config {
            pod_cidrs: ["10.244.0.0/16", "fd00:10:244::/56"]
                .map(|text| text.parse().expect("a range"))
                .into(),
            ..Config::default()
        }
    }

    fn put(world: &mut World, name: &str, version: u32, ranges: &[String]) {
        let answer = json!({
            "kind": "Node",
            "metadata": {"name": name, "uid": name, "resourceVersion": version.to_string()},
            "spec": {"podCIDRs": ranges},
        });
        world.absorb(Kind::Node, answer);
    }

    fn patches(plan: &Plan) -> Vec<(String, Vec<String>)> {
        let of = |action: &Action| match &action.verb {
            Verb::Merge(None, body) => Some((
                action.name.clone(),
                serde_json::from_value(body["spec"]["podCIDRs"].clone()).expect("ranges"),
            )),
            _ => None,
        };
        plan.actions.iter().filter_map(of).collect()
    }

    #[test]
    fn first_ranges() {
        let mut world = World::default();
        put(&mut world, "b", 1, &[]);
        put(&mut world, "a", 2, &[]);
        put(&mut world, "c", 3, &["10.244.1.0/24".into(), "fd00:10:244:0::/64".into()]);
        let plan = plan(&world, &config(), Timestamp::UNIX_EPOCH);
        let wanted = [
            ("a", ["10.244.0.0/24", "fd00:10:244:1::/64"]),
            ("b", ["10.244.2.0/24", "fd00:10:244:2::/64"]),
        ];
        let wanted: Vec<_> = wanted
            .iter()
            .map(|(name, ranges)| ((*name).to_owned(), ranges.map(str::to_owned).to_vec()))
            .collect();
        assert_eq!(patches(&plan), wanted);
    }

    #[test]
    fn settings_that_cannot_work() {
        let with = |cidrs: &[&str], v4| Config {
            pod_cidrs: cidrs.iter().map(|text| text.parse().expect("a range")).collect(),
            node_mask_v4: v4,
            ..Config::default()
        };
        assert!(check(&config()).is_ok());
        assert!(check(&with(&["10.0.0.0/25"], 24)).is_err());
        assert!(check(&with(&["10.0.0.0/16"], 33)).is_err());
        assert!(check(&with(&["10.0.0.0/7"], 24)).is_err());
        assert!(check(&with(&["10.0.0.0/16", "10.1.0.0/16"], 24)).is_err());
    }

    proptest! {
        /// Whatever comes and goes: no two nodes overlap, and a range never moves.
        #[test]
        fn no_overlap(steps in proptest::collection::vec((0u8..12, any::<bool>()), 1..60)) {
            let mut world = World::default();
            let config = Config {
                pod_cidrs: vec!["10.0.0.0/21".parse().expect("a range")],
                ..config()
            };
            let mut version = 1;
            let mut given: std::collections::BTreeMap<String, Vec<String>> = Default::default();
            for (number, add) in steps {
                let name = format!("n{number}");
                version += 1;
                if add && !given.contains_key(&name) {
                    let uid = format!("{name}-{version}");
                    world.absorb(Kind::Node, json!({"kind": "Node", "metadata":
                        {"name": name, "uid": uid, "resourceVersion": version.to_string()}}));
                    given.insert(name, Vec::new());
                } else if !add {
                    world.forget(Kind::Node, "", &name, None);
                    given.remove(&name);
                }
                for (name, ranges) in patches(&plan(&world, &config, Timestamp::UNIX_EPOCH)) {
                    prop_assert!(given[&name].is_empty(), "a range moved");
                    version += 1;
                    let held = world.nodes.get("", &name).expect("a node").uid().to_owned();
                    world.absorb(Kind::Node, json!({"kind": "Node", "metadata":
                        {"name": name, "uid": held, "resourceVersion": version.to_string()},
                        "spec": {"podCIDRs": ranges}}));
                    given.insert(name, ranges);
                }
                let all: Vec<&String> = given.values().flatten().collect();
                let unique: BTreeSet<&String> = all.iter().copied().collect();
                prop_assert_eq!(all.len(), unique.len());
                prop_assert_eq!(all.len(), given.len().min(8), "as many as there is room for");
            }
        }
    }
}
