//! What every worker shares.

use crate::args::Args;
use crate::claims;
use crate::cni::Cni;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::files::DnsConfig;
use crate::sources::{self, Data, Kind, Sources};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use kube::api::{Api, PostParams};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// The ConfigMap that every pod mounts is read at most this often.
const ROOT_CA_MAX_AGE: Duration = Duration::from_secs(5);

/// Shared by all workers of a node.
pub struct Ctx {
    /// Arguments.
    pub args: Args,
    /// The API.
    pub client: kube::Client,
    /// Events.
    pub events: Events,
    /// The sandbox's helper.
    pub runtime: weft_sandbox::Runtime,
    /// Network plugins.
    pub cni: Cni,
    /// The node's addresses, primary family first.
    pub node_ips: Vec<IpAddr>,
    /// The cluster's primary family is IPv6.
    pub primary_v6: bool,
    /// Allocatable resources.
    pub allocatable: BTreeMap<String, String>,
    /// DNS configuration.
    pub dns: DnsConfig,
    /// All Services; `None` before the first list is complete.
    pub services: watch::Receiver<Option<Arc<Vec<Service>>>>,
    /// Creations that may run at once: on a small machine more of them only delay the first.
    pub slots: Semaphore,
    /// What the HTTP server may know of pods, by namespace and name.
    pub pods: Mutex<HashMap<(String, String), PodEntry>>,
    /// `kube-root-ca.crt` by namespace.
    pub root_ca: Mutex<HashMap<String, (Instant, Data)>>,
}

/// A pod as the HTTP server sees it.
#[derive(Clone)]
pub struct PodEntry {
    /// The pod with its last status.
    pub pod: Arc<Pod>,
    /// Its containers.
    pub containers: HashMap<String, ContainerEntry>,
}

/// A container as the HTTP server sees it.
#[derive(Clone)]
pub struct ContainerEntry {
    /// Where it runs.
    pub container: Option<weft_sandbox::Container>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// Log of the current run.
    pub log: PathBuf,
    /// Number of the current run.
    pub run: u32,
}

impl Ctx {
    /// Directory of what the kubelet keeps of a pod beyond its sandbox.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.args.dir.join("kubelet").join(uid)
    }

    /// Directory of the volumes that claims get.
    pub fn volumes_dir(&self) -> PathBuf {
        self.args.volumes.clone().unwrap_or_else(|| self.args.dir.join("volumes"))
    }

    /// File with the state of a pod.
    pub fn state_file(&self, uid: &str) -> PathBuf {
        self.args.dir.join("kubelet").join(format!("{uid}.json"))
    }

    /// Directory of a pod's sandbox.
    pub fn sandbox_dir(&self, uid: &str) -> PathBuf {
        self.args.dir.join("pods").join(uid)
    }

    /// cgroup of a pod's sandbox.
    pub fn sandbox_cgroup(&self, uid: &str) -> PathBuf {
        self.args.cgroup.join("pods").join(uid)
    }

    /// Log of one run of a container.
    pub fn log(&self, uid: &str, container: &str, run: u32) -> PathBuf {
        self.pod_dir(uid).join("logs").join(container).join(format!("{run}.log"))
    }

    /// The Services known now.
    pub fn services(&self) -> Arc<Vec<Service>> {
        self.services.borrow().clone().unwrap_or_default()
    }

    /// Reads ConfigMaps and Secrets; what does not exist is left out.
    pub async fn read(&self, ns: &str, wanted: BTreeSet<(Kind, String)>) -> Result<Sources> {
        let mut out = Sources::new();
        for (kind, name) in wanted {
            if let Some(data) = self.read_one(ns, kind, &name).await? {
                out.insert((kind, name), data);
            }
        }
        Ok(out)
    }

    async fn read_one(&self, ns: &str, kind: Kind, name: &str) -> Result<Option<Data>> {
        let root_ca = kind == Kind::ConfigMap && name == "kube-root-ca.crt";
        let lock = || self.root_ca.lock().expect("invariant: no panic under this lock");
        if root_ca
            && let Some((at, data)) = lock().get(ns)
            && at.elapsed() < ROOT_CA_MAX_AGE
        {
            return Ok(Some(data.clone()));
        }
        let failed = |source| Error::Api {
            op: format!("read {} \"{name}\"", kind.lower()),
            source: Box::new(source),
        };
        let client = self.client.clone();
        let data = match kind {
            Kind::ConfigMap => Api::<ConfigMap>::namespaced(client, ns)
                .get_opt(name)
                .await
                .map_err(failed)?
                .map(sources::config_map),
            Kind::Secret => Api::<Secret>::namespaced(client, ns)
                .get_opt(name)
                .await
                .map_err(failed)?
                .map(sources::secret),
        };
        if root_ca && let Some(d) = &data {
            lock().insert(ns.to_owned(), (Instant::now(), d.clone()));
        }
        Ok(data)
    }

    /// What lies behind a claim.
    pub async fn claim(&self, ns: &str, name: &str) -> Result<claims::Source> {
        let failed = |kind: &str, name: &str| {
            let op = format!("read {kind} \"{name}\"");
            move |source| Error::Api { op, source: Box::new(source) }
        };
        let all: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), ns);
        let claim = all.get_opt(name).await.map_err(failed("persistentvolumeclaim", name))?;
        let volume = claims::bound(name, claim.as_ref())?;
        let all: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = all.get_opt(&volume).await.map_err(failed("persistentvolume", &volume))?;
        claims::source(name, &volume, found.as_ref())
    }

    /// Whether the pod's service account forbids the mounting of its token. One that does not
    /// exist (yet) forbids nothing.
    pub async fn account_forbids_mount(&self, ns: &str, name: &str) -> bool {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), ns);
        let account = api.get_opt(name).await.ok().flatten();
        account.and_then(|a| a.automount_service_account_token) == Some(false)
    }

    /// A token for the pod's service account, bound to the pod.
    pub async fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String> {
        let ns = pod.metadata.namespace.as_deref().unwrap_or("default");
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref())
            .filter(|n| !n.is_empty())
            .unwrap_or("default");
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: (!audience.is_empty())
                    .then(|| audience.to_owned())
                    .into_iter()
                    .collect(),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            },
            ..Default::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), ns);
        let answer: TokenRequest = api
            .create_subresource("token", account, &PostParams::default(), &request)
            .await
            .map_err(|source| Error::Api {
                op: format!("request a token for service account \"{account}\""),
                source: Box::new(source),
            })?;
        answer
            .status
            .map(|s| s.token)
            .ok_or_else(|| Error::Config(format!("no token for service account \"{account}\"")))
    }
}
