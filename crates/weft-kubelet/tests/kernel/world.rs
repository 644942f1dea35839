//! A node: network namespace, embedded API, kubelet process; all gone when dropped.

use clap::Parser;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weft_apiserver::{ApiServer, Config, Pki, Token, kubeconfig, random_token};

/// Nothing here takes longer than this unless it is broken.
const PATIENCE: Duration = Duration::from_secs(40);
/// Namespace of the tests' objects.
pub const NS: &str = "default";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: weft_kubelet::Args,
}

/// The kubelet under test.
pub fn kubelet(args: &[String]) -> ! {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let cli = Cli::parse_from(args);
    let code = match weft_kubelet::run(cli.args) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{e:#}");
            1
        }
    };
    std::process::exit(code);
}

/// A node and its API.
pub struct World {
    pub dir: PathBuf,
    cgroup: PathBuf,
    netns: File,
    child: Mutex<Option<Child>>,
    api: ApiServer,
    runtime: tokio::runtime::Runtime,
    pub client: kube::Client,
}

impl World {
    pub fn new() -> Self {
        let dir = PathBuf::from(format!("/run/weft-kubelet-test-{}", std::process::id()));
        let cgroup = PathBuf::from(format!("weft-kubelet-test-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("cni/net.d")).unwrap();
        std::fs::create_dir_all(dir.join("cni/bin")).unwrap();
        let plugin = dir.join("cni/bin/play");
        let script = format!(
            "#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = STATUS ] && exit 0\n\
             echo \"$CNI_COMMAND $CNI_IFNAME $CNI_CONTAINERID $CNI_ARGS\" >>{0}/cni.log\n\
             [ $CNI_COMMAND = DEL ] || [ -e \"$CNI_NETNS\" ] || exit 1\n\
             echo '{{\"cniVersion\":\"1.1.0\",\"ips\":[{{\"address\":\"fd00::5/128\"}},\
             {{\"address\":\"10.244.1.5/32\"}}]}}'\n",
            dir.display()
        );
        std::fs::write(&plugin, script).unwrap();
        std::fs::set_permissions(&plugin, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(
            dir.join("cni/net.d/10-play.conflist"),
            r#"{"cniVersion":"1.1.0","name":"play","plugins":[{"type":"play"}]}"#,
        )
        .unwrap();
        // A socket keeps the namespace that it was made in.
        let (netns, listener) = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            let netns = File::open("/proc/thread-self/ns/net").unwrap();
            (netns, TcpListener::bind("127.0.0.1:0").unwrap())
        })
        .join()
        .unwrap();
        let token = random_token();
        let api = ApiServer::new(Config {
            tokens: vec![Token {
                token: token.clone(),
                user: "admin".into(),
                groups: vec!["system:masters".into()],
            }],
            kubelet_socket: Arc::new({
                let socket = dir.join("kubelet.sock");
                move |_| socket.clone()
            }),
            ..Config::default()
        })
        .unwrap();
        let pki = Pki::ephemeral(&["127.0.0.1".parse().unwrap()]).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        std::fs::write(dir.join("kubeconfig"), kubeconfig(&url, &pki.ca_pem, &token)).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (server, tls) = (api.clone(), pki.tls().unwrap());
        runtime.spawn(async move { server.serve(vec![listener], tls).await.unwrap() });
        let _guard = runtime.enter();
        let client = kube::Client::new(api.service(), NS);
        drop(_guard);
        let world = Self { dir, cgroup, netns, child: Mutex::new(None), api, runtime, client };
        for ns in ["default", "kube-system", "kube-node-lease"] {
            let ns: Namespace = serde_json::from_value(json!({"metadata": {"name": ns}})).unwrap();
            let api: Api<Namespace> = Api::all(world.client.clone());
            let _ = world.wait(api.create(&PostParams::default(), &ns));
        }
        world.create(
            "v1",
            "ConfigMap",
            json!({"metadata": {"name": "kube-root-ca.crt"},
            "data": {"ca.crt": "certificate"}}),
        );
        world.create("v1", "ServiceAccount", json!({"metadata": {"name": "default"}}));
        world.start_kubelet();
        world
    }

    pub fn start_kubelet(&self) {
        let netns = self.netns.try_clone().unwrap();
        let (dir, cgroup) = (self.dir.clone(), self.cgroup.join("n1"));
        let child = std::thread::spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
            let log = File::options().create(true).append(true).open(dir.join("kubelet.log"));
            Command::new(std::env::current_exe().unwrap())
                .arg("lab-kubelet")
                .args(["--node", "n1", "--cluster-dns", "10.96.0.10", "--node-ip", "127.0.0.1"])
                .arg("--kubeconfig")
                .arg(dir.join("kubeconfig"))
                .arg("--dir")
                .arg(&dir)
                .arg("--cgroup")
                .arg(cgroup)
                .env("RUST_LOG", "info,weft_kubelet=debug")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log.unwrap())
                .spawn()
                .unwrap()
        })
        .join()
        .unwrap();
        *self.child.lock().unwrap() = Some(child);
    }

    /// kill -9.
    pub fn kill_kubelet(&self) {
        if let Some(mut c) = self.child.lock().unwrap_or_else(|e| e.into_inner()).take() {
            let _ = c.kill();
            let _ = c.wait();
        }
    }

    pub fn wait<T>(&self, f: impl Future<Output = T>) -> T {
        self.runtime.block_on(f)
    }

    /// The kubelet's log, for whoever wants to know why a test failed.
    pub fn story(&self) -> String {
        std::fs::read_to_string(self.dir.join("kubelet.log")).unwrap_or_default()
    }

    pub fn create(&self, version: &str, kind: &str, mut body: Value) -> Value {
        body["apiVersion"] = json!(version);
        body["kind"] = json!(kind);
        let path = format!("/api/v1/namespaces/{NS}/{}s", kind.to_lowercase());
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .unwrap();
        self.wait(self.client.request::<Value>(request)).unwrap_or_else(|e| panic!("{kind}: {e}"))
    }

    /// Creates a pod on the node.
    pub fn pod(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!("n1");
        for c in spec["containers"].as_array_mut().unwrap() {
            if c.get("image").is_none() {
                c["image"] = json!("example.com/none:1");
            }
        }
        for c in spec["initContainers"].as_array_mut().into_iter().flatten() {
            c["image"] = json!("example.com/none:1");
        }
        let labels = json!({"app": name});
        self.create(
            "v1",
            "Pod",
            json!({"metadata": {"name": name, "labels": labels}, "spec": spec}),
        );
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NS)
    }

    /// The pod as JSON, null where it does not exist.
    pub fn get(&self, name: &str) -> Value {
        let pod = self.wait(self.pods().get_opt(name)).unwrap();
        pod.map(|p| serde_json::to_value(p).unwrap()).unwrap_or_default()
    }

    /// Waits until the pod is as wished; panics with what it is instead.
    pub fn until(&self, name: &str, what: &str, wish: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let pod = self.get(name);
            if wish(&pod) {
                return pod;
            }
            assert!(start.elapsed() < PATIENCE, "{name} never {what}: {:#}", pod["status"]);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn until_ready(&self, name: &str) -> Value {
        self.until(name, "became ready", |p| condition(p, "Ready") == "True")
    }

    pub fn delete(&self, name: &str, grace: u32) {
        let params = DeleteParams { grace_period_seconds: Some(grace), ..Default::default() };
        self.wait(self.pods().delete(name, &params)).unwrap();
    }

    /// Deletes and waits until nothing is left in the API and on disk.
    pub fn delete_and_wait(&self, name: &str, grace: u32) {
        let uid = self.get(name)["metadata"]["uid"].as_str().unwrap().to_owned();
        self.delete(name, grace);
        self.until(name, "went away", Value::is_null);
        let start = Instant::now();
        let left = [
            self.dir.join("pods").join(&uid),
            self.dir.join("kubelet").join(&uid),
            self.dir.join("kubelet").join(format!("{uid}.json")),
        ];
        while left.iter().any(|p| p.exists()) {
            assert!(start.elapsed() < PATIENCE, "{name} leaves files behind");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Messages of the Events about a pod with that reason.
    pub fn events(&self, pod: &str, reason: &str) -> Vec<String> {
        use k8s_openapi::api::core::v1::Event;
        let api: Api<Event> = Api::namespaced(self.client.clone(), NS);
        let list = self.wait(api.list(&Default::default())).unwrap();
        list.items
            .into_iter()
            .filter(|e| {
                e.involved_object.name.as_deref() == Some(pod)
                    && e.reason.as_deref() == Some(reason)
            })
            .filter_map(|e| e.message)
            .collect()
    }

    /// Waits for such an Event.
    pub fn until_event(&self, pod: &str, reason: &str) -> Vec<String> {
        let start = Instant::now();
        loop {
            let found = self.events(pod, reason);
            if !found.is_empty() {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "no Event {reason} of {pod}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Status of a pod's condition.
pub fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let all = pod["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == kind);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// Status of one of its containers.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists.iter().flat_map(|l| pod["status"][l].as_array().into_iter().flatten());
    all.into_iter().find(|c| c["name"] == name).unwrap_or(&Value::Null)
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_kubelet();
        self.api.shutdown();
        for pod in std::fs::read_dir(self.dir.join("pods")).into_iter().flatten().flatten() {
            let cgroup = self.cgroup.join("n1/pods").join(pod.file_name());
            if let Err(e) = weft_sandbox::Pod::destroy_at(&pod.path(), &cgroup) {
                eprintln!("clean up: {e}");
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines().filter(|l| l.contains(" cgroup")) {
            let mount = line.split(' ').nth(1).unwrap_or_default();
            for sub in ["n1/pods", "n1", ""] {
                let _ = std::fs::remove_dir(PathBuf::from(mount).join(&self.cgroup).join(sub));
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
