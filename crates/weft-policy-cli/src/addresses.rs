//! Addresses for whom the manifests give none: pods of templates, nodes, somebody outside.
//!
//! An address that a policy's `ipBlock` happens to hold, or that another pod has, would make up a
//! verdict. So the input is searched for every address and range that it names, and what is
//! invented stays away from them: from single addresses always; from ranges where there is any
//! choice. (Nobody is outside of `0.0.0.0/0`, and then it is right that nobody is. A range with
//! exceptions names what it holds: whoever is in an exception is not named by it.)

use crate::Documents;
use ipnet::IpNet;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What an input names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    addresses: HashSet<IpAddr>,
    ranges: BTreeSet<Range>,
}

/// A range with its exceptions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    net: IpNet,
    except: Vec<IpNet>,
}

impl Range {
    /// Whether anything of `part` is in it.
    fn touches(&self, part: &IpNet) -> bool {
        (self.net.contains(part) || part.contains(&self.net))
            && !self.except.iter().any(|e| e.contains(part))
    }
}

impl Named {
    /// Everything that these documents name, wherever it stands.
    pub(crate) fn of<'d>(all: impl IntoIterator<Item = &'d Documents>) -> Self {
        let mut named = Self::default();
        for object in all.into_iter().flat_map(|d| &d.objects) {
            named.search(&object.value);
        }
        named
    }

    fn search(&mut self, value: &Value) {
        match value {
            Value::String(text) => {
                // Quick for all the texts that are none.
                if !text.contains([':', '.']) || text.len() > ADDRESS_LEN_MAX {
                    return;
                }
                if let Ok(address) = text.parse() {
                    self.addresses.insert(address);
                } else if let Ok(net) = text.parse::<IpNet>() {
                    self.ranges.insert(Range { net: net.trunc(), except: Vec::new() });
                }
            }
            Value::Array(items) => items.iter().for_each(|v| self.search(v)),
            Value::Object(fields) => {
                let net = fields.get("cidr").and_then(|c| c.as_str()?.parse::<IpNet>().ok());
                let Some(net) = net else {
                    return fields.values().for_each(|v| self.search(v));
                };
                let except = fields.get("except").and_then(Value::as_array).into_iter().flatten();
                let except = except.filter_map(|e| e.as_str()?.parse::<IpNet>().ok());
                let except = except.map(|e| e.trunc()).collect();
                self.ranges.insert(Range { net: net.trunc(), except });
            }
            _ => {}
        }
    }
}

/// The longest text of an address or range, with room for a zone and a sign.
const ADDRESS_LEN_MAX: usize = 64;

/// Where to choose from, the first first; taken a piece at a time.
struct Pools {
    pools: &'static [&'static str],
    /// How long the prefix of a piece is.
    piece: u8,
}

/// Addresses in one family for one purpose.
#[derive(Debug)]
struct Supply {
    /// Pieces that were not looked at yet, the next last.
    fresh: Vec<IpNet>,
    /// Those that some ranges touch, by how many and in their order.
    touched: BTreeMap<(usize, usize), IpNet>,
    /// The piece in use, and the next address of it.
    open: Option<(IpNet, u32)>,
}

/// Pieces of a pool that are looked at, so that a wide one does not cost its width.
const PIECES_MAX: usize = 256;
/// Hosts of a piece: from 2, since 1 is a router in most networks, to the last of 8 bits but one.
const HOST_FIRST: u32 = 2;
const HOST_LAST: u32 = 254;

impl Supply {
    fn new(pools: &Pools) -> Self {
        let nets = pools.pools.iter().filter_map(|p| p.parse::<IpNet>().ok());
        let pieces =
            nets.flat_map(|n| n.subnets(pools.piece).into_iter().flatten().take(PIECES_MAX));
        let mut fresh: Vec<IpNet> = pieces.collect();
        fresh.reverse();
        Self { fresh, touched: BTreeMap::new(), open: None }
    }

    /// The piece with the fewest ranges in it, of those that are left.
    fn piece(&mut self, named: &Named) -> Option<IpNet> {
        while let Some(piece) = self.fresh.pop() {
            let touched = named.ranges.iter().filter(|r| r.touches(&piece)).count();
            if touched == 0 {
                return Some(piece);
            }
            self.touched.insert((touched, self.touched.len()), piece);
        }
        self.touched.pop_first().map(|(_, piece)| piece)
    }

    fn next(&mut self, named: &Named) -> Option<IpAddr> {
        loop {
            let (piece, host) = match self.open {
                Some((piece, host)) if host <= HOST_LAST => (piece, host),
                _ => (self.piece(named)?, HOST_FIRST),
            };
            self.open = Some((piece, host + 1));
            let address = host_of(piece, host);
            if !named.addresses.contains(&address) {
                return Some(address);
            }
        }
    }
}

fn host_of(net: IpNet, host: u32) -> IpAddr {
    match net.network() {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() | host).into(),
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() | u128::from(host)).into(),
    }
}

