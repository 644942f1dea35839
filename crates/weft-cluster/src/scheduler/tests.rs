use serde_json::{Value, json};

use super::*;
use crate::kinds::World;

struct Cluster {
    world: World,
    assumed: Assumed,
    version: u64,
}

impl Cluster {
    fn new(nodes: &[Value]) -> Self {
        let mut cluster = Self { world: World::default(), assumed: Assumed::default(), version: 0 };
        for node in nodes {
            cluster.put(Kind::Node, node.clone());
        }
        cluster
    }

    fn put(&mut self, kind: Kind, mut object: Value) {
        self.version += 1;
        let name = object["metadata"]["name"].clone();
        object["metadata"]["uid"] = name;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        assert_eq!(self.world.absorb(kind, object).len(), 1, "an object that decodes");
    }

    /// The node, or the complaint.
    fn place(&mut self, pod: Value) -> Result<String, String> {
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        self.put(Kind::Pod, pod);
        let mut round = Round::default();
        let plan =
            plan(&self.world, &mut self.assumed, &mut round, "ns", &name, Timestamp::UNIX_EPOCH);
        for action in &plan.actions {
            match &action.verb {
                Verb::CreateSub("binding", body) => {
                    return Ok(body["target"]["name"].as_str().expect("a node").into());
                }
                Verb::Strategic(_, body) => {
                    let condition = &body["status"]["conditions"][0];
                    return Err(condition["message"].as_str().expect("a message").into());
                }
                _ => {}
            }
        }
        panic!("neither bound nor refused: {:?}", plan.actions);
    }
}

fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "z"}},
        "status": {
            "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    json!({
        "metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs",
                "uid": "rs", "controller": true}]},
        "spec": spec,
    })
}

#[test]
fn spreads_over_nodes() {
    let mut cluster = Cluster::new(&[node("a"), node("b"), node("c")]);
    let placed: Vec<_> =
        (0..6).map(|n| cluster.place(pod(&format!("p{n}"), json!({}))).expect("room")).collect();
    assert_eq!(placed, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn says_why_nothing_fits() {
    let mut small = node("b");
    small["status"]["allocatable"]["cpu"] = "100m".into();
    let mut tainted = node("c");
    tainted["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let mut cordoned = node("a");
    cordoned["spec"]["unschedulable"] = true.into();
    let mut lost = node("d");
    lost["status"]["conditions"][0]["status"] = "Unknown".into();
    let mut cluster = Cluster::new(&[cordoned, small, tainted, lost]);
    let wants = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "200m"}}}]});
    assert_eq!(
        cluster.place(pod("p", wants)).expect_err("no room"),
        "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, \
         1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, \
         1 node(s) were unschedulable."
    );
    let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/hostname": "c"}});
    assert_eq!(cluster.place(pod("q", tolerant)).expect("tolerated"), "c");
}

#[test]
fn no_nodes_at_all() {
    let mut cluster = Cluster::new(&[]);
    let complaint = cluster.place(pod("p", json!({}))).expect_err("no nodes");
    assert_eq!(complaint, "no nodes available to schedule pods");
}

#[test]
fn says_it_once() {
    let mut cluster = Cluster::new(&[]);
    let mut waiting = pod("p", json!({}));
    waiting["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False",
        "message": "no nodes available to schedule pods"}]);
    cluster.put(Kind::Pod, waiting);
    let plan = plan(
        &cluster.world,
        &mut cluster.assumed,
        &mut Round::default(),
        "ns",
        "p",
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(plan, Plan::default());
}

#[test]
fn host_ports_and_bindings_under_way() {
    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    let port = json!({"containers": [{"name": "c", "ports": [
        {"containerPort": 80, "hostPort": 8080}]}]});
    assert_eq!(cluster.place(pod("p", port.clone())), Ok("a".into()));
    assert_eq!(cluster.place(pod("q", port.clone())), Ok("b".into()), "p is only assumed");
    let complaint = cluster.place(pod("r", port)).expect_err("no port is free");
    assert!(complaint.contains("2 node(s) didn't have free ports"), "{complaint}");
}

#[test]
fn room_is_counted_with_init_containers() {
    let mut cluster = Cluster::new(&[node("a")]);
    let big_init = json!({
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "800m"}}}],
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}],
    });
    assert!(cluster.place(pod("p", big_init.clone())).is_ok());
    assert_eq!(
        cluster.place(pod("q", big_init)).expect_err("800m are taken"),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
}

#[test]
fn node_affinity() {
    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    let required = |operator: &str, values: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": operator, "values": values}]}]}}}})
    };
    assert_eq!(cluster.place(pod("p", required("In", json!(["b"])))), Ok("b".into()));
    assert_eq!(cluster.place(pod("q", required("NotIn", json!(["a"])))), Ok("b".into()));
    assert!(cluster.place(pod("r", required("DoesNotExist", json!(null)))).is_err());
    let preferred = json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference":
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
                "values": ["b"]}]}}]}}});
    assert_eq!(cluster.place(pod("s", preferred)), Ok("b".into()));
}

#[test]
fn pod_affinity_and_spread() {
    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    let term = json!([{"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let apart = json!({"affinity": {"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    assert_eq!(cluster.place(pod("p", apart.clone())), Ok("a".into()));
    assert_eq!(cluster.place(pod("q", apart.clone())), Ok("b".into()));
    assert!(cluster.place(pod("r", apart)).is_err());
    assert!(cluster.place(pod("s", json!({}))).is_err(), "the others repel it");

    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    let together = json!({"affinity": {"podAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    let first = cluster.place(pod("p", together.clone())).expect("the first may go anywhere");
    assert_eq!(cluster.place(pod("q", together)), Ok(first));

    let mut cluster = Cluster::new(&[node("a"), node("b")]);
    let spread = |extra: Value| {
        let mut spec = json!({"topologySpreadConstraints": [{"maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}]});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        spec
    };
    assert_eq!(cluster.place(pod("p", spread(json!({})))), Ok("a".into()));
    assert_eq!(cluster.place(pod("q", spread(json!({})))), Ok("b".into()));
    assert_eq!(cluster.place(pod("r", spread(json!({})))), Ok("a".into()));
    let only_a = json!({"tolerations": [], "nodeSelector": {"zone": "z"}});
    assert_eq!(cluster.place(pod("s", spread(only_a))), Ok("b".into()));
}

#[test]
fn leaves_alone_what_is_not_its_own() {
    for spec in [
        json!({"containers": [], "nodeName": "a"}),
        json!({"containers": [], "schedulerName": "mine"}),
        json!({"containers": [], "schedulingGates": [{"name": "g"}]}),
    ] {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
        assert!(!is_ours(&pod));
    }
}

#[test]
fn requests_of_any_size_add_up() {
    let mut cluster = Cluster::new(&[node("a")]);
    for name in ["one", "two"] {
        let resources = json!({"requests": {"memory": "9223372036854775", "pods": "9e15"}});
        cluster.put(
            Kind::Pod,
            json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"nodeName": "a",
                "containers": [{"name": "c", "resources": resources}]}}),
        );
    }
    let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {
        "containers": [{"name": "c", "resources": {"requests": {"memory": "1"}}}]}});
    assert!(cluster.place(pod).is_err());
}
