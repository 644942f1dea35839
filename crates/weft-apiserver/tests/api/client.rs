//! kube-rs as the independent client.

use crate::Server;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    authorization::v1::SelfSubjectAccessReview,
    core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{
        DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy, WatchEvent,
        WatchParams,
    },
    runtime::watcher,
};
use serde_json::json;

fn from<T: serde::de::DeserializeOwned>(v: serde_json::Value) -> T {
    serde_json::from_value(v).unwrap()
}

fn pod(name: &str) -> Pod {
    from(json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]}}))
}

fn config_map(name: &str) -> ConfigMap {
    from(json!({"metadata": {"name": name}, "data": {"k": "v"}}))
}

fn code(e: kube::Error) -> (u16, String) {
    match e {
        kube::Error::Api(s) => (s.code, s.reason.clone()),
        other => panic!("no Status: {other}"),
    }
}

async fn pods(s: &Server) -> Api<Pod> {
    Api::namespaced(s.client().await, "default")
}

#[tokio::test]
async fn crud_and_conflicts() {
    let s = Server::start(|_| {});
    let api = pods(&s).await;
    let p = api.create(&PostParams::default(), &pod("a")).await.unwrap();
    assert!(p.uid().is_some() && p.creation_timestamp().is_some());
    assert_eq!(p.metadata.generation, Some(1));
    assert_eq!(p.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(
        code(api.create(&PostParams::default(), &pod("a")).await.unwrap_err()),
        (409, "AlreadyExists".into())
    );
    assert_eq!(code(api.get("b").await.unwrap_err()), (404, "NotFound".into()));

    let mut newer = p.clone();
    newer.labels_mut().insert("x".into(), "1".into());
    let newer = api.replace("a", &PostParams::default(), &newer).await.unwrap();
    assert_ne!(newer.resource_version(), p.resource_version());
    // No change, no new version.
    let same = api.replace("a", &PostParams::default(), &newer).await.unwrap();
    assert_eq!(same.resource_version(), newer.resource_version());
    let mut stale = p.clone();
    stale.labels_mut().insert("y".into(), "1".into());
    assert_eq!(
        code(api.replace("a", &PostParams::default(), &stale).await.unwrap_err()),
        (409, "Conflict".into())
    );
    // What a client says about the server's own fields is ignored.
    let mut forged = newer.clone();
    forged.metadata.creation_timestamp = None;
    forged.metadata.resource_version = None;
    forged.labels_mut().insert("z".into(), "1".into());
    let kept = api.replace("a", &PostParams::default(), &forged).await.unwrap();
    assert_eq!(kept.creation_timestamp(), p.creation_timestamp());
    assert_eq!(kept.uid(), p.uid());

    let generated: Pod = from(json!({"metadata": {"generateName": "g-"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    let g = api.create(&PostParams::default(), &generated).await.unwrap();
    assert!(g.name_any().starts_with("g-") && g.name_any().len() == 7);
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 2);
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(api.get("a").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn namespaces_must_exist_and_live() {
    let s = Server::start(|_| {});
    let client = s.client().await;
    let missing: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    let e = missing.create(&PostParams::default(), &config_map("c")).await.unwrap_err();
    assert_eq!(code(e).0, 404);
    let all: Api<Namespace> = Api::all(client.clone());
    let ns: Namespace = from(json!({"metadata": {"name": "team"}}));
    let ns = all.create(&PostParams::default(), &ns).await.unwrap();
    assert_eq!(ns.labels()["kubernetes.io/metadata.name"], "team");
    let inside: Api<ConfigMap> = Api::namespaced(client.clone(), "team");
    inside.create(&PostParams::default(), &config_map("c")).await.unwrap();
    let deleted = all.delete("team", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(deleted.status.unwrap().phase.as_deref(), Some("Terminating"));
    let e = inside.create(&PostParams::default(), &config_map("d")).await.unwrap_err();
    assert_eq!(code(e), (403, "Forbidden".into()));
    // The namespace controller's last word.
    let mut last = all.get("team").await.unwrap();
    last.spec.as_mut().unwrap().finalizers = Some(vec![]);
    let body = serde_json::to_vec(&last).unwrap();
    let req = http::Request::put("/api/v1/namespaces/team/finalize")
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    client.request::<Namespace>(req).await.unwrap();
    assert_eq!(code(all.get("team").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn pods_go_gracefully() {
    let s = Server::start(|_| {});
    let api = pods(&s).await;
    api.create(&PostParams::default(), &pod("a")).await.unwrap();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"},
        "target": {"kind": "Node", "name": "n1"}});
    let bind = || {
        http::Request::post("/api/v1/namespaces/default/pods/a/binding")
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&binding).unwrap())
            .unwrap()
    };
    let client = s.client().await;
    client.request::<serde_json::Value>(bind()).await.unwrap();
    assert_eq!(code(client.request::<serde_json::Value>(bind()).await.unwrap_err()).0, 409);
    let p = api.get("a").await.unwrap();
    assert_eq!(p.spec.unwrap().node_name.as_deref(), Some("n1"));
    let marked = api.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    assert!(marked.metadata.deletion_timestamp.is_some());
    let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    api.delete("a", &now).await.unwrap();
    assert_eq!(code(api.get("a").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn finalizers_preconditions_and_propagation() {
    let s = Server::start(|_| {});
    let api: Api<ConfigMap> = Api::namespaced(s.client().await, "default");
    let mut c = config_map("f");
    c.metadata.finalizers = Some(vec!["weft.test/hold".into()]);
    let made = api.create(&PostParams::default(), &c).await.unwrap();
    let wrong = DeleteParams {
        preconditions: Some(kube::api::Preconditions {
            uid: Some("other".into()),
            resource_version: None,
        }),
        ..Default::default()
    };
    assert_eq!(code(api.delete("f", &wrong).await.unwrap_err()).0, 409);
    let marked = api.delete("f", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let add = json!({"metadata": {"finalizers": ["weft.test/hold", "weft.test/more"]}});
    let e = api.patch("f", &PatchParams::default(), &Patch::Merge(&add)).await.unwrap_err();
    assert_eq!(code(e).0, 422);
    let release = json!({"metadata": {"finalizers": null}});
    api.patch("f", &PatchParams::default(), &Patch::Merge(&release)).await.unwrap();
    assert_eq!(code(api.get("f").await.unwrap_err()).0, 404);
    assert!(made.uid().is_some());

    api.create(&PostParams::default(), &config_map("g")).await.unwrap();
    let foreground = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..Default::default()
    };
    let held = api.delete("g", &foreground).await.unwrap().left().unwrap();
    assert_eq!(held.finalizers(), ["foregroundDeletion"]);
}

#[tokio::test]
async fn collections_evictions_and_dry_runs() {
    let s = Server::start(|_| {});
    let client = s.client().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut c = config_map(name);
        c.labels_mut().insert("app".into(), app.into());
        maps.create(&PostParams::default(), &c).await.unwrap();
    }
    let dry = PostParams { dry_run: true, ..Default::default() };
    maps.create(&dry, &config_map("d")).await.unwrap();
    assert_eq!(code(maps.get("d").await.unwrap_err()).0, 404);
    let selected = ListParams::default().labels("app=x");
    let dry = DeleteParams { dry_run: true, ..Default::default() };
    maps.delete_collection(&dry, &selected).await.unwrap();
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 3);
    maps.delete_collection(&DeleteParams::default(), &selected).await.unwrap();
    let left = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["c"]);

    let pods: Api<Pod> = Api::namespaced(client, "default");
    let mut p = pod("e");
    p.spec.as_mut().unwrap().node_name = Some("n1".into());
    pods.create(&PostParams::default(), &p).await.unwrap();
    pods.evict("e", &Default::default()).await.unwrap();
    let evicted = pods.get("e").await.unwrap();
    assert!(evicted.metadata.deletion_timestamp.is_some());
}

#[tokio::test]
async fn many_writers_lose_nothing() {
    let s = Server::start(|_| {});
    let maps: Api<ConfigMap> = Api::namespaced(s.client().await, "default");
    maps.create(&PostParams::default(), &config_map("shared")).await.unwrap();
    // Patches without a version are all applied; updates with one retry on conflict.
    let patched = (0..20).map(|i| {
        let maps = maps.clone();
        async move {
            let p = json!({"data": {format!("p{i}"): "1"}});
            maps.patch("shared", &PatchParams::default(), &Patch::Merge(p)).await.unwrap();
        }
    });
    let updated = (0..10).map(|i| {
        let maps = maps.clone();
        async move {
            loop {
                let mut c = maps.get("shared").await.unwrap();
                c.data.as_mut().unwrap().insert(format!("u{i}"), "1".into());
                match maps.replace("shared", &PostParams::default(), &c).await {
                    Ok(_) => break,
                    Err(e) => assert_eq!(code(e).0, 409),
                }
            }
        }
    });
    futures::join!(futures::future::join_all(patched), futures::future::join_all(updated));
    assert_eq!(maps.get("shared").await.unwrap().data.unwrap().len(), 31);
}

#[tokio::test]
async fn patches_and_status() {
    let s = Server::start(|_| {});
    let client = s.client().await;
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let d: Deployment = from(json!({"metadata": {"name": "d"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "one", "image": "i:1"}, {"name": "two", "image": "i:2"}]}}}}));
    api.create(&PostParams::default(), &d).await.unwrap();
    let pp = PatchParams::default();
    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "i:3"}]}}}});
    let d = api.patch("d", &pp, &Patch::Strategic(&strategic)).await.unwrap();
    let images: Vec<_> = d
        .spec
        .as_ref()
        .unwrap()
        .template
        .spec
        .as_ref()
        .unwrap()
        .containers
        .iter()
        .map(|c| c.image.clone().unwrap())
        .collect();
    assert_eq!(images, ["i:1", "i:3"]);
    assert_eq!(d.metadata.generation, Some(2));
    let ops: json_patch::Patch =
        from(json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]));
    let d = api.patch("d", &pp, &Patch::Json::<()>(ops)).await.unwrap();
    assert_eq!((d.spec.as_ref().unwrap().replicas, d.metadata.generation), (Some(5), Some(3)));

    // Status is written only through its subresource, and nothing else through that.
    let both = json!({"metadata": {"labels": {"l": "1"}}, "spec": {"replicas": 9}, "status": {"replicas": 4}});
    let d = api.patch("d", &pp, &Patch::Merge(&both)).await.unwrap();
    assert_eq!(d.spec.as_ref().unwrap().replicas, Some(9));
    assert!(d.status.unwrap_or_default().replicas.is_none());
    let both = json!({"spec": {"replicas": 1}, "status": {"replicas": 4, "observedGeneration": 4}});
    let d = api.patch_status("d", &pp, &Patch::Merge(&both)).await.unwrap();
    assert_eq!((d.spec.as_ref().unwrap().replicas, d.status.unwrap().replicas), (Some(9), Some(4)));
    assert_eq!(d.metadata.generation, Some(4));

    let scale = api.get_scale("d").await.unwrap();
    assert_eq!(
        (scale.spec.unwrap().replicas, scale.status.unwrap().selector.as_deref()),
        (Some(9), Some("a=b"))
    );
    let scale =
        api.patch_scale("d", &pp, &Patch::Merge(&json!({"spec": {"replicas": 3}}))).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(3));
    assert_eq!(api.get("d").await.unwrap().spec.unwrap().replicas, Some(3));

    // Dry runs change nothing.
    let dry = PatchParams { dry_run: true, ..Default::default() };
    let d = api.patch("d", &dry, &Patch::Merge(&json!({"spec": {"replicas": 8}}))).await.unwrap();
    assert_eq!(d.spec.unwrap().replicas, Some(8));
    assert_eq!(api.get("d").await.unwrap().spec.unwrap().replicas, Some(3));
}

