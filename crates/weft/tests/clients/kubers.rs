//! kube-rs: objects, streams of them, and a controller as operators write it.

use crate::harness::Api;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api as Objects, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
    core::PartialObjectMeta,
    discovery::Discovery,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        finalizer::{self, finalizer},
        reflector,
        watcher::{self, InitialListStrategy},
    },
};
use serde_json::json;
use std::{future::Future, sync::Arc, time::Duration};

/// Bounds every wait.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: too late"))
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"of": "test"}}})).unwrap()
}

#[tokio::test]
async fn kube_rs_reads_writes_and_applies() {
    let api = Api::start();
    let client = api.client().await;
    let maps: Objects<ConfigMap> = Objects::default_namespaced(client.clone());
    let params = PostParams::default();
    let mut made = maps.create(&params, &map("a")).await.unwrap();
    let stale = made.clone();
    made.data = Some([("k".to_owned(), "v".to_owned())].into());
    let replaced = maps.replace("a", &params, &made).await.unwrap();
    assert_eq!(replaced.data, made.data);
    let code = |e: kube::Error| match e {
        kube::Error::Api(status) => (status.code, status.reason),
        other => panic!("{other}"),
    };
    assert_eq!(
        code(maps.replace("a", &params, &stale).await.unwrap_err()),
        (409, "Conflict".to_owned())
    );
    assert!(maps.get_opt("nobody").await.unwrap().is_none());
    let mut entry = maps.entry("b").await.unwrap().or_insert(|| map("b"));
    entry.get_mut().data = Some([("k".to_owned(), "w".to_owned())].into());
    entry.commit(&params).await.unwrap();

    // Pages of a list.
    let mut page = ListParams::default().labels("of=test").limit(1);
    let mut names = Vec::new();
    loop {
        let list = maps.list(&page).await.unwrap();
        names.extend(list.items.iter().map(ResourceExt::name_any));
        match list.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b"]);

    // Every type of patch, and two appliers of one field.
    let deployments: Objects<Deployment> = Objects::default_namespaced(client.clone());
    let wanted = |replicas: u32| {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "example.test/web:1"}]}}},
        })
    };
    let one = PatchParams::apply("one");
    deployments.patch("web", &one, &Patch::Apply(wanted(0))).await.unwrap();
    let two = PatchParams::apply("two");
    let refused = deployments.patch("web", &two, &Patch::Apply(wanted(1))).await.unwrap_err();
    assert_eq!(code(refused), (409, "Conflict".to_owned()));
    deployments.patch("web", &two.force(), &Patch::Apply(wanted(1))).await.unwrap();
    let any = PatchParams::default();
    let image = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "web", "image": "example.test/web:2"}]}}}});
    let got = deployments.patch("web", &any, &Patch::Strategic(image)).await.unwrap();
    let containers = got.spec.unwrap().template.spec.unwrap().containers;
    assert_eq!(containers[0].image.as_deref(), Some("example.test/web:2"));
    let note = json!({"metadata": {"annotations": {"note": "hi"}}});
    deployments.patch("web", &any, &Patch::Merge(note)).await.unwrap();
    let operations = json!([{"op": "test", "path": "/metadata/annotations/note", "value": "hi"},
        {"op": "remove", "path": "/metadata/annotations/note"}]);
    let operations: kube::core::params::Patch<()> =
        Patch::Json(serde_json::from_value(operations).unwrap());
    let got = deployments.patch("web", &any, &operations).await.unwrap();
    assert!(!got.annotations().contains_key("note"));
    let scale = json!({"spec": {"replicas": 0}});
    let scale = deployments.patch_scale("web", &any, &Patch::Merge(scale)).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(0));

    // What there is, found as generic tools find it.
    let discovery = Discovery::new(client.clone()).run_aggregated().await.unwrap();
    let kind = kube::core::GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice");
    let (resource, capabilities) = discovery.resolve_gvk(&kind).unwrap();
    assert_eq!(resource.plural, "endpointslices");
    assert!(capabilities.supports_operation(kube::discovery::verbs::WATCH));

    let foreground = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    deployments.delete("web", &foreground).await.unwrap();
    let gone = kube::runtime::wait::conditions::is_deleted;
    let uid = got.uid().unwrap();
    let waited = kube::runtime::wait::await_condition(deployments, "web", gone(&uid));
    soon("a foreground deletion", waited).await.unwrap();
}

