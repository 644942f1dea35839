use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, PersistentVolumeClaim};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::*;

fn owner(api_version: &str, kind: &str, name: &str, uid: Option<String>) -> Value {
    json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": uid,
        "blockOwnerDeletion": true}])
}

fn policy(name: &str, owners: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": owners},
        "spec": {"podSelector": {}}})
}

fn map(name: &str, owners: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "ownerReferences": owners}})
}

/// The definition of widgets.
fn widgets(versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "widgets", "kind": "Widget"}}})
}

async fn gone<K>(cluster: &Cluster, name: &str)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let api = cluster.api::<K>("default");
    cluster
        .until(&format!("the end of {name}"), || async {
            api.get_opt(name).await.expect("a get").is_none().then_some(())
        })
        .await;
}

/// Owners and dependents of kinds that no controller knows as such.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_has_owners() {
    let cluster = Cluster::new(0).await;
    let rule = json!({"http": {"paths": [{"path": "/", "pathType": "Prefix",
        "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}});
    for (name, params) in
        [("background", DeleteParams::background()), ("foreground", DeleteParams::foreground())]
    {
        let ingress = json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"rules": [rule]}});
        let root = cluster.create::<Ingress>(ingress).await;
        let owners = owner("networking.k8s.io/v1", "Ingress", name, root.metadata.uid);
        let middle = cluster.create::<NetworkPolicy>(policy(name, owners)).await;
        let owners = owner("networking.k8s.io/v1", "NetworkPolicy", name, middle.metadata.uid);
        cluster.create::<ConfigMap>(map(name, owners)).await;
        cluster.api::<Ingress>("default").delete(name, &params).await.expect("deleted");
        gone::<Ingress>(&cluster, name).await;
        if name == "foreground" {
            let left = cluster.api::<NetworkPolicy>("default").get_opt(name).await.expect("a get");
            assert!(left.is_none(), "the owner waits for its dependents");
        }
        gone::<NetworkPolicy>(&cluster, name).await;
        gone::<ConfigMap>(&cluster, name).await;
    }
    // Orphaned dependents stay, without the owner.
    let root = cluster.create::<NetworkPolicy>(policy("orphan", json!([]))).await;
    let owners = owner("networking.k8s.io/v1", "NetworkPolicy", "orphan", root.metadata.uid);
    cluster.create::<ConfigMap>(map("orphan", owners)).await;
    let api = cluster.api::<NetworkPolicy>("default");
    api.delete("orphan", &DeleteParams::orphan()).await.expect("deleted");
    gone::<NetworkPolicy>(&cluster, "orphan").await;
    let left = cluster.api::<ConfigMap>("default").get("orphan").await.expect("it stays");
    assert!(left.metadata.owner_references.iter().flatten().next().is_none(), "{left:?}");
}

/// A dependent may have an owner of no namespace, not the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_across_namespaces() {
    let cluster = Cluster::new(0).await;
    let role = |name: &str, owners: Value| json!({"metadata": {"name": name, "ownerReferences": owners}, "rules": []});
    let root = cluster.create::<ClusterRole>(role("root", json!([]))).await;
    let owners = owner("rbac.authorization.k8s.io/v1", "ClusterRole", "root", root.metadata.uid);
    cluster.create::<ConfigMap>(map("owned", owners)).await;
    // Elsewhere there is an object of this uid, but that is none of this namespace's.
    cluster.create::<Namespace>(json!({"metadata": {"name": "other"}})).await;
    let elsewhere = cluster
        .create::<ConfigMap>(json!({"metadata": {"name": "far", "namespace": "other"}}))
        .await;
    let owners = owner("v1", "ConfigMap", "far", elsewhere.metadata.uid.clone());
    cluster.create::<ConfigMap>(map("astray", owners.clone())).await;
    cluster.create::<ClusterRole>(role("impossible", owners)).await;
    gone::<ConfigMap>(&cluster, "astray").await;
    let uid = elsewhere.metadata.uid.unwrap_or_default();
    cluster
        .until("both Events", || async {
            let events = cluster.list::<Event>("default", "").await;
            let messages: Vec<String> = events
                .into_iter()
                .filter(|event| event.reason.as_deref() == Some("OwnerRefInvalidNamespace"))
                .filter_map(|event| event.message)
                .collect();
            let wanted = |namespace: &str| {
                format!(
                    "ownerRef [v1/ConfigMap, namespace: {namespace}, name: far, uid: {uid}] does \
                     not exist in namespace \"{namespace}\""
                )
            };
            (messages.contains(&wanted("default")) && messages.contains(&wanted(""))).then_some(())
        })
        .await;
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    assert!(roles.get_opt("impossible").await.expect("a get").is_some());
    assert!(cluster.api::<ConfigMap>("default").get_opt("owned").await.expect("a get").is_some());
    roles.delete("root", &DeleteParams::default()).await.expect("deleted");
    gone::<ConfigMap>(&cluster, "owned").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_says_what_holds_it() {
    let cluster = Cluster::new(0).await;
    cluster.create::<Namespace>(json!({"metadata": {"name": "shop"}})).await;
    cluster
        .create::<PersistentVolumeClaim>(json!({
            "metadata": {"name": "data", "namespace": "shop", "finalizers": ["example.com/keep"]},
            "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}))
        .await;
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    api.delete("shop", &DeleteParams::default()).await.expect("deleted");
    cluster
        .until("the conditions", || async {
            let all = api.get("shop").await.expect("it waits").status?.conditions?;
            let says = |kind: &str, status: &str, reason: &str, message: &str| {
                all.iter().any(|one| {
                    one.type_ == kind
                        && one.status == status
                        && one.reason.as_deref() == Some(reason)
                        && one.message.as_deref() == Some(message)
                })
            };
            let done = says(
                "NamespaceContentRemaining",
                "True",
                "SomeResourcesRemain",
                "Some resources are remaining: persistentvolumeclaims. has 1 resource instances",
            ) && says(
                "NamespaceFinalizersRemaining",
                "True",
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining: example.com/keep in 1 \
                 resource instances",
            ) && says(
                "NamespaceDeletionContentFailure",
                "False",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            );
            done.then_some(())
        })
        .await;
    let body = json!({"metadata": {"finalizers": null}});
    cluster
        .api::<PersistentVolumeClaim>("shop")
        .patch("data", &PatchParams::default(), &Patch::Merge(body))
        .await
        .expect("let go");
    cluster
        .until("its end", || async {
            api.get_opt("shop").await.expect("a get").is_none().then_some(())
        })
        .await;
}

/// Custom kinds, defined while the controllers run: they own, are owned, and go with a namespace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_kinds_have_owners() {
    let cluster = Cluster::new(0).await;
    let send = async |method: &str, uri: &str, body| cluster.send(method, uri, body).await;
    let definition = widgets(json!([{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object"}}}]));
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    send("POST", definitions, definition).await.expect("a definition");
    let widgets = |namespace: &str| format!("/apis/example.com/v1/namespaces/{namespace}/widgets");
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {"name": "w", "finalizers": ["example.com/keep"]}});
    let (made, _) = cluster
        .until("the custom kind", || async {
            send("POST", &widgets("default"), widget.clone()).await.ok()
        })
        .await;
    let uid = made["metadata"]["uid"].as_str().map(str::to_owned);
    let owners = owner("example.com/v1", "Widget", "w", uid);
    cluster.create::<ConfigMap>(map("owned", owners.clone())).await;
    let mut child = widget.clone();
    child["metadata"] = json!({"name": "child", "ownerReferences": owners});
    send("POST", &widgets("default"), child).await.expect("a child");
    let foreground = json!({"apiVersion": "v1", "kind": "DeleteOptions",
        "propagationPolicy": "Foreground"});
    let one = format!("{}/w", widgets("default"));
    send("DELETE", &one, foreground).await.expect("deleted");
    gone::<ConfigMap>(&cluster, "owned").await;
    let child = format!("{}/child", widgets("default"));
    cluster
        .until("the child's end", || async { send("GET", &child, Value::Null).await.err() })
        .await;
    let (left, _) = cluster
        .until("the collector's finalizer to go", || async {
            let left = send("GET", &one, Value::Null).await.expect("it waits");
            (left["metadata"]["finalizers"] == json!(["example.com/keep"])).then_some(left)
        })
        .await;
    assert!(!left["metadata"]["deletionTimestamp"].is_null());

    cluster.create::<Namespace>(json!({"metadata": {"name": "shop"}})).await;
    let mut free = widget;
    free["metadata"] = json!({"name": "free"});
    send("POST", &widgets("shop"), free).await.expect("a widget");
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    api.delete("shop", &DeleteParams::default()).await.expect("deleted");
    cluster
        .until("the end of the namespace", || async {
            api.get_opt("shop").await.expect("a get").is_none().then_some(())
        })
        .await;
}

/// A custom kind that is served in another version only: what its objects own stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_owners_change_their_version() {
    let cluster = Cluster::new(0).await;
    let send = async |method: &str, uri: &str, body| cluster.send(method, uri, body).await;
    let versions = |first: bool| {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        json!([{"name": "v1", "served": first, "storage": true, "schema": schema},
            {"name": "v2", "served": !first, "storage": false, "schema": schema}])
    };
    let definition = widgets(versions(true));
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    send("POST", definitions, definition).await.expect("a definition");
    let make = async |version: &str, name: &str| {
        let uri = format!("/apis/example.com/{version}/namespaces/default/widgets");
        let version = format!("example.com/{version}");
        let widget = json!({"apiVersion": version, "kind": "Widget", "metadata": {"name": name}});
        let (made, _) = cluster
            .until("the custom kind", || async { send("POST", &uri, widget.clone()).await.ok() })
            .await;
        let owners =
            owner(&version, "Widget", name, made["metadata"]["uid"].as_str().map(str::to_owned));
        cluster.create::<ConfigMap>(map(&format!("of-{name}"), owners)).await;
        format!("{uri}/{name}")
    };
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    make("v1", "stays").await;
    // The collector knows the kind.
    let goes = make("v1", "goes").await;
    send("DELETE", &goes, options.clone()).await.expect("deleted");
    gone::<ConfigMap>(&cluster, "of-goes").await;
    let definition = format!("{definitions}/widgets.example.com");
    let other = json!({"spec": {"versions": versions(false)}});
    send("PATCH", &definition, other).await.expect("another version");
    // It knows the other version.
    let goes = make("v2", "goes").await;
    send("DELETE", &goes, options.clone()).await.expect("deleted");
    gone::<ConfigMap>(&cluster, "of-goes").await;
    let maps = cluster.api::<ConfigMap>("default");
    assert!(maps.get_opt("of-stays").await.expect("a get").is_some());
    let stays = "/apis/example.com/v2/namespaces/default/widgets/stays";
    send("DELETE", stays, options).await.expect("deleted");
    gone::<ConfigMap>(&cluster, "of-stays").await;
}

/// Names of RBAC may hold nearly anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_ends_whatever_its_objects_are_called() {
    let cluster = Cluster::new(0).await;
    cluster.create::<Namespace>(json!({"metadata": {"name": "shop"}})).await;
    for name in ["a b", "a?b=c", "a#b"] {
        let role = json!({"metadata": {"name": name, "namespace": "shop"}, "rules": []});
        cluster.create::<Role>(role).await;
    }
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    api.delete("shop", &DeleteParams::default()).await.expect("deleted");
    cluster
        .until("the end of the namespace", || async {
            api.get_opt("shop").await.expect("a get").is_none().then_some(())
        })
        .await;
}
