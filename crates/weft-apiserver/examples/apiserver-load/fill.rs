//! Objects of the size that clusters have.

use crate::client::{Connection, Target};
use anyhow::Result;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

const CONNECTIONS: usize = 16;
const ENDPOINTS_PER_SLICE: u64 = 100;

/// A ConfigMap that is 1 KiB long as it is sent.
pub fn config_map(n: u64) -> (String, Vec<u8>) {
    let make = |fill: usize| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{n:08}"),
            "namespace": "default", "labels": {"app": "bench", "tier": "load"}},
            "data": {"text": "x".repeat(fill)}})
        .to_string()
    };
    let bare = make(0).len();
    ("/api/v1/namespaces/default/configmaps".into(), make(1024 - bare).into_bytes())
}

/// A pod of a Deployment as a scheduler and a kubelet leave it, about 2.3 KiB.
pub fn pod(n: u64) -> (String, Vec<u8>) {
    let ready = |kind: &str| {
        json!({"type": kind, "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let v = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("web-6d4cf56db6-{n:05}"), "namespace": "default",
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "web-6d4cf56db6", "uid": "7e5b1f62-4c3a-4c0e-9a53-2f4f3f1b8f10",
                "controller": true, "blockOwnerDeletion": true}]},
        "spec": {"nodeName": format!("node{}", n % 100), "containers": [{"name": "web",
            "image": "registry.example/web:1.2.3", "ports": [{"containerPort": 8080}],
            "env": [{"name": "MODE", "value": "production"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}}}]},
        "status": {"phase": "Running",
            "conditions": [ready("Initialized"), ready("Ready"), ready("ContainersReady"),
                ready("PodScheduled")],
            "podIP": "10.244.1.7", "podIPs": [{"ip": "10.244.1.7"}], "hostIP": "172.30.1.1"}});
    ("/api/v1/namespaces/default/pods".into(), v.to_string().into_bytes())
}

pub fn service(n: u64) -> (String, Vec<u8>) {
    let v = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{n:05}"), "namespace": "default", "labels": {"app": "web"}},
        "spec": {"selector": {"app": format!("web{n}")}, "ports": [{"name": "http", "port": 80,
            "targetPort": 8080}]}});
    ("/api/v1/namespaces/default/services".into(), v.to_string().into_bytes())
}

/// A full EndpointSlice: 100 endpoints, as many as the controller puts into one.
pub fn slice(n: u64) -> (String, Vec<u8>) {
    let endpoints: Vec<Value> = (0..ENDPOINTS_PER_SLICE)
        .map(|i| {
            json!({"addresses": [format!("10.{}.{}.{}", 100 + n / 250, n % 250, i + 1)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node{}", i % 100), "zone": format!("zone{}", i % 3),
                "targetRef": {"kind": "Pod", "namespace": "default",
                    "name": format!("web-6d4cf56db6-{:06}", n * ENDPOINTS_PER_SLICE + i),
                    "uid": format!("7e5b1f62-4c3a-4c0e-9a53-{:012}", n * 100 + i)}})
        })
        .collect();
    let v = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("s{n:05}-abcde"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("s{n:05}")}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    (path.into(), v.to_string().into_bytes())
}

/// Creates `count` objects over a few connections.
pub async fn fill(target: Target, count: u64, make: fn(u64) -> (String, Vec<u8>)) -> Result<Value> {
    let (started, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let (target, next) = (target.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(&target).await?;
            let mut sent = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, anyhow::Error>(sent);
                }
                let (path, body) = make(n);
                sent += body.len();
                let request = target.request("POST", &path, "application/json", &body);
                connection.exchange(&request).await?.expect(201)?;
            }
        }));
    }
    let mut sent = 0;
    for task in tasks {
        sent += task.await??;
    }
    Ok(json!({"s": started.elapsed().as_secs_f64(), "bytes": sent}))
}
