//! containerd through its CRI, as a kubelet uses it.

use crate::{
    lab::{WEFT, poll, root_or_skip, text},
    machine::{Machine, Side, with_input},
};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    config::Kubeconfig,
};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const IMAGE: &str = "weft.test/pod:1";
const SOCKET: &str = "/run/containerd/containerd.sock";
const AWAY: &str = "the weft agent of this node does not answer";

/// Where `cargo xtask test` puts what it builds.
fn built(program: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients").join(program)
}

/// Whether everything foreign is there; says so where it is not.
fn ready_or_skip(test: &str) -> bool {
    if !root_or_skip(test) {
        return false;
    }
    for program in ["containerd", "ctr", "runc"] {
        if !Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success()) {
            println!("SKIP {test}: {program} is not on PATH");
            return false;
        }
    }
    let missing = ["cri", "pod"].into_iter().find(|p| !built(p).is_file());
    if let Some(program) = missing {
        println!("SKIP {test}: target/clients/{program} is not built (cargo xtask test does)");
    }
    missing.is_none()
}

/// A node with containerd, and an API server outside.
struct Cluster {
    machine: Machine,
    /// The API server's process.
    api: u32,
    kubeconfig: PathBuf,
    attempts: Cell<u32>,
    /// Of pods that the API knows, by name.
    uids: RefCell<BTreeMap<String, String>>,
}

