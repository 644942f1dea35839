//! What a StatefulSet's pod writes is there when the pod comes again, on whatever node; and is gone
//! with the claim.

use crate::harness::{Lab, kubectl_or_skip, poll, root_or_skip, text};
use std::fs;
use std::os::unix::fs::MetadataExt;

const SET: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: box
        command: [sleep, "100000"]
        volumeMounts:
        - {name: data, mountPath: /data}
        - {name: data, mountPath: /part, subPath: inner/part}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 1Gi}}
"#;

#[test]
fn what_is_claimed_follows_the_pod_and_goes_with_the_claim() {
    let test = "what_is_claimed_follows_the_pod_and_goes_with_the_claim";
    if !root_or_skip(test) || !kubectl_or_skip(test) {
        return;
    }
    let lab = Lab::up("claims", &["--nodes", "2"]);
    assert!(lab.k(&["get", "storageclass"]).contains("standard (default)   weft.dev/volumes"));
    lab.apply(SET);
    lab.wait_ready(1);
    let field = |what: &[&str]| lab.k(&[&["get", "-o"], what].concat());
    let node = || field(&["jsonpath={.spec.nodeName}", "pod", "db-0"]);
    let shell = |script: &str| lab.exec("default", "db-0", &["sh", "-ec", script]);
    // Its own, with the narrowest of modes: the next pod has other ids on the machine.
    shell("umask 077; echo first >/data/file; echo inside >/part/file; stat -c %u /data");
    let first = node();
    let volume = field(&["jsonpath={.spec.volumeName}", "pvc", "data-db-0"]);
    for (kind, line) in
        [("pvc", "data-db-0   Bound    pvc-"), ("pv", "1Gi        RWO            Delete")]
    {
        let table = lab.k(&["get", kind]);
        assert!(table.contains(line) && table.contains("standard"), "{table}");
    }

    lab.k(&["cordon", &first]);
    lab.k(&["delete", "pod", "db-0"]);
    lab.wait_ready(1);
    assert_ne!(node(), first);
    let script = "echo second >>/data/file; cat /data/file /data/inner/part/file; \
                  stat -c %u:%a /data/file";
    assert_eq!(shell(script), "first\nsecond\ninside\n0:600\n");
    let data = lab.dir().join("volumes").join(&volume);
    let owner = fs::metadata(&data).expect("the claim's directory").uid();
    assert!(owner >= 65536, "root in the pod is nobody on the machine: {owner}");

    // In use it stays.
    lab.k(&["delete", "pvc", "data-db-0", "--wait=false"]);
    assert!(lab.k(&["get", "pvc"]).contains("Terminating"));
    assert_eq!(shell("cat /part/file"), "inside\n");
    lab.k(&["delete", "statefulset", "db"]);
    let gone = || lab.k(&["get", "pvc,pv", "-o", "name"]).is_empty() && !data.exists();
    assert!(poll(gone), "{}", lab.k(&["get", "pvc,pv", "-o", "yaml"]));

    // Left in use, it goes with the lab.
    lab.apply(SET);
    lab.wait_ready(1);
    shell("test ! -e /data/file; echo third >/data/file");
    lab.down();
}

const WAITING: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: foreign}
spec: {accessModes: [ReadWriteOnce], storageClassName: gp3, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: unbound}
spec:
  volumes: [{name: v, persistentVolumeClaim: {claimName: foreign}}]
  containers: [{name: c, image: box, volumeMounts: [{name: v, mountPath: /v}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: placed}
spec:
  nodeName: node1
  volumes: [{name: v, persistentVolumeClaim: {claimName: absent}}]
  containers: [{name: c, image: box, volumeMounts: [{name: v, mountPath: /v}]}]
"#;

/// The task of the Kubernetes documentation, "Configure a Pod to Use a PersistentVolume".
const MANUAL: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: task-pv-volume, labels: {type: local}}
spec:
  storageClassName: gp3
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /mnt/data}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: absent}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 3Gi}}}
"#;

#[test]
fn a_pod_without_its_claim_says_what_it_waits_for() {
    let test = "a_pod_without_its_claim_says_what_it_waits_for";
    if !root_or_skip(test) || !kubectl_or_skip(test) {
        return;
    }
    let lab = Lab::up("unclaimed", &["--nodes", "1"]);
    lab.apply(WAITING);
    for (object, says) in [
        ("pvc/foreign", "storageclass.storage.k8s.io \"gp3\" not found; use class \"standard\""),
        ("pod/unbound", "pod has unbound immediate PersistentVolumeClaims"),
        ("pod/placed", "volume \"v\": persistentvolumeclaim \"absent\" not found"),
    ] {
        let mut last = String::new();
        let told = || {
            let (kind, name) = object.split_once('/').expect("a name");
            last = text(
                &lab.kubectl().args(["describe", kind, name]).output().expect("kubectl").stdout,
            );
            last.contains(says)
        };
        assert!(poll(told), "{object}: {last}");
    }
    lab.apply(MANUAL);
    lab.wait_ready(2);
    assert!(lab.k(&["get", "pv"]).contains("default/foreign"));
    let made = lab.dir().join("node1/hostroot/mnt/data");
    assert!(made.is_dir(), "the volume says where on the node");
    lab.exec("default", "unbound", &["touch", "/v/mark"]);
    assert!(made.join("mark").exists());
    // What somebody else's volume holds is not ours to delete.
    lab.k(&["delete", "pod", "unbound", "--now"]);
    lab.k(&["delete", "pvc", "foreign"]);
    let released = || lab.k(&["get", "pv", "task-pv-volume"]).contains("Released");
    assert!(poll(released), "{}", lab.k(&["get", "pv"]));
    assert!(made.join("mark").exists());
    lab.down();
}
