//! `weft apiserver` itself: its files, its errors, its end.

use crate::harness::*;
use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::Deployment,
    authentication::v1::SelfSubjectReview,
    core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount},
};
use kube::{
    Api as Objects,
    api::{Patch, PatchParams, PostParams, WatchParams},
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "b"}})).unwrap()
}

#[tokio::test]
async fn it_serves_controls_and_ends_with_a_watch_open() {
    let mut api = Api::start();
    let mode = api.kubeconfig().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(api.log().contains("ready"), "{}", api.log());
    let client = api.client().await;
    assert_eq!(client.apiserver_version().await.unwrap().minor, "35");
    // The controllers run: a Deployment gets its pods, a namespace its service account.
    let deployments: Objects<Deployment> = Objects::namespaced(client.clone(), "default");
    let web: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "example.test/web"}]}}},
    }))
    .unwrap();
    deployments.create(&PostParams::default(), &web).await.unwrap();
    let pods: Objects<Pod> = Objects::namespaced(client.clone(), "default");
    let mut watch = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    for _ in 0..2 {
        watch.next().await.unwrap().unwrap();
    }
    api.signal(Signal::SIGTERM);
    // The watch ends with the server, whether by its end or by an error.
    while let Some(Ok(_)) = watch.next().await {}
    let status = api.ended();
    assert!(status.success(), "{status}\n{}", api.log());
}

#[tokio::test]
async fn objects_tokens_and_allocations_outlive_kill_9() {
    let flags = ["--data-dir", "{dir}/data", "--durable"];
    let api = Api::with(&flags);
    let maps = |client| Objects::<ConfigMap>::namespaced(client, "default");
    let client = api.client().await;
    for i in 0..20 {
        maps(client.clone()).create(&PostParams::default(), &map(&format!("m{i}"))).await.unwrap();
    }
    let services = |client| Objects::<Service>::namespaced(client, "default");
    let service: Service = serde_json::from_value(
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}),
    )
    .unwrap();
    let first = services(client).create(&PostParams::default(), &service).await.unwrap();
    let before = std::fs::read_to_string(api.kubeconfig()).unwrap();
    let dir = api.kill();

    let api = Api::in_dir(dir, &flags);
    let after = std::fs::read_to_string(api.kubeconfig()).unwrap();
    let lines = |text: &str, key: &str| {
        text.lines().filter(|l| l.contains(key)).map(str::to_owned).collect::<Vec<_>>()
    };
    for kept in ["token:", "certificate-authority-data:"] {
        assert_eq!(lines(&before, kept), lines(&after, kept));
    }
    let client = api.client().await;
    let held = maps(client.clone()).list(&Default::default()).await.unwrap();
    let mine =
        held.items.iter().filter(|m| m.data.as_ref().is_some_and(|d| d.contains_key("a"))).count();
    assert_eq!(mine, 20);
    let again = services(client.clone()).get("s").await.unwrap();
    assert_eq!(again.spec.unwrap().cluster_ip, first.spec.as_ref().unwrap().cluster_ip);
    // The address is taken.
    let mut thief = service.clone();
    thief.metadata.name = Some("thief".into());
    thief.spec.as_mut().unwrap().cluster_ip = first.spec.unwrap().cluster_ip;
    let error = services(client).create(&PostParams::default(), &thief).await.unwrap_err();
    assert!(error.to_string().contains("already allocated"), "{error}");
    // A second server on the same directory is turned away.
    let data = api.dir.path().join("data").display().to_string();
    let out = refused(&["--data-dir", &data, "--listen", "127.0.0.1:0"]);
    assert!(text(&out.stderr).contains("another server is running"), "{out:?}");
}