#[tokio::test]
async fn kube_rs_fills_a_store_from_lists_and_streams() {
    let api = Api::start();
    let client = api.client().await;
    let maps: Objects<ConfigMap> = Objects::default_namespaced(client.clone());
    for i in 0..25 {
        maps.create(&PostParams::default(), &map(&format!("m{i}"))).await.unwrap();
    }
    let pages = InitialListStrategy::ListWatch;
    for (strategy, size) in [(pages.clone(), 10), (InitialListStrategy::StreamingList, 0)] {
        let mut config = watcher::Config::default().labels("of=test");
        config.initial_list_strategy = strategy.clone();
        config.page_size = (size > 0).then_some(size);
        let (reader, writer) = reflector::store();
        let stream = watcher::watcher(maps.clone(), config).reflect(writer);
        let mut stream = std::pin::pin!(stream.applied_objects());
        for _ in 0..25 {
            soon("the store's beginning", stream.try_next()).await.unwrap().unwrap();
        }
        let label = json!({"metadata": {"labels": {"seen": format!("{strategy:?}")}}});
        maps.patch("m7", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
        let changed = soon("a change", stream.try_next()).await.unwrap().unwrap();
        assert_eq!(changed.name_any(), "m7");
        assert_eq!(reader.len(), 25);
    }
    // Metadata alone.
    let config = watcher::Config::default().labels("of=test");
    let metas: Objects<PartialObjectMeta<ConfigMap>> = Objects::default_namespaced(client);
    let metas = watcher::watcher(metas, config).applied_objects().take(25);
    let metas: Vec<_> = soon("metadata", metas.try_collect()).await.unwrap();
    assert!(metas.iter().all(|m| m.uid().is_some()));
}

/// For each ConfigMap a Secret that it owns, and something to do before it goes.
async fn reconcile(of: Arc<ConfigMap>, client: Arc<kube::Client>) -> Result<Action, kube::Error> {
    let maps: Objects<ConfigMap> = Objects::default_namespaced((*client).clone());
    let apply = |event: finalizer::Event<ConfigMap>| async {
        let secrets: Objects<Secret> = Objects::default_namespaced((*client).clone());
        match event {
            finalizer::Event::Apply(map) => {
                let secret = json!({
                    "apiVersion": "v1", "kind": "Secret",
                    "metadata": {"name": map.name_any(), "ownerReferences": [map.controller_owner_ref(&())]},
                    "stringData": {"of": map.name_any()},
                });
                let params = PatchParams::apply("operator").force();
                secrets.patch(&map.name_any(), &params, &Patch::Apply(secret)).await?;
            }
            finalizer::Event::Cleanup(map) => {
                let farewell = ConfigMap {
                    metadata: kube::core::ObjectMeta {
                        name: Some(format!("farewell-{}", map.name_any())),
                        ..Default::default()
                    },
                    ..Default::default()
                };
                maps.create(&PostParams::default(), &farewell).await?;
            }
        }
        Ok::<_, kube::Error>(Action::await_change())
    };
    finalizer(&maps, "weft.dev/test", of, apply).await.or_else(|error| match error {
        // Somebody was quicker; the next event shows what is there.
        finalizer::Error::AddFinalizer(_) | finalizer::Error::RemoveFinalizer(_) => {
            Ok(Action::requeue(Duration::from_millis(50)))
        }
        finalizer::Error::ApplyFailed(e) | finalizer::Error::CleanupFailed(e) => Err(e),
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn a_controller_of_kube_rs_reaches_its_goal() {
    let api = Api::start();
    let client = api.client().await;
    let maps: Objects<ConfigMap> = Objects::default_namespaced(client.clone());
    let secrets: Objects<Secret> = Objects::default_namespaced(client.clone());
    let selected = watcher::Config::default().labels("of=test");
    let controller = Controller::new(maps.clone(), selected)
        .owns(secrets.clone(), watcher::Config::default())
        .run(reconcile, |_, error, _| panic!("reconcile: {error}"), Arc::new(client.clone()))
        .for_each(|_| async {});
    let controller = tokio::spawn(controller);
    maps.create(&PostParams::default(), &map("a")).await.unwrap();
    let is = |yes: bool| move |s: Option<&Secret>| s.is_some() == yes;
    let wait = |yes| kube::runtime::wait::await_condition(secrets.clone(), "a", is(yes));
    let secret = soon("the owned secret", wait(true)).await.unwrap().unwrap();
    assert_eq!(secret.data.unwrap()["of"].0, b"a");
    // Somebody's meddling is undone.
    secrets.delete("a", &DeleteParams::default()).await.unwrap();
    let first = secret.metadata.uid;
    let another = move |s: Option<&Secret>| s.is_some_and(|s| s.metadata.uid != first);
    let waited = kube::runtime::wait::await_condition(secrets.clone(), "a", another);
    soon("the secret again", waited).await.unwrap();
    // The end: cleaned up by the finalizer, then collected.
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    soon("the secret's collection", wait(false)).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
    assert!(maps.get_opt("farewell-a").await.unwrap().is_some());
    controller.abort();
}