#[tokio::test]
async fn watches_continue_lists_and_follow_selectors() {
    let s = Server::start(|_| {});
    let api = pods(&s).await;
    api.create(&PostParams::default(), &pod("a")).await.unwrap();
    let listed = api.list(&ListParams::default()).await.unwrap();
    let rv = listed.metadata.resource_version.unwrap();
    api.create(&PostParams::default(), &pod("b")).await.unwrap();
    let wp = WatchParams::default().labels("app=web").timeout(5);
    let mut stream = api.watch(&wp, &rv).await.unwrap().boxed();
    match stream.try_next().await.unwrap().unwrap() {
        WatchEvent::Added(p) => assert_eq!(p.name_any(), "b"),
        other => panic!("{other:?}"),
    }
    // Out of the selection: DELETED. Back in: ADDED.
    let label = |v: &str| json!({"metadata": {"labels": {"app": v}}});
    let pp = PatchParams::default();
    api.patch("b", &pp, &Patch::Merge(label("other"))).await.unwrap();
    let back = api.patch("b", &pp, &Patch::Merge(label("web"))).await.unwrap();
    let WatchEvent::Deleted(gone) = stream.try_next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(gone.labels()["app"], "web", "an object that left is shown as it was");
    let WatchEvent::Added(p) = stream.try_next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(p.resource_version(), back.resource_version());
    api.delete("b", &DeleteParams::default()).await.unwrap();
    let WatchEvent::Deleted(p) = stream.try_next().await.unwrap().unwrap() else { panic!() };
    assert!(p.resource_version() > back.resource_version());
    // The server ends the watch in time.
    while stream.try_next().await.unwrap().is_some() {}

    let by_name = ListParams::default().fields("metadata.name=a");
    assert_eq!(api.list(&by_name).await.unwrap().items.len(), 1);
    let by_node = ListParams::default().fields("spec.nodeName=n9");
    assert_eq!(api.list(&by_node).await.unwrap().items.len(), 0);
    let e = api.list(&ListParams::default().fields("spec.nothing=1")).await.unwrap_err();
    assert_eq!(code(e).0, 400);
}

