use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, PropagationPolicy};
use serde_json::json;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_have_defaults_and_end_empty() {
    let cluster = Cluster::new(1).await;
    cluster.create::<Namespace>(json!({"metadata": {"name": "shop"}})).await;
    cluster
        .until("the defaults", || async {
            let account =
                cluster.api::<ServiceAccount>("shop").get_opt("default").await.expect("a get");
            let ca =
                cluster.api::<ConfigMap>("shop").get_opt("kube-root-ca.crt").await.expect("a get");
            (account.is_some() && ca?.data?["ca.crt"] == "the authority").then_some(())
        })
        .await;
    // What is deleted comes back.
    let accounts = cluster.api::<ServiceAccount>("shop");
    accounts.delete("default", &DeleteParams::default()).await.expect("deleted");
    cluster
        .until("the account again", || async { accounts.get_opt("default").await.expect("a get") })
        .await;

    let mut web = deployment("web", 3, "a");
    web["metadata"]["namespace"] = "shop".into();
    cluster.create::<Deployment>(web).await;
    cluster
        .create::<Service>(json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}))
        .await;
    // A kind that the controllers do not watch.
    cluster
        .create::<k8s_openapi::api::networking::v1::NetworkPolicy>(json!({
            "metadata": {"name": "p", "namespace": "shop"}, "spec": {"podSelector": {}}}))
        .await;
    cluster.ready("shop", "app=web", 3).await;
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    api.delete("shop", &DeleteParams::default()).await.expect("deleted");
    let ((), took) = cluster
        .until("the end of the namespace", || async {
            api.get_opt("shop").await.expect("a get").is_none().then_some(())
        })
        .await;
    println!("the namespace ended after {took:?}");
    assert!(cluster.list::<Pod>("shop", "").await.is_empty());
    assert!(cluster.list::<Service>("shop", "").await.is_empty());
    assert!(
        cluster
            .list::<k8s_openapi::api::networking::v1::NetworkPolicy>("shop", "")
            .await
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owned_objects_go_with_their_owner() {
    let cluster = Cluster::new(1).await;
    for (name, params) in
        [("background", DeleteParams::default()), ("foreground", DeleteParams::foreground())]
    {
        cluster.create::<Deployment>(deployment(name, 2, "a")).await;
        let label = format!("app={name}");
        cluster.ready("default", &label, 2).await;
        let api = cluster.api::<Deployment>("default");
        api.delete(name, &params).await.expect("deleted");
        cluster
            .until(&format!("nothing left of {name}"), || async {
                let deployment = api.get_opt(name).await.expect("a get");
                let sets = cluster.list::<ReplicaSet>("default", &label).await;
                let pods = cluster.list::<Pod>("default", &label).await;
                if name == "foreground" && deployment.is_none() {
                    assert!(sets.is_empty(), "the owner waits for its dependents");
                }
                (deployment.is_none() && sets.is_empty() && pods.is_empty()).then_some(())
            })
            .await;
    }
    cluster.create::<Deployment>(deployment("orphan", 2, "a")).await;
    cluster.ready("default", "app=orphan", 2).await;
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    let api = cluster.api::<Deployment>("default");
    api.delete("orphan", &params).await.expect("deleted");
    cluster
        .until("the owner's end", || async {
            api.get_opt("orphan").await.expect("a get").is_none().then_some(())
        })
        .await;
    let sets = cluster.list::<ReplicaSet>("default", "app=orphan").await;
    assert_eq!(sets.len(), 1);
    assert!(sets[0].metadata.owner_references.iter().flatten().next().is_none());
    assert_eq!(cluster.ready("default", "app=orphan", 2).await.len(), 2);
    // A Deployment of that selector adopts it with its pods.
    let before: Vec<_> = cluster.ready("default", "app=orphan", 2).await;
    cluster.create::<Deployment>(deployment("orphan", 2, "a")).await;
    cluster
        .until("the adoption", || async {
            let sets = cluster.list::<ReplicaSet>("default", "app=orphan").await;
            let owned = sets.iter().all(|set| set.metadata.owner_references.is_some());
            (sets.len() == 1 && owned).then_some(())
        })
        .await;
    let names = |pods: &[Pod]| {
        let mut names: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&cluster.ready("default", "app=orphan", 2).await), names(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_a_node_that_fits() {
    let cluster = Cluster::new(0).await;
    cluster
        .create::<Pod>(json!({
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"nodeSelector": {"kubernetes.io/hostname": "b"},
                "containers": [{"name": "c", "image": "i"}]},
        }))
        .await;
    cluster.node("a").await;
    cluster
        .until("the complaint", || async {
            let pod = cluster.api::<Pod>("default").get("p").await.expect("a pod");
            let all = pod.status?.conditions?;
            let one = all.into_iter().find(|one| one.type_ == "PodScheduled")?;
            let wanted =
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
            (one.status == "False" && one.message.as_deref() == Some(wanted)).then_some(())
        })
        .await;
    cluster
        .until("the event", || async {
            let events = cluster.list::<Event>("default", "").await;
            let one = |event: &Event| event.reason.as_deref() == Some("FailedScheduling");
            events.iter().any(one).then_some(())
        })
        .await;
    cluster.node("b").await;
    let pods = cluster.ready("default", "", 1).await;
    assert_eq!(node_of(&pods[0]), "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_nodes() {
    let cluster = Cluster::with(2, |config| {
        config.node_grace = Duration::from_secs(3);
        config.orphan_pod_grace = Duration::from_millis(1);
    })
    .await;
    cluster.create::<Deployment>(deployment("web", 2, "a")).await;
    let pods = cluster.ready("default", "app=web", 2).await;
    let lost = node_of(&pods[0]);
    cluster.silent.lock().expect("no panic").push(lost.clone());
    // The other one's kubelet renews its lease.
    let other = if lost == "node-0" { "node-1" } else { "node-0" };
    let lease = json!({"metadata": {"name": other, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": other, "renewTime": "2999-01-01T00:00:00.000000Z"}});
    cluster.create::<k8s_openapi::api::coordination::v1::Lease>(lease).await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    let ready = |node: &Node| {
        let all = node.status.as_ref().and_then(|status| status.conditions.clone());
        all.into_iter().flatten().find(|one| one.type_ == "Ready").map(|one| one.status)
    };
    cluster
        .until("Ready=Unknown and the taints", || async {
            let node = api.get(&lost).await.expect("a node");
            let taints = node.spec.clone()?.taints?;
            let ours = taints.iter().filter(|taint| taint.key == "node.kubernetes.io/unreachable");
            (ready(&node)? == "Unknown" && ours.count() == 2).then_some(())
        })
        .await;
    cluster
        .until("its pod to be unready", || async {
            let pods = cluster.list::<Pod>("default", "app=web").await;
            let held = pods.into_iter().find(|pod| node_of(pod) == lost)?;
            (!is_ready(&held)).then_some(())
        })
        .await;
    assert_eq!(ready(&api.get(other).await.expect("a node")).as_deref(), Some("True"));
    // The node goes for good: so do its pods, and others take their place.
    api.delete(&lost, &DeleteParams::default()).await.expect("deleted");
    let pods = cluster.ready("default", "app=web", 2).await;
    assert_eq!(per_node(&pods).keys().collect::<Vec<_>>(), [other]);
}

/// Pods end at once here, so what is left is the controllers and the API.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_go_fast() {
    let cluster = Cluster::new(4).await;
    cluster.create::<Deployment>(deployment("web", 100, "a")).await;
    let (_, up) = cluster
        .until("100 ready pods", || async {
            let pods = cluster.list::<Pod>("default", "app=web").await;
            (pods.len() == 100 && pods.iter().all(is_ready)).then_some(())
        })
        .await;
    let api = cluster.api::<Deployment>("default");
    api.delete("web", &DeleteParams::default()).await.expect("deleted");
    let (_, down) = cluster
        .until("nothing left", || async {
            cluster.list::<Pod>("default", "app=web").await.is_empty().then_some(())
        })
        .await;
    println!("100 pods: up after {up:?}, gone after {down:?}");
    assert!(down < Duration::from_secs(10), "gone after {down:?}");
}
