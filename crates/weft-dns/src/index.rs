//! What the names of the cluster stand for: built once per snapshot, read by every query.

use crate::{wire::name_to_wire, zone::Zone};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use weft_model::{
    Endpoint, EndpointSlice, NamespacedName, Protocol, Service, ServiceKind, Snapshot,
};

/// Addresses of a name, by family, in a stable order and without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub v4: Vec<Ipv4Addr>,
    pub v6: Vec<Ipv6Addr>,
}

impl Addresses {
    fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.v4.push(a),
            IpAddr::V6(a) => self.v6.push(a),
        }
    }

    /// Slices may name an endpoint twice while it moves between them.
    fn settle(&mut self) {
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v6.sort_unstable();
        self.v6.dedup();
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut out = Self::default();
        addresses.into_iter().for_each(|a| out.add(a));
        out.settle();
        out
    }
}

/// Where an SRV record points: a host of the Service (`None`: the Service itself) and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SrvTarget {
    pub host: Option<Arc<str>>,
    pub port: u16,
}

/// The targets of one named port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SrvPort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub targets: Vec<SrvTarget>,
}

/// The names under one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServiceNames {
    /// Has addresses, and perhaps named ports and hosts below it.
    Hosts {
        /// Of the Service's own name.
        addresses: Addresses,
        /// Of `<hostname>.<service>`; only under headless Services.
        hosts: HashMap<Arc<str>, Addresses>,
        /// `_<port>._<protocol>.<service>`.
        ports: Vec<SrvPort>,
    },
    /// An ExternalName: the target on the wire in lower case; `None` where `externalName` is no
    /// domain name.
    Alias(Option<Box<[u8]>>),
    /// A headless Service without a ready endpoint: the specification says that its name does
    /// not exist.
    Nothing,
}

/// What a Service's names were built from, to be taken over while nothing of it changes.
#[derive(Clone, Debug)]
struct Built {
    service: Arc<Service>,
    /// Only those of a headless Service: the names of others do not depend on endpoints.
    slices: Vec<Arc<EndpointSlice>>,
    names: Arc<ServiceNames>,
}

impl Built {
    /// Whether it was built from just these objects (shared, not merely equal).
    fn same_sources(&self, service: &Arc<Service>, slices: &[Arc<EndpointSlice>]) -> bool {
        Arc::ptr_eq(&self.service, service)
            && self.slices.len() == slices.len()
            && self.slices.iter().zip(slices).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// A name that an address stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReverseName {
    pub service: NamespacedName,
    pub host: Option<Arc<str>>,
}

/// The Service whose address is the cluster's DNS server.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Everything that answers need, of one snapshot.
#[derive(Clone, Debug)]
pub struct DnsIndex {
    generation: u64,
    zone: Zone,
    namespaces: HashMap<Arc<str>, HashMap<Arc<str>, Built>>,
    reverse: HashMap<IpAddr, Vec<ReverseName>>,
    /// Where pods' addresses come from: the ranges of the nodes, and the nodes' own addresses
    /// (pods on the host network).
    pod_ranges: Vec<IpNet>,
    name_server: Addresses,
}

impl DnsIndex {
    /// Builds the index of a snapshot. What did not change since `previous` is taken over from
    /// it; the result is the same without.
    pub fn build(snapshot: &Snapshot, zone: &Zone, previous: Option<&Self>) -> Self {
        let mut namespaces: HashMap<Arc<str>, HashMap<Arc<str>, Built>> =
            snapshot.namespaces.keys().map(|n| (n.clone(), HashMap::new())).collect();
        let mut reverse: HashMap<IpAddr, Vec<ReverseName>> = HashMap::new();
        for (id, service) in &snapshot.services {
            let slices: Vec<Arc<EndpointSlice>> = match service.kind {
                ServiceKind::Headless => {
                    snapshot.slices.get(id).into_iter().flat_map(|s| s.values().cloned()).collect()
                }
                _ => Vec::new(),
            };
            let names = previous
                .and_then(|p| p.namespaces.get(&id.namespace)?.get(&id.name))
                .filter(|b| b.same_sources(service, &slices))
                .map_or_else(|| Arc::new(names_of(service, &slices)), |b| b.names.clone());
            add_reverse(&mut reverse, service, &names);
            // Namespaces and Services come by different watches: a Service is proof enough.
            let of_namespace = namespaces.entry(id.namespace.clone()).or_default();
            of_namespace.insert(id.name.clone(), Built { service: service.clone(), slices, names });
        }
        let nodes = snapshot.nodes.values();
        let ranges = nodes.flat_map(|n| {
            n.pod_cidrs.iter().copied().chain(n.internal_ips.iter().map(|ip| IpNet::from(*ip)))
        });
        let dns = NamespacedName::new(DNS_SERVICE.0, DNS_SERVICE.1);
        let name_server = snapshot.services.get(&dns).map(|s| s.cluster_ips.as_slice());
        Self {
            generation: snapshot.generation,
            zone: zone.clone(),
            namespaces,
            reverse,
            pod_ranges: ranges.collect(),
            name_server: Addresses::of(name_server.into_iter().flatten().copied()),
        }
    }