impl Cluster {
    fn start(part: &str) -> Self {
        let mut machine = Machine::start(part);
        let dir = machine.dir.path().to_owned();
        let (api, admin) = api_server(&mut machine);
        let kubeconfig = node_kubeconfig(&dir, &admin);
        let cluster =
            Self { machine, api, kubeconfig, attempts: Cell::default(), uids: Default::default() };
        cluster.api(async |client| {
            let node: Node = serde_json::from_value(json!({
                "metadata": {"name": "worker"},
                "spec": {"podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24", "fd00:10:244:7::/64"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "172.31.7.2"},
                                         {"type": "InternalIP", "address": "fd00:31:7::2"}]},
            }))
            .unwrap();
            Api::<Node>::all(client).create(&PostParams::default(), &node).await.unwrap();
        });
        cluster
    }

    /// The API server dies as by a power cut.
    fn api_dies(&mut self) {
        self.machine.end(self.api, Signal::SIGKILL);
    }

    /// It comes back with what it had.
    fn api_returns(&mut self) {
        self.api = api_server(&mut self.machine).0;
    }

    /// Asks the API as an administrator, from where it can be reached.
    fn api<T: Send>(&self, ask: impl AsyncFnOnce(kube::Client) -> T + Send) -> T {
        let admin = self.machine.dir.path().join("api/kubeconfig");
        let asked = weft_netlink::netns::run_in(&self.machine.netns(Side::Outside), || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let parsed = Kubeconfig::read_from(&admin).unwrap();
                let config =
                    kube::Config::from_custom_kubeconfig(parsed, &Default::default()).await;
                ask(kube::Client::try_from(config.unwrap()).unwrap()).await
            })
        });
        asked.unwrap()
    }

    fn weft(&self, args: &[&str]) -> String {
        let out = self.machine.command(Side::Node, WEFT).args(args).output().unwrap();
        assert!(out.status.success(), "weft {args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    fn cni_dirs(&self) -> [String; 2] {
        let at = |p: &str| self.machine.dir.path().join(p).display().to_string();
        [format!("--bin-dir={}", at("cni/bin")), format!("--conf-dir={}", at("cni/net.d"))]
    }

    /// Starts `weft agent` as the documentation says; only the cgroup is not the machine's.
    fn agent(&mut self, more: &[&str]) -> u32 {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let cgroup = format!("--cgroup={}", self.machine.cgroup().display());
        let args = [&["agent", "--node=worker", &kubeconfig, &cgroup], more].concat();
        self.machine.daemon(Side::Node, "agent", Path::new(WEFT), &args)
    }

    /// The agent's own status.
    fn status(&self) -> Option<Value> {
        let socket = self.machine.path("/run/weft/agent/agent.sock");
        weft_cni::call(&socket, &weft_cni::Request::Status).ok()?.status
    }

    fn wait_ready(&self) {
        let mut last = None;
        let ready = poll(|| {
            last = self.status();
            last.as_ref().is_some_and(|s| s["ready"] == true)
        });
        assert!(ready, "{last:#?}\n{}", self.machine.logs());
    }

    /// Starts containerd, with everything of it under the machine's folders, and gives it the
    /// one image of the test.
    fn containerd(&mut self) {
        let dir = self.machine.dir.path().to_owned();
        let path = |p: &str| dir.join(p).display().to_string();
        let config = dir.join("containerd.toml");
        let text_of_config = format!(
            r#"
version = 2
root = "{root}"
state = "/run/containerd"
# It would make a folder in /opt.
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  # A sandboxed root may not lower it.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    # Copies: works on every file system.
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{conf}"
"#,
            root = path("containerd"),
            bin = path("cni/bin"),
            conf = path("cni/net.d"),
        );
        fs::write(&config, text_of_config).unwrap();
        let args = ["--config", &config.display().to_string()];
        self.machine.daemon(Side::Node, "containerd", Path::new("containerd"), &args);
        let up = || self.try_cri("RuntimeService/Version", json!({})).is_ok();
        assert!(poll(up), "{}", self.machine.logs());
        let image = image(&dir).display().to_string();
        let import = format!(
            "ctr --address {SOCKET} --namespace k8s.io images import --snapshotter native {image}"
        );
        self.machine.sh(Side::Node, &import);
    }

    fn try_cri(&self, method: &str, request: Value) -> Result<Value, String> {
        let mut command = self.machine.command(Side::Node, built("cri"));
        let out = with_input(command.args([SOCKET, method]), &request.to_string());
        if !out.status.success() {
            return Err(text(&out.stderr));
        }
        Ok(serde_json::from_slice(&out.stdout).unwrap())
    }

    fn cri(&self, method: &str, request: Value) -> Value {
        let answer = self.try_cri(method, request.clone());
        answer.unwrap_or_else(|e| panic!("{method} {request}: {e}\n{}", self.machine.logs()))
    }

    /// What containerd says of the network.
    fn network_ready(&self) -> bool {
        let status = self.cri("RuntimeService/Status", json!({}));
        let conditions = status["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|c| c["type"] == "NetworkReady" && c["status"] == true)
    }

    /// Makes a pod known to the API, and waits until the agent has heard of it.
    fn announce(&self, name: &str) {
        let generation = || self.status().and_then(|s| s["generation"].as_u64());
        let before = generation().unwrap();
        let made = self.api(async |client| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"nodeName": "worker", "containers": [{"name": "serve", "image": IMAGE}]}}))
            .unwrap();
            let pods = Api::<Pod>::namespaced(client, "default");
            pods.create(&PostParams::default(), &pod).await.unwrap()
        });
        self.uids.borrow_mut().insert(name.to_owned(), made.metadata.uid.unwrap());
        assert!(poll(|| generation().is_some_and(|g| g > before)), "{}", self.machine.logs());
    }

    fn try_sandbox(&self, name: &str) -> Result<Sandbox, String> {
        // Each try is another attempt, as with the kubelet: what is left of one that failed
        // keeps its name until it could be taken down.
        let attempt = self.attempts.get();
        self.attempts.set(attempt + 1);
        let uid = self.uids.borrow().get(name).cloned().unwrap_or_else(|| format!("uid-{name}"));
        let config = json!({
            "metadata": {"name": name, "uid": uid, "namespace": "default",
                         "attempt": attempt},
            "hostname": name,
            "linux": {"cgroup_parent": format!("/weft.{}/pods", self.machine.name)},
        });
        let made = self.try_cri("RuntimeService/RunPodSandbox", json!({ "config": config }))?;
        let id = made["podSandboxId"].as_str().unwrap().to_owned();
        let status = self.cri("RuntimeService/PodSandboxStatus", json!({"pod_sandbox_id": id}));
        let network = &status["status"]["network"];
        let mut ips = vec![network["ip"].as_str().unwrap().to_owned()];
        let more = network["additionalIps"].as_array().cloned().unwrap_or_default();
        ips.extend(more.iter().map(|ip| ip["ip"].as_str().unwrap().to_owned()));
        Ok(Sandbox { id, config, ips, container: String::new() })
    }

    /// A pod that serves: a sandbox and a container in it.
    fn pod(&self, name: &str) -> Sandbox {
        let mut sandbox = Err(String::new());
        let made = poll(|| {
            sandbox = self.try_sandbox(name);
            sandbox.is_ok()
        });
        assert!(made, "{sandbox:?}\n{}", self.machine.logs());
        let mut sandbox = sandbox.unwrap();
        let container = json!({
            "metadata": {"name": "serve"}, "image": {"image": IMAGE},
            "command": ["/pod", "serve", ":8080"], "linux": {},
        });
        let request = json!({"pod_sandbox_id": sandbox.id, "config": container,
                             "sandbox_config": sandbox.config});
        let made = self.cri("RuntimeService/CreateContainer", request);
        sandbox.container = made["containerId"].as_str().unwrap().to_owned();
        self.cri("RuntimeService/StartContainer", json!({"container_id": sandbox.container}));
        sandbox
    }

    /// What a pod gets from a URL: the name of who answers, and the address they saw.
    fn get(&self, from: &Sandbox, host: &str, port: u16) -> Result<String, String> {
        let url = url(host, port);
        let request =
            json!({"container_id": from.container, "cmd": ["/pod", "get", url], "timeout": 20});
        let done = self.cri("RuntimeService/ExecSync", request);
        let bytes = |key: &str| {
            let value = done.get(key).cloned().unwrap_or(json!(""));
            text(&serde_json::from_value::<ByteString>(value).unwrap().0)
        };
        match done.get("exitCode") {
            None => Ok(bytes("stdout").trim().to_owned()),
            Some(_) => Err(bytes("stderr")),
        }
    }

    /// The same from a process of the node.
    fn get_from_node(&self, host: &str, port: u16) -> Result<String, String> {
        let mut command = self.machine.command(Side::Node, built("pod"));
        let out = command.args(["get", &url(host, port)]).output().unwrap();
        if out.status.success() {
            Ok(text(&out.stdout).trim().to_owned())
        } else {
            Err(text(&out.stderr))
        }
    }

    /// Executes the plugin as a runtime does that knows these commands.
    fn plugin(
        &self,
        command: &str,
        attach: Option<(&str, &str)>,
        more: Value,
    ) -> Result<(), Value> {
        let conflist =
            fs::read(self.machine.dir.path().join("cni/net.d/10-weft.conflist")).unwrap();
        let list = weft_cni::Conflist::parse(&conflist).unwrap();
        let mut config = Value::Object(list.plugins[0].clone());
        config["cniVersion"] = json!(list.version().to_string());
        config["name"] = json!(list.name);
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let (id, netns) = attach.unwrap_or_default();
        let plugin = self.machine.dir.path().join("cni/bin/weft-cni");
        let mut run = self.machine.command(Side::Node, plugin);
        run.env("CNI_COMMAND", command).env("CNI_IFNAME", "eth0").env("CNI_PATH", "/");
        run.env("CNI_CONTAINERID", id).env("CNI_NETNS", netns);
        let out = with_input(&mut run, &config.to_string());
        if out.status.success() {
            Ok(())
        } else {
            Err(serde_json::from_slice(&out.stdout).unwrap())
        }
    }

    /// CHECK with the result that containerd keeps.
    fn check(&self, pod: &Sandbox) -> Result<(), Value> {
        let cache = self.machine.path(&format!("/var/lib/cni/results/weft-{}-eth0", pod.id));
        let cache: Value = serde_json::from_slice(&fs::read(cache).unwrap()).unwrap();
        let interfaces = cache["result"]["interfaces"].as_array().unwrap();
        let netns = interfaces.iter().find_map(|i| i["sandbox"].as_str()).unwrap().to_owned();
        self.plugin("CHECK", Some((&pod.id, &netns)), json!({"prevResult": cache["result"]}))
    }

    /// What the agent asked the API for, by its log: group, resource and verb.
    fn requests(&self) -> BTreeSet<Right> {
        let log = fs::read_to_string(self.machine.dir.path().join("agent.log")).unwrap();
        let field = |line: &str, name: &str| -> Option<String> {
            let rest = line.split_once(&format!("{name}="))?.1;
            Some(rest.split(' ').next()?.trim_matches('"').to_owned())
        };
        let lines = log.lines().filter(|l| l.contains("weft_kube::access: request"));
        let right = |line: &str| {
            let path = field(line, "path").unwrap();
            let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            let (group, resource, one) = match parts[..] {
                ["api", "v1", resource] => ("", resource, false),
                ["apis", group, _, resource] => (group, resource, false),
                ["api", "v1", "namespaces", _, resource] => ("", resource, false),
                ["api", "v1", "namespaces", _, resource, _] => ("", resource, true),
                ["apis", group, _, "namespaces", _, resource] => (group, resource, false),
                _ => panic!("nothing that the agent should ask for: {line}"),
            };
            let watch = field(line, "query").unwrap().contains("watch=true");
            let verb = match (field(line, "method").as_deref(), watch) {
                (Some("GET"), true) => "watch",
                (Some("GET"), false) if one => "get",
                (Some("GET"), false) => "list",
                (Some("POST"), _) => "create",
                (Some("PATCH"), _) => "patch",
                _ => panic!("{line}"),
            };
            [group, resource, verb].map(str::to_owned)
        };
        lines.map(right).collect()
    }

    fn pod_links(&self) -> usize {
        let links = self.machine.sh(Side::Node, "ip -o link");
        links.lines().filter(|l| l.contains(": wv")).count()
    }

    fn stop(&self, sandbox: &str) -> Result<(), String> {
        self.try_cri("RuntimeService/StopPodSandbox", json!({"pod_sandbox_id": sandbox}))?;
        self.try_cri("RuntimeService/RemovePodSandbox", json!({"pod_sandbox_id": sandbox}))
            .map(drop)
    }

    /// The sandboxes that failed and wait for being taken down, as the kubelet does.
    fn failed(&self) -> Vec<String> {
        let filter = json!({"filter": {"state": {"state": "SANDBOX_NOTREADY"}}});
        let list = self.cri("RuntimeService/ListPodSandbox", filter);
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Starts the API server, and waits until it is ready.
fn api_server(machine: &mut Machine) -> (u32, PathBuf) {
    let data = machine.dir.path().join("api");
    let admin = data.join("kubeconfig");
    let _ = fs::remove_file(&admin);
    let data = format!("--data-dir={}", data.display());
    let args = ["apiserver", "--no-controllers", "--listen", "172.31.7.1:6443", &data];
    let id = machine.daemon(Side::Outside, "apiserver", Path::new(WEFT), &args);
    assert!(poll(|| admin.exists()), "{}", machine.logs());
    (id, admin)
}

/// A pod of the runtime.
#[derive(Debug)]
struct Sandbox {
    id: String,
    config: Value,
    ips: Vec<String>,
    container: String,
}

fn url(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("http://[{host}]:{port}")
    } else {
        format!("http://{host}:{port}")
    }
}

