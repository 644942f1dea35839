//! The watches against the embedded API, with the sample application as input.

use super::*;
use kube::{
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_apiserver::{ApiServer, Config};
use weft_model::{NamespacedName, ServiceKind};

const PATIENCE: Duration = Duration::from_secs(20);

fn client() -> Client {
    let server = ApiServer::new(Config::default()).expect("starts");
    Client::new(server.service(), "default")
}

fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let version = object["apiVersion"].as_str().expect("apiVersion");
    let kind = object["kind"].as_str().expect("kind");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match object["metadata"]["namespace"].as_str() {
        Some(ns) => Api::namespaced_with(client.clone(), ns, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

async fn create(client: &Client, object: &Value) {
    let typed: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
    let params = PostParams::default();
    let made = api_of(client, object).create(&params, &typed).await;
    made.unwrap_or_else(|e| panic!("{e}: {object}"));
}

async fn until(
    source: &SnapshotSource,
    what: &str,
    holds: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let mut rx = source.snapshots.clone();
    let found = rx.wait_for(|s| s.as_deref().is_some_and(&holds));
    let found = tokio::time::timeout(PATIENCE, found).await;
    let Ok(found) = found else {
        panic!("not in time: {what}; {:?}; {:?}", source.status.borrow(), source.snapshots.borrow())
    };
    found.expect("the source runs").clone().expect("a snapshot")
}

/// The manifests of the sample application.
fn shop() -> Vec<Value> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("the examples").map(|f| f.expect("a file").path()).collect();
    files.sort();
    let mut objects = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            objects.push(Value::deserialize(document).expect("YAML"));
        }
    }
    objects
}

#[tokio::test]
async fn the_sample_application_becomes_a_snapshot() {
    let client = client();
    let source = SnapshotSource::start(client.clone(), Options::default());
    until(&source, "a first snapshot", |s| s.namespaces.contains_key("default")).await;
    for object in shop() {
        create(&client, &object).await;
    }
    let id = |name| NamespacedName::new("shop", name);
    let s = until(&source, "every Service", |s| s.services.contains_key(&id("edge"))).await;
    assert_eq!(*source.diagnostics.borrow(), Arc::from([]));
    assert!(s.namespaces.contains_key("shop"));
    assert_eq!(s.services[&id("store-peers")].kind, ServiceKind::Headless);
    assert!(matches!(s.services[&id("payments")].kind, ServiceKind::ExternalName(_)));
    assert_eq!(s.services[&id("web")].cluster_ips.len(), 1);
    assert_eq!(s.services[&id("api")].cluster_ips.len(), 2);
}

#[tokio::test]
async fn writes_and_deletions_arrive() {
    let client = client();
    let source = SnapshotSource::start(client.clone(), Options::default());
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"ports": [{"port": 80}]}
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "web-1",
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.1.5"], "conditions": {"ready": false}}],
        "ports": [{"port": 80}]
    });
    create(&client, &service).await;
    create(&client, &slice).await;
    let id = NamespacedName::new("default", "web");
    let ready = |s: &Snapshot| {
        s.slices_of(&id).flat_map(|s| &s.endpoints).map(|e| e.ready).collect::<Vec<_>>()
    };
    until(&source, "the endpoint", |s| ready(s) == [false]).await;
    let change =
        json!({"endpoints": [{"addresses": ["10.244.1.5"], "conditions": {"ready": true}}]});
    let slices = api_of(&client, &slice);
    let params = PatchParams::default();
    slices.patch("web-1", &params, &Patch::Merge(change)).await.expect("patched");
    until(&source, "readiness", |s| ready(s) == [true]).await;
    slices.delete("web-1", &DeleteParams::default()).await.expect("deleted");
    until(&source, "no slice", |s| {
        s.services.contains_key(&id) && s.slices_of(&id).next().is_none()
    })
    .await;
    let services = api_of(&client, &service);
    services.delete("web", &DeleteParams::default()).await.expect("deleted");
    until(&source, "no Service", |s| !s.services.contains_key(&id)).await;
}
