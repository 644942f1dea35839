//! The plain model: what may be given, said again in other words than the server's.

use super::{PORTS, ports, service};
use proptest::prelude::*;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What a Service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    ClusterIp,
    Headless,
    NodePort,
    Balancer,
    Name,
}

/// What a create asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) kind: Kind,
    pub(super) policy: Option<&'static str>,
    /// Whether each is IPv4.
    pub(super) families: Vec<bool>,
    pub(super) ip: Option<IpAddr>,
    pub(super) node_port: Option<u16>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Policy(&'static str),
    To(Kind),
    NodePort(u16),
    Label(&'static str),
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Create(String, Ask),
    Edit(String, Change),
    Delete(String),
    Reserve(IpAddr),
    Free(IpAddr),
    AddRange(String, Vec<&'static str>),
    DeleteRange(String),
    Restart,
}

const POLICIES: [&str; 3] = ["SingleStack", "PreferDualStack", "RequireDualStack"];
const SECOND_RANGES: [&[&str]; 4] =
    [&["10.97.0.0/29"], &["fd00:97::/126"], &["10.96.0.0/27", "fd00:97::/125"], &["10.96.0.8/29"]];

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..=20).prop_map(|n| IpAddr::from([10, 96, 0, n])),
        (0u8..8).prop_map(|n| IpAddr::from([10, 97, 0, n])),
        (0u16..10).prop_map(|n| IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, n])),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::ClusterIp),
        Just(Kind::Headless),
        Just(Kind::NodePort),
        Just(Kind::Balancer),
        Just(Kind::Name),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let families = prop_oneof![
        4 => Just(vec![]), 1 => Just(vec![true]), 1 => Just(vec![false]),
        1 => Just(vec![true, false]), 1 => Just(vec![false, true]),
    ];
    let policy = proptest::option::of(proptest::sample::select(&POLICIES[..]));
    let (ip, port) = (proptest::option::of(address()), proptest::option::of(29999u16..=30012));
    (kind(), policy, families, ip, port).prop_map(|(kind, policy, families, ip, port)| {
        let (addressed, exposed) = (
            !matches!(kind, Kind::Headless | Kind::Name),
            matches!(kind, Kind::NodePort | Kind::Balancer),
        );
        Ask {
            kind,
            policy: policy.filter(|_| kind != Kind::Name),
            families: if kind == Kind::Name { vec![] } else { families },
            ip: ip.filter(|_| addressed),
            node_port: port.filter(|_| exposed),
        }
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        proptest::sample::select(&POLICIES[..]).prop_map(Change::Policy),
        kind().prop_filter("no way to say it", |k| *k != Kind::Headless).prop_map(Change::To),
        (29999u16..=30012).prop_map(Change::NodePort),
        proptest::sample::select(&["b", "c"][..]).prop_map(Change::Label),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let name = || (0u8..10).prop_map(|n| format!("s{n}"));
    let range = || (0u8..2).prop_map(|n| format!("range{n}"));
    prop_oneof![
        10 => (name(), ask()).prop_map(|(n, a)| Op::Create(n, a)),
        8 => (name(), change()).prop_map(|(n, c)| Op::Edit(n, c)),
        4 => name().prop_map(Op::Delete),
        1 => address().prop_map(Op::Reserve),
        2 => address().prop_map(Op::Free),
        1 => (range(), proptest::sample::select(&SECOND_RANGES[..]))
            .prop_map(|(n, c)| Op::AddRange(n, c.to_vec())),
        1 => range().prop_map(Op::DeleteRange),
        1 => Just(Op::Restart),
    ]
}

/// A Service as far as the model cares.
#[derive(Clone, Debug)]
struct Held {
    kind: Kind,
    ips: Vec<IpAddr>,
    families: usize,
    policy: String,
    ports: Vec<u16>,
    node_port: Option<u16>,
}

#[derive(Debug)]
pub(super) struct Model {
    services: BTreeMap<String, Held>,
    reserved: BTreeSet<IpAddr>,
    /// Addresses of each range, and whether it is being deleted.
    ranges: BTreeMap<String, (BTreeSet<IpAddr>, bool)>,
}

/// The addresses that a range gives, counted one by one.
fn addresses(cidr: &str) -> BTreeSet<IpAddr> {
    let (base, length) = cidr.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    match base.parse().unwrap() {
        IpAddr::V4(v4) => {
            let first = u32::from(v4);
            (first + 1..first + (1 << (32 - length)) - 1).map(|n| IpAddr::V4(n.into())).collect()
        }
        IpAddr::V6(v6) => {
            let first = u128::from(v6);
            (first + 1..first + (1 << (128 - length))).map(|n| IpAddr::V6(n.into())).collect()
        }
    }
}

impl Model {
    pub(super) fn new() -> Self {
        let all = ["10.96.0.0/28", "fd00:96::/125"].into_iter().flat_map(addresses).collect();
        let kubernetes = Held {
            kind: Kind::ClusterIp,
            ips: vec!["10.96.0.1".parse().unwrap()],
            families: 1,
            policy: "SingleStack".into(),
            ports: vec![],
            node_port: None,
        };
        Self {
            services: [("kubernetes".to_owned(), kubernetes)].into(),
            reserved: BTreeSet::new(),
            ranges: [("kubernetes".to_owned(), (all, false))].into(),
        }
    }

    fn taken(&self, ip: IpAddr) -> bool {
        self.reserved.contains(&ip) || self.services.values().any(|s| s.ips.contains(&ip))
    }

    fn is_free(&self, ip: IpAddr) -> bool {
        let given = self.ranges.values().any(|(all, going)| !going && all.contains(&ip));
        given && !self.taken(ip)
    }

    fn has_free(&self, v4: bool) -> bool {
        self.ranges
            .values()
            .filter(|(_, going)| !going)
            .any(|(all, _)| all.iter().any(|ip| ip.is_ipv4() == v4 && !self.taken(*ip)))
    }

    fn free_ports(&self) -> BTreeSet<u16> {
        PORTS.filter(|port| !self.services.values().any(|s| s.ports.contains(port))).collect()
    }

    /// Whether there are ports: this one, or any, and one more for the health check.
    fn has_ports(&self, kind: Kind, asked: Option<u16>, has: Option<u16>) -> bool {
        let mut free = self.free_ports();
        if matches!(kind, Kind::NodePort | Kind::Balancer) && has.is_none() {
            let port = asked.or_else(|| free.first().copied());
            if !port.is_some_and(|port| free.remove(&port)) {
                return false;
            }
        }
        kind != Kind::Balancer || !free.is_empty()
    }

    pub(super) fn may_create(&self, name: &str, ask: &Ask) -> bool {
        if self.services.contains_key(name) {
            return false;
        }
        if ask.kind == Kind::Name {
            return true;
        }
        let policy = ask.policy.unwrap_or("SingleStack");
        let mut families = ask.families.clone();
        if policy == "SingleStack" && families.len() == 2 {
            return false;
        }
        if let Some(ip) = ask.ip {
            match families.first() {
                Some(v4) if *v4 != ip.is_ipv4() => return false,
                Some(_) => {}
                None => families.push(ip.is_ipv4()),
            }
            if !self.is_free(ip) {
                return false;
            }
        }
        if families.is_empty() {
            families.push(true);
        }
        if policy != "SingleStack" && families.len() == 1 {
            families.push(!families[0]);
        }
        let dynamic = &families[usize::from(ask.ip.is_some())..];
        (ask.kind == Kind::Headless || dynamic.iter().all(|v4| self.has_free(*v4)))
            && self.has_ports(ask.kind, ask.node_port, None)
    }

    pub(super) fn may_edit(&self, name: &str, change: &Change) -> bool {
        let Some(held) = self.services.get(name) else { return false };
        let (named, headless) = (held.kind == Kind::Name, held.kind == Kind::Headless);
        match change {
            Change::Label(_) => true,
            Change::Policy(_) if named => false,
            Change::Policy(policy) => {
                let grows = *policy != "SingleStack" && held.families == 1;
                // Who preferred two families and has one is not served in passing.
                let as_before = *policy == "PreferDualStack" && held.policy == *policy;
                headless || !grows || as_before || { self.has_free(!held.ips[0].is_ipv4()) }
            }
            Change::NodePort(port) => match held.kind {
                Kind::ClusterIp | Kind::Headless => false,
                // Not judged, and never taken.
                Kind::Name => true,
                _ => held.node_port == Some(*port) || self.free_ports().contains(port),
            },
            Change::To(kind) => {
                if *kind == held.kind {
                    return true;
                }
                if headless && matches!(kind, Kind::NodePort | Kind::Balancer) {
                    return false;
                }
                if named && *kind != Kind::Name && !self.has_free(true) {
                    return false;
                }
                if named && *kind == Kind::ClusterIp && held.node_port.is_some() {
                    return false;
                }
                // The port of an ExternalName is a wish, not a possession.
                let (asked, has) =
                    if named { (held.node_port, None) } else { (None, held.node_port) };
                self.has_ports(*kind, asked, has)
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.services.contains_key(name)
    }

    pub(super) fn may_reserve(&self, ip: IpAddr) -> bool {
        !self.taken(ip)
    }

    pub(super) fn is_reserved(&self, ip: IpAddr) -> bool {
        self.reserved.contains(&ip)
    }

    pub(super) fn may_add_range(&self, name: &str) -> bool {
        !self.ranges.contains_key(name)
    }

    pub(super) fn has_range(&self, name: &str) -> bool {
        self.ranges.contains_key(name)
    }

    pub(super) fn range_names(&self) -> BTreeSet<String> {
        self.ranges.keys().cloned().collect()
    }

    /// The operation happened; the choice was the server's, but not free.
    pub(super) fn follow(&mut self, op: &Op, object: Option<&Value>) {
        match op {
            Op::Create(name, ask) => {
                let held = read(object.expect("the Service"));
                assert!(held.ips.iter().all(|ip| self.is_free(*ip)), "{held:?}\n{self:#?}");
                assert!(ask.ip.is_none_or(|ip| held.ips[0] == ip));
                assert!(held.ports.iter().all(|port| self.free_ports().contains(port)));
                self.services.insert(name.clone(), held);
            }
            Op::Edit(name, _) => {
                let before = self.services.remove(name).expect("it was there");
                let held = read(object.expect("the Service"));
                for ip in held.ips.iter().filter(|ip| !before.ips.contains(ip)) {
                    assert!(self.is_free(*ip), "{ip}\n{self:#?}");
                }
                for port in held.ports.iter().filter(|port| !before.ports.contains(port)) {
                    assert!(self.free_ports().contains(port), "{port}\n{self:#?}");
                }
                if let (Some(was), Some(is)) = (before.ips.first(), held.ips.first()) {
                    assert_eq!(was, is, "the first address stays");
                }
                self.services.insert(name.clone(), held);
            }
            Op::Delete(name) => drop(self.services.remove(name)),
            Op::Reserve(ip) => drop(self.reserved.insert(*ip)),
            Op::Free(ip) => drop(self.reserved.remove(ip)),
            Op::AddRange(name, cidrs) => {
                let all = cidrs.iter().flat_map(|cidr| addresses(cidr)).collect();
                self.ranges.insert(name.clone(), (all, false));
            }
            Op::DeleteRange(name) => {
                if let Some((_, going)) = self.ranges.get_mut(name) {
                    *going = true;
                }
            }
            Op::Restart => {}
        }
        self.end_ranges();
    }

    /// A range that is going waits only for addresses that no range has that stays.
    fn end_ranges(&mut self) {
        let staying: BTreeSet<IpAddr> = self
            .ranges
            .values()
            .filter(|(_, going)| !going)
            .flat_map(|(all, _)| all.iter().copied())
            .collect();
        let held: BTreeSet<IpAddr> =
            self.services.values().flat_map(|s| s.ips.iter().copied()).collect();
        self.ranges.retain(|_, (all, going)| {
            !*going || all.iter().any(|ip| held.contains(ip) && !staying.contains(ip))
        });
    }
}

fn read(object: &Value) -> Held {
    let spec = &object["spec"];
    let kind = match (spec["type"].as_str().unwrap(), spec["clusterIP"].as_str()) {
        ("ClusterIP", Some("None")) => Kind::Headless,
        ("ClusterIP", _) => Kind::ClusterIp,
        ("NodePort", _) => Kind::NodePort,
        ("LoadBalancer", _) => Kind::Balancer,
        _ => Kind::Name,
    };
    Held {
        kind,
        ips: service::held_ips(object),
        families: spec["ipFamilies"].as_array().map_or(0, Vec::len),
        policy: spec["ipFamilyPolicy"].as_str().unwrap_or_default().to_owned(),
        ports: ports::held(object),
        node_port: spec["ports"][0]["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()),
    }
}
