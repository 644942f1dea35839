use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use crate::harness::*;

async fn slices(cluster: &Cluster, service: &str) -> Vec<EndpointSlice> {
    cluster.list("default", &format!("kubernetes.io/service-name={service}")).await
}

fn ready(slice: &EndpointSlice) -> usize {
    let is_ready = |one: &&k8s_openapi::api::discovery::v1::Endpoint| {
        one.conditions.as_ref().and_then(|all| all.ready) == Some(true)
    };
    slice.endpoints.iter().filter(is_ready).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_gets_its_ranges() {
    let cluster = Cluster::new(3).await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    let (mut ranges, _) = cluster
        .until("ranges for all", || async {
            let nodes = api.list(&ListParams::default()).await.expect("nodes").items;
            let all: Option<Vec<_>> = nodes.into_iter().map(|node| node.spec?.pod_cidrs).collect();
            all
        })
        .await;
    ranges.sort();
    let wanted = [
        ["10.244.0.0/24", "fd00:10:244::/64"],
        ["10.244.1.0/24", "fd00:10:244:1::/64"],
        ["10.244.2.0/24", "fd00:10:244:2::/64"],
    ];
    assert_eq!(ranges, wanted);
    api.delete("node-1", &DeleteParams::default()).await.expect("deleted");
    cluster.node("node-7").await;
    let (range, _) = cluster
        .until("the freed range", || async {
            api.get("node-7").await.expect("a node").spec?.pod_cidrs
        })
        .await;
    assert_eq!(range, wanted[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_follow_pods_in_both_families() {
    let cluster = Cluster::new(3).await;
    cluster
        .create::<Service>(json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
        }))
        .await;
    // An empty slice per family at once, then the pods.
    cluster
        .until("placeholders", || async {
            (slices(&cluster, "web").await.len() == 2).then_some(())
        })
        .await;
    cluster.create::<Deployment>(deployment("web", 3, "a")).await;
    let (all, _) = cluster
        .until("three endpoints in each family", || async {
            let all = slices(&cluster, "web").await;
            let full = all.len() == 2 && all.iter().all(|slice| ready(slice) == 3);
            full.then_some(all)
        })
        .await;
    let mut families: Vec<_> = all.iter().map(|slice| slice.address_type.as_str()).collect();
    families.sort_unstable();
    assert_eq!(families, ["IPv4", "IPv6"]);
    for slice in &all {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        assert!(name.starts_with("web-"), "{name}");
        let labels = slice.metadata.labels.clone().expect("labels");
        assert_eq!(
            labels["endpointslice.kubernetes.io/managed-by"],
            "endpointslice-controller.k8s.io"
        );
        assert_eq!(labels["team"], "a");
        let port = &slice.ports.as_ref().expect("ports")[0];
        assert_eq!((port.name.as_deref(), port.port), (Some("http"), Some(8080)));
        for endpoint in &slice.endpoints {
            assert_eq!(endpoint.zone.as_deref(), Some("z1"));
            assert!(endpoint.node_name.is_some());
            assert_eq!(endpoint.target_ref.as_ref().and_then(|to| to.kind.as_deref()), Some("Pod"));
        }
        let owner = &slice.metadata.owner_references.as_ref().expect("owners")[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Service", "web"));
    }
    let legacy = cluster.api::<Endpoints>("default").get("web").await.expect("Endpoints");
    let subsets = legacy.subsets.expect("subsets");
    assert_eq!(subsets[0].addresses.as_ref().map(Vec::len), Some(3));

    cluster.patch::<Deployment>("default", "web", json!({"spec": {"replicas": 1}})).await;
    cluster
        .until("one endpoint", || async {
            let all = slices(&cluster, "web").await;
            (all.len() == 2 && all.iter().all(|slice| slice.endpoints.len() == 1)).then_some(())
        })
        .await;
    cluster.api::<Service>("default").delete("web", &DeleteParams::default()).await.expect("gone");
    cluster
        .until("no slices and no Endpoints", || async {
            let legacy = cluster.api::<Endpoints>("default").get_opt("web").await.expect("a get");
            (slices(&cluster, "web").await.is_empty() && legacy.is_none()).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unready_pods_and_headless_names() {
    let cluster = Cluster::new(1).await;
    cluster.broken.lock().expect("no panic").push("db".into());
    for (name, publish) in [("db", false), ("db-all", true)] {
        cluster
            .create::<Service>(json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"selector": {"app": "db"}, "clusterIP": "None",
                    "publishNotReadyAddresses": publish, "ports": [{"port": 5432}]},
            }))
            .await;
    }
    cluster
        .create::<Pod>(json!({
            "metadata": {"name": "db-0", "namespace": "default", "labels": {"app": "db"}},
            "spec": {"hostname": "db-0", "subdomain": "db", "containers": [{"name": "c", "image": "i"}]},
        }))
        .await;
    let (endpoint, _) = cluster
        .until("an unready endpoint", || async {
            slices(&cluster, "db").await.first()?.endpoints.first().cloned()
        })
        .await;
    let conditions = endpoint.conditions.expect("conditions");
    assert_eq!((conditions.ready, conditions.serving), (Some(false), Some(false)));
    assert_eq!(endpoint.hostname.as_deref(), Some("db-0"));
    let (slice, _) = cluster
        .until("a published endpoint", || async {
            let all = slices(&cluster, "db-all").await;
            all.into_iter().find(|slice| ready(slice) == 1)
        })
        .await;
    assert!(slice.metadata.labels.expect("labels").contains_key("service.kubernetes.io/headless"));
    assert_eq!(slice.endpoints[0].hostname, None, "its subdomain is the other Service");
    let (legacy, _) = cluster
        .until("legacy Endpoints with the unready address", || async {
            let one = cluster.api::<Endpoints>("default").get_opt("db").await.expect("a get")?;
            one.subsets.filter(|subsets| !subsets.is_empty())
        })
        .await;
    assert_eq!(legacy[0].addresses, None);
    assert_eq!(legacy[0].not_ready_addresses.as_ref().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_of_others_are_mirrored() {
    let cluster = Cluster::new(1).await;
    cluster
        .create::<Service>(json!({
            "metadata": {"name": "out", "namespace": "default"},
            "spec": {"ports": [{"port": 80, "targetPort": 9000}]},
        }))
        .await;
    let made = cluster
        .create::<Endpoints>(json!({
            "metadata": {"name": "out", "namespace": "default"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
                "ports": [{"port": 9000}]}],
        }))
        .await;
    let (slice, _) =
        cluster.until("the mirrored slice", || async { slices(&cluster, "out").await.pop() }).await;
    assert_eq!(slice.endpoints.len(), 2);
    assert_eq!(ready(&slice), 1);
    assert_eq!(
        slice.metadata.owner_references.expect("owners")[0].uid,
        made.metadata.uid.unwrap_or_default()
    );
    let api = cluster.api::<Endpoints>("default");
    api.delete("out", &DeleteParams::default()).await.expect("gone");
    cluster
        .until("no mirrored slice", || async {
            slices(&cluster, "out").await.is_empty().then_some(())
        })
        .await;
}
