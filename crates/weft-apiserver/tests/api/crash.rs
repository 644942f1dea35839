//! kill -9 and a full disk, against a server in a process of its own: this binary runs itself.

use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    networking::v1::IPAddress,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};
use weft_apiserver::{ApiServer, Config, Pki, Token, kubeconfig, random_token};

const DIR: &str = "WEFT_TEST_SERVER_DIR";
const KILLS: usize = 10;
const WRITERS: usize = 8;
const NAMES: usize = 3;

/// The server; does nothing in an ordinary run of the tests.
#[tokio::test(flavor = "multi_thread")]
async fn server_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (dir, token) = (Path::new(&dir), random_token());
    let user =
        Token { token: token.clone(), user: "admin".into(), groups: vec!["system:masters".into()] };
    let config = Config {
        tokens: vec![user],
        data_dir: Some(dir.join("objects")),
        sync: true,
        ..Config::default()
    };
    let api = ApiServer::new(config).unwrap();
    let pki = Pki::ephemeral(&[]).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::fs::write(dir.join("new"), kubeconfig(&url, &pki.ca_pem, &token)).unwrap();
    std::fs::rename(dir.join("new"), dir.join("kubeconfig")).unwrap();
    api.serve(vec![listener], pki.tls().unwrap()).await.unwrap();
}

/// Killed when dropped.
struct Process(Child);

