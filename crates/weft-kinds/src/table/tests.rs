use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::decode::tests::any_json;
use crate::lookup;

const NOW: &str = "2024-01-01T01:00:00Z";

fn row(group: &str, plural: &str, object: Value) -> Vec<String> {
    let kind = lookup(group, "v1", plural).expect("row");
    cells(kind, &object, NOW.parse().expect("time"))
        .into_iter()
        .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
        .collect()
}

fn pod(spec: Value, status: Value) -> Vec<String> {
    let object = json!({"metadata": {"name": "p", "creationTimestamp": "2024-01-01T00:00:00Z"},
                        "spec": spec, "status": status});
    row("", "pods", object)
}

#[test]
fn ages_are_those_of_kubectl() {
    for (seconds, text) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_000, "3h3m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (700_000, "8d"),
        (63_072_000, "2y"),
        (63_200_000, "2y1d"),
        (300_000_000, "9y"),
    ] {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

#[test]
fn pods_show_what_they_do() {
    let two = json!({"containers": [{}, {}], "nodeName": "n1"});
    let running = json!({"ready": true, "restartCount": 1, "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": "2024-01-01T00:59:55Z"}}});
    assert_eq!(
        pod(
            two.clone(),
            json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [running, {
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})
        ),
        ["p", "1/2", "CrashLoopBackOff", "1 (5s ago)", "60m", "10.0.0.1", "n1", "<none>", "<none>"]
    );
    let one = json!({"containers": [{}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let status = |status: Value| pod(one.clone(), status)[2].clone();
    assert_eq!(status(json!({"phase": "Pending"})), "Pending");
    assert_eq!(
        status(json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}],
            "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]})),
        "Init:1/2"
    );
    assert_eq!(
        status(json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"terminated": {"exitCode": 3}}}]})),
        "Init:ExitCode:3"
    );
    assert_eq!(
        status(json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})),
        "Init:CrashLoopBackOff"
    );
    assert_eq!(
        status(json!({"phase": "Succeeded", "containerStatuses": [
            {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]})),
        "Completed"
    );
    let sidecar =
        json!({"containers": [{}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
    assert_eq!(
        pod(
            sidecar,
            json!({"phase": "Running",
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
            "containerStatuses": [{"ready": true, "state": {"running": {}}}]})
        )[1..3],
        ["2/2", "Running"]
    );
    let gone = json!({"metadata": {"name": "p", "deletionTimestamp": NOW}, "spec": two, "status": {"phase": "Running"}});
    assert_eq!(row("", "pods", gone)[2], "Terminating");
}

#[test]
fn services_and_endpoints() {
    let service = |spec: Value, status: Value| {
        row("", "services", json!({"metadata": {"name": "s"}, "spec": spec, "status": status}))
    };
    assert_eq!(
        service(
            json!({"type": "NodePort", "clusterIPs": ["10.96.0.1", "fd00::1"], "selector": {"b": "2", "a": "1"},
                   "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
            json!({})
        ),
        ["s", "NodePort", "10.96.0.1", "<none>", "80:30080/TCP,53/UDP", "<unknown>", "a=1,b=2"]
    );
    assert_eq!(service(json!({"type": "LoadBalancer"}), json!({}))[3], "<pending>");
    assert_eq!(
        service(json!({"type": "ExternalName", "externalName": "example.org"}), json!({}))[2..5],
        ["<none>", "example.org", "<none>"]
    );
    assert_eq!(service(json!({"type": "ClusterIP", "clusterIP": "None"}), json!({}))[2], "None");
    let addresses: Vec<Value> =
        (1..6).map(|n| json!({"addresses": [format!("10.0.0.{n}")]})).collect();
    assert_eq!(
        row(
            "discovery.k8s.io",
            "endpointslices",
            json!({"metadata": {"name": "e"}, "addressType": "IPv4",
            "ports": [{"port": 80}], "endpoints": addresses})
        )[1..4],
        ["IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more..."]
    );
    assert_eq!(
        row(
            "",
            "endpoints",
            json!({"metadata": {"name": "e"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]})
        )[1],
        "10.0.0.1:80,[fd00::1]:80"
    );
}

#[test]
fn workloads_nodes_and_events() {
    assert_eq!(
        row(
            "apps",
            "deployments",
            json!({"metadata": {"name": "d"}, "spec": {"replicas": 3,
            "selector": {"matchLabels": {"app": "d"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]},
            "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}})
        ),
        ["d", "2/3", "3", "2", "<unknown>", "a,b", "i,j", "app=d,x"]
    );
    assert_eq!(
        row(
            "",
            "nodes",
            json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
                       "addresses": [{"type": "InternalIP", "address": "172.30.1.10"}],
                       "nodeInfo": {"kubeletVersion": "v1.35.0"}}})
        )[1..6],
        ["Ready,SchedulingDisabled", "control-plane", "<unknown>", "v1.35.0", "172.30.1.10"]
    );
    assert_eq!(
        row(
            "",
            "events",
            json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Pulled", "message": " hi\n",
            "involvedObject": {"kind": "Pod", "name": "p"}, "count": 4,
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:59:00Z",
            "source": {"component": "kubelet", "host": "n1"}})
        ),
        ["60s", "Normal", "Pulled", "pod/p", "", "kubelet, n1", "hi", "60m", "4", "e"]
    );
    assert_eq!(
        row(
            "batch",
            "jobs",
            json!({"metadata": {"name": "j"}, "spec": {"completions": 2},
            "status": {"succeeded": 1, "startTime": "2024-01-01T00:59:00Z"}})
        )[1..4],
        ["Running", "1/2", "60s"]
    );
}

#[test]
fn every_printer_belongs_to_a_row() {
    for (name, _) in PRINTERS {
        assert!(crate::kinds().iter().any(|kind| kind.type_name() == *name), "{name}");
    }
}

proptest! {
    #[test]
    fn rows_are_as_long_as_their_columns(object in any_json()) {
        for kind in crate::kinds() {
            prop_assert_eq!(cells(kind, &object, Timestamp::UNIX_EPOCH).len(), columns(kind).len());
        }
    }
}