#[tokio::test]
async fn too_old_a_version_is_gone_and_pages_are_consistent() {
    let s = Server::start(|c| c.watch_history = 8);
    let api: Api<ConfigMap> = Api::namespaced(s.client().await, "default");
    let create = async |range: std::ops::Range<u32>| {
        for i in range {
            api.create(&PostParams::default(), &config_map(&format!("c{i:02}"))).await.unwrap();
        }
    };
    create(0..4).await;
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(2));
    // What comes later is not in the pages of this list, and what goes still is.
    create(10..12).await;
    api.delete("c02", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let next = ListParams::default().limit(2).continue_token(&token);
    let second = api.list(&next).await.unwrap();
    let names: Vec<_> = second.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["c02", "c03"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert!(second.metadata.continue_.unwrap_or_default().is_empty());
    create(20..40).await;
    assert_eq!(code(api.list(&next).await.unwrap_err()), (410, "Expired".into()));
    let rv = first.metadata.resource_version.unwrap();
    let mut stream = api.watch(&WatchParams::default(), &rv).await.unwrap().boxed();
    let WatchEvent::Error(e) = stream.try_next().await.unwrap().unwrap() else { panic!() };
    assert_eq!((e.code, e.reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn streaming_lists_end_with_a_bookmark() {
    let s = Server::start(|_| {});
    let api: Api<ConfigMap> = Api::namespaced(s.client().await, "default");
    for i in 0..3 {
        api.create(&PostParams::default(), &config_map(&format!("c{i}"))).await.unwrap();
    }
    let config = watcher::Config::default().streaming_lists();
    let mut stream = watcher(api.clone(), config).boxed();
    let mut seen = 0;
    loop {
        match stream.try_next().await.unwrap().unwrap() {
            watcher::Event::Init => {}
            watcher::Event::InitApply(_) => seen += 1,
            watcher::Event::InitDone => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, 3);
    api.create(&PostParams::default(), &config_map("later")).await.unwrap();
    let watcher::Event::Apply(c) = stream.try_next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(c.name_any(), "later");
}

#[tokio::test]
async fn in_process_clients_need_no_token_and_others_do() {
    let s = Server::start(|_| {});
    let inside = Client::new(s.api.service(), "default");
    let nodes: Api<Node> = Api::all(inside.clone());
    let node: Node =
        from(json!({"metadata": {"name": "n1"}, "status": {"capacity": {"cpu": "2"}}}));
    let n = nodes.create(&PostParams::default(), &node).await.unwrap();
    assert!(
        n.status.unwrap().capacity.unwrap().contains_key("cpu"),
        "a node registers with status"
    );
    let seen: Api<Node> = Api::all(s.client().await);
    assert_eq!(seen.list(&ListParams::default()).await.unwrap().items.len(), 1);

    let mut stranger = kube::config::Kubeconfig::from_yaml(&s.kubeconfig).unwrap();
    stranger.auth_infos[0].auth_info.as_mut().unwrap().token = Some("wrong".to_owned().into());
    let config = kube::Config::from_custom_kubeconfig(stranger, &Default::default()).await.unwrap();
    let refused: Api<Node> = Api::all(Client::try_from(config).unwrap());
    let e = refused.list(&ListParams::default()).await.unwrap_err();
    assert_eq!(code(e), (401, "Unauthorized".into()));
}

#[tokio::test]
async fn reviews_tokens_and_events() {
    let s = Server::start(|_| {});
    let client = s.client().await;
    let ask: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = from(json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}));
    let answer = ask.create(&PostParams::default(), &review).await.unwrap();
    assert!(answer.status.unwrap().allowed);

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    accounts
        .create(&PostParams::default(), &from(json!({"metadata": {"name": "robot"}})))
        .await
        .unwrap();
    let request =
        from(json!({"spec": {"audiences": [], "expirationSeconds": 600}, "metadata": {}}));
    let token =
        accounts.create_token_request("robot", &PostParams::default(), &request).await.unwrap();
    let mut as_robot = kube::config::Kubeconfig::from_yaml(&s.kubeconfig).unwrap();
    let token = token.status.unwrap().token;
    as_robot.auth_infos[0].auth_info.as_mut().unwrap().token = Some(token.into());
    let config = kube::Config::from_custom_kubeconfig(as_robot, &Default::default()).await.unwrap();
    let robot: Api<ServiceAccount> = Api::namespaced(Client::try_from(config).unwrap(), "default");
    assert_eq!(robot.get("robot").await.unwrap().name_any(), "robot");
    // A token ends with its account, also when there is another of that name.
    accounts.delete("robot", &Default::default()).await.unwrap();
    assert_eq!(code(robot.get("default").await.unwrap_err()).0, 401);
    accounts
        .create(&PostParams::default(), &from(json!({"metadata": {"name": "robot"}})))
        .await
        .unwrap();
    assert_eq!(code(robot.get("robot").await.unwrap_err()).0, 401);

    // One Event, two API groups.
    let new: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), "default");
    let event = from(json!({"metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reason": "Started", "note": "hello", "type": "Normal", "action": "Start",
        "reportingController": "weft.test/c", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}}));
    new.create(&PostParams::default(), &event).await.unwrap();
    let old: Api<Event> = Api::namespaced(client, "default");
    let about = ListParams::default().fields("involvedObject.name=p,involvedObject.kind=Pod");
    let found = old.list(&about).await.unwrap();
    assert_eq!(found.items[0].message.as_deref(), Some("hello"));
    let about = ListParams::default().fields("regarding.name=p");
    assert_eq!(new.list(&about).await.unwrap().items[0].note.as_deref(), Some("hello"));
}

