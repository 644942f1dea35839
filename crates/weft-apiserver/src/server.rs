//! The server's state, and its public face.

use crate::{
    Error,
    alloc::Pools,
    auth::Authenticator,
    config::Config,
    definitions::{Known, definitions},
    http::{InProcess, serve},
    metrics::Metrics,
    registry::Registry,
    store::{Attrs, Store},
    tls::Tls,
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weft_kinds::{Kind, kinds};

/// The embedded API server. Clones share one state.
#[derive(Clone)]
pub struct ApiServer(pub(crate) Arc<State>);

pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) store: Store,
    /// Addresses and ports given to Services. They are given and given back only inside a store
    /// transaction; what is read outside of one may be old already. The store is never asked
    /// while this is locked.
    pub(crate) pools: Mutex<Pools>,
    pub(crate) auth: Authenticator,
    pub(crate) shutdown: CancellationToken,
    /// Room for request bodies, in KiB.
    pub(crate) body_room: Semaphore,
    pub(crate) registry: RwLock<Arc<Registry>>,
    /// Held by whoever brings kinds in line with the definitions.
    pub(crate) definitions: Mutex<Known>,
    pub(crate) metrics: Metrics,
}

impl ApiServer {
    /// Starts with the objects of `config.data_dir`, and makes the namespaces and the
    /// `kubernetes` Service that every cluster has.
    pub fn new(config: Config) -> Result<Self, Error> {
        let store = match &config.data_dir {
            None => Store::in_memory(config.watch_history),
            Some(dir) => Store::open(dir, config.sync, config.watch_history, |table, value| {
                let (group, plural) = table.split_once('/').unwrap_or(("", table));
                // What a definition selects by is known once it is registered; labels are there.
                let known = kinds().iter().find(|k| k.group == group && k.plural == plural);
                attrs(known.unwrap_or(definitions()), value)
            })
            .map_err(|e| Error::io("open the journal in", dir, e))?,
        };
        let registry = Registry::new(&store, Default::default());
        let pools = Pools::new(&config.service_cidrs, config.node_ports.clone())?;
        let auth = Authenticator::new(&config);
        let body_room = Semaphore::new(config.limits.body_bytes >> 10);
        let state = State {
            config,
            store,
            pools: Mutex::new(pools),
            auth,
            shutdown: CancellationToken::new(),
            body_room,
            registry: RwLock::new(Arc::new(registry)),
            definitions: Mutex::default(),
            metrics: Metrics::default(),
        };
        state.sync_definitions();
        state.restore_pools();
        state.bootstrap()?;
        Ok(Self(Arc::new(state)))
    }

    /// A service for in-process clients such as `kube::Client::new`; its requests come from
    /// `system:masters`. Streams that need an upgrade (exec, port-forward) go over the network.
    pub fn service(&self) -> InProcess {
        InProcess::new(self.clone())
    }

    /// Serves TLS on all listeners until [`shutdown`](Self::shutdown). The sockets may come from
    /// another network namespace.
    pub async fn serve(
        &self,
        listeners: Vec<std::net::TcpListener>,
        tls: Tls,
    ) -> Result<(), Error> {
        serve::serve(self.clone(), listeners, tls).await
    }

    /// Ends [`serve`](Self::serve) and every watch.
    pub fn shutdown(&self) {
        self.0.shutdown.cancel();
    }
}

impl State {
    pub(crate) fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().expect("invariant: nothing panics while it holds the pools")
    }
}

/// The table's name in the journal.
pub(crate) fn table_name(kind: &Kind) -> String {
    format!("{}/{}", kind.group, kind.plural)
}

/// What selectors may ask of this object.
pub(crate) fn attrs(kind: &Kind, object: &Value) -> Attrs {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    Attrs::new(
        labels
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into()))),
        kind.selectable
            .iter()
            .filter_map(|path| Some((path.as_str().into(), kind.field(object, path)?.into()))),
    )
}

/// The `kubernetes` Service in `default` and its endpoints.
pub(crate) fn kubernetes_service(config: &Config) -> Vec<Value> {
    let Some(cidr) = config.service_cidrs.first() else { return Vec::new() };
    // The subnet-router anycast address of an IPv6 range (RFC 4291, 2.6.1) is no host.
    let Some(first) = cidr.hosts().find(|a| *a != cidr.network()) else { return Vec::new() };
    let (family, kind) = match first {
        std::net::IpAddr::V4(_) => ("IPv4", true),
        std::net::IpAddr::V6(_) => ("IPv6", false),
    };
    let ports = json!([{"name": "https", "protocol": "TCP", "port": config.advertise_port}]);
    // A loopback address is no endpoint: each reader has its own.
    let reachable = config.advertise.iter().filter(|a| a.is_ipv4() == kind && !a.is_loopback());
    let addresses: Vec<String> = reachable.map(ToString::to_string).collect();
    let mut all = vec![json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": first.to_string(), "clusterIPs": [first.to_string()],
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443,
                "targetPort": config.advertise_port}],
        },
    })];
    if !addresses.is_empty() {
        all.push(json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{
                "addresses": addresses.iter().map(|a| json!({"ip": a})).collect::<Vec<_>>(),
                "ports": [{"name": "https", "port": config.advertise_port, "protocol": "TCP"}],
            }],
        }));
        all.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": [{"addresses": addresses, "conditions": {"ready": true}}],
            "ports": ports,
        }));
    }
    all
}
