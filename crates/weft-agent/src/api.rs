//! Where the API is: what was told, what the kubeconfig says, and what was learnt.
//!
//! The agent serves the `kubernetes` Service on its node, so it cannot need that Service to
//! start. The Service's endpoints are in every Snapshot; they are journalled, and with the next
//! start they stand in for the Service, and for a server of the kubeconfig that is away.

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};
use tracing::{info, warn};
use weft_kube::{Endpoints, Place};
use weft_model::{NamespacedName, Protocol, ServiceKind, Snapshot};

use crate::reconcile::Snapshots;

/// What was learnt of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Endpoints of the `kubernetes` Service.
    pub endpoints: Vec<SocketAddr>,
    /// Its own addresses.
    pub service: Vec<IpAddr>,
}

impl Known {
    /// What a snapshot tells; `None` where it knows no endpoint, which is no reason to forget
    /// those that were known.
    pub fn of(snapshot: &Snapshot) -> Option<Self> {
        let id = NamespacedName::new("default", "kubernetes");
        let mut endpoints: Vec<SocketAddr> = Vec::new();
        for slice in snapshot.slices_of(&id) {
            let tcp = || slice.ports.iter().filter(|p| p.protocol == Protocol::Tcp);
            let port = tcp().find(|p| &*p.name == "https").or_else(|| tcp().next());
            let Some(port) = port.and_then(|p| p.port) else { continue };
            let ready = slice.endpoints.iter().filter(|e| e.ready);
            endpoints.extend(ready.map(|e| SocketAddr::new(e.address, port.get())));
        }
        endpoints.sort();
        endpoints.dedup();
        let service = snapshot.services.get(&id).filter(|s| s.kind != ServiceKind::Headless);
        let service = service.map(|s| s.cluster_ips.clone()).unwrap_or_default();
        (!endpoints.is_empty()).then_some(Self { endpoints, service })
    }

    /// Reads the journal. One that is absent or damaged tells nothing: the API tells again.
    pub fn read(path: &Path) -> Self {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(e) => {
                warn!("{}: {e}", path.display());
                return Self::default();
            }
        };
        serde_json::from_slice(&text).unwrap_or_else(|e| {
            warn!("{}: {e}", path.display());
            Self::default()
        })
    }

    /// Writes the journal: whole, or not at all, also when the machine stops.
    pub fn write(&self, path: &Path) -> Result<()> {
        let temporary = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// The places to try. Endpoints that were given are the only ones. Else the kubeconfig's
    /// server comes first, but where it is the very Service that this node is to serve.
    pub fn places(&self, given: &[SocketAddr], host: &str, service_ranges: &[IpNet]) -> Vec<Place> {
        if !given.is_empty() {
            return given.iter().copied().map(Place::At).collect();
        }
        let learnt = self.endpoints.iter().copied().map(Place::At);
        let is_service = match host.parse::<IpAddr>() {
            Ok(ip) => self.service.contains(&ip) || service_ranges.iter().any(|r| r.contains(&ip)),
            // Names that only the cluster's DNS knows, which this node serves as well.
            Err(_) => host == "kubernetes" || host.starts_with("kubernetes.default"),
        };
        if is_service {
            learnt.chain([Place::Server]).collect()
        } else {
            [Place::Server].into_iter().chain(learnt).collect()
        }
    }
}