    /// Whether the indexes of both snapshots answer the same: endpoints of Services that are not
    /// headless, which change most often, have no names. Costs what is different.
    pub fn same_answers(before: &Snapshot, next: &Snapshot) -> bool {
        let is_named = |id| {
            let service = next.services.get(id);
            service.is_some_and(|s| s.kind == ServiceKind::Headless)
        };
        before.services == next.services
            && before.nodes == next.nodes
            // Labels of namespaces are policies' business.
            && !before.namespaces.diff(&next.namespaces).any(|d| d.before.is_none() || d.after.is_none())
            && !before.slices.diff(&next.slices).any(|d| is_named(d.key))
    }

    /// Generation of the snapshot.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The zone.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    pub(crate) fn has_namespace(&self, namespace: &[u8]) -> bool {
        str(namespace).is_some_and(|n| self.namespaces.contains_key(n))
    }

    pub(crate) fn service(&self, namespace: &[u8], service: &[u8]) -> Option<&ServiceNames> {
        let built = self.namespaces.get(str(namespace)?)?.get(str(service)?)?;
        Some(&built.names)
    }

    pub(crate) fn reverse(&self, address: IpAddr) -> &[ReverseName] {
        self.reverse.get(&address).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the address may be a pod's, so that this server knows whether it has a name.
    pub(crate) fn may_be_pod(&self, address: IpAddr) -> bool {
        self.pod_ranges.iter().any(|r| r.contains(&address))
    }

    pub(crate) fn name_server(&self) -> &Addresses {
        &self.name_server
    }
}

#[cfg(test)]
impl PartialEq for DnsIndex {
    fn eq(&self, other: &Self) -> bool {
        let names = |i: &Self| -> HashMap<Arc<str>, HashMap<Arc<str>, Arc<ServiceNames>>> {
            let services = |s: &HashMap<Arc<str>, Built>| {
                s.iter().map(|(k, b)| (k.clone(), b.names.clone())).collect()
            };
            i.namespaces.iter().map(|(k, s)| (k.clone(), services(s))).collect()
        };
        names(self) == names(other)
            && self.reverse == other.reverse
            && self.pod_ranges == other.pod_ranges
            && self.name_server == other.name_server
    }
}

fn str(label: &[u8]) -> Option<&str> {
    std::str::from_utf8(label).ok()
}

fn names_of(service: &Service, slices: &[Arc<EndpointSlice>]) -> ServiceNames {
    match &service.kind {
        ServiceKind::ExternalName(target) => {
            ServiceNames::Alias(name_to_wire(&target.to_ascii_lowercase()))
        }
        ServiceKind::Virtual => ServiceNames::Hosts {
            addresses: Addresses::of(service.cluster_ips.iter().copied()),
            hosts: HashMap::new(),
            // Specification 2.3.2: named ports only.
            ports: service
                .ports
                .iter()
                .filter(|p| !p.name.is_empty())
                .map(|p| SrvPort {
                    name: p.name.clone(),
                    protocol: p.protocol,
                    targets: vec![SrvTarget { host: None, port: p.port.get() }],
                })
                .collect(),
        },
        ServiceKind::Headless => headless(service, slices),
    }
}

fn headless(service: &Service, slices: &[Arc<EndpointSlice>]) -> ServiceNames {
    let mut addresses = Addresses::default();
    let mut hosts: HashMap<Arc<str>, Addresses> = HashMap::new();
    let mut ports: BTreeMap<(Arc<str>, Protocol), BTreeSet<SrvTarget>> = BTreeMap::new();
    for slice in slices {
        for endpoint in &slice.endpoints {
            if !endpoint.ready && !service.publish_not_ready {
                continue;
            }
            let host = host_of(endpoint);
            addresses.add(endpoint.address);
            hosts.entry(host.clone()).or_default().add(endpoint.address);
            for port in slice.ports.iter().filter(|p| !p.name.is_empty()) {
                // "All ports" is no port to point to.
                let Some(number) = port.port else { continue };
                ports
                    .entry((port.name.clone(), port.protocol))
                    .or_default()
                    .insert(SrvTarget { host: Some(host.clone()), port: number.get() });
            }
        }
    }
    if addresses.is_empty() {
        return ServiceNames::Nothing;
    }
    addresses.settle();
    hosts.values_mut().for_each(Addresses::settle);
    let ports = ports
        .into_iter()
        .map(|((name, protocol), targets)| SrvPort {
            name,
            protocol,
            targets: targets.into_iter().collect(),
        })
        .collect();
    ServiceNames::Hosts { addresses, hosts, ports }
}

/// The label of an endpoint below its Service: its hostname, or a name made of its address
/// (the specification asks for "a unique, system-assigned identifier").
fn host_of(endpoint: &Endpoint) -> Arc<str> {
    match &endpoint.hostname {
        Some(h) if !h.is_empty() && h.len() <= 63 && !h.contains('.') => {
            if h.bytes().any(|b| b.is_ascii_uppercase()) {
                h.to_ascii_lowercase().into()
            } else {
                h.clone()
            }
        }
        _ => dashed(endpoint.address).into(),
    }
}

/// An address as a label, the way that CoreDNS spells it: `10-244-1-5`, `fd00--5`. Where that
/// would begin or end with a dash (`::1`), which is no host name, all groups are written.
pub(crate) fn dashed(address: IpAddr) -> String {
    let short = address.to_string().replace(['.', ':'], "-");
    match address {
        IpAddr::V6(a) if short.starts_with('-') || short.ends_with('-') => {
            a.segments().map(|s| format!("{s:x}")).join("-")
        }
        _ => short,
    }
}

/// The address that a label of dashes spells.
pub(crate) fn undashed(label: &[u8]) -> Option<IpAddr> {
    let label = str(label)?;
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

fn add_reverse(
    reverse: &mut HashMap<IpAddr, Vec<ReverseName>>,
    service: &Service,
    names: &ServiceNames,
) {
    for ip in &service.cluster_ips {
        let name = ReverseName { service: service.id.clone(), host: None };
        reverse.entry(*ip).or_default().push(name);
    }
    let ServiceNames::Hosts { hosts, .. } = names else { return };
    for (host, addresses) in hosts {
        let all = addresses.v4.iter().map(|a| IpAddr::V4(*a));
        for ip in all.chain(addresses.v6.iter().map(|a| IpAddr::V6(*a))) {
            let name = ReverseName { service: service.id.clone(), host: Some(host.clone()) };
            let of_ip = reverse.entry(ip).or_default();
            // Kept in order, whatever the order of `hosts`.
            if let Err(at) = of_ip.binary_search(&name) {
                of_ip.insert(at, name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_labels() {
        for (ip, label) in [
            ("10.244.1.5", "10-244-1-5"),
            ("fd00:10:244:1::5", "fd00-10-244-1--5"),
            ("::1", "0-0-0-0-0-0-0-1"),
            ("fd00::", "fd00-0-0-0-0-0-0-0"),
        ] {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(dashed(ip), label);
            assert_eq!(undashed(label.as_bytes()), Some(ip));
        }
        assert_eq!(undashed(b"--1"), Some("::1".parse().expect("an address")));
        for bad in [&b"1-2-3"[..], b"web", b"1-2-3-4-5", b"\xff", b"", b"-"] {
            assert_eq!(undashed(bad), None);
        }
    }
}