#[tokio::test]
async fn cluster_ips_are_allocated_and_released() {
    let s = Server::start(|_| {});
    let api: Api<Service> = Api::namespaced(s.client().await, "default");
    let service = |name: &str, spec: serde_json::Value| -> Service {
        let mut all = json!({"ports": [{"port": 80}], "selector": {"a": "b"}});
        json_patch::merge(&mut all, &spec);
        from(json!({"metadata": {"name": name}, "spec": all}))
    };
    let k = api.get("kubernetes").await.unwrap();
    assert_eq!(k.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    let pp = PostParams::default();
    let dual = api
        .create(&pp, &service("dual", json!({"ipFamilyPolicy": "RequireDualStack"})))
        .await
        .unwrap();
    let spec = dual.spec.unwrap();
    assert_eq!(spec.ip_families.unwrap(), ["IPv4", "IPv6"]);
    assert_eq!(spec.cluster_ips.as_ref().unwrap().len(), 2);
    assert_eq!(spec.cluster_ip, Some(spec.cluster_ips.unwrap()[0].clone()));
    let fixed = json!({"clusterIP": "10.96.0.10"});
    api.create(&pp, &service("dns", fixed.clone())).await.unwrap();
    let e = api.create(&pp, &service("dns2", fixed.clone())).await.unwrap_err().to_string();
    assert!(e.contains("provided IP is already allocated"), "{e}");
    api.delete("dns", &DeleteParams::default()).await.unwrap();
    api.create(&pp, &service("dns2", fixed)).await.unwrap();
    let e = api
        .create(&pp, &service("out", json!({"clusterIP": "10.1.0.1"})))
        .await
        .unwrap_err()
        .to_string();
    assert!(e.contains("the provided network does not match the current range"), "{e}");
    let np = api.create(&pp, &service("np", json!({"type": "NodePort"}))).await.unwrap();
    let port = np.spec.unwrap().ports.unwrap()[0].node_port.unwrap();
    assert!((30000..=32767).contains(&port));
    let headless = api.create(&pp, &service("h", json!({"clusterIP": "None"}))).await.unwrap();
    assert_eq!(headless.spec.unwrap().cluster_ips.unwrap(), ["None"]);
}