impl Process {
    /// `prefix` is a program that runs the server, such as a shell that sets limits.
    async fn start(dir: &Path, prefix: &[&str]) -> (Self, Client) {
        let file = dir.join("kubeconfig");
        let _ = std::fs::remove_file(&file);
        let me = std::env::current_exe().unwrap();
        let mut command = match prefix {
            [] => Command::new(&me),
            [program, args @ ..] => {
                let mut c = Command::new(program);
                c.args(args).arg(&me);
                c
            }
        };
        command.args(["--exact", "crash::server_process", "--nocapture"]);
        command.env(DIR, dir).stdout(Stdio::null());
        let mut process = Self(command.spawn().unwrap());
        while !file.exists() {
            assert!(process.0.try_wait().unwrap().is_none(), "the server ended");
            tokio::task::yield_now().await;
        }
        let parsed = Kubeconfig::read_from(&file).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(parsed, &options).await.unwrap();
        (process, Client::try_from(config).unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An object as its only writer knows it.
#[derive(Default)]
struct Known {
    /// What was acknowledged last; absent without one.
    acked: Option<u64>,
    /// What it asked for and got no answer to.
    pending: Option<Option<u64>>,
}

/// Creates, replaces and deletes its own objects until the server is gone.
async fn hammer(
    client: Client,
    writer: usize,
    known: &mut BTreeMap<String, Known>,
    left: &AtomicI64,
    newest: &AtomicU64,
) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let services: Api<Service> = Api::namespaced(client, "default");
    let mut n: u64 = known.values().filter_map(|k| k.acked).max().unwrap_or(0);
    loop {
        n += 1;
        let name = format!("w{writer}-{}", rand::random::<u32>() as usize % NAMES);
        let k = known.entry(name.clone()).or_default();
        let delete = k.acked.is_some() && rand::random::<u32>().is_multiple_of(3);
        // A Service beside each object, so that allocation is in the journal as well.
        let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        let object: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": name}, "data": {"n": n.to_string()}}),
        )
        .unwrap();
        k.pending = Some((!delete).then_some(n));
        let rv = if delete {
            let _ = services.delete(&name, &DeleteParams::default()).await;
            maps.delete(&name, &DeleteParams::default()).await.map(|_| None)
        } else if k.acked.is_some() {
            maps.replace(&name, &PostParams::default(), &object).await.map(|o| o.resource_version())
        } else {
            let service = serde_json::from_value(service).unwrap();
            let _ = services.create(&PostParams::default(), &service).await;
            maps.create(&PostParams::default(), &object).await.map(|o| o.resource_version())
        };
        match rv {
            Ok(rv) => {
                k.acked = k.pending.take().unwrap();
                if let Some(rv) = rv {
                    newest.fetch_max(rv.parse().unwrap(), Ordering::Relaxed);
                }
            }
            Err(kube::Error::Api(s)) => panic!("refused: {s:?}"),
            Err(_) => return,
        }
        left.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn check(client: &Client, known: &mut [BTreeMap<String, Known>], newest: u64) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let list = maps.list(&ListParams::default()).await.unwrap();
    let rv: u64 = list.metadata.resource_version.unwrap().parse().unwrap();
    assert!(rv >= newest, "the version went back from {newest} to {rv}");
    let mut found: BTreeMap<String, u64> = list
        .items
        .iter()
        .map(|o| (o.name_any(), o.data.as_ref().unwrap()["n"].parse().unwrap()))
        .collect();
    for (name, k) in known.iter_mut().flatten() {
        let now = found.remove(name);
        let right = now == k.acked || k.pending == Some(now);
        assert!(right, "{name}: {now:?}, acknowledged {:?}, asked for {:?}", k.acked, k.pending);
        *k = Known { acked: now, pending: None };
    }
    assert!(found.is_empty(), "{found:?}");
    let services: Api<Service> = Api::all(client.clone());
    let mut addresses = BTreeSet::new();
    for s in services.list(&ListParams::default()).await.unwrap() {
        for ip in s.spec.unwrap().cluster_ips.unwrap_or_default() {
            assert!(addresses.insert(ip.clone()), "{ip} was given twice");
        }
    }
    // Where addresses are objects, they are there exactly for the Services that have them.
    let objects: Api<IPAddress> = Api::all(client.clone());
    let objects = objects.list(&ListParams::default()).await.unwrap();
    if !objects.items.is_empty() {
        let held: BTreeSet<String> = objects.iter().map(|a| a.name_any()).collect();
        assert_eq!(held, addresses, "half of a transaction");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_to_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut known: Vec<BTreeMap<String, Known>> = (0..WRITERS).map(|_| BTreeMap::new()).collect();
    let newest = AtomicU64::new(0);
    for _ in 0..KILLS {
        let (process, client) = Process::start(dir.path(), &[]).await;
        check(&client, &mut known, newest.load(Ordering::Relaxed)).await;
        let left = AtomicI64::new(1 + i64::from(rand::random::<u32>() % 200));
        let writers = known
            .iter_mut()
            .enumerate()
            .map(|(i, known)| hammer(client.clone(), i, known, &left, &newest));
        let killer = async {
            while left.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
            process.kill();
        };
        tokio::join!(join_all(writers), killer);
    }
    let (_process, client) = Process::start(dir.path(), &[]).await;
    check(&client, &mut known, newest.load(Ordering::Relaxed)).await;
}

/// The limit of a file's length stands for a full disk: writes fail in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let limited = ["/bin/sh", "-c", "trap '' XFSZ; ulimit -S -f 200; exec \"$@\"", "sh"];
    let (process, client) = Process::start(dir.path(), &limited).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map = |name: &str| -> ConfigMap {
        let v = json!({"metadata": {"name": name}, "data": {"fill": "x".repeat(10_000)}});
        serde_json::from_value(v).unwrap()
    };
    let mut made = Vec::new();
    let refused = loop {
        let name = format!("c{}", made.len());
        match maps.create(&PostParams::default(), &map(&name)).await {
            Ok(_) => made.push(name),
            Err(kube::Error::Api(s)) => break s,
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!((refused.code, &*refused.reason), (500, "InternalError"));
    assert!(refused.message.contains("cannot write the journal"), "{}", refused.message);
    assert!(!made.is_empty());
    // What was refused is not there, and reading goes on.
    let list = maps.list(&ListParams::default()).await.unwrap();
    let names: BTreeSet<String> = list.iter().map(|o| o.name_any()).collect();
    assert_eq!(names, made.iter().cloned().collect());
    // Space again.
    let pid = process.0.id().to_string();
    let raised = Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &pid]).status();
    assert!(raised.unwrap().success());
    maps.create(&PostParams::default(), &map("after")).await.unwrap();
    made.push("after".into());
    process.kill();
    let (_process, client) = Process::start(dir.path(), &[]).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let list = maps.list(&ListParams::default()).await.unwrap();
    let names: BTreeSet<String> = list.iter().map(|o| o.name_any()).collect();
    assert_eq!(names, made.into_iter().collect());
}