#[tokio::test]
async fn ranges_and_controllers_are_a_choice() {
    let api = Api::with(&[
        "--service-cidr",
        "fd00:77::/112,10.77.0.0/16",
        "--service-node-port-range",
        "31000-31003",
        "--no-controllers",
    ]);
    let client = api.client().await;
    let services: Objects<Service> = Objects::namespaced(client.clone(), "default");
    let kubernetes = services.get("kubernetes").await.unwrap().spec.unwrap();
    assert_eq!(kubernetes.cluster_ip.as_deref(), Some("fd00:77::1"));
    let mut ports = Vec::new();
    for i in 0..5 {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("n{i}")},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]},
        });
        let params = PatchParams::apply("test");
        match services.patch(&format!("n{i}"), &params, &Patch::Apply(&service)).await {
            Ok(s) => ports.push(s.spec.unwrap().ports.unwrap()[0].node_port.unwrap()),
            Err(error) => {
                assert_eq!(i, 4, "{error}");
                assert!(error.to_string().contains("range is full"), "{error}");
            }
        }
    }
    ports.sort_unstable();
    assert_eq!(ports, [31000, 31001, 31002, 31003]);
    // Nobody makes service accounts without controllers.
    let namespaces: Objects<Namespace> = Objects::all(client.clone());
    let alone = serde_json::from_value(json!({"metadata": {"name": "alone"}})).unwrap();
    namespaces.create(&PostParams::default(), &alone).await.unwrap();
    let accounts: Objects<ServiceAccount> = Objects::namespaced(client, "alone");
    assert!(accounts.list(&Default::default()).await.unwrap().items.is_empty());
}

#[test]
fn what_cannot_be_is_refused_with_the_flag_and_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("data").display().to_string();
    let config = dir.path().join("kubeconfig").display().to_string();
    let nowhere = dir.path().join("no/such/kubeconfig").display().to_string();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--kubeconfig", &config, "--listen", &busy], &["--listen", &busy, "in use"]),
        (&["--data-dir", &below], &["--data-dir", &below, "Not a directory"]),
        (&["--kubeconfig", &nowhere, "--listen", "127.0.0.1:0"], &[&nowhere, "No such file"]),
        (&["--kubeconfig", &config, "--service-node-port-range", "9-1"], &["use 1-9"]),
        (&["--kubeconfig", &config, "--service-cidr", "10.0.0.1/8"], &["use 10.0.0.0/8"]),
        (
            &["--kubeconfig", &config, "--service-cidr", "10.0.0.0/16,10.1.0.0/16"],
            &["--service-cidr", "one range of each family"],
        ),
        (&["--kubeconfig", &config, "--durable"], &["--data-dir"]),
        (&[], &["--kubeconfig"]),
    ];
    for (flags, words) in cases {
        let out = refused(flags);
        let error = text(&out.stderr);
        for word in words {
            assert!(error.contains(word), "{flags:?} does not say {word:?}: {error}");
        }
    }
    assert!(!std::path::Path::new(&config).exists(), "a refused server leaves no kubeconfig");
}

/// `--tls-cert`, `--tls-key` and `--client-ca`: certificates from elsewhere, for both sides.
#[tokio::test]
async fn certificates_may_come_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (authority, key) = weft_apiserver::Pki::ephemeral(&[]).unwrap().server_pem();
    let clients = weft_apiserver::Pki::ephemeral(&[]).unwrap();
    let flags = [
        "--tls-cert",
        &file("server.crt", &authority),
        "--tls-key",
        &file("server.key", &key),
        "--client-ca",
        &file("clients.crt", &clients.ca_pem),
    ];
    let api = Api::with(&flags);
    // The kubeconfig's client trusts the chain that was given.
    assert_eq!(api.client().await.apiserver_version().await.unwrap().minor, "35");
    let written = std::fs::read_to_string(api.kubeconfig()).unwrap();
    let line = |key: &str| {
        let found = written.lines().find_map(|l| l.trim().strip_prefix(key));
        found.unwrap().trim().to_owned()
    };
    let (certificate, key) = clients.client("jane", "devs").unwrap();
    let jane = weft_apiserver::kubeconfig_with_certificate(
        &line("server:"),
        &authority[authority.rfind("-----BEGIN").unwrap()..],
        &certificate,
        &key,
    );
    let jane = client(file("jane.kubeconfig", &jane).as_ref()).await;
    let who = Objects::<SelfSubjectReview>::all(jane);
    let who = who.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let user = who.status.unwrap().user_info.unwrap();
    assert_eq!(user.username.as_deref(), Some("jane"));
    let out = refused(&["--tls-cert", flags[1], "--listen", "127.0.0.1:0"]);
    assert!(text(&out.stderr).contains("--tls-key"), "{out:?}");
    let wrong = file("wrong.key", &clients.server_pem().1);
    let out = refused(&[
        "--kubeconfig",
        "k",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        flags[1],
        "--tls-key",
        &wrong,
    ]);
    assert!(text(&out.stderr).contains("--tls-cert"), "{out:?}");
}