/// The agent's kubeconfig: the server is the `kubernetes` Service, the token is in a file.
fn node_kubeconfig(dir: &Path, admin: &Path) -> PathBuf {
    let parsed = Kubeconfig::read_from(admin).unwrap();
    let ca = parsed.clusters[0].cluster.as_ref().unwrap().certificate_authority_data.clone();
    let user = serde_json::to_value(parsed.auth_infos[0].auth_info.as_ref().unwrap()).unwrap();
    fs::write(dir.join("token"), user["token"].as_str().unwrap()).unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster":
            {"server": "https://10.96.0.1:443", "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    });
    let path = dir.join("agent.kubeconfig");
    fs::write(&path, config.to_string()).unwrap();
    path
}

/// An OCI archive of one layer with one file (OCI image specification, image-layout.md).
fn image(dir: &Path) -> PathBuf {
    let layout = dir.join("image");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    };
    let blob = |from: &Path, kind: &str| {
        let digest = run("sha256sum", &[from.to_str().unwrap()]);
        let digest = digest.split(' ').next().unwrap().to_owned();
        let size = fs::metadata(from).unwrap().len();
        fs::rename(from, blobs.join(&digest)).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
               "digest": format!("sha256:{digest}"), "size": size})
    };
    let text_blob = |value: Value, kind: &str| {
        let path = dir.join("blob");
        fs::write(&path, value.to_string()).unwrap();
        blob(&path, kind)
    };
    let layer = dir.join("layer.tar");
    let programs = built("pod").canonicalize().unwrap();
    let programs = programs.parent().unwrap().to_str().unwrap();
    run("tar", &["-C", programs, "-cf", layer.to_str().unwrap(), "pod"]);
    let layer = blob(&layer, "layer.v1.tar");
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = json!({"architecture": arch, "os": "linux", "config": {"Entrypoint": ["/pod"]},
                        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = text_blob(config, "config.v1+json");
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                          "config": config, "layers": [layer]});
    let mut manifest = text_blob(manifest, "manifest.v1+json");
    manifest["annotations"] = json!({"io.containerd.image.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())
        .unwrap();
    let archive = dir.join("image.tar");
    run("tar", &["-C", layout.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    archive
}

/// API group, resource and verb.
type Right = [String; 3];

/// What the manifest of the documentation allows the agent.
fn rights() -> BTreeSet<Right> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/manifests/agent-rbac.yaml");
    let manifest = fs::read_to_string(file).unwrap();
    let documents = serde_yaml_ng::Deserializer::from_str(&manifest);
    let mut documents = documents.map(|d| Value::deserialize(d).unwrap());
    let role = documents.find(|d| d["kind"] == "ClusterRole").unwrap();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let of = |verb| [group.clone(), resource.clone(), verb];
                rights.extend(texts(&rule["verbs"]).into_iter().map(of));
            }
        }
    }
    rights
}

