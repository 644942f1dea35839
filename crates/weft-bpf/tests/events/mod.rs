//! Events of Services, EndpointSlices and nodes, one after the other, in any order: for the
//! engine on a model of the maps, and for the load balancer on those of the kernel.

use std::sync::Arc;
use weft_model::{
    Balance, Endpoint, EndpointPort, EndpointSlice, External, IpFamily, NamespacedName, Node,
    NodeName, Port, Protocol, Service, ServiceKind, ServicePort, Snapshot, TrafficPolicy,
};

/// Services and slices are numbered from 0 to this.
pub const NUMBERS: u8 = 6;

/// What one watch delivers.
#[derive(Clone, Debug)]
pub enum Event {
    /// A Service is written, in one of its variants, or deleted.
    Service(u8, Option<u8>),
    /// A slice is written, with the endpoints that the bits say, or deleted. Its Service may not
    /// be there (yet).
    Slice(u8, Option<u8>),
    /// This node is written, in one of two zones, or deleted.
    Node(Option<bool>),
}

pub fn this_node() -> NodeName {
    "node1".parse().expect("name")
}

fn id(n: u8) -> NamespacedName {
    NamespacedName::new("default", &format!("s{n}"))
}

fn port(n: i32) -> Port {
    Port::try_from(n).expect("port")
}

impl Event {
    /// The event that these bytes stand for.
    pub fn of([kind, n, variant]: [u8; 3]) -> Self {
        let n = n % NUMBERS;
        match kind % 8 {
            0..3 => Self::Service(n, (variant % 4 != 0).then_some(variant)),
            3..7 => Self::Slice(n, (variant % 5 != 0).then_some(variant)),
            _ => Self::Node((variant % 3 != 0).then_some(variant % 2 == 0)),
        }
    }

    pub fn apply(&self, snapshot: &mut Snapshot) {
        match *self {
            Self::Service(n, Some(variant)) => {
                snapshot.services.insert(id(n), Arc::new(service(n, variant)));
            }
            Self::Service(n, None) => drop(snapshot.services.remove(&id(n))),
            Self::Slice(n, Some(bits)) => snapshot.insert_slice(Arc::new(slice(n, bits))),
            Self::Slice(n, None) => snapshot.remove_slice(&id(n), "slice"),
            Self::Node(Some(zone)) => {
                let own = Node {
                    name: this_node(),
                    internal_ips: vec!["172.30.1.1".parse().expect("address")],
                    pod_cidrs: vec!["10.244.1.0/24".parse().expect("range")],
                    zone: Some(if zone { "za" } else { "zb" }.into()),
                    ready: true,
                    eligible: true,
                };
                snapshot.nodes.insert(this_node(), Arc::new(own));
            }
            Self::Node(None) => drop(snapshot.nodes.remove(&this_node())),
        }
        snapshot.generation += 1;
    }
}

fn service(n: u8, variant: u8) -> Service {
    let both = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    // Some claim the address of another one.
    let address = if variant & 8 == 0 { n } else { (n + 1) % NUMBERS };
    Service {
        id: id(n),
        kind: ServiceKind::Virtual,
        cluster_ips: vec![format!("10.96.0.{}", address + 1).parse().expect("address")],
        families: vec![IpFamily::V4],
        ports: both
            .map(|(name, protocol)| ServicePort {
                name: name.into(),
                protocol,
                port: port(80),
                node_port: (variant & 16 != 0).then(|| port(30_000 + i32::from(n))),
            })
            .into(),
        internal_policy: match variant & 4 {
            0 => TrafficPolicy::Cluster,
            _ => TrafficPolicy::Local,
        },
        external: External::default(),
        affinity_timeout_s: (variant & 2 != 0).then_some(60),
        publish_not_ready: false,
        foreign_proxy: false,
        created_s: 0,
        balance: Balance::Random,
    }
}

fn slice(n: u8, bits: u8) -> EndpointSlice {
    let both = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let endpoint = |bit: u8| Endpoint {
        address: format!("10.244.1.{}", bit + 1).parse().expect("address"),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some(if bit.is_multiple_of(2) { "node1" } else { "node2" }.parse().expect("name")),
        zone: None,
        zone_hints: vec![if bit < 3 { "za" } else { "zb" }.into()],
        node_hints: Vec::new(),
        pod: None,
    };
    EndpointSlice {
        id: NamespacedName::new("default", "slice"),
        service: id(n),
        family: IpFamily::V4,
        ports: both
            .map(|(name, protocol)| EndpointPort {
                name: name.into(),
                protocol,
                port: Some(port(8080)),
            })
            .into(),
        endpoints: (0..6).filter(|bit| bits & (1 << bit) != 0).map(endpoint).collect(),
    }
}

/// Numbers without end, from a seed (xorshift64).
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Whether it happens this time.
    pub fn percent(&mut self, chance: u64) -> bool {
        (self.next() >> 20) % 100 < chance
    }
}
