//! `weft why` against an API with objects and no nodes: what it reads, and its exit status.

use crate::harness::{Api, WEFT, text};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api as Objects, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{fmt::Debug, process::Command};

async fn make<K>(api: Objects<K>, object: Value)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let typed: K = serde_json::from_value(object.clone()).unwrap();
    let made = api.create(&PostParams::default(), &typed).await;
    let made = made.unwrap_or_else(|e| panic!("{object}: {e}"));
    let Some(status) = object.get("status") else { return };
    let name = made.meta().name.clone().unwrap();
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
}

/// Asks; the answer and the exit status.
fn why(api: &Api, words: &[&str]) -> (Value, Option<i32>) {
    let out = Command::new(WEFT)
        .args(["why", "-n", "shop", "-o", "json", "--kubeconfig"])
        .arg(api.kubeconfig())
        .args(words)
        .output()
        .unwrap();
    let answer = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{words:?}: {e}: {}", text(&out.stderr)));
    (answer, out.status.code())
}

/// A pod on n1 with an address, as a kubelet would tell it.
async fn pod(client: &kube::Client, name: &str, ip: &str, port: Value) {
    let object = json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x", "ports": [port]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    });
    make(Objects::<Pod>::namespaced(client.clone(), "shop"), object).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_judges_the_policies_of_a_cluster() {
    // Ranges that are nobody's default.
    let api = Api::with(&["--service-cidr", "10.200.0.0/24"]);
    let client = api.client().await;
    let node = json!({
        "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.30.1.11"}]},
    });
    make(Objects::<Node>::all(client.clone()), node).await;
    let namespace = json!({"metadata": {"name": "shop", "labels": {"team": "shop"}}});
    make(Objects::<Namespace>::all(client.clone()), namespace).await;
    pod(&client, "cli", "10.244.1.5", json!({"containerPort": 1})).await;
    let sql = json!({"containerPort": 5432, "name": "sql", "hostPort": 15432});
    pod(&client, "db", "10.244.1.2", sql).await;

    let (said, code) = why(&api, &["cli", "db:5432"]);
    assert_eq!((code, &said["ok"]), (Some(0), &true.into()), "{said:#}");
    // A Service address by the cluster's own ranges, and a host port.
    let (said, code) = why(&api, &["cli", "10.200.0.99:80"]);
    assert_eq!((code, &said["paths"][0]["outcome"]), (Some(1), &"refused".into()), "{said:#}");
    let (said, code) = why(&api, &["cli", "node/n1:15432"]);
    let path = &said["paths"][0];
    assert_eq!((code, &path["frontend"]["kind"]), (Some(0), &"HostPort".into()), "{said:#}");
    assert_eq!(path["backends"][0]["pod"], "shop/db");

    let policy = json!({
        "metadata": {"name": "db"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"role": "reader"}}}],
                "ports": [{"port": "sql"}],
            }],
        },
    });
    make(Objects::<NetworkPolicy>::namespaced(client.clone(), "shop"), policy).await;
    for to in ["db:5432", "node/n1:15432"] {
        let (said, code) = why(&api, &["cli", to]);
        assert_eq!((code, &said["ok"]), (Some(1), &false.into()), "{said:#}");
        let path = &said["paths"][0];
        assert_eq!(path["outcome"], "denied", "{said:#}");
        let ingress = &path["backends"][0]["policy"]["ingress"];
        assert_eq!(ingress["isolatedBy"], json!(["NetworkPolicy shop/db"]), "{said:#}");
        assert_eq!(ingress["remedies"][0]["object"], "Pod shop/cli", "{said:#}");
        assert_eq!(ingress["remedies"][0]["kind"], "label", "{said:#}");
    }
    // The node reaches its own pod all the same.
    let (said, code) = why(&api, &["node/n1", "db:5432"]);
    let judged = &said["paths"][0]["backends"][0]["policy"];
    assert_eq!((code, &judged["ingress"]["reason"]), (Some(0), &"ownNode".into()), "{said:#}");

    // What was proposed works.
    let pods: Objects<Pod> = Objects::namespaced(client.clone(), "shop");
    let label = Patch::Merge(json!({"metadata": {"labels": {"role": "reader"}}}));
    pods.patch("cli", &PatchParams::default(), &label).await.unwrap();
    let (said, code) = why(&api, &["cli", "db:5432"]);
    assert_eq!(code, Some(0), "{said:#}");
    let rule = &said["paths"][0]["backends"][0]["policy"]["ingress"]["rule"];
    assert_eq!((&rule["policy"], &rule["index"]), (&"NetworkPolicy shop/db".into(), &0.into()));
    assert_eq!((&rule["peerField"], &rule["port"]), (&"from[0]".into(), &"TCP/sql".into()));

    // Without a port: what passes.
    let (said, code) = why(&api, &["cli", "db"]);
    let judged = &said["paths"][0]["backends"][0]["policy"];
    assert_eq!((code, &judged["verdict"]), (Some(1), &"partly".into()), "{said:#}");
    assert_eq!(judged["ports"], "TCP/5432");

    // Every backend of a Service is judged.
    let service = json!({
        "metadata": {"name": "db"},
        "spec": {"selector": {"app": "db"}, "ports": [{"port": 80, "targetPort": "sql"}]},
    });
    make(Objects::<Service>::namespaced(client.clone(), "shop"), service).await;
    let ready =
        Patch::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    pods.patch_status("db", &PatchParams::default(), &ready).await.unwrap();
    let mut last = Value::Null;
    let judged = crate::harness::poll(|| {
        let (said, code) = why(&api, &["cli", "svc/db:80"]);
        let backend = &said["paths"][0]["backends"][0];
        let judged = code == Some(0) && backend["policy"]["ingress"]["reason"] == "rule";
        last = said;
        judged
    });
    assert!(judged, "{last:#}");
}