/// A Service of the pods, written by hand as the test's API runs no controllers; its address.
fn expose(cluster: &Cluster, pods: &[&Sandbox]) -> String {
    let endpoints: Vec<Value> = pods.iter().map(|p| json!({"addresses": [p.ips[0]]})).collect();
    cluster.api(async |client| {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]}}))
        .unwrap();
        let services = Api::<Service>::namespaced(client.clone(), "default");
        let made = services.create(&PostParams::default(), &service).await.unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}]}))
        .unwrap();
        let slices = Api::<EndpointSlice>::namespaced(client, "default");
        slices.create(&PostParams::default(), &slice).await.unwrap();
        made.spec.unwrap().cluster_ip.unwrap()
    })
}

#[test]
fn a_node_with_containerd_and_no_kube_proxy() {
    if !ready_or_skip("a_node_with_containerd_and_no_kube_proxy") {
        return;
    }
    let mut cluster = Cluster::start("real");
    let links_of_this_machine = crate::lab::own_links();
    cluster.containerd();
    assert!(!cluster.network_ready(), "nothing is installed");

    // Installed before its agent runs, as an upgrade may find it.
    let dirs = cluster.cni_dirs();
    let install = ["cni", "install", &dirs[0], &dirs[1]];
    assert!(cluster.weft(&install).lines().all(|l| l.starts_with("installed ")));
    assert!(poll(|| cluster.network_ready()), "{}", cluster.machine.logs());
    let refused = cluster.try_sandbox("a").unwrap_err();
    assert!(refused.contains(AWAY), "{refused}");

    // The first start is told where the API is; afterwards that is known.
    let first = cluster.agent(&["--api-endpoints=172.31.7.1:6443"]);
    let (a, b) = (cluster.pod("a"), cluster.pod("b"));
    cluster.wait_ready();
    let status = cluster.status().unwrap();
    assert_eq!(status["pods"], 2, "{status:#}");
    assert_eq!(a.ips.len(), 2, "one address a family: {a:?}");
    assert!(a.ips[0].starts_with("10.244.7.") && a.ips[1].starts_with("fd00:10:244:7:"), "{a:?}");

    // Pods, the node, and a Service; the receiver sees who sends.
    let traffic = |cluster: &Cluster, from: &Sandbox| {
        for (target, seen) in a.ips.iter().zip(&from.ips) {
            assert_eq!(cluster.get(from, target, 8080), Ok(format!("a {seen}")));
            let answer = cluster.get_from_node(target, 8080).unwrap();
            assert!(answer.starts_with("a "), "{answer}");
        }
    };
    traffic(&cluster, &b);
    let web = expose(&cluster, &[&a]);
    let served = format!("a {}", b.ips[0]);
    let mut last = Ok(String::new());
    let through_service = poll(|| {
        last = cluster.get(&b, &web, 80);
        last.as_ref() == Ok(&served)
    });
    assert!(through_service, "{web}: {last:?}\n{}", cluster.machine.logs());
    assert!(cluster.get_from_node(&web, 80).unwrap().starts_with("a "));
    let refused = cluster.get(&b, &web, 81).unwrap_err();
    assert!(refused.contains("connection refused"), "an unknown port is refused: {refused}");

    // What newer runtimes ask beside ADD and DEL.
    cluster.plugin("STATUS", None, json!({})).unwrap();
    cluster.check(&a).unwrap();
    // Not `ip netns add`: it mounts /run/netns over itself, and containerd's namespaces with it.
    cluster.machine.sh(Side::Node, ": > /run/lost; unshare --net=/run/lost true");
    let lost = ("lost", "/run/lost");
    cluster.plugin("ADD", Some(lost), json!({})).unwrap();
    assert_eq!(cluster.pod_links(), 3);
    let valid: Vec<Value> =
        [&a, &b].iter().map(|p| json!({"containerID": p.id, "ifname": "eth0"})).collect();
    cluster.plugin("GC", None, json!({"cni.dev/valid-attachments": valid})).unwrap();
    assert_eq!(cluster.pod_links(), 2, "what no runtime knows is collected");
    cluster.machine.sh(Side::Node, "umount /run/lost");

    // The agent dies: what was made goes on, what is asked for fails and is asked for again.
    cluster.machine.end(first, Signal::SIGKILL);
    traffic(&cluster, &b);
    assert_eq!(cluster.get(&b, &web, 80), Ok(served.clone()));
    let refused = cluster.try_sandbox("c").unwrap_err();
    assert!(refused.contains(AWAY), "{refused}");
    let e = cluster.plugin("STATUS", None, json!({})).unwrap_err();
    assert_eq!(e["code"], 50, "{e}");
    let refused = cluster.stop(&b.id).unwrap_err();
    assert!(refused.contains(AWAY), "{refused}");

    // It comes back by what it has learnt, and everything is as it was.
    let second = cluster.agent(&[]);
    cluster.wait_ready();
    cluster.check(&a).unwrap();
    cluster.stop(&b.id).unwrap();
    let c = cluster.pod("c");
    traffic(&cluster, &c);
    assert_eq!(cluster.get(&c, &web, 80), Ok(format!("a {}", c.ips[0])));
    cluster.machine.sh(Side::Node, &format!("ip route get {} | grep -q wv", a.ips[0]));

    // Without its API the node goes on, new pods included, where it has heard of them: of others
    // nobody knows the policies. Afterwards it learns what changed.
    cluster.announce("d");
    cluster.api_dies();
    let refused = cluster.try_sandbox("e").unwrap_err();
    assert!(refused.contains("its policies are not known"), "{refused}");
    let d = cluster.pod("d");
    traffic(&cluster, &d);
    assert_eq!(cluster.get(&d, &web, 80), Ok(format!("a {}", d.ips[0])));
    cluster.api_returns();
    cluster.api(async |client| {
        let slices = Api::<EndpointSlice>::namespaced(client, "default");
        let change = json!({"endpoints": [{"addresses": [d.ips[0]]}]});
        slices.patch("web-1", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    });
    let moved = || cluster.get(&c, &web, 80) == Ok(format!("d {}", c.ips[0]));
    assert!(poll(moved), "{}", cluster.machine.logs());
    let (used, allowed) = (cluster.requests(), rights());
    assert!(used.is_subset(&allowed) && used.len() >= 8, "{used:?} of {allowed:?}");

    for pod in [&a, &c, &d] {
        // A kubelet may repeat it.
        cluster.cri("RuntimeService/StopPodSandbox", json!({"pod_sandbox_id": pod.id}));
        cluster.stop(&pod.id).unwrap();
    }
    cluster.failed().iter().for_each(|id| cluster.stop(id).unwrap());
    let status = cluster.status().unwrap();
    assert_eq!((cluster.pod_links(), &status["pods"]), (0, &json!(0)), "{status:#}");
    let node = |path: &str| fs::read_dir(cluster.machine.path(path)).map_or(0, Iterator::count);
    assert_eq!((node("/run/netns"), node("/var/lib/cni/results")), (0, 0));

    // Taken away: the runtime knows at once, and nothing of the data plane is left.
    cluster.weft(&["cni", "uninstall", &dirs[0], &dirs[1]]);
    assert!(poll(|| !cluster.network_ready()), "{}", cluster.machine.logs());
    let running = cluster.machine.command(Side::Node, WEFT).arg("cleanup").output().unwrap();
    assert!(!running.status.success(), "an agent runs");
    assert!(text(&running.stderr).contains("another agent holds"), "{running:?}");
    cluster.machine.end(second, Signal::SIGTERM);
    cluster.weft(&["cleanup", "--data-dir=/var/lib/nothing"]);
    let left = cluster.machine.sh(Side::Node, "ip -o link; ip route; nft list tables");
    assert!(!left.contains("weft") && !left.contains("wv"), "{left}");
    for path in ["/sys/fs/bpf/weft", "/run/weft"] {
        assert!(!cluster.machine.path(path).exists(), "{path}");
    }

    // A start that knows nothing but the journal: the kubeconfig names the Service, which
    // nobody serves. DNS is left to others.
    cluster.agent(&["--cluster-dns=service"]);
    cluster.wait_ready();
    let udp = cluster.machine.sh(Side::Node, "cat /proc/net/udp /proc/net/udp6");
    assert!(!udp.contains(":0035 "), "nobody listens on port 53: {udp}");
    assert_eq!(crate::lab::own_links(), links_of_this_machine);
    cluster.machine.stop();
}