/// Each pool has its purpose: no address is given out twice.
const PODS: [Pools; 2] = [
    Pools {
        pools: &[
            "10.244.0.0/16",
            "100.64.0.0/16",
            "192.168.0.0/16",
            "172.20.0.0/16",
            "198.18.0.0/16",
        ],
        piece: 24,
    },
    Pools { pools: &["fd00:10:244::/56", "fdf5:77e6:7c12::/56", "2001:db8:244::/56"], piece: 64 },
];
const NODES: [Pools; 2] = [
    Pools {
        pools: &["172.31.0.0/20", "10.31.0.0/20", "100.127.0.0/20", "198.19.0.0/20"],
        piece: 24,
    },
    Pools { pools: &["fd00:172:31::/60", "fdf5:77e6:31::/60", "2001:db8:31::/60"], piece: 64 },
];
/// Addresses that documentation may use (RFC 5737, RFC 3849): on no account somebody's own.
const OUTSIDE: [Pools; 2] = [
    Pools { pools: &["198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24"], piece: 24 },
    Pools { pools: &["2001:db8:c0ff:ee::/64", "2001:db8:face::/60"], piece: 64 },
];

/// Invents addresses.
#[derive(Debug)]
pub(crate) struct Inventor {
    named: Named,
    pods: [Supply; 2],
    nodes: [Supply; 2],
    outside: [Supply; 2],
}

impl Inventor {
    /// One that stays away from what is named.
    pub(crate) fn new(named: Named) -> Self {
        let supplies = |pools: &[Pools; 2]| [Supply::new(&pools[0]), Supply::new(&pools[1])];
        Self { pods: supplies(&PODS), nodes: supplies(&NODES), outside: supplies(&OUTSIDE), named }
    }

    /// For a pod: one address of each family.
    pub(crate) fn pod(&mut self) -> Vec<IpAddr> {
        self.pods.iter_mut().filter_map(|s| s.next(&self.named)).collect()
    }

    /// For a node: one address of each family.
    pub(crate) fn node(&mut self) -> Vec<IpAddr> {
        self.nodes.iter_mut().filter_map(|s| s.next(&self.named)).collect()
    }

    /// For somebody outside: one address of each family.
    pub(crate) fn outside(&mut self) -> Vec<IpAddr> {
        self.outside.iter_mut().filter_map(|s| s.next(&self.named)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    fn inventor(text: &str) -> Inventor {
        let source = Source { name: "a.yaml".into(), text: text.into() };
        Inventor::new(Named::of([&Documents::parse(vec![source]).expect("YAML")]))
    }

    fn pods(text: &str, count: usize) -> Vec<String> {
        let mut inventor = inventor(text);
        (0..count).map(|_| inventor.pod()[0].to_string()).collect()
    }

    #[test]
    fn what_is_named_is_not_given_out() {
        assert_eq!(pods("{}", 2), ["10.244.0.2", "10.244.0.3"]);
        assert_eq!(pods("a: [10.244.0.2, 10.244.0.4]", 2), ["10.244.0.3", "10.244.0.5"]);
        assert_eq!(pods("networks: [10.244.0.0/24]", 1), ["10.244.1.2"]);
        assert_eq!(pods("cidr: 10.0.0.0/8", 1), ["100.64.0.2"]);
        // A range within a piece: the piece is left alone.
        assert_eq!(pods("cidr: 10.244.0.128/25", 1), ["10.244.1.2"]);
        // An exception is not named by its range; another range may name it.
        let all_but = "a: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}";
        assert_eq!(pods(all_but, 1), ["10.244.0.2"]);
        let both = format!("{all_but}\nb: {{cidr: 10.244.0.0/16}}\nc: {{cidr: 10.128.0.0/9}}");
        assert_eq!(pods(&both, 1), ["100.64.0.2"]);
        // Where everything is named, the least named, in order.
        assert_eq!(pods("a: {cidr: 0.0.0.0/0}\nb: {cidr: 10.0.0.0/8}", 1), ["100.64.0.2"]);
        let outside =
            |text| inventor(text).outside().iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(outside("{}"), ["198.51.100.2", "2001:db8:c0ff:ee::2"]);
        assert_eq!(outside("cidr: 198.51.100.0/24"), ["203.0.113.2", "2001:db8:c0ff:ee::2"]);
        assert_eq!(outside("a: 2001:db8:c0ff:ee::2/64")[1], "2001:db8:face::2");
        assert_eq!(inventor("cidr: 172.31.0.0/16").node()[0].to_string(), "10.31.0.2");
    }

    #[test]
    fn there_are_enough_for_every_pod() {
        let mut inventor = inventor("cidr: 10.244.0.0/17");
        let mut all = BTreeSet::new();
        for _ in 0..crate::limits::PODS_MAX {
            let addresses = inventor.pod();
            assert_eq!(addresses.len(), 2);
            assert!(addresses.iter().all(|a| all.insert(*a)), "{addresses:?} twice");
        }
    }
}
