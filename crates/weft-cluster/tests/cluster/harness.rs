//! A cluster in memory: API, controllers, and kubelets that say of every pod that it runs.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;
use weft_cluster::Config;

/// How long anything may take. Generous: the machine may be busy; conditions end the wait.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub client: Client,
    /// Nodes whose kubelet is silent.
    pub silent: Arc<Mutex<Vec<String>>>,
    /// Labels `app` of pods that never become ready.
    pub broken: Arc<Mutex<Vec<String>>>,
    _stop: DropGuard,
}

impl Cluster {
    pub async fn new(nodes: usize) -> Self {
        Self::with(nodes, |_| {}).await
    }

    pub async fn with(nodes: usize, change: impl FnOnce(&mut Config)) -> Self {
        let server = weft_apiserver::ApiServer::new(weft_apiserver::Config::default())
            .expect("an API server");
        let client = Client::new(server.service(), "default");
        let mut config = Config {
            pod_cidrs: ["10.244.0.0/16", "fd00:10:244::/56"]
                .map(|text| text.parse().expect("a range"))
                .into(),
            ca_pem: "the authority".into(),
            ..Config::default()
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let silent = Arc::new(Mutex::new(Vec::new()));
        let broken = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(kubelets(client.clone(), silent.clone(), broken.clone(), stop.clone()));
        let (of_run, token) = (client.clone(), stop.clone());
        tokio::spawn(async move {
            weft_cluster::run(of_run, config, token).await.expect("the controllers run");
        });
        let cluster = Self { client, silent, broken, _stop: stop.drop_guard() };
        for number in 0..nodes {
            cluster.node(&format!("node-{number}")).await;
        }
        cluster
    }

    pub async fn node(&self, name: &str) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": "z1"}},
        });
        self.create::<Node>(node).await;
        let status = json!({"status": {
            "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        Api::<Node>::all(self.client.clone())
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("a node's status");
    }

    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates an object where its metadata says.
    pub async fn create<K: k8s_openapi::Resource + DeserializeOwned>(&self, body: Value) -> K {
        let root = if K::API_VERSION.contains('/') { "/apis" } else { "/api" };
        let namespace = match body["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("/namespaces/{namespace}"),
            None => String::new(),
        };
        let mut body = body;
        body["apiVersion"] = K::API_VERSION.into();
        body["kind"] = K::KIND.into();
        let uri = format!("{root}/{}{namespace}/{}", K::API_VERSION, K::URL_PATH_SEGMENT);
        let request = http::Request::post(uri)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .expect("a request");
        self.client.request(request).await.unwrap_or_else(|error| panic!("{error}: {body:#}"))
    }

    /// Any request about any kind.
    pub async fn send(&self, method: &str, uri: &str, body: Value) -> Result<Value, kube::Error> {
        let content =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(uri);
        let request = request.header("content-type", content);
        let request = request.body(body.to_string().into_bytes()).expect("a request");
        self.client.request(request).await
    }

    pub async fn list<K>(&self, namespace: &str, labels: &str) -> Vec<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let params = ListParams::default().labels(labels);
        self.api::<K>(namespace).list(&params).await.expect("a list").items
    }

    pub async fn patch<K>(&self, namespace: &str, name: &str, body: Value) -> K
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug
            + Serialize,
    {
        let api = self.api::<K>(namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await.expect("a patch")
    }

    /// Waits until `test` gives something; then says how long that took.
    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut test: impl FnMut() -> F,
    ) -> (T, Duration) {
        let begin = Instant::now();
        loop {
            if let Some(found) = test().await {
                return (found, begin.elapsed());
            }
            if begin.elapsed() > PATIENCE {
                self.dump().await;
                panic!("in vain for {what}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until nothing has been written for half a second.
    pub async fn rest(&self) {
        let version = || async {
            let request = http::Request::get("/api/v1/pods").body(Vec::new()).expect("a request");
            let list: Value = self.client.request(request).await.expect("a list");
            list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
        };
        self.until("half a second without a write", || async {
            // Waiting is the measurement here: nothing must happen meanwhile.
            let before = version().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            (version().await == before).then_some(())
        })
        .await;
    }

    /// The whole state, for the reader of a failure.
    async fn dump(&self) {
        for path in [
            "/api/v1/nodes",
            "/api/v1/pods",
            "/api/v1/persistentvolumeclaims",
            "/api/v1/persistentvolumes",
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/replicasets",
            "/apis/apps/v1/statefulsets",
            "/apis/apps/v1/daemonsets",
            "/apis/batch/v1/jobs",
            "/apis/discovery.k8s.io/v1/endpointslices",
            "/api/v1/namespaces",
            "/api/v1/events",
        ] {
            let request = http::Request::get(path).body(Vec::new()).expect("a request");
            let list: Value = self.client.request(request).await.unwrap_or_default();
            for mut item in list["items"].as_array().cloned().unwrap_or_default() {
                item["metadata"]["managedFields"] = Value::Null;
                item["spec"]["template"] = Value::Null;
                eprintln!("{path}: {item}");
            }
        }
    }

    /// Waits until exactly this many pods with the label are ready and not on their way out.
    pub async fn ready(&self, namespace: &str, labels: &str, count: usize) -> Vec<Pod> {
        let what = format!("{count} ready pods with {labels}");
        let found = self.until(&what, || async {
            let pods = self.list::<Pod>(namespace, labels).await;
            let all = pods.iter().all(is_ready) && pods.len() == count;
            all.then_some(pods)
        });
        found.await.0
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

pub fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

pub fn per_node(pods: &[Pod]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for pod in pods {
        *count.entry(node_of(pod)).or_default() += 1;
    }
    count
}

/// Every bound pod runs and is ready at once; every deleted one ends at once. A pod labelled
/// `job` succeeds instead.
async fn kubelets(
    client: Client,
    silent: Arc<Mutex<Vec<String>>>,
    broken: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
) {
    static ADDRESS: AtomicU32 = AtomicU32::new(1);
    let events = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default());
    let mut events = std::pin::pin!(events);
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        let (watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) =
            event.expect("watches do not end").expect("a watch")
        else {
            continue;
        };
        let node = node_of(&pod);
        if node.is_empty() || silent.lock().expect("no panic").contains(&node) {
            continue;
        }
        let name = pod.metadata.name.clone().unwrap_or_default();
        let api: Api<Pod> =
            Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let app = labels.get("app").cloned().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            // Gone already: somebody deleted it at once.
            let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
            continue;
        }
        if pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some()) {
            continue;
        }
        let number = ADDRESS.fetch_add(1, Ordering::Relaxed);
        let (v4, v6) = (
            format!("10.244.{}.{}", number / 250, number % 250 + 1),
            format!("fd00:10:244::{number:x}"),
        );
        let ready = !broken.lock().expect("no panic").contains(&app);
        let phase = if labels.contains_key("job") { "Succeeded" } else { "Running" };
        let status = json!({"status": {
            "phase": phase, "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}],
        }});
        let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
    }
}

/// A Deployment of `app`.
pub fn deployment(app: &str, replicas: u32, image: &str) -> Value {
    json!({
        "metadata": {"name": app, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}},
            "template": template(app, image)},
    })
}

pub fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": image,
            "ports": [{"name": "web", "containerPort": 8080}]}]},
    })
}
