use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use crate::harness::*;

fn condition(deployment: &Deployment, kind: &str) -> Option<(String, String)> {
    let all = deployment.status.as_ref()?.conditions.as_ref()?;
    let one = all.iter().find(|one| one.type_ == kind)?;
    Some((one.status.clone(), one.reason.clone().unwrap_or_default()))
}

/// What `kubectl rollout status` waits for.
async fn rolled_out(cluster: &Cluster, name: &str) -> Deployment {
    let what = format!("the roll-out of {name}");
    let done = cluster.until(&what, || async {
        let one = cluster.api::<Deployment>("default").get(name).await.expect("a deployment");
        let spec = one.spec.clone().unwrap_or_default();
        let status = one.status.clone().unwrap_or_default();
        let wanted = spec.replicas;
        let done = status.observed_generation == one.metadata.generation
            && status.updated_replicas.or(Some(0)) == wanted
            && status.replicas.or(Some(0)) == wanted
            && status.available_replicas.or(Some(0)) == wanted
            && condition(&one, "Progressing")
                .is_some_and(|(_, why)| why == "NewReplicaSetAvailable");
        done.then_some(one)
    });
    done.await.0
}

/// As `kubectl get --show-managed-fields` shows them in any cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_is_known_by_the_names_of_kubernetes() {
    let cluster = Cluster::new(0).await;
    cluster.create::<Deployment>(deployment("web", 1, "a")).await;
    let managers = |pods: Vec<Pod>| -> Vec<(String, String)> {
        let entries = pods.into_iter().flat_map(|p| p.metadata.managed_fields.unwrap_or_default());
        let name = |one: ManagedFieldsEntry| {
            (one.manager.unwrap_or_default(), one.subresource.unwrap_or_default())
        };
        entries.map(name).collect()
    };
    let (found, _) = cluster
        .until("a pod that fits nowhere", || async {
            let found = managers(cluster.list::<Pod>("default", "app=web").await);
            (found.len() == 2).then_some(found)
        })
        .await;
    let named = |name: &str, part: &str| (name.to_owned(), part.to_owned());
    assert_eq!(found, [named("kube-controller-manager", ""), named("kube-scheduler", "status")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployment_comes_up_fast_and_spread() {
    let cluster = Cluster::new(3).await;
    let warm = deployment("warm", 1, "a");
    cluster.create::<Deployment>(warm).await;
    cluster.ready("default", "app=warm", 1).await;
    let begin = Instant::now();
    cluster.create::<Deployment>(deployment("web", 12, "a")).await;
    let (pods, _) = cluster
        .until("12 bound pods", || async {
            let pods = cluster.list::<Pod>("default", "app=web").await;
            let bound = pods.len() == 12 && pods.iter().all(|pod| !node_of(pod).is_empty());
            bound.then_some(pods)
        })
        .await;
    let took = begin.elapsed();
    println!("12 pods bound after {took:?}");
    assert!(took < Duration::from_secs(5), "bound after {took:?}");
    assert_eq!(per_node(&pods).into_values().collect::<Vec<_>>(), [4, 4, 4]);
    let done = rolled_out(&cluster, "web").await;
    let yes = Some(("True".to_owned(), "MinimumReplicasAvailable".to_owned()));
    assert_eq!(condition(&done, "Available"), yes);
    let sets = cluster.list::<ReplicaSet>("default", "app=web").await;
    assert_eq!(sets.len(), 1);
    let hash = sets[0].metadata.labels.as_ref().expect("labels")["pod-template-hash"].clone();
    assert_eq!(sets[0].metadata.name, Some(format!("web-{hash}")));
    let reasons: Vec<String> = cluster
        .list::<Event>("default", "")
        .await
        .into_iter()
        .filter(|event| event.involved_object.name.as_deref() == Some("web"))
        .filter_map(|event| event.reason)
        .collect();
    assert_eq!(reasons, ["ScalingReplicaSet"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_update_undo_and_scale() {
    let cluster = Cluster::new(2).await;
    cluster.create::<Deployment>(deployment("web", 4, "one")).await;
    rolled_out(&cluster, "web").await;
    let to = |image: &str| {
        json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": image}]}}}})
    };
    cluster.patch::<Deployment>("default", "web", to("two")).await;
    let done = rolled_out(&cluster, "web").await;
    let revision = |deployment: &Deployment| {
        deployment.metadata.annotations.as_ref().expect("annotations")
            ["deployment.kubernetes.io/revision"]
            .clone()
    };
    assert_eq!(revision(&done), "2");
    let pods = cluster.ready("default", "app=web", 4).await;
    for pod in &pods {
        let image = pod.spec.as_ref().expect("a spec").containers[0].image.clone();
        assert_eq!(image.as_deref(), Some("two"));
    }
    assert_eq!(cluster.list::<ReplicaSet>("default", "").await.len(), 2, "history is kept");

    // Undo, as kubectl does it: the old template again.
    let back = json!({"spec": {"template": template("web", "one")}});
    cluster.patch::<Deployment>("default", "web", back).await;
    let done = rolled_out(&cluster, "web").await;
    assert_eq!(revision(&done), "3");
    let sets = cluster.list::<ReplicaSet>("default", "").await;
    assert_eq!(sets.len(), 2, "the old ReplicaSet is used again");
    let size = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    let current = sets.iter().find(|set| size(set) == 4).expect("one set is in use");
    let annotations = current.metadata.annotations.clone().expect("annotations");
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");

    for replicas in [7, 1, 0] {
        let scale = json!({"spec": {"replicas": replicas}});
        cluster.patch::<Deployment>("default", "web", scale).await;
        cluster.ready("default", "app=web", replicas).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_update_keeps_the_old_pods() {
    let cluster = Cluster::new(2).await;
    let mut body = deployment("web", 4, "one");
    body["spec"]["progressDeadlineSeconds"] = 2.into();
    body["spec"]["minReadySeconds"] = 0.into();
    cluster.create::<Deployment>(body).await;
    rolled_out(&cluster, "web").await;
    cluster.broken.lock().expect("no panic").push("web".into());
    let image = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "broken"}]}}}});
    cluster.patch::<Deployment>("default", "web", image).await;
    cluster
        .until("the deadline", || async {
            let one = cluster.api::<Deployment>("default").get("web").await.expect("it");
            let (status, reason) = condition(&one, "Progressing")?;
            (status == "False" && reason == "ProgressDeadlineExceeded").then_some(())
        })
        .await;
    // 25 % of 4: one may be away, one may be more.
    let pods = cluster.list::<Pod>("default", "app=web").await;
    assert_eq!(pods.iter().filter(|pod| is_ready(pod)).count(), 3);
    assert_eq!(pods.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_never_overlaps() {
    let cluster = Cluster::new(1).await;
    let mut body = deployment("web", 3, "one");
    body["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create::<Deployment>(body).await;
    rolled_out(&cluster, "web").await;
    let image = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "two"}]}}}});
    cluster.patch::<Deployment>("default", "web", image).await;
    let begin = Instant::now();
    loop {
        let pods = cluster.list::<Pod>("default", "app=web").await;
        let images: std::collections::BTreeSet<_> = pods
            .iter()
            .map(|pod| pod.spec.as_ref().expect("a spec").containers[0].image.clone())
            .collect();
        assert!(images.len() <= 1, "old and new at the same time");
        if images.contains(&Some("two".into())) && pods.len() == 3 {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "in vain");
    }
    rolled_out(&cluster, "web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_set_in_order() {
    let cluster = Cluster::new(2).await;
    cluster
        .create::<StatefulSet>(json!({
            "metadata": {"name": "db", "namespace": "default"},
            "spec": {"replicas": 3, "serviceName": "db",
                "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "one"),
                "volumeClaimTemplates": [{"metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}}}}]},
        }))
        .await;
    let mut pods = cluster.ready("default", "app=db", 3).await;
    pods.sort_by_key(|pod| pod.metadata.name.clone());
    let names: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    let labels = pods[1].metadata.labels.clone().expect("labels");
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-1");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
    let spec = pods[1].spec.clone().expect("a spec");
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("db")));
    let volumes = spec.volumes.expect("volumes").into_iter();
    let claimed: Vec<_> = volumes
        .filter_map(|volume| Some((volume.name, volume.persistent_volume_claim?.claim_name)))
        .collect();
    assert_eq!(claimed, [("data".to_owned(), "data-db-1".to_owned())]);
    let claims = cluster.list::<PersistentVolumeClaim>("default", "app=db").await;
    let bound = |claim: &PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    assert!(claims.len() == 3 && claims.iter().all(bound), "{claims:#?}");
    let events = cluster.list::<Event>("default", "").await;
    let told = |message: &str| events.iter().any(|one| one.message.as_deref() == Some(message));
    assert!(told("create Claim data-db-1 Pod db-1 in StatefulSet db success"));

    // A partition holds the lower ones back.
    cluster
        .patch::<StatefulSet>(
            "default",
            "db",
            json!({"spec": {
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}},
        "template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}}),
        )
        .await;
    let images = |pods: &[Pod]| {
        let mut all: Vec<_> = pods
            .iter()
            .map(|pod| {
                let image = pod.spec.as_ref().expect("a spec").containers[0].image.clone();
                (pod.metadata.name.clone().unwrap_or_default(), image.unwrap_or_default())
            })
            .collect();
        all.sort();
        all.into_iter().map(|(_, image)| image).collect::<Vec<_>>()
    };
    cluster
        .until("db-2 of the new template", || async {
            let pods = cluster.list::<Pod>("default", "app=db").await;
            let done = pods.iter().all(is_ready) && images(&pods) == ["one", "one", "two"];
            done.then_some(())
        })
        .await;
    cluster
        .patch::<StatefulSet>(
            "default",
            "db",
            json!({"spec": {"updateStrategy":
        {"rollingUpdate": {"partition": 0}}}}),
        )
        .await;
    cluster
        .until("all of the new template", || async {
            let pods = cluster.list::<Pod>("default", "app=db").await;
            let set = cluster.api::<StatefulSet>("default").get("db").await.expect("a set");
            let status = set.status.expect("a status");
            let done = pods.iter().all(is_ready)
                && images(&pods) == ["two", "two", "two"]
                && status.current_revision == status.update_revision
                && status.updated_replicas == Some(3);
            done.then_some(())
        })
        .await;
    assert_eq!(cluster.list::<ControllerRevision>("default", "").await.len(), 2);
    cluster.patch::<StatefulSet>("default", "db", json!({"spec": {"replicas": 1}})).await;
    let left = cluster.ready("default", "app=db", 1).await;
    assert_eq!(left[0].metadata.name.as_deref(), Some("db-0"));

    // Claims stay, in use or not, until somebody deletes them, and take their volumes along.
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let count = async || volumes.list(&ListParams::default()).await.expect("a list").items.len();
    assert_eq!(count().await, 3);
    let api = cluster.api::<PersistentVolumeClaim>("default");
    for claim in ["data-db-0", "data-db-1"] {
        api.delete(claim, &DeleteParams::default()).await.expect("deleted");
    }
    let left = async || {
        let claims = cluster.list::<PersistentVolumeClaim>("default", "").await.into_iter();
        let names: Vec<_> = claims.filter_map(|claim| claim.metadata.name).collect();
        (names, count().await)
    };
    let two = (vec!["data-db-0".to_owned(), "data-db-2".to_owned()], 2);
    cluster.until("one claim's end", || async { (left().await == two).then_some(()) }).await;
    cluster.patch::<StatefulSet>("default", "db", json!({"spec": {"replicas": 0}})).await;
    let one = (vec!["data-db-2".to_owned()], 1);
    cluster.until("the other's", || async { (left().await == one).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_set_waits_for_each_pod() {
    let cluster = Cluster::new(2).await;
    cluster.broken.lock().expect("no panic").push("db".into());
    for (name, policy) in [("db", "OrderedReady"), ("all", "Parallel")] {
        let mut template = template("db", "one");
        template["metadata"]["labels"]["set"] = name.into();
        cluster
            .create::<StatefulSet>(json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"replicas": 3, "serviceName": "db", "podManagementPolicy": policy,
                    "selector": {"matchLabels": {"set": name}}, "template": template},
            }))
            .await;
    }
    cluster
        .until("pods of both", || async {
            let one = cluster.list::<Pod>("default", "set=db").await;
            let all = cluster.list::<Pod>("default", "set=all").await;
            (!one.is_empty() && all.len() == 3).then_some(())
        })
        .await;
    cluster.rest().await;
    assert_eq!(cluster.list::<Pod>("default", "set=db").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_set_on_every_node() {
    let cluster = Cluster::new(2).await;
    cluster
        .create::<DaemonSet>(json!({
            "metadata": {"name": "agent", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "agent"}},
                "template": template("agent", "one")},
        }))
        .await;
    let pods = cluster.ready("default", "app=agent", 2).await;
    assert_eq!(per_node(&pods).len(), 2);
    cluster.node("node-9").await;
    let pods = cluster.ready("default", "app=agent", 3).await;
    assert_eq!(per_node(&pods).len(), 3);
    cluster
        .patch::<DaemonSet>(
            "default",
            "agent",
            json!({"spec": {"template": {"spec":
        {"containers": [{"name": "c", "image": "two"}]}}}}),
        )
        .await;
    cluster
        .until("the update", || async {
            let set = cluster.api::<DaemonSet>("default").get("agent").await.expect("a set");
            let status = set.status.expect("a status");
            let done = status.updated_number_scheduled == Some(3)
                && status.number_available == Some(3)
                && status.observed_generation == set.metadata.generation;
            done.then_some(())
        })
        .await;
    let pods = cluster.ready("default", "app=agent", 3).await;
    assert_eq!(per_node(&pods).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_runs_to_its_end() {
    let cluster = Cluster::new(1).await;
    cluster
        .create::<Job>(json!({
            "metadata": {"name": "sum", "namespace": "default"},
            "spec": {"completions": 5, "parallelism": 2, "completionMode": "Indexed",
                "template": {"metadata": {"labels": {"job": "sum"}},
                    "spec": {"restartPolicy": "Never",
                        "containers": [{"name": "c", "image": "i"}]}}},
        }))
        .await;
    let (job, _) = cluster
        .until("the job", || async {
            let job = cluster.api::<Job>("default").get("sum").await.expect("a job");
            let all = job.status.clone()?.conditions?;
            all.iter().any(|one| one.type_ == "Complete").then_some(job)
        })
        .await;
    let status = job.status.expect("a status");
    assert_eq!((status.succeeded, status.active), (Some(5), None));
    assert!(status.completion_time.is_some());
    assert_eq!(cluster.list::<Pod>("default", "job=sum").await.len(), 5);
}

/// What the API adds to an object must not look like a change to its controller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comes_to_rest() {
    let cluster = Cluster::new(2).await;
    cluster.create::<Deployment>(deployment("web", 3, "one")).await;
    for (name, headless) in [("web", false), ("db", true)] {
        cluster
            .create::<k8s_openapi::api::core::v1::Service>(json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"selector": {"app": name}, "ipFamilyPolicy": "PreferDualStack",
                    "clusterIP": if headless { Some("None") } else { None },
                    "ports": [{"port": 80, "targetPort": "web"}]},
            }))
            .await;
    }
    cluster
        .create::<StatefulSet>(json!({
            "metadata": {"name": "db", "namespace": "default"},
            "spec": {"replicas": 2, "serviceName": "db",
                "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "one")},
        }))
        .await;
    cluster
        .create::<DaemonSet>(json!({
            "metadata": {"name": "agent", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "agent"}},
                "template": template("agent", "one")},
        }))
        .await;
    rolled_out(&cluster, "web").await;
    cluster.ready("default", "app=db", 2).await;
    cluster.ready("default", "app=agent", 2).await;
    cluster.rest().await;
}
