//! A server that was killed comes back with its objects.

use crate::Server;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::json;

#[tokio::test]
async fn objects_versions_and_addresses_survive() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Server::start(|c| c.data_dir = Some(dir.path().to_owned()));
    let service = |ip: Option<&str>| -> Service {
        serde_json::from_value(json!({"metadata": {"generateName": "s-"},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}))
        .unwrap()
    };
    let pp = PostParams::default();
    let (ip, rv, uid) = {
        let s = start();
        let services: Api<Service> = Api::namespaced(s.client().await, "default");
        let made = services.create(&pp, &service(None)).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(s.client().await, "default");
        let c = serde_json::from_value(json!({"metadata": {"name": "c"}, "data": {"a": "b"}}));
        let c = maps.create(&pp, &c.unwrap()).await.unwrap();
        s.stop().await;
        (made.spec.unwrap().cluster_ip.unwrap(), c.resource_version().unwrap(), c.uid())
    };
    let s = start();
    let maps: Api<ConfigMap> = Api::namespaced(s.client().await, "default");
    let c = maps.get("c").await.unwrap();
    assert_eq!((c.uid(), c.resource_version()), (uid, Some(rv.clone())));
    assert_eq!(c.data.unwrap()["a"], "b");
    let services: Api<Service> = Api::namespaced(s.client().await, "default");
    let e = services.create(&pp, &service(Some(&ip))).await.unwrap_err().to_string();
    assert!(e.contains("provided IP is already allocated"), "{e}");
    let newer = services.create(&pp, &service(None)).await.unwrap();
    let number = |v: Option<String>| v.unwrap().parse::<u64>().unwrap();
    assert!(number(newer.resource_version()) > number(Some(rv)));
}

/// A Unix socket's worth of disk: a journal that cannot be written refuses the write.
#[tokio::test]
async fn a_journal_that_cannot_be_opened_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let config = weft_apiserver::Config { data_dir: Some(file), ..Default::default() };
    let e = weft_apiserver::ApiServer::new(config).err().unwrap().to_string();
    assert!(e.contains("journal"), "{e}");
}