/// Follows the endpoints: the client learns of them at once, the journal keeps them.
pub async fn follow(
    mut snapshots: Snapshots,
    endpoints: Endpoints,
    journal: PathBuf,
    places: impl Fn(&Known) -> Vec<Place> + Send,
) -> Result<()> {
    let mut written = Known::read(&journal);
    loop {
        let known = snapshots.borrow_and_update().as_deref().and_then(Known::of);
        if let Some(known) = known.filter(|k| *k != written) {
            info!(endpoints = ?known.endpoints, "endpoints of the Kubernetes API");
            endpoints.set(places(&known));
            match known.write(&journal) {
                Ok(()) => written = known,
                // Tried again with the next snapshot; this run has what it needs.
                Err(e) => warn!("{e:#}"),
            }
        }
        snapshots.changed().await.context("the snapshots ended")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use weft_model::{Endpoint, EndpointPort, EndpointSlice, IpFamily, Port};

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn slice(port: &str, addresses: &[(&str, bool)]) -> EndpointSlice {
        let endpoint = |(address, ready): &(&str, bool)| Endpoint {
            address: address.parse().expect("an address"),
            ready: *ready,
            serving: *ready,
            terminating: false,
            hostname: None,
            node: None,
            zone: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
            pod: None,
        };
        let number = |n: i32| Some(Port::try_from(n).expect("a port"));
        let port_of = |name: &str, n| EndpointPort {
            name: name.into(),
            protocol: Protocol::Tcp,
            port: number(n),
        };
        EndpointSlice {
            id: NamespacedName::new("default", "kubernetes"),
            service: NamespacedName::new("default", "kubernetes"),
            family: IpFamily::V4,
            ports: vec![port_of("metrics", 1), port_of(port, 6443)],
            endpoints: addresses.iter().map(endpoint).collect(),
        }
    }

    fn snapshot(slice: EndpointSlice) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let of_service = [(slice.id.name.clone(), Arc::new(slice))].into_iter().collect();
        snapshot.slices.insert(NamespacedName::new("default", "kubernetes"), of_service);
        snapshot
    }

    #[test]
    fn the_endpoints_come_from_the_snapshot_and_survive_its_gaps() {
        let s = snapshot(slice(
            "https",
            &[("192.0.2.2", true), ("192.0.2.1", true), ("192.0.2.3", false)],
        ));
        let known = Known::of(&s).expect("endpoints");
        assert_eq!(known.endpoints, [at("192.0.2.1:6443"), at("192.0.2.2:6443")]);
        assert_eq!(Known::of(&snapshot(slice("https", &[]))), None);
        assert_eq!(Known::of(&Snapshot::default()), None);
    }

    #[test]
    fn the_journal_is_whole_or_ignored() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("api.json");
        assert_eq!(Known::read(&path), Known::default());
        let known = Known {
            endpoints: vec![at("192.0.2.1:6443"), at("[2001:db8::1]:6443")],
            service: vec!["10.96.0.1".parse().expect("an address")],
        };
        known.write(&path).expect("written");
        assert_eq!(Known::read(&path), known);
        let names: Vec<_> = fs::read_dir(dir.path()).expect("folder").flatten().collect();
        assert_eq!(names.len(), 1, "no temporary file is left");
        fs::write(&path, "{\"endpoints\": [\"192").expect("damaged");
        assert_eq!(Known::read(&path), Known::default());
    }

    #[test]
    fn the_service_itself_comes_last() {
        let known = Known {
            endpoints: vec![at("192.0.2.1:6443")],
            service: vec!["10.96.0.1".parse().expect("an address")],
        };
        let learnt = Place::At(at("192.0.2.1:6443"));
        let order = |known: &Known, host: &str| known.places(&[], host, &[]);
        assert_eq!(order(&known, "lb.example"), [Place::Server, learnt]);
        assert_eq!(order(&known, "198.51.100.7"), [Place::Server, learnt]);
        assert_eq!(order(&known, "10.96.0.1"), [learnt, Place::Server]);
        assert_eq!(order(&known, "kubernetes.default.svc"), [learnt, Place::Server]);
        let range = ["10.100.0.0/16".parse().expect("a range")];
        assert_eq!(known.places(&[], "10.100.0.1", &range), [learnt, Place::Server]);
        assert_eq!(
            known.places(&[at("192.0.2.9:1")], "10.96.0.1", &[]),
            [Place::At(at("192.0.2.9:1"))]
        );
        assert_eq!(order(&Known::default(), "10.96.0.1"), [Place::Server]);
    }
}
